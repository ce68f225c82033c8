"""Socket.IO packets of the server: compact JSON, binary arguments, and the standard encoding.

Source: Socket.IO protocol 5, "Packet encoding". Pure, without I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

from socketio_eventstore.core import event_rules
from socketio_eventstore.core.frames import Frames, FramesWithOffset

Dumps = Callable[[Any], str]
"""Encodes a value as compact JSON, as the ``json`` argument of python-socketio's server does."""

_escaped = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
# JSONEncoder.encode makes the function anew for each value, which takes twice as long as the encoding.
_compact = json.encoder.c_make_encoder(  # type: ignore[attr-defined]  # undocumented, present since Python 2.6
    None, _escaped.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
)


quoted: Final[Callable[[str], str]] = json.encoder.encode_basestring_ascii
"""Encodes a text as JSON. In C, and for ids, which are ASCII as a rule."""


def dumps(value: Any) -> str:
    """Encode a value as JSON for the wire and the log: compact, readable, always valid UTF-8.

    Raises ValueError for a number without JSON equivalent (NaN, infinity) and TypeError for a value of
    another type; both errors name the value.
    """
    try:
        text = "".join(_compact(value, 0))
    except RecursionError as error:
        raise ValueError("a value that contains itself, or is nested too deeply, is not JSON") from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate is legal in JSON only when escaped
            return _escaped.encode(value)
    return text


def payload_of(
    values: Sequence[Any], encode: Dumps = dumps, max_attachments: int | None = None
) -> tuple[str, tuple[bytes, ...]]:
    """Encode the name and arguments of an event, or the arguments of an acknowledgement.

    Returns the JSON array, with a placeholder for each binary argument, and the binary arguments. Raises
    TypeError or ValueError for values that clients cannot read.
    """
    taken = BinaryTaken()
    try:
        text = encode(taken.out_of(list(values)))
    except RecursionError as error:
        raise ValueError("a value that contains itself, or is nested too deeply, is not JSON") from error
    attachments = taken.attachments
    if attachments and taken.has_lookalike:
        raise ValueError(event_rules.LOOKALIKE)
    if max_attachments is not None and len(attachments) > max_attachments:
        raise ValueError(f"{len(attachments)} binary arguments; at most {max_attachments} can be sent")
    if encode is not dumps:
        try:
            text.encode()
            event_rules.check_payload(text, len(attachments))
        except ValueError as error:
            raise ValueError(f"the server's json made {text[:20]!r}, which is not sent: {error}") from error
    return text, tuple(attachments)


class BinaryTaken:
    """Takes binary values out of other values, and leaves placeholders."""

    def __init__(self) -> None:
        self.attachments: list[bytes] = []
        self.has_lookalike = False
        """Whether some object already has the key of a placeholder."""

    def out_of(self, value: Any) -> Any:
        """Return a copy of the value with placeholders."""
        match value:
            case str() | int() | float() | None:
                return value
            case bytes() | bytearray() | memoryview():
                return self.placeholder(value)
            case dict():
                mark = value.get("_placeholder")
                if mark or isinstance(mark, bytes | bytearray | memoryview):  # empty bytes become an object
                    self.has_lookalike = True
                return {key: self.out_of(item) for key, item in value.items()}
            case list() | tuple():
                return [self.out_of(item) for item in value]
            case _:
                return value

    def placeholder(self, content: bytes | bytearray | memoryview) -> dict[str, Any]:
        """Take a binary value, and return the placeholder."""
        self.attachments.append(bytes(content))
        return {"_placeholder": True, "num": len(self.attachments) - 1}


def with_binary(value: Any, attachments: Sequence[bytes]) -> Any:
    """Put binary arguments in place of the placeholders: the inverse of ``payload_of``."""
    match value:
        case {"_placeholder": True, "num": int(index)} if 0 <= index < len(attachments):
            return attachments[index]
        case dict():
            return {key: with_binary(item, attachments) for key, item in value.items()}
        case list():
            return [with_binary(item, attachments) for item in value]
        case _:
            return value


