"""Whether the promises were kept: what clients saw, held against the log. Pure.

A finding is one event that one client should have seen otherwise, or one answer that was not true.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from socketio_eventstore.verify.history import (
    VOLATILE,
    Connected,
    Evidence,
    History,
    Received,
    SentAway,
)
from socketio_eventstore.verify.rooms import check_moves
from socketio_eventstore.verify.truth import Logged, Session, Truth


class Fault(StrEnum):
    """How a promise can be broken."""

    LOST = "lost"
    """In the log for a session, and its client never received it."""
    REPEATED = "repeated"
    """Received twice, or stored twice."""
    MISORDERED = "misordered"
    """Received after an event with a higher offset."""
    LEAKED = "leaked"
    """Received by somebody for whom it was not."""
    REFUSED = "wrongly refused"
    """A client came back in time and did not get its session."""
    REUSED = "offset reused"
    """One offset for two events, or another one than the log has."""
    UNLOGGED = "not in the log"
    """Received, or acknowledged, but not stored: it was sent before it was committed."""
    ROOMS = "room forgotten"
    """A join or leave was acknowledged and is not stored, or was never asked for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise."""

    fault: Fault
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run."""

    findings: tuple[Finding, ...]
    checked: Mapping[Fault, int]
    """How often each promise could have been broken."""
    returns: int
    """Reconnections with a private id that were answered."""
    recovered: int

    @property
    def kept(self) -> bool:
        """Whether no promise was broken, as far as anybody can see."""
        return not self.findings

    def count(self, fault: Fault) -> int:
        """How often a promise was broken."""
        return sum(finding.fault is fault for finding in self.findings)


class _Bench:
    """What is found, while it is looked for."""

    def __init__(self, evidence: Evidence, truth: Truth) -> None:
        self.truth = truth
        self.by_id = {event.id: event for event in truth.events}
        self.by_namespace: dict[str, list[Logged]] = defaultdict(list)
        for event in truth.events:
            self.by_namespace[event.namespace].append(event)
        # What happens while everybody is about to leave is nobody's loss.
        ends = {e.namespace: e.number for e in truth.events if e.id in evidence.markers}
        self.ends = defaultdict(lambda: truth.events[-1].number if truth.events else 0, ends)
        self.findings: list[Finding] = []
        self.checked: Counter[Fault] = Counter()

    def found(self, fault: Fault, who: str, what: str) -> None:
        self.findings.append(Finding(fault, who, what))


def judge(evidence: Evidence, truth: Truth) -> Verdict:
    """Hold what was seen against the log."""
    bench = _Bench(evidence, truth)
    returns = recovered = 0
    for history in evidence.histories:
        _check_sessions(bench, history)
        answers = [e for e in history.entries if isinstance(e, Connected) and e.returning]
        sent_away = [e for e in history.entries if isinstance(e, SentAway)]
        returns += len(answers) + len(sent_away)
        recovered += sum(answer.recovered for answer in answers)
        for what in (*(f"was given the new session {a.sid}" for a in answers if not a.recovered), *sent_away):
            bench.found(Fault.REFUSED, history.client, str(what))
    bench.checked[Fault.REFUSED] = returns
    _check_offsets(bench, evidence)
    moves = list(evidence.moves)
    bench.checked[Fault.ROOMS] = sum(move.after is not None for move in moves)
    for who, what in check_moves(moves, truth):
        bench.found(Fault.ROOMS, who, what)
    return Verdict(tuple(bench.findings), dict(bench.checked), returns, recovered)


def _check_sessions(bench: _Bench, history: History) -> None:
    received: dict[str, list[Received]] = {e.sid: [] for e in history.entries if isinstance(e, Connected)}
    for entry in history.entries:
        if isinstance(entry, Received) and entry.name != VOLATILE:
            received[entry.sid].append(entry)
    for sid, entries in received.items():
        session = bench.truth.sessions.get((history.namespace, sid))
        if session is None:
            bench.found(Fault.REFUSED, history.client, f"its session {sid} is not in the store")
            continue
        logged = list(_logged(bench, history.client, entries))
        _check_order(bench, history.client, logged)
        is_last = sid == next(reversed(received))
        # A session that was taken from its client can be held to nothing after its last event.
        last = bench.ends[history.namespace] if is_last else max((e.number for e in logged), default=0)
        _check_twin(bench, history.client, session, logged, last)


def _logged(bench: _Bench, client: str, entries: Iterable[Received]) -> Iterator[Logged]:
    for entry in entries:
        bench.checked[Fault.UNLOGGED] += 1
        event = bench.by_id.get(entry.id)
        if event is None:
            bench.found(Fault.UNLOGGED, client, f"received {entry.id} with {entry.offset}")
        else:
            yield event


def _check_order(bench: _Bench, client: str, logged: list[Logged]) -> None:
    seen: set[int] = set()
    highest = 0
    for event in logged:
        if event.number in seen:
            bench.found(Fault.REPEATED, client, f"received {_named(event)} again")
        elif event.number < highest:
            bench.found(Fault.MISORDERED, client, f"received {_named(event)} after number {highest}")
        seen.add(event.number)
        highest = max(highest, event.number)
    bench.checked[Fault.REPEATED] += len(logged)
    bench.checked[Fault.MISORDERED] += len(logged)


def _check_twin(bench: _Bench, client: str, session: Session, logged: list[Logged], last: int) -> None:
    received = {event.number for event in logged}
    for event in logged:
        if not session.is_for(event):
            bench.found(Fault.LEAKED, client, f"received {_named(event)}, which is for {_audience(event)}")
    bench.checked[Fault.LEAKED] += len(logged)
    for event in bench.by_namespace[session.namespace]:
        if event.number > last:
            break
        if session.is_for(event):
            bench.checked[Fault.LOST] += 1
            if event.number not in received:
                bench.found(Fault.LOST, client, f"never received {_named(event)}")


def _check_offsets(bench: _Bench, evidence: Evidence) -> None:
    """Every offset that anybody was told belongs to one event, and the log agrees."""
    told: dict[str, set[str]] = defaultdict(set)
    for event in bench.truth.events:
        told[event.offset].add(event.id)
    for history in evidence.histories:
        for entry in history.entries:
            if isinstance(entry, Received) and entry.name != VOLATILE:
                told[str(entry.offset)].add(entry.id)
    for publication in evidence.published:
        told[str(publication.offset)].add(publication.id)
        bench.checked[Fault.UNLOGGED] += 1
        if publication.id not in bench.by_id:
            bench.found(Fault.UNLOGGED, "a publisher", f"was told {publication.offset} for {publication.id}")
    bench.checked[Fault.REUSED] = len(told)
    for offset, ids in told.items():
        # The number alone, too: another start of the server must not give it to another event.
        strangers = {event.id for event in map(bench.by_id.get, ids) if event and event.offset != offset}
        if len(ids) > 1 or strangers:
            bench.found(Fault.REUSED, offset, f"stands for {', '.join(sorted(ids))}")
    stored = Counter(event.id for event in bench.truth.events)
    for name in (name for name, times in stored.items() if times > 1):
        bench.found(Fault.REPEATED, "the log", f"has {name} {stored[name]} times")


def _named(event: Logged) -> str:
    return f"{event.id} ({event.offset})"


def _audience(event: Logged) -> str:
    rooms = "everyone" if event.rooms is None else ", ".join(sorted(event.rooms))
    return f"{rooms} in {event.namespace}{' but some' if event.skip else ''}"
