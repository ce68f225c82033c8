"""The nodes of the log, and how far this node has applied the log."""

from __future__ import annotations

from collections.abc import Sequence

from socketio_eventlog.snapshot import NodeRecord, Snapshot


class Nodes:
    """The living nodes, as of the last batch in effect. Pure state without I/O."""

    def __init__(self, own: str, snapshot: Snapshot) -> None:
        """``own``: the id of the own node."""
        self.own = own
        self.batch = snapshot.batch
        """The number of the last batch in effect."""
        self.uptime = snapshot.uptime
        """The uptime of the last batch, in seconds: the only clock for the expiry of sessions."""
        self._records = {record.node: record for record in snapshot.nodes}

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_first(self) -> bool:
        """Whether this node joined before all other living nodes. The first node deletes and expires."""
        return next(iter(self._records), self.own) == self.own

    @property
    def others(self) -> Sequence[NodeRecord]:
        """The records of all other living nodes."""
        return [record for record in self._records.values() if record.node != self.own]

    def get(self, node: str | None) -> NodeRecord | None:
        """Return the record of a living node."""
        return None if node is None else self._records.get(node)

    def set(self, record: NodeRecord) -> None:
        """Add or replace the record of a node; the order of joining stays."""
        self._records[record.node] = record

    def remove(self, node: str) -> NodeRecord | None:
        """Forget a dead node; return the last record."""
        return self._records.pop(node, None)
