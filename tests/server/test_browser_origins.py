"""Pages in a real browser: behind the documented proxies with TLS, and on a name that is rebound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.browser import opening_tabs, running_chromium  # first: skips the module without playwright
from support.processes import HOST, ServerProcess
from support.reverse_proxies import NAME, PROXIES, DocumentedServer, ReverseProxy

EVIL = "evil.example"


@pytest.fixture(scope="module")
def misled() -> Iterator[Browser]:
    """A browser for which every name leads to this machine."""
    with running_chromium(f"--host-resolver-rules=MAP * {HOST}") as browser:
        yield browser


@pytest.mark.parametrize("prefix", ["/", "/chat/", "/chat"])
@pytest.mark.parametrize("kind", PROXIES, ids=lambda kind: kind.program)
def test_page_behind_a_proxy(misled: Browser, tmp_path: Path, kind: type[ReverseProxy], prefix: str) -> None:
    """The page of the chat connects through a proxy, with a path prefix too, and survives kill -9."""
    with (
        DocumentedServer(tmp_path, "socketio_eventstore.chat") as server,
        kind(tmp_path / "proxy", server.port) as proxy,
        opening_tabs(misled, f"{proxy.url}{prefix}") as open_tab,
    ):
        a, b = open_tab(ignore_https_errors=True), open_tab(ignore_https_errors=True)
        a.say("before")
        for tab in (a, b):
            tab.shows("before")
        server.restart()
        for tab in (a, b):
            tab.is_connected(recovered=True)
        b.say("after")
        for tab in (a, b):
            tab.shows("before", "after")


def test_rebound_name(misled: Browser, chat_server: ServerProcess) -> None:
    """A page on a foreign name that leads to the server gets nothing of it."""
    page = misled.new_page()
    response = page.goto(f"http://{EVIL}:{chat_server.port}/")
    assert response is not None and response.status == 421
    expect(page.locator("body")).to_contain_text(f"does not answer for the host '{EVIL}:")
    polling = """() => fetch('/socket.io/?EIO=4&transport=polling').then(answer => answer.status)"""
    assert page.evaluate(polling) == 421
    websocket = """() => new Promise(done => {
        const socket = new WebSocket(`ws://${location.host}/socket.io/?EIO=4&transport=websocket`);
        socket.onopen = () => done('open');
        socket.onerror = () => done('error');
    })"""
    assert page.evaluate(websocket) == "error"
    page.close()


def test_page_of_another_origin(misled: Browser, tmp_path: Path) -> None:
    """A foreign page cannot connect, and the log says why; a listed one can."""
    (tmp_path / "foreign").mkdir()
    with ServerProcess(tmp_path / "foreign", {"server": {"allowed_hosts": "*"}}) as foreign:
        keys = {"allowed_hosts": [NAME], "cors_allowed_origins": [f"http://*.page.example:{foreign.port}"]}
        with ServerProcess(tmp_path, {"server": keys}) as server:
            url = f"http://{NAME}:{server.port}/socket.io/?EIO=4&transport=polling"
            connect = f"() => fetch('{url}').then(() => 'read', () => 'not read')"
            for host, expected in (("a.page.example", "read"), (EVIL, "not read")):
                page = misled.new_page()
                page.goto(f"http://{host}:{foreign.port}/")
                assert page.evaluate(connect) == expected
                page.close()
            assert f"Refused the Origin 'http://{EVIL}:{foreign.port}' (403)" in server.log
