from __future__ import annotations

import pytest
from socketio import packet

from socketio_eventstore.adapter.decoder import ClientPacket, Decoder
from socketio_eventstore.transport.inbox import InvalidPacket


@pytest.fixture
def assembler() -> Decoder:
    return Decoder(packet.Packet, max_bytes=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('2["a"]', (2, "/", None, ["a"])),
        ('2["a",{"b":[1,null]}] \r\n', (2, "/", None, ["a", {"b": [1, None]}])),
        ('2/chat,["a"]', (2, "/chat", None, ["a"])),
        ('2/chat?token=1,["a"]', (2, "/chat", None, ["a"])),
        ('27["a"]', (2, "/", 7, ["a"])),
        ('3/chat,12["ok"]', (3, "/chat", 12, ["ok"])),
        ("312[]", (3, "/", 12, [])),
    ],
)
def test_a_packet_is_read_as_the_protocol_has_it(
    assembler: Decoder, text: str, expected: tuple[int, str, int | None, list[object]]
) -> None:
    assert assembler.add("connection", text) == ClientPacket(*expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "2[]",
        "2[1]",
        '2{"a":1}',
        '2["a"',
        '2["a"]x',
        '2["a"]["b"]',
        '2["a"]\xa0',
        '2["a"]\x0b',
        '2["a",NaN]',
        '2["a",-Infinity]',
        '2["disconnect"]',
        '2["*"]',
        "2" + "[" * 100_000,
    ],
)
def test_what_is_no_packet_is_refused(assembler: Decoder, text: str) -> None:
    with pytest.raises(InvalidPacket):
        assembler.add("connection", text)


def test_attachments_complete_a_packet(assembler: Decoder) -> None:
    assert (
        assembler.add("connection", '52-["a",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]')
        is None
    )
    assert assembler.add("connection", b"12345") is None
    assert assembler.add("connection", b"67890") == ClientPacket(5, "/", None, ["a", b"67890", b"12345"])


@pytest.mark.parametrize("attachments", [(b"12345678901",), (b"123456", b"78901"), ('2["a"]',)])
def test_attachments_are_bounded_and_nothing_comes_between_them(
    assembler: Decoder, attachments: tuple[bytes | str, ...]
) -> None:
    assembler.add("connection", '52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
    *first, last = attachments
    for attachment in first:
        assert assembler.add("connection", attachment) is None
    with pytest.raises(InvalidPacket):
        assembler.add("connection", last)


def test_what_was_begun_is_forgotten_with_its_connection(assembler: Decoder) -> None:
    assembler.add("connection", '51-["a",{"_placeholder":true,"num":0}]')
    assembler.forget("connection")
    assert assembler.add("connection", '2["b"]') == ClientPacket(2, "/", None, ["b"])
