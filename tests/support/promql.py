"""The names in a query of Prometheus: enough of the language for the queries of the dashboard."""

from __future__ import annotations

import re
from dataclasses import dataclass

FUNCTIONS = frozenset({"sum", "min", "max", "rate", "increase", "histogram_quantile", "label_values"})
ADDED_BY_PROMETHEUS = frozenset({"job", "instance"})

_GROUPING = re.compile(r"\b(?:by|without|on|ignoring) \(([^()]*)\)")
_RANGE = re.compile(r"\[(?:\$__rate_interval|\d+[smhd])\]")
_SELECTOR = re.compile(r"([a-zA-Z_]\w*)(?:\{([^{}]*)\})?")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


@dataclass(frozen=True)
class Selector:
    """A metric in a query, with the required values of labels."""

    metric: str
    labels: dict[str, str | None]


@dataclass(frozen=True)
class Query:
    """The metrics of a query, and the labels by which the query groups."""

    selectors: list[Selector]
    grouped_by: set[str]


def parse(text: str) -> Query:
    """Parse a query. Fails for functions and signs not used by the dashboard."""
    grouped_by = {label.strip() for found in _GROUPING.findall(text) for label in found.split(",")}
    rest = _RANGE.sub("", _GROUPING.sub("", text))
    selectors = []
    for found in _SELECTOR.finditer(rest):
        name, labels = found[1], found[2]
        if rest[found.end() :].lstrip().startswith("(") and labels is None:
            assert name in FUNCTIONS, f"unknown function {name}: {text}"
            continue
        selectors.append(Selector(name, _labels(labels or "", text)))
    left = _SELECTOR.sub("", rest)
    assert re.fullmatch(r"[-+*/(),.\d\s]*", left), f"not understood: {left!r} in {text}"
    return Query(selectors, grouped_by)


def _labels(text: str, query: str) -> dict[str, str | None]:
    labels: dict[str, str | None] = {}
    for part in filter(None, text.split(", ")):
        matcher = _MATCHER.fullmatch(part)
        assert matcher, f"not a matcher: {part!r} in {query}"
        labels[matcher[1]] = matcher[3] if matcher[2] == "=" else None
    return labels
