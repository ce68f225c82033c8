"""Events of another node whose frames are made when a client comes back, and cannot be made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.recovery import RecoveryResult
from support.embedded import away, results
from support.in_process_nodes import Nodes, nodes


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nodes]:
    async with nodes(monkeypatch) as running:
        yield running


def fail_once(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Let the serializer raise an error for the next event; returns the errors that are left to raise."""
    left, encode = list[Exception]([OverflowError()]), encoder.event

    def event(*arguments: Any) -> Frames:
        if left:
            raise left.pop()
        frames: Frames = encode(*arguments)
        return frames

    monkeypatch.setattr(encoder, "event", event)
    return left


async def test_frames_that_fail_once_end_no_session(
    two: Nodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a serializer raises is logged, and costs a client a read of the log, and not its session."""
    a, b = two.servers
    client = await b.socket()
    pid = (await client.connect())["pid"]
    await away(b, client)
    offset = await a.sio.emit("missed")
    await two.until_applied()
    left = fail_once(two.node(1).encoder, monkeypatch)
    again = await b.socket()
    assert (await again.connect(auth={"pid": pid}))["pid"] == pid
    assert await again.event() == ["missed", offset] and not left
    assert await again.event_of(a.sio.emit("live")) == ["live"]
    assert await results(b) == {RecoveryResult.RECOVERED: 1}
    assert "Recent events have no frames" in caplog.text and "OverflowError" in caplog.text
