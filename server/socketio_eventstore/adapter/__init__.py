"""python-socketio above the core: the only part that knows python-socketio."""
