"""A log shared by several nodes: a single order for all, read by each node at its own pace. No I/O."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence

from socketio_eventlog.changes import Batch, Change, NodeDied, NodeJoined
from socketio_eventlog.errors import NodeFenced, OffsetRolledBack, StoreClosed
from socketio_eventlog.events import Offset
from socketio_eventlog.free_space import FreeSpace
from socketio_eventlog.snapshot import Snapshot
from support.simulated_state import LogState, SessionKey, Written
from support.simulated_store import Gate, SimulatedReads

EPOCH = "epoch"
"""The epoch of a log without losses."""
Owner = tuple[str | None, int]
"""The node and the claim of a session."""


class SharedLog:
    """The order of the batches, the outcomes, and the state after each batch."""

    def __init__(self, clock: Callable[[], float], judge: Callable[[Batch], None]) -> None:
        """``judge``: called with each batch, in order."""
        self.state = LogState()
        self.state.begin_epoch(EPOCH, 0)
        self.written: list[Written] = []
        self.batches: list[Batch] = []
        self.heads = [0]
        """The sequence of the last event, by the number of the batch."""
        self.handles: list[Handle] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._clock = clock
        self._stepped_at = clock()
        self._judge = judge

    def append(self, node: str, own: int, changes: tuple[Change, ...]) -> int:
        """Give a batch a place, or find the batch's place; return the number."""
        known = self._numbers.get((node, own))
        if known is not None:
            assert self.written[known - 1].changes == changes, f"batch {own} of {node} has two bodies"
            return known
        if node not in self.state.nodes and changes != (NodeJoined(),):
            raise NodeFenced
        now, state = self._clock(), self.state
        uptime = state.next_uptime(now - self._stepped_at)
        self._stepped_at = now
        written = Written(node, own, uptime, state.head + 1, changes)
        batch = state.apply(written)
        self._numbers[node, own] = batch.number
        self.written.append(written)
        self.batches.append(batch)
        self.heads.append(state.head)
        self._judge(batch)
        for handle in self.handles:
            handle.nudge()
        return batch.number


class Handle(SimulatedReads):
    """The log of a node."""

    def __init__(self, shared: SharedLog, node: str, clock: Callable[[], float]) -> None:
        self.node = node
        self.free_space = FreeSpace()
        self.shared = shared
        self.state = shared.state
        self.appends, self.deliveries, self.reads = Gate(), Gate(), Gate()
        self.is_closed = False
        self.is_frozen = False
        self.is_fenced = False
        """Whether the node has noticed its declared death."""
        self.answers_to_lose = 0
        """The number of lost answers to ``append``."""
        self.pauses_after_loss = False
        """Whether the connection is gone for a while after a lost answer."""
        self.may_pass = 0
        """Batches to deliver although the gate is closed."""
        self.sending: tuple[int, tuple[Change, ...]] | None = None
        """The batch under way to the log."""
        self.owners_before: dict[SessionKey, Owner] = {}
        """The owners before the last batch given out."""
        self._appends = 0
        self._clock = clock
        self._contact_at = clock()
        self._more = asyncio.Event()

    def join(self) -> Snapshot:
        """Join the log; ``fold`` is the state at the same point."""
        number = self.shared.append(self.node, 0, (NodeJoined(),))
        state, self.fold = self.state, copy.deepcopy(self.state)
        assert number == state.batch
        self.shared.handles.append(self)
        nodes, positions = tuple(state.nodes.values()), tuple(state.positions)
        return Snapshot(number, state.head, state.uptime, nodes, positions, state.stored_sessions())

    # Contact ----------------------------------------------------------------------------------------

    @property
    def contact_at(self) -> float:
        """When the node last could reach the log and was a member, in seconds."""
        is_open = self.appends.is_open and self.deliveries.is_open and not self.is_closed
        if is_open and self.node in self.state.nodes:
            self._contact_at = self._clock()
        return self._contact_at

    def freeze(self) -> None:
        """Let the node stand still."""
        self.is_frozen = True
        self.cut_off()

    def cut_off(self) -> None:
        _ = self.contact_at
        self.appends.close()
        self.deliveries.close()

    def hold(self, gate: Gate) -> None:
        _ = self.contact_at
        gate.close()

    def release(self) -> None:
        for gate in (self.appends, self.deliveries, self.reads):
            gate.open()
        self.answers_to_lose, self.is_frozen = 0, False
        self.nudge()

    def nudge(self) -> None:
        self._more.set()

    # The contract -----------------------------------------------------------------------------------

    @property
    def head(self) -> int:  # type: ignore[override]
        return self.fold.head

    @property
    def pruned_through(self) -> int:  # type: ignore[override]
        return self.fold.pruned_through

    def offset_at(self, sequence: int) -> Offset:
        return Offset(EPOCH, sequence)

    def offset_text(self, sequence: int) -> str:
        return f"{EPOCH}.{sequence}"

    def offset_of(self, sequence: int) -> Offset:
        return Offset(EPOCH, sequence)

    def locate(self, offset: str) -> Offset:
        epoch, _, sequence = offset.rpartition(".")
        assert epoch == EPOCH and int(sequence) <= self.state.head, f"an offset of the future: {offset}"
        if int(sequence) > self.head:
            raise OffsetRolledBack
        return Offset(EPOCH, int(sequence))

    def precedes_epoch(self, earlier: str, later: str) -> bool:
        return False

    def append(self, changes: Sequence[Change]) -> asyncio.Future[int]:
        if self.is_closed:
            raise StoreClosed
        self._appends += 1
        return asyncio.ensure_future(self._append(self._appends, tuple(changes)))

    async def _append(self, own: int, changes: tuple[Change, ...]) -> int:
        self.sending = own, changes
        try:
            while True:
                await self.appends.passed()
                number = self._send(own, changes)
                if not self.answers_to_lose:
                    return number
                self.answers_to_lose -= 1
                own = self.number_of_retry(own)
                if self.pauses_after_loss:
                    self.hold(self.appends)
        finally:
            self.sending = None

    def _send(self, own: int, changes: tuple[Change, ...]) -> int:
        try:
            return self.shared.append(self.node, own, changes)
        except NodeFenced:
            self.is_fenced = True
            raise

    def number_of_retry(self, own: int) -> int:
        """The number under which a batch is sent again."""
        return own

    def batches(self) -> Handle:
        return self

    def __aiter__(self) -> Handle:
        return self

    async def __anext__(self) -> Batch:
        while self.fold.batch == len(self.shared.batches) or not self._may_give_out():
            self._more.clear()
            await self._more.wait()
        return self._give_out()

    def _may_give_out(self) -> bool:
        return self.deliveries.is_open or self.may_pass > 0

    def _give_out(self) -> Batch:
        fold, number = self.fold, self.fold.batch
        if not self.deliveries.is_open:
            self.may_pass -= 1
        batch = self.shared.batches[number]
        self.owners_before = {key: (row.node, row.claim) for key, row in fold.sessions.items()}
        assert fold.apply(self.shared.written[number])[4] == batch.changes, "another outcome on this node"
        if any(one.change == NodeDied(self.node) for one in batch.changes):
            self.is_fenced = True
        own = batch.own if batch.node == self.node else None
        return Batch(batch.number, batch.node, own, batch.uptime, batch.changes)

    def owns(self, key: SessionKey, claim: int) -> bool:
        """Whether the node had a session under a claim before or after the last batch."""
        row = self.fold.sessions.get(key)
        owners = {self.owners_before.get(key), None if row is None else (row.node, row.claim)}
        return (self.node, claim) in owners
