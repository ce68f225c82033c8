from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from socketio_eventstore.core.event_rules import RESERVED_EVENTS, check_event_name
from socketio_eventstore.core.frames import Frames, close_frame, polling_body
from socketio_eventstore.core.packets import TextEncoder, dumps, payload_of, with_binary

SIZES = [0, 1, 125, 126, 65_535, 65_536, 100_000]
"""Sizes around the limits at which a WebSocket frame encodes its length in another form."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
WITH_BINARY = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text().filter(lambda key: key != "_placeholder"), inner)
    ),
    max_leaves=10,
)


def unframed(data: bytes) -> list[str | bytes]:
    """The messages in WebSocket frames of a server, read as RFC 6455 section 5.2 says."""
    messages: list[str | bytes] = []
    while data:
        head, length = data[0], data[1]
        start = 2
        if length == 126:
            (length,), start = struct.unpack_from("!H", data, 2), 4
        elif length == 127:
            (length,), start = struct.unpack_from("!Q", data, 2), 10
        payload, data = data[start : start + length], data[start + length :]
        assert head in (0x81, 0x82) and len(payload) == length
        messages.append(payload.decode() if head == 0x81 else payload)
    return messages


# Frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_frames_of_any_size_are_valid(size: int) -> None:
    """A WebSocket client can read frames of any size."""
    packets = ("4" + "x" * size, b"y" * size)
    assert unframed(Frames(*packets).websocket) == list(packets)


def test_length_of_a_frame_counts_bytes() -> None:
    """The length of a frame counts bytes, not characters."""
    text = "4" + "ü" * 125
    assert unframed(Frames(text).websocket) == [text]


def test_the_shortest_form_of_a_length_is_used() -> None:
    assert [len(Frames(b"x" * size).websocket) - size for size in SIZES] == [2, 2, 2, 4, 4, 10, 10]


def test_polling_body_separates_and_encodes_packets() -> None:
    """A polling body separates its packets and encodes binary ones in base64."""
    batch = [Frames("2"), Frames('451-["x",{"_placeholder":true,"num":0}]', b"\x00\xff"), Frames("4ü")]
    expected = '2\x1e451-["x",{"_placeholder":true,"num":0}]\x1ebAP8=\x1e4ü'
    assert polling_body(batch) == expected.encode()
    assert polling_body([]) == b""


def test_joined_frames_keep_their_order() -> None:
    """Joined frames are their packets, one after the other."""
    parts = [Frames("41"), Frames('451-["x"]', b"\x00"), Frames("42")]
    joined = Frames.join(parts)
    assert joined.packets == ("41", '451-["x"]', b"\x00", "42")
    assert joined.websocket == b"".join(part.websocket for part in parts)
    assert joined.polling.encode() == polling_body(parts)
    assert joined.size_bytes == sum(part.size_bytes for part in parts)
    assert Frames.join(parts[:1]) is parts[0]


def test_size_of_frames_counts_text_and_attachments() -> None:
    """``size_bytes`` counts the text and the attachments."""
    assert Frames("12345", b"123", b"").size_bytes == 8


def test_a_close_frame_carries_its_status_code() -> None:
    assert close_frame(1001) == b"\x88\x02\x03\xe9"


# JSON -----------------------------------------------------------------------------------------------


@given(JSON)
def test_json_round_trip_is_valid_utf_8(value: Any) -> None:
    """JSON text is valid UTF-8 and decodes to the same value."""
    text = dumps(value)
    text.encode()
    assert json.loads(text) == value


def test_json_is_compact_and_readable() -> None:
    assert dumps({"a": [1, "ü", None], "b": "中"}) == '{"a":[1,"ü",null],"b":"中"}'


def test_a_lone_surrogate_is_escaped() -> None:
    assert dumps(["ü", "\ud83d"]) == '["\\u00fc","\\ud83d"]'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps([value])


def test_types_that_json_does_not_have_are_named() -> None:
    with pytest.raises(TypeError, match="type complex is not JSON serializable"):
        dumps([{"a": 1j}])


# Payloads -------------------------------------------------------------------------------------------


@given(st.text(), st.lists(WITH_BINARY))
def test_binary_arguments_are_taken_out_and_put_back(name: str, arguments: list[Any]) -> None:
    payload, attachments = payload_of([name, *arguments])
    assert with_binary(json.loads(payload), attachments) == [name, *arguments]


LIKE_PLACEHOLDERS = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.text() | st.binary() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["_placeholder", "num", "a"]), inner)
        | st.fixed_dictionaries({"_placeholder": st.just(True), "num": st.integers(-1, 3)})
    ),
    max_leaves=20,
)


@given(st.sampled_from(["x", *RESERVED_EVENTS, "\ud800", "ü"]), st.lists(LIKE_PLACEHOLDERS))
@example("x", [{"_placeholder": b""}])
def test_official_clients_can_read_what_is_not_refused(name: str, arguments: list[Any]) -> None:
    """Whatever emit and the encoder let through is read by official clients, as it was emitted."""
    encoder = TextEncoder(max_attachments=10)
    try:
        check_event_name(name)
        payload, attachments = encoder.payload([name, *arguments])
    except ValueError:
        return
    values = json.loads(payload, parse_constant=pytest.fail)
    assert name not in RESERVED_EVENTS and len(attachments) <= 10
    assert as_official_clients(values, attachments) == [name, *arguments]
    assert encoder.is_readable(payload, len(attachments))


def as_official_clients(value: Any, attachments: tuple[bytes, ...]) -> Any:
    """Reconstruct a packet (socket.io-parser 4.2.7, ``_reconstructPacket``)."""
    match value:
        case {"_placeholder": True, **more} if attachments:
            assert isinstance(more["num"], int) and 0 <= more["num"] < len(attachments)
            return attachments[more["num"]]
        case dict():
            return {key: as_official_clients(item, attachments) for key, item in value.items()}
        case list():
            return [as_official_clients(item, attachments) for item in value]
        case _:
            return value


@pytest.mark.parametrize(
    ("payload", "attachments", "readable"),
    [
        ('["x"]', 0, True),
        ('["x",{"_placeholder":true,"num":3}]', 0, True),
        ('["a\\"b",1]', 0, True),
        ('["text with NaN in it"]', 0, True),
        ('["x",{"_placeholder":true,"num":0}]', 1, True),
        ('["x",[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]]', 2, True),
        ('["x",{"_placeholder":true,"num":0}]', 2, False),
        ('["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]', 1, False),
        ('["x",{"_placeholder":true,"num":[]}]', 1, False),
        ('["x"]', 11, False),
        ('["x",NaN]', 0, False),
        ('["x",-Infinity]', 0, False),
        ('["disconnect"]', 0, False),
        ('["\\u0064isconnect"]', 0, False),
        ('["connect",{"_placeholder":true,"num":0}]', 1, False),
        ("", 0, False),
        ("[]", 0, False),
        ("[]", 1, False),
        ('{"x":1}', 0, False),
        ('["x"', 0, False),
        ('["x', 0, False),
        ("[" * 5_000 + "NaN", 0, False),
    ],
)
def test_readable_rows(payload: str, attachments: int, readable: bool) -> None:
    assert TextEncoder(max_attachments=10).is_readable(payload, attachments) is readable


def test_attachments_have_the_order_of_placeholders() -> None:
    """Attachments have the order of their placeholders."""
    payload, attachments = payload_of(["x", {"a": [b"0", bytearray(b"1")]}, memoryview(b"2"), "text"])
    first, second, third = (f'{{"_placeholder":true,"num":{number}}}' for number in range(3))
    assert payload == f'["x",{{"a":[{first},{second}]}},{third},"text"]'
    assert attachments == (b"0", b"1", b"2")
    assert all(type(attachment) is bytes for attachment in attachments)


def test_the_callers_data_are_not_changed_nor_kept() -> None:
    data, blob = {"a": [b"0"]}, bytearray(b"1")
    _, attachments = payload_of(["x", data, blob])
    blob[:] = b"changed"
    assert data == {"a": [b"0"]} and attachments == (b"0", b"1")


@pytest.mark.parametrize("number", [-1, 1, 10**9, "0", None, 0.5])
def test_placeholder_without_attachment_is_kept(number: Any) -> None:
    """A placeholder without its attachment is kept as it is."""
    value = {"_placeholder": True, "num": number}
    assert with_binary([value], (b"only",)) == [value]


def test_application_json_encodes_the_arguments() -> None:
    """The application's json module encodes the arguments without attachments."""
    payload, attachments = payload_of(["x", b"0", 1j], lambda value: json.dumps(value, default=str))
    assert payload == '["x", {"_placeholder": true, "num": 0}, "1j"]' and attachments == (b"0",)


