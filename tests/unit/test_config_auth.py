"""The tables ``[auth]`` and ``[limits]``, and the files for TLS, in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from socketio_eventstore.program.auth_settings import AuthSettings
from socketio_eventstore.program.config import Config, ConfigError

KEY = "a s3cret that no line may show, of the issuer"
NO_SECRETS = "expected no HS256 with jwks_url, where the keys are public"
SOURCES = "expected one of key, key_file, jwks_url in [auth] beside it"
KINDS = "expected a secret of at least 32 bytes, or a public key in PEM"
ALGORITHMS = '"HS256", "RS256", "ES256" and "EdDSA"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, text: str, **environ: str) -> Config:
    file.write_text(text)
    return Config.load(file, environ=environ)


def error(file: Path, text: str, **environ: str) -> str:
    """The only error, without the name of the file."""
    with pytest.raises(ConfigError) as refused:
        load(file, text, **environ)
    (line,) = refused.value.errors
    assert "s3cret" not in line
    return str(line).removeprefix(f"{file}, ")


def test_no_token_is_needed_by_default(file: Path) -> None:
    """Without the table, and with its defaults, clients need no token."""
    assert not load(file, "").auth.is_needed
    assert not load(file, '[auth]\nkey = ""\ntoken = "token"\nleeway = 5.0').auth.is_needed


def test_values_of_the_file_and_the_environment(file: Path) -> None:
    text = '[auth]\nkey_file = "key.pem"\nalgorithms = ["ES256"]\naudience = "chat"\nrequire_exp = false'
    expected = AuthSettings(key_file="key.pem", algorithms=("ES256",), audience=("chat",), require_exp=False)
    assert load(file, text).auth == expected
    environ = {
        "EVENTSTORE_AUTH__JWKS_URL": "https://issuer.example/keys",
        "EVENTSTORE_AUTH__ALGORITHMS": "RS256, EdDSA",
        "EVENTSTORE_AUTH__AUDIENCE": "chat,news",
        "EVENTSTORE_AUTH__LEEWAY": "0",
    }
    assert load(file, "", **environ).auth == AuthSettings(
        jwks_url="https://issuer.example/keys",
        algorithms=("RS256", "EdDSA"),
        audience=("chat", "news"),
        leeway=0.0,
    )


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (f'key = "{KEY}"', "line 2: [auth] key = (not shown): expected algorithms in [auth] beside it"),
        (
            'key_file = "a"\njwks_url = "https://b.example"\nalgorithms = ["RS256"]',
            'line 3: [auth] jwks_url = "https://b.example": expected nothing beside [auth] key_file',
        ),
        (
            'jwks_url = "https://b.example"\nalgorithms = ["HS256"]',
            f'line 3: [auth] algorithms = ["HS256"]: {NO_SECRETS}',
        ),
        (
            'issuer = "https://b.example"',
            f'line 2: [auth] issuer = "https://b.example": {SOURCES}',
        ),
        (
            'key_file = "a"\nalgorithms = ["none"]',
            f'line 3: [auth] algorithms = ["none"]: expected a list of {ALGORITHMS}',
        ),
        (f"key = [{KEY!r}]", f"line 2: [auth] key = (not shown): {KINDS}"),
    ],
)
def test_keys_that_do_not_fit(file: Path, lines: str, line: str) -> None:
    """An incomplete table is refused: a forgotten key would leave the server open."""
    assert error(file, f"[auth]\n{lines}\n") == line


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "file:///etc/passwd",
        "a.example",
        "https://",
        "https://a:b",
        "https://a b",
        "http://a:0",
    ],
)
def test_urls_that_are_none(file: Path, url: str) -> None:
    line = error(file, f'[auth]\njwks_url = "{url}"\nalgorithms = ["RS256"]')
    assert line.startswith(f'line 2: [auth] jwks_url = "{url}": expected a URL such as')


def test_no_password_is_shown(file: Path) -> None:
    """A URL with a password, and a table in the wrong form, show no secret."""
    url = "https://user:s3cret@a.example/keys"
    line = error(file, f'[auth]\njwks_url = "{url}"\nalgorithms = ["RS256"]')
    assert line.startswith('line 2: [auth] jwks_url = "https://…@a.example/keys": expected')
    assert error(file, f'[[auth]]\nkey = "{KEY}"') == "line 1: auth = (not shown): expected a table, [auth]"


@pytest.mark.parametrize(
    ("table", "line", "expected"),
    [
        ("limits", "connections_per_address = -1", "a whole number, or 0 for no limit"),
        ("limits", "events_per_second = -1", "a number for each second, or 0 for no limit"),
        ("limits", "namespaces_per_connection = 0", "a whole number above 0"),
        ("server", 'tls_certificate = "a.pem"', "tls_key beside it"),
        ("server", 'tls_key = "a.pem"', "tls_certificate beside it"),
        ("auth", "leeway = 301", "a number of seconds from 0 to 300"),
        ("auth", 'token = ""', 'a key of the auth of clients, such as "token"'),
    ],
)
def test_other_values(file: Path, table: str, line: str, expected: str) -> None:
    assert error(file, f"[{table}]\n{line}") == f"line 2: [{table}] {line}: expected {expected}"
