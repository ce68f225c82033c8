"""The durable, ordered log and the sessions beside the log, in SQLite."""

if __name__ != "socketio_eventlog":
    # A second name would give a second copy of every class, and isinstance would tell the copies apart.
    raise ImportError(f"Import this package as socketio_eventlog, not as {__name__}.")
