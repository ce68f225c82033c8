"""The metrics of a server, read at a scrape from the plain integers that the server's parts count.

Nothing here runs between two scrapes. The labels are bounded: results, states and reasons are fixed sets, and
a namespace beyond the first ``MAX_NAMESPACES`` counts as ``other``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.core.histogram import Histogram
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import CONNECTED, State
from socketio_eventstore.program.readiness import problems

MAX_NAMESPACES: Final = 50
"""The most namespaces with a label: with ``namespaces = "*"`` clients choose the names."""
OTHER: Final = "other"
REFUSALS: Final = (
    "connections",
    "pending_handshakes",
    "connections_per_address",
    "handshakes_per_address",
    "events_per_second",
    "bytes_per_second",
    "sessions_per_identity",
    "namespaces_per_connection",
    "rooms_per_session",
    "max_size",
    "queue_full",
    "host",
    "origin",
    "draining",
    "token_missing",
    "token_invalid",
    "token_expired",
    "token_namespace",
)
"""The reasons with the value 0 from the start: a rate needs the value before the first refusal."""
REASONS: Final = (
    "client disconnect",
    "server disconnect",
    "ping timeout",
    "transport close",
    "transport error",
)
STATES: Final = {state.name.lower(): state for state in State if state is not State.ENDED}
HANDLERS: Final = ("connect", "disconnect", "event", "acknowledgement")


class ServerCollector(Collector):
    """Collects the metrics of a server; docs/monitoring.md documents the names."""

    def __init__(self, sio: RecoveryServer) -> None:
        self._sio = sio
        self._namespaces: dict[str, None] = {}

    def collect(self) -> Iterator[Metric]:
        """Read the counts, on the event loop of the server."""
        runtime = self._sio.manager.runtime
        yield _gauge("ready", "Whether /readyz answers 200.", not problems(self._sio))
        build = {"version": version("socketio-eventstore")}
        yield InfoMetricFamily("socketio_eventstore", "The version of the server.", build)
        yield from self._clients()
        yield from self._refusals(runtime)
        if runtime is not None:
            yield from self._sessions(runtime)
            yield from _events(runtime)
            yield from _log(runtime)
            yield from _retention(runtime)

    def _clients(self) -> Iterator[Metric]:
        sio, engine = self._sio, self._sio.eio
        websockets = sum(connection.upgraded for connection in list(engine.sockets.values()))
        transports = {"polling": len(engine.sockets) - websockets, "websocket": websockets}
        yield _gauges("connections", "Open connections by transport.", "transport", transports)
        yield _gauge("pending_handshakes", "Connections that have joined no namespace.", engine.pending)
        yield _counter(
            "socket_io_connect", "Accepted clients, recovered ones included.", sio.accepted_clients
        )
        yield _counter("connect_errors", "Refused CONNECT packets.", sio.connect_errors)
        yield _counter("rejoins", "Times that this server joined the log anew.", sio.rejoining.count)
        calls = sio.clients.calls
        gone = dict.fromkeys(REASONS, 0) | calls.disconnects
        yield _counters("socket_io_disconnect", "Accepted clients that have gone.", "reason", gone)
        yield _counter("socket_io_events_received", "Events of clients.", sio.clients.events)
        text = "Bytes of all packets from clients."
        yield _counter("socket_io_receive_bytes", text, engine.received_bytes)
        text = "Clients disconnected because of max_client_buffer."
        yield _counter("slow_client_disconnects", text, engine.slow_clients)
        fetches = dict.fromkeys(("ok", "failed"), 0)
        if sio.authentication is not None:
            fetches |= sio.authentication.key_fetches
        yield _counters("jwks_fetches", "Fetches of the keys for tokens.", "result", fetches)
        text = "Connections that ended with the token of their client."
        yield _counter("tokens_ended", text, sio.clients.token_ends.ended)
        text = "How often a client was held back because of events_per_second or bytes_per_second."
        yield _counter("client_pauses", text, engine.rate_limits.pauses)
        errors = dict.fromkeys(HANDLERS, 0) | calls.errors
        yield _counters("handler_errors", "Exceptions of handlers.", "handler", errors)
        waiting = sum(map(len, list(sio.manager.callbacks.values())))
        yield _gauge("acknowledgements_open", "Emits that wait for an acknowledgement.", waiting)

    def _refusals(self, runtime: Runtime | None) -> Iterator[Metric]:
        text = "What was refused because of a limit or a rule."
        yield _counters("refusals", text, "reason", dict.fromkeys(REFUSALS, 0) | refusals(self._sio, runtime))

    def _sessions(self, runtime: Runtime) -> Iterator[Metric]:
        by_state, connected = dict.fromkeys(STATES, 0), dict.fromkeys(self._known_namespaces(), 0)
        for namespace, sessions in runtime.registry.namespaces.items():
            label, states = self._label(namespace), [session.state for session in sessions.values()]
            for name, state in STATES.items():
                found = states.count(state)  # a Counter takes six times as long, with calls of Enum.__hash__
                by_state[name] += found
                connected[label] = connected.get(label, 0) + (found if state in CONNECTED else 0)
        yield from _nodes(runtime)
        yield _gauges("sessions", "Sessions by state.", "state", by_state)
        yield _gauges("socket_io_connected", "Connected clients by namespace.", "namespace", connected)
        results = {result.value: runtime.recovery.results[result] for result in RecoveryResult}
        text = "Reconnections by result; all but recovered got a new session."
        yield _counters("recoveries", text, "result", results)

    def _known_namespaces(self) -> Iterable[str]:
        sio = self._sio
        configured = () if sio.namespaces == "*" else sio.namespaces
        for namespace in (*configured, *sio.handlers, *sio.namespace_handlers):
            self._label(namespace)
        return self._namespaces

    def _label(self, namespace: str) -> str:
        if namespace not in self._namespaces:
            if namespace == "*" or len(self._namespaces) >= MAX_NAMESPACES:
                return OTHER
            self._namespaces[namespace] = None
        return namespace


def refusals(sio: RecoveryServer, runtime: Runtime | None) -> dict[str, int]:
    """Return the numbers of refusals since the start, by reason."""
    refused: Counter[str] = Counter(rooms_per_session=sio.manager.refused_rooms)
    refused.update(sio.eio.refused_handshakes)
    refused.update(sio.eio.access.refused)
    refused.update(sio.clients.refused)
    if sio.authentication is not None:
        refused.update(sio.authentication.refused)
    if runtime is not None:
        refused.update(runtime.queue.refused)
    return dict(refused)


def _nodes(runtime: Runtime) -> Iterator[Metric]:
    log, context, nodes = runtime.log, runtime.context, runtime.context.nodes
    yield _gauge("nodes", "Servers on the log that are alive, this one included.", len(nodes))
    behind = max((other.behind for other in nodes.others), default=0)
    text = "The batches that the slowest other server had not applied at its last heartbeat."
    yield _gauge("nodes_batches_behind", text, behind)
    text = "Events that were read from the log and have not taken effect on this server."
    yield _gauge("log_events_behind", text, max(log.head - context.position, 0))
    text = "The time since the last contact to the log; after 9 seconds the clients are closed."
    yield _gauge("log_contact_age_seconds", text, max(time.monotonic() - log.contact_at, 0.0))
    if runtime.is_enabled:
        epoch = log.offset_at(log.head).epoch
        yield InfoMetricFamily("log_epoch", "The epoch of new offsets.", {"epoch": epoch})


def _events(runtime: Runtime) -> Iterator[Metric]:
    context, queue, replayer = runtime.context, runtime.queue, runtime.replayer
    fan_out, stored = context.fan_out, context.recent_events.total
    kinds = {
        "stored": stored,
        "volatile": fan_out.broadcasts - stored,
        "acknowledged": fan_out.asking_events,
    }
    yield _counters("events_emitted", "Emitted events by kind.", "kind", kinds)
    sent = fan_out.deliveries + replayer.events
    yield _counter("socket_io_events_sent", "Events for clients: each recipient counts.", sent)
    yield _counter("events_replayed", "Missed events that were sent to recovered clients.", replayer.events)
    text = "Events that could not be sent, each time that one ended a connection."
    yield _counter("poisoned_events", text, replayer.unsendable_events)
    text = "Bytes of the packets for clients, without handshakes and heartbeats."
    yield _counter("socket_io_transmit_bytes", text, fan_out.sent_bytes)
    text = "Operations that wait for their commit."
    yield _gauge("commit_queue_operations", text, queue.waiting_operations)
    yield _gauge("commit_queue_bytes", "The size of the waiting operations.", queue.waiting_bytes)


def _log(runtime: Runtime) -> Iterator[Metric]:
    log, queue, space = runtime.log, runtime.queue, runtime.log.free_space
    text = "From the append of a batch to the moment at which it is durable."
    yield _histogram("log_commit_duration_seconds", text, queue.effects.commit_durations)
    yield _histogram("log_commit_batch_size", "Changes in a batch.", queue.effects.batch_sizes)
    yield _counter("log_commit_failures", "Commits that failed.", queue.appending.failed_commits)
    yield _gauge("log_head_offset", "The number in the last offset.", log.head)
    text = "The number in the offset of the last deleted event."
    yield _gauge("log_pruned_through_offset", text, log.pruned_through)
    yield _gauge("log_index_memory_bytes", "The memory of the index of events.", log.index_memory_bytes)
    yield _gauge("store_size_bytes", "The used pages of the database and the WAL.", space.used_bytes)
    yield _gauge("store_max_size_bytes", "The limit of store_size_bytes.", runtime.options.max_size)
    yield _gauge("store_wal_size_bytes", "The WAL.", space.wal_bytes)


def _retention(runtime: Runtime) -> Iterator[Metric]:
    retention = runtime.retention
    if retention is None:
        return
    yield _histogram("prune_duration_seconds", "Deletions of old events.", retention.durations)
    yield _counter("pruned_events", "Deleted events.", retention.pruned_sequences)
    text = "Sessions that ended since their clients did not return in time."
    yield _counter("sessions_expired", text, retention.expiry.expired)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, float(value))


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(GaugeMetricFamily(name, text, labels=[label]), values)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(CounterMetricFamily(name, text, labels=[label]), values)


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], float(value))
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    buckets: Sequence[tuple[str, float]] = [
        ("+Inf" if bound == float("inf") else str(float(bound)), count)
        for bound, count in histogram.cumulative()
    ]
    family.add_metric([], list(buckets), histogram.sum)
    return family
