from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from socketio_eventstore.program.config import (
    Config,
    ConfigError,
    RecoverySettings,
    ServerSettings,
    StoreSettings,
)

SHIPPED = Path(__file__).parents[2] / "config.toml"
PORTS = "a whole number from 0 to 65535"
HEARTBEATS = "a number of seconds above 0, at most a million"
DURATIONS = "a number of seconds above 0, below 1e9"
BYTES = "a whole number of bytes above 0"
MODULES = 'the dotted name of a module; "chat" is a chat.py beside the config file'
PREFIXES = 'a path such as "/socket.io/", and not /api, /healthz, /metrics, /pages or /readyz'
ORIGINS = 'a list of origins such as "https://example.com", no path, or "*"'


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


def complaints(file: Path, text: str | bytes = "", environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(file, text, environ)
    # The folder's name is not what these tests are about.
    return [complaint.replace(str(file), file.name) for complaint in raised.value.complaints]


# What is right ---------------------------------------------------------------------------------------


def test_the_shipped_file_names_every_key_with_its_default(tmp_path: Path) -> None:
    shipped = Config.load(SHIPPED)
    assert shipped.server == ServerSettings()
    assert shipped.connection_state_recovery == RecoverySettings()
    assert shipped.store == StoreSettings(path=SHIPPED.absolute().parent / "data/events.db")
    for table in (shipped.server, shipped.connection_state_recovery, shipped.store):
        assert table.model_fields_set == set(type(table).model_fields)


def test_an_empty_file_means_the_defaults_without_recovery(file: Path) -> None:
    config = load(file)
    assert config.server == ServerSettings()
    assert config.connection_state_recovery is None


@pytest.mark.parametrize("text", ["[connection_state_recovery]", "connection_state_recovery = {}"])
def test_an_empty_recovery_table_turns_recovery_on_with_its_defaults(file: Path, text: str) -> None:
    assert load(file, text).connection_state_recovery == RecoverySettings()


def test_relative_paths_count_from_the_config_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write_text('[store]\npath = "a/b.db"')
    config = Config.load(Path("../config.toml"))
    assert config.folder.is_absolute() and config.folder.samefile(tmp_path)
    assert config.store.path.is_absolute() and config.store.path.parent.parent.samefile(tmp_path)


def test_an_absolute_path_stays_and_a_tilde_means_the_home_folder(file: Path) -> None:
    assert load(file, '[store]\npath = "/a/b.db"').store.path == Path("/a/b.db")
    assert load(file, '[store]\npath = "~/b.db"').store.path == Path.home() / "b.db"


def test_whole_numbers_are_durations_too(file: Path) -> None:
    assert load(file, "[server]\nping_interval = 5").server.ping_interval == 5.0


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/socket.io/", "/socket.io/"),
        ("/socket.io", "/socket.io/"),
        ("socket.io", "/socket.io/"),
        ("realtime/v1/", "/realtime/v1/"),
    ],
)
def test_a_path_gets_its_slashes(file: Path, written: str, meant: str) -> None:
    assert load(file, f'[server]\npath = "{written}"').server.path == meant


def test_origins_are_a_list_or_a_star(file: Path) -> None:
    some = load(file, '[server]\ncors_allowed_origins = ["https://a.example", "http://localhost:8080"]')
    assert some.server.cors_allowed_origins == ("https://a.example", "http://localhost:8080")
    assert load(file, '[server]\ncors_allowed_origins = "*"').server.cors_allowed_origins == "*"


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    assert load(file, b"\xef\xbb\xbf[server]\nport = 1").server.port == 1


def test_a_configuration_cannot_be_changed(file: Path) -> None:
    config = load(file)
    with pytest.raises(FrozenInstanceError):
        config.folder = Path()  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.server.port = 1


# Environment and flags -------------------------------------------------------------------------------


