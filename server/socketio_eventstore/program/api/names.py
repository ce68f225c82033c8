"""The types of names in requests."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic.functional_validators import WrapValidator
from pydantic_core import PydanticCustomError

from socketio_eventstore.core.event_rules import MAX_NAME_CHARACTERS


def _one_error(value: object, handler: ValidatorFunctionWrapHandler, _: ValidationInfo) -> object:
    """Report one error for a union, and not one for each of its types."""
    try:
        return handler(value)
    except ValueError:
        raise PydanticCustomError("room", "a room is a text or a whole number of 64 bits") from None


Name: TypeAlias = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]
Number: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
RoomName: TypeAlias = Annotated[Name | Number, WrapValidator(_one_error)]
Namespace: TypeAlias = Annotated[Name, Field(pattern="^/[^,?]*$")]
