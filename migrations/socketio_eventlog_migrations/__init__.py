"""The schemas of the event log's databases, as alembic revisions."""

if __name__ != "socketio_eventlog_migrations":
    # A second name would give a second copy of every module, as in socketio_eventlog.
    raise ImportError(f"Import this package as socketio_eventlog_migrations, not as {__name__}.")
