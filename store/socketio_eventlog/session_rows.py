"""The rows of sessions, as every engine reads them at a start. No I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from socketio_eventlog.events import Offset, Room
from socketio_eventlog.snapshot import Membership, StoredSession

logger = logging.getLogger(__name__)

_LEFT_OUT: Final = (
    "The session %s of %s has token_rooms that are no JSON array of rooms: another program changed them. It "
    "is left out, and its client gets a new session. Delete its row, or mend it and start again."
)


def stored_sessions(
    rows: Iterable[Any], memberships: Mapping[tuple[str, str], Sequence[Membership]]
) -> list[StoredSession]:
    """Return the sessions of rows; the queries of all engines select the same columns.

    ``memberships``: by namespace and sid.
    """
    return [
        StoredSession(
            namespace=namespace,
            sid=sid,
            pid_hash=pid_hash,
            start=Offset(epoch, sequence),
            former_offset=former_offset,
            identity=identity,
            data=data,
            away_since=away_since,
            confirmed=confirmed,
            memberships=tuple(memberships.get((namespace, sid), ())),
            auth_hash=auth_hash,
            left_by_client=bool(left_by_client),
            claim=claim,
            claimed_in=claimed_in,
            node=node,
            token_expires_at=token_expires_at,
            token_rooms=token_rooms,
        )
        for (
            namespace,
            sid,
            pid_hash,
            epoch,
            sequence,
            former_offset,
            identity,
            data,
            away_since,
            confirmed,
            auth_hash,
            left_by_client,
            claim,
            claimed_in,
            node,
            token_expires_at,
            token_rooms,
        ) in _with_token_rooms(rows)
    ]


def _with_token_rooms(rows: Iterable[Any]) -> Iterator[Any]:
    """Yield the rows, with the JSON of the last column as rooms; a row begins with namespace and sid.

    An unreadable row is left out: the row's session must not be recovered, and must not fail the start.
    """
    for row in rows:
        try:
            rooms = _token_rooms(row[-1])
        except (ValueError, TypeError, RecursionError):
            logger.warning(_LEFT_OUT, row[1], row[0])
        else:
            yield (*row[:-1], rooms)


def _token_rooms(text: str | None) -> tuple[Room, ...] | None:
    if text is None:
        return None
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(room, str | int) for room in found):
        raise ValueError("no array of rooms")
    return tuple(found)
