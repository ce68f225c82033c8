"""Stock python-socketio on aiohttp, without a RecoveryManager: ``python stock.py PORT``."""

from __future__ import annotations

import sys

import socketio
from aiohttp import web

from bench.handlers import register

sio = socketio.AsyncServer(async_mode="aiohttp", ping_interval=300, ping_timeout=20, http_compression=False)
app = web.Application()
sio.attach(app)
register(sio)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=4096)
