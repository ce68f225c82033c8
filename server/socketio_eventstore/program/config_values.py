"""The types of the configuration's values.

The description of each type says which values are valid. Error messages repeat the description.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from socketio_eventlog.options import LEAST_MAX_SIZE, is_file_mode
from socketio_eventstore.core.options import Offsets
from socketio_eventstore.program.http_settings import UNIX
from socketio_eventstore.transport.addresses import ANY, parse_host_pattern, parse_network, parse_origin

SEGMENT = re.compile(r"[\w~-][\w.~-]*", re.ASCII)


def _module_name(text: str) -> str:
    if text.endswith(".py") or not all(part.isidentifier() for part in text.split(".")):
        raise ValueError(text)
    return text


def _prefix(text: str) -> str:
    segments = text.strip("/").split("/")
    if set(text) == {"/"}:
        return "/"
    if not all(SEGMENT.fullmatch(segment) for segment in segments):
        raise ValueError(text)
    return f"/{'/'.join(segments)}/"


def _host(text: str) -> str:
    if text == UNIX or (not re.fullmatch(r"\S+", text) and not text.startswith(UNIX)) or "\0" in text:
        raise ValueError(text)
    return text


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _origin(text: str) -> str:
    # Browsers send an Origin without path and final slash: an origin with a path never matches.
    if text not in (ANY, "null") and parse_origin(text) is None:
        raise ValueError(text)
    return text


def _host_pattern(text: str) -> str:
    if text != ANY and parse_host_pattern(text) is None:
        raise ValueError(text)
    return text


def _proxy(text: str) -> str:
    parse_network(text)
    return text


def _file(path: Path) -> Path:
    is_other = str(path).startswith((":memory:", "file:"))  # SQLite's names for what is no file, or a URI
    if not path.name or "\0" in str(path) or is_other:
        raise ValueError(path)
    try:
        return path.expanduser()
    except RuntimeError:  # ~user for an unknown user
        raise ValueError(path) from None


def _octal(value: object) -> object:
    """Accept the text of a variable in the form of the file, ``0o600``."""
    return int(value, 8) if isinstance(value, str) and value.startswith("0o") else value


def _file_mode(mode: int) -> int:
    if not is_file_mode(mode):
        raise ValueError(mode)
    return mode


Host: TypeAlias = Annotated[str, AfterValidator(_host)]
Hosts: TypeAlias = Annotated[
    Host | Annotated[tuple[Host, ...], Field(min_length=1)],
    BeforeValidator(_frozen),
    Field(description='a host name or an address, "unix:/path", or a list of them'),
]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535, description="a whole number from 0 to 65535")]
Module: TypeAlias = Annotated[
    str,
    AfterValidator(_module_name),
    Field(description='the dotted name of a module; "chat" is a chat.py beside the config file'),
]
Prefix: TypeAlias = Annotated[
    str,
    AfterValidator(_prefix),
    Field(description='a path such as "/socket.io/"'),
]
Namespaces: TypeAlias = Annotated[
    tuple[Annotated[str, Field(pattern="^/[^,?]*$")], ...] | Literal["*"],
    BeforeValidator(_frozen),
    Field(description='a list of namespaces such as "/chat", or "*"'),
]
Cookie: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]*$", description='the name of a cookie, or "" for none'),
]
NodeName: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[0-9A-Za-z_-]{0,32}$", description='letters, digits, "-" and "_", at most 32, or ""'),
]
Origins: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...] | Literal["*"],
    BeforeValidator(_frozen),
    Field(description='a list of origins such as "https://example.com", no path, or "*"'),
]
AllowedHosts: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_host_pattern)], ...] | Literal["*"],
    BeforeValidator(_frozen),
    Field(description='a list of host names such as "chat.example.com", no port, or "*"'),
]
Proxies: TypeAlias = Annotated[
    tuple[Annotated[str, AfterValidator(_proxy)], ...],
    BeforeValidator(_frozen),
    Field(description='a list of IP addresses and networks such as "10.0.0.0/8"'),
]
Heartbeat: TypeAlias = Annotated[
    float,
    # A client's timer runs for pingInterval + pingTimeout milliseconds, and a timer holds 31 bits.
    Field(gt=0, le=1e6, description="a number of seconds above 0, at most a million"),
]
Seconds: TypeAlias = Annotated[
    float, Field(gt=0, lt=1e9, description="a number of seconds above 0, below 1e9")
]
Retention: TypeAlias = Annotated[
    float,
    Field(ge=0, lt=1e9, description="a number of seconds below 1e9, or 0 for max_disconnection_duration"),
]
Drain: TypeAlias = Annotated[
    float, Field(ge=0, lt=1e9, description="a number of seconds below 1e9, or 0 for none")
]
Bytes: TypeAlias = Annotated[int, Field(gt=0, description="a whole number of bytes above 0")]
Size: TypeAlias = Annotated[
    int, Field(ge=LEAST_MAX_SIZE, description=f"a whole number of bytes, at least {LEAST_MAX_SIZE}")
]
BytesOrNone: TypeAlias = Annotated[int, Field(ge=0, description="a whole number of bytes, or 0 for none")]
Count: TypeAlias = Annotated[int, Field(gt=0, description="a whole number above 0")]
CountOrNone: TypeAlias = Annotated[int, Field(ge=0, description="a whole number, or 0 for no limit")]
Rate: TypeAlias = Annotated[
    float, Field(ge=0, lt=1e12, description="a number for each second, or 0 for no limit")
]
Switch: TypeAlias = Annotated[bool, Field(description="true or false")]
File: TypeAlias = Annotated[
    Path, AfterValidator(_file), Field(strict=False, description="the path of a file")
]
DatabaseUrl: TypeAlias = Annotated[
    str,
    Field(
        pattern="^(postgres(ql)?://.+)?$",
        repr=False,
        description="postgresql://user@host/database, or nothing for the file of path",
    ),
]
FileMode: TypeAlias = Annotated[
    int,
    BeforeValidator(_octal),
    AfterValidator(_file_mode),
    Field(description="an octal mode such as 0o600, 0o640 or 0o660"),
]
Synchronous: TypeAlias = Annotated[Literal["full", "normal"], Field(description='"full" or "normal"')]

LogFormat: TypeAlias = Annotated[
    Literal["auto", "text", "json"], Field(description='"auto", "text" or "json"')
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"],
    Field(description='"debug", "info", "warning" or "error"'),
]
PemFile: TypeAlias = Annotated[str, Field(description='the path of a file in PEM, or "" for no TLS')]
OffsetsKey: TypeAlias = Annotated[Offsets, Field(description='"auto" or "always"')]
