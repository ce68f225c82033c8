"""Exactly-once handling of clients' events, although clients repeat unacknowledged events.

The official client repeats with the options ``retries`` and ``ackTimeout``. A repeat is recognised by the
idempotency key of the event. The operations of the handler are stored in one transaction with the key and the
acknowledgement, before the acknowledgement leaves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from socketio_eventlog.changes import EventHandled
from socketio_eventlog.errors import ConditionFailed
from socketio_eventstore.adapter.encoder import json_text
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.core.handler_transaction import Reservations, handler_transaction
from socketio_eventstore.core.operations import StoreIdempotencyKey
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session

MAX_KEY_CHARACTERS: Final = 200

KeyScope = tuple[str, str, str, str]
"""Namespace, event, identity, key: a key is unique within the first three."""


class InvalidIdempotencyKey(ValueError):
    """The last argument of the event is not an idempotency key."""


class ExactlyOnce:
    """Runs handlers once for each idempotency key."""

    def __init__(self) -> None:
        self._running: dict[KeyScope, asyncio.Task[list[Any]]] = {}
        self._newest: dict[Session, asyncio.Task[list[Any]]] = {}

    async def handle(
        self,
        runtime: Runtime,
        session: Session,
        event: str,
        key: object,
        handler: Callable[[], Awaitable[Any]],
    ) -> tuple[Any, ...]:
        """Return the arguments of the acknowledgement from the first run of the handler.

        A repeat during the first run waits for the end of the run. An exception of the handler is raised
        here; nothing is stored then, and the next repeat of the client runs the handler again. Raises
        InvalidIdempotencyKey, TypeError for an acknowledgement that is not JSON, StoreError.
        """
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise InvalidIdempotencyKey(
                f"the last argument of {event!r} must be an idempotency key, "
                f"a text of 1 to {MAX_KEY_CHARACTERS} characters, not {str(key)[:50]!r}"
            )
        try:
            check_text(key, "an idempotency key")
        except ValueError as error:
            raise InvalidIdempotencyKey(str(error)) from error
        scope = (session.namespace, event, session.identity or "", key)
        task = self._running.get(scope)
        if task is None:
            before = self._newest.get(session)
            task = asyncio.create_task(self._run(runtime, scope, handler, before))
            self._running[scope] = self._newest[session] = task
            task.add_done_callback(lambda done: self._ended(done, session, scope))
        return tuple(await asyncio.shield(task))

    def _ended(self, task: asyncio.Task[list[Any]], session: Session, scope: KeyScope) -> None:
        self._running.pop(scope, None)
        if self._newest.get(session) is task:
            del self._newest[session]

    async def _run(
        self,
        runtime: Runtime,
        scope: KeyScope,
        handler: Callable[[], Awaitable[Any]],
        before: asyncio.Task[list[Any]] | None,
    ) -> list[Any]:
        if before is not None:  # the data saved by an earlier handler must be visible to this handler
            await asyncio.wait([before])
        if (stored := await self._stored(runtime, scope)) is not None:
            return stored
        with Reservations() as reservations:
            return await self._handle(runtime, scope, handler, reservations)

    async def _handle(
        self,
        runtime: Runtime,
        scope: KeyScope,
        handler: Callable[[], Awaitable[Any]],
        reservations: Reservations,
    ) -> list[Any]:
        with handler_transaction(reservations=reservations) as operations:
            result = await handler()
        arguments = list(result) if isinstance(result, tuple) else [] if result is None else [result]
        handled = EventHandled(*scope, json_text(arguments, "acknowledgement"))
        try:
            await runtime.queue.submit(*operations, StoreIdempotencyKey(handled))
        except ConditionFailed:  # another run came first: only the emits of the other run are stored
            stored = await self._stored(runtime, scope)
            return arguments if stored is None else stored
        return arguments

    async def _stored(self, runtime: Runtime, scope: KeyScope) -> list[Any] | None:
        stored = await runtime.log.acknowledgement(*scope)
        arguments: list[Any] | None = None if stored is None else json.loads(stored)
        return arguments
