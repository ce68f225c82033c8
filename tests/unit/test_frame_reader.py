from __future__ import annotations

import os
import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketio_eventstore.transport.frame_reader import (
    FRAMES_PER_STEP,
    Close,
    CloseCode,
    FrameReader,
    Message,
    Ping,
)

MAX_BYTES = 70_000
TEXT, BINARY, MORE, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A


def frame(head: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """A frame of a client, with a random mask."""
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        header = struct.pack("!BB", head, bit | size)
    elif size < 65536:
        header = struct.pack("!BBH", head, bit | 126, size)
    else:
        header = struct.pack("!BBQ", head, bit | 127, size)
    mask = os.urandom(4)
    if not masked:
        return header + payload
    return header + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def deflated(payload: bytes) -> bytes:
    """Compress a payload for permessage-deflate, without the last four bytes (RFC 7692 section 7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def messages_of(*frames: bytes, inflates: bool = False) -> list[Message]:
    reader = FrameReader(MAX_BYTES, inflates=inflates)
    messages = reader.feed(b"".join(frames))
    while reader.has_more:
        messages += reader.more()
    return messages


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], list[Message]]:
    """Frames of fragmented messages with pings between fragments, and the expected messages."""
    frames: list[bytes] = []
    expected: list[Message] = []
    for message in draw(st.lists(st.text() | st.binary(max_size=300), max_size=6)):
        payload = message.encode() if isinstance(message, str) else message
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        starts, ends = [0, *cuts], [*cuts, len(payload)]
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            opcode = 0 if i else (1 if isinstance(message, str) else 2)
            frames.append(frame(opcode | (0x80 if i == len(cuts) else 0), payload[start:end]))
            if i < len(cuts) and draw(st.booleans()):
                frames.append(frame(PING, b"hello?"))
                expected.append(Ping(b"hello?"))
        expected.append(message)
    return frames, expected


@given(conversations(), st.data())
def test_any_split_of_the_bytes(conversation: tuple[list[bytes], list[Message]], data: st.DataObject) -> None:
    """The messages do not depend on the split of the bytes."""
    frames, expected = conversation
    sent, reader = b"".join(frames), FrameReader(MAX_BYTES)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20))), len(sent)]
    received = [message for start, end in pairwise(cuts) for message in reader.feed(sent[start:end])]
    assert received == expected


def test_short_frame_after_a_long_frame() -> None:
    """A short frame after a long frame is read as soon as the short frame is complete."""
    long, short = frame(BINARY, b"x" * 1000), frame(TEXT, b"3")
    reader = FrameReader(MAX_BYTES)
    assert reader.feed(long[:10]) == []
    assert reader.feed(long[10:] + short[:1]) == [b"x" * 1000]
    assert reader.feed(short[1:]) == ["3"]


@pytest.mark.parametrize("short", [frame(TEXT, b"3"), frame(PONG), frame(PING)], ids=["text", "pong", "ping"])
def test_flood_of_short_frames_is_read_in_steps(short: bytes) -> None:
    """A read with thousands of frames is read some frames at a time, and what follows comes last."""
    reader, last = FrameReader(MAX_BYTES), frame(TEXT, b"the last one")
    received = [reader.feed(short * (3 * FRAMES_PER_STEP) + last[:3])]
    reader.feed(last[3:])
    while reader.has_more:
        received.append(reader.more())
    assert len(received) == 4
    assert all(len(messages) <= FRAMES_PER_STEP for messages in received)
    assert received[-1] == ["the last one"]


def test_one_byte_at_a_time() -> None:
    """A message may arrive one byte at a time."""
    reader, sent = FrameReader(MAX_BYTES), frame(BINARY, b"x" * 200) + frame(PING) + frame(TEXT, b"3")
    received = [message for byte in sent for message in reader.feed(bytes([byte]))]
    assert received == [b"x" * 200, Ping(b""), "3"]


def test_ping_between_fragments() -> None:
    """A ping between two fragments does not count towards the message's size."""
    frames = [frame(0x02, b"x" * MAX_BYTES), frame(PING, b"?"), frame(MORE)]
    assert messages_of(*frames) == [Ping(b"?"), b"x" * MAX_BYTES]


@given(st.binary(max_size=200), st.booleans())
def test_garbage_raises_nothing(garbage: bytes, inflates: bool) -> None:
    """No bytes from a client raise an exception."""
    reader = FrameReader(100, inflates=inflates)
    for byte in garbage:
        reader.feed(bytes([byte]))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, MAX_BYTES])
