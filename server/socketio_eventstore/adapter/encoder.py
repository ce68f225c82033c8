"""Encoding: emits as stored events, and packets through python-socketio's packet classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import engineio.json
from socketio import packet

from socketio_eventlog.records import Room
from socketio_eventstore.core import packets
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.packets import Dumps, PacketEncoder, TextEncoder


class PacketClassEncoder:
    """Encodes with a ``serializer`` of the application, which gets the stored JSON parsed."""

    def __init__(self, packet_class: Any) -> None:
        """``packet_class``: a subclass of ``socketio.packet.Packet``."""
        self._packet_class = packet_class

    def event(self, namespace: str, payload: str, attachments: Sequence[bytes], offset: str | None) -> Frames:
        """Encode an EVENT without acknowledgement id, the offset as last argument."""
        data = packets.with_binary(json.loads(payload), attachments)
        return self._encode(packet.EVENT, namespace, data if offset is None else [*data, offset])

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """Encode the acknowledgement of a client's event. Raises whatever the packet class raises."""
        return frames_of(self._packet_class(packet.ACK, namespace=namespace, id=ack_id, data=list(values)))

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """Encode the CONNECT packet of the server."""
        ids = {"sid": sid} if pid is None else {"sid": sid, "pid": pid}
        return self._encode(packet.CONNECT, namespace, ids)

    def disconnect(self, namespace: str) -> Frames:
        """Encode the DISCONNECT packet."""
        return self._encode(packet.DISCONNECT, namespace, None)

    def _encode(self, kind: int, namespace: str, data: Any) -> Frames:
        return frames_of(self._packet_class(kind, namespace=namespace, data=data))


def encoder_for(packet_class: Any) -> PacketEncoder:
    """Return the encoder for the ``serializer`` of a server."""
    if packet_class is packet.Packet:
        return TextEncoder(dumps_for(packet_class))
    return PacketClassEncoder(packet_class)


def has_default_json(packet_class: Any) -> bool:
    """Whether the application has set no ``json`` module of its own."""
    return packet_class.json in (json, engineio.json)


def dumps_for(packet_class: Any) -> Dumps:
    """Return the ``dumps`` of the application's ``json`` module, or the own one where none was set."""
    if has_default_json(packet_class):
        return packets.dumps
    module = packet_class.json

    def dumps(value: Any) -> str:
        text: str = module.dumps(value, separators=(",", ":"))
        return text

    return dumps


def frames_of(pkt: Any) -> Frames:
    """Encode one of python-socketio's packets as frames."""
    encoded = pkt.encode()
    parts = encoded if isinstance(encoded, list) else [encoded]
    return Frames(*("4" + part if isinstance(part, str) else bytes(part) for part in parts))


def encode_event(event: str, arguments: Sequence[Any], dumps: Dumps) -> tuple[str, tuple[bytes, ...]]:
    """Encode an event as stored: the JSON array of name and arguments, and the binary arguments.

    Raises TypeError or ValueError for arguments that cannot be sent.
    """
    payload, attachments = packets.payload_of([event, *arguments], dumps)
    if dumps is not packets.dumps and '"' not in payload[:2]:
        raise ValueError(f"the server's json made {payload[:20]!r} of an array of strings")
    return payload, attachments


def arguments_of(data: Any) -> list[Any]:
    """Return the arguments of an emit: a tuple stands for several, None for none."""
    if isinstance(data, tuple):
        return list(data)
    return [] if data is None else [data]


def rooms_of(room: Any) -> tuple[Room, ...] | None:
    """Return the rooms of an emit, None for the whole namespace. Raises TypeError for other types.

    An empty collection is no room: such an emit reaches no client.
    """
    if room is None:
        return None
    if type(room) is str:
        return (room,)
    # The items of bytes are integers, which would be other rooms.
    is_one = isinstance(room, str | bytes | bytearray) or not hasattr(room, "__len__")
    rooms = (room,) if is_one else tuple(room)
    return tuple(checked_room(one) for one in rooms)


def checked_room(room: Any) -> Room:
    """Return the room if the store can keep the name. Raises TypeError unless it is str or int."""
    if isinstance(room, bool) or not isinstance(room, str | int):
        raise TypeError(f"a room's name must be str or int to be stored, not {type(room).__name__}: {room!r}")
    return room


def skipped_sids(skip_sid: Any) -> tuple[str, ...]:
    """Return the sids that an emit leaves out. A value of another type than str is the sid of no session."""
    if skip_sid is None:
        return ()
    sids = skip_sid if hasattr(skip_sid, "__iter__") and not isinstance(skip_sid, str) else (skip_sid,)
    return tuple(sid for sid in sids if isinstance(sid, str))


def session_json(value: Any, limit_bytes: int) -> str:
    """Encode the data of a session as JSON that reads back the same.

    Raises TypeError, which names the path and the type without JSON equivalent, and ValueError beyond
    ``limit_bytes``.
    """
    if not isinstance(value, dict):
        raise TypeError(f"session data must be a dict, not {type(value).__name__}")
    text = json_text(value, "session")
    if len(text) > limit_bytes:
        raise ValueError(f"session data is {len(text)} characters long, at most {limit_bytes} can be saved")
    return text


def json_text(value: Any, path: str) -> str:
    """Encode a value as JSON that reads back the same. Raises TypeError, which names the path and the type.

    ``path`` is the name of the value in the error, such as ``session``.
    """
    _check_json(value, path)
    return packets.dumps(value)


def _check_json(value: Any, path: str) -> None:
    match value:
        case None | str() | int() | float():
            pass
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{path} has a key of type {type(key).__name__}: {key!r}; JSON needs str")
                _check_json(item, f"{path}[{key!r}]")
        case list() | tuple():
            for index, item in enumerate(value):
                _check_json(item, f"{path}[{index}]")
        case _:
            raise TypeError(f"{path} is of type {type(value).__name__}, which cannot be saved as JSON")
