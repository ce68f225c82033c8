"""The inspector over HTTP: the login, the cookie, the link that works once, and what is shown."""

from __future__ import annotations

import gzip
import json
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.program.inspector.logins import MAX_FAILURES
from socketio_eventstore.program.keys import hash_of, new_key
from support.api import KEY, call, problem, result, serving_api, until
from support.command_line import run
from support.http_requests import Answer, ask
from support.polling import without_heartbeats
from support.processes import HOST, ServerProcess, free_port

LIVE = "socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def post(server: ServerProcess, path: str, body: object, **headers: str) -> Answer:
    headers = {"Host": "localhost", "Content_Type": "application/json", **headers}
    return ask(server.port, f"/inspect/{path}", method="POST", body=json.dumps(body).encode(), **headers)


def logged_in(server: ServerProcess, **credentials: Any) -> dict[str, str]:
    """The headers of a browser that is logged in."""
    answer = post(server, "login", credentials or {"key": KEY})
    assert answer.status == 204, answer.body
    return {"Cookie": (answer.header("set-cookie") or "").partition(";")[0]}


def get(where: int | Path, path: str, **headers: str) -> Answer:
    return ask(where, f"/inspect/{path}", Host="localhost", **headers)  # type: ignore[arg-type]  # headers only


def status(where: int | Path, path: str, **headers: str) -> int:
    return get(where, path, **headers).status


def test_cookie(server: ServerProcess) -> None:
    """The cookie is for this folder of this site and not for scripts; on https it stays there."""
    cookie = post(server, "login", {"key": KEY}).header("set-cookie") or ""
    name, *attributes = cookie.split("; ")
    assert name.startswith("eventstore_inspector_")
    assert attributes == ["Max-Age=43200", "HttpOnly", "SameSite=Strict"]
    cookie = post(server, "login", {"key": KEY, "https": True}).header("set-cookie") or ""
    assert cookie.endswith("; Secure")


def test_login_and_logout(server: ServerProcess) -> None:
    """Without a login there are only the files of the page; a logout ends the login on the server."""
    paths = ("api/stats", "api/events", LIVE, "none")
    cookie = logged_in(server)
    name = cookie["Cookie"].partition("=")[0]
    for headers in ({}, {"Cookie": f"{name}=wrong"}, {"Authorization": f"Bearer {KEY}"}):
        assert [status(server.port, path, **headers) for path in paths] == [401] * 4
    assert [status(server.port, path, **cookie) for path in paths] == [200, 200, 200, 404]
    shown = get(server.port, "api/stats", **cookie)
    assert result(shown)["problems"] == [] and shown.header("cache-control") == "no-store"
    assert result(get(server.port, "login", **cookie)) == {"name": "tests"}
    gone = post(server, "logout", {}, **cookie)
    assert gone.status == 204 and f"{name}=; Max-Age=0" in (gone.header("set-cookie") or "")
    assert status(server.port, "api/stats", **cookie) == 401
    assert result(get(server.port, "login", **cookie)) == {"name": None}


def test_logout_by_another_page(server: ServerProcess) -> None:
    """Neither a page of another site, which sends no cookie, nor a form of this site ends a login."""
    assert post(server, "logout", {}).header("set-cookie") is None
    cookie = logged_in(server)
    problem(post(server, "logout", {}, Content_Type="text/plain", **cookie), 415)
    assert status(server.port, "api/stats", **cookie) == 200


def test_only_what_reads(server: ServerProcess) -> None:
    """The cookie changes nothing: no operation that writes is below the inspector."""
    cookie = logged_in(server)
    assert post(server, "api/emit", {"event": "x"}, **cookie).status == 404
    assert post(server, "api/sessions/%2F/sid/revoke", {}, **cookie).status in (404, 405)
    assert ask(server.port, "/api/stats", Host="localhost", Cookie=cookie["Cookie"]).status == 401


def test_wrong_logins(server: ServerProcess) -> None:
    """A login that is no JSON with a key is refused, and nothing of it is logged."""
    planted = new_key()
    assert problem(post(server, "login", {"key": planted}), 401)["detail"] == "This is not a valid key."
    assert "too old" in problem(post(server, "login", {"link": planted}), 401)["detail"]
    for body, expected in ([], 401), ({"key": 1}, 422), ({"key": "x" * 1000}, 413):
        problem(post(server, "login", body), expected)
    problem(post(server, "login", {"key": KEY}, Content_Type="text/plain"), 415)
    headers = ("Host", "localhost"), ("Content-Type", "application/json")
    problem(ask(server.port, "/inspect/login", *headers, method="POST"), 400)
    gzipped = *headers, ("Content-Encoding", "gzip")
    for raw, expected in (b"no gzip", 400), (gzip.compress(b" " * 1_000_000), 413):
        problem(ask(server.port, "/inspect/login", *gzipped, method="POST", body=raw), expected)
    assert "A login to the inspector from 127.0.0.1 had no valid key" in server.log
    assert planted not in server.log and KEY not in server.log


def test_live_from_another_origin(server: ServerProcess) -> None:
    """A foreign page does not connect to the live figures, and a foreign host gets nothing."""
    cookie = logged_in(server)
    assert status(server.port, LIVE, Origin="http://evil.example", **cookie) == 403
    (line,) = [line for line in server.log.splitlines() if "Refused the Origin" in line]
    assert "the inspector takes no origin but its own" in line and "cors_allowed_origins" not in line
    assert ask(server.port, "/inspect/", Host="evil.example").status == 421


