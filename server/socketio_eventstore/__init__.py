"""The Socket.IO server: python-socketio above a durable, ordered log."""
