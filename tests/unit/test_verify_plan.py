"""The plan and the packets of ``verify``, without a server."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketio_eventstore.verify import packets
from socketio_eventstore.verify.faults import Kill
from socketio_eventstore.verify.packets import InvalidPacket
from socketio_eventstore.verify.plan import Cut, Move, Settings, make_plan, publications


def test_seed() -> None:
    """Equal seeds give equal plans, and different seeds give different plans."""
    plan = make_plan(Settings(seed=7))
    assert plan == make_plan(Settings(seed=7)) != make_plan(Settings(seed=8))
    assert list(islice(publications(plan, 0), 100)) == list(islice(publications(plan, 0), 100))
    assert list(islice(publications(plan, 0), 100)) != list(islice(publications(plan, 1), 100))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 30), st.integers(0, 5), st.integers(0, 99))
def test_plan_has_the_settings(clients: int, rooms: int, cuts: int, kills: int, seed: int) -> None:
    """A plan has the numbers of the settings, and leaves only joined rooms."""
    plan = make_plan(Settings(clients=clients, rooms=rooms, cuts=cuts, kills=kills, events=500, seed=seed))
    actions = [step.action for step in plan.steps]
    assert len(plan.members) == clients
    assert sum(isinstance(action, Cut) for action in actions) == cuts
    assert sum(isinstance(action, Kill) for action in actions) == kills
    assert abs(sum(step.after_events for step in plan.steps) - 500) <= len(actions)
    joined = [set(member.rooms) for member in plan.members]
    for action in actions:
        moves = action.moves if isinstance(action, Cut) else [action] if isinstance(action, Move) else []
        for move in moves:
            assert (move.room in joined[move.client]) != move.joining
            joined[move.client] ^= {move.room}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('0{"sid":"s"}', packets.Packet("0", 0, "/", None, {"sid": "s"})),
        ("1/other,", packets.Packet("1", 0, "/other", None, None)),
        ('2["a",1]', packets.Packet("2", 0, "/", None, ["a", 1])),
        ('2/other,12["a"]', packets.Packet("2", 0, "/other", 12, ["a"])),
        ('51-/other,["a",{}]', packets.Packet("5", 1, "/other", None, ["a", {}])),
        ('30["x.1"]', packets.Packet("3", 0, "/", 0, ["x.1"])),
    ],
)
def test_decode(text: str, expected: packets.Packet) -> None:
    """decode reads each type of packet."""
    assert packets.decode(text) == expected


@pytest.mark.parametrize("text", ["", "x", "2[", "9[]"])
def test_decode_invalid_packet(text: str) -> None:
    """decode raises InvalidPacket for any other text."""
    with pytest.raises(InvalidPacket):
        packets.decode(text)


def test_with_attachments() -> None:
    """with_attachments replaces placeholders by attachments."""
    data = ["a", {"b": [{"_placeholder": True, "num": 1}, {"_placeholder": True, "num": 0}]}]
    assert packets.with_attachments(data, [b"0", b"1"]) == ["a", {"b": [b"1", b"0"]}]
