"""``/api/sessions``: the sessions, and an operator's changes of a session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from socketio_eventlog.events import Room
from socketio_eventlog.history import ENTRIES_KEPT, HistoryKind
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.feeds import CursorRefused
from socketio_eventstore.adapter.history import DEFAULT_LIMIT
from socketio_eventstore.adapter.session_timelines import Timeline
from socketio_eventstore.adapter.session_views import STATES, SessionDetails, SessionSummary
from socketio_eventstore.core.registry_pages import SessionFilter, SessionKey
from socketio_eventstore.core.session_events import EventState
from socketio_eventstore.program.api import cursors
from socketio_eventstore.program.api.bodies import Body
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.events import rooms_named, shown_time
from socketio_eventstore.program.api.names import Cursor, Limit, QueryName, QueryNamespace, RoomName
from socketio_eventstore.program.api.problems import Problem, wrong_cursor, wrong_field

PATH: Final = "/sessions/{namespace}/{sid}"


class SessionsQuery(BaseModel):
    """Which page of which sessions."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["connected", "connecting", "away"] | None = None
    namespace: QueryNamespace | None = Field(
        default=None, description='Only sessions of this namespace. With a room the default is "/".'
    )
    room: QueryName | None = Field(
        default=None, description="Only sessions in this room; a sid is a room, too."
    )
    identity: QueryName | None = Field(
        default=None, description="Only sessions that are bound to this identity."
    )
    cursor: Cursor | None = Field(default=None, description="The `next` of the page before.")
    limit: Limit = DEFAULT_LIMIT

    def wanted(self) -> SessionFilter:
        """Return the filter."""
        states = [state for state, name in STATES.items() if name == self.state]
        return SessionFilter(
            states=frozenset(states) if self.state is not None else None,
            namespace=self.namespace,
            rooms=None if self.room is None else rooms_named(self.room),
            identity=self.identity,
        )


class SessionQuery(BaseModel):
    """Which page of the timeline, and of the events."""

    model_config = ConfigDict(extra="forbid")

    cursor: Cursor | None = Field(default=None, description="The `timeline_next` of the page before.")
    before: Cursor | None = Field(default=None, description="Only events below this offset or cursor.")
    limit: Limit = ENTRIES_KEPT


class _Session(BaseModel):
    """The fields of every session."""

    namespace: str
    sid: str
    identity: str | None
    rooms: int = Field(description="The number of joined rooms, without the sid.")
    connected_at: datetime | None = Field(
        description="Since when the client is connected; null if it is not."
    )
    away_seconds: float | None = Field(description="How long the client has been away; null if it is not.")
    remaining_seconds: float | None = Field(description="How long the client may still stay away.")


class SessionResult(_Session):
    """A session."""

    state: Literal["connected", "connecting", "away"]


class TimelineEntryResult(BaseModel):
    """An entry in the history of a session. Fields of other kinds are null."""

    kind: HistoryKind
    at: datetime
    offset: str | None = Field(description="The offset of the last event before it.")
    text: str = Field(description="A sentence for people.")
    reason: str | None = Field(description="Why: of a refusal, a lost connection, an end.")
    room: str | int | None = Field(description="The room of `joined` and `left`.")
    node: str | None = Field(description="The node to which the client connected.")
    identity: str | None = Field(description="The identity of `bound`.")
    sid: str | None = Field(description="The new session of `replaced`, or the former one of `opened`.")
    missed: int | None = Field(description="How many events it had missed, at most, when it `recovered`.")


class SessionEventResult(BaseModel):
    """An event of the session."""

    offset: str
    event: str = Field(description="The name of the event.")
    emitted_at: datetime
    rooms: list[str | int] | None = Field(description="The addressed rooms; null is the whole namespace.")
    state: EventState = Field(
        description="The client is known to have it; or it was written to the connection and is not "
        "confirmed; or it was not written to any."
    )
    derived: Literal[True] = Field(description="Not recorded: it follows from the rooms and the log.")


class SessionDetailsResult(_Session):
    """A session by itself."""

    state: Literal["connected", "connecting", "away", "ended"]
    joined: list[str | int] = Field(description="The joined rooms, without the sid.")
    is_recovered: bool = Field(description="Whether the last connection recovered the session.")
    confirmed_offset: str | None = Field(description="The client has all events up to this one.")
    missed: int = Field(
        description="Events behind it that are for the session, by its memberships; counted up to 1000."
    )
    is_missed_complete: bool = Field(description="Whether there are no more of them than that.")
    timeline: list[TimelineEntryResult] = Field(description="The newest is the last one.")
    timeline_next: str | None = Field(description="The `cursor` of the next page; null on the last one.")
    is_timeline_complete: bool = Field(
        description="Whether the history goes back to the opening. The oldest entries of a long one go."
    )
    events: list[SessionEventResult] = Field(description="The last events for it; the newest is the last.")
    events_older: str | None = Field(description="The `before` of the page before this one; null for none.")


