"""The appearance and behaviour of the chat's page in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from support.browser import OpenTab  # first: skips the module without playwright
from support.processes import ServerProcess

PHONES = [(375, 667), (320, 568), (667, 375)]
LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 10


def test_html_is_shown_as_text(open_tab: OpenTab) -> None:
    """HTML in a message is shown as text."""
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


def test_content_security_policy(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """The page loads only files of the server, and its policy forbids other files."""
    tab = open_tab()
    policy = tab.page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy is not None and "unsafe" not in policy and "default-src 'none'" in policy
    url = chat_server.url
    assert {f"{url}/pages/chat.js", f"{url}/socket.io/socket.io.js"} <= set(tab.requested)
    assert [requested for requested in tab.requested if not requested.startswith(f"{url}/")] == []


def test_missing_client_bundle(chromium: Browser, chat_server: ServerProcess) -> None:
    """A page without the official client shows the missing file."""
    page = chromium.new_page()
    page.route("**/socket.io.js", lambda route: route.abort())
    page.goto(chat_server.url)
    expect(page.locator("#status")).to_contain_text("does not have the official client")
    page.close()


def test_equal_messages_are_all_shown(open_tab: OpenTab) -> None:
    """Equal messages are all shown."""
    a, b = open_tab(), open_tab()
    a.say("ok")
    a.say("ok")
    a.shows("ok", "ok")
    b.say("ok")
    for tab in (a, b):
        tab.shows("ok", "ok", "ok")


def test_an_empty_message_is_not_sent(open_tab: OpenTab) -> None:
    """An empty message is not sent."""
    tab = open_tab()
    tab.say("")
    tab.say("   ")
    tab.say("something")
    tab.shows("something")


@pytest.mark.parametrize(("width", "height"), PHONES)
def test_phone_layout(open_tab: OpenTab, width: int, height: int) -> None:
    """All controls are visible and large enough on a phone."""
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


def test_phone_keyboard(open_tab: OpenTab) -> None:
    """The newest message stays visible when a phone's keyboard opens."""
    tab = open_tab(viewport={"width": 375, "height": 667}, is_mobile=True, has_touch=True)
    for number in range(20):
        tab.say(f"message {number}")
    expect(tab.messages.last).to_be_in_viewport(ratio=1)
    tab.page.set_viewport_size({"width": 375, "height": 350})
    expect(tab.messages.last).to_be_in_viewport(ratio=1)
    expect(tab.input).to_be_in_viewport(ratio=1)


def test_scroll_position(open_tab: OpenTab) -> None:
    """A new message does not move a list that the user has scrolled up."""
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


def test_keyboard_only(open_tab: OpenTab) -> None:
    """Every control works by keyboard."""
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


def test_screen_reader(open_tab: OpenTab) -> None:
    """The page has the roles and labels for a screen reader."""
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
def test_contrast(open_tab: OpenTab, scheme: str) -> None:
    """The contrast of all texts is sufficient in both color schemes."""
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
