"""The configuration: typed, frozen, and validated before the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from socketio_eventlog.opening import describe
from socketio_eventstore.core.options import Options
from socketio_eventstore.program.auth_settings import AuthSettings
from socketio_eventstore.program.config_sources import ConfigError, Layers
from socketio_eventstore.program.config_values import (
    AllowedHosts,
    Bytes,
    BytesOrNone,
    Cookie,
    Count,
    CountOrNone,
    DatabaseUrl,
    Drain,
    File,
    FileMode,
    Heartbeat,
    Hosts,
    LogFormat,
    LogLevel,
    Module,
    Namespaces,
    NodeName,
    OffsetsKey,
    Origins,
    PemFile,
    Port,
    Prefix,
    Proxies,
    Rate,
    Retention,
    Seconds,
    Size,
    Switch,
    Synchronous,
)
from socketio_eventstore.program.http_settings import (
    API_PATH,
    INSPECT_PATH,
    UNIX,
    ApiAddress,
    ApiKeyHashes,
    named_hashes,
    parse_address,
)
from socketio_eventstore.transport.addresses import (
    ANY,
    is_address,
    parse_host_pattern,
)

__all__ = [
    "UNIX",
    "Config",
    "ConfigError",
    "HttpSettings",
    "RecoverySettings",
    "ServerSettings",
    "StoreSettings",
    "engine_hosts",
    "engine_origins",
]

LISTS: Final = (
    "namespaces",
    "allowed_hosts",
    "cors_allowed_origins",
    "trusted_proxies",
    "algorithms",
    "audience",
)
"""The keys with a list of values, separated by commas in the environment."""

DEFAULTS: Final = Options(path=None)
"""The defaults of store and recovery, shared with embedded applications."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ServerSettings(_Table):
    """The table ``[server]``. Durations are in seconds."""

    host: Hosts = "127.0.0.1"
    port: Port = 3000
    """0 lets the operating system choose a free port."""
    handlers: Module = "socketio_eventstore.chat"
    """The name of the module with ``register(sio)``, installed or beside the config file."""
    path: Prefix = "/socket.io/"
    """The Socket.IO path; validation adds a missing slash at either end."""
    namespaces: Namespaces = ("/",)
    """The namespaces open to clients without a handler; ``*`` is every namespace."""
    cookie: Cookie = ""
    """The name of a cookie with the id of the connection, for proxies; none by default."""
    node_name: NodeName = ""
    """The name of the server among several. Connection ids begin with the name."""
    allowed_hosts: AllowedHosts = ()
    """Names of the server, beside IP addresses, ``localhost``, ``host`` and the hosts of allowed origins."""
    cors_allowed_origins: Origins = ()
    """Allowed origins of pages, beside the server's own origin."""
    trusted_proxies: Proxies = ()
    """Proxies with trusted forwarding headers, beside the peers of Unix sockets."""
    ping_interval: Heartbeat = 25.0
    ping_timeout: Heartbeat = 20.0
    connect_timeout: Heartbeat = 45.0
    """The longest time without a connected namespace, and for a complete HTTP request."""
    max_payload: Bytes = 1_000_000
    """The largest message from a client, in bytes."""
    max_client_buffer: Bytes = DEFAULTS.max_client_buffer
    """The most unsent bytes for one client; above the limit the client's transport is closed."""
    max_attachments: Count = DEFAULTS.max_attachments
    """The most binary arguments in one event or acknowledgement, in either direction."""
    websocket_compression: BytesOrNone = DEFAULTS.websocket_compression
    """The smallest message to compress, in bytes; 0 compresses none."""
    shutdown_grace: Seconds = 10.0
    """The longest time for disconnect handlers at the shutdown."""
    drain: Drain = 0.0
    """The time over which a SIGTERM closes the connections; 0 closes all at once."""
    tls_certificate: PemFile = ""
    """A certificate, chain included; relative paths count from the config file. "" is no TLS."""
    tls_key: PemFile = ""
    """The key of the certificate."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts; a host that starts with ``UNIX`` is the path of a Unix socket."""
        return (self.host,) if isinstance(self.host, str) else self.host


