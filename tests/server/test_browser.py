"""The chat's page in a real browser, against a real server."""

from __future__ import annotations

import os
import signal

from playwright.sync_api import expect

from support.browser import OpenTab  # first: skips the module without playwright
from support.processes import ServerProcess

# --- recovery ---------------------------------------------------------------------------------------


def test_disconnect_button(open_tab: OpenTab) -> None:
    """Messages missed during a disconnection by the button arrive once."""
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


def test_repeated_disconnect_button(
    open_tab: OpenTab,
) -> None:
    """The button works repeatedly, and before the first received message."""
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


def test_kill_of_the_server(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """A kill of the server loses neither sessions nor messages."""
    a, b, away = open_tab(), open_tab(), open_tab()
    tabs = (a, b, away)
    sids = [tab.sid for tab in tabs]
    a.say("all hear this")
    away.shows("all hear this")
    away.disconnect()
    b.say("right before the kill")
    b.shows("all hear this", "right before the kill")
    chat_server.kill()
    a.is_reconnecting()
    b.is_reconnecting()
    chat_server.start()
    a.is_connected(recovered=True)
    b.is_connected(recovered=True)
    a.say("after the kill")
    b.shows("all hear this", "right before the kill", "after the kill")
    away.connect()
    away.is_connected(recovered=True)
    for tab in tabs:
        tab.shows("all hear this", "right before the kill", "after the kill")
    assert [tab.sid for tab in tabs] == sids


def test_repeated_kills(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """The session survives several kills of the server."""
    tab = open_tab()
    sid, said = tab.sid, list[str]()
    for number in range(3):
        said.append(f"before kill {number}")
        tab.say(said[-1])
        tab.shows(*said)
        chat_server.kill()
        tab.is_reconnecting()
        chat_server.start()
        tab.is_connected(recovered=True)
        tab.shows(*said)
    assert tab.sid == sid


def test_kill_during_a_stream_of_messages(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """After a kill each message of a stream is shown once, or is not confirmed."""
    a, b = open_tab(), open_tab()
    b.page.evaluate(START_TALKING)
    expect(a.messages.nth(20)).to_be_visible()
    chat_server.kill()
    a.is_reconnecting()
    chat_server.start()
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


def test_lost_session(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """A page with a new session shows that messages may be missing."""
    a, b = open_tab(), open_tab()
    sid = a.sid
    chat_server.kill()
    for file in chat_server.database.parent.iterdir():
        file.unlink()
    chat_server.start()
    for tab in (a, b):
        tab.is_connected(recovered=False)
        expect(tab.status).to_contain_text("messages may be missing")
    assert a.sid != sid
    b.say("a new beginning")
    a.shows("a new beginning")
    expect(a.messages.first).to_have_attribute("data-gap", "A new session began here")


def test_disconnect_button_while_reconnecting(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """The button during a reconnection keeps the page disconnected until the next click."""
    a, b = open_tab(), open_tab()
    sid = a.sid
    chat_server.kill()
    a.is_reconnecting()
    a.disconnect()
    chat_server.start()
    b.is_connected(recovered=True)
    b.say("a is not here")
    b.shows("a is not here")
    expect(a.status).to_have_attribute("data-state", "disconnected")
    a.connect()
    a.is_connected(recovered=True)
    a.shows("a is not here")
    assert a.sid == sid


# --- sending while there is no connection ------------------------------------------------------------


def test_messages_written_while_disconnected(open_tab: OpenTab) -> None:
    """Messages written while disconnected are sent after the missed messages."""
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


def test_messages_written_while_the_server_is_down(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """Messages written while the server is down are sent after the reconnection."""
    a, b = open_tab(), open_tab()
    chat_server.kill()
    a.is_reconnecting()
    a.say("is it dead?")
    expect(a.outbox).to_contain_text(["Waits for the connection"])
    chat_server.start()
    a.is_connected(recovered=True)
    for tab in (a, b):
        tab.shows("is it dead?")


def test_unconfirmed_message(open_tab: OpenTab, chat_server: ServerProcess) -> None:
    """An unconfirmed message is sent again only by the user's click."""
    a, b = open_tab(), open_tab()
    freeze(chat_server)
    a.say("lost")
    a.say("dropped")
    chat_server.kill()
    expect(a.outbox).to_contain_text(["Not confirmed", "Not confirmed"])
    expect(a.page.get_by_role("button", name="Send again")).to_have_count(0)
    chat_server.start()
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
    """Stop the server's process: connections stay open, and the server reads nothing."""
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, server._process.pid, os.WSTOPPED | os.WNOWAIT)
