"""The rules for events, from the limits of official clients. Pure, without I/O.

An event that a client cannot parse makes the client close the transport with ``parse error``. The client
comes back, is sent the event again, and so on. So the rules are checked before an event has an offset.
Source: socket.io-parser 4.2.7, ``isPayloadValid`` and ``reconstructPacket``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NoReturn

RESERVED_EVENTS: Final = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""Names refused by official clients (socket.io-parser 4, RESERVED_EVENTS)."""

LOOKALIKE: Final = (
    "an object with the key '_placeholder' cannot be sent together with bytes: "
    "clients take the object for a placeholder of bytes"
)


def check_event_name(name: object) -> None:
    """Check the name of an event. Raises TypeError for non-str, ValueError for a reserved name."""
    if isinstance(name, str) and name in RESERVED_EVENTS:
        raise ValueError(f"event name {name!r} is reserved: official clients close the connection on it")
    check_text(name, "an event's name")


@lru_cache(maxsize=1024)
def check_names(event: str, namespace: str) -> None:
    """Check the names of an event and a namespace, as ``check_event_name`` and ``check_text`` do.

    The results for used names are cached, since each event needs the check.
    """
    check_event_name(event)
    check_text(namespace, "a namespace")


MAX_NAME_CHARACTERS: Final = 1000
"""The longest name of an event, namespace, room, identity or sid."""


def check_text(text: object, what: str) -> None:
    """Check that the store can keep a name: not too long, and without lone surrogates, which UTF-8 lacks.

    Raises TypeError for another type than str, ValueError.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be str, not {type(text).__name__}: {text!r:.100}")
    if len(text) > MAX_NAME_CHARACTERS:
        raise ValueError(f"{what} may have {MAX_NAME_CHARACTERS} characters, not {len(text)}: {text[:20]!r}…")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{what} cannot be stored: {error}") from error


def check_payload(payload: str, attachments: int) -> None:
    """Check the text of an event: a JSON array with a placeholder for each attachment.

    Clients take any object with the key ``_placeholder`` for a placeholder when a packet has attachments.
    Raises ValueError.
    """
    values = json.loads(payload, parse_constant=_refuse)
    if not isinstance(values, list):
        raise ValueError(f"{payload[:20]!r} is not an array")
    numbers = list(_placeholders(values)) if attachments else []
    is_each_a_number = all(isinstance(number, int) for number in numbers)
    if not is_each_a_number or sorted(numbers) != list(range(attachments)):
        raise ValueError(LOOKALIKE)


def is_readable(payload: str, attachments: int, max_attachments: int | None) -> bool:
    """Whether official clients can read a stored event, which may be older than the rules."""
    if max_attachments is not None and attachments > max_attachments:
        return False
    if attachments or "NaN" in payload or "Infinity" in payload or "\\" in payload:
        try:
            check_payload(payload, attachments)
            check_event_name(json.loads(payload)[0])
        except (ValueError, TypeError, LookupError, RecursionError):
            return False
        return True
    # A look is enough for the usual event, and takes a tenth of the time of parsing.
    name, quote, _ = payload[2:].partition('"')
    return payload[:2] == '["' and quote != "" and payload[-1] == "]" and name not in RESERVED_EVENTS


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _placeholders(value: Any) -> Iterator[Any]:
    """Yield the number in each object that counts as a placeholder, in order."""
    if isinstance(value, dict):
        if value.get("_placeholder"):
            yield value.get("num")
        else:
            for item in value.values():
                yield from _placeholders(item)
    elif isinstance(value, list):
        for item in value:
            yield from _placeholders(item)
