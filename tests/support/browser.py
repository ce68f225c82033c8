"""The system's Chromium on the chat's page. Without Chromium, tests are skipped, but never in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, NoReturn

import pytest

from support.processes import DEADLINE


def missing(what: str) -> NoReturn:
    """Skip the importing test module or fixture; fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what, allow_module_level=True)


try:
    from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
except ImportError:
    missing("playwright, which drives the browser, is not installed: pip install playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=DEADLINE / 2 * 1000)


@contextmanager
def running_chromium(*flags: str) -> Iterator[Browser]:
    """A browser process for the tabs of all tests."""
    require_client()
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        missing(f"no browser is installed, none of {', '.join(NAMES)} was found")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*FLAGS, *flags])
        yield browser
        browser.close()


def require_client() -> None:
    """Skip without the official client, which the server has from npm and the page loads."""
    if not files("socketio_eventstore.program").joinpath("client_bundle", "socket.io.js").is_file():
        missing("the server has no socket.io.js: run `make dev`")


class Tab:
    """A tab with the page of the chat."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.requested: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note_console)
        self.status = page.locator("#status")
        self.messages = page.locator("#messages li")
        self.outbox = page.locator("#outbox li")
        self.input = page.locator("#input")
        self.send = page.locator("#send")
        self.toggle = page.locator("#toggle")
        self.scroller = page.locator("#scroller")
        page.goto(url)

    @property
    def sid(self) -> str:
        """The id of the session, over all connections."""
        sid = self.status.get_attribute("data-sid")
        assert sid, "not connected yet"
        return sid

    def is_connected(self, *, recovered: bool) -> None:
        expect(self.status).to_have_attribute("data-state", "connected")
        expect(self.status).to_have_attribute("data-recovered", "true" if recovered else "false")
        expect(self.status).to_contain_text(
            "Connected: the state was recovered" if recovered else "Connected: a new session began"
        )

    def is_reconnecting(self) -> None:
        expect(self.status).to_have_attribute("data-state", "reconnecting")
        expect(self.status).to_have_text("Disconnected: reconnecting…")

    def disconnect(self) -> None:
        expect(self.toggle).to_have_text("Disconnect")
        self.toggle.click()
        expect(self.status).to_have_attribute("data-state", "disconnected")
        expect(self.status).to_contain_text("Disconnected")

    def connect(self) -> None:
        expect(self.toggle).to_have_text("Connect")
        self.toggle.click()

    def say(self, text: str) -> None:
        self.input.fill(text)
        self.input.press("Enter")

    def shows(self, *texts: str) -> None:
        """Expects exactly the messages, each once, in order, and no undelivered message."""
        expect(self.messages).to_have_text(list(texts))
        expect(self.outbox).to_have_count(0)

    def _note_console(self, message: ConsoleMessage) -> None:
        # Chromium logs each failed attempt to reach a stopped server, which is no error of the page.
        away = ("Failed to load resource", "WebSocket connection to")
        if message.type == "error" and not message.text.startswith(away):
            self.errors.append(message.text)


OpenTab = Callable[..., Tab]


@contextmanager
def opening_tabs(chromium: Browser, url: str) -> Iterator[OpenTab]:
    """Opens the page, in a window with the given properties, and waits for the connection."""
    tabs: list[Tab] = []

    def open_tab(**window: Any) -> Tab:
        tab = Tab(chromium.new_page(**window), url)
        tabs.append(tab)
        tab.is_connected(recovered=False)
        return tab

    yield open_tab
    for tab in tabs:
        tab.page.close()
        assert tab.errors == []
