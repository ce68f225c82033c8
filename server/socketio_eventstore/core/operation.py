"""The base class of operations, and the state on which operations take effect.

An operation changes something that clients may see. The commit queue stores the changes of an operation
first and calls ``apply`` afterwards, in the order of the log. Operations know no event loop and never wait.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from socketio_eventlog.errors import StoreError
from socketio_eventlog.log import Log
from socketio_eventlog.records import Change
from socketio_eventstore.core.fan_out import FanOut
from socketio_eventstore.core.packets import PacketEncoder
from socketio_eventstore.core.recent_events import RecentEvents
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import Session


@dataclass(frozen=True, slots=True)
class Context:
    """The state on which operations take effect."""

    log: Log
    registry: Registry
    fan_out: FanOut
    encoder: PacketEncoder
    recent_events: RecentEvents
    begin_replay: Callable[[Session], None]
    """Called with a session that was just accepted, to send the missed events."""

    @property
    def position(self) -> int:
        """The sequence of the last event that has taken effect."""
        return self.recent_events.position

    @property
    def offset(self) -> str | None:
        """The offset of the position, as text for clients; None when recovery is disabled."""
        log = self.log
        return str(log.offset_at(self.recent_events.position)) if log.is_durable else None


class Operation(ABC):
    """A change that takes effect at one point of the order."""

    only_broadcasts: ClassVar[bool] = False
    """Whether ``apply`` calls nothing but ``FanOut.broadcast``; neighbours may then share one look-up."""
    has_happened: ClassVar[bool] = False
    """Whether the changes describe the end of a connection or session, which no error can undo.

    When the store refuses such changes (SessionAway, SessionEnded), the commit queue writes them as soon as
    the store is back.
    """

    @property
    def size_bytes(self) -> int:
        """The weight of the operation while the operation waits in the queue."""
        return 0

    @property
    def may_store(self) -> bool:
        """Whether ``changes`` may return anything. An operation without changes need not wait."""
        return True

    def changes(self, registry: Registry) -> Sequence[Change]:
        """Return the changes that must be on disk before ``apply``; asked once for each commit.

        Must not raise: an exception here would fail the whole batch.
        """
        return ()

    @abstractmethod
    def apply(self, context: Context, changes: Sequence[Change]) -> object:
        """Take effect in memory and on connections.

        ``changes`` are the committed ones, as returned by ``changes``. The commit queue gives the result
        to the submitter.
        """

    def refused(self, context: Context, error: StoreError) -> None:
        """Take note that the changes could not be stored."""
        return
