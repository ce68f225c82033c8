"""The announcement of the addresses at the start: a banner for people, or lines of the log."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from importlib.metadata import version

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.config import Config, StoreSettings
from socketio_eventstore.program.http_settings import API_PATH, INSPECT_PATH
from socketio_eventstore.program.listener import Listener
from socketio_eventstore.program.logs import is_for_people

logger = logging.getLogger(__name__)


async def announce(config: Config, sio: AsyncServer, listener: Listener, api_listener: Listener) -> None:
    """Print the banner, or log the start and the addresses where the log is JSON."""
    if is_for_people(config.log):
        print(await _banner(config, sio, listener, api_listener), flush=True)  # noqa: T201 - the program's output
        return
    runtime = sio.manager.runtime
    found: dict[str, object] = {"version": version("socketio-eventstore"), "process_id": os.getpid()}
    if runtime is not None and runtime.is_enabled:
        sessions, events = await runtime.log.counts()
        found |= {
            "store": config.store.name,
            "synchronous": config.store.synchronous,
            **({} if config.store.url else {"sqlite": sqlite3.sqlite_version}),
            "sessions": sessions,
            "events": events,
        }
    logger.info("started", extra=found)
    for url in (*listener.urls(), *api_listener.urls()):
        logger.info("Listening on %s", url, extra={"url": url})


def _survives(store: StoreSettings) -> str:
    if store.url:
        return {"full": "a crash of PostgreSQL", "normal": "kill -9, not a crash of PostgreSQL"}[
            store.synchronous
        ]
    return {"full": "power loss", "normal": "kill -9, not power loss"}[store.synchronous]


async def _banner(config: Config, sio: AsyncServer, listener: Listener, api_listener: Listener) -> str:
    lines = [f"Listening on {' and '.join(listener.urls())}"]
    if config.http.api_keys:
        one = api_listener if config.http.listen else listener
        lines.append(f"HTTP interface at {_place(one, API_PATH)}, keys: {', '.join(config.http.api_keys)}")
        lines.append(f"Inspector at {_place(one, INSPECT_PATH)}")
    runtime = sio.manager.runtime
    if runtime is None or not runtime.is_enabled:
        lines.append("Connection state recovery is disabled: nothing is stored.")
    else:
        store = config.store
        engine = "PostgreSQL" if store.url else f"SQLite {sqlite3.sqlite_version}"
        sessions, events = await runtime.log.counts()
        lines += [
            f"Store {store.name} ({engine})",
            f"Durable: synchronous = {store.synchronous!r}, survives {_survives(store)}",
            f"Sessions: {sessions}, events: {events}",
        ]
    has_page = getattr(sys.modules[config.server.handlers], "PAGES", None) is not None
    url = listener.url_for_browsers()
    page = f"Open {url} in a browser. " if has_page and url is not None else ""
    lines.append(f"{page}Ctrl-C stops the server.")
    return "\n".join(lines)


def _place(listener: Listener, path: str) -> str:
    """Return an address for browsers; without a TCP address, the path and the sockets."""
    url = listener.url_for_browsers()
    return f"{path} of {' and '.join(listener.urls())}" if url is None else url + path
