"""The processor time beside each ratio of ``python -m bench``."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from bench import report
from bench.results import CPU, Results, Row

ROW = Row("W1", "fan-out", "rate", "deliveries/s", "ours-full", "bun-memory", more_is_better=True)


def measured() -> Results:
    """Two servers, two rounds."""
    results = Results()
    for ours, theirs in ((0.5, 1.25), (0.7, 1.75)):
        results.add(ROW.case, ROW.ours, rate=200.0)
        results.add(ROW.case, ROW.reference, rate=100.0)
        results.spend(ROW.case, ROW.ours, ours, 1000)
        results.spend(ROW.case, ROW.reference, theirs, 1000)
    results.compare(ROW)
    return results


def printed(results: Results) -> str:
    """The table as text."""
    output = StringIO()
    report.show(results, Console(file=output, width=170))
    return output.getvalue()


def test_cpu_is_median_per_operation() -> None:
    """Half a second for a thousand operations is 500 µs each."""
    assert measured().cpu(ROW) == pytest.approx((600.0, 1500.0))


def test_cpu_is_stored_with_ratio() -> None:
    (stored,) = measured().as_json()["comparisons"]
    assert stored["ratio"] == 2.0
    assert stored[CPU] == pytest.approx(600.0)
    assert stored[f"reference_{CPU}"] == pytest.approx(1500.0)


def test_cpu_is_printed_with_ratio() -> None:
    (line,) = (line for line in printed(measured()).splitlines() if "Bun, memory" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[4:10] == ["200", "600", "Bun, memory", "100", "1,500", "2.00× (2.00–2.00)"]


def test_cpu_of_another_case_of_ours() -> None:
    """Where the reference is another case, its processor time is that of the other case."""
    results = measured()
    results.spend("an empty log", ROW.ours, 0.1, 1000)
    row = Row("W3", ROW.case, "rate", "", ROW.ours, ROW.ours, reference_case="an empty log")
    assert results.cpu(row) == pytest.approx((600.0, 100.0))


def test_row_without_cpu_is_shown() -> None:
    """Memory has no operation."""
    results = Results()
    results.add("an idle client", "ours-full", memory=11.0)
    results.compare(Row("W5", "an idle client", "memory", "KiB", "ours-full"))
    (stored,) = results.as_json()["comparisons"]
    assert stored[CPU] is None and stored[f"reference_{CPU}"] is None
    assert "an idle client" in printed(results)
