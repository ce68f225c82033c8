"""The check of the promises: the clients' histories against the contents of the store. Pure.

A finding is one event received wrongly, or not received, by one client, or one wrong answer of the server.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from socketio_eventstore.verify.history import (
    VOLATILE,
    Connected,
    DisconnectedByServer,
    Evidence,
    History,
    Received,
)
from socketio_eventstore.verify.rooms import check_moves
from socketio_eventstore.verify.store import LoggedEvent, Session, StoreContents


class Fault(StrEnum):
    """The kind of a broken promise."""

    LOST = "lost"
    """An event in the log for a session was never received by the session's client."""
    REPEATED = "repeated"
    """An event was received twice, or stored twice."""
    MISORDERED = "misordered"
    """An event was received after an event with a higher offset."""
    LEAKED = "leaked"
    """A client received an event for other clients."""
    REFUSED = "wrongly refused"
    """A client reconnected in time and did not get its session."""
    REUSED = "offset reused"
    """Two events have one offset, or a client got another offset than the log has."""
    UNLOGGED = "not in the log"
    """An event was received or acknowledged and is not stored: the server sent it before the commit."""
    ROOMS = "rooms differ"
    """An acknowledged join or leave is not stored, or a stored join or leave was never called."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise: ``subject`` (a client, a publisher, an offset, the log) and ``description``."""

    fault: Fault
    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a run."""

    findings: tuple[Finding, ...]
    checked: Mapping[Fault, int]
    """The number of checks by kind of fault."""
    returns: int
    """The number of answered reconnections with a pid."""
    recovered: int

    @property
    def kept(self) -> bool:
        """Whether the run has no finding."""
        return not self.findings

    def count(self, fault: Fault) -> int:
        """Return the number of findings of one kind."""
        return sum(finding.fault is fault for finding in self.findings)


class _Checks:
    """The findings so far, the number of checks, and indexes of the store's events."""

    def __init__(self, evidence: Evidence, store: StoreContents) -> None:
        self.store = store
        self.by_id = {event.id: event for event in store.events}
        self.by_namespace: dict[str, list[LoggedEvent]] = defaultdict(list)
        for event in store.events:
            self.by_namespace[event.namespace].append(event)
        # Events after a marker are not judged: the clients are about to disconnect.
        ends = {e.namespace: e.sequence for e in store.events if e.id in evidence.markers}
        self.ends = defaultdict(lambda: store.events[-1].sequence if store.events else 0, ends)
        self.findings: list[Finding] = []
        self.checked: Counter[Fault] = Counter()

    def add(self, fault: Fault, subject: str, description: str) -> None:
        self.findings.append(Finding(fault, subject, description))


def judge(evidence: Evidence, store: StoreContents) -> Verdict:
    """Compare the records of a run with the contents of the store."""
    checks = _Checks(evidence, store)
    returns = recovered = 0
    for history in evidence.histories:
        _check_sessions(checks, history)
        answers = [e for e in history.entries if isinstance(e, Connected) and e.returning]
        disconnects = [e for e in history.entries if isinstance(e, DisconnectedByServer)]
        returns += len(answers) + len(disconnects)
        recovered += sum(answer.recovered for answer in answers)
        for answer in answers:
            if not answer.recovered:
                checks.add(Fault.REFUSED, history.client, f"got the new session {answer.sid}")
        for disconnect in disconnects:
            checks.add(Fault.REFUSED, history.client, f"was disconnected by packet {disconnect.reason}")
    checks.checked[Fault.REFUSED] = returns
    _check_offsets(checks, evidence)
    moves = list(evidence.moves)
    checks.checked[Fault.ROOMS] = sum(move.after is not None for move in moves)
    for subject, description in check_moves(moves, store):
        checks.add(Fault.ROOMS, subject, description)
    return Verdict(tuple(checks.findings), dict(checks.checked), returns, recovered)


