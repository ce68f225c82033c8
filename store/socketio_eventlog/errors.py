"""Errors of the store. The docstring of each class is the first sentence of the message for users."""

from __future__ import annotations


class StoreError(Exception):
    """The event store failed."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"{self.summary} {detail}".strip())

    @property
    def summary(self) -> str:
        """The message without the details, which may name a host, a role or a database."""
        return (type(self).__doc__ or "").strip()


class StoreUnavailable(StoreError):
    """The event store cannot be written at the moment; nothing was stored."""


class StoreBusy(StoreUnavailable):
    """Another program holds the write lock of the event store; nothing was stored."""


class LogFull(StoreUnavailable):
    """The event log is full; nothing was stored."""


class NodeFenced(StoreUnavailable):
    """The other nodes have declared this node dead; nothing was stored."""


class NodeOutdated(NodeFenced):
    """A newer version of this program writes the log, and this one does not know how; nothing was stored."""


class BatchNotTaken(NodeFenced):
    """This server could not take a batch of the log, and has to begin anew."""


class HistoryLost(StoreUnavailable):
    """The database has lost what took effect: an older state is back; nothing was stored."""


class StoreRejected(StoreError):
    """The event store refused this change; nothing was stored."""


class ConditionFailed(StoreRejected):
    """The change must not be stored here, since another change came before it; nothing was stored."""


class StoreClosed(StoreError):
    """The event store is closed."""


class OutcomeUnknown(StoreError):
    """The event store has not answered before the end: the change may be stored, or not."""


class StoreNotUsable(StoreError):
    """The event store cannot be opened."""


class StoreInUse(StoreNotUsable):
    """The event store cannot be opened."""  # the detail names another server on the database


class DatabaseTooNew(StoreNotUsable):
    """The database was written by a newer version of this program."""


class OffsetRefused(StoreError):
    """The offset is not valid in this log."""


class OffsetMalformed(OffsetRefused):
    """The offset does not have the form epoch.sequence."""


class OffsetUnknown(OffsetRefused):
    """The offset names an epoch without a record in this database."""


class OffsetRolledBack(OffsetRefused):
    """The offset lies in a future that this database has lost."""


class NothingChanged(StoreError):
    """Nothing was changed."""
