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
    """The clients with offsets, which can recover: all but stock Python clients, or all."""
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
    """Connections without a namespace; beyond, handshakes get 503."""
    connections_per_address: int = 0
    """Connections of one address with a namespace; beyond, CONNECT_ERROR, except for a valid private id. 0 is
    no limit."""
    handshakes_per_address: int = 0
    """Connections of one address without a namespace; beyond, 429. 0 is no limit."""
    events_per_second: float = 0.0
    """Packets of one client without attachments; packets beyond are read later. 0 is no limit."""
    bytes_per_second: float = 0.0
    """Bytes of one client; bytes beyond are read later. 0 is no limit."""
    sessions_per_identity: int = 0
    """Sessions of one identity, connected or away; beyond, the session that is away for the longest time
    ends, or CONNECT_ERROR. 0 is no limit."""
    namespaces_per_connection: int = 1000
    """Namespaces of one connection; beyond, CONNECT_ERROR."""
    rooms_per_session: int = 1000
    """Rooms of one session, without the sid's own room; beyond, ``enter_room`` raises ValueError."""
    allowed_hosts: Sequence[str] | None = None
    """Names of the server, beside IP addresses, ``localhost`` and the hosts of allowed origins. A request to
    another host gets 421. None and "*" allow every host; "*" is logged."""
    trusted_proxies: Sequence[str] = ()
    """IP addresses and networks of trusted proxies; the peer of a Unix socket is always trusted."""
    node_name: str = ""
    """The name of the server among several on a database. Connection ids begin with the name and a dot, so a
    proxy can send the requests of a polling client to the same server. "" for no name."""
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
        """The largest event; a larger event alone could overflow the buffer of a client."""
        return self.max_client_buffer // 2
