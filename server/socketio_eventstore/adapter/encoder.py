"""Frames from python-socketio's packet classes, and events from what handlers emit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import engineio.json
from socketio import packet

from socketio_eventlog.records import Room
from socketio_eventstore.core import packets
from socketio_eventstore.core.packets import Dumps, Frames, PacketEncoder, TextEncoder

_JSON_TYPES = (dict, list, str, int, float, bytes, type(None))


class PacketClassEncoder:
    """Any other ``serializer``: the stored JSON is parsed again and given to its packet class."""

    def __init__(self, packet_class: Any) -> None:
        self._packet_class = packet_class

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """An EVENT without acknowledgement, the offset as its last argument."""
        data = packets.with_binary(json.loads(payload), attachments)
        return self._encode(packet.EVENT, namespace, data if offset is None else [*data, offset])

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """The answer to an event of a client. Raises what the packet class does for what it cannot encode."""
        return frames_of(self._packet_class(packet.ACK, namespace=namespace, id=ack_id, data=list(values)))

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """The CONNECT packet of the server."""
        return self._encode(
            packet.CONNECT, namespace, {"sid": sid} if pid is None else {"sid": sid, "pid": pid}
        )

    def disconnect(self, namespace: str) -> Frames:
        """The DISCONNECT packet."""
        return self._encode(packet.DISCONNECT, namespace, None)

    def _encode(self, kind: int, namespace: str, data: Any) -> Frames:
        return frames_of(self._packet_class(kind, namespace=namespace, data=data))


def encoder_for(packet_class: Any) -> PacketEncoder:
    """The codec for a server's ``serializer``."""
    return (
        TextEncoder(dumps_for(packet_class))
        if packet_class is packet.Packet
        else PacketClassEncoder(packet_class)
    )


def has_usual_json(packet_class: Any) -> bool:
    """Whether the application gave no ``json`` of its own."""
    return packet_class.json in (json, engineio.json)


def dumps_for(packet_class: Any) -> Dumps:
    """The JSON of a server's ``json`` argument, or our own where the application gave none."""
    if has_usual_json(packet_class):
        return packets.dumps
    module = packet_class.json

    def dumps(value: Any) -> str:
        text: str = module.dumps(value, separators=(",", ":"))
        return text

    return dumps


def frames_of(pkt: Any) -> Frames:
    """The frames of one of python-socketio's packets."""
    encoded = pkt.encode()
    parts = encoded if isinstance(encoded, list) else [encoded]
    return Frames(*("4" + part if isinstance(part, str) else bytes(part) for part in parts))


def arguments_of(data: Any) -> list[Any]:
    """The arguments of an emit: a tuple stands for several, None for none."""
    if isinstance(data, tuple):
        return list(data)
    return [] if data is None else [data]


def rooms_of(room: Any) -> tuple[Room, ...] | None:
    """The rooms that an emit addresses, None for everyone. Raises TypeError for other than str and int."""
    if room is None:
        return None
    if type(room) is str:
        return (room,)
    rooms = (room,) if isinstance(room, str) or not hasattr(room, "__len__") else tuple(room)
    return tuple(checked_room(one) for one in rooms)


def checked_room(room: Any) -> Room:
    """The room's name as it can be stored. Raises TypeError."""
    if isinstance(room, bool) or not isinstance(room, str | int):
        raise TypeError(f"a room's name must be str or int to be stored, not {type(room).__name__}: {room!r}")
    return room


def skipped_sids(skip_sid: Any) -> tuple[str, ...]:
    """The sids that an emit leaves out."""
    if skip_sid is None:
        return ()
    return (skip_sid,) if isinstance(skip_sid, str) else tuple(sid for sid in skip_sid if sid is not None)


def session_json(value: Any, limit_bytes: int) -> str:
    """What a handler saves, as JSON that reads back the same.

    Raises TypeError that names the place and the type that JSON does not have, ValueError when it is
    too large.
    """
    if not isinstance(value, dict):
        raise TypeError(f"session data must be a dict, not {type(value).__name__}")
    text = json_text(value, "session")
    if len(text) > limit_bytes:
        raise ValueError(f"session data is {len(text)} characters long, at most {limit_bytes} can be saved")
    return text


def auth_of(payload: Any) -> dict[str, Any] | None:
    """What a client sends with CONNECT. Raises ValueError for anything but an object (socket.io-parser 4).

    Encoders of msgpack write JavaScript's undefined, which JSON leaves out, as an extension type.
    """
    if isinstance(payload, dict):
        return {key: value for key, value in payload.items() if isinstance(value, _JSON_TYPES)}
    if payload is not None and isinstance(payload, _JSON_TYPES):
        raise ValueError("the payload of CONNECT must be an object")
    return None


def json_text(value: Any, slot: str) -> str:
    """A value as JSON that reads back the same. Raises TypeError that names the place and the type."""
    _check_json(value, slot)
    return packets.dumps(value)


def _check_json(value: Any, slot: str) -> None:
    match value:
        case None | str() | int() | float():
            pass
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{slot} has a key of type {type(key).__name__}: {key!r}; JSON needs str")
                _check_json(item, f"{slot}[{key!r}]")
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(item, f"{slot}[{index}]")
        case _:
            raise TypeError(f"{slot} is of type {type(value).__name__}, which cannot be saved as JSON")
