"""The changes of a batch as the parameters of ``eventstore.append``, and the answer as a batch. No I/O.

The events are columns: arrays in the text form of PostgreSQL, made by few calls of Python for a batch. The
other changes are JSON, in runs of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from socketio_eventlog.changes import (
    Answered,
    Asked,
    Change,
    Committed,
    Departed,
    EventHandled,
    Heartbeat,
    NodeDied,
    Pruned,
    Published,
    Redacted,
    Volatile,
)
from socketio_eventlog.errors import StoreRejected
from socketio_eventlog.event_rows import FEW, as_json, few_as_json
from socketio_eventlog.events import Event, Room
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    TokenAccepted,
)

CONDITIONAL: Final = frozenset(
    {SessionClaimed, SessionResumed, SessionAway, SessionEnded, Redacted, NodeDied}
)
"""The changes with an outcome from the database."""
_BETWEEN: Final = "\x1f"
"""A character that JSON has only in escaped form."""


class Body(NamedTuple):
    """The content of a batch, as parameters."""

    digest: bytes
    """SHA-256 of the rest: a number of a batch names a single content."""
    changes: str
    events: tuple[str, ...]
    """Eight arrays, an array for each column."""
    contents: tuple[list[int], list[int], list[bytes]]
    """The events, numbers and contents of attachments."""


def encode(changes: Sequence[Change]) -> Body:
    """Return the parameters. Raises StoreRejected for a change unknown to this engine."""
    runs, events = list[Any](), list[Event]()
    for kind, run in groupby(changes, type):
        if kind is Event:
            events += run  # type: ignore[arg-type]  # all of one type
        elif kind in _ROWS:
            runs += [(name, len(events), rows) for name, rows in _runs(kind, run)]
        else:
            raise StoreRejected("A node joins by join, and by no change.")
    text = json.dumps(runs, separators=(",", ":"))
    columns = _columns(events) if events else _NO_EVENTS
    contents = _contents(events)
    digest = sha256(text.encode())
    for column in columns:
        digest.update(column.encode())
    for content in contents[2]:
        digest.update(content)
    return Body(digest.digest(), text, columns, contents)


def decode(changes: Sequence[Change], before: int, outcomes: Sequence[int]) -> list[Committed]:
    """Return the changes with places after the event ``before``, and with outcomes."""
    position, committed, left = before, list[Committed](), iter(outcomes)
    for change in changes:
        kind = type(change)
        if kind is Event:
            position += 1
            committed.append(Committed(change, position))
        elif kind in CONDITIONAL:
            outcome = next(left)
            committed.append(Committed(change, position, outcome >= 0, max(outcome, 0)))
        else:
            committed.append(Committed(change, position, claim=1 if kind is SessionOpened else 0))
    return committed


# Events -----------------------------------------------------------------------------------------------


def _columns(events: Sequence[Event]) -> tuple[str, ...]:
    namespaces, names, payloads, _, rooms, skips, times = zip(*events, strict=True)
    sizes = [event.size_bytes for event in events]
    attachments = [len(event.attachments) for event in events]
    return (
        _numbers(times),
        _array(map(_quoted, namespaces)),
        _array(map(_quoted, names)),
        _array([_quoted_names(names) for names in rooms]),
        _array([_quoted_names(names or None) for names in skips]),
        _numbers(sizes),
        _numbers(attachments),
        '{"' + _escaped(_BETWEEN.join(payloads)).replace(_BETWEEN, '","') + '"}',
    )


_NO_EVENTS: Final = ("{}",) * 8


def _array(elements: Iterator[str] | Sequence[str]) -> str:
    return "{" + ",".join(elements) + "}"


def _numbers(numbers: Sequence[float]) -> str:
    return "{" + ",".join(map(repr, numbers)) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _quoted_names(names: tuple[Room, ...] | None) -> str:
    if names is None:
        return "NULL"
    return _few_quoted(names) if len(names) <= FEW else f'"{_escaped(as_json(names))}"'


@lru_cache(maxsize=1024)
def _few_quoted(names: tuple[Room, ...]) -> str:
    return f'"{_escaped(few_as_json(names))}"'


def _contents(events: Sequence[Event]) -> tuple[list[int], list[int], list[bytes]]:
    found = [
        (number, num, content)
        for number, event in enumerate(events, 1)
        for num, content in enumerate(event.attachments)
    ]
    return [row[0] for row in found], [row[1] for row in found], [row[2] for row in found]


# The other changes ------------------------------------------------------------------------------------


def room_text(room: Room) -> str:
    """Return a room as in the table: 42 and "42" are different rooms."""
    return json.dumps(room, ensure_ascii=False)


def _runs(kind: type, run: Iterable[Any]) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Return the name of a kind with the rows of its changes, which one statement writes.

    Of two leaves of one room in one statement, PostgreSQL would take any: the first one must count. So the
    leaves of a run have the same last event.
    """
    name, row = _ROWS[kind]
    if kind is RoomLeft:
        return [(name, list(map(row, leaves))) for _, leaves in groupby(run, attrgetter("through"))]
    return [(name, [row(change) for change in run])]


