"""The callbacks of emits without an acknowledgement so far."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

CALLBACKS_PER_SESSION: Final = 1000
"""The most outstanding acknowledgements of a session. Beyond, the oldest callback is never called."""

Callbacks = dict[str, dict[int, Callable[..., Any]]]
"""The callbacks by sid and id, as python-socketio's manager keeps them."""


REQUESTS: Final = 10_000
"""The most emits that wait for acknowledgements from other nodes. Beyond, the oldest is forgotten."""


@dataclass(eq=False, slots=True)
class Call:
    """A waiting ``call``."""

    issued: list[tuple[str, int]] = field(default_factory=list)
    """The sid and the id of each packet."""
    requests: list[int] = field(default_factory=list)
    """The requests to clients of other nodes."""
    is_over: bool = False


current_call: ContextVar[Call | None] = ContextVar("call", default=None)
"""The ``call`` of the present emit."""


class AcknowledgementIds:
    """Issues the ids of acknowledgements, and bounds the callbacks of each session."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        # The sid outlives a restart, so the ids of acknowledgements must not begin anew after a restart. The
        # ids stay below 2**53, the largest exact integer of JavaScript.
        self._ids = itertools.count(secrets.randbelow(2**21) << 31)
        self._requests: dict[int, Callable[..., Any]] = {}
        """The callbacks of emits to the clients of other nodes, by the number of the request."""

    def issue(self, sid: str, callback: Callable[..., Any], call: Call | None = None) -> int:
        """Return a new id for a packet to a session, and keep the callback."""
        ack_id = next(self._ids)
        if call is not None and call.is_over:
            return ack_id
        callbacks = self._callbacks.setdefault(sid, {})
        callbacks[ack_id] = callback
        if len(callbacks) > CALLBACKS_PER_SESSION:
            del callbacks[next(iter(callbacks))]
        if call is not None:
            call.issued.append((sid, ack_id))
        return ack_id

    def request(self, callback: Callable[..., Any], call: Call | None = None) -> int:
        """Return the number of a request to the clients of other nodes, and keep the callback."""
        number = next(self._ids)
        self._requests[number] = callback
        if len(self._requests) > REQUESTS:
            del self._requests[next(iter(self._requests))]
        if call is not None:
            call.requests.append(number)
        return number

    def requested(self, number: int) -> Callable[..., Any] | None:
        """Return the callback of a request; each client of a room may acknowledge."""
        return self._requests.get(number)

    def end(self, call: Call) -> None:
        """Remove the callbacks of an answered or abandoned call."""
        call.is_over = True
        for number in call.requests:
            self._requests.pop(number, None)
        for sid, ack_id in call.issued:
            callbacks = self._callbacks.get(sid, {})
            callbacks.pop(ack_id, None)
            if not callbacks:
                self._callbacks.pop(sid, None)
