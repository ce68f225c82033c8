"""The commands that call a running server over the HTTP interface."""

from __future__ import annotations

import json
import stat
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from socketio_eventstore.program.cli import commands
from socketio_eventstore.program.keys import new_key
from support.api import KEY, call, open_session, problem, result, serving_api, until
from support.command_line import COMMAND, assert_refused, environment, run, running, write_program_folder
from support.processes import DEADLINE, ServerProcess, free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def command(server: ServerProcess, *arguments: str, **environ: str) -> str:
    """The output of a command that succeeds."""
    environ = {"EVENTSTORE_API_KEY": KEY, "EVENTSTORE_URL": server.url, **environ}
    done = run(server.folder, *arguments, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_emit_and_events(server: ServerProcess) -> None:
    """``emit`` prints the offset; ``events`` shows what was published, for people and for programs."""
    offset = command(server, "emit", "chat", '{"a": [1]}', "a text", "--namespace", "/c", "--room", "red")
    (event,) = lines(command(server, "events", "--namespace", "/c", "--room", "red", "--json"))
    assert (event["offset"], event["args"]) == (offset.strip(), [{"a": [1]}, "a text"])
    table = command(server, "events", "--namespace", "/c")
    assert "Arguments" in table and offset.strip() in table and '{"a": [1]}, "a text"' in table
    again = [command(server, "emit", "order", "--idempotency-key", "k", "--json") for _ in range(2)]
    assert again[0] == again[1] and len(lines(command(server, "events", "--event", "order", "--json"))) == 1
    assert command(server, "emit", "brief", "--volatile") == "sent, not stored\n"


def test_more_events_than_a_page(server: ServerProcess) -> None:
    """The last events are shown over several pages, the newest last."""
    for _ in range(2):
        events = [{"event": "many", "namespace": "/m", "args": [number]} for number in range(1000)]
        result(call(server.port, "POST", "/emit", events))
    shown = lines(command(server, "events", "--namespace", "/m", "--limit", "1500", "--json"))
    assert [event["args"] for event in shown] == [[number] for number in [*range(500, 1000), *range(1000)]]


def test_more_events_after_an_offset(server: ServerProcess) -> None:
    """With --after, too, the pages go on until the limit, or the end of the log."""
    start = command(server, "emit", "start", "--namespace", "/n").strip()
    for first in (0, 1000):
        events = [{"event": "many", "namespace": "/n", "args": [first + number]} for number in range(1000)]
        result(call(server.port, "POST", "/emit", events))
    arguments = ("events", "--namespace", "/n", "--after", start, "--json", "--limit")
    shown = lines(command(server, *arguments, "1500"))
    assert [event["args"] for event in shown] == [[number] for number in range(1500)]
    assert len(lines(command(server, *arguments, "5000"))) == 2000
    before = str(shown[1200]["offset"])
    shown = lines(command(server, *arguments, "5000", "--before", before))
    assert [event["args"] for event in shown] == [[number] for number in range(1200)]
    assert command(server, *arguments, "9", "--event", "none") == ""


def test_control_characters(server: ServerProcess) -> None:
    """Names and arguments, which clients choose, do nothing to the terminal."""
    result(call(server.port, "POST", "/emit", {"event": "\x1b]0;owned\x07[bold]", "namespace": "/t"}))
    table = command(server, "events", "--namespace", "/t")
    assert "\x1b" not in table and "\x07" not in table and "[bold]" in table


def test_follow(server: ServerProcess) -> None:
    """``events --follow`` goes on with the events that come."""
    arguments = ("events", "--follow", "--json", "--namespace", "/f")
    environ = {"EVENTSTORE_API_KEY": KEY, "EVENTSTORE_URL": server.url, "PYTHONUNBUFFERED": "1"}
    first = command(server, "emit", "one", "--namespace", "/f").strip()
    with subprocess.Popen(
        (*COMMAND, *arguments), env=environment(environ), stdout=subprocess.PIPE, text=True
    ) as following:
        try:
            assert following.stdout is not None
            assert json.loads(following.stdout.readline())["offset"] == first
            second = command(server, "emit", "two", "--namespace", "/f").strip()
            assert json.loads(following.stdout.readline())["offset"] == second
        finally:
            following.kill()


def test_follow_over_a_restart(tmp_path: Path) -> None:
    """``events --follow`` waits for a server that restarts, and goes on behind the last event."""
    with serving_api(tmp_path) as server:
        environ = {"EVENTSTORE_API_KEY": KEY, "EVENTSTORE_URL": server.url, "PYTHONUNBUFFERED": "1"}
        first = command(server, "emit", "one").strip()
        with subprocess.Popen(
            (*COMMAND, "events", "--follow", "--json"),
            env=environment(environ),
            stdout=subprocess.PIPE,
            text=True,
        ) as following:
            try:
                assert following.stdout is not None
                assert json.loads(following.stdout.readline())["offset"] == first
                for stop in (server.kill, server.terminate):
                    offset = command(server, "emit", "before").strip()  # the stream has begun
                    assert json.loads(following.stdout.readline())["offset"] == offset
                    stop()
                    server.start()
                    offset = command(server, "emit", "after").strip()
                    assert json.loads(following.stdout.readline())["offset"] == offset
            finally:
                following.kill()


def test_sessions_and_stats(server: ServerProcess) -> None:
    assert "Connected since" in command(server, "sessions", "--state", "away")
    assert command(server, "sessions", "--json", "--room", "none") == ""
    assert lines(command(server, "stats", "--json"))[0]["problems"] == []
    assert "head_offset" in command(server, "stats")


def test_session(server: ServerProcess) -> None:
    """``session`` says in words what happened, for people, and all of it in JSON for programs."""
    sid = open_session(server)
    room = "\x1b[31mred"
    body = {"room": room}
    assert call(server.port, "POST", f"/sessions/%2F/{sid}/join", body).status == 204
    command(server, "emit", "hello", "--room", sid)
    shown = command(server, "session", sid)
    assert f"Session {sid} of the namespace / is connected since " in shown
    assert "The session began." in shown and "hello" in shown and "\x1b" not in shown
    (answer,) = lines(command(server, "session", sid, "--namespace", "/", "--limit", "1", "--json"))
    timeline: Any = answer["timeline"]
    assert [entry["room"] for entry in timeline] == [None, None, room]
    environ = {"EVENTSTORE_API_KEY": KEY, "EVENTSTORE_URL": server.url}
    for unknown in ("a b", "-h" + "a" * 18, "--" + "b" * 18):
        refused = run(server.folder, "session", unknown, "--namespace", "/none", **environ)
        text = "the server says: There is no such session: it ended too long ago, or has never been. (404)"
        assert_refused(refused, text)


def test_unix_socket(tmp_path: Path) -> None:
    with serving_api(tmp_path, listen="unix:api.sock") as server:
        url = f"unix:{tmp_path / 'api.sock'}"
        assert "head_offset" in command(server, "stats", "--url", url)


def test_owner_of_the_database(tmp_path: Path) -> None:
    """Beside the database the owner needs no key and no address; other users cannot open the socket."""
    folder = write_program_folder(tmp_path)
    database, control = folder / "data" / "events.db", folder / "data" / "events.db-api"
    reason = f"no server runs on {database}, and there is no database yet; --url names one elsewhere"
    assert_refused(run(folder, "stats"), reason)
    with running(folder, "serve") as (process, address):
        until(control.exists)
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        offset = run(folder, "emit", "a").stdout.strip()
        (elsewhere := tmp_path / "elsewhere").mkdir()
        shown = run(elsewhere, "events", "--json", "--config", str(folder / "config.toml")).stdout
        assert json.loads(shown)["offset"] == offset
        port = int(address.rpartition(":")[2])
        assert call(port, "GET", "/stats").status == 404  # the interface itself is off
        problem(call(control, "GET", "/stats", Host="evil.example"), 421)
        process.kill()
        process.wait()
        assert json.loads(run(folder, "events", "--json").stdout)["offset"] == offset  # of the stopped store
        reason = f"no server runs on {database}; --url names a server elsewhere"
        assert_refused(run(folder, "events", "--follow"), reason)
    with running(folder, "serve") as (process, _):
        until(lambda: run(folder, "stats").returncode == 0)
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert not control.exists()


def test_path_too_long_for_a_socket(tmp_path: Path) -> None:
    """A database with a path that is too long for a socket is served without the socket."""
    folder = write_program_folder(tmp_path)
    path = "/".join(["d" * 50, "d" * 50, "d" * 50, "events.db"])
    with running(folder, "serve", EVENTSTORE_STORE__PATH=path) as (_, address):
        assert urllib.request.urlopen(f"{address}/healthz").status == 200
        assert "The commands need --url: cannot listen on unix:" in (folder / "log").read_text()
        refused = run(folder, "stats", EVENTSTORE_STORE__PATH=path)
        (line,) = refused.stderr.splitlines()
        assert refused.returncode == 2 and "Commands reach it with --url: it has no socket " in line


def test_refusals(server: ServerProcess) -> None:
    """A command that is refused says why in one line, and shows no key."""
    folder, wrong = server.folder, new_key()
    text = "the variable EVENTSTORE_API_KEY must have a key of the server; genkey makes one"
    assert_refused(run(folder, "stats", "--url", server.url), text)
    refused = run(folder, "stats", "--url", server.url, EVENTSTORE_API_KEY=wrong)
    text = "the server says: A valid key is needed: Authorization: Bearer KEY. (401)"
    assert_refused(refused, text)
    address = f"http://127.0.0.1:{free_port()}"
    refused = run(folder, "stats", "--url", address, EVENTSTORE_API_KEY=wrong)
    assert refused.returncode == 2 and f"cannot reach {address}: " in refused.stderr
    assert wrong not in refused.stderr
    refused = run(folder, "emit", "connect", "--url", server.url, EVENTSTORE_API_KEY=KEY)
    assert "event: event name 'connect' is reserved" in refused.stderr
    for address in ("ftp://x", "http://h:99999", "http://[h"):
        refused = run(folder, "stats", "--url", address, EVENTSTORE_API_KEY=KEY)
        text = f"{address!r} is no address of a server: http://127.0.0.1:3000, or unix:/path"
        assert_refused(refused, text)


def test_folder_that_cannot_be_searched(tmp_path: Path) -> None:
    """A command that cannot look for the socket of the server says so in one line."""
    path = tmp_path / ("d" * 300) / "events.db"
    refused = run(write_program_folder(tmp_path), "stats", EVENTSTORE_STORE__PATH=str(path))
    reason = f"cannot look at {path}-api: File name too long"
    assert_refused(refused, f"{reason}; the user of the server can, and --url needs no file")


class AnyProgram(BaseHTTPRequestHandler):
    """Answers below /json with an object, below /moved with a redirect, below /proxy with an error."""

    def do_GET(self) -> None:
        name = self.path.split("/")[1]
        self.send_response({"moved": 308, "proxy": 502}.get(name, 200))
        self.send_header("Content-Type", "text/html")
        self.send_header("Location", "https://localhost/\x1b")
        self.end_headers()
        self.wfile.write(b"{}" if name == "json" else b"<html></html>")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def other_program() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), AnyProgram) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{other.server_port}"
        other.shutdown()


