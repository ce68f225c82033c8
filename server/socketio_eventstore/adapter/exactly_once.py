"""Events of clients that are handled exactly once, although clients repeat what was not acknowledged.

The official client does so with its options ``retries`` and ``ackTimeout``. A repeat is recognised by the
idempotency key that the event carries. What the handler emits, saves, joins and leaves is collected and
stored in one transaction with the key and the answer, before the acknowledgement leaves.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from socketio_eventlog.records import EventHandled
from socketio_eventstore.adapter.encoder import json_text
from socketio_eventstore.core.handler_transaction import handler_transaction
from socketio_eventstore.core.operations import StoreIdempotencyKey
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session

logger = logging.getLogger(__name__)

MAX_KEY_CHARACTERS = 200


class InvalidIdempotencyKey(ValueError):
    """The event's last argument is not an idempotency key."""


KeyScope = tuple[str, str, str, str]
"""Namespace, event, identity, key."""


class ExactlyOnce:
    """Runs handlers once for each idempotency key."""

    def __init__(self) -> None:
        self._running: dict[KeyScope, asyncio.Task[list[Any]]] = {}
        self._newest: dict[Session, asyncio.Task[list[Any]]] = {}

    async def handle(
        self,
        runtime: Runtime,
        session: Session,
        name: str,
        key: object,
        handler: Callable[[], Awaitable[Any]],
    ) -> tuple[Any, ...]:
        """The arguments of the acknowledgement: of the first run, whichever repeat this is.

        A repeat during the first run waits for it. Raises what the handler raises, then nothing is
        stored and the client's next repeat runs it again; BadKey for a key that is none, TypeError
        for an answer that JSON does not have, StoreError.
        """
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise InvalidIdempotencyKey(
                f"the last argument of {name!r} must be an idempotency key, "
                f"a text of 1 to {MAX_KEY_CHARACTERS} characters, not {str(key)[:50]!r}"
            )
        identified = (session.namespace, name, session.identity or "", key)
        task = self._running.get(identified)
        if task is None:
            before = self._newest.get(session)
            task = asyncio.create_task(self._run(runtime, identified, handler, before))
            self._running[identified] = self._newest[session] = task
            task.add_done_callback(lambda done: self._ended(done, session, identified))
        return tuple(await asyncio.shield(task))

    def _ended(self, task: asyncio.Task[list[Any]], session: Session, identified: KeyScope) -> None:
        self._running.pop(identified, None)
        if self._newest.get(session) is task:
            del self._newest[session]

    async def _run(
        self,
        runtime: Runtime,
        identified: KeyScope,
        handler: Callable[[], Awaitable[Any]],
        before: asyncio.Task[list[Any]] | None,
    ) -> list[Any]:
        if before is not None:  # what it saves must be there when this one reads it
            await asyncio.wait([before])
        first_answer = await runtime.log.acknowledgement(*identified)
        if first_answer is not None:
            known: list[Any] = json.loads(first_answer)
            return known
        with handler_transaction() as operations:
            result = await handler()
        arguments = list(result) if isinstance(result, tuple) else [] if result is None else [result]
        answered = EventHandled(*identified, json_text(arguments, "answer"), runtime.clock())
        await runtime.dispatcher.submit(*operations, StoreIdempotencyKey(answered))
        return arguments
