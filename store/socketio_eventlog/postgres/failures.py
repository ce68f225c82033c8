"""The errors of PostgreSQL as errors of the store."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg.errors import Diagnostic

from socketio_eventlog.errors import (
    ConditionFailed,
    HistoryLost,
    LogFull,
    NodeFenced,
    NodeOutdated,
    StoreBusy,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)


class ConnectionLost(StoreUnavailable):
    """The connection to the database was lost; what was sent may have been stored."""


class EpochBegins(StoreUnavailable):
    """The database has been down or replaced: a new epoch begins before the next batch."""


class OtherContent(HistoryLost):
    """A batch of this node is stored with another content."""


_CONDITIONS: Final = {
    "answers_key": "A client's event with this idempotency key was handled already.",
    "publications_key": "Events with this idempotency key were published already.",
}
_OWN: Final[dict[str, tuple[type[StoreUnavailable], str | None]]] = {
    "SE001": (NodeFenced, ""),
    "SE002": (EpochBegins, ""),
    "SE003": (HistoryLost, "A batch of this node is missing."),
    "SE004": (HistoryLost, ""),
    "SE005": (OtherContent, ""),
    "SE006": (StoreUnavailable, "default_transaction_isolation must be 'read committed'."),
    "SE007": (NodeOutdated, None),
}
"""By the code from the functions of the database; None for the details from the functions."""
_LOST: Final = ("08", "57P", "25006")
"""Shutdown, crash, and a server that became a standby."""
_BUSY: Final = ("55P03", "40")
"""A lock that another session holds, a deadlock."""
_REJECTED: Final = ("22", "23", "54")
"""Data, constraints, and limits such as the size of a value."""


def translate(error: Exception, *, is_connected: bool) -> StoreError | None:
    """Return the StoreError for an exception; None for a programming error of the store.

    ``is_connected``: whether the connection is still usable.
    """
    if isinstance(error, StoreError):
        return error
    if isinstance(error, UnicodeError | psycopg.DataError) and not _state(error):
        return StoreRejected(f"{first_line(error)}.")
    if not isinstance(error, psycopg.Error):
        return ConnectionLost(f"{error}.") if isinstance(error, OSError) else None
    state = _state(error)
    if state in _OWN:
        kind, text = _OWN[state]
        return kind((error.diag.message_primary or "") if text is None else text)
    text = f"PostgreSQL says: {first_line(error)}."
    if not is_connected or state.startswith(_LOST):
        return ConnectionLost(text)
    if error.diag.constraint_name in _CONDITIONS:
        return ConditionFailed(_CONDITIONS[error.diag.constraint_name])
    if state.startswith(_BUSY):
        return StoreBusy(text)
    if state.startswith(_REJECTED):
        return StoreRejected(text)
    return LogFull(text) if state == "53100" else StoreUnavailable(text)


def _state(error: Exception) -> str:
    diagnostic = getattr(error, "diag", None)
    return (isinstance(diagnostic, Diagnostic) and diagnostic.sqlstate) or ""


def first_line(error: Exception) -> str:
    """Return the first line of a message, without the point."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
