"""The lines of python-engineio's logger about packets, for ``engineio_logger=True``."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from engineio.packet import packet_names


def log_packets(log: logging.Logger, connection_id: str, what: str, packets: Iterable[str | bytes]) -> None:
    """Log packets as python-engineio does; ``what`` is "Sending" or "Received"."""
    for packet in packets:
        name, data = _parts(packet)
        log.info("%s: %s packet %s data %s", connection_id, what, name, data)


def _parts(packet: str | bytes) -> tuple[str, str | None]:
    if isinstance(packet, bytes):
        return "MESSAGE", "<binary>"
    kind = packet[:1]
    is_known = kind.isascii() and kind.isdigit() and int(kind) < len(packet_names)
    return packet_names[int(kind)] if is_known else "UNKNOWN", packet[1:] or None
