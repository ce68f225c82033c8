"""Valid configurations, and the precedence of the sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from pydantic import ValidationError

from socketio_eventstore.program.config import (
    Config,
    RecoverySettings,
    ServerSettings,
    StoreSettings,
    engine_hosts,
    engine_origins,
)

SHIPPED = Path(__file__).parents[2] / "config.toml"


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


# Valid configurations --------------------------------------------------------------------------------


def test_shipped_file(tmp_path: Path) -> None:
    """The shipped config file has every key with its default."""
    shipped = Config.load(SHIPPED)
    assert shipped.server == ServerSettings()
    assert shipped.connection_state_recovery == RecoverySettings()
    assert shipped.store == StoreSettings(path=SHIPPED.absolute().parent / "data/events.db")
    for table in (shipped.server, shipped.connection_state_recovery, shipped.store, shipped.http):
        assert table.model_fields_set == set(type(table).model_fields)


def test_empty_file(file: Path) -> None:
    """An empty file gives the defaults without recovery."""
    config = load(file)
    assert config.server == ServerSettings()
    assert config.connection_state_recovery is None


@pytest.mark.parametrize("text", ["[connection_state_recovery]", "connection_state_recovery = {}"])
def test_empty_recovery_table(file: Path, text: str) -> None:
    """An empty recovery table enables recovery with the defaults."""
    assert load(file, text).connection_state_recovery == RecoverySettings()


def test_relative_paths(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts at the config file's folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write_text('[store]\npath = "a/b.db"')
    config = Config.load(Path("../config.toml"))
    assert config.folder.is_absolute() and config.folder.samefile(tmp_path)
    assert config.store.path.is_absolute() and config.store.path.parent.parent.samefile(tmp_path)


def test_absolute_path_and_tilde(file: Path) -> None:
    """An absolute path is unchanged, and a tilde is the home folder."""
    assert load(file, '[store]\npath = "/a/b.db"').store.path == Path("/a/b.db")
    assert load(file, '[store]\npath = "~/b.db"').store.path == Path.home() / "b.db"


def test_integer_duration(file: Path) -> None:
    """An integer is a valid duration."""
    assert load(file, "[server]\nping_interval = 5").server.ping_interval == 5.0


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/socket.io/", "/socket.io/"),
        ("/socket.io", "/socket.io/"),
        ("socket.io", "/socket.io/"),
        ("realtime/v1/", "/realtime/v1/"),
    ],
)
def test_slashes_of_the_path(file: Path, written: str, expected: str) -> None:
    """Validation adds missing slashes to the Socket.IO path."""
    assert load(file, f'[server]\npath = "{written}"').server.path == expected


def test_origins(file: Path) -> None:
    """cors_allowed_origins is a list of origins or "*"."""
    some = load(file, '[server]\ncors_allowed_origins = ["https://a.example", "http://localhost:8080"]')
    assert some.server.cors_allowed_origins == ("https://a.example", "http://localhost:8080")
    assert load(file, '[server]\ncors_allowed_origins = "*"').server.cors_allowed_origins == "*"


def test_any_origin_in_a_list(file: Path) -> None:
    """A list with "*" is every origin."""
    assert engine_origins(load(file, '[server]\ncors_allowed_origins = ["*"]').server) == "*"
    assert engine_origins(load(file).server) is None


def test_hosts(file: Path) -> None:
    """The names in host and [http] listen are allowed beside those in allowed_hosts."""
    hosts = 'host = ["inner.example", "::1", "unix:a", "127.0.0.1", "0.0.0.0"]'
    server = f'[server]\n{hosts}\nallowed_hosts = ["a.example"]\n'
    assert engine_hosts(load(file, server)) == ["a.example", "inner.example"]
    for listen, own in (("api.internal:9000", ["api.internal"]), ("[::1]:9000", []), ("unix:a", [])):
        config = load(file, f'{server}[http]\nlisten = "{listen}"\n')
        assert engine_hosts(config) == ["a.example", "inner.example", *own]
    assert engine_hosts(load(file, f'[server]\n{hosts}\nallowed_hosts = ["a", "*"]')) == ["*"]


def test_lists_in_the_environment(file: Path) -> None:
    """Commas separate hosts and proxies in the environment."""
    environ = {
        "EVENTSTORE_SERVER__ALLOWED_HOSTS": "a.example, *.b.example",
        "EVENTSTORE_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, ::1",
    }
    server = load(file, "", environ).server
    assert server.allowed_hosts == ("a.example", "*.b.example")
    assert server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert load(file, "", {"EVENTSTORE_SERVER__ALLOWED_HOSTS": "*"}).server.allowed_hosts == "*"


def test_byte_order_mark(file: Path) -> None:
    """A byte order mark at the start of the file is valid."""
    assert load(file, b"\xef\xbb\xbf[server]\nport = 1").server.port == 1


def test_frozen(file: Path) -> None:
    """A configuration cannot be changed."""
    config = load(file)
    with pytest.raises(FrozenInstanceError):
        config.folder = Path()  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.server.port = 1


# Environment and flags -------------------------------------------------------------------------------


def test_precedence_of_sources(file: Path) -> None:
    """The environment overrides the file, and flags override both."""
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
def test_variable_conversion(file: Path, name: str, text: str, value: object) -> None:
    """The text of a variable is converted to the type of the key."""
    table, key = name.lower().split("__")
    config = load(file, environ={f"EVENTSTORE_{name}": text})
    assert getattr(getattr(config, table), key) == value


def test_variable_enables_recovery(file: Path) -> None:
    """A variable of the recovery table enables recovery."""
    config = load(file, environ={"EVENTSTORE_CONNECTION_STATE_RECOVERY__MAX_MISSED_PACKETS": "7"})
    assert config.connection_state_recovery == RecoverySettings(max_missed_packets=7)


def test_other_variables(file: Path) -> None:
    """Variables without the prefix EVENTSTORE_ are ignored."""
    assert load(file, environ={"EVENTSTORES": "x", "PORT": "x"}).server.port == 3000
