"""A connection to PostgreSQL that is opened again after a loss.

No setting of the session and no prepared statement outlives a transaction, so PgBouncer may give each
transaction another connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from socketio_eventlog.errors import StoreClosed, StoreNotUsable
from socketio_eventlog.log import LEASE_SECONDS
from socketio_eventlog.postgres.failures import ConnectionLost, translate
from socketio_eventlog.postgres.time_limits import cut, limited

Connection: TypeAlias = psycopg.AsyncConnection[tuple[object, ...]]

FLUSH: Final = """
SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'eventstore', '')
"""
"""Makes all earlier commits durable. A transaction without a write would not wait."""

LONG_SECONDS: Final = 600.0
"""The longest use of a connection for large reads and clean-up."""

_HAS_BATCH: Final = "SELECT EXISTS (SELECT FROM eventstore.batches WHERE batch = %s AND chain = %s) FROM ("
_FORM: Final = "The URL must have the form postgresql://user@host/database."
_SCHEMES: Final = ("postgresql://", "postgres://")
_ESCAPES: Final = (
    "In the user and the password of the URL, characters such as / ? # @ must be percent-encoded: %2F for /."
)
_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "socketio-eventstore",
    "connect_timeout": 5,
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A dead peer is found in seconds, and of several hosts the primary is taken."""


def connection_string(url: str) -> str:
    """Return the parameters of a connection. Raises StoreNotUsable for a URL of another form.

    The message never has the URL, which may contain a password.
    """
    return make_conninfo("", **{**_DEFAULTS, **_parameters(url)})


def _parameters(url: str) -> dict[str, Any]:
    """Return the parts of a URL. Raises StoreNotUsable for a malformed URL, without showing the URL.

    libpq takes the text after a / or an @ in a password as the name of the database or as the host, which are
    shown to people.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreNotUsable(_FORM) from None
    authority, _, path = url.partition("?")[0].partition("://")[2].partition("/")
    is_cut = url.startswith(_SCHEMES) and (authority.count("@") > 1 or "@" in path)
    ports = str(given.get("port") or "").split(",")
    if is_cut or not all(port.isdecimal() for port in ports if port):
        raise StoreNotUsable(_ESCAPES)
    return given


def named(conninfo: str, node: str) -> str:
    """Return the parameters of a node's connections; the name shows other nodes that the node lives."""
    name = str(conninfo_to_dict(conninfo)["application_name"])
    # PostgreSQL cuts longer names at 63 bytes.
    return make_conninfo(conninfo, application_name=f"{name.encode()[:48].decode(errors='ignore')} {node}")


def describe(url: str) -> str:
    """Return the database and the host for people, without user and password. Raises StoreNotUsable."""
    given = _parameters(url)
    host = given.get("host") or given.get("hostaddr") or "the local server"
    return f"{given.get('dbname') or given.get('user') or 'the default database'} on {host}"


class Link:
    """A connection, used from a single event loop and by one task at a time."""

    def __init__(self, conninfo: str, limit_seconds: float | None = LEASE_SECONDS) -> None:
        """``limit_seconds``: the longest use; None for no limit."""
        self._conninfo = conninfo
        self._limit_seconds = limit_seconds
        self.on_connected: Callable[[Connection], Awaitable[None]] | None = None
        """Awaited with each new connection, before the first use."""
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False

    @asynccontextmanager
    async def use(self, limit_seconds: float | None = None) -> AsyncIterator[Connection]:
        """Lend the connection, opened if needed. Raises StoreError for the errors of the block, too.

        ``limit_seconds`` replaces the limit of the link; a longer block raises ConnectionLost.
        """
        limit_seconds = limit_seconds or self._limit_seconds
        async with self._lock:
            if self._is_closed:
                raise StoreClosed
            connection = self._connection
            try:
                if connection is None or connection.closed:
                    connection = await self._connect()
                async with limited(connection, limit_seconds):
                    yield connection
            except Exception as error:
                is_connected = connection is not None and not connection.closed
                translated = translate(error, is_connected=is_connected)
                if isinstance(translated, ConnectionLost) and connection is not None:
                    await self._drop()
                if translated is None or translated is error:
                    raise
                raise translated from error

    async def _connect(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, prepare_threshold=None
        )
        self._connection = connection
        if self.on_connected is not None:
            try:
                async with limited(connection, LEASE_SECONDS):
                    await self.on_connected(connection)
            except BaseException:
                await self._drop()
                raise
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Close the connection when the present use ends."""
        async with self._lock:
            self._is_closed = True
            await self._drop()

    def stop(self) -> None:
        """Let the present use and every later use fail at once."""
        self._is_closed = True
        if self._connection is not None:
            cut(self._connection)

    def abandon(self) -> None:
        """Close the connection after the end of the event loop."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.pgconn.finish()


class FailedFlush:
    """A notice of an ended wait for the standbys, which otherwise looks like success."""

    def __init__(self) -> None:
        self.text: str | None = None

    def __call__(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate == "01000":
            self.text = notice.message_primary


@asynccontextmanager
async def reporting_failed_flush(connection: Connection) -> AsyncIterator[None]:
    """Raise ConnectionLost after an ended flush in the block: durability is unknown."""
    failed = FailedFlush()
    connection.add_notice_handler(failed)
    try:
        yield
    finally:
        connection.remove_notice_handler(failed)
    if failed.text is not None:
        raise ConnectionLost(f"PostgreSQL says: {failed.text}.")


async def flush(connection: Connection) -> None:
    """Make all earlier commits durable. Raises ConnectionLost for unknown durability.

    Outside of a transaction, the flush proves nothing about other transactions: behind PgBouncer the database
    may have lost them in a crash. Inside a transaction, use ``reporting_failed_flush`` around the flush.
    """
    async with reporting_failed_flush(connection):
        await connection.execute(FLUSH)


async def flush_batch(connection: Connection, batch: int, chain: bytes) -> None:
    """Make a batch durable. Raises ConnectionLost when the database has lost the batch."""
    async with reporting_failed_flush(connection):
        row = await (await connection.execute(_HAS_BATCH + FLUSH + ") AS flush", (batch, chain))).fetchone()
    if row is None or not row[0]:
        raise ConnectionLost(f"Batch {batch} is gone before it was durable.")
