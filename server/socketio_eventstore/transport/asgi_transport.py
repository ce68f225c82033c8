"""The TCP transport below an ASGI server's ``send``.

ASGI has no call that drops a connection. When an application returns, uvicorn closes the transport, and
asyncio then waits for the unsent bytes: for ever, if the client does not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final

MAX_WRAPPERS: Final = 20
"""The most middlewares to search between the ASGI server and this package."""


def find_transport(send: Any) -> asyncio.Transport | None:
    """Return the transport below an ASGI ``send``; None if the server or a middleware hides the transport."""
    owner = find_owner(send, "transport")
    transport: asyncio.Transport | None = getattr(owner, "transport", None)
    return transport if callable(getattr(transport, "abort", None)) else None


def find_owner(send: Any, attribute: str) -> Any:
    """Return the object of the ASGI server that has ``send`` as a method and has an attribute, or None.

    Middlewares wrap ``send`` in functions, methods and partials. Each wrapper is searched for the next
    wrapper.
    """
    found, seen = [send], set[int]()
    while found and len(seen) < MAX_WRAPPERS:
        wrapper = found.pop(0)
        if id(wrapper) in seen:
            continue
        seen.add(id(wrapper))
        owner = getattr(wrapper, "__self__", None)
        if getattr(owner, attribute, None) is not None:
            return owner
        found.extend(_wrapped(wrapper))
    return None


def _wrapped(wrapper: Any) -> Iterator[Any]:
    match wrapper:
        case partial():
            candidates = [wrapper.func, *wrapper.args, *wrapper.keywords.values()]
        case MethodType():
            candidates = [getattr(wrapper.__self__, name, None) for name in ("send", "_send")]
        case FunctionType():
            candidates = [cell.cell_contents for cell in wrapper.__closure__ or ()]
        case _:
            candidates = []
    yield from (candidate for candidate in candidates if callable(candidate))