class RecoverySettings(_Table):
    """The table ``[connection_state_recovery]``. Without the table there is no recovery."""

    max_disconnection_duration: Seconds = DEFAULTS.max_disconnection_duration
    skip_middlewares: Switch = DEFAULTS.skip_middlewares
    """Whether a recovered client skips the connect handlers."""
    recover_client_disconnect: Switch = DEFAULTS.recover_client_disconnect
    """Whether a session is recoverable after the client's own ``disconnect()``."""
    offsets: OffsetsKey = DEFAULTS.offsets
    """Whether stock Python clients get no offsets (``auto``), or all clients get offsets."""
    max_missed_packets: Count = DEFAULTS.max_missed_packets
    max_missed_bytes: Bytes = DEFAULTS.max_missed_bytes


class StoreSettings(_Table):
    """The table ``[store]``."""

    path: File = Path("data/events.db")
    """Absolute after ``Config.load``. The socket for the commands is beside it, also with a URL."""
    url: DatabaseUrl = ""
    """The PostgreSQL database for the log, instead of the file."""
    synchronous: Synchronous = DEFAULTS.synchronous
    retention: Retention = DEFAULTS.retention
    """How long events are kept; 0 is ``max_disconnection_duration``."""
    prune_interval: Seconds = DEFAULTS.prune_interval
    index_memory: Bytes = DEFAULTS.index_memory
    max_size: Size = DEFAULTS.max_size
    """The largest size of the log, in bytes; the pages in use and the WAL count."""
    file_mode: FileMode = DEFAULTS.file_mode
    session_history: Switch = DEFAULTS.session_history
    """Whether the history of each session is written."""

    @property
    def name(self) -> str:
        """The file, or the database without user and password, for people."""
        return describe(self.url) if self.url else str(self.path)


class LimitSettings(_Table):
    """The table ``[limits]``: the limits of all clients together, and of each client. 0 is no limit."""

    connections: Count = DEFAULTS.connections
    pending_handshakes: Count = DEFAULTS.pending_handshakes
    """Connections without a namespace so far."""
    connections_per_address: CountOrNone = DEFAULTS.connections_per_address
    handshakes_per_address: CountOrNone = DEFAULTS.handshakes_per_address
    """Connections of one address without a namespace so far."""
    events_per_second: Rate = DEFAULTS.events_per_second
    bytes_per_second: Rate = DEFAULTS.bytes_per_second
    sessions_per_identity: CountOrNone = DEFAULTS.sessions_per_identity
    namespaces_per_connection: Count = DEFAULTS.namespaces_per_connection
    rooms_per_session: Count = DEFAULTS.rooms_per_session


class LogSettings(_Table):
    """The table ``[log]``."""

    format: LogFormat = "auto"
    """``auto`` is ``text`` on a terminal, and ``json`` elsewhere."""
    level: LogLevel = "info"
    access: Switch = False
    """Whether each HTTP request has a line."""


class HttpSettings(_Table):
    """The table ``[http]``: the HTTP interface for publishing and inspection."""

    api_keys: ApiKeyHashes = {}
    """The hashes of the valid keys, by name; without a key there is no interface."""
    listen: ApiAddress = ""
    """A separate address; the addresses of ``[server]`` then have no interface."""


class _File(_Table):
    server: ServerSettings = ServerSettings()
    connection_state_recovery: RecoverySettings | None = None
    store: StoreSettings = StoreSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()


