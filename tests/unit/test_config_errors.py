"""Invalid configurations: each error names the location, the value and the valid values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socketio_eventstore.program.config import TABLES, Config, ConfigError

HOSTS = 'a host name or an address, "unix:/path", or a list of them'
PORTS = "a whole number from 0 to 65535"
HEARTBEATS = "a number of seconds above 0, at most a million"
DURATIONS = "a number of seconds above 0, below 1e9"
BYTES = "a whole number of bytes above 0"
MODES = "an octal mode such as 0o600, 0o640 or 0o660"
MODULES = 'the dotted name of a module; "chat" is a chat.py beside the config file'
PREFIXES = 'a path such as "/socket.io/"'
ORIGINS = 'a list of origins such as "https://example.com", no path, or "*"'

ALLOWED_HOSTS = 'a list of host names such as "chat.example.com", no port, or "*"'
PROXIES = 'a list of IP addresses and networks such as "10.0.0.0/8"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(
    file: Path,
    text: str | bytes = "",
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Mapping[str, object]] | None = None,
) -> Config:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Config.load(file, flags, environ)


def errors(file: Path, text: str | bytes = "", environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(file, text, environ)
    # Without the folder's name, which varies.
    return [error.replace(str(file), file.name) for error in raised.value.errors]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('port = "3000"', PORTS),
        ("port = true", PORTS),
        ("port = 3000.0", PORTS),
        ("port = -1", PORTS),
        ("port = 65536", PORTS),
        ("port = [1]", PORTS),
        ('host = ""', HOSTS),
        ("host = []", HOSTS),
        ('host = ["127.0.0.1", ""]', HOSTS),
        ('host = "unix:"', HOSTS),
        ("host = 1", HOSTS),
        ("ping_interval = 0", HEARTBEATS),
        ("ping_timeout = -1", HEARTBEATS),
        ("ping_timeout = inf", HEARTBEATS),
        ("connect_timeout = nan", HEARTBEATS),
        ("connect_timeout = true", HEARTBEATS),
        ('connect_timeout = "20"', HEARTBEATS),
        ("connect_timeout = 1000001", HEARTBEATS),
        ("shutdown_grace = 0.0", DURATIONS),
        ("max_payload = 0", BYTES),
        ("max_payload = 1.5", BYTES),
        ("max_client_buffer = -1", BYTES),
        ('handlers = "chat.py"', MODULES),
        ('handlers = "./chat"', MODULES),
        ('handlers = ""', MODULES),
        ('path = ""', PREFIXES),
        ('path = "/a//b/"', PREFIXES),
        ('path = "/../a/"', PREFIXES),
        ('path = "/a b/"', PREFIXES),
        ('path = "/a?b/"', PREFIXES),
        ('namespaces = ["chat"]', 'a list of namespaces such as "/chat", or "*"'),
        ('namespaces = "/chat"', 'a list of namespaces such as "/chat", or "*"'),
        ('node_name = "a.b"', 'letters, digits, "-" and "_", at most 32, or ""'),
        ('cookie = "a b"', 'the name of a cookie, or "" for none'),
        ('cors_allowed_origins = "https://a.example"', ORIGINS),
        ('cors_allowed_origins = ["https://a.example/"]', ORIGINS),
        ('cors_allowed_origins = ["a.example"]', ORIGINS),
        ("cors_allowed_origins = [1]", ORIGINS),
        ('cors_allowed_origins = ["https://a.*.example"]', ORIGINS),
        ('cors_allowed_origins = ["https://*"]', ORIGINS),
        ('allowed_hosts = "a.example"', ALLOWED_HOSTS),
        ('allowed_hosts = ["https://a.example"]', ALLOWED_HOSTS),
        ('allowed_hosts = ["a.example:80"]', ALLOWED_HOSTS),
        ('allowed_hosts = [""]', ALLOWED_HOSTS),
        ('trusted_proxies = "*"', PROXIES),
        ('trusted_proxies = ["localhost"]', PROXIES),
        ('trusted_proxies = ["10.0.0.1/8"]', PROXIES),
    ],
)
def test_invalid_value(file: Path, line: str, expected: str) -> None:
    """The error for an invalid value has the line, the value and the valid values."""
    assert errors(file, f"# comment\n[server]\n{line}\n") == [
        f"config.toml, line 3: [server] {line}: expected {expected}"
    ]


@pytest.mark.parametrize(
    ("table", "line", "expected"),
    [
        ("connection_state_recovery", "max_disconnection_duration = 0", DURATIONS),
        ("connection_state_recovery", "skip_middlewares = 1", "true or false"),
        ("connection_state_recovery", 'recover_client_disconnect = "no"', "true or false"),
        ("connection_state_recovery", "max_missed_packets = 0", "a whole number above 0"),
        ("store", 'synchronous = "off"', '"full" or "normal"'),
        ("store", 'path = ""', "the path of a file"),
        ("store", r'path = "a\u0000b"', "the path of a file"),
        ("store", "path = 1", "the path of a file"),
        ("store", 'path = "~nobody at all/events.db"', "the path of a file"),
        ("store", "retention = -1", "a number of seconds below 1e9, or 0 for max_disconnection_duration"),
        ("store", "prune_interval = 0", DURATIONS),
        ("store", "index_memory = 0", BYTES),
        ("store", "max_size = 999999", "a whole number of bytes, at least 1000000"),
        ("store", "file_mode = 600", MODES),
        ("store", "file_mode = 640", MODES),
        ("store", "file_mode = -1", MODES),
        ("store", "file_mode = 256", MODES),
        ("store", 'file_mode = "0o60x"', MODES),
        ("limits", "connections = 0", "a whole number above 0"),
        ("limits", "pending_handshakes = -1", "a whole number above 0"),
    ],
)
def test_invalid_value_of_other_tables(file: Path, table: str, line: str, expected: str) -> None:
    """The error for an invalid value of another table has the same form."""
    text = f"[server]\nport = 1\n\n[{table}]\n{line}\n"
    assert errors(file, text) == [f"config.toml, line 5: [{table}] {line}: expected {expected}"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[server]\nprot = 1", "line 2: [server] has no key 'prot'; the nearest is 'port'"),
        ("[store]\nport = 1", "line 2: [store] has no key 'port'; it belongs to [server]"),
        ("port = 1", "line 1: there is no key 'port'; it belongs to [server]"),
        ("\n[sever]\nport = 1", "line 2: there is no table 'sever'; the nearest is 'server'"),
        ("sever.port = 1", "line 1: there is no table 'sever'; the nearest is 'server'"),
        ("x = 1", f"line 1: there is no key 'x'; known: {', '.join(TABLES)}"),
        ("server = 1", "line 1: server = 1: expected a table, [server]"),
        ("[[server]]", "line 1: server = [{}]: expected a table, [server]"),
        (
            "connection_state_recovery = true",
            "line 1: connection_state_recovery = true: expected a table, [connection_state_recovery]",
        ),
    ],
)
def test_unknown_key(file: Path, text: str, error: str) -> None:
    """The error for an unknown key has the line, the table and the nearest known key."""
    assert errors(file, text) == [f"config.toml, {error}"]


def test_line_of_a_dotted_key(file: Path) -> None:
    """The error for a dotted key has the right line."""
    assert errors(file, "store.synchronous = 'normal'\nserver.port = -1") == [
        f"config.toml, line 2: [server] port = -1: expected {PORTS}"
    ]


def test_line_of_an_inline_table(file: Path) -> None:
    """The error for a key of an inline table has the line of the table."""
    assert errors(file, "store = {}\nserver = { port = -1 }") == [
        f"config.toml, line 2: [server] port = -1: expected {PORTS}"
    ]


def test_all_errors(file: Path) -> None:
    """ConfigError contains all errors of all sources."""
    assert errors(file, "[server]\nport = -1\nprot = 1", {"EVENTSTORE_SERVER__HOSTS": "x"}) == [
        f"config.toml, line 2: [server] port = -1: expected {PORTS}",
        "config.toml, line 3: [server] has no key 'prot'; the nearest is 'port'",
        "EVENTSTORE_SERVER__HOSTS: there is no such setting; the nearest is 'EVENTSTORE_SERVER__HOST'",
    ]


@pytest.mark.parametrize("text", ["x", "", "1.5", "true", "70000"])
def test_invalid_variable(file: Path, text: str) -> None:
    """The error for an invalid variable has the variable's name."""
    assert errors(file, environ={"EVENTSTORE_SERVER__PORT": text}) == [
        f'EVENTSTORE_SERVER__PORT = "{text}": expected {PORTS}'
    ]


