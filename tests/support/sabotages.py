"""Sabotages for the tests of ``verify``: code that makes a server process break one promise each."""

SENT_BEFORE_COMMIT = """
import asyncio
from socketio_eventstore.core.appending import Appending
from socketio_eventstore.core.effects_in_order import EffectsInOrder
from socketio_eventlog.changes import Batch, Committed
from socketio_eventlog.events import Event

append_once, take_effects_of, sent = Appending._append_once, EffectsInOrder.take_effects_of, set()

async def too_early(self, changes, groups, counts, pending):
    if not all(type(change) is Event for change in changes):
        return await append_once(self, changes, groups, counts, pending)
    context = self.context
    committed = [Committed(change, number) for number, change in enumerate(changes, context.position + 1)]
    await self._effects.take_own(Batch(0, "", None, context.uptime, committed), groups, counts, 0)
    sent.add(self._appends + 1)
    await asyncio.sleep(0.02)  # a crash in this moment loses the sent events
    await append_once(self, changes, (), (), 0)

async def without_effect(self, batch):
    await take_effects_of(self, batch._replace(changes=()) if batch.own in sent else batch)

Appending._append_once, EffectsInOrder.take_effects_of = too_early, without_effect
"""

OFFSET_REUSED = """
from socketio_eventlog.sqlite.log import EventLog

EventLog.offset_text = lambda self, number: f"{self.node}.{number - (number % 20 == 0)}"
"""

REPLAY_GAP = """
from socketio_eventstore.core.replay import Replayer
original = Replayer._put

def put(self, session, number, frames, count=1):
    if number % 3:
        original(self, session, number, frames, count)

Replayer._put = put
"""

REPLAYED_TWICE = """
from socketio_eventstore.core.replay import Replayer
original = Replayer._put

def put(self, session, number, frames, count=1):
    for _ in range(1 if number % 3 else 2):
        original(self, session, number, frames, count)

Replayer._put = put
"""

REPLAYED_BACKWARDS = """
from socketio_eventstore.core.recent_events import RecentEvents
original = RecentEvents.after
RecentEvents.after = lambda self, number: reversed(list(original(self, number)))
"""

JOIN_COVERS_PAST = """
from socketio_eventstore.core.sessions import Session
from socketio_eventlog.snapshot import Membership

def memberships(self):
    for room in (None, self.sid, *self.joined):
        yield Membership(room, self.start.sequence, None)
    yield from self.left

Session.memberships = memberships
"""

SKIP_IGNORED = """
from socketio_eventstore.core.fan_out import FanOut
original = FanOut.broadcast
FanOut.broadcast = lambda self, audience, frames: original(self, (*audience[:2], ()), frames)
"""

RECOVERY_REFUSED = """
from itertools import count
from socketio_eventstore.core.recovery import Recovery, RecoveryResult
original, times = Recovery.decide, count(1)

async def decide(self, *arguments, **more):
    return RecoveryResult.EXPIRED if next(times) % 5 == 0 else await original(self, *arguments, **more)

Recovery.decide = decide
"""

JOIN_NOT_STORED = """
from socketio_eventlog.session_changes import RoomJoined
from socketio_eventlog.sqlite import sessions
original = sessions.write

def write(connection, changes, point):
    if type(changes[0]) is not RoomJoined:
        original(connection, changes, point)

sessions.write = write
"""

ROWS_LOST = """
from socketio_eventlog.sqlite import events
original = events.insert

def insert(connection, first_number, rows):
    original(connection, first_number, rows)
    connection.execute("DELETE FROM events WHERE offset >= ? AND offset % 20 = 0", (first_number,))

events.insert = insert
"""

POISON_ACCEPTED = """
from socketio_eventstore.adapter import manager_emits

manager_emits.check_names = lambda event, namespace: None
"""
