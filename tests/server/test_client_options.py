"""Every documented option of the official client: events, binary ones too, and recovery."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.clients import NodeClients
from support.processes import EmbeddedServer, ServerProcess, TlsServer

OPTIONS: dict[str, dict[str, Any]] = {
    # Options of the function io().
    "forceNew": {"forceNew": False},
    "multiplex": {"multiplex": False},
    # Options of Engine.IO.
    "addTrailingSlash": {"addTrailingSlash": False},
    "autoUnref": {"autoUnref": False},
    "closeOnBeforeunload": {"closeOnBeforeunload": True},
    "extraHeaders": {"extraHeaders": {"X-Test": "1", "Cookie": "a=b"}},
    "forceBase64": {"forceBase64": True},
    "path": {"path": "/socket.io/"},
    "perMessageDeflate": {"perMessageDeflate": {"threshold": 1}},
    "protocols": {"protocols": ["one", "two"]},
    "query": {"query": {"token": "t", "empty": ""}},
    "rememberUpgrade": {"rememberUpgrade": True},
    "requestTimeout": {"requestTimeout": 60_000},
    "timestampParam": {"timestampParam": "ts"},
    "timestampRequests": {"timestampRequests": True},
    "transportOptions": {"transportOptions": {"polling": {"extraHeaders": {"X-Test": "1"}}}},
    "transports": {"transports": ["websocket", "polling"]},
    "tryAllTransports": {"tryAllTransports": True},
    "upgrade": {"upgrade": False},
    "useNativeTimers": {"useNativeTimers": True},
    "withCredentials": {"withCredentials": True},
    # Options of Node.
    "agent": {"agent": "node:http"},
    # Options of the manager.
    "parser": {"parser": "msgpack"},
    "randomizationFactor": {"randomizationFactor": 0},
    "reconnectionAttempts": {"reconnectionAttempts": 3},
    "reconnectionDelay": {"reconnectionDelay": 1},
    "reconnectionDelayMax": {"reconnectionDelayMax": 1},
    "timeout": {"timeout": 30_000},
    # Options of the socket.
    "ackTimeout": {"ackTimeout": 30_000},
    "auth": {"auth": {"token": "t"}},
    "retries": {"retries": 1, "ackTimeout": 30_000},
}
"""``autoConnect`` is false and ``reconnection`` is varied in every test of this project."""

TRANSPORTS = [
    pytest.param(("websocket",), id="websocket"),
    pytest.param(("polling",), id="polling"),
    pytest.param(("polling", "websocket"), id="upgraded"),
]
BINARY = {"bytes": b"\0\xff", "more": [b"", b"x" * 1000], "text": "bytes"}

ASGI = """
import sys

import socketio
import uvicorn

import handlers_for_tests
from socketio_eventstore import RecoveryManager

port, database = int(sys.argv[1]), sys.argv[2]
sio = socketio.AsyncServer(async_mode="asgi", client_manager=RecoveryManager(database))
handlers_for_tests.register(sio)
uvicorn.run(socketio.ASGIApp(sio, socketio_path="PATH"), host="127.0.0.1", port=port)
"""

AIOHTTP = """
import sys

import socketio
from aiohttp import web

import handlers_for_tests
from socketio_eventstore import RecoveryManager

port, database = int(sys.argv[1]), sys.argv[2]
manager = RecoveryManager(database)
sio = socketio.AsyncServer(async_mode="aiohttp", client_manager=manager, OPTIONS)
handlers_for_tests.register(sio)
app = web.Application()
sio.attach(app, socketio_path="PATH")
web.run_app(app, host="127.0.0.1", port=port, print=None, ssl_context=TLS)
"""

TLS = """
import ssl
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12
from cryptography.x509 import load_pem_x509_certificate

