"""The types of names in requests."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import AwareDatetime, Field, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic.functional_validators import BeforeValidator, WrapValidator

from socketio_eventstore.core.event_pages import MAX_EVENTS
from socketio_eventstore.core.event_rules import MAX_NAME_CHARACTERS

_DIGITS: Final = re.compile(r"[0-9]{1,6}")


def _room(value: object, handler: ValidatorFunctionWrapHandler, _: ValidationInfo) -> object:
    """Report one error for a union, not an error for each type. For JSON, 7.0 is a whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and len(value) > MAX_NAME_CHARACTERS:
        raise ValueError(f"a room has at most {MAX_NAME_CHARACTERS} characters, not {len(value)}")
    try:
        return handler(value)
    except ValueError:
        raise ValueError("a room is a text or a whole number of 64 bits") from None


Name: TypeAlias = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]


def _whole_number(value: object) -> object:
    """Refuse the texts beside digits that pydantic takes for a number, such as ``1_0`` and ``1.0``."""
    if isinstance(value, str) and _DIGITS.fullmatch(value) is None:
        raise ValueError("a whole number is needed")
    return value


Limit: TypeAlias = Annotated[int, Field(ge=1, le=MAX_EVENTS), BeforeValidator(_whole_number)]
"""The most entries of a page."""
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _moment(value: object) -> object:
    """Refuse the texts beside RFC 3339 that pydantic takes for a time, such as ``12``."""
    if isinstance(value, str) and _MOMENT.fullmatch(value) is None:
        raise ValueError("a time such as 2026-01-31T12:00:00Z is needed")
    return value


Moment: TypeAlias = Annotated[AwareDatetime, BeforeValidator(_moment)]
SearchText: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
Number: TypeAlias = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
NAMESPACE_PATTERN: Final = "^/[^,?]*$"
QueryName: TypeAlias = str
"""A name in a query has no limit: no object has an overlong name."""
QueryNamespace: TypeAlias = Annotated[str, Field(pattern=NAMESPACE_PATTERN)]
Cursor: TypeAlias = Annotated[str, Field(pattern="^[A-Za-z0-9_.-]+$")]
"""An offset, or a cursor of an earlier answer; both are opaque."""
RoomName: TypeAlias = Annotated[Name | Number, WrapValidator(_room)]
Namespace: TypeAlias = Annotated[Name, Field(pattern=NAMESPACE_PATTERN)]
