"""``/api/prune``, ``/api/redact`` and ``/api/compact``: changes of the log as a whole.

There is no operation for backups. ``socketio-eventstore backup`` reads the database beside the server: so no
key can name a file on the server's machine, and no copy of a gigabyte goes through the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from socketio_eventstore.adapter.feeds import CursorRefused
from socketio_eventstore.adapter.maintenance import REDACTED, EventNotFound, Maintenance
from socketio_eventstore.adapter.messages import MessageRefused
from socketio_eventstore.program.api.binary import NotBase64, decoded
from socketio_eventstore.program.api.bodies import Body
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.names import Cursor, Name
from socketio_eventstore.program.api.problems import Problem, wrong_cursor, wrong_field

logger = logging.getLogger(__name__)

_STATUSES: Final = (400, 413, 415, 422, 503)


class PruneBody(Body):
    """Nothing to choose: the retention of the configuration decides."""


class RedactBody(Body):
    """The event, and the replacement."""

    offset: Cursor = Field(description="The offset of the event.")
    event: Name = Field(default=REDACTED, description="The name that the event has from now on.")
    args: list[Any] = Field(default=[], description="The arguments that it has from now on; none is binary.")


class CompactBody(Body):
    """How far a compaction may go."""

    force: bool = Field(
        default=False, description="Also rewrite more than 64 MB, during which no commit is possible."
    )


class PruneResult(BaseModel):
    """The numbers of deleted events."""

    model_config = ConfigDict(from_attributes=True)

    events: int = Field(
        description="How many offsets the deleted events span: a failed emit leaves an offset without event."
    )
    pruned_through: int = Field(description="The number of the last event that is pruned; 0 for none.")


class RedactResult(BaseModel):
    """The event is replaced, on disk."""

    model_config = ConfigDict(from_attributes=True)

    offset: str = Field(description="The offset of the event, which stays.")
    is_scrubbed: bool = Field(
        description="Whether the former content is out of the files. False while a program that reads the "
        "database, or a full disk, keeps it in the WAL: redact again then."
    )


class CompactResult(BaseModel):
    """The database is smaller."""

    model_config = ConfigDict(from_attributes=True)

    before_bytes: int
    after_bytes: int
    seconds: float = Field(description="How long no commit was possible.")


def maintenance_endpoints(maintenance: Maintenance) -> Sequence[Endpoint]:
    """Return the operations."""

    async def prune(_: Call) -> PruneResult:
        return PruneResult.model_validate(await maintenance.prune())

    async def redact(call: Call) -> RedactResult:
        body: RedactBody = call.body
        try:
            redaction = await maintenance.redact(body.offset, body.event, decoded(body.args))
        except NotBase64 as error:
            raise wrong_field(".".join(["args", *map(str, error.place)]), str(error)) from None
        except CursorRefused as refused:
            raise wrong_cursor(refused.field, str(refused)) from None
        except EventNotFound:
            text = f"There is no event at offset {body.offset}: it was pruned, or its emit failed."
            raise Problem(404, text) from None
        except MessageRefused as refused:
            raise wrong_field(refused.field, str(refused)) from None
        except RecursionError:
            raise Problem(422, "args: nested too deeply") from None
        extra = {"offset": redaction.offset, "key": call.key_name}
        logger.info(
            "redacted the event at offset %s, by key %s", redaction.offset, call.key_name, extra=extra
        )
        return RedactResult.model_validate(redaction)

    async def compact(call: Call) -> CompactResult:
        done = await maintenance.compact(is_forced=call.body.force)
        extra = {"bytes": done.after_bytes, "seconds": round(done.seconds, 6), "key": call.key_name}
        text = "compacted the database to %s bytes in %.3f s, by key %s"
        logger.info(text, done.after_bytes, done.seconds, call.key_name, extra=extra)
        return CompactResult.model_validate(done)

    return [
        Endpoint(
            name="prune",
            method="POST",
            path="/prune",
            summary="Delete the events that are older than the retention, now.",
            answer=prune,
            result=PruneResult,
            body=PruneBody,
            validate=_model(PruneBody),
            statuses=_STATUSES,
        ),
        Endpoint(
            name="redact",
            method="POST",
            path="/redact",
            summary="Replace what an event says, for all who have not received it, and on disk.",
            answer=redact,
            result=RedactResult,
            body=RedactBody,
            validate=_model(RedactBody),
            statuses=(*_STATUSES, 409, 507),
        ),
        Endpoint(
            name="compact",
            method="POST",
            path="/compact",
            summary="Give the space of deleted events back to the disk.",
            answer=compact,
            result=CompactResult,
            body=CompactBody,
            validate=_model(CompactBody),
            statuses=(*_STATUSES, 409),
        ),
    ]


def _model(model: type[Body]) -> Callable[[object], Awaitable[Body]]:
    async def validate(value: object) -> Body:
        return model.model_validate(value)

    return validate
