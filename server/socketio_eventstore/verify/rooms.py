"""The check that the store has all acknowledged joins and leaves, and no others. Pure.

Without this check the stored memberships do not say which session receives an event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from socketio_eventstore.verify.history import Moved
from socketio_eventstore.verify.store import Membership, StoreContents


def check_moves(moves: Iterable[Moved], store: StoreContents) -> Iterator[tuple[str, str]]:
    """Yield the sid and the description of each difference between the moves and the store."""
    by_room: dict[tuple[str, str, str], list[Moved]] = defaultdict(list)
    for move in moves:
        by_room[move.namespace, move.sid, move.room].append(move)
    sequences = {event.offset: event.sequence for event in store.events}
    for (namespace, sid), session in store.sessions.items():
        for room in sorted({membership.room for membership in session.memberships}):
            if (namespace, sid, room) not in by_room:
                yield sid, f"has a stored membership of {room}, but no call"
    for (namespace, sid, room), moves_of_room in by_room.items():
        session_found = store.sessions.get((namespace, sid))
        stored = [] if session_found is None else [m for m in session_found.memberships if m.room == room]
        for description in _check_room(moves_of_room, stored, sequences):
            yield sid, description


def _check_room(
    moves: Sequence[Moved], stored: Sequence[Membership], sequences: Mapping[str, int]
) -> Iterator[str]:
    inside = False
    bounds: list[tuple[int, int]] = []
    for move in moves:
        if move.before is None or move.after is None:
            return  # the server handled the move or not: the rest of the room's memberships is not checked
        before, after = sequences.get(move.before), sequences.get(move.after)
        if before is None or after is None:
            return  # the missing events are findings of another kind
        bounds.append((before, after))
        if inside == move.joining:
            kept = any(m.covers(after) for m in stored) == move.joining
        else:
            kept = any(before <= _edge(m, move.joining) < after for m in stored)
        if not kept:
            action = "join" if move.joining else "leave"
            yield f"has no stored {action} of {move.room} from {before} to {after}, but an acknowledgement"
        inside = move.joining
    for membership in stored:
        if not any(before <= membership.after < after for before, after in bounds):
            yield f"has a stored join of {membership.room} after {membership.after}, but no call"


def _edge(membership: Membership, joining: bool) -> int:
    if joining:
        return membership.after
    return -1 if membership.through is None else membership.through
