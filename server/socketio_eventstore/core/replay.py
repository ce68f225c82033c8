"""The replay: recovered sessions are sent the missed events, and then become live again."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field

from socketio_eventlog.events import Event, LoggedEvent
from socketio_eventlog.log import Log
from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recent_pages import Page, RecentPages
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.core.sessions import Session, SessionConnection, State
from socketio_eventstore.core.suspicion import TIMES_IN_A_ROW, Suspicion

logger = logging.getLogger(__name__)

PAGE_EVENTS = 256
"""The most events from the log for a session, before the next session is served."""
LOOK_UP_EVENTS = 1024
"""The most missed events in a look-up for a session; the next look-up finds later events."""
READ_EVENTS = 4096
"""The most events in a read of the log, for all sessions of a round together."""
CROWDED_PAUSE_SECONDS = 0.02
"""Pause before a replay looks again whether the client has read enough for the next page."""


@dataclass(eq=False, slots=True)
class Replay:
    """The progress of a session through the log."""

    session: Session
    attached: SessionConnection
    sequences: deque[int] = field(default_factory=deque)
    """The events found by the last look-up and not sent yet."""
    through: int = -1
    """The end of the range of the last look-up; -1 before the first look-up."""

    @property
    def is_over(self) -> bool:
        """Whether the connection ended or lost the session meanwhile."""
        return self.session.current is not self.attached or self.session.state is not State.REPLAYING


def frames_of(log: Log, encoder: PacketEncoder, sequence: int, event: Event) -> Frames:
    """Return the frames of an event that has taken effect. Raises what the encoder raises."""
    offset = str(log.offset_of(sequence)) if log.is_durable else None
    return encoder.event(event.namespace, event.payload, event.attachments, offset)


class Replayer:
    """Sends recovered sessions the missed events, from shared reads of the log.

    Live events are not buffered for a session in replay. The session reads the log until only the recent
    events in memory are left, and goes live at a point of the order.
    """

    def __init__(
        self,
        log: Log,
        registry: Registry,
        recent_events: RecentEvents,
        fan_out: FanOut,
        encoder: PacketEncoder,
        *,
        max_unsent_bytes: int,
    ) -> None:
        """``max_unsent_bytes``: a client with more unread bytes gets no further page for now."""
        self._log = log
        self._registry = registry
        self._recent_events = recent_events
        self._recent_pages = RecentPages(recent_events)
        self._fan_out = fan_out
        self._encoder = encoder
        self._max_unsent_bytes = max_unsent_bytes
        self._replays: deque[Replay] = deque()
        self._failures = RepeatedFailures(logger)
        self._served: list[tuple[Replay, list[int]]] = []
        self.events = 0
        """The number of missed events sent."""
        self.unsendable_events = 0
        """How often an event could not be sent, and ended a connection."""
        self._lines = BoundedLines(logger, "recovered clients")
        self._wake = asyncio.Event()

    def begin(self, session: Session) -> None:
        """Send an accepted session the missed events: at once when the recent events are enough."""
        is_near = session.current.sent >= self._recent_events.begins_after
        if (is_near or self._skip_to_recent_events(session)) and self._go_live(session):
            return
        self._replays.append(Replay(session, session.current))
        self._wake.set()

    async def run(self) -> None:
        """Serve the replays in rounds, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._replays:
                try:
                    is_crowded = await self._round()
                except Exception as error:  # noqa: BLE001 -- of the store
                    self._failures.failed(type(error).__name__, "Replays were broken off", error=error)
                    self._break_off()
                    continue
                if is_crowded:
                    await asyncio.sleep(CROWDED_PAUSE_SECONDS)

    async def _round(self) -> bool:
        """Send a page to each session with room for a page; return whether no session had room."""
        chosen = await self._choose()
        if not self._served:
            return bool(self._replays)
        logged = await self._log.read(sorted(chosen), self._max_unsent_bytes)
        events = {entry.sequence: entry for entry in logged}
        is_complete = sum(entry.event.size_bytes for entry in logged) <= self._max_unsent_bytes
        last = logged[-1].sequence if logged else -1
        built: dict[int, Frames] = {}
        while self._served:
            replay, page = self._served[-1]
            if not replay.is_over:
                if not is_complete:  # the read stopped at the limit: the rest belongs to a later round
                    replay.sequences.extendleft(reversed([n for n in page if n > last]))
                    page = [n for n in page if n <= last]
                self._send_page(replay, page, events, built)
            self._served.pop()  # not before: a replay that fails is broken off
        self._fan_out.flush()
        return False

    async def _choose(self) -> set[int]:
        """Take a page of sequences for each session that can be served; return all sequences."""
        chosen: set[int] = set()
        for _ in range(len(self._replays)):
            replay = self._replays.popleft()
            connection = replay.attached.connection
            if replay.is_over or connection is None:
                continue
            if connection.unsent_bytes > self._max_unsent_bytes or len(chosen) >= READ_EVENTS:
                self._replays.append(replay)
                continue
            page: list[int] = []
            self._served.append((replay, page))
            await self._look_up(replay)
            page += [replay.sequences.popleft() for _ in range(min(PAGE_EVENTS, len(replay.sequences)))]
            chosen.update(page)
        return chosen

    async def _look_up(self, replay: Replay) -> None:
        session, position = replay.session, self._recent_events.position
        if not replay.sequences and replay.attached.sent < position:
            memberships = session.memberships()
            missed = await self._log.missed(
                session.namespace, memberships, replay.attached.sent, position, at_most=LOOK_UP_EVENTS
            )
            replay.sequences.extend(missed.sequences)
            is_all = len(missed.sequences) <= LOOK_UP_EVENTS
            replay.through = position if is_all else missed.sequences[-1]

    def _send_page(
        self, replay: Replay, page: list[int], events: dict[int, LoggedEvent], built: dict[int, Frames]
    ) -> None:
        session, attached = replay.session, replay.attached
        for sequence in page:
            logged = events.get(sequence)
            if logged is None:
                self._is_gone(session, sequence)
                return
            if session.sid not in logged.event.skip:
                if sequence not in built:
                    try:
                        built[sequence] = frames_of(self._log, self._encoder, *logged)
                    except Exception as error:  # noqa: BLE001 -- a fault of the server; the others get theirs
                        self._cannot_be_sent(session, sequence, error)
                        return
                self._put(session, sequence, built[sequence])
        if replay.sequences:
            attached.sent = page[-1] if page else attached.sent
        else:
            attached.sent = max(attached.sent, replay.through)
        if replay.sequences or not self._go_live(session):
            self._replays.append(replay)

    def _is_gone(self, session: Session, sequence: int) -> None:
        """End a connection that needs a lost event; on return the client gets a new session."""
        text = f"The event at offset {self._log.offset_of(sequence)} is gone: its row was deleted"
        self._failures.failed(sequence, text, level=logging.WARNING)
        session.lacks = sequence
        connection = session.current.connection
        if connection is not None:
            connection.abort("an event is gone")

    def _cannot_be_sent(self, session: Session, sequence: int, error: Exception) -> None:
        """End a connection after a failed send of an event; on return the client gets a new session."""
        text = f"The event at offset {self._log.offset_of(sequence)} cannot be sent"
        self._failures.failed(sequence, text, error=error)
        self.unsendable_events += 1
        connection = session.current.connection
        if connection is not None:
            connection.abort("an event cannot be sent")
        session.suspected = Suspicion(sequence, TIMES_IN_A_ROW)

    def _skip_to_recent_events(self, session: Session) -> bool:
        """Whether the session has missed nothing from before the recent events."""
        current, begins_after = session.current, self._recent_events.begins_after
        missed = self._log.missed_in_memory(
            session.namespace, session.memberships(), current.sent, begins_after, at_most=0
        )
        if missed is None or missed.sequences:
            return False
        current.sent = begins_after
        return True

    def _go_live(self, session: Session) -> bool:
        """Send the missed recent events, and make the session live."""
        current, recent_events = session.current, self._recent_events
        if current.sent < recent_events.begins_after:
            return False
        try:
            missed = self._missed_recent(session)
        except Exception as error:  # noqa: BLE001 -- of the encoder, for an event that had no frames yet
            text = "Recent events have no frames; returning clients get them from the log"
            self._failures.failed("recent events", text, error=error)
            recent_events.clear()
            return False
        for page in missed:
            self._put(session, *page)
        self._release_deferred(session, recent_events.position)
        current.sent = recent_events.position
        self._registry.go_live(session)
        if current.recovered and self._lines.admit():
            self._log_recovery(session)
        return True

    def _missed_recent(self, session: Session) -> list[Page]:
        """Return the missed recent events, joined unless packets wait. Raises what the encoder raises."""
        current, recent = session.current, self._recent_events
        if current.deferred_packets:
            missed = [one for one in recent.after(current.sent) if session.receives(one[1], one[0])]
            return [(one[0], recent.frames_of(one), 1) for one in missed]
        page = self._recent_pages.page(session, current.sent)
        return [] if page is None else [page]

    def _log_recovery(self, session: Session) -> None:
        current = session.current
        offset = str(self._log.offset_of(current.first_sent or current.sent))
        extra = {"sid": session.sid, "namespace": session.namespace, "result": "recovered"}
        logger.info(
            "recovered %s: %s missed events, from offset %s on",
            session.sid,
            current.replayed,
            offset,
            extra=extra | {"missed": current.replayed, "offset": offset},
        )

    def _put(self, session: Session, sequence: int, frames: Frames, count: int = 1) -> None:
        """Send events from a sequence on, behind the earlier deferred packets."""
        current = session.current
        if current.deferred_packets:
            self._release_deferred(session, sequence - 1)
        if current.connection is not None:
            current.first_sent = current.first_sent or sequence
            self._fan_out.put(current.connection, frames)
            current.replayed += count
            self.events += count

    def _release_deferred(self, session: Session, position: int) -> None:
        """Send the deferred packets up to a position, before the next event."""
        current = session.current
        while current.deferred_packets and current.deferred_packets[0][0] <= position:
            _, frames = current.deferred_packets.popleft()
            current.deferred_bytes -= frames.size_bytes
            if current.connection is not None:
                self._fan_out.put(current.connection, frames)

    def _break_off(self) -> None:
        broken = [*self._replays, *(replay for replay, _ in self._served)]
        self._replays.clear()
        self._served.clear()
        for replay in broken:
            if not replay.is_over and replay.attached.connection is not None:
                replay.attached.connection.abort("the log cannot be read")
