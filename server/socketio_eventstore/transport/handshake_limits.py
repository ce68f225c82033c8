"""The limits for handshakes, of the server and of the clients of an address."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.address_limits import HANDSHAKES, AddressLimits, AddressPlace
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.responses import (
    RETRY_AFTER_SECONDS,
    TOO_MANY,
    RequestRefused,
    unavailable,
)


class HandshakeLimits:
    """The part of ``Engine`` that refuses handshakes beyond a limit."""

    sockets: dict[Any, Any]
    access: AccessRules
    connections: int
    """The most open connections; a handshake beyond the limit is refused."""
    pending_handshakes: int
    """The most connections without a namespace so far."""
    pending: int
    """The number of connections without a namespace so far."""
    is_draining: bool
    """Whether handshakes are refused, since the server is about to end."""
    address_limits: AddressLimits
    """The limits for the clients of an address."""
    refused_handshakes: Counter[str]
    """The number of refused handshakes and of clients above a rate, by the name of the limit."""
    failures: RepeatedFailures
    """The log lines about clients."""

    def _is_beyond_limits(self, head: RequestHead) -> bool:
        """Whether a handshake would be refused; without a count."""
        is_full = self.is_draining or len(self.sockets) >= self.connections
        if is_full or self.pending >= self.pending_handshakes:
            return True
        if not self.address_limits.is_on:
            return False
        address = self.access.client_address(head)
        return address is not None and self.address_limits.is_full(address)

    def _check_limits(self) -> None:
        """Raise RequestRefused for a handshake beyond a limit."""
        if self.is_draining:
            self.refused_handshakes["draining"] += 1
            raise unavailable()
        if len(self.sockets) >= self.connections:
            limit = "connections"
        elif self.pending >= self.pending_handshakes:
            limit = "pending_handshakes"
        else:
            return
        self.refused_handshakes[limit] += 1
        text = f"A handshake was refused: there are {getattr(self, limit)} {limit}"
        self.failures.failed(limit, text, level=logging.WARNING, extra={"reason": limit})
        raise unavailable()

    def _place_of(self, head: RequestHead) -> AddressPlace | None:
        """Count a handshake of the client's address. Raises RequestRefused beyond the limit."""
        address = self.access.client_address(head)
        if address is None:
            return None
        if self.address_limits.is_full(address):
            self.refused_handshakes[HANDSHAKES] += 1
            text = f"A handshake was refused: there are {self.address_limits.handshakes} of {address}"
            self.failures.failed(HANDSHAKES, text, level=logging.WARNING, extra={"reason": HANDSHAKES})
            refusal = RequestRefused(TOO_MANY, "429 TOO MANY REQUESTS")
            refusal.response["headers"].append(("Retry-After", str(RETRY_AFTER_SECONDS)))
            raise refusal
        return self.address_limits.place(address)
