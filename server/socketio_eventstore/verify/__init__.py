"""``socketio-eventstore verify``: chaos against a server of its own, and a judgement of what clients saw.

``plan`` decides from a seed what happens, ``world`` lets it happen, ``truth`` reads afterwards what the
log holds, ``judge`` compares that with what each client received, ``report`` prints it. The clients
share no code with the server: what they know is the protocol.
"""
