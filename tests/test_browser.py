"""The chat's page in a real browser, against a real server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Tab, running_chromium  # first: it skips all of this where there is no playwright
from playwright.sync_api import Browser, expect
from processes import ServerProcess

CHAT = {"server": {"handlers": "socketio_eventstore.server.chat"}}
PHONES = [(375, 667), (320, 568), (667, 375)]
LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 10

OpenTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, CHAT) as server:
        yield server


@pytest.fixture
def open_tab(chromium: Browser, server: ServerProcess) -> Iterator[OpenTab]:
    """Opens the page, in a window with the given properties, and waits until it is connected."""
    tabs: list[Tab] = []

    def open_tab(**window: Any) -> Tab:
        tab = Tab(chromium.new_page(**window), server.url)
        tabs.append(tab)
        tab.is_connected(recovered=False)
        return tab

    yield open_tab
    for tab in tabs:
        tab.page.close()
        assert tab.errors == []


# --- recovery ---------------------------------------------------------------------------------------


def test_what_was_missed_while_disconnected_by_the_button_arrives_once(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    sid = a.sid
    b.say("before")
    a.shows("before")
    a.disconnect()
    b.say("realtime")
    b.shows("before", "realtime")
    a.shows("before")
    a.connect()
    a.is_connected(recovered=True)
    b.say("after")
    for tab in (a, b):
        tab.shows("before", "realtime", "after")
    assert a.sid == sid


def test_the_button_may_be_pressed_before_anything_was_received_and_again_and_again(
    open_tab: OpenTab,
) -> None:
    a, b = open_tab(), open_tab()
    sid, said = a.sid, list[str]()
    for round_ in range(3):
        a.disconnect()
        for number in range(3):
            said.append(f"{round_}.{number}")
            b.say(said[-1])
        b.shows(*said)
        a.connect()
        a.is_connected(recovered=True)
        a.shows(*said)
    assert a.sid == sid


def test_a_kill_of_the_server_loses_neither_sessions_nor_messages(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    a, b, away = open_tab(), open_tab(), open_tab()
    tabs = (a, b, away)
    sids = [tab.sid for tab in tabs]
    a.say("all hear this")
    away.shows("all hear this")
    away.disconnect()
    b.say("right before the kill")
    b.shows("all hear this", "right before the kill")
    server.kill()
    a.is_reconnecting()
    b.is_reconnecting()
    server.start()
    a.is_connected(recovered=True)
    b.is_connected(recovered=True)
    a.say("after the kill")
    b.shows("all hear this", "right before the kill", "after the kill")
    away.connect()
    away.is_connected(recovered=True)
    for tab in tabs:
        tab.shows("all hear this", "right before the kill", "after the kill")
    assert [tab.sid for tab in tabs] == sids


def test_the_session_survives_one_kill_after_the_other(open_tab: OpenTab, server: ServerProcess) -> None:
    tab = open_tab()
    sid, said = tab.sid, list[str]()
    for number in range(3):
        said.append(f"before kill {number}")
        tab.say(said[-1])
        tab.shows(*said)
        server.kill()
        tab.is_reconnecting()
        server.start()
        tab.is_connected(recovered=True)
        tab.shows(*said)
    assert tab.sid == sid


def test_a_kill_amid_a_stream_of_messages_leaves_each_of_them_shown_once_or_not_confirmed(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    a, b = open_tab(), open_tab()
    b.page.evaluate(START_TALKING)
    expect(a.messages.nth(20)).to_be_visible()
    server.kill()
    a.is_reconnecting()
    server.start()
    a.is_connected(recovered=True)
    b.is_connected(recovered=True)
    said = [f"message {number}" for number in range(b.page.evaluate(STOP_TALKING))]
    for tab in (a, b):
        expect(tab.messages.last).to_have_text(said[-1])
    delivered = b.messages.all_text_contents()
    unconfirmed = b.outbox.locator(".message").all_text_contents()
    assert a.messages.all_text_contents() == delivered
    assert sorted(delivered, key=number_of) == delivered
    assert sorted(delivered + unconfirmed, key=number_of) == said


START_TALKING = """() => {
  window.said = 0;
  window.talk = setInterval(() => {
    input.value = `message ${said++}`;
    form.requestSubmit();
  }, 10);
}"""

STOP_TALKING = """() => {
  clearInterval(talk);
  return said;
}"""


def number_of(message: str) -> int:
    return int(message.rsplit(maxsplit=1)[-1])


def test_a_page_whose_session_is_gone_says_that_messages_may_be_missing(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    a, b = open_tab(), open_tab()
    sid = a.sid
    server.kill()
    for file in server.database.parent.iterdir():
        file.unlink()
    server.start()
    for tab in (a, b):
        tab.is_connected(recovered=False)
        expect(tab.status).to_contain_text("messages may be missing")
    assert a.sid != sid
    b.say("a new beginning")
    a.shows("a new beginning")
    expect(a.messages.first).to_have_attribute("data-gap", "A new session began here")


def test_who_disconnects_while_reconnecting_stays_away_until_the_button_is_pressed_again(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    a, b = open_tab(), open_tab()
    sid = a.sid
    server.kill()
    a.is_reconnecting()
    a.disconnect()
    server.start()
    b.is_connected(recovered=True)
    b.say("a is not here")
    b.shows("a is not here")
    expect(a.status).to_have_attribute("data-state", "disconnected")
    a.connect()
    a.is_connected(recovered=True)
    a.shows("a is not here")
    assert a.sid == sid


# --- sending while there is no connection ------------------------------------------------------------


def test_messages_written_while_disconnected_wait_and_follow_what_was_missed(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    a.disconnect()
    a.say("written offline, 1")
    a.say("written offline, 2")
    expect(a.messages).to_have_count(0)
    expect(a.outbox.locator(".message")).to_have_text(["written offline, 1", "written offline, 2"])
    expect(a.outbox.first).to_contain_text("Waits for the connection")
    b.say("meanwhile")
    b.shows("meanwhile")
    a.connect()
    for tab in (a, b):
        tab.shows("meanwhile", "written offline, 1", "written offline, 2")


def test_messages_written_while_the_server_is_down_are_sent_when_it_is_back(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    a, b = open_tab(), open_tab()
    server.kill()
    a.is_reconnecting()
    a.say("is it dead?")
    expect(a.outbox).to_contain_text(["Waits for the connection"])
    server.start()
    a.is_connected(recovered=True)
    for tab in (a, b):
        tab.shows("is it dead?")


def test_a_message_whose_fate_is_unknown_is_not_sent_again_unless_the_user_says_so(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    a, b = open_tab(), open_tab()
    freeze(server)
    a.say("lost")
    a.say("dropped")
    server.kill()
    expect(a.outbox).to_contain_text(["Not confirmed", "Not confirmed"])
    expect(a.page.get_by_role("button", name="Send again")).to_have_count(0)
    server.start()
    a.is_connected(recovered=True)
    b.is_connected(recovered=True)
    expect(a.page.get_by_role("button", name="Send again")).to_have_count(2)
    expect(a.page.locator("#announcer")).to_contain_text("Not confirmed")
    expect(a.messages).to_have_count(0)
    a.outbox.filter(has_text="dropped").get_by_role("button", name="Discard").click()
    a.outbox.filter(has_text="lost").get_by_role("button", name="Send again").click()
    expect(a.input).to_be_focused()
    for tab in (a, b):
        tab.shows("lost")


def freeze(server: ServerProcess) -> None:
    """The server's connections stay open, but it reads nothing any more."""
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, server._process.pid, os.WSTOPPED | os.WNOWAIT)


