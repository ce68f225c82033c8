"""The words of the inspector: what is unhealthy, and why a client missed something. Run by Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from support.clients import node_command

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Calls a function of a module of the pages, once for each list of arguments; returns the results."""
    command = node_command()
    if isinstance(command, str):
        if os.environ.get("CI") == "true":
            pytest.fail(command)
        pytest.skip(command)
    folder = tmp_path_factory.mktemp("pages")
    with as_file(files("socketio_eventstore.program.inspector") / "pages") as pages:
        shutil.copytree(pages, folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')

    def call(module: str, name: str, *calls: list[Any]) -> list[Any]:
        made = f"JSON.stringify({json.dumps(calls)}.map((one) => m.{name}(...one)))"
        (folder / "call.js").write_text(f"import * as m from './{module}'; console.log({made})")
        found: list[Any] = json.loads(run_node(command[0], folder))
        return found

    return call


def run_node(node: str, folder: Path) -> str:
    done = subprocess.run([node, "call.js"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(at: float, **changes: Any) -> dict[str, Any]:
    usual = {"at": at, "process": "a", "problems": [], "connections": 5, "limit": 100, "waiting": 0}
    usual |= {"slow": 0, "errors": 0, "refused": {}, "recoveries": {}, "failedCommits": 0}
    usual |= {"commits": [0, 0, 0], "bounds": [0.01, 0.5], "usedBytes": 10, "maxBytes": 100}
    return usual | changes


def texts(found: Any) -> list[str]:
    return [issue["text"] for issue in found["issues"]]


def test_health(ask: Ask) -> None:
    """A healthy server has no issue; each trouble of the last minute is a sentence, the worst first.

    Sums of a server before its restart are not compared with those after it, nor are old ones.
    """
    trouble = figures(
        1,
        problems=["the store is not open"],
        connections=95,
        usedBytes=95,
        waiting=6000,
        slow=2,
        errors=1,
        refused={"host": 3},
        failedCommits=1,
        commits=[100, 50, 0],
        recoveries={"recovered": 7, "expired": 2, "bad_offset": 1},
    )
    healthy, nothing, bad, restarted, old = ask(
        "health.js",
        "health",
        [[figures(0), figures(1, commits=[500, 1, 0])]],
        [[]],
        [[figures(0), trouble]],
        [[figures(0, errors=5, refused={"host": 3}), figures(1, process="b")]],
        [[figures(0), figures(61, errors=1), figures(62, errors=1)]],
    )
    assert healthy == {"state": "good", "short": "Healthy", "issues": []} == restarted == old
    assert (nothing["state"], bad["state"]) == ("connecting", "bad")
    first, failed, slow, waiting, new, lost, raised, open_, full, refused = texts(bad)
    assert first == "The server is not ready: the store is not open." and failed.startswith("1 commit failed")
    assert "Commits are slow" in slow and "6,000 operations wait" in waiting
    assert new.endswith("got a new session: away for too long (2), foreign offset (1).")
    assert "2 slow clients" in lost and "1 exception " in raised and "95 of at most 100" in open_
    assert "95\u202fB of 100\u202fB" in full and refused.endswith("requests for a foreign host (3).")


def session(*timeline: dict[str, Any], **changes: Any) -> dict[str, Any]:
    usual = {
        "namespace": "/",
        "sid": "me",
        "state": "away",
        "missed": 0,
        "is_missed_complete": True,
        "joined": [],
        "confirmed_offset": "e.0",
        "away_seconds": 5.0,
        "remaining_seconds": 60.0,
        "timeline": list(timeline),
        "events": [],
        "is_timeline_complete": True,
    }
    return usual | changes


def entry(kind: str, sequence: int, text: str = "", **more: Any) -> dict[str, Any]:
    at = f"2026-01-01T00:00:{sequence:02}Z"
    usual = {"kind": kind, "at": at, "offset": f"e.{sequence}", "text": text, "reason": None, "room": None}
    return usual | {"sid": None, "missed": None} | more


def said(parts: Any) -> str:
    """The parts of an answer; a link is the sid."""
    return "".join(part if isinstance(part, str) else part["sid"] for part in parts)


OPENED = entry("opened", 1, "The session began.")
INSTEAD = entry(
    "opened", 1, "The session began. Its client did not get x back: too late.", reason="expired", sid="x"
)
AWAY = entry("away", 4, "The client went away: ping timeout.", reason="ping timeout")
RECOVERED = entry("recovered", 6, "The client recovered the session.", missed=2)
REPLACED = entry("replaced", 8, "The client came back and got the new session y: too late.", sid="y")
ENDED = entry("ended", 7, "The session ended: its client did not come back in time.", reason="expired")


def test_answers(ask: Ask) -> None:
    """The answers follow the timeline: a former session, an absence, the end and a new session."""
    sessions = [
        session(INSTEAD, AWAY, missed=3),
        session(OPENED, AWAY, RECOVERED, AWAY, ENDED, REPLACED, state="ended", missed=1),
        session(OPENED, state="connected", is_timeline_complete=False),
        session(state="connected", confirmed_offset=None),
    ]
    answers = ask("why.js", "answers", *([one] for one in sessions))
    away, ended, connected, unstored = [[said(one) for one in several] for several in answers]
    assert "did not get session x: too late. What it missed before" in away[0]
    assert "(ping timeout). 3 events wait for it." in away[1] and "within 1\u202fmin" in away[2]
    assert "did not come back in time." in ended[0] and "got session y: too late." in ended[1]
    assert (
        ended[2] == "1 event had not been confirmed by then." and "was sent the 2 missed events" in ended[3]
    )
    assert "beginning of the history" in connected[0] and "has confirmed every event" in connected[1]
    (unstored_answer,) = unstored
    assert unstored_answer.startswith("Nothing is stored: without connection state recovery")


def test_explanations(ask: Ask) -> None:
    """For each event there is a reason: when it was, whom it was for, and what the client confirmed."""
    timeline = [
        OPENED,
        entry("joined", 2, room="red"),
        AWAY,
        entry("left", 5, room="red"),
        RECOVERED,
        entry("ended", 8, ENDED["text"], reason="expired"),
    ]
    shown = session(*timeline, state="ended", confirmed_offset="e.5")
    cases: list[tuple[int, list[str | int] | None, dict[str, Any], str]] = [
        (1, None, {}, "The event is older than the session"),
        (5, None, {"namespace": "/other"}, "The event is of the namespace /other"),
        (5, None, {"skip": ["me"]}, "The emit skipped this session"),
        (9, None, {}, "The session was over since"),
        (5, None, {}, "whole namespace. The client was away then, and was sent the event when it came back"),
        (5, ["me"], {}, "for this session alone."),
        (3, ["red"], {}, "for the room red, which the session was in. It was sent at once."),
        (2, ["red"], {}, "not for this session: it joined red at"),
        (6, ["red"], {}, "not for this session: it left red at"),
        (6, ["blue", 7], {}, "the room blue, #7, and not for this session: it was not in any of them"),
        (7, None, {}, "had not confirmed it when the session ended: its client did not come back in time."),
    ]
    usual = {"namespace": "/", "skip": []}
    events = [
        usual | {"offset": f"e.{sequence}", "rooms": rooms} | more for sequence, rooms, more, _ in cases
    ]
    found = ask("why.js", "explain", *([shown, event] for event in events))
    for parts, (*_, expected) in zip(found, cases, strict=True):
        assert expected in said(parts)
