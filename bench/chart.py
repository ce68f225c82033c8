"""The chart for the README: how many times better ours is than a reference, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from bench.results import Results, Row
from bench.servers import FULL, MEMORY, NORMAL, REDIS_ALWAYS, REDIS_NO, STOCK

LABEL_WIDTH = 330
BAR_WIDTH = 400
NUMBER_WIDTH = 90
LINE_HEIGHT = 24
TOP = 52
BOTTOM = 34
LOWEST, HIGHEST = 0.1, 100.0

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>{title}</title>
<style>
text {{ font: 13px system-ui, sans-serif; fill: #1f2328; }}
.small {{ font-size: 11px; fill: #59636e; }}
.head {{ font-weight: 600; }}
.grid {{ stroke: #d1d9e0; }}
.even {{ stroke: #59636e; }}
.better {{ fill: #1a7f37; }}
.worse {{ fill: #bc4c00; }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3; }}
.small {{ fill: #9198a1; }}
.grid {{ stroke: #3d444d; }}
.even {{ stroke: #9198a1; }}
.better {{ fill: #3fb950; }}
.worse {{ fill: #db6d28; }}
}}
</style>
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of the chart: the comparison, and the factor by which our server is better."""

    text: str
    case: str
    metric: str
    ours: str
    reference: str
    more_is_better: bool = False

    def factor(self, results: Results) -> float | None:
        """More than 1 is better for every metric; None without a measurement."""
        row = Row("", self.case, self.metric, "", self.ours, self.reference)
        ratios = results.ratios(row)
        if not ratios or not median(ratios):
            return None
        return median(ratios) if self.more_is_better else 1 / median(ratios)


BARS = (
    Bar("fan-out to 100: deliveries/s", "fan-out, 100 clients", "rate", FULL.name, MEMORY.name, True),
    Bar("fan-out to 1000: deliveries/s", "fan-out, 1000 clients", "rate", FULL.name, MEMORY.name, True),
    Bar("latency p50, 100 clients", "half rate, 100 clients", "p50", FULL.name, MEMORY.name),
    Bar("latency p99, 1000 clients", "half rate, 1000 clients", "p99", FULL.name, MEMORY.name),
    Bar("publish, 64 at a time", "publish, window 64", "rate", FULL.name, REDIS_ALWAYS.name, True),
    Bar("publish one: p50", "publish, window 1", "p50", FULL.name, REDIS_ALWAYS.name),
    Bar("publish one: p50", "publish, window 1", "p50", NORMAL.name, REDIS_NO.name),
    Bar("recovery in a log of 1M", "the last ten of 1M", "p50", NORMAL.name, MEMORY.name),
    Bar("storm of 5000: CPU", "storm of 5000 clients", "cpu_per_client", FULL.name, MEMORY.name),
    Bar("memory of an idle client", "an idle client", "memory", NORMAL.name, MEMORY.name),
    Bar("CPU per delivery", "10 events/s, 1000 clients", "cpu_per_delivery", FULL.name, STOCK.name),
)
REFERENCES = {
    MEMORY.name: "socket.io, in memory",
    REDIS_ALWAYS.name: "socket.io, Redis, fsync always",
    REDIS_NO.name: "socket.io, Redis, no fsync",
    STOCK.name: "python-socketio",
}


def draw(results: Results, bars: Sequence[Bar] = BARS) -> str:
    """An SVG for light and dark pages."""
    measured = [(bar, factor) for bar in bars if (factor := bar.factor(results)) is not None]
    width = LABEL_WIDTH + BAR_WIDTH + NUMBER_WIDTH
    height = TOP + LINE_HEIGHT * len(measured) + BOTTOM
    title = "socketio-eventstore, every event on disk first: how many times better"
    parts = [_HEAD.format(width=width, height=height, title=escape(title))]
    parts.append(f'<text class="head" x="12" y="22">{escape(title)}</text>\n')
    powers = range(round(math.log10(LOWEST)), round(math.log10(HIGHEST)) + 1)
    parts += [_grid_line(10.0**power, height) for power in powers]
    parts += [_line(bar, factor, TOP + n * LINE_HEIGHT) for n, (bar, factor) in enumerate(measured)]
    return "".join(parts) + "</svg>\n"


def _x(factor: float) -> float:
    share = math.log(min(max(factor, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return LABEL_WIDTH + share * BAR_WIDTH


def _grid_line(factor: float, height: int) -> str:
    x, style = _x(factor), "even" if factor == 1 else "grid"
    text = "the same" if factor == 1 else f"{factor:g}×"
    return (
        f'<line class="{style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - BOTTOM + 4}"/>\n'
        f'<text class="small" x="{x:.1f}" y="{height - BOTTOM + 20}" text-anchor="middle">{text}</text>\n'
    )


def _line(bar: Bar, factor: float, y: int) -> str:
    middle = y + LINE_HEIGHT / 2
    start, end = sorted((_x(1), _x(factor)))
    style = "better" if factor >= 1 else "worse"
    return (
        f'<text x="12" y="{middle - 1}">{escape(bar.text)}</text>\n'
        f'<text class="small" x="{LABEL_WIDTH - 10}" y="{middle - 1}" text-anchor="end">'
        f"{escape(REFERENCES[bar.reference])}</text>\n"
        f'<rect class="{style}" x="{start:.1f}" y="{y + 2}" width="{max(end - start, 1):.1f}" '
        f'height="{LINE_HEIGHT - 10}" rx="2"/>\n'
        f'<text x="{max(end, _x(1)) + 6:.1f}" y="{middle - 1}">{factor:.2g}×</text>\n'
    )
