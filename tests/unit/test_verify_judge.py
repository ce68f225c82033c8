"""The judge of ``verify``, without a server: each kind of broken promise is a finding of its own kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socketio_eventstore.verify.history import (
    VOLATILE,
    Connected,
    DisconnectedByServer,
    Entry,
    Evidence,
    History,
    Moved,
    Published,
    Received,
)
from socketio_eventstore.verify.judge import Fault, judge
from socketio_eventstore.verify.plan import Settings
from socketio_eventstore.verify.report import report
from socketio_eventstore.verify.runner import Outcome
from socketio_eventstore.verify.store import LoggedEvent, Membership, Session, StoreContents


def logged(
    number: int, *, rooms: set[str] | None = None, skip: str = "", namespace: str = "/"
) -> LoggedEvent:
    audience = None if rooms is None else frozenset(rooms)
    return LoggedEvent(
        number, f"b.{number}", f"e{number}", namespace, audience, frozenset([skip] if skip else [])
    )


# Ann is in the kitchen after 4 and through 8: events 5 and 8 are for Ann, events 3 and 9 are not.
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
"""Event 12 follows the marker; Ann's session starts after event 1."""
ANN = Session("/", "ann", 1, (Membership("kitchen", 4, 8),))
STORE = StoreContents(EVENTS, {("/", "ann"): ANN})
MOVES = (Moved("/", "ann", "kitchen", True, "b.4", "b.5"), Moved("/", "ann", "kitchen", False, "b.8", "b.9"))


def received(number: int, sid: str = "ann", offset: str | None = None) -> Received:
    return Received(sid, "numbered", f"e{number}", offset or f"b.{number}")


def evidence(
    *entries: Entry, published: tuple[Published, ...] = (), moves: tuple[Moved, ...] = MOVES
) -> Evidence:
    history = History("client 0", "/", [Connected("ann", returning=False, recovered=False), *entries])
    return Evidence((history,), published, moves, frozenset({"e11"}))


def faults(given_evidence: Evidence, store: StoreContents = STORE) -> Counter[Fault]:
    return Counter(finding.fault for finding in judge(given_evidence, store).findings)


CLEAN = tuple(received(number) for number in FOR_ANN)


def test_no_finding() -> None:
    """A client with the events of its twin has no finding."""
    verdict = judge(evidence(*CLEAN), STORE)
    assert verdict.kept
    assert verdict.checked[Fault.LOST] == verdict.checked[Fault.LEAKED] == len(FOR_ANN)
    assert verdict.checked[Fault.ROOMS] == 2


def test_events_after_the_marker() -> None:
    """An event after the marker is neither lost nor leaked."""
    assert not faults(evidence(*CLEAN, received(12)))


@pytest.mark.parametrize("missing", FOR_ANN)
def test_lost(missing: int) -> None:
    """An event that the client never received is lost."""
    rest = [entry for entry in CLEAN if entry.id != f"e{missing}"]
    assert faults(evidence(*rest)) == {Fault.LOST: 1}


@pytest.mark.parametrize("stranger", [1, 3, 6, 7, 9, 10])
def test_leaked(stranger: int) -> None:
    """An event for other clients is leaked."""
    entries = sorted([*CLEAN, received(stranger)], key=lambda entry: int(entry.id[1:]))
    assert faults(evidence(*entries)) == {Fault.LEAKED: 1}


def test_repeated() -> None:
    """An event received twice is repeated, at any position."""
    assert faults(evidence(*CLEAN, CLEAN[0])) == {Fault.REPEATED: 1}
    assert faults(evidence(CLEAN[0], *CLEAN)) == {Fault.REPEATED: 1}


def test_misordered() -> None:
    """An event received after a later event is misordered."""
    first, second, *rest = CLEAN
    assert faults(evidence(second, first, *rest)) == {Fault.MISORDERED: 1}
    assert faults(evidence(*rest, first, second)) == {Fault.MISORDERED: 2}


@given(st.permutations(range(len(CLEAN))))
def test_any_order(order: list[int]) -> None:
    """Every order of events except the log's order is misordered."""
    found = faults(evidence(*[CLEAN[index] for index in order]))
    assert set(found) == (set() if order == sorted(order) else {Fault.MISORDERED})


def test_received_and_unlogged() -> None:
    """A received event that is not in the log is unlogged."""
    assert faults(evidence(*CLEAN, received(99))) == {Fault.UNLOGGED: 1}


