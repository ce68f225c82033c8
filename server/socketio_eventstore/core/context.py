"""The state on which changes and operations take effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from socketio_eventlog.log import Log
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.listener import SessionListener
from socketio_eventstore.core.nodes import Nodes
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.position_history import PositionHistory
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session


@dataclass(frozen=True, slots=True)
class Context:
    """The state on which changes and operations take effect: a fold of the log, up to the position."""

    log: Log
    registry: Registry
    nodes: Nodes
    fan_out: FanOut
    encoder: PacketEncoder
    recent_events: RecentEvents
    position_history: PositionHistory
    """The positions by which events are old enough to be deleted."""
    begin_replay: Callable[[Session], None]
    """Called with a newly accepted session, to send the missed events."""
    listener: SessionListener

    @property
    def position(self) -> int:
        """The sequence of the last event in effect."""
        return self.recent_events.position

    @property
    def uptime(self) -> float:
        """The uptime in seconds of the last batch in effect."""
        return self.nodes.uptime

    @property
    def offset(self) -> str | None:
        """The offset of the position, as text for clients; None when recovery is disabled."""
        log = self.log
        return log.offset_text(self.recent_events.position) if log.is_durable else None
