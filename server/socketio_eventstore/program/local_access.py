"""Access to the server without a key, for programs on the server's machine."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from aiohttp import web

from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.addresses import parse_authority
from socketio_eventstore.transport.request_head import RequestHead

LOCALHOST: Final = "localhost"
PROXY_HEADERS: Final = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
)
"""The headers that a proxy adds. A proxy on the machine is a local peer; the proxy's clients are not."""


def refusal(request: web.BaseRequest, access: AccessRules) -> str | None:
    """Return the reason why a request has no local access; None for a request with local access.

    The request must come from the machine, name the machine as the host, and have passed no proxy. A remote
    client can name the machine as the host, so a request behind a proxy that adds no header looks like a
    local request. So no request has local access where a proxy is expected: with ``trusted_proxies``, and on
    a Unix socket.
    """
    head = RequestHead.of_request(request)
    if access.expects_proxy(head):
        return "Behind a proxy a key is needed: Authorization: Bearer KEY."
    if not _is_local(head.peer):
        return "Only programs on the server's own machine may read this."
    if any(head.headers(name) for name in PROXY_HEADERS):
        return "A proxy has passed this request on; only programs on the server's own machine may read this."
    authority = parse_authority(",".join(head.headers("host")))
    if authority is None or not (authority.host == LOCALHOST or _is_local(authority.host)):
        return "Only a request to localhost may read this."
    return None


def _is_local(peer: str) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
