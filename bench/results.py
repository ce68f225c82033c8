"""What was measured: medians over the rounds, and ratios of what was measured in the same round."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

CPU = "cpu_per_operation"
"""The metric that stands beside the ratios: the server's processor time for one operation, in microseconds.

The operation is that of the case: an emitted event with all its deliveries, a publication, a connection, a
recovery, a disconnection or a start. An event during attacks has their price on it, too.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A comparison that is printed: ours against a reference in one metric."""

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
    """What issue 4 requires, as it is to be printed."""


@dataclass
class Results:
    """Everything measured so far, by (case, metric, server), a value for each round."""

    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    rows: list[Row] = field(default_factory=list)
    load_shares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    server_shares: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of servers at full rate: what is missing to 1 they waited for, or somebody else had it."""

    def add(self, case: str, server: str, **metrics: float) -> None:
        """Note what one round has given."""
        for metric, value in metrics.items():
            self.values[case, metric, server].append(value)

    def spend(self, case: str, server: str, cpu_seconds: float, operations: int) -> None:
        """Note the processor time that the operations of one round have taken."""
        self.add(case, server, **{CPU: cpu_seconds / operations * 1e6})

    def compare(self, row: Row) -> None:
        """Ask for a row of the table, and for one against the other checkout if that was measured."""
        other = row.ours.replace("ours-", "other-")
        rows = [row]
        if other != row.ours and (row.case, row.metric, other) in self.values:
            rows.append(replace(row, reference=other, reference_case="", required=""))
        self.rows += [row for row in rows if row not in self.rows]

    def median(self, case: str, metric: str, server: str) -> float | None:
        """The median over the rounds, None if it was not measured."""
        values = self.values.get((case, metric, server))
        return median(values) if values else None

    def ours(self, row: Row) -> list[float]:
        """What the rounds gave for ours."""
        return self.values.get((row.case, row.metric, row.ours), [])

    def theirs(self, row: Row) -> list[float]:
        """What the rounds gave for the reference."""
        return self.values.get((row.reference_case or row.case, row.metric, row.reference), [])

    def cpu(self, row: Row) -> tuple[float | None, float | None]:
        """What an operation costs ours and the reference, in microseconds; None if it was not measured."""
        case = row.reference_case or row.case
        return self.median(row.case, CPU, row.ours), self.median(case, CPU, row.reference)

    def ratios(self, row: Row) -> list[float]:
        """Ours divided by the reference, round by round."""
        return [a / b for a, b in zip(self.ours(row), self.theirs(row), strict=False) if b]

    def as_json(self) -> dict[str, Any]:
        """All of it."""
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
