"""A proxy between a server and the database, to break and to hold connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import urlencode

from socketio_eventstore.verify.faults import BreakKind
from socketio_eventstore.verify.process import HOST, CannotRun

_APPEND: Final = b"eventstore.append"
_CHUNK_BYTES: Final = 65536


class DatabaseLink:
    """Forwards all connections of a server to the database."""

    def __init__(self, url: str) -> None:
        """``url``: of the database, with one host. Raises CannotRun."""
        self._host, self._port, self._others = _address(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._may_connect = asyncio.Event()
        self._may_connect.set()
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self._break: BreakKind | None = None

    @property
    def url(self) -> str:
        """The URL for the server, after ``start``."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://?{urlencode({**self._others, 'host': HOST, 'port': port})}"

    async def start(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        self._end_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_next(self, kind: BreakKind) -> None:
        """End all connections at the next append."""
        self._break = kind

    async def hold(self, seconds: float) -> None:
        """Let nothing pass for a while."""
        self._may_pass.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.release()

    def release(self) -> None:
        """Let everything pass again."""
        self._may_pass.set()

    def shut(self) -> None:
        """End all connections, and let new connections wait."""
        self._may_connect.clear()
        self._end_all()

    def turn_to(self, url: str) -> None:
        """Forward to another server from now on. Raises CannotRun."""
        self._host, self._port, _ = _address(url)
        self._may_connect.set()

    def _end_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        self._writers.add(writer)
        try:
            with suppress(OSError):
                database_reader, database_writer = await self._connect()
                writers.append(database_writer)
                self._writers.add(database_writer)
                await self._pass_both((reader, writer), (database_reader, database_writer))
        finally:
            for one in writers:
                self._writers.discard(one)
                one.transport.abort()
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await self._may_connect.wait()
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, int(self._port))

    async def _pass_both(
        self,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        database: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        appends = asyncio.Event()
        """Set while an answer to an append is expected."""
        passing = [
            asyncio.create_task(self._pass_requests(server[0], database[1], appends)),
            asyncio.create_task(self._pass_answers(database[0], server[1], appends)),
        ]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, appends: asyncio.Event
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._may_pass.wait()
            if _APPEND in data:
                appends.set()
                if self._take(BreakKind.REQUEST):
                    return
            writer.write(data)
            await writer.drain()

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, appends: asyncio.Event
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._may_pass.wait()
            if appends.is_set():
                appends.clear()
                if self._take(BreakKind.ANSWER):
                    return
            writer.write(data)
            await writer.drain()

    def _take(self, kind: BreakKind) -> bool:
        """Break all connections if requested; return whether requested."""
        if self._break is not kind:
            return False
        self._break = None
        self._end_all()
        return True


def _address(url: str) -> tuple[str, str, dict[str, str]]:
    """Return host, port and the other parts of a URL with one host. Raises CannotRun."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise CannotRun("PostgreSQL needs psycopg: install the extra postgres") from error
    try:
        given = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    except ProgrammingError as error:
        raise CannotRun("the URL must have the form postgresql://user@host/database") from error
    host, port = given.pop("hostaddr", "") or given.get("host", "") or HOST, given.get("port", "5432")
    if "," in host or "," in port:
        raise CannotRun("the URL must name one host")
    given.pop("host", None)
    return host, port, given
