"""The chat of the Socket.IO tutorial (https://socket.io/docs/v4/tutorial/): all clients see all messages.

An application's handlers look like this module, both on this server (``handlers`` in config.toml) and on
python-socketio alone. Recovery needs no code in the handlers: the server logs every emitted event.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socketio

PAGES = Path(__file__).parent / "pages"
"""The folder of the page: the server serves ``index.html`` at ``/`` and all files at ``/pages/``."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page needs nothing from elsewhere, and is shown in no frame of another page."""
MAX_MESSAGE_CHARS = 2000
REFUSAL = f"A message is a text of 1 to {MAX_MESSAGE_CHARS} characters."


def register(sio: socketio.AsyncServer) -> None:
    """Register the handlers of the chat on a server."""

    async def chat_message(sid: str, message: object = None, *_: object) -> dict[str, str | None]:
        """Emit a message to all clients. The sender gets the returned value as the acknowledgement."""
        if not is_message(message):
            return {"status": "refused", "reason": REFUSAL}
        offset = await sio.emit("chat message", message)
        return {"status": "ok", "offset": offset}

    async def caught_up(sid: str, *_: object) -> None:
        """Acknowledge, behind all missed events of the client: packets keep their order."""

    sio.on("chat message", chat_message)
    sio.on("caught up", caught_up)


def is_message(value: object) -> bool:
    """Whether a client's value is a valid message: a client may send any value."""
    return isinstance(value, str) and value.strip() != "" and len(value) <= MAX_MESSAGE_CHARS
