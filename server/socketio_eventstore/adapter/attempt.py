"""A client that sent CONNECT, on its way to a session: the claim, the attempt, the decision, the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from socketio_eventstore.adapter.authentication import Token
from socketio_eventstore.adapter.handlers import HandlerSlot
from socketio_eventstore.core.handler_transaction import Reservations
from socketio_eventstore.core.operations import SessionOperation
from socketio_eventstore.core.recovery import AuthHash
from socketio_eventstore.core.sessions import Session, SessionConnection
from socketio_eventstore.transport.connection import EngineConnection


class Outcome(Enum):
    """The end of the conversation with a client that sent CONNECT."""

    ACCEPTED = auto()
    """CONNECT was sent."""
    REFUSED = auto()
    """The connect handler has refused, and the client was told so."""
    OTHER_IDENTITY = auto()
    """The client does not own the session that the private id opens, and is to get a new session."""
    SUPERSEDED = auto()
    """Another connection has claimed the session, or the connection was closed."""
    ENDED = auto()
    """The application ended the session while the client connected."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A session that a connection has claimed, until the connect handler has decided."""

    session: Session
    connection: EngineConnection
    attached: SessionConnection
    pid: str | None
    """The private id; None when recovery is disabled."""
    slot: HandlerSlot
    """The reserved slot in the handler calls of the session."""
    auth: Any
    """The ``auth`` of the client without pid and offset; None when nothing is left."""
    offset: object = None
    """The offset that the client sent, and goes on sending until an event arrives."""
    token: Token | None = None
    """The token that the client has shown, where one is needed."""
    renewal: Sequence[SessionOperation] = ()
    """What the token changes in a recovered session."""
    needs_proof_of_life: bool = False
    """Whether the claim took so long that the client may have a newer connection."""
    missed: int = 0
    """The number of missed events, at most."""
    reservations: Reservations | None = None
    """What the connect handler of a recovered session has reserved, until the end of the conversation."""

    @property
    def is_current(self) -> bool:
        """Whether no other connection has claimed the session since."""
        return self.session.current is self.attached


@dataclass(frozen=True, slots=True)
class Claim:
    """A client that wants its session back."""

    session: Session
    connection: EngineConnection
    pid: str
    offset: object
    auth: Any
    auth_hash: AuthHash
    token: Token | None
    begun: float
    """The time at which the CONNECT packet came, on the event loop's clock, in seconds."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the connect handler."""

    refusal: Any = None
    """The reason of a refusal, for CONNECT_ERROR; None when the handler has accepted."""
    deferred: Sequence[SessionOperation] = ()
    """The changes of a recovered session that the handler asked for."""
    handler_was_called: bool = True


NOT_ASKED: Final = Decision(handler_was_called=False)
