"""The appends of batches to the log, with retries while the log is locked; a bad group fails alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from itertools import groupby

from socketio_eventlog.changes import Change
from socketio_eventlog.errors import (
    LogFull,
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventlog.free_space import grows
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.effects_in_order import EffectsInOrder
from socketio_eventstore.core.groups import BATCH_OPERATIONS, Appended, Group, Unsettled
from socketio_eventstore.core.health import StoreHealth
from socketio_eventstore.core.pending_changes import PendingChanges, SessionChange
from socketio_eventstore.core.repeated_failures import RepeatedFailures

FAILURES_IN_A_ROW = 2 * BATCH_OPERATIONS.bit_length()
"""Failed commits in a row after which the store is at fault, and not a group of the batch."""
BUSY_TIMEOUT_SECONDS = 30.0
"""How long a batch is retried while another program holds the lock of the database."""
BUSY_PAUSE_SECONDS = 0.01


class Appending:
    """Appends the changes of one batch after the other, and waits for the effects."""

    def __init__(
        self,
        context: Context,
        effects: EffectsInOrder,
        pending: PendingChanges,
        store_health: StoreHealth,
        failures: RepeatedFailures,
    ) -> None:
        self.context = context
        self._effects = effects
        self._pending = pending
        self._store_health = store_health
        self._failures = failures
        self._loop = asyncio.get_running_loop()
        self.failures_in_a_row = 0
        self._appends = 0
        self.is_closing = False
        """Whether a locked log is no more waited for."""
        self.failed_commits = 0
        """The number of failed appends, including the search for a bad group."""

    async def process(self, groups: Sequence[Group]) -> None:
        """Append the changes of groups as one batch; refuse the groups that cannot be stored."""
        changes: list[Change] = [*self._pending.by_session.values()]
        pending, counts = len(changes), []
        for operations, _, _, _ in groups:
            for operation in operations:
                if operation.is_stored:
                    own = operation.changes()
                    changes += own
                    counts.append(len(own))
                else:
                    counts.append(0)
        if not changes:
            async with self._effects.lock:
                await self._effects.take_own(None, groups, counts, 0)
            return
        try:
            await self._append_with_retry(changes, groups, counts, pending)
        except StoreError as error:
            self.failures_in_a_row += 1
            self.failed_commits += 1
            await self._append_parts(groups, error)
            return
        self.failures_in_a_row = 0

    async def _append_parts(self, groups: Sequence[Group], error: StoreError) -> None:
        """Find the bad group by halves: the bad group fails alone, and the good groups keep their order.

        A bad group costs the others two transactions for each halving, instead of a transaction for each
        group.
        """
        if isinstance(error, StoreRejected) and self._pending.by_session:
            try:
                await self._append_pending(self._pending.due)
            except StoreError as other:
                await self._effects.refuse(groups, other)
            else:
                await self.process(groups)
            return
        if isinstance(error, LogFull) and len(groups) > 1 and any(map(_grow, groups)):
            await self._append_without_growth(groups, error)
            return
        is_fault_of_store = (
            isinstance(error, StoreUnavailable)
            and not isinstance(error, LogFull)
            and self.failures_in_a_row > FAILURES_IN_A_ROW
        )
        if len(groups) == 1 or isinstance(error, StoreBusy | OutcomeUnknown) or is_fault_of_store:
            await self._effects.refuse(groups, error)
            return
        middle = len(groups) // 2
        await self.process(groups[:middle])
        await self.process(groups[middle:])

    async def _append_without_growth(self, groups: Sequence[Group], error: LogFull) -> None:
        """Refuse the groups that need space in the log; store the others, such as the return of a client."""
        for is_refused, run in groupby(groups, _grow):
            if is_refused:
                await self._effects.refuse(list(run), error)
            else:
                await self.process(list(run))

    async def _append_pending(self, changes: Sequence[SessionChange]) -> None:
        """Store pending changes without other operations, and put aside each rejected change."""
        try:
            await self._append_with_retry(changes, (), (), len(changes))
        except StoreRejected as error:
            if len(changes) == 1:
                self._failures.failed("rejected", f"The end of a connection could not be stored: {error}")
                self._pending.reject(changes[0])
                return
            middle = len(changes) // 2
            await self._append_pending(changes[:middle])
            await self._append_pending(changes[middle:])

    async def _append_with_retry(
        self, changes: Sequence[Change], groups: Sequence[Group], counts: Sequence[int], pending: int
    ) -> None:
        """Append changes and wait for their effects. Raises StoreError."""
        loop = self._loop
        deadline = loop.time() + BUSY_TIMEOUT_SECONDS
        while True:
            try:
                await self._append_once(changes, groups, counts, pending)
            except StoreBusy as error:
                self._store_health.failed(error)
                if loop.time() > deadline or self.is_closing:
                    raise
                text = f"{error} Trying again."
                self._failures.failed("lock", text, level=logging.WARNING, ends_when_quiet=False)
            except StoreUnavailable as error:
                self._store_health.failed(error)
                raise
            else:
                self._failures.succeeded("lock")
                return
            await asyncio.sleep(BUSY_PAUSE_SECONDS)

    async def _append_once(
        self, changes: Sequence[Change], groups: Sequence[Group], counts: Sequence[int], pending: int
    ) -> None:
        taken_effect: asyncio.Future[None] = self._loop.create_future()
        self._appends += 1
        begun = time.perf_counter()
        appended = Appended(self._appends, groups, counts, pending, taken_effect, begun)
        self._effects.appended = appended
        place = self.context.log.append(changes)
        place.add_done_callback(lambda done: _fail_if_not_appended(done, taken_effect))
        try:
            await taken_effect
        except asyncio.CancelledError:
            # Also during the effects, which may end later than this task.
            if taken_effect.cancelled() or taken_effect.exception() is not None:
                self._effects.unsettled = Unsettled(appended, place)
            raise


def _grow(group: Group) -> bool:
    """Whether a log without free space refuses a group."""
    return any(grows(operation.changes()) for operation in group[0])


def _fail_if_not_appended(place: asyncio.Future[int], taken_effect: asyncio.Future[None]) -> None:
    if not place.cancelled() and (error := place.exception()) is not None and not taken_effect.done():
        taken_effect.set_exception(error)
