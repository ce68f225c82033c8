"""The table ``[http]`` of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from socketio_eventstore.program.config import Config, ConfigError, HttpSettings
from socketio_eventstore.program.http_settings import parse_address
from socketio_eventstore.program.keys import hash_of, new_key

HASH = hash_of("sioes_one")
OTHER = hash_of("sioes_other")
EXPECTED = 'expected a hash, or a list of them, by name: { ci = "sha256:…" }; genkey prints it'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, text: str, **environ: str) -> Config:
    file.write_text(text)
    return Config.load(file, None, environ)


def errors(file: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(file, text, **environ)
    return [error.replace(str(file), file.name) for error in raised.value.errors]


def test_defaults(file: Path) -> None:
    """Without the table there is no key, and so no interface."""
    assert load(file, "").http == HttpSettings(api_keys={}, listen="")


def test_hashes(file: Path) -> None:
    """A name has one hash or several; both are valid at once."""
    keys = load(file, f'[http]\napi_keys = {{ ci = "{HASH}", ops = ["{HASH}", "{OTHER}"] }}').http.api_keys
    assert keys == {"ci": (HASH,), "ops": (HASH, OTHER)}
    assert load(file, f'[http.api_keys]\nci = "{HASH}"').http.api_keys == {"ci": (HASH,)}


def test_hashes_in_the_environment(file: Path) -> None:
    """In the environment, commas separate name=hash."""
    text = f"ci={HASH},ops={OTHER}, ci={OTHER}"
    keys = load(file, "", EVENTSTORE_HTTP__API_KEYS=text).http.api_keys
    assert keys == {"ci": (HASH, OTHER), "ops": (OTHER,)}


@pytest.mark.parametrize("value", ['{ "a b" = "HASH" }', "{ ci = [] }", "{ ci = 7 }", '"HASH"', "[]"])
def test_invalid_hashes(file: Path, value: str) -> None:
    (error,) = errors(file, f"[http]\napi_keys = {value.replace('HASH', HASH)}")
    assert error == f"config.toml, line 2: [http] api_keys = (not shown): {EXPECTED}"


def test_a_password_in_a_url(file: Path) -> None:
    """The URL of an issuer's keys may have a password, which no error shows."""
    (error,) = errors(file, '[auth]\njwks_url = "ftp://user:password@login.example.com/"')
    assert "expected a URL" in error and "login.example.com" in error and "password" not in error


def test_a_key_in_the_place_of_its_hash(file: Path) -> None:
    """A key that somebody has put in the place of its hash is refused, and not shown."""
    key = new_key()
    for text, environ in (
        (f'[http]\napi_keys = {{ ci = "{key}" }}', {}),
        ("", {"EVENTSTORE_HTTP__API_KEYS": f"ci={key}"}),
        ("", {"EVENTSTORE_HTTP__API_KEYS": key}),
    ):
        (error,) = errors(file, text, **environ)
        assert EXPECTED in error and key not in error


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9000", ("::1", 9000)),
        ("unix:api.sock", ("unix:api.sock", 0)),
        *((text, None) for text in ("", "9000", ":9000", "host:", "host:65536", "::1:80", "a b:1", "unix:")),
    ],
)
def test_address(text: str, address: tuple[str, int] | None) -> None:
    assert parse_address(text) == address


def test_invalid_listen(file: Path) -> None:
    (error,) = errors(file, '[http]\nlisten = "9000"')
    assert error.startswith('config.toml, line 2: [http] listen = "9000": expected an address such as')


@pytest.mark.parametrize("path", ["/api/", "/api", "/api/socket.io/", "/inspect/socket.io/"])
def test_path_of_the_interface(file: Path, path: str) -> None:
    """Socket.IO cannot have the path of the interface; elsewhere, or without keys, there is no conflict."""
    keys = f'[http]\napi_keys = {{ ci = "{HASH}" }}'
    (error,) = errors(file, f'[server]\npath = "{path}"\n{keys}')
    assert error.startswith(f'config.toml, line 2: [server] path = "{path}": expected a path that does not')
    assert "which [http] api_keys takes; or [http] listen" in error
    load(file, f'[server]\npath = "{path}"')
    load(file, f'[server]\npath = "{path}"\n{keys}\nlisten = "127.0.0.1:0"')
    load(file, f'[server]\npath = "/apis/"\n{keys}')