def test_files(server: ServerProcess) -> None:
    """The files need no login, are checked by browsers each time, and load nothing from elsewhere."""
    redirect = ask(server.port, "/inspect", Host="localhost")
    assert (redirect.status, redirect.header("location")) == (308, "inspect/")
    for file, kind in {
        "": "text/html",
        "main.js": "text/javascript",
        "base.css": "text/css",
        "icon.svg": "image/svg+xml",
        "uPlot.iife.min.js": "text/javascript",
        "uPlot.min.css": "text/css",
        "socket.io.esm.min.js": "text/javascript",
    }.items():
        answer = get(server.port, file)
        assert answer.status == 200 and (answer.header("content-type") or "").startswith(kind), file
        policy = answer.header("content-security-policy") or ""
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.header("cache-control") == "no-cache"
    for file in ("none.js", "index.html", "LICENSE", "../app.py", "..%2fapp.py", "../bundle/LICENSE"):
        assert get(server.port, file).status in (401, 404), file


def test_link(server: ServerProcess) -> None:
    """``inspect`` prints a link that works once; its token is in the fragment, which is not sent."""
    printed = run(server.folder, "inspect").stdout.split("\n")[0]
    address, token = printed.split("#once=")
    assert address == f"{server.url}/inspect/"
    cookie = logged_in(server, link=token)
    assert status(server.port, "api/stats", **cookie) == 200
    assert post(server, "login", {"link": token}).status == 401
    environ = {"EVENTSTORE_API_KEY": KEY, "EVENTSTORE_URL": f"{server.url}/"}
    made = json.loads(run(server.folder, "inspect", "--json", **environ).stdout)
    assert made["url"] == server.url + made["path"] and made["valid_seconds"] == 120
    assert logged_in(server, link=made["path"].partition("=")[2])
    assert token not in server.log


def test_recipients(server: ServerProcess) -> None:
    """From an event, its recipients are found; an offset of nothing is a 404."""
    offset = result(call(server.port, "POST", "/emit", {"event": "said", "args": ["Grüße"]}))["offset"]
    cookie = logged_in(server)
    path = f"api/events/{offset}/recipients"
    found = result(get(server.port, path, **cookie))
    assert found["event"]["args"] == ["Grüße"] and (found["confirmed"], found["recipients"]) == (0, [])
    for wrong in ("x", offset.partition(".")[0] + ".999999"):
        problem(get(server.port, f"api/events/{wrong}/recipients", **cookie), 404)
    search = "api/events?text=gr%C3%BC%C3%9Fe&since=2020-01-01T00:00:00Z&until=2999-01-01T00:00:00Z"
    assert [one["offset"] for one in result(get(server.port, search, **cookie))["events"]] == [offset]
    problem(get(server.port, "api/events?since=12", **cookie), 422)


def test_many_wrong_keys(tmp_path: Path) -> None:
    """After some wrong keys no key of the address is taken for a while; a link still opens.

    A proxy names the address, and a network of IPv6 is one.
    """
    with serving_api(tmp_path, {"server": {"trusted_proxies": [HOST]}}) as server:
        for number in range(MAX_FAILURES):
            of_network = {"X_Forwarded_For": f"10.0.0.{number}, 2001:db8::{number}"}
            problem(post(server, "login", {"key": "wrong"}, **of_network), 401)
        assert "from 2001:db8::/64 had no valid key" in server.log
        assert logged_in(server)
        answer = post(server, "login", {"key": KEY}, X_Forwarded_For="2001:db8::f:f")
        problem(answer, 429)
        assert 0 < int(answer.header("retry-after") or 0) <= 60
        link = run(server.folder, "inspect", "--json")
        cookie = logged_in(server, link=json.loads(link.stdout)["path"].partition("=")[2])
        server.config_file.write_text(
            server.config_file.read_text().replace(hash_of(KEY), hash_of(new_key()))
        )
        assert server._process is not None
        server._process.send_signal(signal.SIGHUP)
        until(lambda: "Reload: [http] api_keys" in server.log)
        assert status(server.port, "api/stats", **cookie) == 200  # the owner's needs no certain key


@pytest.mark.parametrize("has_listen", [False, True])
def test_where_it_is(tmp_path: Path, has_listen: bool) -> None:
    """Without a key there is no inspector; with an address of its own it is there only."""
    if not has_listen:
        with ServerProcess(tmp_path) as server:
            assert "has no key" in problem(get(server.port, ""), 404)["detail"]
            assert "has no key" in run(server.folder, "inspect").stderr
            assert post(server, "login", {"key": KEY}).status == 404
        return
    port = free_port()
    with serving_api(tmp_path, listen=f"127.0.0.1:{port}") as server:
        assert status(port, "") == 200 and status(server.port, "") == 404
        assert f"127.0.0.1:{port}/inspect/#once=" in run(server.folder, "inspect").stdout


def test_viewers_are_not_stored(server: ServerProcess) -> None:
    """A viewer of the live figures is in no table, and no client in the metrics."""
    cookie = logged_in(server)
    opened = get(server.port, LIVE, **cookie).body
    poll = f"{LIVE}&sid={json.loads(opened[1:])['sid']}"
    connect = b"40/inspector,"
    ask(
        server.port,
        f"/inspect/{poll}",
        Host="localhost",
        method="POST",
        body=connect,
        Cookie=cookie["Cookie"],
    )
    packets: list[str] = []
    while not any(packet.startswith('42/inspector,["figures"') for packet in packets):
        packets += without_heartbeats(get(server.port, poll, **cookie).body.decode())
    assert packets[0].startswith('40/inspector,{"sid"')
    database = sqlite3.connect(server.database)
    assert database.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM events WHERE namespace <> '/'").fetchone() == (0,)
    database.close()
    metrics = ask(server.port, "/metrics", Host="localhost", Authorization=f"Bearer {KEY}").body.decode()
    assert 'connections{transport="polling"} 0.0' in metrics and "socket_io_connect_total 0.0" in metrics
