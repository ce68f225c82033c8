"""Whether joins and leaves that were acknowledged are in the store, and no others. Pure.

Only then can the stored memberships say what was for whom.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from socketio_eventstore.verify.history import Moved
from socketio_eventstore.verify.truth import Membership, Truth


def check_moves(moves: Iterable[Moved], truth: Truth) -> Iterator[tuple[str, str]]:
    """Who was forgotten, and what."""
    asked: dict[tuple[str, str, str], list[Moved]] = defaultdict(list)
    for move in moves:
        asked[move.namespace, move.sid, move.room].append(move)
    numbers = {event.offset: event.number for event in truth.events}
    for (namespace, sid), session in truth.sessions.items():
        for room in sorted({membership.room for membership in session.memberships}):
            if (namespace, sid, room) not in asked:
                yield sid, f"is in {room}, which nobody asked for"
    for (namespace, sid, room), wishes in asked.items():
        found = truth.sessions.get((namespace, sid))
        stored = [m for m in found.memberships if m.room == room] if found is not None else []
        for what in _check_room(wishes, stored, numbers):
            yield sid, f"{what} {room}"


def _check_room(
    moves: Sequence[Moved], stored: Sequence[Membership], numbers: Mapping[str, int]
) -> Iterator[str]:
    inside = False
    beginnings: list[tuple[int, int]] = []
    for move in moves:
        if move.before is None or move.after is None:
            return  # nobody knows whether or when it happened: from here on the store is believed
        before, after = numbers.get(move.before), numbers.get(move.after)
        if before is None or after is None:
            return  # that these are missing is a finding of its own
        beginnings.append((before, after))
        if inside == move.joining:
            kept = any(m.covers(after) for m in stored) == move.joining
        else:
            kept = any(before <= _edge(m, move.joining) < after for m in stored)
        if not kept:
            yield f"was told at {before} to {after} that it {'joined' if move.joining else 'left'}"
        inside = move.joining
    for membership in stored:
        if not any(before <= membership.after < after for before, after in beginnings):
            yield f"is said to have joined at {membership.after}"


def _edge(membership: Membership, joining: bool) -> int:
    if joining:
        return membership.after
    return -1 if membership.through is None else membership.through
