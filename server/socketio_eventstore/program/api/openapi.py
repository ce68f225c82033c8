"""The OpenAPI 3.1 document, from the models of the requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib import metadata
from typing import Any, Final

from pydantic import TypeAdapter

from socketio_eventstore.program.api.endpoints import Endpoint
from socketio_eventstore.program.api.problems import PROBLEM_JSON, ProblemDocument

_REFERENCE: Final = "#/components/schemas/{model}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_EVERY: Final = (401, 404, 500)
"""The error statuses of every operation."""
_PATH_PARAMETERS: Final = {
    "namespace": "The namespace, percent-encoded: `%2F` is the main one.",
    "offset": "The offset of an event.",
    "sid": "The session id.",
}
_INFO: Final = """\
Publish events to the clients of a Socket.IO server, and inspect it. Every request needs a key:
`Authorization: Bearer KEY`. `socketio-eventstore genkey NAME` makes one."""

Json = dict[str, Any]


def document(endpoints: Sequence[Endpoint]) -> Json:
    """Return the document about the operations."""
    schemas, definitions = _schemas(endpoints)
    paths: dict[str, Json] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "socketio-eventstore",
            "version": metadata.version("socketio-eventstore"),
            "description": _INFO,
        },
        "servers": [{"url": ".", "description": "The server that has sent this document."}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": definitions,
        },
    }


def _schemas(endpoints: Iterable[Endpoint]) -> tuple[Mapping[Any, Json], Json]:
    """Return the schemas of all bodies and results by operation and use, and the referenced definitions."""
    inputs: list[tuple[str, Any, TypeAdapter[Any]]] = [
        ("problem", "serialization", TypeAdapter(ProblemDocument))
    ]
    for endpoint in endpoints:
        if endpoint.body is not None:
            inputs.append((f"{endpoint.name} body", "validation", TypeAdapter(endpoint.body)))
        if endpoint.result is not None and not isinstance(endpoint.result, str):
            inputs.append((f"{endpoint.name} result", "serialization", TypeAdapter(endpoint.result)))
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)
    return {key: schema for (key, _), schema in schemas.items()}, dict(definitions.get("$defs", {}))


def _operation(endpoint: Endpoint, schemas: Mapping[Any, Json]) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint), *_headers(endpoint)],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": schemas[f"{endpoint.name} body"]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _responses(endpoint: Endpoint, schemas: Mapping[Any, Json]) -> Json:
    problem = {PROBLEM_JSON: {"schema": schemas["problem"]}}
    errors = {
        str(status): {"description": HTTPStatus(status).phrase, "content": problem}
        for status in sorted({*_EVERY, *endpoint.statuses})
    }
    misdirected = {"description": "The server does not answer for this host.", "content": problem}
    if endpoint.result is None:
        success: Json = {"204": {"description": "Done; the change is on disk."}}
    elif isinstance(endpoint.result, str):
        success = {"200": {"description": "A stream.", "content": {endpoint.result: {}}}}
    else:
        content = {"application/json": {"schema": schemas[f"{endpoint.name} result"]}}
        success = {"200": {"description": "The answer.", "content": content}}
    return {**success, **errors, "421": misdirected}


def _path_parameters(endpoint: Endpoint) -> list[Json]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1},
        }
        for name in _PARAMETER.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[Json]:
    if endpoint.query is None:
        return []
    properties: Json = endpoint.query.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "description": schema.get("description", ""),
            "schema": _without_null(schema),
        }
        for name, schema in properties.items()
    ]


def _without_null(schema: Json) -> Json:
    """Return the schema of a parameter that may be left out; a query has no null."""
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "description")}
    if "anyOf" in schema:
        del kept["default"]
        (present,) = [one for one in schema["anyOf"] if one != {"type": "null"}]
        kept |= present
    return kept


def _headers(endpoint: Endpoint) -> list[Json]:
    schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
    return [
        {"name": name, "in": "header", "description": meaning, "schema": schema}
        for name, meaning in endpoint.headers.items()
    ]