def test_acknowledged_and_unlogged() -> None:
    """An acknowledged event that is not in the log is unlogged."""
    assert faults(evidence(*CLEAN, published=(Published("e99", "b.99"),))) == {Fault.UNLOGGED: 1}


def test_acknowledged_offset_differs() -> None:
    """An acknowledged offset that differs from the log's offset is reused."""
    assert not faults(evidence(*CLEAN, published=(Published("e5", "b.5"),)))
    assert faults(evidence(*CLEAN, published=(Published("e5", "b.77"),))) == {Fault.REUSED: 1}
    assert faults(evidence(*CLEAN, published=(Published("e5", None),))) == {Fault.REUSED: 1}


def test_offset_of_two_events() -> None:
    """An offset received with two events is reused."""
    entries = [received(4, offset="b.2") if entry.id == "e4" else entry for entry in CLEAN]
    assert faults(evidence(*entries)) == {Fault.REUSED: 1}


def test_offset_of_another_epoch() -> None:
    """An offset with the right sequence and another epoch is reused."""
    entries = [received(4, offset="c.4") if entry.id == "e4" else entry for entry in CLEAN]
    assert faults(evidence(*entries)) == {Fault.REUSED: 1}


def test_stored_twice() -> None:
    """An event stored twice is repeated."""
    twice = replace(STORE, events=(*EVENTS, replace(EVENTS[11], sequence=13, offset="b.13")))
    assert faults(evidence(*CLEAN), twice)[Fault.REPEATED] == 1


def test_volatile_events() -> None:
    """Volatile events are not judged."""
    assert not faults(evidence(*CLEAN, Received("ann", VOLATILE, "v1", "b.11")))


def test_new_session() -> None:
    """A reconnection that got a new session is refused, and has no other finding."""
    ann = Connected("ann", returning=True, recovered=True)
    bob = Connected("bob", returning=True, recovered=False)
    both = replace(STORE, sessions={("/", "ann"): ANN, ("/", "bob"): Session("/", "bob", 9, ())})
    story = evidence(*CLEAN[:3], ann, *CLEAN[3:4], bob, received(10, "bob"), received(11, "bob"))
    verdict = judge(story, both)
    # The later events of the first session are not lost in addition.
    assert [finding.fault for finding in verdict.findings] == [Fault.REFUSED]
    assert (verdict.recovered, verdict.returns) == (1, 2)


def test_disconnected_by_server() -> None:
    """A client disconnected by the server is refused."""
    assert faults(evidence(*CLEAN, DisconnectedByServer("1 None"))) == {Fault.REFUSED: 1}


def test_session_not_stored() -> None:
    """A session that is not in the store is refused."""
    assert faults(evidence(), StoreContents(EVENTS, {}))[Fault.REFUSED] == 1


# Rooms ----------------------------------------------------------------------------------------------


def stored(*memberships: Membership) -> StoreContents:
    return StoreContents(EVENTS, {("/", "ann"): replace(ANN, memberships=memberships)})


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
def test_memberships_differ(
    memberships: list[Membership],
) -> None:
    """Stored memberships that differ from the acknowledged moves are found."""
    assert faults(evidence(*CLEAN), stored(*memberships))[Fault.ROOMS] >= 1


def test_join_without_acknowledgement() -> None:
    """A join without an acknowledgement may be stored or not."""
    unknown = (Moved("/", "ann", "kitchen", True, None, None),)
    for store in (stored(), stored(Membership("kitchen", 4, 8))):
        assert not faults(evidence(*CLEAN, moves=unknown), store)[Fault.ROOMS]


def test_second_join() -> None:
    """A second join of a room changes nothing."""
    again = (MOVES[0], Moved("/", "ann", "kitchen", True, "b.5", "b.7"), MOVES[1])
    assert not faults(evidence(*CLEAN, moves=again))


# The report -----------------------------------------------------------------------------------------


def test_report() -> None:
    """The report names the broken promises and the command for a repetition."""
    settings = Settings(seed=42)
    broken = judge(evidence(*CLEAN[1:], DisconnectedByServer("1 None")), STORE)
    text = report(settings, Outcome(broken, 12, 5, Counter(cuts=3, kills=1), ("the server yawned",)))
    assert "lost" in text and "never received e2 (b.2)" in text
    assert "Note: the server yawned." in text and "PROMISES WERE BROKEN." in text
    assert "--clients 50 --rooms 10 --cuts 200 --kills 30" in text and text.endswith("--seed 42")
    kept = judge(evidence(*CLEAN), STORE)
    assert "All promises were kept." in report(settings, Outcome(kept, 12, 5, Counter(), ()))
