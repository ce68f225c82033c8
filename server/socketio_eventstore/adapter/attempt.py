"""The way from a CONNECT packet to a session: the claim, the attempt, the decision, the outcome."""

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
    """The end of the conversation after a CONNECT packet."""

    ACCEPTED = auto()
    """CONNECT was sent."""
    REFUSED = auto()
    """The connect handler has refused, and the client was told so."""
    OTHER_IDENTITY = auto()
    """The client does not own the session of the private id, and gets a new session."""
    SUPERSEDED = auto()
    """Another connection has claimed the session, or the connection was closed."""
    ENDED = auto()
    """The application ended the session while the client connected."""


@dataclass(eq=False, slots=True)
class Attempt:
    """A claimed session, until the decision of the connect handler."""

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
    """The offset from the client, which sends the same offset until an event arrives."""
    token: Token | None = None
    """The client's token, where a token is needed."""
    renewal: Sequence[SessionOperation] = ()
    """The token's changes of a recovered session."""
    needs_proof_of_life: bool = False
    """Whether the client may have a newer connection after a long claim."""
    missed: int = 0
    """The number of missed events, at most."""
    reservations: Reservations | None = None
    """The reservations of a recovered session's connect handler, until the end of the conversation."""

    @property
    def is_current(self) -> bool:
        """Whether no other connection has claimed the session since."""
        return self.session.current is self.attached


@dataclass(frozen=True, slots=True)
class Claim:
    """The request of a client for a former session."""

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
    """The handler's changes of a recovered session."""
    handler_was_called: bool = True


NOT_ASKED: Final = Decision(handler_was_called=False)
