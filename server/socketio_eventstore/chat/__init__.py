"""The chat of the Socket.IO tutorial (https://socket.io/docs/v4/tutorial/): what one says, all hear.

Handlers of an application look like this, whether they run here (``handlers`` in config.toml) or on
python-socketio alone. Recovery needs nothing from them: every event emitted is logged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socketio

PAGES = Path(__file__).parent / "pages"
"""What the server shows at ``/`` with these handlers."""

PAGES = Path(__file__).parent / "pages"
"""Where the page of these handlers lies: ``index.html`` is served at ``/``, the rest at ``/pages/``."""

MAX_MESSAGE_CHARS = 2000
REFUSAL = f"A message is a text of 1 to {MAX_MESSAGE_CHARS} characters."


def register(sio: socketio.AsyncServer) -> None:
    """Attach the handlers of the chat to a server."""

    async def chat_message(sid: str, message: object = None, *_: object) -> dict[str, str | None]:
        """Pass a message on to everyone; what is returned goes to the sender if it asked for an ack."""
        if not is_message(message):
            return {"status": "refused", "reason": REFUSAL}
        offset = await sio.emit("chat message", message)
        return {"status": "ok", "offset": offset}

    sio.on("chat message", chat_message)


def is_message(value: object) -> bool:
    """Whether a client sent something that the others can be shown: clients may send anything."""
    return isinstance(value, str) and value.strip() != "" and len(value) <= MAX_MESSAGE_CHARS
