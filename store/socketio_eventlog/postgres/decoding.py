"""The batches of other nodes, from the rows of the database. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Final

from socketio_eventlog.changes import (
    Answered,
    Asked,
    Change,
    Committed,
    Departed,
    EventHandled,
    Heartbeat,
    NodeDied,
    NodeJoined,
    Pruned,
    Published,
    Redacted,
    Volatile,
)
from socketio_eventlog.errors import NodeOutdated
from socketio_eventlog.events import Event, Room
from socketio_eventlog.postgres.encoding import CONDITIONAL
from socketio_eventlog.session_changes import (
    DataSaved,
    IdentityRevoked,
    RefusedRecovery,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionClaimed,
    SessionEnd,
    SessionEnded,
    SessionOpened,
    SessionResumed,
    TokenAccepted,
)

GONE: Final = Event("/", "", '[""]', (), (), (), 0.0)
"""In the place of a deleted event: an event without recipients."""


# As ``Committed(*values)``, for a fourth of the time: a batch may have a thousand events.
_committed: Final[Callable[[Iterable[Any]], Committed]] = partial(tuple.__new__, Committed)

OPTIONAL: Final = "optional_"
"""The prefix of kinds of changes that an older program may leave out. Such changes have no outcomes."""


def decode_stored(
    changes: str, before: int, outcomes: Sequence[int], events: Sequence[Event]
) -> list[Committed]:
    """Return the changes of a batch with places and outcomes.

    ``before``: the sequence before the batch's ``events``; ``GONE`` stands for a deleted event. Raises
    NodeOutdated for a mandatory change of a newer program.
    """
    committed, position, left = list[Committed](), before, iter(outcomes)
    for name, count, rows in json.loads(changes):
        if position < before + count:
            committed += _stored(events, before, position, before + count)
            position = before + count
        if name not in _CHANGES and name.startswith(OPTIONAL):
            continue
        for row in rows:
            change = _change(name, row)
            kind = type(change)
            if kind in CONDITIONAL:
                outcome = next(left)
                committed.append(Committed(change, position, outcome >= 0, max(outcome, 0)))
            else:
                committed.append(Committed(change, position, claim=1 if kind is SessionOpened else 0))
    committed += _stored(events, before, position, before + len(events))
    return committed


def _stored(events: Sequence[Event], before: int, after: int, through: int) -> Iterable[Committed]:
    """Return the events between two sequences, each at its place."""
    positions = range(after + 1, through + 1)
    return map(_committed, zip(events[after - before :], positions, repeat(True), repeat(0), strict=False))


def _change(name: str, row: Sequence[Any]) -> Change:
    try:
        return _CHANGES[name](*row)
    except (KeyError, TypeError, ValueError) as error:
        raise NodeOutdated(f"There is a change “{name}”.") from error


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _opened(
    namespace: str,
    sid: str,
    pid_hash: str,
    former_offset: str | None,
    opened_at: float,
    auth_hash: str | None,
    asked_for: Sequence[Any] | None,
) -> SessionOpened:
    instead_of = None
    if asked_for is not None:
        result, asked_sid, asked_hash = asked_for
        instead_of = RefusedRecovery(result, asked_sid, _bytes(asked_hash))
    hashed = bytes.fromhex(pid_hash)
    return SessionOpened(
        namespace, sid, hashed, former_offset, float(opened_at), _bytes(auth_hash), instead_of
    )


def _resumed(
    namespace: str, sid: str, claim: int, resumed_at: float, deferred: Sequence[Any], missed: int
) -> SessionResumed:
    done: Any = tuple(_change(name, row) for name, rows in deferred for row in rows)
    return SessionResumed(namespace, sid, claim, float(resumed_at), done, missed)


def _away(
    namespace: str,
    sid: str,
    claim: int,
    disconnected_at: float,
    confirmed: int,
    left_by_client: bool,
    reason: str | None,
    refusal: str | None,
) -> SessionAway:
    times = float(disconnected_at), confirmed
    return SessionAway(namespace, sid, claim, *times, left_by_client, reason or "", refusal)


def _token_accepted(namespace: str, sid: str, expires_at: float | None, rooms: str) -> TokenAccepted:
    expires = None if expires_at is None else float(expires_at)
    return TokenAccepted(namespace, sid, expires, tuple(json.loads(rooms)))


def _unstored_event(
    namespace: str,
    name: str,
    payload: str,
    contents: Sequence[str],
    rooms: Sequence[Room] | None,
    skip: Sequence[str],
    emitted_at: float,
) -> Event:
    attachments, addressed = tuple(map(bytes.fromhex, contents)), None if rooms is None else tuple(rooms)
    return Event(namespace, name, payload, attachments, addressed, tuple(skip), float(emitted_at))


def _asked(text: str) -> Asked:
    request, *event = json.loads(text)
    return Asked(request, _unstored_event(*event))


def _answered(text: str) -> Answered:
    node, request, arguments, contents = json.loads(text)
    return Answered(node, request, arguments, tuple(map(bytes.fromhex, contents)))


_CHANGES: Final[dict[str, Callable[..., Change]]] = {
    "opened": _opened,
    "claimed": SessionClaimed,
    "resumed": _resumed,
    "away": _away,
    "ended": lambda namespace, sid, claim, reason: SessionEnded(namespace, sid, SessionEnd(reason), claim),
    "bound": SessionBound,
    "token": _token_accepted,
    "revoked": IdentityRevoked,
    "saved": DataSaved,
    "joined": lambda namespace, sid, room: RoomJoined(namespace, sid, json.loads(room)),
    "left": lambda namespace, sid, room, through: RoomLeft(namespace, sid, json.loads(room), through),
    "closed": lambda namespace, room: RoomClosed(namespace, json.loads(room)),
    "handled": EventHandled,
    "published": lambda publisher, key, digest, events: Published(
        publisher, key, bytes.fromhex(digest), events
    ),
    "node_joined": NodeJoined,
    "heartbeat": Heartbeat,
    "died": NodeDied,
    "pruned": Pruned,
    "redacted": Redacted,
    "departed": lambda text: Departed(*json.loads(text)),
    "volatile": lambda text: Volatile(_unstored_event(*json.loads(text))),
    "asked": _asked,
    "answered": _answered,
}
"""By the name of the kind (see ``encoding``) the change for a row."""
