"""The nodes of the log, and how far this node has applied the log."""

from __future__ import annotations

from collections.abc import Sequence

from socketio_eventlog.snapshot import NodeRecord, Snapshot


class Nodes:
    """The nodes that are alive, as of the last batch that has taken effect. Pure state without I/O."""

    def __init__(self, own: str, snapshot: Snapshot) -> None:
        """``own``: the id of this node."""
        self.own = own
        self.batch = snapshot.batch
        """The number of the last batch that has taken effect."""
        self.uptime = snapshot.uptime
        """The uptime of that batch, in seconds: the only clock by which sessions expire."""
        self._records = {record.node: record for record in snapshot.nodes}

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_first(self) -> bool:
        """Whether this node joined before all others that are alive: the one that deletes and expires."""
        return next(iter(self._records), self.own) == self.own

    @property
    def others(self) -> Sequence[NodeRecord]:
        """The records of all other nodes that are alive."""
        return [record for record in self._records.values() if record.node != self.own]

    def get(self, node: str | None) -> NodeRecord | None:
        """Return the record of a node that is alive."""
        return None if node is None else self._records.get(node)

    def set(self, record: NodeRecord) -> None:
        """Record that a node has joined or is alive; the order of joining stays."""
        self._records[record.node] = record

    def remove(self, node: str) -> NodeRecord | None:
        """Forget a node that is gone; return its last record."""
        return self._records.pop(node, None)