def test_the_environment_overrides_the_file_and_flags_override_both(file: Path) -> None:
    text = '[server]\nport = 1\nhost = "a"\nhandlers = "a"'
    environ = {"EVENTSTORE_SERVER__PORT": "2", "EVENTSTORE_SERVER__HOST": "b"}
    config = load(file, text, environ, {"server": {"port": 3}})
    assert (config.server.port, config.server.host, config.server.handlers) == (3, "b", "a")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SERVER__PORT", "4000", 4000),
        ("SERVER__PING_INTERVAL", "2.5", 2.5),
        ("SERVER__HOST", "0", "0"),
        ("SERVER__CORS_ALLOWED_ORIGINS", "*", "*"),
        ("SERVER__CORS_ALLOWED_ORIGINS", "http://a, http://b", ("http://a", "http://b")),
        ("SERVER__CORS_ALLOWED_ORIGINS", "", ()),
        ("CONNECTION_STATE_RECOVERY__SKIP_MIDDLEWARES", "true", True),
        ("STORE__PATH", "/x.db", Path("/x.db")),
        ("STORE__SYNCHRONOUS", "normal", "normal"),
    ],
)
def test_the_text_of_a_variable_is_converted(file: Path, name: str, text: str, value: object) -> None:
    table, key = name.lower().split("__")
    config = load(file, environ={f"EVENTSTORE_{name}": text})
    assert getattr(getattr(config, table), key) == value


def test_a_variable_of_recovery_turns_it_on(file: Path) -> None:
    config = load(file, environ={"EVENTSTORE_CONNECTION_STATE_RECOVERY__MAX_MISSED_PACKETS": "7"})
    assert config.connection_state_recovery == RecoverySettings(max_missed_packets=7)


def test_other_variables_are_none_of_its_business(file: Path) -> None:
    assert load(file, environ={"EVENTSTORES": "x", "PORT": "x"}).server.port == 3000


# What is wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('port = "3000"', PORTS),
        ("port = true", PORTS),
        ("port = 3000.0", PORTS),
        ("port = -1", PORTS),
        ("port = 65536", PORTS),
        ("port = [1]", PORTS),
        ('host = ""', "a host name or an address"),
        ("host = 1", "a host name or an address"),
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
        ('path = "/"', PREFIXES),
        ('path = "/a//b/"', PREFIXES),
        ('path = "/../a/"', PREFIXES),
        ('path = "/a b/"', PREFIXES),
        ('path = "/a?b/"', PREFIXES),
        ('path = "/api/a/"', PREFIXES),
        ('cors_allowed_origins = "https://a.example"', ORIGINS),
        ('cors_allowed_origins = ["https://a.example/"]', ORIGINS),
        ('cors_allowed_origins = ["a.example"]', ORIGINS),
        ("cors_allowed_origins = [1]", ORIGINS),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_was_expected(
    file: Path, line: str, expected: str
) -> None:
    assert complaints(file, f"# comment\n[server]\n{line}\n") == [
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
        ("store", "prune_interval = 0", DURATIONS),
        ("store", "index_memory = 0", BYTES),
    ],
)
def test_so_it_is_in_the_other_tables(file: Path, table: str, line: str, expected: str) -> None:
    text = f"[server]\nport = 1\n\n[{table}]\n{line}\n"
    assert complaints(file, text) == [f"config.toml, line 5: [{table}] {line}: expected {expected}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nprot = 1", "line 2: [server] has no key 'prot'; the nearest is 'port'"),
        ("[store]\nport = 1", "line 2: [store] has no key 'port'; it belongs to [server]"),
        ("port = 1", "line 1: there is no key 'port'; it belongs to [server]"),
        ("\n[sever]\nport = 1", "line 2: there is no table 'sever'; the nearest is 'server'"),
        ("sever.port = 1", "line 1: there is no table 'sever'; the nearest is 'server'"),
        ("x = 1", "line 1: there is no key 'x'; known: server, connection_state_recovery, store"),
        ("server = 1", "line 1: server = 1: expected a table, [server]"),
        ("[[server]]", "line 1: server = [{}]: expected a table, [server]"),
        (
            "connection_state_recovery = true",
            "line 1: connection_state_recovery = true: expected a table, [connection_state_recovery]",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_table_and_the_nearest_known(
    file: Path, text: str, complaint: str
) -> None:
    assert complaints(file, text) == [f"config.toml, {complaint}"]


def test_a_dotted_key_is_found_too(file: Path) -> None:
    assert complaints(file, "store.synchronous = 'normal'\nserver.port = -1") == [
        f"config.toml, line 2: [server] port = -1: expected {PORTS}"
    ]


def test_of_an_inline_table_the_line_is_named(file: Path) -> None:
    assert complaints(file, "store = {}\nserver = { port = -1 }") == [
        f"config.toml, line 2: [server] port = -1: expected {PORTS}"
    ]


def test_everything_wrong_is_said_at_once(file: Path) -> None:
    assert complaints(file, "[server]\nport = -1\nprot = 1", {"EVENTSTORE_SERVER__HOSTS": "x"}) == [
        f"config.toml, line 2: [server] port = -1: expected {PORTS}",
        "config.toml, line 3: [server] has no key 'prot'; the nearest is 'port'",
        "EVENTSTORE_SERVER__HOSTS: there is no such setting; the nearest is 'EVENTSTORE_SERVER__HOST'",
    ]


@pytest.mark.parametrize("text", ["x", "", "1.5", "true", "70000"])
def test_a_wrong_variable_is_named(file: Path, text: str) -> None:
    assert complaints(file, environ={"EVENTSTORE_SERVER__PORT": text}) == [
        f'EVENTSTORE_SERVER__PORT = "{text}": expected {PORTS}'
    ]


def test_a_wrong_flag_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match=f"^--port = 70000: expected {PORTS}$"):
        load(file, flags={"server": {"port": 70000}})


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    assert complaints(file, environ={"EVENTSTORE_SERVER__HOST": os.fsdecode(b"\xff")}) == [
        "EVENTSTORE_SERVER__HOST: not UTF-8"
    ]
    with pytest.raises(ConfigError, match=r"^--host: not UTF-8$"):
        load(file, flags={"server": {"host": os.fsdecode(b"\xff")}})


