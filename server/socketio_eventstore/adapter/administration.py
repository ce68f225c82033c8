"""Questions about a running server, and changes of it, for people and programs that operate it.

The HTTP interface asks here. This class knows no HTTP. The answers come from the registry and the log, which
are the same on every node; each change is an operation as one of the handlers would make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from socketio_eventstore.adapter.publishing import IdempotencyKey, Message, Publisher
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session, State

SessionState: TypeAlias = Literal["connected", "connecting", "away"]

_STATES: dict[State, SessionState] = {
    State.CONNECTING: "connecting",
    State.REPLAYING: "connected",
    State.LIVE: "connected",
    State.ELSEWHERE: "connected",
    State.AWAY: "away",
}


@dataclass(frozen=True, slots=True)
class Stats:
    """A server in numbers."""

    connections: int
    """Open connections to this process."""
    sessions: dict[SessionState, int]
    rooms: int
    """Rooms with members; a sid does not count as a room."""
    head_offset: str | None
    """The offset of the last event; None without recovery."""
    pruned_through: int
    """The sequence of the last deleted event; 0 for none."""
    recoveries: dict[str, int]
    """Reconnections since the start of the process, by result."""
    problems: list[str]
    """Why the server is not ready, as ``/readyz`` says; empty if it is."""


def state_of(session: Session) -> SessionState | None:
    """Return the state of a session for people; None for a session that is over."""
    return _STATES.get(session.state)


class Administration:
    """Answers questions, and makes changes, on a server that has been started."""

    def __init__(self, server: RecoveryServer) -> None:
        self._server = server
        self._publisher = Publisher(server)

    async def publish(
        self, messages: Sequence[Message], key: IdempotencyKey | None = None
    ) -> list[str | None]:
        """Publish messages as ``Publisher.publish`` does."""
        return await self._publisher.publish(messages, key)

    async def stats(self) -> Stats:
        """Return the server in numbers. Raises StoreClosed."""
        runtime = await self._runtime()
        states = Counter(map(state_of, list(runtime.registry)))
        return Stats(
            connections=len(self._server.eio.sockets),
            sessions={state: states[state] for state in ("connected", "connecting", "away")},
            rooms=len(runtime.registry.rooms),
            head_offset=runtime.context.offset,
            pruned_through=runtime.log.pruned_through,
            recoveries={str(result): count for result, count in runtime.recovery.results.items()},
            problems=list(runtime.health.problems()),
        )

    async def _runtime(self) -> Runtime:
        return await self._server.manager.opened()
