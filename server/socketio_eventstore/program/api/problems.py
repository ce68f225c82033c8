"""Errors of the HTTP interface as ``application/problem+json`` (RFC 9457), which name the field."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, Field, ValidationError

from socketio_eventlog.errors import (
    LogFull,
    NothingChanged,
    OutcomeUnknown,
    StoreClosed,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.program.api.json_text import json_text

PROBLEM_JSON: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1
RETRY_WHEN_FULL_SECONDS: Final = 10
"""The log heals by itself as old events go, which takes longer than a busy moment."""
REPEAT_WITH_KEY: Final = "Send an event again only with the same Idempotency-Key."
HINTS: Final = {
    "volatile": "events that are published together are all stored",
    "except": "the log does not exclude rooms from an event; skip takes the sids of sessions",
}
"""Hints about absent fields that people expect."""
MAX_FIELDS: Final = 20
"""The most fields in an answer."""

logger = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """The problem of one field."""

    field: str = Field(description='The place of the field, such as "3.args.0"; "" is the whole body.')
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The meaning of the status.")
    status: int
    detail: str = Field(description="What happened, for people.")
    errors: list[FieldProblem] = Field(description="The fields that are wrong; empty if it is no field.")


class Problem(Exception):
    """An answer with an error status."""

    def __init__(
        self,
        status: int,
        detail: str,
        fields: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.fields = list(fields)[:MAX_FIELDS]
        """The wrong fields."""
        self._headers = dict(headers or {})

    def response(self) -> web.Response:
        """Return the response with the problem document."""
        title = HTTPStatus(self.status).phrase
        document = ProblemDocument(title=title, status=self.status, detail=str(self), errors=self.fields)
        return web.Response(
            text=json_text(document) + "\n",
            status=self.status,
            content_type=PROBLEM_JSON,
            headers=self._headers,
        )


def wrong_field(field: str, detail: str) -> Problem:
    """Return the problem of one field."""
    return Problem(422, f"{field}: {detail}", [FieldProblem(field=field, detail=detail)])


def wrong_cursor(field: str, detail: str) -> Problem:
    """Return the problem of a well-formed cursor from another state of the log."""
    return Problem(409, f"{field}: {detail}", [FieldProblem(field=field, detail=detail)])


def deleted_events() -> Problem:
    """Return the problem of a reader that would miss events: the events are deleted already."""
    return Problem(410, "Events behind this offset were deleted.")


def wrong_fields(error: ValidationError, place: str = "") -> Problem:
    """Return the problem of a value that does not fit the model; ``place`` leads to the value."""
    fields = [
        FieldProblem(field=_dotted(place, problem["loc"]), detail=_detail(problem))
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = fields[0]
    return Problem(422, f"{first.field or 'the body'}: {first.detail}", fields)


def _detail(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return HINTS.get(str(problem["loc"][-1]), "there is no such field")
    return str(problem["msg"]).removeprefix("Value error, ")


def _dotted(place: str, location: Iterable[int | str]) -> str:
    return ".".join([*([place] if place else []), *map(str, location)])


def answers_with_problems() -> Middleware:
    """Return a middleware that turns each error into a problem document."""
    failures = RepeatedFailures(logger)

    @web.middleware
    async def with_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except web.HTTPRedirection:
            raise
        except web.HTTPException as error:
            return _of_http(error).response()
        except ConnectionError:  # the client has gone
            raise
        except Exception as error:  # noqa: BLE001 -- a fault of the server; the answer shows nothing of it
            if isinstance(error, StoreError) and (known := _of_store(error)) is not None:
                return known.response()
            text = f"A request {request.method} {request.path} failed: {error!r}"
            failures.failed(type(error).__name__, text, error=error)
            return Problem(500, "The server has a fault; its log says more.").response()

    return with_problems


def _of_http(error: web.HTTPException) -> Problem:
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    details = {404: "There is nothing at this path.", 405: "This path does not take the method."}
    return Problem(error.status, details.get(error.status, error.reason), headers=headers)


def _of_store(error: StoreError) -> Problem | None:
    """Return 507 for a log without room, 503 for a store without writes at the moment, 409 or 422.

    None for a fault of the server. Programs that obey ``Retry-After`` would publish twice after an unknown
    outcome, so the answer about an unknown outcome has no such header.
    """
    if isinstance(error, LogFull):
        return Problem(507, str(error), headers={"Retry-After": str(RETRY_WHEN_FULL_SECONDS)})
    if isinstance(error, OutcomeUnknown):
        return Problem(503, f"{error} {REPEAT_WITH_KEY}")
    if isinstance(error, StoreUnavailable | StoreClosed):
        return Problem(503, str(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
    if isinstance(error, NothingChanged):
        return Problem(409, str(error))
    if isinstance(error, StoreRejected):
        return Problem(422, str(error))
    return None
