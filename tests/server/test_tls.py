"""TLS with certificate files: official clients, the reload of a certificate, and files that do not fit."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from socketio_eventstore.program.config import Config, ConfigError
from socketio_eventstore.program.errors import StartError
from socketio_eventstore.program.tls import Tls
from support.api import until
from support.clients import NodeClients
from support.http_requests import ask
from support.processes import DEADLINE, HOST, ServerProcess


class TlsServer(ServerProcess):
    """``serve`` with a certificate."""

    scheme = "https"

    def _connection(self) -> http.client.HTTPConnection:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(HOST, self.port, timeout=DEADLINE, context=context)


def write(folder: Path, ca: trustme.CA, key_type: trustme.KeyType) -> None:
    issued = ca.issue_cert(HOST, key_type=key_type)
    (folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(0o600)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ca: trustme.CA) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("server")
    write(folder, ca, trustme.KeyType.RSA)
    files = {"tls_certificate": "chain.pem", "tls_key": "key.pem"}
    hosts = [HOST, f"unix:{folder}/server.sock"]
    with TlsServer(folder, {"server": {"host": hosts, **files}}) as server:
        yield server


def certificate(server: TlsServer, ca: trustme.CA, *, name: bool = True) -> bytes:
    """The certificate of a new connection, which the authority has signed."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if not name:
        context.check_hostname = False
    with (
        socket.create_connection((HOST, server.port), DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname=HOST if name else None) as connection,
    ):
        assert connection.version() == "TLSv1.3" and not connection.compression()
        found = connection.getpeercert(binary_form=True)
        assert found is not None
        return found


async def test_official_clients_connect(server: TlsServer, node: NodeClients) -> None:
    """Clients connect over both transports; their page is the server's own; a Unix socket has no TLS."""
    for transport in ("polling", "websocket"):
        client = await node.client(server.url, transports=(transport,), rejectUnauthorized=False)
        await client.connected()
        assert await client.call("join", "a") == "joined"
    assert f"Listening on {server.url} and unix:" in server.log
    answer = ask(server.folder / "server.sock", "/readyz", Host="localhost")
    assert (answer.status, answer.body) == (200, b"ok\n")


def test_old_protocols_are_refused(server: TlsServer) -> None:
    """TLS 1.1 and plain HTTP get no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((HOST, server.port), DEADLINE) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
    connection.request("GET", "/readyz")
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()
    connection.close()


async def test_a_reload_exchanges_the_certificate(
    server: TlsServer, ca: trustme.CA, node: NodeClients
) -> None:
    """A reload gives new connections another certificate, also of another kind; a bad one changes nothing."""
    client = await node.client(server.url, transports=("websocket",), rejectUnauthorized=False)
    await client.connected()
    first = certificate(server, ca)
    write(server.folder, ca, trustme.KeyType.ECDSA)
    reload(server, "new connections get the certificate")
    second = certificate(server, ca)
    assert second != first and certificate(server, ca, name=False) == second
    key = (server.folder / "key.pem").read_bytes()
    for content in (b"no key", trustme.CA().issue_cert(HOST).private_key_pem.bytes()):
        (server.folder / "key.pem").write_bytes(content)
        reload(server, "The former certificate stays")
        assert certificate(server, ca) == second
    (server.folder / "key.pem").write_bytes(key)
    assert await client.call("join", "a") == "joined" and client.disconnects == []
    assert "no key" not in server.log


def reload(server: TlsServer, line: str) -> None:
    """Reload, and wait for a line that the log has not had as often before."""
    before = server.log.count(line)
    server_process = server._process
    assert server_process is not None
    server_process.send_signal(signal.SIGHUP)
    until(lambda: server.log.count(line) > before)


def test_files_that_cannot_be_used(tmp_path: Path, ca: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    """The error names the file, or the key that is missing; a key for everybody has a warning."""
    write(tmp_path, ca, trustme.KeyType.ECDSA)

    def loading(**files: str) -> Tls | None:
        lines = [f"tls_{name} = {json.dumps(file)}" for name, file in files.items()]
        (tmp_path / "config.toml").write_text("\n".join(["[server]", *lines]))
        return Tls.configured(Config.load(tmp_path / "config.toml"))

    assert loading() is None
    assert loading(certificate="chain.pem", key="key.pem") is not None and not caplog.records
    with pytest.raises(StartError, match=r"\[server\] tls_key .*none.pem cannot be read: No such file"):
        loading(certificate="chain.pem", key="none.pem")
    with pytest.raises(StartError, match=r"cannot be used: .*and its key without a password"):
        loading(certificate="chain.pem", key="chain.pem")
    with pytest.raises(ConfigError, match=r'tls_certificate = "chain.pem": expected tls_key beside it'):
        loading(certificate="chain.pem")
    (tmp_path / "key.pem").chmod(0o644)
    assert loading(certificate="chain.pem", key="key.pem") is not None
    assert "can be read by everybody" in caplog.text
