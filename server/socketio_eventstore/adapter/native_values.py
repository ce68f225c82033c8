"""The stored form of values of serializers with bytes and extension types, such as msgpack.

The store keeps JSON. Bytes and extension types become placeholders, and the contents are attachments. An
application's object with the key of a placeholder gets a longer key, and is restored at the encoding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from socketio_eventstore.core.packets import BinaryTaken, Dumps

try:
    from msgpack import ExtType, Timestamp
except ImportError:  # msgpack is optional
    ExtType = Timestamp = None

_TIMESTAMP: Final = -1
"""The extension type of timestamps in msgpack's specification."""
_KEY: Final = re.compile("_+placeholder")


def payload_of(values: Sequence[Any], encode: Dumps) -> tuple[str, tuple[bytes, ...]]:
    """Encode the name and arguments of an event as JSON with placeholders, and the contents.

    Raises TypeError or ValueError for values that cannot be stored.
    """
    taken = _ValuesTaken()
    try:
        text = encode(taken.out_of(list(values)))
        if taken.attachments and taken.has_key:
            taken = _ValuesTaken(escapes=True)
            text = encode(taken.out_of(list(values)))
    except RecursionError as error:
        raise ValueError("a value that contains itself, or is nested too deeply, cannot be sent") from error
    text.encode()
    return text, tuple(taken.attachments)


def restored(value: Any, attachments: Sequence[bytes]) -> Any:
    """Put the contents in place of the placeholders: the inverse of ``payload_of``."""
    if not attachments:
        return value
    match value:
        case {"_placeholder": True, "num": int(index), **more} if 0 <= index < len(attachments):
            return _made(more.get("ext"), attachments[index])
        case dict():
            return {
                (key[1:] if _KEY.fullmatch(key) else key): restored(item, attachments)
                for key, item in value.items()
            }
        case list():
            return [restored(item, attachments) for item in value]
        case _:
            return value


def _made(code: Any, content: bytes) -> Any:
    if code is None:
        return content
    return Timestamp.from_bytes(content) if code == _TIMESTAMP else ExtType(code, content)


class _ValuesTaken(BinaryTaken):
    """Also takes extension types out of values."""

    def __init__(self, *, escapes: bool = False) -> None:
        super().__init__()
        self._escapes = escapes
        self.has_key = False
        """Whether an object of the application has the key of a placeholder, or an escaped key."""

    def out_of(self, value: Any) -> Any:
        if ExtType is not None:
            if isinstance(value, Timestamp):
                return {**self.placeholder(value.to_bytes()), "ext": _TIMESTAMP}
            if isinstance(value, ExtType):
                return {**self.placeholder(value.data), "ext": value.code}
        if not isinstance(value, dict):
            return super().out_of(value)
        if not any(isinstance(key, str) and _KEY.fullmatch(key) for key in value):
            return {key: self.out_of(item) for key, item in value.items()}
        self.has_key = True
        return {self._stored(key): self.out_of(item) for key, item in value.items()}

    def _stored(self, key: Any) -> Any:
        is_like = self._escapes and isinstance(key, str) and _KEY.fullmatch(key)
        return f"_{key}" if is_like else key
