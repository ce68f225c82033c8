"""The emits of a client manager: an emit is one operation; an invalid emit fails before it has an offset."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from socketio_eventlog.changes import Asked
from socketio_eventlog.events import Event
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.acknowledgements import current_call
from socketio_eventstore.adapter.manager_store import ManagerStore
from socketio_eventstore.adapter.messages import Message
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.event_rules import (
    MAX_NAME_CHARACTERS,
    check_event_name,
    check_names,
    check_text,
)
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.handler_transaction import submit_or_defer
from socketio_eventstore.core.operations import (
    Emit,
    EmitVolatile,
    EmitVolatileEverywhere,
    EmitWithAck,
    EmitWithAckEverywhere,
)
from socketio_eventstore.core.packets import TextEncoder
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session

_Emit: TypeAlias = Emit | EmitVolatile | EmitVolatileEverywhere | EmitWithAck | EmitWithAckEverywhere

LARGE_BYTES = 20_000
"""The size of an event from which on a series of emits gives way to other tasks."""


class ManagerEmits(ManagerStore):
    """The emits of ``RecoveryManager``."""

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Callable[..., Any] | None = None,
        to: Any = None,
        volatile: bool = False,
        **kwargs: Any,
    ) -> str | None:
        """Store and send an event; return the offset when the event is durable.

        An event with a callback and a volatile event are sent without being stored; None is returned. Raises
        TypeError or ValueError for an invalid event, StoreError after a failure of the store.
        """
        return await self.begin_emit(event, data, namespace, room, skip_sid, callback, to, volatile)

    usual_emit = staticmethod(emit)

    def begin_emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Callable[..., Any] | None = None,
        to: Any = None,
        volatile: bool = False,
    ) -> Awaitable[str | None]:
        """Begin ``emit``, with a coroutine less for each event; the result is the same.

        The call itself fixes the place of the event in the order, if the store is open. Raises as ``emit``.
        """
        if asyncio.get_running_loop() is not self._loop:
            self.check_loop()
        addressed, runtime = room if to is None else to, self.runtime
        if runtime is None:
            return self._emit_when_opened(event, data, namespace, addressed, skip_sid, callback, volatile)
        operation = self._emit_of(runtime, event, data, namespace, addressed, skip_sid, callback, volatile)
        if type(operation) is Emit and operation.size_bytes < LARGE_BYTES and self.server.admin_ui is None:
            return submit_or_defer(runtime.queue, operation)  # the usual event, without a coroutine
        return self._submit_emit(runtime, operation)

    async def _emit_when_opened(self, *arguments: Any) -> str | None:
        runtime = await self.opened()
        return await self._submit_emit(runtime, self._emit_of(runtime, *arguments))

    async def _submit_emit(self, runtime: Runtime, operation: _Emit) -> str | None:
        submit = submit_or_defer if type(operation) is Emit else CommitQueue.submit
        offset: str | None = await submit(runtime.queue, operation)
        if offset is None and operation.size_bytes >= LARGE_BYTES:
            await asyncio.sleep(0)  # nothing else has let others run in a loop over such events
        admin_ui = self.server.admin_ui
        if admin_ui is not None:
            await admin_ui.emitted(runtime, operation.event)
        return offset

    def _emit_of(
        self,
        runtime: Runtime,
        event: str,
        data: Any,
        namespace: str,
        room: Any,
        skip_sid: Any,
        callback: Callable[..., Any] | None,
        volatile: bool,
    ) -> _Emit:
        """Make the operation of an emit. Every error is raised here, before the event has an offset."""
        if not isinstance(event, str):
            check_event_name(event)
        if not isinstance(namespace, str):
            check_text(namespace, "a namespace")
        check_names(event, namespace)
        # A usual room is as ``rooms_of`` returns it.
        is_usual = type(room) is str and room.isascii() and len(room) <= MAX_NAME_CHARACTERS
        rooms = (room,) if is_usual else encoder.rooms_of(room)
        skip = () if skip_sid is None else encoder.skipped_sids(skip_sid)
        encoding = runtime.encoder
        is_one = data is not None and type(data) is not tuple
        values = [event, data] if is_one else [event, *encoder.arguments_of(data)]
        payload, attachments = encoding.payload(values)
        if payload[:2] != '["':
            raise ValueError(f"the server's json made {payload[:20]!r} of an array of strings")
        # An event as ``Event(...)``, without the function of a named tuple.
        record = tuple.__new__(Event, (namespace, event, payload, attachments, rooms, skip, time.time()))
        operation: _Emit
        if callback is not None:
            operation = self._with_ack(runtime, record, callback)
        elif volatile or (self.server.admin_ui is not None and not self.server.recovers(namespace)):
            is_for_others = _has_members_elsewhere(runtime, record)
            operation = EmitVolatileEverywhere(record) if is_for_others else EmitVolatile(record)
        else:
            operation = Emit(record)
        if operation.size_bytes > self._max_event_bytes:
            raise ValueError(
                f"event {event!r} is {operation.size_bytes} bytes long; "
                f"at most {self._max_event_bytes} can be sent"
            )
        if not isinstance(encoding, TextEncoder):
            # An unencodable value must fail here, not after the commit.
            encoding.event(namespace, payload, attachments, "")
        return operation

    def volatile_emit_of(self, runtime: Runtime, message: Message) -> EmitVolatile | EmitVolatileEverywhere:
        """Make the operation for a message that is not stored; ``Publish`` stores events.

        Raises TypeError or ValueError.
        """
        arguments = tuple(message.arguments)
        emit = self._emit_of(
            runtime, message.event, arguments, message.namespace, message.rooms, message.skip, None, True
        )
        assert isinstance(emit, EmitVolatile | EmitVolatileEverywhere)
        return emit

    def _with_ack(
        self, runtime: Runtime, record: Event, callback: Callable[..., Any]
    ) -> EmitWithAck | EmitWithAckEverywhere:
        namespace, encode = record.namespace, runtime.encoder.event
        call = current_call.get()

        def packet_for(session: Session) -> Frames:
            ack_id = self.acknowledgements.issue(session.sid, callback, call)
            return encode(namespace, record.payload, record.attachments, None, ack_id)

        if not _has_members_elsewhere(runtime, record):
            return EmitWithAck(record, packet_for)
        request = self.acknowledgements.request(callback, call)
        return EmitWithAckEverywhere(Asked(request, record), packet_for)


def _has_members_elsewhere(runtime: Runtime, event: Event) -> bool:
    """Whether clients of other nodes may be among the recipients of an event; a node alone has none."""
    context = runtime.context
    has_others = len(context.nodes) > 1
    return has_others and context.registry.may_have_elsewhere(event.namespace, event.rooms)