class PacketEncoder(Protocol):
    """Encodes the packets of the server; python-socketio's ``serializer`` decides the implementation."""

    def payload(self, values: Sequence[Any]) -> tuple[str, tuple[bytes, ...]]:
        """Encode the name and arguments of an event as stored: JSON, and the binary arguments.

        Raises TypeError or ValueError for values that clients cannot read.
        """
        ...

    def values(self, payload: str, attachments: Sequence[bytes]) -> list[Any]:
        """Decode the name and arguments of a stored event: the inverse of ``payload``. Raises ValueError."""
        ...

    def is_readable(self, payload: str, attachments: int) -> bool:
        """Whether clients can read a stored event with so many binary arguments."""
        ...

    def event(
        self,
        namespace: str,
        payload: str,
        attachments: Sequence[bytes],
        offset: str | None,
        ack_id: int | None = None,
    ) -> Frames:
        """Encode an EVENT with the offset as last argument; ``ack_id`` asks for an acknowledgement."""
        ...

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """Encode the acknowledgement of a client's event. Raises TypeError or ValueError."""
        ...

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """Encode the CONNECT packet of the server; ``pid`` is None when recovery is disabled."""
        ...

    def disconnect(self, namespace: str) -> Frames:
        """Encode the DISCONNECT packet, after which the client does not return by itself."""
        ...


class TextEncoder:
    """The standard encoding (Socket.IO protocol 5, "Packet encoding")."""

    def __init__(self, encode: Dumps = dumps, max_attachments: int | None = None) -> None:
        """``encode`` makes the JSON; ``max_attachments``: the most binary arguments in a packet."""
        self._encode = encode
        self._max_attachments = max_attachments

    def payload(self, values: Sequence[Any]) -> tuple[str, tuple[bytes, ...]]:
        """Encode as ``payload_of`` does."""
        if self._encode is dumps:
            try:
                return dumps(values), ()
            except TypeError:
                pass  # some value is binary; to look for one first would cost more than the encoding
        return payload_of(values, self._encode, self._max_attachments)

    def values(self, payload: str, attachments: Sequence[bytes]) -> list[Any]:
        """Decode as ``with_binary`` does."""
        return list(with_binary(json.loads(payload), attachments))

    def is_readable(self, payload: str, attachments: int) -> bool:
        """Whether a stored event obeys the rules (see ``event_rules``)."""
        return event_rules.is_readable(payload, attachments, self._max_attachments)

    def event(
        self,
        namespace: str,
        payload: str,
        attachments: Sequence[bytes],
        offset: str | None,
        ack_id: int | None = None,
    ) -> Frames:
        """Encode an EVENT or BINARY_EVENT. The offset is spliced into the stored text, without parsing.

        Clients take the last argument as the offset (socket.io 4.6, connectionStateRecovery).
        """
        if offset is None:
            text, frames = payload, Frames
        else:
            text, frames = f'{payload[:-1]},"{offset}"]', _TextEvent
        if ack_id is not None:
            text = f"{ack_id}{text}"
        if attachments:
            return frames(f"45{len(attachments)}-{_prefix(namespace)}{text}", *attachments)
        return frames(f"42{_prefix(namespace)}{text}")

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """Encode an ACK or BINARY_ACK."""
        text, attachments = self.payload(values) if values else ("[]", ())
        if attachments:
            return Frames(f"46{len(attachments)}-{_prefix(namespace)}{ack_id}{text}", *attachments)
        return Frames(f"43{_prefix(namespace)}{ack_id}{text}")

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """Encode ``40{"sid":…,"pid":…}``."""
        private = "" if pid is None else f',"pid":{quoted(pid)}'
        return Frames(f'40{_prefix(namespace)}{{"sid":{quoted(sid)}{private}}}')

    def disconnect(self, namespace: str) -> Frames:
        """Encode ``41``."""
        return Frames(f"41{_prefix(namespace)}")


class _TextEvent(FramesWithOffset):
    """An event in the standard encoding, with the offset as the last argument."""

    __slots__ = ()

    def _make_without_offset(self) -> Frames:
        text, attachments = str(self.packets[0]), self.packets[1:]
        return Frames(text[: text.rindex(',"')] + "]", *attachments)


@lru_cache(maxsize=256)
def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else namespace + ","