ca = trustme.CA()
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.verify_mode = ssl.CERT_OPTIONAL
ca.configure_trust(context)
ca.issue_cert("127.0.0.1").configure_cert(context)
ca.cert_pem.write_to_path("ca.pem")
client = ca.issue_cert("client@example.com")
client.cert_chain_pems[0].write_to_path("cert.pem")
client.private_key_pem.write_to_path("key.pem")
key = load_pem_private_key(client.private_key_pem.bytes(), None)
secret = BestAvailableEncryption(b"secret")
Path("secret.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
certificate = load_pem_x509_certificate(client.cert_chain_pems[0].bytes())
both = pkcs12.serialize_key_and_certificates(b"client", key, certificate, None, NoEncryption())
Path("client.pfx").write_bytes(both)
"""


async def works(node: NodeClients, url: str, control: dict[str, Any], **options: Any) -> None:
    """A client with these options sends and receives events, and recovers what it missed."""
    observer = await node.control(url, **control)
    client = await node.client(url, reconnection=False, **options)
    await client.connected()
    for number, data in enumerate((BINARY, "text"), start=1):
        await client.call("say", data)
        assert (await client.received("said", number))[-1].data == [data]
    if len(options["transports"]) > 1 and options.get("upgrade", True) and "parser" not in options:
        await client.call("say", "after the upgrade")
    await client.cut()
    await client.gone()
    await observer.call("publish", {"name": "missed", "data": "text"})
    await client.connect()
    await client.recovered_again()
    assert (await client.received("missed"))[0].data == ["text"]
    await client.disconnect()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("options")) as one:
        yield one


@pytest.fixture(scope="module")
def msgpack_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    script = application(options='serializer="msgpack"')
    with EmbeddedServer(tmp_path_factory.mktemp("msgpack"), script) as one:
        yield one


@pytest.fixture(scope="module")
def asgi_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("asgi"), ASGI.replace("PATH", "socket.io")) as one:
        yield one


def application(path: str = "socket.io", options: str = "", tls: str = "None") -> str:
    return AIOHTTP.replace("PATH", path).replace("OPTIONS", options).replace("TLS", tls)


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("option", OPTIONS)
async def test_client_option(
    request: pytest.FixtureRequest, node: NodeClients, option: str, transports: tuple[str, ...]
) -> None:
    """Every option works as on the reference."""
    one = request.getfixturevalue("msgpack_server" if option == "parser" else "server")
    options = {"transports": transports, **OPTIONS[option]}
    control = {"parser": "msgpack"} if option == "parser" else {}
    await works(node, one.url, control, **options)


@pytest.mark.parametrize("option", ["addTrailingSlash", "forceBase64", "protocols"])
@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_client_option_on_asgi(
    asgi_server: EmbeddedServer, node: NodeClients, option: str, transports: tuple[str, ...]
) -> None:
    await works(node, asgi_server.url, {}, transports=transports, **OPTIONS[option])


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    script = TLS + application(tls="context")
    with TlsServer(tmp_path_factory.mktemp("tls"), script) as one:
        yield one


TLS_OPTIONS: dict[str, dict[str, str]] = {
    "ca": {"ca": "ca.pem"},
    "cert": {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"},
    "key": {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"},
    "passphrase": {"ca": "ca.pem", "cert": "cert.pem", "key": "secret.pem"},
    "pfx": {"ca": "ca.pem", "pfx": "client.pfx"},
    "ciphers": {"ca": "ca.pem"},
    "rejectUnauthorized": {},
}
TLS_VALUES: dict[str, dict[str, object]] = {
    "passphrase": {"passphrase": "secret"},
    "pfx": {"passphrase": ""},
    "ciphers": {"ciphers": "ECDHE+AESGCM"},
    "rejectUnauthorized": {"rejectUnauthorized": False},
}


@pytest.mark.parametrize("transports", TRANSPORTS)
@pytest.mark.parametrize("option", TLS_OPTIONS)
async def test_client_option_for_tls(
    tls_server: TlsServer, node: NodeClients, option: str, transports: tuple[str, ...]
) -> None:
    files = {name: (tls_server.folder / file).read_bytes() for name, file in TLS_OPTIONS[option].items()}
    options = {**files, **TLS_VALUES.get(option, {})}
    await works(node, tls_server.url, {"rejectUnauthorized": False}, transports=transports, **options)


@pytest.mark.parametrize("path", ["/", "/api/v1/socket", "socket.io/"])
@pytest.mark.parametrize("framework", ["aiohttp", "asgi"])
async def test_path_of_an_application(tmp_path: Path, node: NodeClients, framework: str, path: str) -> None:
    """An embedded server works at every path, with and without a slash at the end."""
    script = application(path) if framework == "aiohttp" else ASGI.replace("PATH", path)
    options: dict[str, Any] = {"path": path if path.startswith("/") else f"/{path}"}
    transports = ("polling", "websocket")
    application_server = EmbeddedServer(tmp_path, script)
    if path == "/" and framework == "asgi":
        application_server.healthy = ("/", 400)  # every address is Socket.IO's
    with application_server as one:
        await works(node, one.url, options, transports=transports, **options)
        if path != "/":
            options["addTrailingSlash"] = False
            await works(node, one.url, options, transports=transports, **options)


@pytest.mark.parametrize("path", ["/", "/api/socket/", "/healthz", "/pages/", "/pages/rt/"])
async def test_path_of_serve(tmp_path: Path, node: NodeClients, path: str) -> None:
    """``serve`` works at every path, and its own addresses stay its own."""
    options: dict[str, Any] = {"path": path}
    transports = ("polling", "websocket")
    with ServerProcess(tmp_path, {"server": {"path": path}}) as one:
        await works(node, one.url, options, transports=transports, **options)
        async with aiohttp.ClientSession() as http, http.get(f"{one.url}/healthz") as response:
            assert await response.text() == "ok\n"


async def test_namespaces_and_cookie_of_serve(tmp_path: Path, node: NodeClients) -> None:
    """Clients may join every namespace with ``namespaces = "*"``; ``cookie`` names the cookie."""
    with ServerProcess(tmp_path, {"server": {"namespaces": "*", "cookie": "io"}}) as one:
        observer = await node.control(one.url)
        client = await node.client(one.url, "/anything", reconnection=False)
        await client.connected()
        await client.cut()
        await observer.call("publish", {"name": "missed", "namespace": "/anything"})
        await client.connect()
        await client.recovered_again()
        await client.received("missed")
        query = "/socket.io/?EIO=4&transport=polling"
        async with aiohttp.ClientSession() as http, http.get(one.url + query) as response:
            assert json.loads((await response.text())[1:])["sid"] == response.cookies["io"].value
