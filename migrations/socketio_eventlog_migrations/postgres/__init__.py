"""The schema of the SQLite database, as alembic revisions."""
