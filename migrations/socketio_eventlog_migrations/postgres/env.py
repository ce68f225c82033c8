"""Runs the migrations on the caller's connection and inside the caller's transaction.

The folder has no ini file, and no mode opens a database: the store migrates a database at the opening,
within a transaction of the store (see ``socketio_eventlog/postgres/schema.py``).
"""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table_schema="eventstore")
context.run_migrations()