def _check_sessions(checks: _Checks, history: History) -> None:
    received: dict[str, list[Received]] = {e.sid: [] for e in history.entries if isinstance(e, Connected)}
    for entry in history.entries:
        if isinstance(entry, Received) and entry.name != VOLATILE:
            received[entry.sid].append(entry)
    for sid, entries in received.items():
        session = checks.store.sessions.get((history.namespace, sid))
        if session is None:
            checks.add(Fault.REFUSED, history.client, f"had the session {sid}, which is not in the store")
            continue
        logged = list(_logged(checks, history.client, entries))
        _check_order(checks, history.client, logged)
        is_last = sid == next(reversed(received))
        # A session replaced by a new session is checked up to its last received event only.
        last = checks.ends[history.namespace] if is_last else max((e.sequence for e in logged), default=0)
        _check_twin(checks, history.client, session, logged, last)


def _logged(checks: _Checks, client: str, entries: Iterable[Received]) -> Iterator[LoggedEvent]:
    for entry in entries:
        checks.checked[Fault.UNLOGGED] += 1
        event = checks.by_id.get(entry.id)
        if event is None:
            checks.add(Fault.UNLOGGED, client, f"received {entry.id} with {entry.offset}")
        else:
            yield event


def _check_order(checks: _Checks, client: str, logged: list[LoggedEvent]) -> None:
    seen: set[int] = set()
    highest = 0
    for event in logged:
        if event.sequence in seen:
            checks.add(Fault.REPEATED, client, f"received {_named(event)} again")
        elif event.sequence < highest:
            checks.add(Fault.MISORDERED, client, f"received {_named(event)} after sequence {highest}")
        seen.add(event.sequence)
        highest = max(highest, event.sequence)
    checks.checked[Fault.REPEATED] += len(logged)
    checks.checked[Fault.MISORDERED] += len(logged)


def _check_twin(checks: _Checks, client: str, session: Session, logged: list[LoggedEvent], last: int) -> None:
    received = {event.sequence for event in logged}
    for event in logged:
        if not session.receives(event):
            checks.add(Fault.LEAKED, client, f"received {_named(event)}, an event for {_audience(event)}")
    checks.checked[Fault.LEAKED] += len(logged)
    for event in checks.by_namespace[session.namespace]:
        if event.sequence > last:
            break
        if session.receives(event):
            checks.checked[Fault.LOST] += 1
            if event.sequence not in received:
                checks.add(Fault.LOST, client, f"never received {_named(event)}")


def _check_offsets(checks: _Checks, evidence: Evidence) -> None:
    """Check that each offset sent to a client belongs to one event, and equals the log's offset."""
    ids_of: dict[str, set[str]] = defaultdict(set)
    for event in checks.store.events:
        ids_of[event.offset].add(event.id)
    for history in evidence.histories:
        for entry in history.entries:
            if isinstance(entry, Received) and entry.name != VOLATILE:
                ids_of[str(entry.offset)].add(entry.id)
    for publication in evidence.published:
        ids_of[str(publication.offset)].add(publication.id)
        checks.checked[Fault.UNLOGGED] += 1
        if publication.id not in checks.by_id:
            checks.add(Fault.UNLOGGED, "a publisher", f"got {publication.offset} for {publication.id}")
    checks.checked[Fault.REUSED] = len(ids_of)
    for offset, ids in ids_of.items():
        # The epoch counts, too: a sequence of another epoch is another offset.
        others = {event.id for event in map(checks.by_id.get, ids) if event and event.offset != offset}
        if len(ids) > 1 or others:
            checks.add(Fault.REUSED, offset, f"is the offset of {', '.join(sorted(ids))}")
    stored = Counter(event.id for event in checks.store.events)
    for event_id in (event_id for event_id, times in stored.items() if times > 1):
        checks.add(Fault.REPEATED, "the log", f"has {event_id} {stored[event_id]} times")


def _named(event: LoggedEvent) -> str:
    return f"{event.id} ({event.offset})"


def _audience(event: LoggedEvent) -> str:
    rooms = "all rooms" if event.rooms is None else ", ".join(sorted(event.rooms))
    return f"{rooms} in {event.namespace}{' with skipped sessions' if event.skip else ''}"
