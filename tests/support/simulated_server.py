"""A server from CONNECT packet to bytes: the real parts of the runtime on a simulated log."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from socketio_eventlog.changes import Answered, Asked
from socketio_eventlog.errors import StoreError
from socketio_eventlog.events import Room
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventlog.snapshot import Snapshot
from socketio_eventstore.adapter.admission import Admission
from socketio_eventstore.adapter.application import Application
from socketio_eventstore.adapter.departures import Departures
from socketio_eventstore.adapter.environs import Environs
from socketio_eventstore.adapter.handlers import HandlerCalls
from socketio_eventstore.adapter.identity_limit import IdentityLimit
from socketio_eventstore.adapter.token_ends import TokenEnds
from socketio_eventstore.core.commit_queue import CommitQueue
from socketio_eventstore.core.context import Context
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.flush_schedule import FlushSchedule
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.handler_transaction import submit_or_defer
from socketio_eventstore.core.heartbeats import Heartbeats
from socketio_eventstore.core.lease import Lease
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import SaveData
from socketio_eventstore.core.options import Options
from socketio_eventstore.core.packets import TextEncoder
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.recovery import Recovery, RecoveryLimits
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.replay import Replayer, frames_of
from socketio_eventstore.core.retention import Retention
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_operations import EndSession
from socketio_eventstore.core.sessions import ClientConnection, Session
from support.simulated_network import NAMESPACES, Wire

if TYPE_CHECKING:
    from support.simulated_clients import Scene

DURATION = 10.0
"""The maximum disconnection duration, in seconds."""
LIMITS = RecoveryLimits(DURATION, 10**6, 10**9, heartbeat_seconds=1.0)
ROOMS: tuple[Room, ...] = ("red", "blue", 7)
SAVES_EVERY = 3
"""Every third connect handler saves data."""
OWNER: ContextVar[SimulatedServer | None] = ContextVar("owner", default=None)
"""The server to which new tasks belong."""
_REASONS = ("CLIENT_DISCONNECT", "SERVER_DISCONNECT", "TRANSPORT_CLOSE", "TRANSPORT_ERROR")


def _connect_error(namespace: str, reason: object) -> Frames:
    """CONNECT_ERROR, as python-socketio's packet class encodes it."""
    return Frames(f"44{'' if namespace == '/' else namespace + ','}{json.dumps(reason)}")


