"""How recovered sessions are sent what they missed, until they are live again."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field

from socketio_eventlog.records import LoggedEvent
from socketio_eventstore.core.commit_queue import Dispatcher
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.recovery import ReadableLog
from socketio_eventstore.core.sessions import Session, State

logger = logging.getLogger(__name__)

PAGE_EVENTS = 256
"""Events that one session is sent from the log before the next one's turn."""
LOOK_UP_EVENTS = 4096
"""Numbers of missed events that one look-up brings for a session; the rest is looked up after them."""
READ_EVENTS = 4096
"""Events that one read of the log brings for all sessions of a round together."""
CROWDED_PAUSE_SECONDS = 0.02
"""How often a replay looks whether a client has read enough for the next page."""


@dataclass(eq=False, slots=True)
class Replay:
    """A session on its way through the log to the present."""

    session: Session
    claim: int
    sequences: deque[int] = field(default_factory=deque)
    """What it still has to get of the stretch that was looked up."""
    through: int = -1
    """The end of that stretch; -1 before the first look-up."""

    @property
    def is_over(self) -> bool:
        """Whether its connection died or was taken over meanwhile."""
        return self.session.claim != self.claim or self.session.state is not State.REPLAYING


class Replayer:
    """Sends recovered sessions what they missed, all of them from shared reads of the log.

    Live events are not buffered for a session in replay: it reads the log until only the newest events
    are left, which are in the dispatcher's tail, and goes live at one point of the order.
    """

    def __init__(self, history: ReadableLog, max_unsent_bytes: int) -> None:
        self.dispatcher: Dispatcher
        self._history = history
        self._max_unsent_bytes = max_unsent_bytes
        self._replays: deque[Replay] = deque()
        self._served: list[tuple[Replay, list[int]]] = []
        self._wake = asyncio.Event()

    def begin(self, session: Session) -> None:
        """Send an accepted session what it missed: at once when the newest events are enough."""
        if self._skip_to_tail(session) and self._go_live(session):
            return
        self._replays.append(Replay(session, session.claim))
        self._wake.set()

    async def run(self) -> None:
        """Serve the replays in rounds, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._replays:
                try:
                    crowded = await self._round()
                except Exception:  # of the store, or a fault of ours; nobody is told half: they try again
                    logger.exception("Replays were broken off")
                    self._break_off()
                    continue
                if crowded:
                    await asyncio.sleep(CROWDED_PAUSE_SECONDS)

    async def _round(self) -> bool:
        """Send one page to those that can take it; return whether all were too crowded."""
        wanted = await self._choose()
        if not self._served:
            return bool(self._replays)
        logged = await self._history.read(sorted(wanted), self._max_unsent_bytes)
        events = {entry.sequence: entry for entry in logged}
        complete = sum(entry.event.size_bytes for entry in logged) <= self._max_unsent_bytes
        last = logged[-1].sequence if logged else -1
        built: dict[int, Frames] = {}
        while self._served:
            replay, page = self._served.pop()
            if not replay.is_over:
                if not complete:  # the read stopped at its limit: the rest is for a later round
                    replay.sequences.extendleft(reversed([n for n in page if n > last]))
                    page = [n for n in page if n <= last]
                self._send_page(replay, page, events, built)
        self.dispatcher.fan_out.flush()
        return False

    async def _choose(self) -> set[int]:
        """Take a page's numbers for each session that can be served now; return all of them."""
        wanted: set[int] = set()
        for _ in range(len(self._replays)):
            replay = self._replays.popleft()
            if replay.is_over or replay.session.connection is None:
                continue
            if replay.session.connection.unsent_bytes > self._max_unsent_bytes or len(wanted) >= READ_EVENTS:
                self._replays.append(replay)
                continue
            page: list[int] = []
            self._served.append((replay, page))
            await self._look_up(replay)
            page += [replay.sequences.popleft() for _ in range(min(PAGE_EVENTS, len(replay.sequences)))]
            wanted.update(page)
        return wanted

    async def _look_up(self, replay: Replay) -> None:
        session, position = replay.session, self.dispatcher.position
        if not replay.sequences and session.sent < position:
            memberships = list(session.memberships())
            missed = await self._history.missed(
                session.namespace, memberships, session.sent, position, at_most=LOOK_UP_EVENTS
            )
            replay.sequences.extend(missed.sequences)
            is_all = len(missed.sequences) <= LOOK_UP_EVENTS
            replay.through = position if is_all else missed.sequences[-1]

    def _send_page(
        self, replay: Replay, page: list[int], events: dict[int, LoggedEvent], built: dict[int, Frames]
    ) -> None:
        session = replay.session
        for sequence in page:
            logged = events.get(sequence)
            if logged is not None and session.sid not in logged.event.skip:
                if sequence not in built:
                    built[sequence] = self._frames(logged)
                self._put(session, sequence, built[sequence])
        if replay.sequences:
            session.sent = page[-1] if page else session.sent
        else:
            session.sent = max(session.sent, replay.through)
        if replay.sequences or not self._go_live(session):
            self._replays.append(replay)

    def _skip_to_tail(self, session: Session) -> bool:
        recent_events = self.dispatcher.recent_events
        if session.sent < recent_events.begins_after:
            missed = self._history.missed_in_memory(
                session.namespace, list(session.memberships()), session.sent, recent_events.begins_after
            )
            if missed is None or missed.sequences:
                return False
            session.sent = recent_events.begins_after
        return True

    def _go_live(self, session: Session) -> bool:
        """Send what the tail has for the session and let it take part from here on."""
        dispatcher = self.dispatcher
        if session.sent < dispatcher.recent_events.begins_after:
            return False
        for sequence, event, frames in dispatcher.recent_events.after(session.sent):
            if session.receives(event, sequence):
                self._put(session, sequence, frames)
        self._release(session, dispatcher.position)
        session.sent = dispatcher.position
        session.move(State.LIVE)
        return True

    def _frames(self, logged: LoggedEvent) -> Frames:
        event = logged.event
        offset = str(self._history.offset_of(logged.sequence)) if self.dispatcher.offsets else None
        return self.dispatcher.encoder.event(event.namespace, event.payload, event.attachments, offset)

    def _put(self, session: Session, sequence: int, frames: Frames) -> None:
        self._release(session, sequence - 1)
        if session.connection is not None:
            self.dispatcher.fan_out.put(session.connection, frames)

    def _release(self, session: Session, position: int) -> None:
        """Let the held packets go that belong before the event after this position."""
        while session.deferred_packets and session.deferred_packets[0][0] <= position:
            _, frames = session.deferred_packets.pop(0)
            session.deferred_bytes -= frames.size_bytes
            if session.connection is not None:
                self.dispatcher.fan_out.put(session.connection, frames)

    def _break_off(self) -> None:
        broken = [*self._replays, *(replay for replay, _ in self._served)]
        self._replays.clear()
        self._served.clear()
        for replay in broken:
            if not replay.is_over and replay.session.connection is not None:
                replay.session.connection.abort("the log cannot be read")
