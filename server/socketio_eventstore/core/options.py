"""The options of recovery, with the only copy of every default value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from socketio_eventlog.options import StoreOptions

Offsets: TypeAlias = Literal["auto", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(StoreOptions):
    """Options of store and recovery, for the config file, the manager and the core alike.

    Durations are in seconds, sizes in bytes.
    """

    max_disconnection_duration: float = 120.0
    """How long a client may be away and still recover."""
    skip_middlewares: bool = False
    """Whether connect handlers are skipped on recovery."""
    recover_client_disconnect: bool = True
    """Whether a session can be recovered after the client itself called ``disconnect()``."""
    offsets: Offsets = "auto"
    """Which clients get offsets and can recover: all but stock Python clients, or all of them."""
    max_missed_packets: int = 100_000
    """A client that has missed more events gets a new session."""
    max_missed_bytes: int = 64_000_000
    """A client that has missed more bytes gets a new session."""
    max_client_buffer: int = 4_000_000
    """Unsent bytes for one client; beyond, the transport is closed."""
    max_attachments: int = 10
    """Binary arguments in one event or acknowledgement; socket.io-parser 4.2.6 and later take no more."""
    websocket_compression: int = 0
    """WebSocket messages of at least this size are compressed; 0 compresses none."""
    connections: int = 50_000
    """Open connections; beyond, handshakes get 503."""
    pending_handshakes: int = 20_000
    """Connections that have not asked for a namespace; beyond, handshakes get 503."""
    connections_per_address: int = 0
    """Connections of one address that have joined a namespace; beyond, CONNECT_ERROR, except for a valid
    private id. 0 is no limit."""
    handshakes_per_address: int = 0
    """Connections of one address that have not asked for a namespace; beyond, 429. 0 is no limit."""
    events_per_second: float = 0.0
    """Packets of one client without attachments; beyond, they are read later. 0 is no limit."""
    bytes_per_second: float = 0.0
    """Bytes of one client; beyond, they are read later. 0 is no limit."""
    sessions_per_identity: int = 0
    """Sessions of one identity, also those that are away; beyond, the one that is away for the longest time
    ends, or CONNECT_ERROR. 0 is no limit."""
    namespaces_per_connection: int = 1000
    """Namespaces of one connection; beyond, CONNECT_ERROR."""
    rooms_per_session: int = 1000
    """Rooms of one session, its own sid not counted; beyond, ``enter_room`` raises ValueError."""
    allowed_hosts: Sequence[str] | None = None
    """Names of the server, beside IP addresses, ``localhost`` and the hosts of allowed origins. A request to
    another host gets 421. None and "*" allow every host; "*" is logged."""
    trusted_proxies: Sequence[str] = ()
    """IP addresses and networks of proxies whose forwarding headers count; a Unix socket's peer is one."""
    node_name: str = ""
    """The name of this server among several on one database: the ids of its connections begin with it and a
    dot, so that a proxy sends the requests of a polling client to its server. "" begins none."""
    heartbeat: float = 45.0
    """How long a connection may be dead before the server notices: ping interval plus ping timeout."""

    def __post_init__(self) -> None:
        StoreOptions.__post_init__(self)  # super() does not know a dataclass with slots
        if 0 < self.retention < self.max_disconnection_duration:
            raise ValueError(
                f"retention = {self.retention:g} is smaller than "
                f"max_disconnection_duration = {self.max_disconnection_duration:g}"
            )

    @property
    def event_retention(self) -> float:
        """Seconds for which events are kept: at least as long as a client may be away."""
        return max(self.retention, self.max_disconnection_duration)

    @property
    def max_event_bytes(self) -> int:
        """The largest event; a larger one alone could overflow the buffer of a client."""
        return self.max_client_buffer // 2
