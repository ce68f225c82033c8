"""Answers as JSON."""

from __future__ import annotations

import json
from datetime import datetime

from pydantic import BaseModel


def json_text(model: BaseModel) -> str:
    """Return a model as JSON in ASCII.

    ``model_dump_json`` of pydantic refuses lone surrogates, which events may have: JSON can escape them.
    """
    return json.dumps(model.model_dump(), default=_time)


def _time(value: object) -> str:
    """Return a time in UTC in the form of RFC 3339."""
    assert isinstance(value, datetime)
    return value.isoformat().replace("+00:00", "Z")
