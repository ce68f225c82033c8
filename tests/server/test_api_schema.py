"""The OpenAPI document of the HTTP interface, and the page that shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api import KEY, call, open_session, problem, result, serving_api
from support.processes import ServerProcess

EXAMPLES = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    recovery = {"connection_state_recovery": {"max_disconnection_duration": 3600.0}}
    with serving_api(tmp_path_factory.mktemp("server"), recovery) as server:
        yield server


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(server: ServerProcess, tmp_path: Path) -> None:
    """Requests by chance, valid and invalid, get what the document says; the stream has no end to check."""
    (tmp_path / "openapi.json").write_text(json.dumps(document(server)))
    (tmp_path / "schemathesis.toml").write_text(f'[auth.openapi.key]\nbearer = "{KEY}"\n')
    command = (
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", f"{server.url}/api"),
        *("--exclude-operation-id", "streamEvents", "--max-examples", str(EXAMPLES), "--no-color"),
        "--suppress-health-check=filter_too_much",  # few texts by chance are segments of a path
    )
    hooks = {"SCHEMATHESIS_HOOKS": "support.schemathesis_hooks", "SESSION": open_session(server)}
    hooks["OFFSET"] = result(call(server.port, "POST", "/emit", {"event": "to be redacted"}))["offset"]
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    environ = os.environ | hooks | {"PYTHONPATH": paths}
    run = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    operations = sum(map(len, document(server)["paths"].values()))
    assert f"Tested: {operations - 1}" in run.stdout, run.stdout
    assert "had no valid key" in server.log  # it tries without a key, too


def document(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = result(call(server.port, "GET", "/openapi.json"))
    return found


def test_document(server: ServerProcess) -> None:
    """The document needs a key, and has every operation with its models."""
    problem(call(server.port, "GET", "/openapi.json", key=None), 401)
    described = document(server)
    assert described["openapi"] == "3.1.0"
    operations = {one["operationId"]: one for item in described["paths"].values() for one in item.values()}
    assert {"emit", "getEvents", "streamEvents", "getSessions", "join", "getStats"} <= operations.keys()
    emit = described["components"]["schemas"]["Emit"]
    assert emit["required"] == ["event"] and emit["additionalProperties"] is False
    parameters = {one["name"]: one["schema"] for one in operations["getEvents"]["parameters"]}
    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}


def test_every_operation_is_documented(server: ServerProcess) -> None:
    """docs/http.md names each operation of the document."""
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    for path, item in document(server)["paths"].items():
        name = path.removeprefix("/sessions/{namespace}/{sid}") or path
        assert f"/api{name}" in text or f"…{name}" in text, (path, list(item))


def test_page(server: ServerProcess) -> None:
    """The page needs no key, loads nothing from elsewhere, and follows from a path without slash."""
    page = call(server.port, "GET", "/", key=None)
    assert page.status == 200 and page.header("content-type") == "text/html; charset=utf-8"
    policy = page.header("content-security-policy") or ""
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for file, kind in (("api.js", "text/javascript"), ("api.css", "text/css")):
        assert f'"{file}"'.encode() in page.body
        answer = call(server.port, "GET", f"/{file}", key=None)
        assert answer.status == 200 and answer.header("content-type") == f"{kind}; charset=utf-8"
        assert b"http://" not in answer.body and b"https://" not in answer.body
    redirect = call(server.port, "GET", "", key=None)
    assert (redirect.status, redirect.header("location")) == (308, "api/")
