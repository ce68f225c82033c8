"""Packets of clients: put together from their parts, within bounds, and checked before they are acted on."""

from __future__ import annotations

from typing import Any

from socketio import packet

from socketio_eventstore.server.adapter.codec import auth_of
from socketio_eventstore.server.transport import InvalidPacket

MAX_ATTACHMENTS = 1000
"""Of one packet of a client; together they may weigh as much as ``max_payload``."""

_RESERVED = {"connect", "connect_error", "disconnect", "disconnecting", "session_expired"}
"""Events that only the server raises; a client that sends one is refused (socket.io-parser 4)."""


class Assembler:
    """Waits for the attachments of binary packets."""

    def __init__(self, packet_class: Any, max_bytes: int) -> None:
        self._packet_class = packet_class
        self._max_bytes = max_bytes
        self._waiting: dict[str, tuple[Any, int]] = {}

    def add(self, connection_id: str, data: str | bytes) -> Any:
        """The packet that is complete with these data, None while attachments are missing.

        Raises InvalidPacket.
        """
        try:
            pkt = self._add(connection_id, data)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise InvalidPacket(f"not a Socket.IO packet: {data[:40]!r}") from error
        if pkt is not None and pkt.packet_type in (packet.EVENT, packet.BINARY_EVENT):
            _check_event(pkt.data)
        return pkt

    def forget(self, connection_id: str) -> None:
        """A connection has ended."""
        self._waiting.pop(connection_id, None)

    def _add(self, connection_id: str, data: str | bytes) -> Any:
        if connection_id not in self._waiting:
            pkt = self._packet_class(encoded_packet=data)
            if pkt.packet_type == packet.CONNECT:
                pkt.data = auth_of(pkt.data)
            if pkt.attachment_count == 0:
                return pkt
            if pkt.attachment_count > MAX_ATTACHMENTS:
                raise ValueError("too many attachments")
            self._waiting[connection_id] = pkt, self._max_bytes
            return None
        pkt, bytes_left = self._waiting[connection_id]
        bytes_left -= len(data)
        if isinstance(data, str) or bytes_left < 0:
            raise ValueError("text instead of an attachment, or too much of them")
        self._waiting[connection_id] = pkt, bytes_left
        if not pkt.add_attachment(data):
            return None
        self.forget(connection_id)
        return pkt


def _check_event(data: Any) -> None:
    if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in _RESERVED:
        raise InvalidPacket("not an event")
