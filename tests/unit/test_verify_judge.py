"""``verify``'s plan and judgement, without a server: each kind of broken promise is counted as what it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketio_eventstore.verify import packets
from socketio_eventstore.verify.history import (
    VOLATILE,
    Connected,
    Entry,
    Evidence,
    History,
    Moved,
    Published,
    Received,
    SentAway,
)
from socketio_eventstore.verify.judge import Fault, judge
from socketio_eventstore.verify.packets import NotAPacket
from socketio_eventstore.verify.plan import Cut, Kill, Move, Settings, make_plan, publications
from socketio_eventstore.verify.report import report
from socketio_eventstore.verify.truth import Logged, Membership, Session, Truth
from socketio_eventstore.verify.world import Outcome


def logged(number: int, *, rooms: set[str] | None = None, skip: str = "", namespace: str = "/") -> Logged:
    audience = None if rooms is None else frozenset(rooms)
    return Logged(number, f"b.{number}", f"e{number}", namespace, audience, frozenset([skip] if skip else []))


# Ann is in the kitchen after 4 and through 8: 5 and 8 are for her there, 3 and 9 are not.
EVENTS = (
    logged(1),
    logged(2),
    logged(3, rooms={"kitchen"}),
    logged(4, rooms={"ann"}),
    logged(5, rooms={"kitchen", "hall"}),
    logged(6, skip="ann"),
    logged(7, namespace="/other"),
    logged(8, rooms={"kitchen"}),
    logged(9, rooms={"kitchen"}),
    logged(10, rooms={"bob"}),
    logged(11),
    logged(12),
)
FOR_ANN = (2, 4, 5, 8, 11)
"""12 comes after the marker; her session starts after 1."""
ANN = Session("/", "ann", 1, (Membership("kitchen", 4, 8),))
TRUTH = Truth(EVENTS, {("/", "ann"): ANN})
MOVES = (Moved("/", "ann", "kitchen", True, "b.4", "b.5"), Moved("/", "ann", "kitchen", False, "b.8", "b.9"))


def received(number: int, sid: str = "ann", offset: str | None = None) -> Received:
    return Received(sid, "numbered", f"e{number}", offset or f"b.{number}")


def evidence(
    *entries: Entry, published: tuple[Published, ...] = (), moves: tuple[Moved, ...] = MOVES
) -> Evidence:
    history = History("client 0", "/", [Connected("ann", returning=False, recovered=False), *entries])
    return Evidence((history,), published, moves, frozenset({"e11"}))


def faults(given_evidence: Evidence, truth: Truth = TRUTH) -> Counter[Fault]:
    return Counter(finding.fault for finding in judge(given_evidence, truth).findings)


CLEAN = tuple(received(number) for number in FOR_ANN)


def test_a_client_that_received_what_its_twin_would_have_is_content() -> None:
    verdict = judge(evidence(*CLEAN), TRUTH)
    assert verdict.kept
    assert verdict.checked[Fault.LOST] == verdict.checked[Fault.LEAKED] == len(FOR_ANN)
    assert verdict.checked[Fault.ROOMS] == 2


def test_what_comes_after_the_marker_is_neither_owed_nor_leaked() -> None:
    assert not faults(evidence(*CLEAN, received(12)))


@pytest.mark.parametrize("missing", FOR_ANN)
def test_an_event_that_is_missing_is_lost(missing: int) -> None:
    rest = [entry for entry in CLEAN if entry.id != f"e{missing}"]
    assert faults(evidence(*rest)) == {Fault.LOST: 1}


@pytest.mark.parametrize("stranger", [1, 3, 6, 7, 9, 10])
def test_an_event_that_is_for_others_is_leaked(stranger: int) -> None:
    entries = sorted([*CLEAN, received(stranger)], key=lambda entry: int(entry.id[1:]))
    assert faults(evidence(*entries)) == {Fault.LEAKED: 1}


def test_an_event_that_comes_twice_is_repeated_wherever_it_comes() -> None:
    assert faults(evidence(*CLEAN, CLEAN[0])) == {Fault.REPEATED: 1}
    assert faults(evidence(CLEAN[0], *CLEAN)) == {Fault.REPEATED: 1}


def test_an_event_after_a_later_one_is_misordered() -> None:
    first, second, *rest = CLEAN
    assert faults(evidence(second, first, *rest)) == {Fault.MISORDERED: 1}
    assert faults(evidence(*rest, first, second)) == {Fault.MISORDERED: 2}


@given(st.permutations(range(len(CLEAN))))
def test_every_order_but_the_right_one_is_found(order: list[int]) -> None:
    found = faults(evidence(*[CLEAN[index] for index in order]))
    assert set(found) == (set() if order == sorted(order) else {Fault.MISORDERED})


def test_what_is_received_and_not_in_the_log_was_sent_too_early() -> None:
    assert faults(evidence(*CLEAN, received(99))) == {Fault.UNLOGGED: 1}


def test_what_is_acknowledged_and_not_in_the_log_was_not_durable() -> None:
    assert faults(evidence(*CLEAN, published=(Published("e99", "b.99"),))) == {Fault.UNLOGGED: 1}


def test_an_acknowledgement_with_another_offset_than_the_log_has_is_found() -> None:
    assert not faults(evidence(*CLEAN, published=(Published("e5", "b.5"),)))
    assert faults(evidence(*CLEAN, published=(Published("e5", "b.77"),))) == {Fault.REUSED: 1}
    assert faults(evidence(*CLEAN, published=(Published("e5", None),))) == {Fault.REUSED: 1}


def test_an_offset_that_two_events_came_with_is_reused() -> None:
    entries = [received(4, offset="b.2") if entry.id == "e4" else entry for entry in CLEAN]
    assert faults(evidence(*entries)) == {Fault.REUSED: 1}


def test_the_same_number_of_another_start_of_the_server_is_another_offset() -> None:
    entries = [received(4, offset="c.4") if entry.id == "e4" else entry for entry in CLEAN]
    assert faults(evidence(*entries)) == {Fault.REUSED: 1}


def test_an_event_that_is_stored_twice_is_repeated() -> None:
    twice = replace(TRUTH, events=(*EVENTS, replace(EVENTS[11], number=13, offset="b.13")))
    assert faults(evidence(*CLEAN), twice)[Fault.REPEATED] == 1


def test_volatile_events_are_nobody_s_business() -> None:
    assert not faults(evidence(*CLEAN, Received("ann", VOLATILE, "v1", "b.11")))


def test_a_returning_client_with_a_new_session_was_refused() -> None:
    ann = Connected("ann", returning=True, recovered=True)
    bob = Connected("bob", returning=True, recovered=False)
    both = replace(TRUTH, sessions={("/", "ann"): ANN, ("/", "bob"): Session("/", "bob", 9, ())})
    story = evidence(*CLEAN[:3], ann, *CLEAN[3:4], bob, received(10, "bob"), received(11, "bob"))
    verdict = judge(story, both)
    # What the first session would have received later is nobody's loss beside that.
    assert [finding.fault for finding in verdict.findings] == [Fault.REFUSED]
    assert (verdict.recovered, verdict.returns) == (1, 2)


def test_a_client_that_was_sent_away_was_refused() -> None:
    assert faults(evidence(*CLEAN, SentAway("1 None"))) == {Fault.REFUSED: 1}


def test_a_session_that_is_not_stored_was_refused() -> None:
    assert faults(evidence(), Truth(EVENTS, {}))[Fault.REFUSED] == 1


# Rooms ----------------------------------------------------------------------------------------------


def stored(*memberships: Membership) -> Truth:
    return Truth(EVENTS, {("/", "ann"): replace(ANN, memberships=memberships)})


@pytest.mark.parametrize(
    "memberships",
    [
        pytest.param([], id="forgotten"),
        pytest.param([Membership("kitchen", 4, None)], id="the leave forgotten"),
        pytest.param([Membership("kitchen", 1, 8)], id="joined too early"),
        pytest.param([Membership("kitchen", 4, 6)], id="left too early"),
        pytest.param([Membership("kitchen", 4, 8), Membership("kitchen", 10, None)], id="again, unasked"),
        pytest.param([Membership("kitchen", 4, 8), Membership("hall", 4, 8)], id="another room"),
    ],
)
def test_stored_memberships_that_differ_from_what_was_acknowledged_are_found(
    memberships: list[Membership],
) -> None:
    assert faults(evidence(*CLEAN), stored(*memberships))[Fault.ROOMS] >= 1


def test_a_join_that_was_not_acknowledged_may_have_happened_or_not() -> None:
    unknown = (Moved("/", "ann", "kitchen", True, None, None),)
    for truth in (stored(), stored(Membership("kitchen", 4, 8))):
        assert not faults(evidence(*CLEAN, moves=unknown), truth)[Fault.ROOMS]


def test_joining_a_room_that_one_is_in_changes_nothing() -> None:
    again = (MOVES[0], Moved("/", "ann", "kitchen", True, "b.5", "b.7"), MOVES[1])
    assert not faults(evidence(*CLEAN, moves=again))


# The plan -------------------------------------------------------------------------------------------


def test_a_seed_makes_one_plan_and_another_seed_another() -> None:
    plan = make_plan(Settings(seed=7))
    assert plan == make_plan(Settings(seed=7)) != make_plan(Settings(seed=8))
    assert list(islice(publications(plan, 0), 100)) == list(islice(publications(plan, 0), 100))
    assert list(islice(publications(plan, 0), 100)) != list(islice(publications(plan, 1), 100))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 30), st.integers(0, 5), st.integers(0, 99))
def test_a_plan_has_what_was_asked_for(clients: int, rooms: int, cuts: int, kills: int, seed: int) -> None:
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


# Packets and the report -----------------------------------------------------------------------------


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
def test_packets_are_read(text: str, expected: packets.Packet) -> None:
    assert packets.decode(text) == expected


@pytest.mark.parametrize("text", ["", "x", "2[", "9[]"])
def test_what_is_no_packet_is_refused(text: str) -> None:
    with pytest.raises(NotAPacket):
        packets.decode(text)


def test_attachments_take_the_places_of_their_placeholders() -> None:
    data = ["a", {"b": [{"_placeholder": True, "num": 1}, {"_placeholder": True, "num": 0}]}]
    assert packets.filled(data, [b"0", b"1"]) == ["a", {"b": [b"1", b"0"]}]


def test_the_report_names_what_was_broken_and_how_to_repeat_it() -> None:
    settings = Settings(seed=42)
    broken = judge(evidence(*CLEAN[1:], SentAway("1 None")), TRUTH)
    text = report(settings, Outcome(broken, 12, 5, Counter(cuts=3, kills=1), ("the server yawned",)))
    assert "lost" in text and "never received e2 (b.2)" in text
    assert "Note: the server yawned." in text and "PROMISES WERE BROKEN." in text
    assert "--clients 50 --rooms 10 --cuts 200 --kills 30" in text and text.endswith("--seed 42")
    kept = judge(evidence(*CLEAN), TRUTH)
    assert "All promises were kept." in report(settings, Outcome(kept, 12, 5, Counter(), ()))
