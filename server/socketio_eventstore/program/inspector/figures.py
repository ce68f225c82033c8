"""The figures of a server at a moment, for charts: sums since the start. A page makes rates of the sums.

The figures need no counting: the parts of the server have the numbers, as for ``/metrics``.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.adapter.session_views import STATES, summary
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import CONNECTED, Session, State
from socketio_eventstore.program.metric_families import refusals
from socketio_eventstore.program.readiness import problems

SLICE: Final = 1000
"""Sessions to count before the event loop serves others: a fraction of a millisecond."""
MAX_AWAY: Final = 20
"""The most sessions shown with the remaining time: the sessions next to expire."""
MAX_NAMESPACES: Final = 10

Figures = dict[str, Any]


async def figures(sio: RecoveryServer) -> Figures | None:
    """Return the figures of a server; None before the store is open."""
    runtime = sio.manager.runtime
    if runtime is None:
        return None
    states, namespaces, away = await _survey(runtime)
    engine = sio.eio
    return {
        "at": time.time(),
        "process": str(runtime.log.node),
        "problems": problems(sio),
        "connections": len(engine.sockets),
        "limit": engine.connections,
        "sessions": {name: states.get(name, 0) for name in ("connected", "connecting", "away")},
        "namespaces": dict(namespaces.most_common(MAX_NAMESPACES)),
        "away": away,
        "received": sio.clients.events,
        "slow": engine.slow_clients,
        "errors": sum(sio.clients.calls.errors.values()),
        "refused": refusals(sio, runtime),
        **_events(runtime),
        **_log(runtime),
    }


def _events(runtime: Runtime) -> Figures:
    context, replayer = runtime.context, runtime.replayer
    fan_out, stored = context.fan_out, context.recent_events.total
    retention = runtime.retention
    return {
        "stored": stored,
        "unstored": fan_out.broadcasts - stored + fan_out.asking_events,
        "delivered": fan_out.deliveries,
        "replayed": replayer.events,
        "recoveries": {str(result): count for result, count in runtime.recovery.results.items()},
        "expired": 0 if retention is None else retention.expiry.expired,
    }


def _log(runtime: Runtime) -> Figures:
    log, queue = runtime.log, runtime.queue
    durations = queue.effects.commit_durations
    return {
        "head": runtime.context.offset,
        "events": max(0, log.head - log.pruned_through),
        "commits": list(durations.values),
        "bounds": list(durations.bounds),
        "commitSeconds": durations.sum,
        "failedCommits": queue.appending.failed_commits,
        "waiting": queue.waiting_operations,
        "usedBytes": log.free_space.used_bytes,
        "maxBytes": runtime.options.max_size if runtime.is_enabled else 0,
    }


async def _survey(runtime: Runtime) -> tuple[Mapping[str, int], Counter[str], list[Figures]]:
    """Count sessions by state, and connected sessions by namespace; find the sessions next to expire."""
    states: Counter[str] = Counter()
    namespaces: Counter[str] = Counter()
    away: list[Session] = []
    latest = math.inf
    sessions = iter(list(runtime.registry))
    while part := list(islice(sessions, SLICE)):
        present = [session.state for session in part]
        for state, name in STATES.items():
            states[name] += present.count(state)  # a Counter takes six times as long
        namespaces.update(session.namespace for session in part if session.state in CONNECTED)
        away += [one for one in part if one.state is State.AWAY and -math.inf < _since(one) < latest]
        if len(away) > MAX_AWAY:
            away = heapq.nsmallest(MAX_AWAY, away, key=_since)
            latest = _since(away[-1])
        await asyncio.sleep(0)
    soonest = heapq.nsmallest(MAX_AWAY, away, key=_since)
    return states, namespaces, [_away(runtime, one) for one in soonest if one.state is State.AWAY]


def _since(session: Session) -> float:
    """Return the uptime at which a session became away; infinity before the commit."""
    return math.inf if session.away_since is None else session.away_since


def _away(runtime: Runtime, session: Session) -> Figures:
    shown = summary(runtime, session)
    return {
        "namespace": shown.namespace,
        "sid": shown.sid,
        "identity": shown.identity,
        "away": shown.away_seconds,
        "remaining": shown.remaining_seconds,
    }