# --- the page ---------------------------------------------------------------------------------------


def test_html_is_shown_as_text(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    html = "<img src=x onerror=\"document.title='broken in'\"><b>bold</b> &amp; <script>boom()</script>"
    a.disconnect()
    a.say(html)
    expect(a.outbox.locator(".message")).to_have_text([html])
    a.connect()
    for tab in (a, b):
        tab.shows(html)
        expect(tab.page.locator("main :is(img, b, script)")).to_have_count(0)
        expect(tab.page).to_have_title("Socket.IO chat")


def test_nothing_comes_from_elsewhere_and_the_policy_forbids_it(
    open_tab: OpenTab, server: ServerProcess
) -> None:
    tab = open_tab()
    policy = tab.page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy is not None and "unsafe" not in policy and "default-src 'none'" in policy
    assert {f"{server.url}/pages/chat.js", f"{server.url}/socket.io/socket.io.js"} <= set(tab.requested)
    assert [url for url in tab.requested if not url.startswith(f"{server.url}/")] == []


def test_a_page_without_the_client_says_so(chromium: Browser, server: ServerProcess) -> None:
    page = chromium.new_page()
    page.route("**/socket.io.js", lambda route: route.abort())
    page.goto(server.url)
    expect(page.locator("#status")).to_contain_text("does not have /socket.io/socket.io.js")
    page.close()


def test_equal_messages_are_all_shown(open_tab: OpenTab) -> None:
    a, b = open_tab(), open_tab()
    a.say("ok")
    a.say("ok")
    a.shows("ok", "ok")
    b.say("ok")
    for tab in (a, b):
        tab.shows("ok", "ok", "ok")


def test_an_empty_message_is_not_sent(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.say("")
    tab.say("   ")
    tab.say("something")
    tab.shows("something")


@pytest.mark.parametrize(("width", "height"), PHONES)
def test_everything_is_in_reach_on_a_phone(open_tab: OpenTab, width: int, height: int) -> None:
    tab = open_tab(viewport={"width": width, "height": height}, is_mobile=True, has_touch=True)
    texts = [LONG_WORD, *(f"message {number}" for number in range(20))]
    for text in texts:
        tab.input.fill(text)
        tab.send.tap()
        expect(tab.input).to_be_focused()
    tab.shows(*texts)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert tab.page.evaluate(overflow) <= 0
    assert tab.page.evaluate("scroller.scrollWidth - scroller.clientWidth") <= 0
    expect(tab.messages.last).to_be_in_viewport(ratio=1)
    for control in (tab.input, tab.send, tab.toggle):
        expect(control).to_be_in_viewport(ratio=1)
        box = control.bounding_box()
        assert box is not None and box["width"] >= 44 and box["height"] >= 44
    # Phones zoom into an input with smaller text.
    assert tab.input.evaluate("input => parseFloat(getComputedStyle(input).fontSize)") >= 16


def test_the_newest_message_stays_visible_when_the_keyboard_of_a_phone_opens(open_tab: OpenTab) -> None:
    tab = open_tab(viewport={"width": 375, "height": 667}, is_mobile=True, has_touch=True)
    for number in range(20):
        tab.say(f"message {number}")
    expect(tab.messages.last).to_be_in_viewport(ratio=1)
    tab.page.set_viewport_size({"width": 375, "height": 350})
    expect(tab.messages.last).to_be_in_viewport(ratio=1)
    expect(tab.input).to_be_in_viewport(ratio=1)


def test_a_reader_who_scrolled_up_is_not_moved(open_tab: OpenTab) -> None:
    reader, writer = (open_tab(viewport={"width": 600, "height": 400}) for _ in range(2))
    newest = reader.page.get_by_role("button", name="New messages")
    texts = [f"message {number}" for number in range(30)]
    for text in texts:
        writer.say(text)
    reader.shows(*texts)
    expect(reader.messages.last).to_be_in_viewport(ratio=1)
    expect(newest).to_be_hidden()

    reader.scroller.focus()
    reader.page.keyboard.press("Home")
    expect(reader.messages.first).to_be_in_viewport(ratio=1)
    writer.say("news")
    expect(newest).to_be_visible()
    expect(reader.messages.first).to_be_in_viewport(ratio=1)

    newest.click()
    expect(reader.messages.last).to_be_in_viewport(ratio=1)
    expect(reader.messages.last).to_have_text("news")
    expect(newest).to_be_hidden()


def test_the_keyboard_alone_is_enough(open_tab: OpenTab) -> None:
    tab = open_tab()
    keyboard = tab.page.keyboard
    expect(tab.input).to_be_focused()
    keyboard.type("first")
    keyboard.press("Enter")
    tab.shows("first")
    expect(tab.input).to_be_focused()
    expect(tab.input).to_have_value("")

    keyboard.press("Shift+Tab")
    expect(tab.scroller).to_be_focused()
    keyboard.press("Shift+Tab")
    expect(tab.toggle).to_be_focused()
    assert tab.toggle.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    keyboard.press("Enter")
    expect(tab.status).to_have_attribute("data-state", "disconnected")
    expect(tab.toggle).to_be_focused()
    keyboard.press("Space")
    tab.is_connected(recovered=True)

    keyboard.press("Tab")
    keyboard.press("Tab")
    expect(tab.input).to_be_focused()
    keyboard.type("second")
    keyboard.press("Tab")
    expect(tab.send).to_be_focused()
    keyboard.press("Space")
    tab.shows("first", "second")
    expect(tab.input).to_be_focused()


def test_a_screen_reader_is_told_the_state_and_the_messages(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.say("hello")
    tab.shows("hello")
    expect(tab.page.get_by_role("status")).to_have_text("Connected: a new session began.")
    expect(tab.status).to_have_attribute("aria-live", "polite")
    expect(tab.page.get_by_role("log", name="Messages").get_by_role("listitem")).to_have_text("hello")
    expect(tab.page.get_by_role("textbox", name="Message")).to_be_visible()
    expect(tab.page.get_by_role("button", name="Send")).to_be_visible()
    expect(tab.page.get_by_role("button", name="Disconnect")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(open_tab: OpenTab, scheme: str) -> None:
    tab = open_tab(color_scheme=scheme, reduced_motion="reduce")
    other = open_tab()
    other.say("theirs")
    tab.say("ours")
    expect(tab.messages).to_have_count(2)
    tab.disconnect()
    tab.say("waits")
    lightness = tab.page.evaluate(f"({LUMINANCE})(getComputedStyle(document.body).backgroundColor)")
    assert (lightness > 0.5) == (scheme == "light")
    for selector in TEXTS:
        ratio = tab.page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, selector  # WCAG 2.2, 1.4.3
        assert tab.page.locator(selector).first.evaluate("e => getComputedStyle(e).animationName") == "none"


TEXTS = ("#status", "#messages li", "#messages .own", "#outbox .message", ".note", "#send", "#toggle")

LUMINANCE = """color => {
  const [r, g, b] = color.match(/[0-9.]+/g).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""

CONTRAST = f"""element => {{
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const luminance = {LUMINANCE};
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(luminance);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}}"""
