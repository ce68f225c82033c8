"""Hosts, origins and patterns: what is equal, what matches, and what is invalid."""

from __future__ import annotations

import pytest

from socketio_eventstore.transport.addresses import (
    Authority,
    host_matches,
    is_address,
    matches_any,
    parse_authority,
    parse_host_pattern,
    parse_origin,
)

INVALID_HOSTS = [
    "",
    ".",
    ":80",
    "a b",
    "a\n",
    "a,b",
    "a/b",
    "a@b",
    "a:x",
    "a:65536",
    "é",
    "a:80:80",
    "http://a",
]
INVALID_HOSTS += ["::1", "[::1", "[::1]x", "[1.2.3.4.5]", "[]", "[fe80::1%eth0]", "*.example.com"]
INVALID_ORIGINS = ["", "https:// a", *["null", "a.example", "https://", "https://a/", "https://a,https://b"]]
INVALID_ORIGINS += [
    "https://a@b",
    "https://*",
    "https://*.",
    "https://*.1.2.3.4",
    "https://a.*.b",
    "*.a",
    "https://**.a",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chat.example.com", ("chat.example.com", None)),
        ("Chat.EXAMPLE.com:8443", ("chat.example.com", 8443)),
        ("chat.example.com.", ("chat.example.com", None)),
        ("chat.example.com.:80", ("chat.example.com", 80)),
        ("chat.example.com:", ("chat.example.com", None)),
        ("my_host", ("my_host", None)),
        ("127.0.0.1:3000", ("127.0.0.1", 3000)),
        ("[::1]:3000", ("::1", 3000)),
        ("[0:0::0001]", ("::1", None)),
    ],
)
def test_valid_host(text: str, expected: tuple[str, int | None]) -> None:
    """A host is in lower case, without brackets and final dot."""
    assert parse_authority(text) == Authority(*expected)


@pytest.mark.parametrize("text", INVALID_HOSTS)
def test_invalid_host(text: str) -> None:
    """A text that is no host has no parts."""
    assert parse_authority(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://chat.example.com", "https://chat.example.com"),
        ("HTTPS://Chat.Example.com:443", "https://chat.example.com"),
        ("http://a:8080", "http://a:8080"),
        ("https://a:80", "https://a:80"),
        ("http://[0::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
    ],
)
def test_valid_origin(text: str, expected: str) -> None:
    """An origin is written without the default port."""
    assert str(parse_origin(text)) == expected


@pytest.mark.parametrize("text", INVALID_ORIGINS)
def test_invalid_origin(text: str) -> None:
    """A text that is no origin has no parts."""
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://a.example", "https://a.example"),
        ("https://A.example:443", "https://a.example"),
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b.example.com."),
        ("http://*.localhost:3000", "http://a.localhost:3000"),
        ("null", "null"),
        ("*", "null"),
        ("exotic:thing", "exotic:thing"),
    ],
)
def test_matching_origin(pattern: str, origin: str) -> None:
    """Case, default port and final dot make no difference; a wildcard is any depth of names."""
    assert matches_any(origin, [pattern])


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://a.example", "http://a.example"),
        ("https://a.example", "https://a.example:8443"),
        ("https://a.example", "https://b.a.example"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://.example.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://a.example.com.evil"),
        ("https://*.b.example.com", "https://*.example.com"),
        ("https://a.example", "null"),
        ("https://a.example", "https://a.example, https://a.example"),
        ("https://a.example", "https://a.example/"),
    ],
)
def test_other_origin(pattern: str, origin: str) -> None:
    """Another scheme, port or domain does not match, nor several origins."""
    assert not matches_any(origin, [pattern])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chat.example.com.", "chat.example.com"),
        ("*.Example.com", "*.example.com"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("a:80", None),
        ("https://a", None),
        ("*", None),
        ("*.1.2.3.4", None),
        ("", None),
    ],
)
def test_host_pattern(text: str, expected: str | None) -> None:
    """A pattern for hosts has no port and no scheme."""
    assert parse_host_pattern(text) == expected


def test_matching_hosts() -> None:
    """A pattern is one host, or all its subdomains."""
    assert host_matches("a.example", "a.example") and not host_matches("a.example", "b.a.example")
    assert host_matches("*.example", "a.b.example") and not host_matches("*.example", "example")


@pytest.mark.parametrize(
    ("host", "expected"), [("10.0.0.1", True), ("::1", True), ("127.1", False), ("a", False)]
)
def test_addresses(host: str, expected: bool) -> None:
    """Only complete addresses are addresses: any other text may be a name."""
    assert is_address(host) is expected
