"""Who may call the HTTP interface of ``serve``, and at which address."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketio_eventstore.program.keys import hash_of, new_key
from support.api import KEY, call, problem, result, serving_api, until
from support.command_line import assert_refused, run, running, write_program_folder
from support.http_requests import HANDSHAKE, ask
from support.processes import ServerProcess, free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def test_valid_key(server: ServerProcess) -> None:
    """A request with a key is answered, and nobody else may keep the answer."""
    answer = call(server.port, "GET", "/stats")
    assert result(answer)["sessions"] == {"connected": 0, "connecting": 0, "away": 0}
    assert answer.header("cache-control") == "no-store"
    assert result(call(server.port, "GET", "/stats", key=None, Authorization=f"bearer  {KEY} "))


@pytest.mark.parametrize(
    "authorization", [None, "", KEY, "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {hash_of(KEY)}"]
)
def test_invalid_key(server: ServerProcess, authorization: str | None) -> None:
    """A request without a valid key gets 401, also for a path that does not exist."""
    headers = () if authorization is None else (("Authorization", authorization),)
    for path in ("/stats", "/none", "/none/", "/openapi.json"):
        answer = ask(server.port, f"/api{path}", *headers, Host="localhost")
        assert "valid key" in problem(answer, 401)["detail"]
        assert answer.header("www-authenticate") == 'Bearer realm="socketio-eventstore"'
    assert "had no valid key" in server.log


def test_metrics_with_a_key(server: ServerProcess) -> None:
    """A key opens the metrics for a request that has passed a proxy; a wrong one does not."""
    for key, status in ((KEY, 200), (f"{KEY}x", 403)):
        headers = ("X-Forwarded-For", "203.0.113.9"), ("Authorization", f"Bearer {key}")
        assert ask(server.port, "/metrics", *headers, Host="localhost").status == status


def test_planted_keys_are_in_no_log(server: ServerProcess) -> None:
    """Neither a valid nor a wrong key comes into the log, the database, a page or an answer."""
    planted = new_key()
    answers = [call(server.port, "GET", path, key=planted) for path in ("/stats", f"/{planted}")]
    answers += [call(server.port, method, f"/{KEY}") for method in ("GET", "POST", "PUT")]
    answers += [ask(server.port, path, Host="localhost") for path in ("/", "/readyz", "/healthz")]
    result(call(server.port, "POST", "/emit", {"event": "a"}, Idempotency_Key="once"))
    files = [file for file in server.database.parent.iterdir() if file.is_file()]  # one is a socket
    stored = b"".join(file.read_bytes() for file in files)
    assert b"once" in stored
    for key in (planted, KEY):
        assert key not in server.log and key.encode() not in stored
        assert not any(key.encode() in answer.body for answer in answers)
    assert "tests" in server.log and hash_of(KEY) not in server.log


def test_unknown_path_and_method(server: ServerProcess) -> None:
    """Errors are problem documents; a wrong method names the right ones."""
    assert problem(call(server.port, "GET", "/none"), 404)["detail"] == "There is nothing at this path."
    answer = call(server.port, "DELETE", "/stats")
    problem(answer, 405)
    assert answer.header("allow") == "GET"


def test_body_of_another_encoding(server: ServerProcess) -> None:
    """A body that does not fit its Content-Encoding is an error of the client, wherever it is sent."""
    sid = json.loads(ask(server.port, HANDSHAKE, Host="localhost").body[1:])["sid"]
    poll = f"{HANDSHAKE}&sid={sid}"
    for path in ("/", "/healthz", "/api/emit", "/socket.io/", HANDSHAKE, poll):
        headers = {"Host": "localhost", "Content_Encoding": "gzip"}
        answer = ask(server.port, path, method="POST", body=b"no gzip", **headers)
        assert 400 <= answer.status < 500, path
    assert "Traceback" not in server.log and "Unhandled" not in server.log


def test_other_host(server: ServerProcess) -> None:
    """A page on a name that is rebound to the server does not reach the interface."""
    assert call(server.port, "GET", "/stats", Host="evil.example").status == 421


def test_without_keys(tmp_path: Path) -> None:
    """Without a key in the configuration there is no interface."""
    with ServerProcess(tmp_path) as server:
        assert "has no key" in problem(call(server.port, "GET", "/stats"), 404)["detail"]
        assert "HTTP interface" not in server.log


@pytest.mark.parametrize("listen", ["port", "unix:api.sock"])
def test_address_of_its_own(tmp_path: Path, listen: str) -> None:
    """With ``listen``, the public address has no interface, and the own one nothing else but metrics."""
    port = free_port()
    where: int | Path = port if listen == "port" else tmp_path / "api.sock"
    with serving_api(tmp_path, listen=f"127.0.0.1:{port}" if listen == "port" else listen) as server:
        assert result(call(where, "GET", "/stats"))
        assert call(server.port, "GET", "/stats").status == 404
        for path in ("/healthz", "/", "/socket.io/?EIO=4&transport=polling"):
            assert ask(where, path, Host="localhost").status == 404
        assert call(where, "GET", "/stats", Host="evil.example").status == 421
        assert ask(where, "/metrics", Via="1.1 proxy", Host="localhost").status == 200
        if listen == "port":
            assert f"Inspector at http://127.0.0.1:{port}/inspect/\n" in server.log
            return
        assert "Inspector at /inspect/ of unix:api.sock\n" in server.log
        printed = run(server.folder, "inspect", "--url", f"unix:{where}", EVENTSTORE_API_KEY=KEY).stdout
        assert printed.startswith("/inspect/#once=") and "at the address of its proxy within 120 s" in printed


def test_address_in_use(tmp_path: Path) -> None:
    """A start without the own address is refused."""
    folder = write_program_folder(tmp_path)
    with running(folder, "serve") as (_, address):
        port = int(address.rpartition(":")[2])
        (folder / "other").mkdir()
        other = write_program_folder(folder / "other")
        reason = f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        assert_refused(run(other, "serve", EVENTSTORE_HTTP__LISTEN=f"127.0.0.1:{port}"), reason)


def test_reloaded_keys(tmp_path: Path) -> None:
    """SIGHUP exchanges a key without a gap: for a while two keys of one name are valid."""
    other = new_key()
    with serving_api(tmp_path) as server:
        text = server.config_file.read_text()

        def keys(*valid: str) -> None:
            hashes = json.dumps([hash_of(key) for key in valid])
            seen = server.log.count("Reload: [http] api_keys")
            server.config_file.write_text(text.replace(json.dumps(hash_of(KEY)), hashes))
            assert server._process is not None
            server._process.send_signal(signal.SIGHUP)
            until(lambda: server.log.count("Reload: [http] api_keys") > seen)

        keys(KEY, other)
        assert [call(server.port, "GET", "/stats", key=key).status for key in (KEY, other)] == [200, 200]
        keys(other)
        assert [call(server.port, "GET", "/stats", key=key).status for key in (KEY, other)] == [401, 200]
        assert "Reload: [http] api_keys = ['tests']" in server.log and hash_of(other) not in server.log


def test_genkey(tmp_path: Path) -> None:
    """genkey prints a key and the line for the file of ``init``, which work together."""
    folder = tmp_path
    assert run(folder, "init").returncode == 0
    printed = run(folder, "genkey", "ci").stdout.split("\n")
    key = next(line.strip() for line in printed if line.strip().startswith("sioes_"))
    (line,) = (line for line in printed if line.startswith("api_keys = "))
    file = folder / "config.toml"
    file.write_text(re.sub(r"^api_keys = .*$", line, file.read_text(), flags=re.MULTILINE))
    with running(folder, "serve", EVENTSTORE_SERVER__PORT="0") as (_, address):
        port = int(address.rpartition(":")[2])
        assert result(call(port, "GET", "/stats", key=key))
    made = json.loads(run(folder, "genkey", "ci", "--json").stdout)
    assert made == {"name": "ci", "key": made["key"], "hash": hash_of(made["key"])}
    assert run(folder, "genkey", "a b").returncode == 2


def test_path_conflict(tmp_path: Path) -> None:
    """check-config names a path of Socket.IO that the interface takes."""
    folder = write_program_folder(tmp_path)
    (folder / "config.toml").write_text(
        f'[server]\nhandlers = "handlers"\npath = "/api/"\n[http]\napi_keys = {{ ci = "{hash_of(KEY)}" }}\n'
    )
    refused = run(folder, "check-config")
    assert refused.returncode == 2 and '[server] path = "/api/"' in refused.stderr
