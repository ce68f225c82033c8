"""The address that the client has opened, as connections and proxies tell it."""

from __future__ import annotations

import pytest

from socketio_eventstore.transport.request_head import UNIX_PEER, RequestHead
from socketio_eventstore.transport.trusted_proxies import TrustedProxies

PROXY, STRANGER = "10.0.0.1", "192.0.2.1"


def origins(
    headers: dict[str, str | list[str]],
    *,
    peer: str = PROXY,
    is_tls: bool = False,
    trusted: str = "10.0.0.0/8",
) -> list[str]:
    """The server's own origins for a request with these headers."""

    def values(name: str) -> list[str]:
        found = headers.get(name, [])
        return [found] if isinstance(found, str) else found

    head = RequestHead(peer, is_tls, values)
    return [str(origin) for origin in TrustedProxies([trusted]).opened_address(head).origins]


def test_without_proxy() -> None:
    """Without TLS the client may have used https, with TLS not http."""
    assert origins({"host": "a:80"}, peer=STRANGER) == ["http://a", "https://a:80"]
    assert origins({"host": "A."}, peer=STRANGER) == ["http://a", "https://a"]
    assert origins({"host": "a"}, peer=STRANGER, is_tls=True) == ["https://a"]


@pytest.mark.parametrize("host", ["a,b", "", "a b", ["a", "a"], []])
def test_no_host(host: str | list[str]) -> None:
    """Without exactly one valid host there is no own origin."""
    assert origins({"host": host}) == []


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-forwarded-proto": "https"}, "https://inner"),
        ({"x-forwarded-proto": "http"}, "http://inner"),
        ({"x-forwarded-proto": "WSS"}, "https://inner"),
        ({"x-forwarded-proto": "http, https"}, "https://inner"),
        ({"x-forwarded-proto": ["http", "https"]}, "https://inner"),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "a:8443"}, "https://a:8443"),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "evil, a"}, "https://a"),
        ({"forwarded": "for=1.2.3.4;proto=https;host=a"}, "https://a"),
        ({"forwarded": 'For="[::1]"; Proto=https; Host="a:8443"'}, "https://a:8443"),
        ({"forwarded": "proto=http;host=evil, proto=https;host=a"}, "https://a"),
        ({"forwarded": "proto=http;host=evil", "x-forwarded-proto": "https"}, "https://inner"),
        ({"forwarded": "host=evil", "x-forwarded-proto": "https"}, "https://inner"),
        ({"forwarded": "proto=https"}, "https://inner"),
    ],
)
@pytest.mark.parametrize("peer", [PROXY, UNIX_PEER, "::ffff:10.0.0.1"])
def test_trusted_proxy(headers: dict[str, str | list[str]], expected: str, peer: str) -> None:
    """The last value of a trusted proxy counts, and Forwarded only without the other headers."""
    assert origins({"host": "inner", **headers}, peer=peer) == [expected]


@pytest.mark.parametrize("peer", [STRANGER, "", "not an address", "::1%eth0"])
def test_stranger(peer: str) -> None:
    """The headers of others do not count."""
    headers: dict[str, str | list[str]] = {
        "host": "a",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "b",
        "forwarded": "host=c;proto=https",
    }
    assert origins(headers, peer=peer) == ["http://a", "https://a"]


@pytest.mark.parametrize("value", ["", "gopher", ",", "https,"])
def test_unknown_scheme(value: str) -> None:
    """A value that is no scheme is none."""
    assert origins({"host": "a", "x-forwarded-proto": value}) == ["http://a", "https://a"]


def test_https_to_the_server() -> None:
    """A trusted proxy that speaks TLS to the server tells what its client speaks."""
    assert origins({"host": "a", "x-forwarded-proto": "http"}, is_tls=True) == ["http://a"]


def test_ipv6_network() -> None:
    """Networks may be of IPv6, and zones of addresses do not matter."""
    headers: dict[str, str | list[str]] = {"host": "a", "x-forwarded-proto": "https"}
    assert origins(headers, peer="fe80::1%eth0", trusted="fe80::/10") == ["https://a"]


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "*", "", "10.0.0.0/33"])
def test_invalid_proxy(text: str) -> None:
    """A text that is no network is an error."""
    with pytest.raises(ValueError):
        TrustedProxies([text])


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("203.0.113.7", {"x-forwarded-for": ["198.51.100.1"]}, "203.0.113.7"),
        ("::ffff:203.0.113.7", {}, "203.0.113.7"),
        ("127.0.0.1", {"x-forwarded-for": ["198.51.100.1"]}, None),
        ("::1", {}, None),
        ("unix", {}, None),
        ("", {}, None),
        ("unix", {"x-forwarded-for": ["127.0.0.1"]}, "127.0.0.1"),
        ("10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": ["192.0.2.9, 198.51.100.1, 10.0.0.2"]}, "198.51.100.1"),
        ("10.0.0.1", {"x-forwarded-for": ["192.0.2.9", "198.51.100.1:4711"]}, "198.51.100.1"),
        ("10.0.0.1", {"x-forwarded-for": ["10.0.0.3, 10.0.0.2"]}, "10.0.0.3"),
        ("10.0.0.1", {"x-forwarded-for": ["192.0.2.9, unknown"]}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": ["[2001:db8:1:2:3::4]:80"]}, "2001:db8:1:2::/64"),
        ("10.0.0.1", {"forwarded": ['for=192.0.2.9, for="[2001:db8::4]:80";proto=https']}, "2001:db8::/64"),
        ("10.0.0.1", {"forwarded": ["for=192.0.2.9"], "x-forwarded-for": ["192.0.2.8"]}, "192.0.2.8"),
    ],
)
def test_the_address_of_a_client(peer: str, headers: dict[str, list[str]], address: str | None) -> None:
    """The last address counts that no trusted proxy has; a local client without a proxy has none."""
    head = RequestHead(peer, False, lambda name: headers.get(name, []))
    assert TrustedProxies(["10.0.0.0/8"]).client_address(head) == address
