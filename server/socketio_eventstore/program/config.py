"""The configuration: typed, checked before anything starts, and frozen.

What a value may be stands in the description of its type; an error repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from socketio_eventstore.program.config_sources import ConfigError, Layers

__all__ = ["Config", "ConfigError", "RecoverySettings", "ServerSettings", "StoreSettings"]

OWN_PAGES = frozenset({"api", "healthz", "metrics", "pages", "readyz"})
"""Where the paths begin that the server answers by itself."""
SEGMENT = re.compile(r"[\w~-][\w.~-]*", re.ASCII)


def _module_name(text: str) -> str:
    if text.endswith(".py") or not all(part.isidentifier() for part in text.split(".")):
        raise ValueError(text)
    return text


def _prefix(text: str) -> str:
    segments = text.strip("/").split("/")
    if segments[0] in OWN_PAGES or not all(SEGMENT.fullmatch(segment) for segment in segments):
        raise ValueError(text)
    return f"/{'/'.join(segments)}/"


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _origin(text: str) -> str:
    # Browsers send neither path nor final slash: an origin with one would never match.
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+|null", text):
        raise ValueError(text)
    return text


def _file(path: Path) -> Path:
    if not path.name or "\0" in str(path):
        raise ValueError(path)
    try:
        return path.expanduser()
    except RuntimeError:  # ~somebody whom nobody knows
        raise ValueError(path) from None


Host: TypeAlias = Annotated[str, Field(pattern=r"^\S+$", description="a host name or an address")]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535, description="a whole number from 0 to 65535")]
Module: TypeAlias = Annotated[
    str,
    AfterValidator(_module_name),
    Field(description='the dotted name of a module; "chat" is a chat.py beside the config file'),
]
Prefix: TypeAlias = Annotated[
    str,
    AfterValidator(_prefix),
    Field(description='a path such as "/socket.io/", and not /api, /healthz, /metrics, /pages or /readyz'),
]
Origins: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...] | Literal["*"],
    BeforeValidator(_frozen),
    Field(description='a list of origins such as "https://example.com", no path, or "*"'),
]
Heartbeat: TypeAlias = Annotated[
    float,
    # Clients add two of them up, in milliseconds, for a timer that holds 31 bits.
    Field(gt=0, le=1e6, description="a number of seconds above 0, at most a million"),
]
Seconds: TypeAlias = Annotated[
    float, Field(gt=0, lt=1e9, description="a number of seconds above 0, below 1e9")
]
Bytes: TypeAlias = Annotated[int, Field(gt=0, description="a whole number of bytes above 0")]
BytesOrNone: TypeAlias = Annotated[int, Field(ge=0, description="a whole number of bytes, or 0 for none")]
Count: TypeAlias = Annotated[int, Field(gt=0, description="a whole number above 0")]
Switch: TypeAlias = Annotated[bool, Field(description="true or false")]
File: TypeAlias = Annotated[
    Path, AfterValidator(_file), Field(strict=False, description="the path of a file")
]
Synchronous: TypeAlias = Annotated[Literal["full", "normal"], Field(description='"full" or "normal"')]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ServerSettings(_Table):
    """The table ``[server]``."""

    host: Host = "127.0.0.1"
    port: Port = 3000
    """0 lets the system choose."""
    handlers: Module = "socketio_eventstore.chat"
    """The module with ``register(sio)``, looked up beside the config file too."""
    path: Prefix = "/socket.io/"
    """With a slash at both ends, however it was written."""
    cors_allowed_origins: Origins = ()
    ping_interval: Heartbeat = 25.0
    ping_timeout: Heartbeat = 20.0
    connect_timeout: Heartbeat = 45.0
    """How long a connection may join no namespace."""
    max_payload: Bytes = 1_000_000
    """The largest message that a client may send."""
    max_client_buffer: Bytes = 4_000_000
    """What may wait to be sent to one client; beyond it, its transport is closed."""
    websocket_compression: BytesOrNone = 0
    """From which size on messages are compressed; 0 means that none is."""
    shutdown_grace: Seconds = 10.0


class RecoverySettings(_Table):
    """The table ``[connection_state_recovery]``, whose presence turns recovery on."""

    max_disconnection_duration: Seconds = 120.0
    skip_middlewares: Switch = False
    """Whether connect handlers are left out on recovery."""
    recover_client_disconnect: Switch = True
    """Whether a session can be recovered after the client itself called ``disconnect()``."""
    max_missed_packets: Count = 100_000
    max_missed_bytes: Bytes = 64_000_000


class StoreSettings(_Table):
    """The table ``[store]``."""

    path: File = Path("data/events.db")
    """Absolute after ``Config.load``."""
    synchronous: Synchronous = "full"
    prune_interval: Seconds = 10.0
    index_memory: Bytes = 64_000_000


class _File(_Table):
    server: ServerSettings = ServerSettings()
    connection_state_recovery: RecoverySettings | None = None
    store: StoreSettings = StoreSettings()


TABLES: Mapping[str, type[_Table]] = {
    "server": ServerSettings,
    "connection_state_recovery": RecoverySettings,
    "store": StoreSettings,
}


@dataclass(frozen=True, slots=True)
class Config:
    """All that the server is told from outside."""

    folder: Path = field(default_factory=Path.cwd)
    """The config file's folder, absolute."""
    server: ServerSettings = field(default_factory=ServerSettings)
    connection_state_recovery: RecoverySettings | None = None
    """None where there is no recovery."""
    store: StoreSettings = field(default_factory=StoreSettings)

    @classmethod
    def load(
        cls,
        path: Path,
        overrides: Mapping[str, Mapping[str, object]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The file, with ``EVENTSTORE_…`` of ``environ`` over it and ``overrides``, by table, over both.

        Raises ConfigError with a line for everything that is wrong.
        """
        expected = {name: _expected(table) for name, table in TABLES.items()}
        layers = Layers(path, expected)
        layers.add_environment(environ or {}, _from_text)
        layers.add_flags(overrides or {})
        try:
            tables = _File.model_validate(layers.tables)
        except ValidationError as error:
            places = [problem["loc"] for problem in error.errors(include_url=False)]
            raise ConfigError(*layers.complaints(places)) from None
        if found := layers.complaints([]):
            raise ConfigError(*found)
        folder = path.absolute().parent
        store = tables.store.model_copy(update={"path": folder / tables.store.path})
        return cls(folder, tables.server, tables.connection_state_recovery, store)


def _expected(table: type[_Table]) -> dict[str, str]:
    return {name: field.description or "" for name, field in table.model_fields.items()}


def _from_text(table: str, key: str, text: str) -> object:
    """What a variable means; text that means nothing stays text, which the check of all values refuses."""
    if key == "cors_allowed_origins" and text != "*":
        return [origin.strip() for origin in text.split(",") if origin.strip()]
    try:
        settings = TABLES[table].model_validate_strings({key: text}, strict=False)
    except ValidationError:
        return text
    value: object = getattr(settings, key)
    return value
