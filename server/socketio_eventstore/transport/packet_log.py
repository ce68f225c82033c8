"""The view of all packets: python-engineio's log lines (``engineio_logger=True``), and counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from engineio.packet import packet_names

from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.sessions import ClientConnection


class Traffic(Protocol):
    """Counts transports and packets."""

    def opened(self) -> None:
        """Take note of a new transport."""
        ...

    def closed(self) -> None:
        """Take note of the end of a transport."""
        ...

    def upgraded(self, connection: ClientConnection) -> None:
        """Take note of an upgrade to a WebSocket."""
        ...

    def sent(self, packets: int, size_bytes: int) -> None:
        """Count packets for a client."""
        ...

    def received(self, size_bytes: int) -> None:
        """Take note of a packet of a client."""
        ...


class PacketLog:
    """Shows packets and upgrades to python-engineio's logger and to ``Traffic``, where there are any."""

    def __init__(self, log: logging.Logger | None, traffic: Traffic | None) -> None:
        self._log = log
        self._traffic = traffic

    def opened(self) -> None:
        """Show a new transport."""
        if self._traffic is not None:
            self._traffic.opened()

    def closed(self) -> None:
        """Show the end of a transport."""
        if self._traffic is not None:
            self._traffic.closed()

    def upgrading(self, connection: ClientConnection) -> None:
        """Show the begin of an upgrade."""
        if self._log is not None:
            self._log.info("%s: Received request to upgrade to websocket", connection.id)

    def upgraded(self, connection: ClientConnection) -> None:
        """Show a completed upgrade."""
        if self._log is not None:
            self._log.info("%s: Upgrade to websocket successful", connection.id)
        if self._traffic is not None:
            self._traffic.upgraded(connection)

    def sent(self, connection_id: str, batch: Sequence[Frames]) -> None:
        """Show packets for a client."""
        if self._log is not None:
            packets = (packet for frames in batch for packet in frames.packets)
            _log_packets(self._log, connection_id, "Sending", packets)
        if self._traffic is not None:
            packets_sent = sum(len(frames.packets) for frames in batch)
            self._traffic.sent(packets_sent, sum(frames.size_bytes for frames in batch))

    def received(self, connection_id: str, packet: str | bytes) -> None:
        """Show a packet of a client."""
        if self._log is not None:
            _log_packets(self._log, connection_id, "Received", (packet,))
        if self._traffic is not None:
            self._traffic.received(len(packet))


def _log_packets(log: logging.Logger, connection_id: str, what: str, packets: Iterable[str | bytes]) -> None:
    """Log packets as python-engineio does; ``what`` is "Sending" or "Received"."""
    for packet in packets:
        name, data = _parts(packet)
        log.info("%s: %s packet %s data %s", connection_id, what, name, data)


def _parts(packet: str | bytes) -> tuple[str, str | None]:
    if isinstance(packet, bytes):
        return "MESSAGE", "<binary>"
    if packet.startswith("40"):  # CONNECT: auth of the client, or its private id; the rest names it
        namespace, has_data, _ = packet[1:].partition("{")
        return "MESSAGE", f"{namespace}{{…}}" if has_data else namespace
    kind = packet[:1]
    is_known = kind.isascii() and kind.isdigit() and int(kind) < len(packet_names)
    return packet_names[int(kind)] if is_known else "UNKNOWN", packet[1:] or None