class SessionsResult(BaseModel):
    """A page of sessions, in the order of namespace and sid."""

    sessions: list[SessionResult]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


class RoomBody(Body):
    """A room."""

    room: RoomName


async def _room_body(value: object) -> RoomBody:
    return RoomBody.model_validate(value)


def session_endpoints(administration: Administration) -> Sequence[Endpoint]:
    """Return the operations."""

    async def sessions(call: Call) -> SessionsResult:
        query: SessionsQuery = call.query
        key = cast("SessionKey | None", cursors.from_text(query.cursor, (str, str)))
        found, following = await administration.sessions(query.wanted(), key, query.limit)
        results = [SessionResult.model_validate(_shown(session)) for session in found]
        return SessionsResult(sessions=results, next=cursors.to_text(following))

    async def session(call: Call) -> SessionDetailsResult:
        query: SessionQuery = call.query
        key = cast("tuple[int] | None", cursors.from_text(query.cursor, (int,)))
        after = 0 if key is None else min(max(key[0], 0), 2**63 - 1)

        async def ask(namespace: str, sid: str) -> tuple[SessionDetails, Timeline]:
            return await administration.session(
                namespace, sid, after=after, before=query.before, limit=query.limit
            )

        try:
            details, timeline = await _of_session(call, ask)
        except CursorRefused as refused:
            raise wrong_cursor(refused.field, str(refused)) from None
        return SessionDetailsResult.model_validate({**_shown(details), **_timeline(timeline)})

    return [
        Endpoint(
            name="getSessions",
            method="GET",
            path="/sessions",
            summary="A page of the sessions, connected or away.",
            answer=sessions,
            result=SessionsResult,
            query=SessionsQuery,
            statuses=(409, 422, 503),
        ),
        Endpoint(
            name="getSession",
            method="GET",
            path=PATH,
            summary="One session with its timeline, also when it is over.",
            answer=session,
            result=SessionDetailsResult,
            query=SessionQuery,
            statuses=(409, 422, 503),
        ),
        _action(
            "disconnect",
            "Disconnect the client, which does not come back by itself.",
            administration.disconnect,
        ),
        _action(
            "revoke", "End the session. Its client comes back at once, as a new one.", administration.revoke
        ),
        _room_action("join", "Put the session into a room.", administration.join),
        _room_action("leave", "Take the session out of a room.", administration.leave),
    ]


def _action(name: str, summary: str, act: Callable[[str, str], Awaitable[None]]) -> Endpoint:
    async def answer(call: Call) -> web.StreamResponse:
        await _of_session(call, act)
        return web.Response(status=204)

    return Endpoint(name, "POST", f"{PATH}/{name}", summary, answer, None, statuses=(503,))


def _room_action(name: str, summary: str, act: Callable[[str, str, Room], Awaitable[None]]) -> Endpoint:
    async def answer(call: Call) -> web.StreamResponse:
        room: Room = call.body.room
        try:
            await _of_session(call, lambda namespace, sid: act(namespace, sid, room))
        except (ValueError, TypeError) as error:
            raise wrong_field("room", str(error)) from None
        return web.Response(status=204)

    return Endpoint(
        name,
        "POST",
        f"{PATH}/{name}",
        summary,
        answer,
        None,
        body=RoomBody,
        validate=_room_body,
        statuses=(400, 413, 415, 422, 503, 507),
    )


async def _of_session(call: Call, act: Callable[[str, str], Awaitable[Any]]) -> Any:
    namespace, sid = call.path["namespace"], call.path["sid"]
    try:
        return await act(namespace, sid)
    except KeyError:
        raise Problem(404, "There is no such session: it ended too long ago, or has never been.") from None


def _timeline(timeline: Timeline) -> dict[str, Any]:
    return {
        "timeline": [{**asdict(entry), "at": shown_time(entry.at)} for entry in timeline.entries],
        "timeline_next": cursors.to_text(None if timeline.following is None else [timeline.following]),
        "is_timeline_complete": timeline.is_complete,
        "events": [
            {**asdict(event), "emitted_at": shown_time(event.emitted_at), "derived": True}
            for event in timeline.events
        ],
        "events_older": timeline.events_older,
    }


def _shown(session: SessionSummary | SessionDetails) -> dict[str, Any]:
    since = session.connected_at
    return {**asdict(session), "connected_at": None if since is None else datetime.fromtimestamp(since, UTC)}
