"""The hosts of the server, and the allowed origins of pages.

Both rules protect the browsers of users who can reach the server. A page of another origin would use the
cookies and the network of the user. A foreign name that leads to this server (DNS rebinding) would give a
foreign page the server's own origin, so the name itself has to be known.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.transport.addresses import (
    ANY,
    host_matches,
    is_address,
    parse_host_pattern,
    parse_origin,
    parse_pattern,
)
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.trusted_proxies import TrustedProxies

logger = logging.getLogger(__name__)

AllowedHosts: TypeAlias = Sequence[str] | Literal["*"] | None
LOCALHOST: Final = "localhost"
MAX_REFUSALS: Final = 20
"""Refused hosts and origins with separate log lines. Strangers choose the names, so later names share
lines.
"""
MAX_TEXT_IN_LOG: Final = 200
MAX_EXPECTED_IN_LOG: Final = 10


class AccessRefused(Exception):
    """The server does not answer a request. The text says why."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        """The status line, such as "403 FORBIDDEN"."""


class AccessRules:
    """Decides by ``Host`` and ``Origin`` whether a request is answered, and logs each refusal."""

    def __init__(
        self,
        allowed_hosts: AllowedHosts,
        trusted_proxies: Iterable[str],
        refused: Counter[str] | None = None,
    ) -> None:
        """Hosts are not checked with None, nor with ``ANY``, which is logged. Raises ValueError.

        ``refused`` are the counts of former rules, to go on with.
        """
        self.refused: Counter[str] = Counter() if refused is None else refused
        """The number of refused requests: ``host`` or ``origin``."""
        self._hosts = _host_patterns(allowed_hosts)
        self.checks_hosts = self._hosts is not None
        """Whether some hosts are refused."""
        self._proxies = TrustedProxies(trusted_proxies)
        self._refusals = RepeatedFailures(logger, max_kinds=MAX_REFUSALS)

    def check_host(self, head: RequestHead, origins: Iterable[str]) -> None:
        """Raise AccessRefused for a forbidden host.

        IP addresses, ``localhost`` and the hosts of ``origins`` are allowed, too. No browser sends a request
        without a host; some probes do.
        """
        if self._hosts is None or self.allows_host(head, origins):
            return
        opened = self._proxies.opened_address(head)
        if opened.host is None:
            text = f"Invalid Host: {_shown(opened.host_text)}"
            self._refuse("host", "invalid", f"{text} (400)")
            raise AccessRefused("400 BAD REQUEST", text)
        host, origins = opened.host.host, tuple(origins)
        source = "X-Forwarded-Host" if opened.is_named_by_proxy else "Host"
        text = f"Refused the {source} {_shown(opened.host_text)} (421)"
        expected = _listed(["an IP address", LOCALHOST, *_names(self._hosts, origins)])
        line = f"{text}: expected one of {expected}; allowed_hosts adds names{self._hint(head)}"
        self._refuse("host", ("host", host), line)
        reason = f"This server does not answer for the host {_shown(opened.host_text)}: see allowed_hosts"
        raise AccessRefused("421 MISDIRECTED REQUEST", reason)

    def allows_host(self, head: RequestHead, origins: Iterable[str]) -> bool:
        """Whether ``check_host`` refuses nothing."""
        if self._hosts is None:
            return True
        opened = self._proxies.opened_address(head)
        if opened.host is None:
            return not opened.host_text
        return _is_allowed(opened.host.host, self._hosts, tuple(origins))

    def expects_proxy(self, head: RequestHead) -> bool:
        """Whether a request may come from a proxy: with trusted proxies, or from a Unix socket."""
        return self._proxies.has_some or self._proxies.trust(head.peer)

    def trusts(self, head: RequestHead) -> bool:
        """Whether the request comes from a trusted proxy."""
        return self._proxies.trust(head.peer)

    def client_address(self, head: RequestHead) -> str | None:
        """Return the client's address for the limits; None for a client of this machine."""
        return self._proxies.client_address(head)

    def is_own(self, origin: str, head: RequestHead) -> bool:
        """Whether an origin is the origin of the server's own pages."""
        found = parse_origin(origin)
        return found is not None and found in self._proxies.opened_address(head).origins

    def refuse_origin(
        self, origin: str, head: RequestHead, allowed: Iterable[str], advice: str, *, has_own: bool = True
    ) -> AccessRefused:
        """Log the refusal of an origin. Returns the error to raise.

        ``allowed`` are the expected origins, beside the own origin with ``has_own``. ``advice`` says how to
        let the page in.
        """
        opened = self._proxies.opened_address(head)
        own = [f"{expected} (the server's own)" for expected in opened.origins] if has_own else []
        text = f"Refused the Origin {_shown(origin)} (403): expected one of {_listed([*own, *allowed])}"
        line = f"{text}; {advice}{self._hint(head)}"
        self._refuse("origin", ("origin", advice, origin), line)
        return AccessRefused("403 FORBIDDEN", f"Forbidden: the origin {_shown(origin)} is not allowed")

    def _refuse(self, reason: str, kind: Hashable, line: str) -> None:
        self.refused[reason] += 1
        self._refusals.failed(kind, line, level=logging.WARNING, extra={"reason": reason})

    def _hint(self, head: RequestHead) -> str:
        """Return the hint about headers of an untrusted proxy."""
        ignored = self._proxies.ignored_headers(head)
        if not ignored:
            return ""
        peer = head.peer or "an unknown peer"
        return f". Not counted: {', '.join(ignored)} of {peer}, not in trusted_proxies"


@lru_cache(maxsize=256)
def _is_allowed(host: str, hosts: tuple[str, ...], origins: tuple[str, ...]) -> bool:
    """Whether a host is allowed. Nearly all requests are for the same host."""
    is_named = any(host_matches(name, host) for name in _names(hosts, origins))
    return is_named or host == LOCALHOST or is_address(host)


def _names(hosts: Sequence[str], origins: Sequence[str]) -> list[str]:
    """Return the patterns of hosts, origins included."""
    return [*hosts, *[origin.host for origin in map(parse_pattern, origins) if origin is not None]]


def _host_patterns(allowed_hosts: AllowedHosts) -> tuple[str, ...] | None:
    """Return the patterns for allowed hosts, or None for any host. Raises ValueError."""
    if allowed_hosts is None:
        return None
    entries = [allowed_hosts] if isinstance(allowed_hosts, str) else allowed_hosts
    if ANY in entries:
        logger.warning(
            'allowed_hosts is "*": a page on any name that leads to this server passes as its own page.'
        )
        return None
    patterns = []
    for entry in entries:
        pattern = parse_host_pattern(entry)
        if pattern is None:
            raise ValueError(f"allowed_hosts: {entry!r} is not the name of a host, without port")
        patterns.append(pattern)
    return tuple(patterns)


def _listed(expected: Sequence[str]) -> str:
    more = len(expected) - MAX_EXPECTED_IN_LOG
    return ", ".join(expected[:MAX_EXPECTED_IN_LOG]) + (f" and {more} more" if more > 0 else "")


def _shown(text: str) -> str:
    """Return a text of a client, without control characters and not too long."""
    return ascii(text[:MAX_TEXT_IN_LOG])
