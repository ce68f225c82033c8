"""Sessions, the commit queue and the fan-out: what python-socketio and the transports stand on."""
