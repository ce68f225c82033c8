"""The dashboard for Grafana: each query finds its metrics and labels in a scrape of a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.clients import NodeClients
from support.processes import ServerProcess
from support.promql import ADDED_BY_PROMETHEUS, parse
from support.scrapes import Scrape, scrape

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())


def queries() -> Iterator[tuple[str, str]]:
    """The titles of the panels, each with a query."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


async def scrape_of_a_busy_server(node: NodeClients, folder: Path) -> Scrape:
    with ServerProcess(folder) as server:
        client = await node.client(server.url)
        await client.connected()
        observer = await node.control(server.url)
        await observer.call("publish", {"name": "event", "data": 1})
        await client.received("event")
        server.restart()
        await client.recovered_again()
        return scrape(server.port)


async def test_queries_find_their_metrics(node: NodeClients, tmp_path: Path) -> None:
    """Each metric, each label and each fixed value of a label in the queries is in the scrape."""
    found = await scrape_of_a_busy_server(node, tmp_path)
    for title, text in queries():
        query = parse(text)
        assert query.selectors, (title, text)
        for selector in query.selectors:
            labels = found.labels_of(selector.metric) | ADDED_BY_PROMETHEUS
            assert set(selector.labels) | query.grouped_by <= labels, (title, text)
            for label, value in selector.labels.items():
                assert value is None or value in found.values(selector.metric, label), (title, text)


def test_legends_name_labels_of_the_query() -> None:
    """A legend shows labels by which its query groups; otherwise it would be empty."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            legend, grouped_by = target["legendFormat"], parse(target["expr"]).grouped_by
            assert all(f"{{{{{label}}}}}" in legend for label in grouped_by - {"le"}), panel["title"]
            assert legend.count("{{") == len(grouped_by - {"le"}), panel["title"]


def test_panels_do_not_overlap() -> None:
    """Each place of the grid belongs to one panel, and each panel says what it shows."""
    taken = set[tuple[int, int]]()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


@pytest.mark.parametrize(
    "text", ["rat(ready[5m])", "ready{job}", "ready % 2", 'sum by (le) (ready{a="1"}[5m]) $x']
)
def test_mistakes_in_queries_are_found(text: str) -> None:
    """The parser of this test refuses what it does not understand."""
    with pytest.raises(AssertionError):
        parse(text)


def test_every_documented_metric_is_in_the_dashboard() -> None:
    """The documentation and the dashboard have the same metrics of the server."""
    lines = (DOCS / "monitoring.md").read_text().partition("\n## Log\n")[0].splitlines()
    documented = {line.split("`")[1] for line in lines if line.startswith("| `") and line.count("|") == 4}
    shown = {selector.metric for _, text in queries() for selector in parse(text).selectors}
    for end in ("_bucket", "_sum", "_count"):
        shown = {name.removesuffix(end) for name in shown}
    shown = {name for name in shown if not name.startswith("process_")}
    assert shown == documented - {"socketio_eventstore_info"}
