"""A second check behind the rules of ``emit``: an event at which a client closes the connection repeatedly.

An official client that cannot parse a packet closes the transport in order, comes back within a second or
two, and is sent the same event first. Only this pattern counts. Time-outs, resets, unwritten bytes and closes
after the event never count: a large event on a bad line is no poison. Only the client itself gets a new
session, since a lying client must not harm others.
"""

from __future__ import annotations

from typing import Final, NamedTuple

TIMES_IN_A_ROW: Final = 3
CLOSE_SECONDS: Final = 2.0
"""How soon after the acceptance the client closes the connection."""


class Suspicion(NamedTuple):
    """The event on which the last connections of a session ended."""

    sequence: int = 0
    times: int = 0

    def after_close(self, first_sent: int, connected_seconds: float) -> Suspicion:
        """Return the suspicion after another orderly close by the client."""
        if not first_sent or connected_seconds > CLOSE_SECONDS:
            return NO_SUSPICION
        return Suspicion(first_sent, self.times + 1 if self.sequence == first_sent else 1)

    def is_confirmed(self, cursor: int) -> bool:
        """Whether the client has not taken the event; ``cursor`` is where the client has arrived."""
        return self.times >= TIMES_IN_A_ROW and cursor < self.sequence


NO_SUSPICION: Final = Suspicion()
