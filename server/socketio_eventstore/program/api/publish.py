"""``POST /api/emit``: events from programs outside of the server."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.messages import IdempotencyKey, KeyRefused, Message, MessageRefused
from socketio_eventstore.adapter.publishing import (
    MAX_KEY_CHARACTERS,
    MAX_MESSAGES,
    between_slices,
)
from socketio_eventstore.program.api.binary import NotBase64, decoded
from socketio_eventstore.program.api.bodies import Body
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.names import Name, Namespace, RoomName
from socketio_eventstore.program.api.problems import Problem, wrong_field, wrong_fields

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
MAX_NAMES: Final = 4000
"""The most rooms, and the most sids to skip: with the default limits, both fit into a single event."""
MAX_NAMES_TOGETHER: Final = 20_000
"""The most rooms and sids to skip of all events of a request."""


class StoredEmit(Body):
    """An event to be stored and sent, as `emit` of a handler does."""

    event: Name = Field(description="The name of the event.", examples=["chat message"])
    args: list[Any] = Field(
        default=[],
        description='The arguments. Binary data are `{"$binary": "base64"}`.',
        examples=[["Hello"]],
    )
    rooms: Annotated[list[RoomName], Field(max_length=MAX_NAMES, fail_fast=True)] | None = Field(
        default=None,
        description="The rooms; a sid is a room, too. Without them the event is for the whole namespace.",
    )
    skip: list[Name] = Field(
        default=[], max_length=MAX_NAMES, fail_fast=True, description="The sids that do not receive it."
    )
    namespace: Namespace = "/"


class Emit(StoredEmit):
    """An event to be sent, as `emit` of a handler does."""

    volatile: bool = Field(
        default=False, description="Send it to those who are connected, and store nothing."
    )


class EmitResult(BaseModel):
    """The event is stored, and on its way."""

    offset: str | None = Field(description="The offset of the event; null if it is not stored.")


class EmitManyResult(BaseModel):
    """All events are stored, and on their way."""

    offsets: list[str | None] = Field(description="The offsets of the events, in their order.")


Emits: TypeAlias = Annotated[list[StoredEmit], Field(min_length=1, max_length=MAX_MESSAGES)]
_ONE: Final[TypeAdapter[Emit]] = TypeAdapter(Emit)
_OF_SEVERAL: Final[TypeAdapter[StoredEmit]] = TypeAdapter(StoredEmit)
_LENGTH: Final[TypeAdapter[list[Any]]] = TypeAdapter(
    Annotated[list[Any], Field(min_length=1, max_length=MAX_MESSAGES)]
)


async def validated(value: object) -> list[StoredEmit] | Emit:
    """Validate a body; a list and a single event have errors of their own. Raises ValidationError, Problem.

    A list ends at its first wrong event. Between slices of the list the loop serves others.
    """
    if not isinstance(value, list):
        return _ONE.validate_python(value)
    emits: list[StoredEmit] = []
    names = 0
    for index, one in enumerate(_LENGTH.validate_python(value)):
        try:
            emits.append(_OF_SEVERAL.validate_python(one))
        except ValidationError as error:
            raise wrong_fields(error, str(index)) from None
        names += len(emits[-1].rooms or ()) + len(emits[-1].skip)
        if names > MAX_NAMES_TOGETHER:
            raise wrong_field(str(index), f"the events have more than {MAX_NAMES_TOGETHER} rooms and sids")
        await between_slices(index)
    return emits


def emit_endpoint(administration: Administration) -> Endpoint:
    """Return the operation."""

    async def emit(call: Call) -> EmitResult | EmitManyResult:
        is_list = isinstance(call.body, list)
        emits: list[StoredEmit] = call.body if is_list else [call.body]

        def place(index: int, field: str) -> str:
            return f"{index}.{field}" if is_list else field

        messages = []
        for index, one in enumerate(emits):
            messages.append(_message(one, place(index, "args")))
            await between_slices(index)
        try:
            offsets = await administration.publish(messages, _key(call))
        except MessageRefused as refused:
            raise wrong_field(place(refused.index, refused.field), str(refused)) from None
        except KeyRefused as refused:
            raise wrong_field(IDEMPOTENCY_KEY, str(refused)) from None
        return EmitManyResult(offsets=offsets) if is_list else EmitResult(offset=offsets[0])

    return Endpoint(
        name="emit",
        method="POST",
        path="/emit",
        summary="Publish one event, or up to 1000 events together.",
        answer=emit,
        result=EmitResult | EmitManyResult,
        body=Emit | Emits,
        validate=validated,
        headers={
            IDEMPOTENCY_KEY: f"A text of at most {MAX_KEY_CHARACTERS} characters. A repeat of the request "
            "with the same key publishes nothing, and gets the same answer."
        },
        statuses=(400, 413, 415, 422, 503, 507),
    )


def _key(call: Call) -> IdempotencyKey | None:
    keys = call.request.headers.getall(IDEMPOTENCY_KEY, [])
    if not keys:
        return None
    if len(keys) > 1:
        raise wrong_field(IDEMPOTENCY_KEY, "the header is there twice")
    return IdempotencyKey(call.key_name, keys[0], hashlib.sha256(call.raw_body).digest())


def _message(emit: StoredEmit, place: str) -> Message:
    try:
        arguments = decoded(emit.args)
    except NotBase64 as error:
        raise wrong_field(".".join([place, *map(str, error.place)]), str(error)) from None
    except RecursionError:
        raise Problem(422, f"{place}: nested too deeply") from None
    is_volatile = isinstance(emit, Emit) and emit.volatile
    return Message(emit.event, arguments, emit.rooms, emit.skip, emit.namespace, is_volatile)
