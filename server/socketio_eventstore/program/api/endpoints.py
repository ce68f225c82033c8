"""A single description of each operation of the HTTP interface, for validation and for the document."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from aiohttp import web
from pydantic import BaseModel, ValidationError

from socketio_eventstore.program.api.json_text import json_text
from socketio_eventstore.program.api.problems import Problem, wrong_field, wrong_fields

MAX_BODY_BYTES: Final = 8_000_000
"""The largest body of a request: the size of a transaction of the log."""
caller: Final[ContextVar[str]] = ContextVar("caller")
"""The name of the key with which the present request was made."""


@dataclass(frozen=True)
class Call:
    """A request with validated parts."""

    key_name: str
    """The name of the caller's key."""
    request: web.Request
    path: Mapping[str, str]
    query: Any = None
    """An instance of ``Endpoint.query``."""
    body: Any = None
    """The result of ``Endpoint.validate``."""
    raw_body: bytes = b""


Answer = Callable[[Call], Awaitable[BaseModel | web.StreamResponse]]


@dataclass(frozen=True)
class Endpoint:
    """An operation: parameters, answers, and description."""

    name: str
    """The ``operationId``."""
    method: str
    path: str
    """The path below ``/api``, with parameters in braces."""
    summary: str
    answer: Answer
    result: Any
    """The model of the answer; a text is the media type of a stream."""
    query: type[BaseModel] | None = None
    body: Any = None
    """The type of the body, for the document."""
    validate: Callable[[object], Awaitable[object]] | None = None
    """Returns the body, validated. Raises ValidationError, Problem."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Optional headers of the request, with meanings."""
    statuses: tuple[int, ...] = ()
    """Error statuses beside the statuses of every operation."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Validate and answer a request."""
        query = None if self.query is None else _query(request, self.query)
        raw_body = b"" if self.validate is None else await read_body(request)
        body = None if self.validate is None else await _body(raw_body, self.validate)
        call = Call(caller.get(), request, request.match_info, query, body, raw_body)
        result = await self.answer(call)
        if isinstance(result, web.StreamResponse):
            return result
        return web.Response(text=json_text(result) + "\n", content_type="application/json")


def _query(request: web.Request, model: type[BaseModel]) -> BaseModel:
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise wrong_field(name, "the parameter is there twice")
        values[name] = value
    try:
        return model.model_validate_strings(values, strict=False)
    except ValidationError as error:
        raise wrong_fields(error) from None


async def read_body(request: web.Request, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the body of a request for JSON. Raises Problem.

    The limit counts after a Content-Encoding: a kilobyte of gzip may stand for a megabyte.
    """
    if request.content_type != "application/json":
        raise Problem(415, "The body must be application/json.")
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > max_bytes:
                raise Problem(413, f"The body may have {max_bytes} bytes.")
    except web.RequestPayloadError:  # the error's text has a line for each part
        raise Problem(400, "The body does not fit its Content-Encoding or Transfer-Encoding.") from None
    return bytes(body)


async def _body(text: bytes, validate: Callable[[object], Awaitable[object]]) -> object:
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON: {error}") from None
    try:
        return await validate(value)
    except ValidationError as error:
        raise wrong_fields(error) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
