from __future__ import annotations

import pytest
from socketio import packet

from socketio_eventstore.adapter.decoder import ClientPacket, Decoder
from socketio_eventstore.transport.inbox_owner import InvalidPacket


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(packet.Packet, max_bytes=10, max_attachments=2)


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
def test_packet_is_decoded_as_the_protocol_defines(
    decoder: Decoder, text: str, expected: tuple[int, str, int | None, list[object]]
) -> None:
    """A packet is decoded as the Socket.IO protocol defines it."""
    assert decoder.add("connection", text) == ClientPacket(*expected)


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
        '2["a",{"b":[-1e400]}]',
        '51-["a",1e400,{"_placeholder":true,"num":0}]',
        '0{"token":1e400}',
        '53-["a",1]',
        '2["disconnect"]',
        '2["newListener",1]',
        '2["removeListener"]',
        '2["*"]',
        "2" + "[" * 100_000,
    ],
)
def test_invalid_packet_is_refused(decoder: Decoder, text: str) -> None:
    """A text that is no packet is refused."""
    with pytest.raises(InvalidPacket):
        decoder.add("connection", text)


def test_attachments_complete_a_packet(decoder: Decoder) -> None:
    assert (
        decoder.add("connection", '52-["a",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]')
        is None
    )
    assert decoder.add("connection", b"12345") is None
    assert decoder.add("connection", b"67890") == ClientPacket(5, "/", None, ["a", b"67890", b"12345"])


@pytest.mark.parametrize("attachments", [(b"12345678901",), (b"123456", b"78901"), ('2["a"]',)])
def test_attachments_are_bounded_and_contiguous(
    decoder: Decoder, attachments: tuple[bytes | str, ...]
) -> None:
    """Attachments are bounded in bytes, and no text may come between them."""
    decoder.add("connection", '52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
    *first, last = attachments
    for attachment in first:
        assert decoder.add("connection", attachment) is None
    with pytest.raises(InvalidPacket):
        decoder.add("connection", last)


def test_forget_drops_an_incomplete_packet(decoder: Decoder) -> None:
    """``forget`` drops the incomplete packet of a connection."""
    decoder.add("connection", '51-["a",{"_placeholder":true,"num":0}]')
    decoder.forget("connection")
    assert decoder.add("connection", '2["b"]') == ClientPacket(2, "/", None, ["b"])


def test_any_error_of_a_serializer_is_the_packets() -> None:
    """A serializer of the application may raise any error, which ends the connection and nothing else."""

    class Faulty(packet.Packet):  # type: ignore[misc]  # python-socketio is not typed
        def decode(self, encoded_packet: str) -> int:
            raise ZeroDivisionError

    with pytest.raises(InvalidPacket):
        Decoder(Faulty, max_bytes=10, max_attachments=2).add("connection", '2["a"]')
