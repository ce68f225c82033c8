"""The base of objects in requests: errors of a body are found in few steps, at any size."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator

MAX_UNKNOWN: Final = 20
"""Unknown fields of an object that an answer may name."""


class Body(BaseModel):
    """An object in the body of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        """Refuse an object with many unknown fields as a whole: pydantic would describe all fields."""
        known = len(cls.model_fields)
        if isinstance(value, dict) and len(value) > known + MAX_UNKNOWN:
            raise ValueError(f"an object with {len(value)} fields; there are {known}")
        return value
