"""Hosts and origins in the form of browsers, and patterns for both.

A ``Host`` header is an authority: a host with an optional port. An origin is a scheme and an authority.
Sources: RFC 9110 section 7.2, RFC 6454 section 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

ANY: Final = "*"
"""The entry of a list that allows all."""
ANY_SUBDOMAIN: Final = "*."
"""The start of a pattern for all names below a domain, at any depth, without the domain itself."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{0,5}))?", re.IGNORECASE | re.ASCII)
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE | re.ASCII)


class Authority(NamedTuple):
    """A host in lower case, without brackets and final dot, and the port if the text has one."""

    host: str
    port: int | None


class Origin(NamedTuple):
    """An origin, or a pattern with a host that starts with ``ANY_SUBDOMAIN``."""

    scheme: str
    host: str
    port: int | None
    """The default port of the scheme, if the text has none; None for a scheme without a default port."""

    def __str__(self) -> str:
        is_default = self.port in (None, DEFAULT_PORTS.get(self.scheme))
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" if is_default else f"{self.scheme}://{host}:{self.port}"


@lru_cache(maxsize=256)
def parse_authority(text: str) -> Authority | None:
    """Return the host and the port of a ``Host`` header; None for an invalid header."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    host, port = found[1].lower().removesuffix("."), int(found[2]) if found[2] else None
    if host.startswith("["):
        try:
            host = str(ip_address(host[1:-1]))
        except ValueError:
            return None
    return Authority(host, port) if host and (port is None or port <= 65535) else None


def parse_origin(text: str) -> Origin | None:
    """Return the parts of an origin or of a pattern; None for another text, such as ``null``."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2]
    start = ANY_SUBDOMAIN if rest.startswith(ANY_SUBDOMAIN) else ""
    authority = parse_authority(rest.removeprefix(start))
    if authority is None or (start and is_address(authority.host)):
        return None
    port = DEFAULT_PORTS.get(scheme) if authority.port is None else authority.port
    return Origin(scheme, start + authority.host, port)


# Patterns are few and come with every request; origins come from strangers, and would fill the cache.
parse_pattern = lru_cache(maxsize=1024)(parse_origin)


def parse_host_pattern(text: str) -> str | None:
    """Return a host, or a pattern for hosts, in the form of ``Authority.host``; None for another text."""
    start = ANY_SUBDOMAIN if text.startswith(ANY_SUBDOMAIN) else ""
    rest = text.removeprefix(start)
    authority = parse_authority(f"[{rest}]" if rest.count(":") > 1 and not rest.startswith("[") else rest)
    if authority is None or authority.port is not None or (start and is_address(authority.host)):
        return None
    return start + authority.host


def host_matches(pattern: str, host: str) -> bool:
    """Whether a host is the host of a pattern, or a subdomain."""
    if not pattern.startswith(ANY_SUBDOMAIN):
        return pattern == host
    return host.endswith(pattern[1:]) and len(host) >= len(pattern)


def matches_any(origin: str, patterns: Iterable[str]) -> bool:
    """Whether an ``Origin`` header matches any pattern. Equal texts always match."""
    found = parse_origin(origin)
    return any(pattern in (ANY, origin) or _matches(parse_pattern(pattern), found) for pattern in patterns)


def _matches(expected: Origin | None, found: Origin | None) -> bool:
    if expected is None or found is None or found.host.startswith(ANY_SUBDOMAIN):
        return False
    same = (expected.scheme, expected.port) == (found.scheme, found.port)
    return same and host_matches(expected.host, found.host)


@lru_cache(maxsize=256)
def is_address(host: str) -> bool:
    """Whether a host is an IP address. No name server decides where such a host leads."""
    if ":" not in host and not host[-1:].isdigit():
        return False  # most hosts; the error below would take five times as long
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Return the network of a text such as ``10.0.0.0/8``, or of an address. Raises ValueError."""
    return ip_network(text)
