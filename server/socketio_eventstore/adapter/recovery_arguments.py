"""The keyword arguments of ``RecoveryManager``, for type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict


class RecoveryArguments(TypedDict, total=False):
    """The keyword arguments of ``RecoveryManager``: the fields of ``Options``, where the defaults are."""

    synchronous: Literal["full", "normal"]
    retention: float
    prune_interval: float
    index_memory: int
    max_size: int
    file_mode: int
    session_history: bool
    max_disconnection_duration: float
    skip_middlewares: bool
    recover_client_disconnect: bool
    offsets: Literal["auto", "always"]
    max_missed_packets: int
    max_missed_bytes: int
    max_client_buffer: int
    max_attachments: int
    websocket_compression: int
    connections: int
    pending_handshakes: int
    connections_per_address: int
    handshakes_per_address: int
    events_per_second: float
    bytes_per_second: float
    sessions_per_identity: int
    namespaces_per_connection: int
    rooms_per_session: int
    allowed_hosts: Sequence[str] | None
    trusted_proxies: Sequence[str]
    node_name: str
