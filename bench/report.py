"""The printed table."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.results import Results, Row

SHOWN = 10
FEW_LABELS = {
    "ours-full": "full",
    "ours-normal": "normal",
    "ours-postgres": "PostgreSQL",
    "other-full": "other, full",
    "other-normal": "other, normal",
    "node-memory": "Node, memory",
    "bun-memory": "Bun, memory",
    "node-redis-always": "Node, Redis, fsync always",
    "node-redis-no": "Node, Redis, no fsync",
    "node-postgres": "Node, postgres-adapter",
    "stock": "python-socketio",
}


def number(value: float) -> str:
    """Three significant digits, or all digits of a large number."""
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show(results: Results, console: Console) -> None:
    """Print medians, ratios and the load generator's use of its core."""
    table = Table(
        title="medians over the rounds; ratio = ours / reference, of the same round (lowest–highest)"
    )
    for heading in ("", "case", "metric", "ours", "", "CPU", "reference", "", "CPU", "ratio", "required"):
        table.add_column(heading, justify="right" if heading in ("CPU", "ratio") else "left")
    for row in results.rows:
        if cells := _cells(results, row):
            table.add_row(*cells)
    console.print(table)
    console.print(
        "CPU: µs of the server's processor time for one event, connection, recovery, disconnection or start."
    )
    _show_shares(results, console)


def _cells(results: Results, row: Row) -> list[str]:
    ours, theirs, ratios = results.ours(row), results.theirs(row), results.ratios(row)
    if not ours or (row.reference and not theirs):
        return []
    reference = FEW_LABELS.get(row.reference, row.reference)
    if row.reference_case:
        reference = f"{reference} {row.reference_case}".strip()
    cpu, reference_cpu = ("" if value is None else number(value) for value in results.cpu(row))
    return [
        row.workload,
        row.case,
        f"{row.metric}, {row.unit}",
        FEW_LABELS[row.ours],
        number(median(ours)),
        cpu,
        reference,
        number(median(theirs)) if theirs else "",
        reference_cpu,
        f"{median(ratios):.2f}× ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "",
        row.required,
    ]


def _show_shares(results: Results, console: Console) -> None:
    console.print(
        "The load generator's share of its core, highest first (at 1.0 it would be the bottleneck):"
    )
    for share, case in sorted(_medians(results.load_shares), reverse=True)[:SHOWN]:
        console.print(f"  {share:.2f}  {case}", highlight=False)
    console.print("The share of their core that servers at full rate had, lowest first (waits, or noise):")
    for share, case in sorted(_medians(results.server_shares))[:SHOWN]:
        console.print(f"  {share:.2f}  {case}", highlight=False)


def _medians(shares: Mapping[str, list[float]]) -> list[tuple[float, str]]:
    return [(median(values), case) for case, values in shares.items()]
