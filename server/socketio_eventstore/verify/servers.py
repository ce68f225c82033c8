"""The servers of a run: a single server with a file, or several servers on a PostgreSQL database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from random import Random

from socketio_eventstore.verify.database_link import DatabaseLink
from socketio_eventstore.verify.faults import Break, Fault, Freeze, Jump, Kill, Partition, Promotion
from socketio_eventstore.verify.plan import Settings
from socketio_eventstore.verify.postgres_store import PostgresStore, check_standby, promote
from socketio_eventstore.verify.process import CannotRun, Server
from socketio_eventstore.verify.store import FileStore, Store


class Servers:
    """All servers of a run, the links to the database, and the store."""

    def __init__(
        self, folder: Path, settings: Settings, command: Sequence[str], database: str, standby: str = ""
    ) -> None:
        """``database``: the URL of a PostgreSQL database; "" is a file in the folder.

        ``standby``: the URL of the synchronous standby, for a promotion. Raises CannotRun.
        """
        if not database and (
            settings.nodes > 1 or settings.breaks or settings.partitions or settings.promotions
        ):
            raise CannotRun("several servers, breaks, partitions and a standby need PostgreSQL: --url")
        self._folder, self._settings, self._command = folder, settings, command
        self._links = [DatabaseLink(database) for _ in range(settings.nodes if database else 0)]
        self._servers: list[Server] = []
        self._random = Random(settings.seed)  # noqa: S311 -- no secret
        self._database, self._standby = database, standby
        self.store: Store = PostgresStore(database) if database else FileStore(folder / "events.db")
        if settings.promotions:
            check_standby(database, standby)

    async def start(self) -> None:
        """Start all servers. Raises CannotRun."""
        for link in self._links:
            await link.start()
        if self._links:
            folders = [self._folder / f"server{number}" for number in range(1, len(self._links) + 1)]
            urls = [link.url for link in self._links]
        else:
            folders, urls = [self._folder], [""]
        for folder, url in zip(folders, urls, strict=True):
            server = Server(folder, self._settings, self._command, url)
            self._servers.append(server)
            await server.start()

    def url(self) -> str:
        """Return the URL of any server."""
        return self._random.choice(self._servers).url

    async def strike(self, fault: Fault) -> None:
        """Let a fault happen, to the end. Raises CannotRun."""
        match fault:
            case Kill(node):
                await self._servers[node].kill()
                if self._links:
                    self._links[node].release()  # a server that cannot reach the database does not start
                await self._servers[node].start()
            case Freeze(node, seconds):
                await self._servers[node].freeze(seconds)
            case Jump(node, seconds):
                self._servers[node].set_clock(seconds)
            case Promotion():
                await self._promote()
            case Break(node, kind):
                self._links[node].break_next(kind)
            case Partition(node, seconds):
                await self._links[node].hold(seconds)

    async def _promote(self) -> None:
        """Take the database away from all servers, and promote the standby."""
        for link in self._links:
            link.shut()
        await asyncio.to_thread(promote, self._standby)
        self.store = PostgresStore(self._standby, has_log=True)
        for link in self._links:
            link.turn_to(self._standby)

    async def stop(self) -> None:
        """Stop all servers, and close the links."""
        await asyncio.gather(*(server.stop() for server in self._servers))
        await asyncio.gather(*(link.close() for link in self._links))

    def tracebacks(self) -> int:
        """Return the number of tracebacks in the logs."""
        return sum(server.tracebacks() for server in self._servers)
