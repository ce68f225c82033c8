"""The addresses on which the server listens: one, a list, and Unix sockets."""

from __future__ import annotations

import http.client
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.command_line import assert_refused, run, running, write_program_folder
from support.processes import DEADLINE

READY = (200, b"ok\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_program_folder(tmp_path)


def write_host(folder: Path, host: str) -> None:
    text = f'[server]\nhost = {host}\nport = 0\nhandlers = "handlers"\n[connection_state_recovery]\n'
    (folder / "config.toml").write_text(text)


def answer(connection: http.client.HTTPConnection, path: str = "/readyz") -> tuple[int, bytes]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def over_file(path: Path, url: str = "/readyz") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    return answer(connection, url)


@pytest.mark.parametrize("in_environment", [False, True])
def test_list_of_addresses(folder: Path, in_environment: bool) -> None:
    """The server listens on all addresses of a list, with one port, and says so."""
    environ = {}
    if in_environment:
        environ = {"EVENTSTORE_SERVER__HOST": "127.0.0.1, 127.0.0.2", "EVENTSTORE_SERVER__PORT": "0"}
    else:
        write_host(folder, '["127.0.0.1", "127.0.0.2"]')
    assert run(folder, "check-config", **environ).returncode == 0
    with running(folder, "serve", **environ) as (process, address):
        port = urlsplit(address).port
        for host in ("127.0.0.1", "127.0.0.2"):
            assert answer(http.client.HTTPConnection(host, port)) == READY
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_unix_socket(folder: Path) -> None:
    """The server listens on a Unix socket, removes its file at the end, and replaces that of a killed one."""
    write_host(folder, '["unix:the socket", "127.0.0.1"]')
    path = folder / "the socket"
    assert run(folder, "check-config").returncode == 0
    with running(folder, "serve") as (process, _):
        assert over_file(path) == READY
        assert over_file(path, "/socket.io/?EIO=4&transport=polling")[0] == 200
        assert run(folder, "check-config").returncode == 0
        assert over_file(path) == READY
        process.kill()
        process.wait()
    assert path.exists()
    write_host(folder, '"unix:the socket"')
    with running(folder, "serve") as (process, address):
        assert address == "unix:the" and over_file(path) == READY
        second = run(folder, "serve")
        assert_refused(second, f"cannot listen on unix:{path}: another program listens there")
        assert over_file(path) == READY
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("unix:nothing/socket", "cannot listen on unix:{folder}/nothing/socket: No such file or directory"),
        ("unix:handlers.py", "cannot listen on unix:{folder}/handlers.py: the file exists and is no socket"),
        ("unix:" + "a" * 200, "cannot listen on unix:{folder}/" + "a" * 200 + ": AF_UNIX path too long"),
    ],
)
def test_unix_socket_that_cannot_work(folder: Path, host: str, error: str) -> None:
    """A path on which the server cannot listen is one line, and no file of another kind is removed."""
    write_host(folder, f'"{host}"')
    assert_refused(run(folder, "serve"), error.format(folder=folder))
    assert (folder / "handlers.py").exists()
