"""The command ``migrate``: the schema of the configured database."""

from __future__ import annotations

import asyncio

from socketio_eventlog.errors import StoreError
from socketio_eventlog.opening import migrate as migrate_store
from socketio_eventlog.opening import revisions
from socketio_eventlog.options import StoreOptions
from socketio_eventstore.program.config import Config
from socketio_eventstore.program.errors import StartError


def description(config: Config) -> str:
    """Return a text about the schema of a migrated database. Raises StoreError."""
    if config.store.url:
        found, known = revisions(config.store.url)
        if found is not None and found > known:
            return f"the newer revision {found}; this version knows {known}, and can use it"
    return "this version's schema"


def migrate(config: Config) -> None:
    """Migrate the database to this version's schema. Raises StartError."""
    store = config.store
    path = None if store.url else store.path
    try:
        asyncio.run(
            migrate_store(StoreOptions(path=path, url=store.url or None, synchronous=store.synchronous))
        )
    except StoreError as error:
        raise StartError(str(error)) from error
