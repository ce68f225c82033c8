"""A chat with a single room; the server calls ``register`` at the start."""

from __future__ import annotations

from typing import Any

from socketio_eventstore import AsyncServer, chat

PAGES = chat.PAGES
"""The page of the built-in chat; a folder with an ``index.html`` may replace the page."""

LOBBY = "lobby"


def register(sio: AsyncServer) -> None:
    async def connect(sid: str, environ: dict[str, Any], auth: object) -> None:
        if not sio.recovered(sid):  # a recovered session has kept its rooms
            await sio.enter_room(sid, LOBBY)
            await sio.emit("chat message", "A new member is here.", room=LOBBY, skip_sid=sid)

    async def chat_message(sid: str, text: object) -> dict[str, str | None]:
        if not chat.is_message(text):
            return {"status": "refused", "reason": chat.REFUSAL}
        # `await` ends when the event is on disk; the client gets the offset as the acknowledgement.
        offset = await sio.emit("chat message", text, room=LOBBY)
        return {"status": "ok", "offset": offset}

    async def session_expired(sid: str, data: dict[str, Any]) -> None:
        await sio.emit("chat message", "A member has left.", room=LOBBY)

    sio.on("connect", connect)
    sio.on("chat message", chat_message)
    sio.on("session_expired", session_expired)
