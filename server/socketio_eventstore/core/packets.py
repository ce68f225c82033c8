"""Socket.IO packets of the server: compact JSON, binary arguments, and the standard encoding.

Source: Socket.IO protocol 5, "Packet encoding". Pure, without I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from socketio_eventstore.core.frames import Frames

Dumps = Callable[[Any], str]
"""Encodes a value as compact JSON, as the ``json`` argument of python-socketio's server does."""

_escaped = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
# JSONEncoder.encode makes this function anew for each value, which takes twice as long as the encoding.
_compact = json.encoder.c_make_encoder(  # type: ignore[attr-defined]  # undocumented, present since Python 2.6
    None, _escaped.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
)


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


def payload_of(values: Sequence[Any], encode: Dumps = dumps) -> tuple[str, tuple[bytes, ...]]:
    """Encode the name and arguments of an event, or the arguments of an acknowledgement.

    Returns the JSON array, with a placeholder for each binary argument, and the binary arguments. Raises
    TypeError or ValueError for values without JSON equivalent.
    """
    if encode is dumps:
        try:
            return dumps(values), ()
        except TypeError:
            pass  # some value is binary; a search for binary values first would cost more than the encoding
    attachments: list[bytes] = []
    text = encode([_without_binary(value, attachments) for value in values])
    return text, tuple(attachments)


def _without_binary(value: Any, attachments: list[bytes]) -> Any:
    match value:
        case str() | int() | float() | None:
            return value
        case bytes() | bytearray() | memoryview():
            attachments.append(bytes(value))
            return {"_placeholder": True, "num": len(attachments) - 1}
        case dict():
            return {key: _without_binary(item, attachments) for key, item in value.items()}
        case list() | tuple():
            return [_without_binary(item, attachments) for item in value]
        case _:
            return value


def with_binary(value: Any, attachments: Sequence[bytes]) -> Any:
    """Put binary arguments in place of their placeholders: the inverse of ``payload_of``."""
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

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """Encode an EVENT without acknowledgement id, the offset as last argument."""
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

    def __init__(self, encode: Dumps = dumps) -> None:
        """``encode`` makes the JSON of acknowledgements; the JSON of events comes from the log."""
        self._encode = encode

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """Encode an EVENT or BINARY_EVENT. The offset is spliced into the stored text, without parsing.

        Clients take the last argument as their offset (socket.io 4.6, connectionStateRecovery).
        """
        text = payload if offset is None else f'{payload[:-1]},"{offset}"]'
        if attachments:
            return Frames(f"45{len(attachments)}-{_prefix(namespace)}{text}", *attachments)
        return Frames(f"42{_prefix(namespace)}{text}")

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """Encode an ACK or BINARY_ACK."""
        text, attachments = payload_of(values, self._encode)
        if attachments:
            return Frames(f"46{len(attachments)}-{_prefix(namespace)}{ack_id}{text}", *attachments)
        return Frames(f"43{_prefix(namespace)}{ack_id}{text}")

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """Encode ``40{"sid":…,"pid":…}``."""
        ids = {"sid": sid} if pid is None else {"sid": sid, "pid": pid}
        return Frames(f"40{_prefix(namespace)}{dumps(ids)}")

    def disconnect(self, namespace: str) -> Frames:
        """Encode ``41``."""
        return Frames(f"41{_prefix(namespace)}")


def _prefix(namespace: str) -> str:
    return "" if namespace == "/" else namespace + ","
