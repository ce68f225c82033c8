"""Scrapes of ``/metrics``, parsed by the parsers of prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from socketio_eventstore.program.metrics import registry_of
from support.embedded import Server
from support.http_requests import Answer, ask

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True)
class Scrape:
    """The samples of a scrape."""

    text: str
    samples: tuple[Sample, ...]

    def value(self, name: str, **labels: str) -> float:
        """The value of the only sample with a name and exactly the labels."""
        found = [sample.value for sample in self.samples if sample.name == name and sample.labels == labels]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return float(found[0])

    def values(self, name: str, label: str) -> dict[str, float]:
        """The values of all samples with a name, by a label."""
        return {s.labels[label]: float(s.value) for s in self.samples if s.name == name}

    def labels_of(self, name: str) -> set[str]:
        """The names of the labels of a sample; fails for an unknown name."""
        found = [set(sample.labels) for sample in self.samples if sample.name == name]
        assert found, f"there is no sample {name}"
        return set[str]().union(*found)

    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}


def scrape_of(answer: Answer) -> Scrape:
    """The samples of a response, by the parser of the format."""
    assert answer.status == 200, (answer.status, answer.body)
    content_type = answer.header("content-type")
    assert content_type is not None
    text = answer.body.decode()
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    return Scrape(text, tuple(_samples(parse(text))))


def scrape(where: int | Path, accept: str = "text/plain") -> Scrape:
    """Scrape a server at a port of this machine, or at a Unix socket."""
    return scrape_of(ask(where, "/metrics", Host="localhost", Accept=accept))


def scrape_embedded(server: Server, registry: CollectorRegistry | None = None) -> Scrape:
    """Read the metrics of a server in this process."""
    text = generate_latest(registry or registry_of(server.sio)).decode()
    return Scrape(text, tuple(_samples(parse_text(text))))


def _samples(families: Iterable[Metric]) -> Iterator[Sample]:
    for family in families:
        yield from family.samples
