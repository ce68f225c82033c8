"""python-socketio above the core: the only part that imports python-socketio."""
