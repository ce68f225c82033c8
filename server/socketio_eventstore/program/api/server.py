"""``/api/rooms`` and ``/api/stats``: the server as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.history import DEFAULT_LIMIT
from socketio_eventstore.core.registry_pages import RoomKey
from socketio_eventstore.program.api import cursors
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.names import Cursor, Limit, QueryNamespace


class RoomsQuery(BaseModel):
    """Which page of the rooms."""

    model_config = ConfigDict(extra="forbid")

    namespace: QueryNamespace | None = Field(default=None, description="Only rooms of this namespace.")
    cursor: Cursor | None = Field(default=None, description="The `next` of the page before.")
    limit: Limit = DEFAULT_LIMIT


class RoomResult(BaseModel):
    """A room with sessions."""

    model_config = ConfigDict(from_attributes=True)

    namespace: str
    room: str | int
    sessions: int = Field(description="The number of its sessions, connected or away.")


class RoomsResult(BaseModel):
    """A page of the rooms, by namespace and name, numbers first. A sid is not listed as a room."""

    rooms: list[RoomResult]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


class StatsResult(BaseModel):
    """A server in numbers."""

    model_config = ConfigDict(from_attributes=True)

    connections: int = Field(description="Open connections to this process.")
    sessions: dict[Literal["connected", "connecting", "away"], int]
    rooms: int = Field(description="Rooms with members.")
    head_offset: str | None = Field(description="The offset of the last event; null without recovery.")
    pruned_through: int = Field(description="The sequence of the last deleted event; 0 for none.")
    recoveries: dict[str, int] = Field(description="Reconnections since the start, by result.")
    problems: list[str] = Field(description="Why the server is not ready; empty if it is.")


def server_endpoints(administration: Administration) -> Sequence[Endpoint]:
    """Return the operations."""

    async def rooms(call: Call) -> RoomsResult:
        query: RoomsQuery = call.query
        key = cast("RoomKey | None", cursors.from_text(query.cursor, (str, bool, (str, int))))
        if key is not None and key[1] != isinstance(key[2], str):
            raise cursors.refused()
        found, following = await administration.rooms(query.namespace, key, query.limit)
        results = [RoomResult.model_validate(room) for room in found]
        return RoomsResult(rooms=results, next=cursors.to_text(following))

    async def stats(_: Call) -> StatsResult:
        return StatsResult.model_validate(await administration.stats())

    return [
        Endpoint(
            name="getRooms",
            method="GET",
            path="/rooms",
            summary="A page of the rooms.",
            answer=rooms,
            result=RoomsResult,
            query=RoomsQuery,
            statuses=(409, 422, 503),
        ),
        Endpoint("getStats", "GET", "/stats", "The server in numbers.", stats, StatsResult, statuses=(503,)),
    ]