TABLES: Mapping[str, type[BaseModel]] = {
    "server": ServerSettings,
    "connection_state_recovery": RecoverySettings,
    "store": StoreSettings,
    "limits": LimitSettings,
    "log": LogSettings,
    "http": HttpSettings,
    "auth": AuthSettings,
}


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration: the tables of the config file, with overrides."""

    folder: Path = field(default_factory=Path.cwd)
    """The absolute path of the config file's folder."""
    server: ServerSettings = field(default_factory=ServerSettings)
    connection_state_recovery: RecoverySettings | None = None
    """None disables recovery."""
    store: StoreSettings = field(default_factory=StoreSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    log: LogSettings = field(default_factory=LogSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)

    @classmethod
    def load(
        cls,
        path: Path,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Read the file at ``path`` and apply the overrides.

        Variables ``EVENTSTORE_TABLE__KEY`` of ``environ`` override the file. ``overrides`` (values by table
        and key) override both. Raises ConfigError with one line per error.
        """
        expected = {name: _expected(table) for name, table in TABLES.items()}
        layers = Layers(path, expected)
        layers.add_environment(environ or {}, _from_text)
        layers.add_flags(overrides or {})
        try:
            tables = _File.model_validate(layers.tables)
        except ValidationError as error:
            locations = [problem["loc"] for problem in error.errors(include_url=False)]
            raise ConfigError(*layers.errors(locations)) from None
        unfitting = [check(tables, layers) for check in CHECKS]
        if found := [*layers.errors([]), *chain.from_iterable(unfitting)]:
            raise ConfigError(*found)
        folder = path.absolute().parent
        store = tables.store.model_copy(update={"path": folder / tables.store.path})
        recovery = tables.connection_state_recovery
        others = tables.limits, tables.log, tables.http, tables.auth
        return cls(folder, tables.server, recovery, store, *others)


def _retention_errors(tables: _File, layers: Layers) -> list[str]:
    recovery, retention = tables.connection_state_recovery, tables.store.retention
    if recovery is None or not 0 < retention < recovery.max_disconnection_duration:
        return []
    longest = recovery.max_disconnection_duration
    least = f"at least {longest:g}, the [connection_state_recovery] max_disconnection_duration"
    return [layers.error("store", "retention", least)]


def _path_errors(tables: _File, layers: Layers) -> list[str]:
    """Return an error if Socket.IO and a page behind a key have the same path on the same address."""
    http, path = tables.http, tables.server.path
    taken = next((taken for taken in (API_PATH, INSPECT_PATH) if path.startswith(taken)), None)
    if not http.api_keys or http.listen or taken is None:
        return []
    expected = f'a path that does not begin with "{taken}", which [http] api_keys takes; or [http] listen'
    return [layers.error("server", "path", expected)]


def _auth_errors(tables: _File, layers: Layers) -> list[str]:
    """Return an error if the keys of ``[auth]`` do not fit together."""
    problem = tables.auth.problem()
    return [] if problem is None else [layers.error("auth", *problem)]


def _tls_errors(tables: _File, layers: Layers) -> list[str]:
    """Return an error for a certificate without a key, and for a key without a certificate."""
    certificate, key = tables.server.tls_certificate, tables.server.tls_key
    if bool(certificate) == bool(key):
        return []
    given, other = ("tls_certificate", "tls_key") if certificate else ("tls_key", "tls_certificate")
    return [layers.error("server", given, f"{other} beside it")]


CHECKS: Final = (_retention_errors, _path_errors, _auth_errors, _tls_errors)
"""The checks of values against other values."""


def engine_origins(settings: ServerSettings) -> str | list[str] | None:
    """Return the allowed origins in the form of python-engineio."""
    origins = settings.cors_allowed_origins
    # For python-engineio None means the server's own origin only, and [] means all origins.
    return ANY if ANY in origins else (list(origins) or None)


def engine_hosts(config: Config) -> list[str]:
    """Return the allowed names and the names in ``host`` and ``[http] listen``, or ``ANY`` alone."""
    settings, own = config.server, parse_address(config.http.listen)
    if ANY in settings.allowed_hosts:
        return [ANY]
    hosts = [*settings.hosts, *(own[:1] if own else ())]
    patterns = [parse_host_pattern(host) for host in hosts if not host.startswith(UNIX)]
    return [*settings.allowed_hosts, *(name for name in patterns if name and not is_address(name))]


def _expected(table: type[BaseModel]) -> dict[str, str]:
    return {name: field.description or "" for name, field in table.model_fields.items()}


def _from_text(table: str, key: str, text: str) -> object:
    """Return the value of a variable's text. Invalid text stays text, and fails the validation later."""
    if key == "host" and "," in text:
        return [host.strip() for host in text.split(",")]
    if key == "api_keys":
        return named_hashes(text)
    if key in LISTS and text != "*":
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        settings = TABLES[table].model_validate_strings({key: text}, strict=False)
    except ValidationError:
        return text
    value: object = getattr(settings, key)
    return value
