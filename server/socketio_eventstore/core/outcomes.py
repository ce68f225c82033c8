"""The outcome of the last batch of a node that joins anew.

The append of the batch had no answer yet, so the batch may be in the log or not. The history of the log names
each batch by node and number. The node never appends the batch again. The batch has no effect on this node,
because all connections are closed. The callers get offsets, or an error: nothing is stored.
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
"""The seconds that handlers of clients wait for the outcome. One second later the handlers are cancelled."""


def not_on_their_way(groups: Sequence[Group], effects: EffectsInOrder) -> list[Group]:
    """Return the groups without an unanswered append: not appended yet, or answered."""
    unsettled = effects.unsettled
    on_their_way = set(map(id, () if unsettled is None else unsettled.appended.groups))
    return [group for group in groups if id(group) not in on_their_way]


async def settle(log: Log, effects: EffectsInOrder) -> None:
    """Give results to the callers as soon as the log has the outcome; a closed log has the outcome.

    Call this after the end of the tasks for appends and for effects. The callers get OutcomeUnknown after a
    cancellation. Handlers of clients get OutcomeUnknown after ``HANDLERS_HEAR_SECONDS``.
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
            await place  # the append fails, or the batch can be read now
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
