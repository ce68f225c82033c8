"""Spans of OpenTelemetry: for each connect, event, emit, commit and recovery.

The API is an extra (``otel``). Without the extra, or without a configured provider, there is no ``Tracing``,
and each place costs a comparison. A span has ids, names and results; the only data from a client is the name
of an event.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from socketio_eventstore.core.sessions import Session

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

NAME: Final = "socketio_eventstore"
LONGEST_NAME: Final = 100


class Tracing:
    """Makes spans with the tracer of a provider."""

    def __init__(self, tracer: Tracer) -> None:
        """Use ``configured``."""
        from opentelemetry import trace

        self._tracer = tracer
        self._kinds = trace.SpanKind

    @classmethod
    def configured(cls) -> Tracing | None:
        """Return the tracing of the global provider; None without a provider from the application."""
        try:
            from opentelemetry import trace
        except ImportError:
            return None
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return None
        return cls(provider.get_tracer(NAME))

    @contextmanager
    def connect(self, session: Session, *, recovered: bool) -> Iterator[Span]:
        """Span the connect handler of a client."""
        attributes = _of(session) | {"socketio.recovered": recovered}
        with self._start("socketio connect", self._kinds.SERVER, attributes) as span:
            yield span

    @contextmanager
    def event(self, name: object, session: Session) -> Iterator[Span]:
        """Span the handler of a client's event."""
        attributes = _of(session) | {"socketio.event": str(name)[:LONGEST_NAME]}
        with self._start("socketio event", self._kinds.SERVER, attributes) as span:
            yield span

    def traced(self, emit: Callable[..., Awaitable[str | None]]) -> Callable[..., Awaitable[str | None]]:
        """Return a function that emits in a span; the span lasts until the event is durable."""

        async def emit_in_span(name: str, data: Any, namespace: str, **options: Any) -> str | None:
            attributes = {"socketio.event": str(name)[:LONGEST_NAME], "socketio.namespace": namespace}
            with self._start("socketio emit", self._kinds.PRODUCER, attributes) as span:
                offset = await emit(name, data, namespace, **options)
                span.set_attribute("socketio.offset", offset or "")
            return offset

        return emit_in_span

    @contextmanager
    def recovery(self, namespace: str) -> Iterator[Span]:
        """Span the decision about a client with a former session."""
        attributes = {"socketio.namespace": namespace}
        with self._start("socketio recovery", self._kinds.INTERNAL, attributes) as span:
            yield span

    def committed(self, seconds: float, changes: int) -> None:
        """Make a span of a durable commit."""
        end = time.time_ns()
        attributes = {"socketio.changes": changes}
        kind, start = self._kinds.INTERNAL, end - round(seconds * 1e9)
        span = self._tracer.start_span("socketio commit", None, kind, attributes, start_time=start)
        span.end(end)

    def _start(self, name: str, kind: Any, attributes: dict[str, Any]) -> Any:
        return self._tracer.start_as_current_span(name, kind=kind, attributes=attributes)


def _of(session: Session) -> dict[str, Any]:
    return {"socketio.sid": session.sid, "socketio.namespace": session.namespace}
