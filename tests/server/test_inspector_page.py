"""The inspector in a browser: login, figures, the log, sessions; on a desktop and on a phone."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket
from playwright.sync_api import Browser, Page, expect

from socketio_eventstore.program.keys import hash_of
from support.api import KEY, call, result, serving_api, until
from support.browser import running_chromium
from support.command_line import run
from support.processes import HOST, ServerProcess
from support.reverse_proxies import DocumentedServer, Nginx

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

SCROLLED_TO = """text => {
    const list = document.querySelector(".rows");
    list.scrollTop = list.scrollHeight;
    return list.textContent.includes(text);
}"""
"""Scrolls to the end of the list until a row has the text."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for which every name leads to this machine."""
    with running_chromium(f"--host-resolver-rules=MAP * {HOST}") as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        for start in range(0, 3000, 1000):
            events = [
                {"event": "said", "args": [{"number": number}], "rooms": ["odd" if number % 2 else "even"]}
                for number in range(start, start + 1000)
            ]
            result(call(server.port, "POST", "/emit", events))
        result(call(server.port, "POST", "/emit", {"event": "rare", "args": ['a "needle" <b>bold</b>']}))
        yield server


class Story:
    """A session that joins and leaves a room, is away, comes back, and is away again."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._url = f"ws{server.url.removeprefix('http')}/socket.io/?EIO=4&transport=websocket"
        self.sid, self._pid = "", ""
        self.offsets: dict[str, str] = {}
        self.emit("before")
        socket = self.connect()
        self.emit("early", "scarlet")
        self.act("join")
        self.emit("live", "scarlet")
        json_of(socket)
        self.leave(socket)
        self.emit("replay me", "scarlet")
        socket = self.connect()
        json_of(socket)
        self.act("leave")
        self.emit("late", "scarlet")
        self.emit("elsewhere", "blue")
        self.emit("all")
        json_of(socket)
        self.leave(socket)
        self.emit("waiting")

    def connect(self) -> websocket.WebSocket:
        socket = websocket.create_connection(self._url)
        socket.recv()
        last = {"offset": list(self.offsets.values())[-2]} if self._pid else {}
        socket.send("40" + json.dumps({"pid": self._pid, **last} if self._pid else {}))
        answer = json_of(socket)
        self.sid, self._pid = answer["sid"], answer["pid"]
        return socket

    def leave(self, socket: websocket.WebSocket) -> None:
        assert socket.sock is not None
        socket.sock.close()  # without a close frame
        until(lambda: result(call(self._server.port, "GET", self._path))["state"] == "away")

    def act(self, action: str) -> None:
        assert call(self._server.port, "POST", f"{self._path}/{action}", {"room": "scarlet"}).status == 204

    def emit(self, name: str, room: str | None = None) -> None:
        event = {"event": name, **({} if room is None else {"rooms": [room]})}
        self.offsets[name] = result(call(self._server.port, "POST", "/emit", event))["offset"]

    @property
    def _path(self) -> str:
        return f"/sessions/%2F/{self.sid}"


def json_of(socket: websocket.WebSocket) -> Any:
    """The content of the next packet that is not a heartbeat."""
    while (packet := socket.recv()) == "2":
        socket.send("3")
    return json.loads(str(packet)[2:])


@contextmanager
def opened(chromium: Browser, url: str, **window: Any) -> Iterator[Page]:
    """A window on the page; errors of scripts and of the policy fail the test."""
    errors: list[str] = []
    context = chromium.new_context(**window)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
    page.goto(url)
    yield page
    context.close()
    assert errors == []


def log_in(page: Page) -> None:
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Log in").click()
    expect_figures(page)


def expect_figures(page: Page) -> None:
    """Wait for the first figures; on a busy machine they may say that commits are slow."""
    expect(page.get_by_role("heading", name=re.compile("healthy|attention"))).to_be_visible()


def test_login_and_figures(chromium: Browser, server: ServerProcess) -> None:
    """A wrong key is explained; with a key figures come by themselves, and the viewer is nowhere stored."""
    with opened(chromium, f"{server.url}/inspect/") as page:
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("This is not a valid key.")
        log_in(page)
        tile = page.locator(".tiles > div", has_text="Log").first
        expect(page.locator(".tiles")).to_contain_text("3,001 events")
        result(call(server.port, "POST", "/emit", {"event": "another"}))
        expect(page.locator(".tiles")).to_contain_text("3,002 events")
        assert tile.is_visible() and page.locator(".plot canvas").count() == 6
        assert page.evaluate("document.cookie + localStorage.length + sessionStorage.length") == "00"
        assert KEY not in page.content() and KEY not in page.url
        database = sqlite3.connect(server.database)
        assert database.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
        database.close()
        page.reload()
        expect_figures(page)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("API key")).to_be_focused()


def test_link_opens_once(chromium: Browser, server: ServerProcess) -> None:
    """The link of ``inspect`` opens the inspector, and leaves the address; a second time it does not.

    It may be pasted where the page is open: then only the fragment changes.
    """
    link = run(server.folder, "inspect").stdout.split("\n")[0]
    with opened(chromium, link) as page:
        expect_figures(page)
        assert "once" not in page.url
        page.goto(f"{server.url}/inspect/#/constructor")
        expect_figures(page)
        page.goto(link)
        expect(page.get_by_role("alert")).to_have_text("The link was used, or is too old.")
        page.goto(run(server.folder, "inspect").stdout.split("\n")[0])
        expect_figures(page)
        assert "once" not in page.url
    with opened(chromium, link) as page:
        expect(page.get_by_role("alert")).to_have_text("The link was used, or is too old.")


def test_log(chromium: Browser, server: ServerProcess) -> None:
    """Few of many rows are in the page; filters find events, which show payload and recipients."""
    with opened(chromium, f"{server.url}/inspect/") as page:
        log_in(page)
        page.get_by_role("link", name="Log", exact=True).click()
        rows = page.get_by_role("option")
        expect(rows.first).to_contain_text(re.compile("another|rare"))
        expect(page.get_by_label("Namespace")).to_have_attribute("placeholder", "any")
        page.get_by_label("Room or sid").fill("odd")
        expect(page.get_by_label("Namespace")).to_have_attribute("placeholder", "/")
        expect(rows.first).to_contain_text('{"number":2999}')
        page.wait_for_function(SCROLLED_TO, arg='{"number":1}')
        assert rows.count() < 60
        page.get_by_role("button", name="Clear").click()
        page.get_by_label("Text in the payload").fill('a "NEEDLE"')
        expect(rows).to_have_count(1)
        assert "text=" in page.url
        page.get_by_role("listbox").focus()
        page.keyboard.press("ArrowDown")
        pane = page.get_by_role("complementary")
        expect(pane.get_by_role("heading", name="rare")).to_be_visible()
        expect(pane).to_contain_text('"a \\"needle\\" <b>bold</b>"')
        expect(pane).to_contain_text("No session that is open or away is a recipient")
        page.keyboard.press("Escape")
        expect(pane).to_be_hidden()
        page.get_by_role("link", name="Skip to the content").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        expect(rows).to_have_count(1)


def test_new_events_on_a_phone(chromium: Browser, server: ServerProcess) -> None:
    """At the top of the list new events appear by themselves; where somebody reads, a button says so.

    Each view fits the width of a phone, and what is not visible there has its name for screen readers.
    """
    with opened(chromium, f"{server.url}/inspect/", color_scheme="dark", **PHONE) as page:
        log_in(page)
        for view in ("Now", "Sessions", "Log"):
            page.get_by_role("link", name=view, exact=True).click()
            expect(page.get_by_role("link", name=view, exact=True)).to_have_attribute("aria-current", "page")
            expect(page.get_by_role("button", name="Log out")).to_be_in_viewport()
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["viewport"]["width"]
        expect(page.get_by_role("link", name=re.compile("Healthy|Attention"))).to_be_attached()
        rows = page.get_by_role("option")
        expect(rows.first).to_be_visible()
        result(call(server.port, "POST", "/emit", {"event": "fresh"}))
        expect(rows.first).to_contain_text("fresh")
        rows.nth(1).click()
        page.get_by_role("button", name="Close").click()
        rows.nth(1).scroll_into_view_if_needed()
        page.evaluate("document.querySelector('.rows').scrollTop = 1000")
        result(call(server.port, "POST", "/emit", {"event": "fresher"}))
        page.get_by_role("button", name="New events").click()
        expect(rows.first).to_contain_text("fresher")


def test_log_that_was_not_loaded(chromium: Browser, server: ServerProcess) -> None:
    """The log tries again after a fault, and says what went wrong, also where it loads more."""
    with opened(chromium, f"{server.url}/inspect/") as page:
        log_in(page)
        events, recipients = re.compile(r"/api/events\?"), re.compile(r"/recipients\?.*receipt=")
        page.route(events, lambda route: route.fulfill(status=503, json={"detail": "Not at the moment."}))
        page.get_by_role("link", name="Log", exact=True).click()
        expect(page.get_by_role("status").last).to_have_text("Not at the moment.")
        page.unroute(events)
        rows = page.get_by_role("option")
        rows.first.click()
        page.route(recipients, lambda route: route.fulfill(status=503, json={"detail": "Not now."}))
        pane = page.get_by_role("complementary")
        pane.get_by_role("button", name="still miss it").click()
        expect(pane.get_by_role("alert")).to_have_text("Not now.")
        page.unroute(recipients)
        pane.get_by_role("button", name="still miss it").click()
        expect(pane.get_by_role("alert")).to_be_empty()


@pytest.fixture(scope="module")
def story(server: ServerProcess) -> Story:
    return Story(server)


def test_session(chromium: Browser, server: ServerProcess, story: Story) -> None:
    """A session is shown as a picture and in words; for each event there is a reason."""
    with opened(chromium, f"{server.url}/inspect/") as page:
        log_in(page)
        page.get_by_role("link", name="Sessions", exact=True).click()
        page.get_by_label("Room or sid").fill(story.sid)
        page.get_by_role("option", name=re.compile(story.sid)).click()
        why = page.locator(".why")
        expect(why).to_contain_text("The client has been away since")
        expect(why).to_contain_text("It came back and recovered once, and was sent the 1 missed event.")
        picture = page.get_by_role("group", name=re.compile("away 2 times, 4 events, 1 replayed, 1 missed"))
        expect(picture.locator(".bar.connected")).to_have_count(2)
        expect(picture.locator(".bar.away")).to_have_count(2)
        expect(picture.locator(".event")).to_have_count(4)
        expect(picture.locator(".event.replayed")).to_have_count(1)
        assert picture.locator(".label title").all_text_contents()[1:] == ["everyone", "scarlet"]
        picture.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".said")).to_contain_text(
            re.compile("replay me to scarlet, .*: replayed, (sent|confirmed)")
        )
        page.keyboard.press("Enter")
        answer = why.get_by_role("status")
        expect(answer).to_contain_text("was sent the event when it came back")
        for offset, reason in {
            story.offsets["before"]: "The event is older than the session",
            story.offsets["early"]: "it joined scarlet at",
            story.offsets["late"]: "it left scarlet at",
            story.offsets["elsewhere"]: "not for this session: it was not in it",
            story.offsets["waiting"]: "The event waits for it",
        }.items():
            page.get_by_label("The offset of an event").fill(offset)
            page.get_by_role("button", name="Explain this event").click()
            expect(answer).to_contain_text(reason)
        page.goto(f"{server.url}/inspect/#/log?at={story.offsets['waiting']}")
        pane = page.get_by_role("complementary")
        expect(pane.get_by_role("button", name="1 still miss it")).to_be_visible()
        pane.get_by_role("link", name=story.sid).click()
        expect(answer).to_contain_text("The event waits for it")


def test_below_a_prefix_of_a_proxy(chromium: Browser, tmp_path: Path) -> None:
    """Behind nginx with TLS and a prefix the inspector works, with a cookie for its folder only.

    A restart ends the login, and the page says so.
    """
    documented = DocumentedServer(tmp_path)
    with documented.config_file.open("a") as file:
        file.write(f'[http]\napi_keys = {{ tests = "{hash_of(KEY)}" }}\n')
    with (
        documented as server,
        Nginx(tmp_path / "proxy", server.port) as proxy,
        opened(chromium, f"{proxy.url}/chat/inspect/", ignore_https_errors=True) as page,
    ):
        log_in(page)
        expect(page.locator(".tiles")).to_contain_text("0 connections")
        (cookie,) = page.context.cookies()
        assert (cookie["path"], cookie["secure"], cookie["httpOnly"]) == ("/chat/inspect", True, True)
        assert cookie["sameSite"] == "Strict"
        server.restart()
        expect(page.get_by_role("alert")).to_have_text("The login has ended.")
