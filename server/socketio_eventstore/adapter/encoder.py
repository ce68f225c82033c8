"""Encoding: emits as stored events, and packets through python-socketio's packet classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

import engineio.json
from socketio import packet

from socketio_eventlog.events import Room
from socketio_eventstore.adapter import native_values
from socketio_eventstore.core import event_rules, packets
from socketio_eventstore.core.frames import Frames, FramesWithOffset
from socketio_eventstore.core.packets import Dumps, PacketEncoder, TextEncoder

MAX_ADDRESSES: Final = 10_000
"""The most rooms, and the most skipped sids, of an emit."""


class PacketClassEncoder:
    """Encodes with a ``serializer`` of the application, which gets the stored JSON parsed."""

    def __init__(self, packet_class: Any, max_attachments: int) -> None:
        """``packet_class``: a subclass of ``socketio.packet.Packet``."""
        self._packet_class = packet_class
        self._dumps = dumps_for(packet_class)
        self._splits_binary = packet_class.uses_binary_events
        self._max_attachments = max_attachments if self._splits_binary else None

    def payload(self, values: Sequence[Any]) -> tuple[str, tuple[bytes, ...]]:
        """Encode an event as stored. A packet without attachments (msgpack) takes values of more types."""
        if self._splits_binary:
            return packets.payload_of(values, self._dumps, self._max_attachments)
        return native_values.payload_of(values, self._dumps)

    def values(self, payload: str, attachments: Sequence[bytes]) -> list[Any]:
        """Decode the name and arguments of a stored event."""
        values = json.loads(payload)
        if self._splits_binary:
            return list(packets.with_binary(values, attachments))
        return list(native_values.restored(values, attachments))

    def is_readable(self, payload: str, attachments: int) -> bool:
        """Whether a stored event obeys the rules (see ``event_rules``)."""
        counted = attachments if self._splits_binary else 0
        return event_rules.is_readable(payload, counted, self._max_attachments)

    def event(
        self,
        namespace: str,
        payload: str,
        attachments: Sequence[bytes],
        offset: str | None,
        ack_id: int | None = None,
    ) -> Frames:
        """Encode an EVENT, the offset as last argument. Raises TypeError or ValueError."""
        data = self.values(payload, attachments)
        if offset is None:
            return self._encode(packet.EVENT, namespace, data, ack_id)
        frames = self._encode(packet.EVENT, namespace, [*data, offset], ack_id)
        return _Event(frames, lambda: self.event(namespace, payload, attachments, None, ack_id))

    def ack(self, namespace: str, ack_id: int, values: Sequence[Any]) -> Frames:
        """Encode the acknowledgement of a client's event. Raises the errors of the packet class."""
        if self._splits_binary:
            self.payload(values)  # clients refuse the same packets as acknowledgements
        return self._encode(packet.ACK, namespace, list(values), ack_id)

    def connect(self, namespace: str, sid: str, pid: str | None) -> Frames:
        """Encode the CONNECT packet of the server."""
        ids = {"sid": sid} if pid is None else {"sid": sid, "pid": pid}
        return self._encode(packet.CONNECT, namespace, ids)

    def disconnect(self, namespace: str) -> Frames:
        """Encode the DISCONNECT packet."""
        return self._encode(packet.DISCONNECT, namespace, None)

    def _encode(self, kind: int, namespace: str, data: Any, ack_id: int | None = None) -> Frames:
        try:
            return frames_of(self._packet_class(kind, namespace=namespace, data=data, id=ack_id))
        except OverflowError as error:
            raise ValueError(f"a number is too large for the serializer: {error}") from error


class _Event(FramesWithOffset):
    """An event of a packet class, with the offset as the last argument."""

    __slots__ = ("_make",)

    def __init__(self, with_offset: Frames, make_without_offset: Callable[[], Frames]) -> None:
        super().__init__(*with_offset.packets)
        self._make = make_without_offset

    def _make_without_offset(self) -> Frames:
        return self._make()


def encoder_for(packet_class: Any, max_attachments: int) -> PacketEncoder:
    """Return the encoder for the ``serializer`` of a server."""
    if packet_class is packet.Packet:
        return TextEncoder(dumps_for(packet_class), max_attachments)
    return PacketClassEncoder(packet_class, max_attachments)


def has_default_json(packet_class: Any) -> bool:
    """Whether the application uses the default ``json`` module."""
    return packet_class.json in (json, engineio.json)


