"""Limits for the clients of an address.

A handshake has a place among the handshakes of the address until the client asks for a namespace. Then the
connection has a place among the connections. So a client with a valid private id can name the private id and
pass, although the address is at the limit of connections. Such a client opens no new session.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HANDSHAKES = "handshakes_per_address"
CONNECTIONS = "connections_per_address"


@dataclass(slots=True)
class _Counts:
    """The connections of an address."""

    handshakes: int = 0
    connections: int = 0


@dataclass(eq=False, slots=True)
class AddressPlace:
    """The place of a connection in the counts of the address."""

    address: str
    _limits: AddressLimits = field(repr=False)
    _counts: _Counts = field(repr=False)
    is_joined: bool = False
    """Whether the place is among the connections, and no longer among the handshakes."""
    is_refused: bool = False
    """Whether the client was refused, and the connection is about to end."""
    is_extra: bool = False
    """Whether the client was let in above the limit, to return to a session."""
    _is_free: bool = False

    @property
    def may_open(self) -> bool:
        """Whether the client may open a new session, and the connection stay without one for long."""
        limit = self._limits.connections
        return not (self.is_extra and limit and self._counts.connections > limit)

    @property
    def may_join(self) -> bool:
        """Whether the address may have another connection."""
        limit = self._limits.connections
        return not limit or self._counts.connections < limit

    def join(self) -> None:
        """Count as a connection from now on."""
        if not self.is_joined and not self._is_free:
            self.is_joined = True
            self._counts.handshakes -= 1
            self._counts.connections += 1

    def free(self) -> None:
        """Count no more; may be called again."""
        if self._is_free:
            return
        self._is_free = True
        counts = self._counts
        if self.is_joined:
            counts.connections -= 1
        else:
            counts.handshakes -= 1
        if not counts.handshakes and not counts.connections:
            self._limits.forget(self.address)


class AddressLimits:
    """Counts the connections of each address, while there is a limit."""

    def __init__(self, connections: int = 0, handshakes: int = 0) -> None:
        """The limits of an address; 0 is none."""
        self._counts: dict[str, _Counts] = {}
        self.change(connections, handshakes)

    def change(self, connections: int, handshakes: int) -> None:
        """Set the limits, also while there are connections."""
        self.connections = connections
        self.handshakes = handshakes
        self.is_on = bool(connections or handshakes)
        """Whether there is a limit."""

    def is_full(self, address: str) -> bool:
        """Whether an address may have no more handshakes at the moment."""
        counts = self._counts.get(address)
        return bool(self.handshakes) and counts is not None and counts.handshakes >= self.handshakes

    def place(self, address: str) -> AddressPlace:
        """Count a handshake of an address."""
        counts = self._counts.setdefault(address, _Counts())
        counts.handshakes += 1
        return AddressPlace(address, self, counts)

    def forget(self, address: str) -> None:
        """Forget an address without connections."""
        self._counts.pop(address, None)