def test_payload_lengths(size: int) -> None:
    """Each encoding of a payload's length is read."""
    assert messages_of(frame(BINARY, b"x" * size), frame(TEXT, b"next")) == [b"x" * size, "next"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([frame(TEXT, b"x", masked=False)], CloseCode.PROTOCOL_ERROR, id="not masked"),
        pytest.param([frame(TEXT | 0x40, b"x")], CloseCode.PROTOCOL_ERROR, id="compressed"),
        pytest.param([frame(TEXT | 0x20, b"x")], CloseCode.PROTOCOL_ERROR, id="reserved bit"),
        pytest.param([frame(0x83, b"x")], CloseCode.PROTOCOL_ERROR, id="unknown opcode"),
        pytest.param([frame(0x8B, b"x")], CloseCode.PROTOCOL_ERROR, id="unknown control frame"),
        pytest.param([frame(0x09, b"x")], CloseCode.PROTOCOL_ERROR, id="fragment of a ping"),
        pytest.param([frame(PING, b"x" * 126)], CloseCode.PROTOCOL_ERROR, id="long ping"),
        pytest.param([frame(MORE, b"x")], CloseCode.PROTOCOL_ERROR, id="continuation of nothing"),
        pytest.param([frame(0x01), frame(TEXT)], CloseCode.PROTOCOL_ERROR, id="message in a message"),
        pytest.param([frame(CLOSE, b"x")], CloseCode.PROTOCOL_ERROR, id="half a status code"),
        *(
            pytest.param([frame(CLOSE, code.to_bytes(2))], CloseCode.PROTOCOL_ERROR, id=f"status code {code}")
            for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)
        ),
        pytest.param([frame(CLOSE, b"\x03\xe8\xff")], CloseCode.INVALID_TEXT, id="reason is no UTF-8"),
        pytest.param([frame(TEXT, b"\xff")], CloseCode.INVALID_TEXT, id="no UTF-8"),
        pytest.param([frame(0x01, b"\xc3"), frame(MORE, b"x")], CloseCode.INVALID_TEXT, id="no UTF-8 at all"),
        pytest.param([frame(TEXT, b"x" * (MAX_BYTES + 1))], CloseCode.TOO_BIG, id="too long"),
        pytest.param([b"\x82\xff" + b"\xff" * 8], CloseCode.TOO_BIG, id="too long by its header"),
        pytest.param(
            [frame(0x01, b"x" * MAX_BYTES), frame(MORE, b"x")], CloseCode.TOO_BIG, id="too long in sum"
        ),
        pytest.param([frame(CLOSE)], CloseCode.NORMAL, id="close"),
        pytest.param([frame(CLOSE, b"\x03\xe8bye")], CloseCode.NORMAL, id="close with a reason"),
        *(
            pytest.param([frame(CLOSE, code.to_bytes(2))], code, id=f"close with {code}")
            for code in (1001, 1003, 1007, 1014, 3000, 4999)
        ),
    ],
)
def test_close_and_protocol_violations(frames: list[bytes], code: int) -> None:
    """A close frame and each protocol violation end the messages with the right status code."""
    assert messages_of(frame(TEXT, b"before"), *frames, frame(TEXT, b"after")) == ["before", Close(code)]


def test_feed_after_close() -> None:
    """feed returns no message after a Close."""
    reader = FrameReader(MAX_BYTES)
    assert reader.feed(frame(CLOSE)) == [Close(CloseCode.NORMAL)]
    assert reader.feed(frame(TEXT, b"after")) == []


def test_unsolicited_pong() -> None:
    """An unsolicited pong is ignored."""
    assert messages_of(frame(PONG, b"x"), frame(TEXT, b"next")) == ["next"]


def test_compressed_messages() -> None:
    """Compressed messages are read if the handshake agreed on compression."""
    payload = deflated("täxt".encode() * 100)
    frames = [frame(0x41, payload[:5]), frame(MORE, payload[5:]), frame(TEXT, b"plain")]
    assert messages_of(*frames, inflates=True) == ["täxt" * 100, "plain"]


def test_one_inflated_message_at_a_time() -> None:
    """Each call ends with the message that it inflates; what arrives meanwhile comes after the rest."""
    long, short = frame(TEXT | 0x40, deflated(b"x" * 1000)), frame(TEXT, b"3")
    reader = FrameReader(MAX_BYTES, inflates=True)
    assert reader.feed(short + long + long + short + long[:5]) == ["3", "x" * 1000]
    assert reader.has_more and reader.inflated_bytes == 1000
    assert reader.feed(long[5:] + short) == []
    assert reader.more() == ["x" * 1000]
    assert reader.more() == ["3", "x" * 1000]
    assert reader.more() == ["3"]
    assert not reader.has_more and reader.inflated_bytes == 0
    assert reader.more() == []
    assert reader.feed(short) == ["3"]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        pytest.param(deflated(b"x" * (MAX_BYTES + 1)), CloseCode.TOO_BIG, id="bomb"),
        pytest.param(b"\xff\xff", CloseCode.PROTOCOL_ERROR, id="garbage"),
    ],
)
def test_invalid_compressed_messages(payload: bytes, code: CloseCode) -> None:
    """A compressed message above the limit and an invalid one close the WebSocket."""
    assert messages_of(frame(TEXT | 0x40, payload), inflates=True) == [Close(code)]
