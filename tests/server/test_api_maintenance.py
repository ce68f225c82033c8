"""Prune, redact and compact over the HTTP interface."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from support.api import call, problem, result, serving_api
from support.processes import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_api(tmp_path_factory.mktemp("server")) as server:
        yield server


def emit(server: ServerProcess, *args: object) -> str:
    offset: str = result(call(server.port, "POST", "/emit", {"event": "chat", "args": args}))["offset"]
    return offset


def test_redact(server: ServerProcess) -> None:
    offset = emit(server, "personal")
    answer = result(call(server.port, "POST", "/redact", {"offset": offset, "args": [{"by": "law"}]}))
    assert answer == {"offset": offset, "is_scrubbed": True}
    (event,) = result(call(server.port, "GET", "/events?event=redacted"))["events"]
    assert (event["offset"], event["args"]) == (offset, [{"by": "law"}])
    assert result(call(server.port, "GET", "/events?event=chat"))["events"] == []
    assert f"redacted the event at offset {offset}, by key tests" in server.log
    assert "personal" not in server.log


def test_refused_redactions(server: ServerProcess) -> None:
    """Each error names the field, the value and what is expected."""
    offset = emit(server)
    unknown = f"{offset.rpartition('.')[0]}.0"
    document = problem(call(server.port, "POST", "/redact", {"offset": unknown}), 404)
    assert document["detail"] == f"There is no event at offset {unknown}: it was pruned, or its emit failed."
    document = problem(call(server.port, "POST", "/redact", {"offset": "elsewhere.7"}), 409)
    assert document["errors"][0]["field"] == "offset"
    for body, field in (
        ({"offset": offset, "event": "connect"}, "event"),
        ({"offset": offset, "args": [{"$binary": "AA=="}]}, "args"),
        ({"event": "redacted"}, "offset"),
    ):
        assert problem(call(server.port, "POST", "/redact", body), 422)["errors"][0]["field"] == field


def test_prune_and_compact(server: ServerProcess) -> None:
    """Young events stay; a small database is compacted beside its clients; fields are checked."""
    emit(server)
    pruned = result(call(server.port, "POST", "/prune", {}))
    assert pruned == {"events": 0, "pruned_through": 0}
    compacted = result(call(server.port, "POST", "/compact", {}))
    assert compacted.keys() == {"before_bytes", "after_bytes", "seconds"}  # a full page may need one more
    document = problem(call(server.port, "POST", "/compact", {"force": 1}), 422)
    assert document["errors"][0]["field"] == "force"


def test_beside_a_reader(server: ServerProcess) -> None:
    """While another program reads, a redaction says what is left to do, and a compaction changes nothing."""
    offset = emit(server, "personal")
    with closing(sqlite3.connect(server.database)) as connection:
        rows = connection.execute("SELECT * FROM events")
        next(rows)
        redacted = result(call(server.port, "POST", "/redact", {"offset": offset}))
        assert not redacted["is_scrubbed"]
        document = problem(call(server.port, "POST", "/compact", {}), 409)
        assert document["detail"].endswith(
            "Another program reads the database; compact it when that has ended."
        )
        rows.close()
    assert result(call(server.port, "POST", "/redact", {"offset": offset}))["is_scrubbed"]
