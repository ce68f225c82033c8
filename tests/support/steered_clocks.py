"""Servers with clocks set by a test: the wall clock, and the uptime clock for the expiry of sessions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.processes import HANDLERS, ServerProcess

PROGRAM = """
import sys
import time
from pathlib import Path

ahead, speed = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
real, monotonic = time.time, time.monotonic
time.time = lambda: real() + float(ahead.read_text())


class Passed:
    seconds, read_at = 0.0, monotonic()

    def __call__(self):
        now = monotonic()
        self.seconds += (now - self.read_at) * float(speed.read_text())
        self.read_at = now
        return self.seconds


from socketio_eventlog.sqlite.log import EventLog

EventLog.open.__kwdefaults__["monotonic"] = Passed()

from socketio_eventstore.__main__ import main

main()
"""
"""The server, with a wall clock replaced before the first import."""
STILL, REAL, FAST = 0.0, 1.0, 30.0
"""Speeds of the uptime clock. A client that answers a ping each second must not count as silent."""


class SteeredServer(ServerProcess):
    """A server with a settable wall clock, and an uptime clock that can stand still or run faster.

    While the uptime stands still nothing expires, on any slow machine.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Mapping[str, object] | None] | None = None,
        handlers: Path = HANDLERS,
        *,
        speed: float = STILL,
    ) -> None:
        usual = {
            "store": {"prune_interval": 0.05},
            "connection_state_recovery": {"max_disconnection_duration": 60.0},
        }
        super().__init__(folder, {**usual, **(config or {})}, handlers)
        self._program = folder / "program.py"
        self._program.write_text(PROGRAM)
        self._ahead, self._speed = folder / "ahead", folder / "speed"
        self.set_clock(0.0)
        self.set_speed(speed)

    def command(self) -> Sequence[str]:
        clocks = str(self._ahead), str(self._speed)
        return (sys.executable, str(self._program), *clocks, "serve", "--config", str(self.config_file))

    def set_clock(self, seconds_ahead: float) -> None:
        """Set the wall clock."""
        _write(self._ahead, seconds_ahead)

    def set_speed(self, factor: float) -> None:
        """Set the speed of the uptime clock."""
        _write(self._speed, factor)

    @contextmanager
    def time_passes(self) -> Iterator[None]:
        """Let the uptime run fast inside the block: up to four seconds with each heartbeat."""
        self.set_speed(FAST)
        try:
            yield
        finally:
            self.set_speed(STILL)

    @contextmanager
    def time_stands_still(self) -> Iterator[None]:
        """Let the uptime stand still inside the block, in which the test must be back in time."""
        self.set_speed(STILL)
        try:
            yield
        finally:
            self.set_speed(REAL)


def _write(file: Path, number: float) -> None:
    """Write a file that the server may read at any moment."""
    new = file.with_suffix(".new")
    new.write_text(str(number))
    new.replace(file)
