"""The net under the rules of ``emit``: an event on which a client closes the connection again and again.

An official client that cannot parse a packet closes the transport in order, comes back within a second or
two, and is sent the same event first. Only that counts. Time-outs, resets, unwritten bytes and closes of a
client that has taken the event never count: a large event on a bad line is no poison. Only the client itself
is told, because a client that lies must not harm others.
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
        """Return the suspicion after the client has closed one more connection in order."""
        if not first_sent or connected_seconds > CLOSE_SECONDS:
            return NO_SUSPICION
        return Suspicion(first_sent, self.times + 1 if self.sequence == first_sent else 1)

    def is_confirmed(self, cursor: int) -> bool:
        """Whether the client has not taken the event; ``cursor`` is where the client has arrived."""
        return self.times >= TIMES_IN_A_ROW and cursor < self.sequence


NO_SUSPICION: Final = Suspicion()
