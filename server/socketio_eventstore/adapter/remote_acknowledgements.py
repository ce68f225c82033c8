"""Acknowledgements between nodes: of the clients of this node, and of other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from socketio_eventlog.changes import Answered, Asked
from socketio_eventlog.errors import StoreError
from socketio_eventstore.adapter.acknowledgements import AcknowledgementIds
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.operations import Answer
from socketio_eventstore.core.repeated_failures import shown
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session


class RemoteAcknowledgements:
    """Sends acknowledgements to the nodes of the events, and receives acknowledgements for this node."""

    def __init__(self, runtime: Runtime, ids: AcknowledgementIds, calls: HandlerCalls) -> None:
        self._runtime = runtime
        self._ids = ids
        self._calls = calls

    def asked(self, node: str, asked: Asked) -> Callable[[Session], Frames]:
        """Return the function that makes packets for an event of another node."""
        event, encode = asked.event, self._runtime.encoder.event
        answer = partial(self._answer, node, asked.request)

        def packet_for(session: Session) -> Frames:
            ack_id = self._ids.issue(session.sid, answer)
            return encode(event.namespace, event.payload, event.attachments, None, ack_id)

        return packet_for

    def _answer(self, node: str, request: int, *arguments: Any) -> None:
        """Append the acknowledgement of a client of this node; an invalid acknowledgement is lost."""
        try:
            text, attachments = self._runtime.encoder.payload(arguments)
            self._runtime.queue.post(Answer(Answered(node, request, text, attachments)))
        except (TypeError, ValueError, StoreError) as error:
            text = f"An acknowledgement for another node was lost. {error}"
            self._calls.failures.failed("acknowledgement", text)

    def answered(self, answered: Answered) -> None:
        """Call the callback for an acknowledgement of a client of another node."""
        callback = self._ids.requested(answered.request)
        if callback is not None:
            _ = self._calls.start(self._call(callback, answered))

    async def _call(self, callback: Callable[..., Any], answered: Answered) -> None:
        try:
            result = callback(*self._runtime.encoder.values(answered.arguments, answered.attachments))
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:  # noqa: BLE001 -- a fault of the callback
            self._calls.errors["acknowledgement"] += 1
            self._calls.failures.failed("acknowledged", f"A callback failed: {shown(error)}", error=error)
