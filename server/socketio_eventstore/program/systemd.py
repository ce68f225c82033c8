"""Notes to systemd: the server is ready, alive, stopping.

The protocol is one datagram per note, so the socket of the standard library is enough (sd_notify(3)).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, MutableMapping

logger = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Systemd:
    """Sends notes to the service manager of the process; does nothing without a manager."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take the variables of systemd out of ``environ``: programs started by handlers are no services."""
        found = {name: environ.pop(name, "") for name in VARIABLES}
        self._address = _address(found["NOTIFY_SOCKET"])
        self._watchdog_seconds = _watchdog_seconds(found)
        self._watchdog: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """Report that the server listens, and begin the proof of a running event loop."""
        self._send("READY=1", f"STATUS={status}")
        if self._address is not None and self._watchdog_seconds is not None:
            self._watchdog = asyncio.create_task(self._prove_life(self._watchdog_seconds / 2))

    def stopping(self, within_seconds: float) -> None:
        """Report that the server stops, and the time for the stop."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_seconds * 1e6)}")

    def stopped(self) -> None:
        """End the proofs of life."""
        if self._watchdog is not None:
            self._watchdog.cancel()

    async def _prove_life(self, pause_seconds: float) -> None:
        """Reset the watchdog again and again: without resets, systemd restarts a stuck process."""
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(pause_seconds)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notes:
                notes.setblocking(False)
                notes.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("systemd could not be told %s: %s", lines[0], error)


def _address(text: str) -> str | None:
    """Return the address of a socket; ``@`` stands for the abstract namespace."""
    if not text.startswith(("/", "@")):
        return None
    return f"\0{text[1:]}" if text.startswith("@") else text


def _watchdog_seconds(variables: Mapping[str, str]) -> float | None:
    if not variables["WATCHDOG_USEC"].isdecimal() or variables["WATCHDOG_PID"] not in ("", str(os.getpid())):
        return None
    return int(variables["WATCHDOG_USEC"]) / 1e6 or None
