"""Runs the migrations on the connection, and inside the transaction, of whoever asked for them.

There is no ini file and no mode that opens a database by itself: a migration happens when the store
opens the database, within the transaction that the store began (see ``store/schema.py``).
"""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
