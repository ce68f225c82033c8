"""``socketio-eventstore verify``: breaks a scratch server, and checks the clients' events against the log.

``plan`` makes the steps of a run from a seed. ``runner`` runs the plan. ``store`` reads the log and the
sessions afterwards. ``judge`` compares the store with each client's history. ``report`` prints the result.
The clients share no code with the server, and know only the protocol.
"""
