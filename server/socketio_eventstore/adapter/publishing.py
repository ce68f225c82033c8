"""Publishing from outside of the handlers: events stored together, and idempotency keys of publishers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from socketio_eventlog.changes import Published
from socketio_eventlog.errors import ConditionFailed
from socketio_eventlog.events import Publication
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.messages import IdempotencyKey, KeyRefused, Message, MessageRefused
from socketio_eventstore.core.event_rules import check_event_name, check_text
from socketio_eventstore.core.operations import EmitVolatile, EmitVolatileEverywhere
from socketio_eventstore.core.publishing import Publish, offsets_of
from socketio_eventstore.core.runtime import Runtime

if TYPE_CHECKING:
    from socketio_eventstore.adapter.server import RecoveryServer

MAX_MESSAGES: Final = 1000
"""The most events in a publication."""
MAX_KEY_CHARACTERS: Final = 200
SLICE: Final = 20
"""Events to encode before the event loop serves others: about a millisecond.

The others may take longer, so slices of a single event would make a large group slow.
"""

Offsets = list[str | None]
"""The offset of each event; None for an unstored event."""


class Publisher:
    """Publishes messages; the order of calls is the order in the log."""

    def __init__(self, server: RecoveryServer) -> None:
        self._server = server
        self._running: dict[tuple[str, str], tuple[bytes, asyncio.Task[Offsets]]] = {}
        self._order = asyncio.Lock()
        """Held until the events have a place in the log: the lock is given in the order of the calls."""

    async def publish(self, messages: Sequence[Message], key: IdempotencyKey | None = None) -> Offsets:
        """Store the messages in one transaction, all or none, and send the events; return the offsets.

        With a key, a repeat returns the offsets of the first call and publishes nothing; during the first
        call the repeat waits. Raises MessageRefused, KeyRefused, StoreError.
        """
        if key is None:
            return await self._publish(await self._server.manager.opened(), messages, None)
        self._check(key, messages)
        scope = (key.publisher, key.key)
        if scope not in self._running:
            task = asyncio.create_task(self._publish_once(messages, key))
            self._running[scope] = (key.digest, task)
            task.add_done_callback(lambda done: self._ended(done, scope))
        digest, task = self._running[scope]
        _check_digest(digest, key)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Offsets], scope: tuple[str, str]) -> None:
        del self._running[scope]
        if not task.cancelled():
            task.exception()  # the caller may be gone, and the exception would stay unread

    def _check(self, key: IdempotencyKey, messages: Sequence[Message]) -> None:
        if not 0 < len(key.key) <= MAX_KEY_CHARACTERS:
            raise KeyRefused(f"a key has 1 to {MAX_KEY_CHARACTERS} characters, not {len(key.key)}")
        if not (key.key.isascii() and key.key.isprintable()):
            raise KeyRefused("a key is a text of printable ASCII characters")
        if any(message.is_volatile for message in messages):
            raise KeyRefused("a volatile event is not stored, and so is no key of it")

    async def _publish_once(self, messages: Sequence[Message], key: IdempotencyKey) -> Offsets:
        runtime = await self._server.manager.opened()
        if not runtime.is_enabled:
            raise KeyRefused("recovery is disabled, so nothing is stored, and no key of it")
        if (stored := await self._stored(runtime, key)) is not None:
            return list(stored.offsets)
        published = Published(key.publisher, key.key, key.digest, len(messages))
        try:
            return await self._publish(runtime, messages, published)
        except ConditionFailed:  # another node came first
            stored = await self._stored(runtime, key)
            if stored is None:
                raise
            return list(stored.offsets)

    async def _stored(self, runtime: Runtime, key: IdempotencyKey) -> Publication | None:
        stored = await runtime.log.publication(key.publisher, key.key)
        if stored is not None:
            _check_digest(stored.digest, key)
        return stored

    async def _publish(
        self, runtime: Runtime, messages: Sequence[Message], published: Published | None
    ) -> Offsets:
        is_volatile = _are_volatile(messages)
        emits = []
        async with self._order:
            for index, message in enumerate(messages):
                emits.append(self._emit(runtime, index, message))
                await between_slices(index)
            events = [emit.event for emit in emits]
            operations = emits if is_volatile else [Publish(events, published)]
            stored = runtime.queue.submit(*operations)
        last = await stored
        offsets: Offsets = [None] * len(events) if is_volatile else offsets_of(len(events), last)
        if (admin_ui := self._server.admin_ui) is not None:
            for event in events:
                await admin_ui.emitted(runtime, event)
        return offsets

    def _emit(self, runtime: Runtime, index: int, message: Message) -> EmitVolatile | EmitVolatileEverywhere:
        """Make the volatile emit of a message, which has the event as stored.

        Raises MessageRefused, which names the field.
        """
        field = "event"
        try:
            check_event_name(message.event)
            field = "namespace"
            check_text(message.namespace, "a namespace")
            if not (self._server.recovers(message.namespace) or message.is_volatile):
                raise ValueError("nothing is stored in the namespace of the Admin UI")
            field = "rooms"
            encoder.rooms_of(message.rooms)
            field = "skip"
            encoder.skipped_sids(message.skip)
            field = "args"
            return self._server.manager.volatile_emit_of(runtime, message)
        except (ValueError, TypeError) as error:
            raise MessageRefused(index, field, str(error)) from None


async def between_slices(index: int) -> None:
    """Serve others after the event ``index`` of a group, at the end of each slice."""
    if index % SLICE == SLICE - 1:
        await asyncio.sleep(0)


def _are_volatile(messages: Sequence[Message]) -> bool:
    """Whether the only message is volatile. Raises MessageRefused for a volatile message among others."""
    for index, message in enumerate(messages):
        if message.is_volatile and len(messages) > 1:
            raise MessageRefused(index, "volatile", "events that are published together are all stored")
    return bool(messages) and messages[0].is_volatile


def _check_digest(digest: bytes, key: IdempotencyKey) -> None:
    if digest != key.digest:
        raise KeyRefused("the key was used for another request")
