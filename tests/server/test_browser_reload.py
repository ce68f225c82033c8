"""The chat's page marks recovered messages, survives a reload, and works below every path."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from support.browser import OpenTab, Tab, opening_tabs  # first: skips the module without playwright
from support.processes import EmbeddedServer, ServerProcess

PREFIXED = """
import sys

from aiohttp import web

from socketio_eventstore import AsyncServer, chat
from socketio_eventstore.program.http_routes import add_routes

sio = AsyncServer(sys.argv[2], async_mode="aiohttp")
chat.register(sio)
app, pages = web.Application(), web.Application()
add_routes(pages, "PATH", chat.PAGES, sio)
sio.attach(pages, "PATH")
app.add_subapp("/some/prefix/", pages)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""

REFUSING = """
from socketio.exceptions import ConnectionRefusedError as Refused

from socketio_eventstore.chat import PAGES


def register(sio):
    @sio.event
    async def connect(sid, environ, auth):
        raise Refused("no seat is left", {"reason": "come back tomorrow"})
"""


def marks(tab: Tab) -> list[str | None]:
    return [item.get_attribute("data-recovered") for item in tab.messages.all()]


def test_recovered_messages_are_marked(open_tab: OpenTab) -> None:
    """The page marks the messages of others that arrived by recovery, and no others."""
    a, b = open_tab(), open_tab()
    b.say("before")
    a.shows("before")
    a.disconnect()
    for text in ("missed 1", "missed 2"):
        b.say(text)
    b.shows("before", "missed 1", "missed 2")
    a.say("own, written offline")
    a.connect()
    a.shows("before", "missed 1", "missed 2", "own, written offline")
    b.say("live")
    a.shows("before", "missed 1", "missed 2", "own, written offline", "live")
    assert [mark is not None for mark in marks(a)] == [False, True, True, False, False]
    assert marks(b) == [None] * 5


def test_reload_keeps_session_and_messages(open_tab: OpenTab) -> None:
    """A reload keeps the messages and the session, and misses nothing."""
    a, b = open_tab(), open_tab()
    a.say("own")
    b.shows("own")
    b.say("other")
    a.shows("own", "other")
    sid = a.sid
    for number in range(2):
        a.page.reload()
        a.is_connected(recovered=True)
        a.shows("own", "other", *(f"after {n}" for n in range(number)))
        b.say(f"after {number}")
        a.shows("own", "other", *(f"after {n}" for n in range(number + 1)))
    expect(a.messages.first).to_have_class("own")
    assert a.sid == sid


def test_messages_during_a_reload(open_tab: OpenTab) -> None:
    """Messages that are sent while the page is elsewhere are there when the user comes back."""
    a, b = open_tab(), open_tab()
    b.say("before")
    a.shows("before")
    sid, url = a.sid, a.page.url
    a.page.goto(url + "healthz")
    b.say("meanwhile")
    b.shows("before", "meanwhile")
    a.page.go_back()
    a.is_connected(recovered=True)
    a.shows("before", "meanwhile")
    assert a.sid == sid and marks(a)[1] is not None


def test_unsent_messages_survive_a_reload(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """A message that waits for the connection is sent by the page after the reload."""
    a, b = open_tab(), open_tab()
    a.disconnect()
    a.say("written offline")
    a.page.reload()
    for tab in (a, b):
        tab.shows("written offline")
    assert chat_server.running


def test_duplicated_tab_begins_anew(open_tab: OpenTab) -> None:
    """A tab with a copy of the storage has a session of its own and leaves the first one alone."""
    a = open_tab()
    a.say("hello")
    a.shows("hello")
    sid = a.sid
    a.page.reload()
    a.is_connected(recovered=True)
    with a.page.expect_popup() as opened:  # the new window gets a copy of the storage
        a.page.evaluate("window.open(location.href)")
    copy = opened.value
    expect(copy.locator("#status")).to_have_text("Connected: a new session began.")
    assert copy.locator("#status").get_attribute("data-sid") != sid
    expect(copy.locator("#messages li")).to_have_count(0)
    copy.reload()
    expect(copy.locator("#status")).to_have_attribute("data-recovered", "true")
    a.say("still here")
    a.shows("hello", "still here")
    assert a.sid == sid
    copy.close()


def test_new_navigation_begins_anew(open_tab: OpenTab) -> None:
    """A page that was opened by its address uses nothing of the former page."""
    a = open_tab()
    a.say("hello")
    a.shows("hello")
    sid = a.sid
    a.page.goto(a.page.url + "?new")
    a.is_connected(recovered=False)
    expect(a.messages).to_have_count(0)
    assert a.sid != sid


@pytest.mark.parametrize("path", ["/socket.io/", "/other/path/", "/"])
def test_page_below_a_prefix(tmp_path: Path, chromium: Browser, path: str) -> None:
    """The page works below a path prefix and with another Socket.IO path."""
    with EmbeddedServer(tmp_path, PREFIXED.replace("PATH", path)) as server:
        url = f"{server.url}/some/prefix/"
        with opening_tabs(chromium, url) as open_tab:
            a, b = open_tab(), open_tab()
            a.say("hello")
            b.shows("hello")
            assert all(address.startswith(url) for address in a.requested)


@pytest.mark.parametrize("path", ["/other/path/", "/"])
def test_page_of_serve_at_another_path(tmp_path: Path, chromium: Browser, path: str) -> None:
    """``serve`` with another Socket.IO path has a page that works."""
    config = {"server": {"handlers": "socketio_eventstore.chat", "path": path}}
    with ServerProcess(tmp_path, config) as server, opening_tabs(chromium, server.url) as open_tab:
        a, b = open_tab(), open_tab()
        a.say("hello")
        b.shows("hello")


def test_page_says_why_the_server_refuses(tmp_path: Path, chromium: Browser) -> None:
    """The page shows the reason of a refusal by the connect handler."""
    handlers = tmp_path / "source" / "refusing.py"
    handlers.parent.mkdir()
    handlers.write_text(REFUSING)
    folder = tmp_path / "server"
    folder.mkdir()
    with ServerProcess(folder, handlers=handlers) as server:
        page = chromium.new_page()
        page.goto(server.url)
        expect(page.locator("#status")).to_contain_text("refused (no seat is left: come back tomorrow)")
        page.close()


def test_page_says_why_the_transport_is_refused(chromium: Browser, chat_server: ServerProcess) -> None:
    """The page shows the message of an HTTP response that refuses the transport."""
    page = chromium.new_page()
    body = '{"code":4,"message":"the origin is not allowed"}'
    page.route("**/socket.io/?*", lambda route: route.fulfill(status=403, body=body))
    page.goto(chat_server.url)
    expect(page.locator("#status")).to_contain_text("refused: the origin is not allowed")
    page.close()