def _opened(change: SessionOpened) -> tuple[object, ...]:
    auth_hash = None if change.auth_hash is None else change.auth_hash.hex()
    session = change.namespace, change.sid, change.pid_hash.hex()
    asked_for = None
    if (asked := change.instead_of) is not None:
        asked_for = asked.result, asked.sid, None if asked.pid_hash is None else asked.pid_hash.hex()
    return (*session, change.former_offset, change.opened_at, auth_hash, asked_for)


def _resumed(change: SessionResumed) -> tuple[object, ...]:
    deferred = []
    for kind, run in groupby(change.deferred, type):
        deferred += _runs(kind, run)
    return change.namespace, change.sid, change.claim, change.resumed_at, deferred, change.missed


def _away(change: SessionAway) -> tuple[object, ...]:
    times = change.disconnected_at, change.confirmed
    reasons = change.reason or None, change.refusal
    return (change.namespace, change.sid, change.claim, *times, change.left_by_client, *reasons)


def _token_accepted(change: TokenAccepted) -> tuple[object, ...]:
    return change.namespace, change.sid, change.expires_at, json.dumps(change.rooms, ensure_ascii=False)


def _unstored(*values: object) -> tuple[object, ...]:
    """A JSON text in the row: jsonb would refuse some characters, and change numbers."""
    return (json.dumps(values),)


def _with_hex(event: Event) -> tuple[object, ...]:
    contents = [content.hex() for content in event.attachments]
    return event.namespace, event.name, event.payload, contents, event.rooms, event.skip, event.emitted_at


def _answered(change: Answered) -> tuple[object, ...]:
    contents = [content.hex() for content in change.attachments]
    return _unstored(change.node, change.request, change.arguments, contents)


_ROWS: Final[dict[type, tuple[str, Callable[[Any], tuple[object, ...]]]]] = {
    SessionOpened: ("opened", _opened),
    SessionClaimed: ("claimed", lambda one: (one.namespace, one.sid)),
    SessionResumed: ("resumed", _resumed),
    SessionAway: ("away", _away),
    SessionEnded: ("ended", lambda one: (one.namespace, one.sid, one.claim, one.reason.value)),
    SessionBound: ("bound", lambda one: (one.namespace, one.sid, one.identity)),
    TokenAccepted: ("token", _token_accepted),
    IdentityRevoked: ("revoked", lambda one: (one.identity,)),
    DataSaved: ("saved", lambda one: (one.namespace, one.sid, one.data)),
    RoomJoined: ("joined", lambda one: (one.namespace, one.sid, room_text(one.room))),
    RoomLeft: ("left", lambda one: (one.namespace, one.sid, room_text(one.room), one.through)),
    RoomClosed: ("closed", lambda one: (one.namespace, room_text(one.room))),
    EventHandled: (
        "handled",
        lambda one: (one.namespace, one.name, one.identity, one.key, one.acknowledgement),
    ),
    Published: ("published", lambda one: (one.publisher, one.key, one.digest.hex(), one.events)),
    NodeDied: ("died", lambda one: (one.node,)),
    Heartbeat: ("heartbeat", lambda one: (one.applied, one.floor, one.notes_position)),
    Pruned: ("pruned", lambda one: (one.through,)),
    Redacted: ("redacted", lambda one: (one.sequence, one.name, one.payload)),
    Departed: ("departed", lambda one: _unstored(one.namespace, one.sid, one.claim)),
    Volatile: ("volatile", lambda one: _unstored(*_with_hex(one.event))),
    Asked: ("asked", lambda one: _unstored(one.request, *_with_hex(one.event))),
    Answered: ("answered", _answered),
}
"""By type the name of the kind in ``eventstore.write_run`` and ``eventstore.decide``, and the row."""
