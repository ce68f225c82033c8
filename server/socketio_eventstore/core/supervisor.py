"""The tasks of a server: a failed task is restarted; the readiness probe reports the failure meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from socketio_eventstore.core.health import Health
from socketio_eventstore.core.repeated_failures import RepeatedFailures

logger = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS: Final = 1.0
"""The pause before the restart of a failed task."""


class Supervisor:
    """Runs tasks until ``stop``. The state of a task is in an object, so the task can be restarted."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._failures = RepeatedFailures(logger)
        self._is_stopping = False
        self.tasks: dict[str, asyncio.Task[None]] = {}
        """All started tasks, by name."""

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Start a task; ``work`` makes the coroutine, again after each failure."""
        # Without the context variables of the caller, which only happens to open the store.
        task = asyncio.create_task(self._run(name, work), context=contextvars.Context())
        task.add_done_callback(lambda _: self._ended(name))
        self.tasks[name] = task
        return task

    def stop(self, *tasks: asyncio.Task[None]) -> None:
        """Cancel tasks; from now on the end of a task is no failure."""
        self._is_stopping = True
        for task in tasks:
            task.cancel()

    async def _run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- a fault of the server; without the task it would be deaf
                self._health.task_failed(name)
                text = f"A task of the server has failed ({name}); it starts again: {error!r}"
                self._failures.failed(name, text, level=logging.CRITICAL, error=error)
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
                self._health.task_runs(name)
            else:
                return

    def _ended(self, name: str) -> None:
        if not self._is_stopping:
            self._health.task_failed(name)
