"""The event loop of the program: uvloop, or asyncio's where uvloop is not installed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, NoReturn

if sys.platform == "win32":
    _EventLoop = asyncio.ProactorEventLoop
else:
    _EventLoop = asyncio.SelectorEventLoop


class EventLoopWithoutSendfile(_EventLoop):
    """An event loop of asyncio on which aiohttp writes files through the buffer of the transport.

    A file that the system sends is not in the buffer, so a client that does not read a file would not be
    noticed. uvloop has no sendfile either.
    """

    async def sendfile(self, *_: Any, **__: Any) -> NoReturn:
        """Raise NotImplementedError, after which aiohttp reads the file in chunks."""
        raise NotImplementedError


try:
    import uvloop
except ImportError:  # uvloop is optional: Windows has no uvloop
    NEW_EVENT_LOOP: Callable[[], asyncio.AbstractEventLoop] = EventLoopWithoutSendfile
else:
    NEW_EVENT_LOOP = uvloop.new_event_loop  # a fifth less processor time per delivery
