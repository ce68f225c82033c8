"""What schemathesis cannot know from a document: which values belong to the state of the server.

Loaded by ``schemathesis run`` (``SCHEMATHESIS_HOOKS``). Only values are replaced; all checks stay.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import schemathesis

IDEMPOTENCY_KEY = "Idempotency-Key"
SESSION = {"namespace": "%2F", "sid": os.environ.get("SESSION", "")}
KEEPING = ("join", "leave", "getSession")
"""Operations after which the session is still there."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Use each idempotency key once, and a session that exists."""
    headers, body = case.headers, case.body
    if headers and IDEMPOTENCY_KEY in headers:
        headers[IDEMPOTENCY_KEY] = uuid.uuid4().hex
        if isinstance(body, dict) and body.get("volatile"):
            del headers[IDEMPOTENCY_KEY]
    operation = case.operation.definition.raw.get("operationId")
    is_valid = case.meta is None or case.meta.generation.mode.is_positive
    if operation == "redact" and is_valid and isinstance(body, dict):
        body["offset"] = os.environ["OFFSET"]
    if operation in KEEPING and case.path_parameters:
        case.path_parameters.update(SESSION)
