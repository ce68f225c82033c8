"""The rules for events that official clients can read. Pure, without I/O.

An event that a client cannot parse makes the client close the transport with ``parse error``. The client
comes back, is sent the event again, and so on. So the rules are checked before an event has an offset.
Source: socket.io-parser 4.2.7, ``isPayloadValid`` and ``reconstructPacket``.
"""

from __future__ import annotations

from typing import Final

RESERVED_EVENTS: Final = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""Names that official clients refuse (socket.io-parser 4, RESERVED_EVENTS)."""


def check_event_name(name: object) -> None:
    """Check the name of an event. Raises TypeError unless it is a str, ValueError for a reserved name."""
    if not isinstance(name, str):
        raise TypeError(f"an event's name must be str, not {type(name).__name__}")
    if name in RESERVED_EVENTS:
        raise ValueError(f"event name {name!r} is reserved: official clients close the connection on it")
