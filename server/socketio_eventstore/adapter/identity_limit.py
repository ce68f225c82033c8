"""The limit for the sessions of one identity."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import Session, State
from socketio_eventstore.transport.connection import EngineConnection

NAME: Final = "sessions_per_identity"
ANSWER_SECONDS: Final = 2.0
"""The time in which the client of a session answers a ping."""
MOST_ASKED: Final = 20
"""The most pinged clients for a connecting client."""


PERHAPS_GONE: Final = "another client of this user does not answer, and may be gone soon"


class TooManySessions(Exception):
    """All sessions of the identity are connected, and the limit is reached."""

    reason: Final[dict[str, Any]] = {"message": "Too many sessions of this user", "data": {"code": NAME}}
    """The content of CONNECT_ERROR."""


class PerhapsGone(Exception):
    """A client of the identity does not answer; the transport may be half-open, and the session free soon.

    The connecting client is to try again.
    """


class IdentityLimit:
    """Limits the number of sessions of an identity.

    A new session replaces the session that has been away for the longest time: a reloaded page leaves
    sessions behind, and must not lock the user out. If all sessions seem to be connected, the server pings
    the clients: the transport of a sleeping computer looks open until a heartbeat fails.
    """

    def __init__(self, limit: int, registry: Registry, departures: Departures, refused: Counter[str]) -> None:
        """``limit``: 0 is none. ``refused`` counts by the name of the limit."""
        self._limit = limit
        self._registry = registry
        self._departures = departures
        self._refused = refused
        self._opening: dict[str, list[str]] = {}
        """The sids of sessions before their binding, by identity, in the order of arrival.

        Such a session may be bound already: the change takes effect before the coroutine goes on.
        """

    @property
    def is_on(self) -> bool:
        """Whether there is a limit."""
        return bool(self._limit)

    @asynccontextmanager
    async def reserved(self, identity: str, sid: str) -> AsyncIterator[None]:
        """Keep a place for a session to be bound inside the block. Raises as ``reserve``."""
        release = await self.reserve(identity, sid)
        try:
            yield
        finally:
            release()

    async def reserve(self, identity: str, sid: str) -> Callable[[], None]:
        """Keep a place for a session until the returned function is called, once.

        Raises TooManySessions, PerhapsGone, StoreError.
        """
        self._opening.setdefault(identity, []).append(sid)
        try:
            await self._make_room(identity, sid)
        except BaseException:
            self._release(identity, sid)
            raise
        return partial(self._release, identity, sid)

    def _release(self, identity: str, sid: str) -> None:
        opening = self._opening[identity]
        opening.remove(sid)
        if not opening:
            del self._opening[identity]

    async def _make_room(self, identity: str, sid: str) -> None:
        while True:
            sessions = [one for one in self._registry.of_identity(identity) if one.state is not State.ENDED]
            opening = self._opening[identity]
            # Later sessions do not count, or the last place would be refused to all.
            before = opening[: opening.index(sid) + 1]
            if len({session.sid for session in sessions}.union(before)) <= self._limit:
                return
            away = [session for session in sessions if session.state is State.AWAY]
            if not away:
                if not await _all_answer(sessions):
                    raise PerhapsGone
                self._refused[NAME] += 1
                raise TooManySessions
            await self._departures.end(EndSession(min(away, key=_since), SessionEnd.REVOKED))


async def _all_answer(sessions: Iterable[Session]) -> bool:
    """Whether the clients of the sessions answer a ping soon; recently heard clients are not pinged."""
    connections = {session.current.connection: session.pong_at for session in sessions}
    silent = sorted(connections, key=lambda connection: connections[connection])[:MOST_ASKED]
    asked = [asyncio.ensure_future(one.answers_ping()) for one in silent if isinstance(one, EngineConnection)]
    if not asked:
        return True
    try:
        await asyncio.wait(asked, timeout=ANSWER_SECONDS)
        return all(answer.done() and answer.result() for answer in asked)
    finally:
        for answer in asked:
            answer.cancel()


def _since(session: Session) -> float:
    """The uptime at which a session became away; sessions without a committed end come last."""
    return float("inf") if session.away_since is None else session.away_since
