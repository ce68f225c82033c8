"""Binary arguments in JSON: ``{"$binary": "base64"}``."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

BINARY: Final = "$binary"


class NotBase64(ValueError):
    """An object with the key ``$binary`` has no base64. ``place`` leads to the object."""

    def __init__(self, place: tuple[str | int, ...]) -> None:
        super().__init__(f'{{"{BINARY}": …}} takes one text of base64')
        self.place = place


def decoded(value: Any, place: tuple[str | int, ...] = ()) -> Any:
    """Put bytes in the place of each object with the key ``$binary``. Raises NotBase64."""
    if isinstance(value, list):
        return [decoded(item, (*place, index)) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if BINARY not in value:
        return {key: decoded(item, (*place, key)) for key, item in value.items()}
    text = value[BINARY]
    if len(value) != 1 or not isinstance(text, str):
        raise NotBase64(place)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NotBase64(place) from None


def encoded(value: Any) -> Any:
    """Return JSON in which each ``bytes`` is an object with the key ``$binary``.

    A value of another type, such as a timestamp of msgpack, becomes a text.
    """
    match value:
        case bytes():
            return {BINARY: base64.b64encode(value).decode()}
        case dict():
            return {key: encoded(item) for key, item in value.items()}
        case list() | tuple():
            return [encoded(item) for item in value]
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)