def refused(url: str, *arguments: str) -> str:
    """The only line of a command that is refused, in this process, where the imports cost nothing."""
    environ = {"EVENTSTORE_API_KEY": KEY, "EVENTSTORE_URL": url}
    done = CliRunner().invoke(commands, arguments, env=environ)
    assert done.exit_code == 2, (done.output, done.exception)
    (line,) = done.output.splitlines()
    return line.removeprefix("socketio-eventstore: ")


def test_address_of_another_program(other_program: str) -> None:
    """A page of another program is refused in one line, also as a stream."""
    for arguments in (("stats",), ("events", "--follow")):
        text = "Expecting value: line 1 column 1 (char 0)"
        assert refused(other_program, *arguments) == f"another program answers at {other_program}: {text}"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("emit x", "offset"),
        ("events", "events"),
        ("events --after e.1", "head_offset"),
        ("sessions", "sessions"),
        ("session aaaaaaaaaaaaaaaaaaaa", "sid"),
        ("stats", "head_offset"),
        ("inspect", "url"),
        ("prune", "events"),
        ("redact e.1", "offset"),
        ("compact", "before_bytes"),
    ],
)
def test_json_of_another_program(other_program: str, arguments: str, name: str) -> None:
    """Each command says what its answer lacks."""
    url = f"{other_program}/json"
    reason = f"another program answers at {url}: the answer has no {name!r}"
    assert refused(url, *arguments.split()) == reason


def test_redirect_and_page_of_a_proxy(other_program: str) -> None:
    """A redirect names its target, and the page of an error is not shown."""
    url = f"{other_program}/moved"
    reason = f"{url} redirects to 'https://localhost/\\x1b' (308); name that address"
    assert refused(url, "prune") == refused(url, "events", "--follow") == reason
    assert refused(f"{other_program}/proxy", "stats") == "the server says: 502 Bad Gateway"


def test_arguments_that_are_no_json(server: ServerProcess) -> None:
    """What only Python takes for JSON, or nests too deeply, is a text."""
    texts = ["NaN", "[-Infinity]", "1e999", "[" * 100_000]
    command(server, "emit", "odd", *texts, "--namespace", "/odd")
    (event,) = lines(command(server, "events", "--namespace", "/odd", "--json"))
    assert event["args"] == texts


def test_variables_of_the_commands(tmp_path: Path) -> None:
    """The variables of the commands are no settings, so a server starts beside them."""
    folder = write_program_folder(tmp_path)
    with running(folder, "serve", EVENTSTORE_API_KEY=KEY, EVENTSTORE_URL="http://localhost"):
        assert KEY not in (folder / "log").read_text()
