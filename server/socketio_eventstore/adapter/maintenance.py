"""An operator's changes of a running server's log: prune, redact, compact."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from socketio_eventlog.changes import Redacted
from socketio_eventlog.errors import NothingChanged, StoreRejected, StoreUnavailable
from socketio_eventlog.maintenance import COMPACT_BYTES, Compacted
from socketio_eventstore.adapter.feeds import CursorRefused, located
from socketio_eventstore.adapter.messages import Message, MessageRefused
from socketio_eventstore.core.event_rules import check_event_name
from socketio_eventstore.core.operations import Redact
from socketio_eventstore.core.runtime import Runtime

if TYPE_CHECKING:
    from socketio_eventstore.adapter.server import RecoveryServer

REDACTED: Final = "redacted"
"""The default name of a redacted event, for the handlers of clients."""
SCRUB_ATTEMPTS: Final = 20
SCRUB_PAUSE_SECONDS: Final = 0.05
"""Readers such as a replay need the WAL for a moment only; a backup needs the WAL for longer."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """The result of a pruning."""

    events: int
    """How many offsets the deleted events span; a failed emit leaves an offset without an event."""
    pruned_through: int
    """The sequence of the last pruned event."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """The result of a redaction."""

    offset: str
    """The offset of the event, which stays."""
    is_scrubbed: bool
    """Whether the former content is out of the WAL; otherwise a reader or a full disk keeps the content
    there.
    """


class EventNotFound(LookupError):
    """There is no event with this offset: it was pruned, or is the offset of a failed emit."""


class NotStored(StoreRejected):
    """Recovery is disabled, so nothing is stored."""


class Maintenance:
    """Changes of the log as a whole. Every method raises NotStored without recovery, and StoreError."""

    def __init__(self, server: RecoveryServer) -> None:
        self._server = server

    async def prune(self) -> Pruning:
        """Delete the events older than the retention that no session needs, as the server does, now."""
        runtime = await self._runtime()
        assert runtime.retention is not None  # never None with recovery
        events = await runtime.retention.prune()
        return Pruning(events, runtime.log.pruned_through)

    async def redact(self, offset: str, name: str = REDACTED, arguments: Sequence[Any] = ()) -> Redaction:
        """Replace name and arguments of an event, for all clients without the event, and in the file.

        Raises CursorRefused for an offset of another log, EventNotFound, MessageRefused.
        """
        runtime = await self._runtime()
        sequence = await located(runtime, "offset", offset)
        if sequence is None:
            raise CursorRefused("offset", "an offset is needed")
        logged = await runtime.log.read([sequence])
        if not logged:
            raise EventNotFound(offset)
        message = Message(name, arguments, namespace=logged[0].event.namespace)
        event = self._event(runtime, message)
        if not await runtime.queue.submit(Redact(Redacted(sequence, event.name, event.payload))):
            raise EventNotFound(offset)
        await runtime.recovery.replaced(sequence)
        # Reads are answered in order: a replay that has read the former content has sent the content by now.
        await runtime.log.read([sequence])
        try:
            is_scrubbed = await self._scrub(runtime)
        except StoreUnavailable:  # a full disk takes no checkpoint; the event is replaced all the same
            is_scrubbed = False
        return Redaction(str(runtime.log.offset_of(sequence)), is_scrubbed)

    def _event(self, runtime: Runtime, message: Message) -> Any:
        try:
            check_event_name(message.event)
        except ValueError as error:
            raise MessageRefused(0, "event", str(error)) from None
        try:
            event = self._server.manager.volatile_emit_of(runtime, message).event
        except (ValueError, TypeError) as error:
            raise MessageRefused(0, "args", str(error)) from None
        if event.attachments:
            raise MessageRefused(0, "args", "a replacement has no binary arguments")
        return event

    async def _scrub(self, runtime: Runtime) -> bool:
        for _ in range(SCRUB_ATTEMPTS):
            if await runtime.log.scrub():
                return True
            await asyncio.sleep(SCRUB_PAUSE_SECONDS)
        return False

    async def compact(self, *, is_forced: bool = False) -> Compacted:
        """Give the space of deleted events back to the disk; no commit is possible meanwhile.

        Raises NothingChanged: for much content without ``is_forced``, without room on the disk, and while a
        program reads.
        """
        runtime = await self._runtime()
        if not await self._scrub(runtime):
            # The WAL would keep the whole content a second time, and count for max_size.
            raise NothingChanged("Another program reads the database; compact it when that has ended.")
        return await runtime.log.compact(None if is_forced else COMPACT_BYTES)

    async def _runtime(self) -> Runtime:
        runtime = await self._server.manager.opened()
        if not runtime.is_enabled:
            raise NotStored
        return runtime
