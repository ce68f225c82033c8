"""The address opened by the client, from the connection or a trusted proxy.

Sources: RFC 7239 for ``Forwarded``; ``X-Forwarded-Host`` and ``X-Forwarded-Proto`` have no standard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from socketio_eventstore.transport.addresses import (
    DEFAULT_PORTS,
    Authority,
    Origin,
    parse_authority,
    parse_network,
)
from socketio_eventstore.transport.request_head import UNIX_PEER, RequestHead

FORWARDING_HEADERS: Final = ("x-forwarded-proto", "x-forwarded-host", "forwarded")

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""Some proxies name the scheme of a WebSocket."""
_PAIR: Final = re.compile(r'\s*([a-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s;,"]+))\s*', re.IGNORECASE | re.ASCII)


class OpenedAddress(NamedTuple):
    """The address opened by the client."""

    host: Authority | None
    """None without a valid host."""
    host_text: str
    """The host of the request; several values are joined with commas; "" for none."""
    schemes: tuple[str, ...]
    """The schemes that the client may have used, the most likely first."""
    is_named_by_proxy: bool

    @property
    def origins(self) -> list[Origin]:
        """The origins of pages at the address."""
        if self.host is None:
            return []
        host, port = self.host
        return [Origin(scheme, host, port or DEFAULT_PORTS[scheme]) for scheme in self.schemes]


class TrustedProxies:
    """The proxies with trusted forwarding headers."""

    def __init__(self, proxies: Iterable[str]) -> None:
        """``proxies`` are IP addresses and networks. Raises ValueError for another text."""
        self._networks = [
            parse_network(text) for text in ([proxies] if isinstance(proxies, str) else proxies)
        ]

    @property
    def has_some(self) -> bool:
        """Whether there are trusted proxies, beside the peers of Unix sockets."""
        return bool(self._networks)

    def trust(self, peer: str) -> bool:
        """Whether the forwarding headers of a peer count. A Unix socket's peer always counts."""
        if peer == UNIX_PEER:
            return True
        if not self._networks:
            return False
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:  # an unknown peer, or a name in a test client's scope
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped  # an IPv4 client of a socket for both versions
        return any(address in network for network in self._networks)

    def opened_address(self, head: RequestHead) -> OpenedAddress:
        """Return the address that the client has opened.

        Without a trusted proxy's header, the client may have used https although the connection has no TLS:
        most proxies pass ``Host`` on and name no scheme. With TLS, the client has not used http.
        """
        hosts = head.headers("host")
        schemes = ("https",) if head.is_tls else ("http", "https")
        named_scheme = named_host = None
        if self.trust(head.peer):
            named_scheme, named_host = _forwarded(head)
        if named_scheme is not None:
            schemes = (named_scheme,)
        text = ",".join(hosts) if named_host is None else named_host
        return OpenedAddress(parse_authority(text), text, schemes, named_host is not None)

    def client_address(self, head: RequestHead) -> str | None:
        """Return the client's address for the limits; None for a client of this machine.

        A trusted proxy names the client. Any such name counts: a program on the machine of the proxy is no
        program of this machine. A network of IPv6 is a single address, since a home has a whole network.
        """
        if self.trust(head.peer) and (named := self._named_client(head)) is not None:
            return _counted(named)
        return _counted_peer(head.peer)

    def _named_client(self, head: RequestHead) -> IPv4Address | IPv6Address | None:
        """Return the last address that is not a trusted proxy's: earlier addresses may be invented."""
        texts = head.header("x-forwarded-for")
        if texts:
            hops = texts.split(",")
        else:
            elements = head.header("forwarded")
            hops = [_last_pairs(element).get("for", "") for element in elements.split(",")]
        found = None
        for hop in reversed(hops):
            address = _address(_without_port(hop.strip()))
            if address is None:
                return found
            found = address
            if not self.trust(str(address)):
                return found
        return found

    def ignored_headers(self, head: RequestHead) -> list[str]:
        """Return the forwarding headers without effect, since no trusted proxy sent the request."""
        if self.trust(head.peer):
            return []
        return [name for name in FORWARDING_HEADERS if head.headers(name)]


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:  # a Unix socket, an unknown peer, or "unknown"
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


@lru_cache(maxsize=1024)
def _counted_peer(peer: str) -> str | None:
    """Return ``client_address`` of a peer. Kept, since a handshake asks twice and clients come back."""
    found = _address(peer)
    return None if found is None or found.is_loopback else _counted(found)


def _counted(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{ip_address(int(address) >> 64 << 64)}/64"


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _forwarded(head: RequestHead) -> tuple[str | None, str | None]:
    """Return the scheme and the host from a proxy; None for an absent value.

    The last value counts, since a proxy that does not replace a header appends a value. ``Forwarded`` counts
    only without the other headers: proxies with the other headers pass on a ``Forwarded`` of the client.
    """
    scheme, host = _last(head, "x-forwarded-proto"), _last(head, "x-forwarded-host")
    if scheme is None and host is None:
        pairs = _last_pairs(_last(head, "forwarded") or "")
        scheme, host = pairs.get("proto"), pairs.get("host")
    return (None if scheme is None else _SCHEMES.get(scheme.lower())), host


def _last(head: RequestHead, name: str) -> str | None:
    values = head.headers(name)
    return (values[-1].rpartition(",")[2].strip() or None) if values else None


def _last_pairs(element: str) -> dict[str, str]:
    """Return the pairs of an element of ``Forwarded``; no pairs for an invalid element."""
    found = [_PAIR.fullmatch(pair) for pair in element.split(";")]
    return {pair[1].lower(): pair[2] or pair[3] or "" for pair in found if pair is not None}
