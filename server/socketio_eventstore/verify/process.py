"""A scratch server: a process that a run kills and starts again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from socketio_eventstore.verify.plan import Settings

HOST: Final = "127.0.0.1"
SERVE: Final = (sys.executable, "-m", "socketio_eventstore", "serve")
"""The same command as in production, called with --config and --port."""
CLOCK: Final = "clock"
"""The name of the optional file with the lead of a server's wall clock, for the handlers."""
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0

# No session expires and no event is pruned: the log is complete after the run. Frequent heartbeats confirm
# the received events, and close half-open connections within the run.
_CONFIG: Final = """\
[server]
host = "{host}"
handlers = "socketio_eventstore.verify.handlers"
ping_interval = 1.0
ping_timeout = 5.0

[connection_state_recovery]
max_disconnection_duration = 1000000.0

[store]
path = "events.db"
url = {url}
synchronous = "{synchronous}"

[log]
format = "text"
"""


class CannotRun(Exception):
    """The run cannot start, or cannot be judged. The text is the reason."""


class Server:
    """The server over all restarts. The server exits with its parent process."""

    def __init__(
        self, folder: Path, settings: Settings, command: Sequence[str] = SERVE, database: str = ""
    ) -> None:
        """``database``: the URL of a PostgreSQL database; "" is the file ``events.db`` in the folder."""
        folder.mkdir(exist_ok=True)
        self.log_file = folder / "server.log"
        self.url = ""
        """The address since the last start."""
        self._folder = folder
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        config = _CONFIG.format(host=HOST, url=json.dumps(database), synchronous=settings.synchronous)
        (folder / "config.toml").write_text(config)
        if settings.jumps:
            self.set_clock(0.0)

    async def start(self) -> None:
        """Start the server and wait until it listens. Raises CannotRun."""
        environ = {name: text for name, text in os.environ.items() if not name.startswith("EVENTSTORE_")}
        with self.log_file.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                # Another program may take the former port while the server is down.
                *("--config", "config.toml", "--port", "0"),
                cwd=self._folder,
                env=environ,
                stdin=asyncio.subprocess.PIPE,  # the handlers exit when the pipe is closed
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_START_SECONDS):
                banner = (await self._process.stdout.readline()).decode()
        except TimeoutError:
            banner = ""
        match = re.search(r"Listening on (http://\S+:\d+)", banner)
        if match is None:
            raise CannotRun(f"the server did not start{self._log_tail()}")
        self.url = match[1]

    def set_clock(self, ahead_seconds: float) -> None:
        """Set the lead of the server's wall clock before the machine's clock, also after a restart."""
        written = self._folder / "clock.new"
        written.write_text(str(ahead_seconds))
        written.replace(self._folder / CLOCK)

    async def kill(self) -> None:
        """Kill the server by SIGKILL. Raises CannotRun if the server had exited before."""
        if self._process is None:
            return
        if self._process.returncode is not None:
            raise CannotRun(
                f"the server exited by itself, with code {self._process.returncode}{self._log_tail()}"
            )
        self._process.kill()
        await self._process.wait()

    async def freeze(self, seconds: float) -> None:
        """Stop the process for a while, by SIGSTOP."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):  # perhaps killed meanwhile
                process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Stop the server by SIGTERM, and by SIGKILL after a timeout."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            if process.returncode is None:  # this method was cancelled
                process.kill()

    def tracebacks(self) -> int:
        """Return the number of tracebacks in the server's log."""
        return self.log_file.read_text(errors="replace").count("Traceback (most recent call last)")

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n{line}" for line in lines)
