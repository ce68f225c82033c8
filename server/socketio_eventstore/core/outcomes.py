"""The outcome of the batch that was on its way when the life of a node ended.

The batch may be in the log, whose history knows each batch by its node and number. It is never appended
again, and takes no effect here: the connections are closed. Its callers get their offsets all the same, or an
error that says that nothing is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from socketio_eventlog.changes import Batch
from socketio_eventlog.errors import HistoryLost, NodeFenced, OutcomeUnknown, StoreError
from socketio_eventlog.log import Log
from socketio_eventstore.core.effects_in_order import EffectsInOrder
from socketio_eventstore.core.groups import Group, Unsettled, fail

HANDLERS_HEAR_SECONDS: Final = 4.0
"""How long handlers of clients wait for the outcome. A second later they are cancelled, and hear nothing."""


def not_on_their_way(groups: Sequence[Group], effects: EffectsInOrder) -> list[Group]:
    """Return the groups whose changes were not appended yet, or whose append has ended."""
    unsettled = effects.unsettled
    on_their_way = set(map(id, () if unsettled is None else unsettled.appended.groups))
    return [group for group in groups if id(group) not in on_their_way]


async def settle(log: Log, effects: EffectsInOrder) -> None:
    """Give the callers their results when the log knows whether the batch is stored: at its close at last.

    Call this when the tasks that append and that let batches take effect have ended. When cancelled, the
    callers get OutcomeUnknown; handlers of clients get it after ``HANDLERS_HEAR_SECONDS`` already.
    """
    unsettled = effects.unsettled
    if unsettled is None:
        return
    appended = unsettled.appended
    of_clients = [group for group in appended.groups if group[3] is not None]
    hurry = asyncio.get_running_loop().call_later(HANDLERS_HEAR_SECONDS, fail, of_clients, OutcomeUnknown())
    try:
        batch = effects.taking
        if batch is None or batch.own != appended.own:
            batch = await _batch_of(log, unsettled)
        effects.settle(appended, batch)
    except StoreError as error:
        fail(appended.groups, error)
    finally:
        hurry.cancel()
        fail(appended.groups, OutcomeUnknown())


async def _batch_of(log: Log, unsettled: Unsettled) -> Batch:
    """Wait for the batch to come out of the log. Raises StoreError."""
    place, reading = unsettled.place, asyncio.create_task(_read_until(log, unsettled.appended.own))
    ends: tuple[asyncio.Future[int], asyncio.Task[Batch | None]] = place, reading
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        batch = reading.result() if reading.done() else None
        if batch is None:
            await place  # it fails, or the batch is among those that can be read
            batch = await reading
        if batch is None:
            raise OutcomeUnknown
        return batch
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_until(log: Log, own: int) -> Batch | None:
    try:
        async for batch in log.batches():
            if batch.own == own:
                return batch
    except (NodeFenced, HistoryLost):  # after the batches from before
        pass
    return None