# The standard encoding ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "payload", "attachments", "offset", "packet"),
    [
        ("/", '["x"]', (), "b.1", '42["x","b.1"]'),
        ("/", '["x"]', (), None, '42["x"]'),
        ("/", '["x",{"a":"]"}]', (), "b.1", '42["x",{"a":"]"},"b.1"]'),
        ("/admin", '["x"]', (), "b.1", '42/admin,["x","b.1"]'),
        ("/", '["x",{}]', (b"0",), "b.1", '451-["x",{},"b.1"]'),
        ("/admin", '["x",{},{}]', (b"0", b"1"), None, '452-/admin,["x",{},{}]'),
    ],
)
def test_an_event_ends_in_its_offset(
    namespace: str, payload: str, attachments: tuple[bytes, ...], offset: str | None, packet: str
) -> None:
    frames = TextEncoder().event(namespace, payload, attachments, offset)
    assert frames.packets == (packet, *attachments)


@pytest.mark.parametrize(("namespace", "prefix"), [("/", ""), ("/admin", "/admin,")])
def test_connect_and_disconnect_name_their_namespace(namespace: str, prefix: str) -> None:
    codec = TextEncoder()
    assert codec.connect(namespace, "s", "p").packets == (f'40{prefix}{{"sid":"s","pid":"p"}}',)
    assert codec.connect(namespace, "s", None).packets == (f'40{prefix}{{"sid":"s"}}',)
    assert codec.disconnect(namespace).packets == (f"41{prefix}",)


@pytest.mark.parametrize("attachments", [(), (b"\0",)])
@pytest.mark.parametrize("payload", ['["none"]', '["one","a \\",\\" b"]', '["two",[1,"2"],{"a":"\\"]"}]'])
@pytest.mark.parametrize("namespace", ["/", "/other"])
def test_event_without_offset(namespace: str, payload: str, attachments: tuple[bytes, ...]) -> None:
    """An event without its offset is the event as emitted, and is encoded once."""
    encoder = TextEncoder()
    frames = encoder.event(namespace, payload, attachments, "epoch.1")
    plain = frames.without_offset
    assert plain.packets == encoder.event(namespace, payload, attachments, None).packets
    assert frames.without_offset is plain and plain.without_offset is plain
    joined = Frames.join([frames, frames])
    assert joined.without_offset.websocket == 2 * plain.websocket
    assert joined.without_offset is joined.without_offset
