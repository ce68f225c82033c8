"""The measurements: medians over the rounds, and ratios within a round."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

CPU = "cpu_per_operation"
"""The metric beside the ratios: the server's processor time for an operation, in microseconds.

The operation depends on the case: an emitted event with all deliveries, a publication, a connection, a
recovery, a disconnection or a start. An event during attacks includes the price of the attacks.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A printed comparison: our server against a reference in a metric."""

    workload: str
    case: str
    metric: str
    unit: str
    ours: str
    """The name of the server."""
    reference: str = ""
    """The name of the server, or of another case of ours; empty where there is nothing to compare with."""
    more_is_better: bool = False
    reference_case: str = ""
    """Where the reference is measured in another case."""
    required: str = ""
    """The required ratio, as printed."""


@dataclass
class Results:
    """Everything measured so far, by (case, metric, server), a value for each round."""

    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    rows: list[Row] = field(default_factory=list)
    load_shares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    server_shares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """For servers at full rate: the rest to 1 is waiting time, or the time of other programs."""

    def add(self, case: str, server: str, **metrics: float) -> None:
        """Note the results of a round."""
        for metric, value in metrics.items():
            self.values[case, metric, server].append(value)

    def spend(self, case: str, server: str, cpu_seconds: float, operations: int) -> None:
        """Note the processor time of the operations of a round."""
        self.add(case, server, **{CPU: cpu_seconds / operations * 1e6})

    def compare(self, row: Row) -> None:
        """Ask for a row of the table, and for a row against the other checkout, if measured."""
        other = row.ours.replace("ours-", "other-")
        rows = [row]
        if other != row.ours and (row.case, row.metric, other) in self.values:
            rows.append(replace(row, reference=other, reference_case="", required=""))
        self.rows += [row for row in rows if row not in self.rows]

    def median(self, case: str, metric: str, server: str) -> float | None:
        """The median over the rounds, None without a measurement."""
        values = self.values.get((case, metric, server))
        return median(values) if values else None

    def ours(self, row: Row) -> list[float]:
        """The results of our server."""
        return self.values.get((row.case, row.metric, row.ours), [])

    def theirs(self, row: Row) -> list[float]:
        """The results of the reference."""
        return self.values.get((row.reference_case or row.case, row.metric, row.reference), [])

    def cpu(self, row: Row) -> tuple[float | None, float | None]:
        """The cost of an operation for our server and the reference, in microseconds; None if unknown."""
        case = row.reference_case or row.case
        return self.median(row.case, CPU, row.ours), self.median(case, CPU, row.reference)

    def ratios(self, row: Row) -> list[float]:
        """Ours divided by the reference, round by round."""
        return [a / b for a, b in zip(self.ours(row), self.theirs(row), strict=False) if b]

    def as_json(self) -> dict[str, Any]:
        """All results."""
        measured = [
            {"case": case, "metric": metric, "server": server, "median": median(values), "rounds": values}
            for (case, metric, server), values in self.values.items()
        ]
        compared = []
        for row in self.rows:
            if ours := self.ours(row):
                theirs, ratios = self.theirs(row), self.ratios(row)
                cpu, reference_cpu = self.cpu(row)
                compared.append(
                    {
                        "workload": row.workload,
                        "case": row.case,
                        "metric": row.metric,
                        "unit": row.unit,
                        "server": row.ours,
                        "median": median(ours),
                        "reference": row.reference or None,
                        "reference_median": median(theirs) if theirs else None,
                        CPU: cpu,
                        f"reference_{CPU}": reference_cpu,
                        "ratio": median(ratios) if ratios else None,
                        "ratios": ratios,
                        "more_is_better": row.more_is_better,
                        "required": row.required or None,
                    }
                )
        return {
            "comparisons": compared,
            "measured": measured,
            "load_share": dict(self.load_shares),
            "server_share": dict(self.server_shares),
        }