def test_a_long_value_is_cut(file: Path) -> None:
    (complaint,) = complaints(file, f'[server]\nport = "{"9" * 1000}"')
    assert len(complaint) < 200


@pytest.mark.parametrize(
    ("text", "place"),
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
def test_what_is_not_toml_is_said_in_one_line(file: Path, text: str, place: str) -> None:
    (complaint,) = complaints(file, text)
    assert complaint.startswith("config.toml: not valid TOML: ")
    assert place in complaint and "\n" not in complaint


def test_another_encoding_is_said_with_its_line(file: Path) -> None:
    assert complaints(file, '[server]\nhost = "ä"'.encode("latin-1")) == [
        "config.toml, line 2: not UTF-8, which TOML is always written in"
    ]


def test_a_missing_file_is_said(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: there is no such file$"):
        Config.load(file)


def test_what_cannot_be_read_is_said(file: Path, tmp_path: Path) -> None:
    file.touch()
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        Config.load(tmp_path)
    with pytest.raises(ConfigError, match=r": cannot be read: Not a directory$"):
        Config.load(file / "config.toml")


def verdict(file: Path, environ: Mapping[str, str]) -> Sequence[str]:
    try:
        Config.load(file, environ=environ)
    except ConfigError as error:
        return error.complaints
    return ()


@settings(deadline=None)
@given(text=st.text())
def test_any_text_is_a_configuration_or_refused_in_lines(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text, encoding="utf-8", errors="replace")
    assert all(line.isprintable() for line in verdict(file, {}))


@settings(deadline=None)
@given(name=st.sampled_from(["SERVER__PORT", "SERVER__PATH", "STORE__PATH", "SERVER__X"]), text=st.text())
def test_any_variable_is_a_setting_or_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "empty.toml"
    file.touch()
    lines = verdict(file, {f"EVENTSTORE_{name}": text})
    assert len(lines) <= 1 and not any("\n" in line for line in lines)