class SimulatedServer:
    """A life of a server process."""

    def __init__(
        self, scene: Scene, log: Any, snapshot: Snapshot, *, retention_seconds: float = DURATION
    ) -> None:
        """Start the server as ``Runtime`` does."""
        self.scene = scene
        self.log = log
        self.is_running = True
        self.result: object = None
        """The result of the last operation for the submitter."""
        self.tasks: set[asyncio.Task[Any]] = set()
        """The running tasks of the server."""
        self.registry = Registry()
        for stored in snapshot.sessions:
            self.registry.add(Session.restore(stored))
        encoder, fan_out = TextEncoder(), FanOut(self.registry)
        recent_events = RecentEvents(snapshot.position, 60, encode=partial(frames_of, log, encoder))
        replayer = Replayer(log, self.registry, recent_events, fan_out, encoder, max_unsent_bytes=60)
        self.context = Context(
            log,
            self.registry,
            Nodes(log.node, snapshot),
            fan_out,
            encoder,
            recent_events,
            PositionHistory(retention_seconds, snapshot.positions),
            replayer.begin,
            self,
        )
        self.queue = CommitQueue(self.context, FlushSchedule(fan_out))
        self.recovery = Recovery(log, self.registry, LIMITS)
        heartbeats = Heartbeats(self.queue)
        self.lease = Lease(self.queue, heartbeats, self.lost, lambda: scene.seconds)
        self.retention = Retention(
            self.queue, self.recovery, heartbeats, interval_seconds=1.0, keys_retention_seconds=DURATION
        )
        self._build_adapter()
        token = OWNER.set(self)
        for work in (self.queue.run(), self.queue.take_effects(), replayer.run()):
            _ = scene.spawn(work)
        OWNER.reset(token)

    def _build_adapter(self) -> None:
        application = cast("Application", self._application())
        runtime = cast("Runtime", self)
        self.is_enabled, self.options = True, Options(path=None)
        calls = HandlerCalls(application)
        self.departures = Departures(application, runtime, calls)
        ends = TokenEnds(application)
        limit = IdentityLimit(0, self.registry, self.departures, Counter())
        self.admission = Admission(application, runtime, calls, self.departures, ends, limit, Counter())

    def _application(self) -> SimpleNamespace:
        """The parts of python-socketio's server for the admission."""
        return SimpleNamespace(
            serves=lambda namespace: namespace in NAMESPACES,
            needs_token=lambda namespace: False,
            new_sid=lambda: f"sid{next(self.scene.ids)}",
            forget_callbacks=lambda sid: None,
            environ=Environs(),
            handles=lambda event, namespace: True,
            own_cookie=None,
            recovers=lambda namespace: True,
            accepted=lambda session: None,
            always_connect=False,
            call_handler=self._call_handler,
            connect_error=_connect_error,
            reason=SimpleNamespace(**{reason: reason for reason in _REASONS}),
        )

    async def _call_handler(self, event: str, namespace: str, sid: str, *_: object) -> bool | None:
        if event != "connect":
            return None
        session = self.registry.get(namespace, sid)
        assert session is not None
        wire = self.wire_of(session)
        if wire is None:  # another node has the session meanwhile
            return False
        wire.claims, wire.claim = (namespace, sid), session.current.claim
        wire.decision = self.scene.loop.create_future()
        try:
            is_accepted = await wire.decision
            number = next(self.scene.ids)
            if number % SAVES_EVERY == 0:
                await submit_or_defer(self.queue, SaveData(session, f'{{"handler":{number}}}'))
            return is_accepted
        finally:
            wire.decision = None

    def wire_of(self, session: Session) -> Wire | None:
        return cast("Wire | None", session.current.connection)

    @property
    def wires(self) -> Iterator[Wire]:
        """The transports of all sessions, with and without a client."""
        for session in self.registry:
            for connection in (session.current.connection, *session.superseded):
                if connection is not None:
                    yield cast("Wire", connection)

    # The listener of the core -----------------------------------------------------------------------

    def superseded(self, session: Session, connection: ClientConnection) -> None:
        self.departures.superseded(session, connection)

    def ended(
        self, session: Session, connection: ClientConnection | None, reason: SessionEnd, *, was_accepted: bool
    ) -> asyncio.Future[None] | None:
        return self.departures.ended(session, connection, reason, was_accepted=was_accepted)

    def claimed_elsewhere(self, session: Session, claim: int) -> None:
        self.departures.claimed_elsewhere(session, claim)

    def departed(self, session: Session) -> None:
        self.departures.departed(session)

    def asked(self, node: str, asked: Asked) -> Callable[[Session], Frames]:
        raise AssertionError("the histories ask for nothing")

    def answered(self, answered: Answered) -> None:
        raise AssertionError("the histories ask for nothing")

    def lost(self, reason: str) -> None:
        """The life of the node is over; never called for a single server."""
        raise AssertionError(reason)

    async def expired(self, session: Session) -> None:
        self.scene.session_expired(self, session)
        await self.queue.submit(EndSession(session, SessionEnd.EXPIRED))

    # ------------------------------------------------------------------------------------------------

    def new_wire(self) -> Wire:
        return Wire(f"wire{next(self.scene.ids)}", self)

    def closed(self, wire: Wire, reason: str) -> None:
        if self.is_running:
            self.departures.transport_closed(cast("Any", wire), reason)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function of the server; new tasks belong to the server."""

        def owned() -> None:
            OWNER.set(self)
            function()

        self.scene.loop.call(owned)

    def do(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Run work of the server as ``Scene.do`` does."""
        token = OWNER.set(self)
        try:
            return self.scene.do(work)
        finally:
            OWNER.reset(token)

    def submit(self, *operations: Operation) -> bool:
        """Submit operations; return whether the operations have taken effect."""

        async def submitted() -> None:
            self.result = await self.queue.submit(*operations)

        return self.do(submitted())

    def sweep(self) -> bool:
        """Let sessions expire and events be pruned."""

        async def swept() -> None:
            await self.lease.beat()
            await self.retention.sweep()

        return self.do(swept())

    def kill(self) -> None:
        """End the process with all tasks and transports."""
        self.is_running = False
        for wire in [*self.wires]:
            wire.closed = True
        for task in [*self.tasks]:
            task.cancel()
        self.scene.loop.run_until_idle()


def new_task(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, Any],
    context: contextvars.Context | None = None,
) -> asyncio.Task[Any]:
    """Make a task that belongs to the server of the making task."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    if (owner := OWNER.get()) is not None:
        owner.tasks.add(task)
        task.add_done_callback(owner.tasks.discard)
    return task


def is_expected(error: BaseException | None) -> bool:
    """Whether a call may fail in this way."""
    return error is None or isinstance(error, StoreError)
