"""The durable, ordered log and the sessions beside it, in SQLite."""
