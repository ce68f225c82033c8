"""``GET /api/events/{offset}/recipients``: the sessions that have an event, or still miss it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.feeds import CursorRefused
from socketio_eventstore.adapter.history import DEFAULT_LIMIT
from socketio_eventstore.adapter.session_views import SessionSummary
from socketio_eventstore.core.recipients import Receipt
from socketio_eventstore.program.api import cursors
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.events import EventResult, event_result
from socketio_eventstore.program.api.names import Cursor, Limit
from socketio_eventstore.program.api.problems import Problem
from socketio_eventstore.program.api.sessions import SessionResult


class RecipientsQuery(BaseModel):
    """Which page of which recipients."""

    model_config = ConfigDict(extra="forbid")

    receipt: Literal["confirmed", "sent", "missed"] | None = None
    cursor: Cursor | None = Field(default=None, description="The `next` of the page before.")
    limit: Limit = DEFAULT_LIMIT


class RecipientResult(SessionResult):
    """A recipient of the event."""

    receipt: Literal["confirmed", "sent", "missed"] = Field(
        description="`confirmed`: a heartbeat or an offset of the client has shown that the event arrived. "
        "`sent`: it was written to the connected client, or the client is at another server, which sends it. "
        "`missed`: the client is away, or its replay has not reached the event."
    )


class RecipientsResult(BaseModel):
    """An event with its recipients, derived from memberships and confirmed positions.

    Ended sessions, and sessions that have confirmed the event and left the rooms, are left out.
    """

    event: EventResult
    confirmed: int = Field(description="The number of all sessions with this receipt.")
    sent: int
    missed: int
    recipients: list[RecipientResult]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


def recipients_endpoint(administration: Administration) -> Endpoint:
    """Return the operation."""

    async def recipients(call: Call) -> RecipientsResult:
        query: RecipientsQuery = call.query
        key = cast("tuple[str] | None", cursors.from_text(query.cursor, (str,)))
        wanted = None if query.receipt is None else Receipt(query.receipt)
        try:
            event, found = await administration.recipients(
                call.path["offset"], wanted, None if key is None else key[0], query.limit
            )
        except (CursorRefused, KeyError):
            raise Problem(404, "There is no such event: it was deleted, or has never been.") from None
        results = [RecipientResult.model_validate(_shown(session, known)) for session, known in found.page]
        return RecipientsResult(
            event=event_result(event),
            **{known.value: found.counts[known] for known in Receipt},
            recipients=results,
            next=cursors.to_text(None if found.next is None else [found.next]),
        )

    return Endpoint(
        name="getRecipients",
        method="GET",
        path="/events/{offset}/recipients",
        summary="The sessions that have received an event, or still miss it.",
        answer=recipients,
        result=RecipientsResult,
        query=RecipientsQuery,
        statuses=(409, 422, 503),
    )


def _shown(session: SessionSummary, known: Receipt) -> dict[str, Any]:
    since = session.connected_at
    connected_at = None if since is None else datetime.fromtimestamp(since, UTC)
    return {**asdict(session), "connected_at": connected_at, "receipt": known.value}
