"""A provider of OpenTelemetry that keeps the spans; the SDK would export spans."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind


class RecordedSpan(trace.NonRecordingSpan):
    """A span with all recorded data."""

    def __init__(self, name: str, kind: SpanKind, number: int, parent: Span) -> None:
        super().__init__(SpanContext(1, number, is_remote=False))
        self.name = name
        self.kind = kind
        self.parent = parent if isinstance(parent, RecordedSpan) else None
        self.attributes: dict[str, Any] = {}
        self.errors: list[BaseException] = []
        self.is_ended = False
        self.seconds = 0.0

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        self.errors.append(exception)

    def end(self, end_time: int | None = None) -> None:
        self.is_ended = True


class Spans(trace.TracerProvider, trace.Tracer):
    """Provider and tracer in a single object."""

    def __init__(self) -> None:
        self.all: list[RecordedSpan] = []

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Any] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> RecordedSpan:
        span = RecordedSpan(name, kind, len(self.all) + 1, trace.get_current_span(context))
        span.attributes.update(attributes or {})
        if start_time is not None:
            span.seconds = (time.time_ns() - start_time) / 1e9
        self.all.append(span)
        return span

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Iterator[Span]:  # type: ignore[override]
        with trace.use_span(self.start_span(name, *args, **kwargs), end_on_exit=True) as span:
            yield span

    def named(self, name: str) -> list[RecordedSpan]:
        """The spans with a name; all must have ended."""
        found = [span for span in self.all if span.name == name]
        assert all(span.is_ended for span in found)
        return found
