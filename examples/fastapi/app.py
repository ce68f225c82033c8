"""A FastAPI application that publishes news to browsers, with the event store inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from pydantic import BaseModel
from socketio import ASGIApp

from socketio_eventstore import AsyncServer, StoreError

sio = AsyncServer("events.db", async_mode="asgi", max_disconnection_duration=300.0)
PAGE = Path(__file__).with_name("index.html")


class News(BaseModel):
    """The body of a request that publishes."""

    topic: str
    text: str


async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any] | None) -> None:
    topic = (auth or {}).get("topic")
    if isinstance(topic, str) and not sio.recovered(sid):  # a recovered session has kept its rooms
        await sio.enter_room(sid, topic)


sio.on("connect", connect)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await sio.start()  # an unusable database ends the start here, with one clear line
    yield
    await sio.shutdown()


api = FastAPI(lifespan=lifespan)


@api.get("/")
async def page() -> FileResponse:
    return FileResponse(PAGE)


@api.post("/news")
async def publish(news: News) -> dict[str, str | None]:
    try:
        offset = await sio.emit("news", news.text, room=news.topic)
    except StoreError as error:  # the event was not stored, so no client has received the event
        raise HTTPException(status_code=503, detail=str(error)) from error
    return {"offset": offset}


# Without on_startup and on_shutdown, ASGIApp leaves the lifespan to FastAPI.
app = ASGIApp(sio, other_asgi_app=api)