def dumps_for(packet_class: Any) -> Dumps:
    """Return the ``dumps`` of the application's ``json`` module, or the server's own ``dumps``."""
    if has_default_json(packet_class):
        return packets.dumps
    module = packet_class.json

    def dumps(value: Any) -> str:
        text: str = module.dumps(value, separators=(",", ":"))
        return text

    return dumps


def frames_of(pkt: Any) -> Frames:
    """Encode a packet of python-socketio as frames."""
    encoded = pkt.encode()
    parts = encoded if isinstance(encoded, list) else [encoded]
    return Frames(*("4" + part if isinstance(part, str) else bytes(part) for part in parts))


def connect_error(packet_class: Any, namespace: str, reason: Any) -> Frames:
    """Encode a CONNECT_ERROR packet. Raises TypeError for other than JSON, and what the serializer raises."""
    if not isinstance(reason, str | dict):  # the only valid types for official clients
        raise TypeError(f"the reason is of type {type(reason).__name__}")
    if packet_class.uses_binary_events:
        encode_json = dumps_for(packet_class)
        json.loads(encode_json(reason), parse_constant=_refuse)
    return frames_of(packet_class(packet.CONNECT_ERROR, data=reason, namespace=namespace))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def arguments_of(data: Any) -> list[Any]:
    """Return the arguments of an emit: a tuple stands for several, None for none."""
    if isinstance(data, tuple):
        return list(data)
    return [] if data is None else [data]


def rooms_of(room: Any) -> tuple[Room, ...] | None:
    """Return the rooms of an emit, None for the whole namespace.

    An empty collection is no room: such an emit reaches no client. Raises TypeError for other types,
    ValueError for more than MAX_ADDRESSES rooms.
    """
    if room is None:
        return None
    # The items of bytes are integers, which would be other rooms.
    is_one = isinstance(room, str | bytes | bytearray) or not hasattr(room, "__len__")
    rooms = (room,) if is_one else tuple(room)
    if len(rooms) > MAX_ADDRESSES:
        raise ValueError(f"an emit can address {MAX_ADDRESSES} rooms, not {len(rooms)}; join a room for them")
    return tuple(checked_room(one) for one in rooms)


def checked_room(room: Any) -> Room:
    """Return the room if the store can keep the name.

    Raises TypeError for other types than str and int, ValueError for a lone surrogate and beyond 64 bits.
    """
    return _checked_name(room, "a room's name", "; emit and enter_room take str(room)")


def _checked_name(name: Any, what: str, hint: str = "") -> Room:
    if isinstance(name, bool) or not isinstance(name, str | int):
        kind = type(name).__name__
        raise TypeError(f"{what} must be str or int to be stored, not {kind}: {name!r:.100}{hint}")
    if isinstance(name, str):
        event_rules.check_text(name, what)
    elif not -(2**63) <= name < 2**63:
        raise ValueError(f"{what} must fit into 64 bits to be stored, if it is a number")
    return name


def skipped_sids(skip_sid: Any) -> tuple[str, ...]:
    """Return the skipped sids of an emit. None, False and numbers are the sids of no session.

    Raises TypeError for values that are no room either, ValueError for a name that the store cannot keep, and
    for more than MAX_ADDRESSES.
    """
    if skip_sid is None:
        return ()
    is_one = isinstance(skip_sid, str | bytes | bytearray) or not isinstance(skip_sid, Iterable)
    sids: tuple[Any, ...] = (skip_sid,) if is_one else tuple(skip_sid)
    if len(sids) > MAX_ADDRESSES:
        raise ValueError(f"an emit can skip {MAX_ADDRESSES} sids, not {len(sids)}; emit to a room instead")
    # ``skip_sid=condition and sid`` may be False
    checked = [_checked_name(sid, "a sid to skip") for sid in sids if sid is not None and sid is not False]
    return tuple(sid for sid in checked if isinstance(sid, str))


def session_json(value: Any, limit_bytes: int) -> str:
    """Encode the data of a session as JSON that decodes to the same data.

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
    """Encode a value as JSON that decodes to the same value. Raises TypeError with the path and the type.

    ``path`` is the name of the value in the error, such as ``session``. Raises ValueError for a circular
    value.
    """
    try:
        _check_json(value, path)
    except RecursionError:
        text = f"{path} contains itself, or is nested too deeply: it is not JSON"
        raise ValueError(text) from None  # a traceback of a thousand equal lines
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