def test_invalid_flag(file: Path) -> None:
    """The error for an invalid flag has the flag's name."""
    with pytest.raises(ConfigError, match=f"^--port = 70000: expected {PORTS}$"):
        load(file, flags={"server": {"port": 70000}})


def test_invalid_utf8(file: Path) -> None:
    """A variable and a flag with invalid UTF-8 are refused."""
    assert errors(file, environ={"EVENTSTORE_SERVER__HOST": os.fsdecode(b"\xff")}) == [
        "EVENTSTORE_SERVER__HOST: not UTF-8"
    ]
    with pytest.raises(ConfigError, match=r"^--host: not UTF-8$"):
        load(file, flags={"server": {"host": os.fsdecode(b"\xff")}})


def test_long_value(file: Path) -> None:
    """An error shortens a long value."""
    (error,) = errors(file, f'[server]\nport = "{"9" * 1000}"')
    assert len(error) < 200


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("[server]\nport 3000", "line 2"),
        ("[server", "end of document"),
        ("[server]\n[server]", "line 2"),
        ("port = 01", "line 1"),
        ("[" * 5000, ""),
        ("x = " + "[" * 5000, ""),
        ("x = " + "9" * 5000, ""),
    ],
)
def test_invalid_toml(file: Path, text: str, location: str) -> None:
    """The error for invalid TOML is one line with the location."""
    (error,) = errors(file, text)
    assert error.startswith("config.toml: not valid TOML: ")
    assert location in error and "\n" not in error


