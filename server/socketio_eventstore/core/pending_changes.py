"""Session changes that have happened and are not stored yet. Pure, without I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from socketio_eventlog.changes import Change
from socketio_eventlog.session_changes import SessionAway, SessionEnded, SessionResumed

SessionChange: TypeAlias = SessionAway | SessionEnded
SessionKey: TypeAlias = tuple[str, str]
"""The namespace and sid of a session."""


def _claim(change: SessionChange) -> float:
    """The claim of a change; a change without a claim is newer than all claims."""
    return math.inf if change.claim is None else change.claim


class PendingChanges:
    """The last change of each session, until the commit."""

    def __init__(self) -> None:
        self.by_session: dict[SessionKey, SessionChange] = {}
        """Stored with the next commit, before the changes of the operations."""
        self._rejected: dict[SessionKey, SessionChange] = {}
        """Changes rejected by the store when tried alone, which must not fail other operations."""

    @property
    def due(self) -> list[SessionChange]:
        """The changes for the next commit."""
        return list(self.by_session.values())

    @property
    def any_kept(self) -> bool:
        """Whether ``stored`` has anything to forget."""
        return bool(self.by_session or self._rejected)

    def keep(self, changes: Sequence[Change]) -> None:
        """Keep the changes that no error can undo. The end of a session stays the last change."""
        for change in changes:
            if isinstance(change, SessionAway | SessionEnded):
                key = (change.namespace, change.sid)
                self._rejected.pop(key, None)
                due = self.by_session.get(key)
                if due is None or not (isinstance(due, SessionEnded) or _claim(due) > _claim(change)):
                    self.by_session[key] = change

    def stored(self, changes: Sequence[Change]) -> None:
        """Forget the due changes among the stored changes, and replaced rejected changes."""
        for change in changes:
            if isinstance(change, SessionAway | SessionEnded | SessionResumed):
                key = (change.namespace, change.sid)
                if self.by_session.get(key) is change:
                    del self.by_session[key]
                if not isinstance(self._rejected.get(key), SessionEnded):
                    self._rejected.pop(key, None)

    def reject(self, change: SessionChange) -> None:
        """Put a due change aside until ``retry``, since the store rejects the change."""
        key = (change.namespace, change.sid)
        self._rejected[key] = self.by_session.pop(key)

    def retry(self) -> bool:
        """Make the rejected changes due again; return whether any change is due."""
        self.by_session = self._rejected | self.by_session
        self._rejected = {}
        return bool(self.by_session)