def test_invalid_encoding(file: Path) -> None:
    """The error for a file with another encoding has the line."""
    assert errors(file, '[server]\nhost = "ä"'.encode("latin-1")) == [
        "config.toml, line 2: not UTF-8, the encoding of every TOML file"
    ]


def test_missing_file(file: Path) -> None:
    """The error for a missing file has the file's name."""
    with pytest.raises(ConfigError, match=r"config\.toml: there is no such file$"):
        Config.load(file)


def test_unreadable_file(file: Path, tmp_path: Path) -> None:
    """The error for an unreadable file has the reason of the operating system."""
    file.touch()
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        Config.load(tmp_path)
    with pytest.raises(ConfigError, match=r": cannot be read: Not a directory$"):
        Config.load(file / "config.toml")


def errors_of(file: Path, environ: Mapping[str, str]) -> Sequence[str]:
    try:
        Config.load(file, environ=environ)
    except ConfigError as error:
        return error.errors
    return ()


@settings(deadline=None)
@given(text=st.text())
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text is a configuration, or is refused with printable lines."""
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text, encoding="utf-8", errors="replace")
    assert all(line.isprintable() for line in errors_of(file, {}))


@settings(deadline=None)
@given(name=st.sampled_from(["SERVER__PORT", "SERVER__PATH", "STORE__PATH", "SERVER__X"]), text=st.text())
def test_any_variable(tmp_path_factory: pytest.TempPathFactory, name: str, text: str) -> None:
    """Any text of a variable is a value, or is refused with one line."""
    file = tmp_path_factory.getbasetemp() / "empty.toml"
    file.touch()
    lines = errors_of(file, {f"EVENTSTORE_{name}": text})
    assert len(lines) <= 1 and not any("\n" in line for line in lines)


RECOVERY = "connection_state_recovery"


@pytest.mark.parametrize(
    ("text", "environ", "source"),
    [
        ("retention = 60", {}, "config.toml, line 4: [store] retention"),
        ("", {"EVENTSTORE_STORE__RETENTION": "60"}, "EVENTSTORE_STORE__RETENTION"),
    ],
)
def test_retention_smaller_than_the_disconnection(
    file: Path, text: str, environ: dict[str, str], source: str
) -> None:
    """The error for a retention that is too small names both keys."""
    value = "60.0" if environ else "60"
    (error,) = errors(file, f"[{RECOVERY}]\nmax_disconnection_duration = 90\n[store]\n{text}", environ)
    least = f"90, the [{RECOVERY}] max_disconnection_duration"
    assert error == f"{source} = {value}: expected at least {least}"


@pytest.mark.parametrize("text", [f"[{RECOVERY}]\n[store]\nretention = 120", "[store]\nretention = 1"])
def test_retention_that_fits(file: Path, text: str) -> None:
    """A retention of the disconnection duration is valid, and any retention without recovery."""
    assert load(file, text).store.retention > 0
