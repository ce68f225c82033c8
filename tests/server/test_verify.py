"""``verify`` against a correct server, against sabotaged servers, and as a command."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from socketio_eventstore.program.cli import commands
from socketio_eventstore.verify import program
from socketio_eventstore.verify.judge import Fault
from socketio_eventstore.verify.plan import Settings, make_plan
from socketio_eventstore.verify.process import CannotRun
from socketio_eventstore.verify.runner import Outcome, run
from support.processes import DEADLINE
from support.sabotages import (
    JOIN_COVERS_PAST,
    JOIN_NOT_STORED,
    OFFSET_REUSED,
    POISON_ACCEPTED,
    RECOVERY_REFUSED,
    REPLAY_GAP,
    REPLAYED_BACKWARDS,
    REPLAYED_TWICE,
    ROWS_LOST,
    SENT_BEFORE_COMMIT,
    SKIP_IGNORED,
)

SMALL = Settings(clients=8, rooms=3, cuts=20, kills=2, events=400, seed=1)
SABOTAGED = replace(SMALL, cuts=16, kills=1, events=300)
OPTIONS = ("--clients", "3", "--rooms", "2", "--cuts", "3", "--kills", "1", "--events", "60", "--seed", "1")


async def run_plan(
    settings: Settings, folder: Path, sabotage: str = "", *, all_steps: bool = True
) -> Outcome:
    """Run the plan against a server; ``sabotage`` is code that the server runs before its start."""
    script = folder / "sabotaged.py"
    script.write_text(f"{sabotage}\nfrom socketio_eventstore.__main__ import main\n\nmain()\n")
    scratch = folder / "scratch"
    scratch.mkdir()
    steps: list[None] = []
    plan = make_plan(settings)
    outcome = await run(plan, scratch, lambda: steps.append(None), (sys.executable, str(script), "serve"))
    assert not all_steps or len(steps) == len(plan.steps)
    return outcome


async def test_correct_server(tmp_path: Path) -> None:
    """A server that keeps its promises has no finding."""
    outcome = await run_plan(SMALL, tmp_path)
    verdict = outcome.verdict
    assert verdict.kept, verdict.findings[:5]
    assert outcome.notes == ()
    assert (outcome.done["cuts"], outcome.done["kills"]) == (SMALL.cuts, SMALL.kills)
    assert outcome.events >= SMALL.events * 0.9
    assert verdict.recovered == verdict.returns > SMALL.kills * SMALL.clients
    assert all(verdict.checked[fault] > 0 for fault in Fault)


# ``besides`` are further faults of a sabotage: for example, without correct offsets no replay is correct.
@pytest.mark.parametrize(
    ("sabotage", "found", "besides"),
    [
        pytest.param(SENT_BEFORE_COMMIT, Fault.UNLOGGED, set(Fault), id="sent before commit"),
        pytest.param(OFFSET_REUSED, Fault.REUSED, {Fault.REPEATED, Fault.ROOMS}, id="offset reused"),
        pytest.param(REPLAY_GAP, Fault.LOST, set(), id="replay gap"),
        pytest.param(JOIN_COVERS_PAST, Fault.LEAKED, set(), id="join leak"),
        pytest.param(SKIP_IGNORED, Fault.LEAKED, set(), id="skip leak"),
        pytest.param(REPLAYED_TWICE, Fault.REPEATED, set(), id="duplicate"),
        pytest.param(REPLAYED_BACKWARDS, Fault.MISORDERED, {Fault.REPEATED}, id="misorder"),
        pytest.param(RECOVERY_REFUSED, Fault.REFUSED, set(), id="recovery refused"),
        pytest.param(POISON_ACCEPTED, Fault.REFUSED, set(Fault), id="poison accepted"),
        pytest.param(JOIN_NOT_STORED, Fault.ROOMS, {Fault.LEAKED}, id="join not stored"),
        pytest.param(ROWS_LOST, Fault.UNLOGGED, {Fault.ROOMS, Fault.REFUSED}, id="rows lost"),
    ],
)
async def test_sabotaged_server(tmp_path: Path, sabotage: str, found: Fault, besides: set[Fault]) -> None:
    """Each kind of sabotage gives findings of its own kind."""
    # The clients away at a given moment depend on the machine's speed: a fault may need several runs.
    for seed in range(1, 6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome = await run_plan(replace(SABOTAGED, seed=seed), folder, sabotage)
        counts = {fault: outcome.verdict.count(fault) for fault in Fault}
        print(counts, outcome.verdict.findings[:5])
        assert {fault for fault, count in counts.items() if count} <= {found, *besides}
        if counts[found]:
            return
    pytest.fail("no run has found the sabotage")


async def test_server_does_not_start(tmp_path: Path) -> None:
    """A server that does not start raises CannotRun with the server's output."""
    with pytest.raises(CannotRun, match=r"(?s)did not start.*not today"):
        await run(
            make_plan(SMALL), tmp_path, lambda: None, (sys.executable, "-c", "raise SystemExit('not today')")
        )


async def test_time_limit(tmp_path: Path) -> None:
    """The time limit leaves out the remaining steps, and the outcome notes this."""
    outcome = await run_plan(replace(SMALL, duration_seconds=0.2), tmp_path, all_steps=False)
    assert outcome.verdict.kept, outcome.verdict.findings[:5]
    assert outcome.notes == ("the time limit of 0.2 s left out some steps",)


# The command ----------------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the scratch folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_command(scratch: Path) -> None:
    """The command prints the table and removes the scratch folder."""
    result = CliRunner().invoke(commands, ["verify", *OPTIONS])
    assert (result.exit_code, result.exception) == (0, None), result.output
    for fault in Fault:
        assert f"  {fault.value} " in result.stdout
    assert "All promises were kept." in result.stdout and "--seed 1" in result.stdout
    assert "3 cuts, 1 kills" in result.stderr  # the progress bar
    assert not list(scratch.iterdir())


def test_broken_promise(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a broken promise the exit code is 1, and the scratch folder is kept."""
    script = scratch / "sabotaged.py"
    script.write_text(f"{ROWS_LOST}\nfrom socketio_eventstore.__main__ import main\n\nmain()\n")
    settings = Settings(clients=3, rooms=2, cuts=0, kills=0, events=60, seed=1)
    assert program.verify(settings, keep=False, command=(sys.executable, str(script), "serve")) == 1
    said = capsys.readouterr().out
    assert "PROMISES WERE BROKEN." in said
    (folder,) = scratch.glob("socketio-eventstore-verify-*")
    assert str(folder) in said and (folder / "events.db").exists() and (folder / "server.log").exists()


def test_cannot_run(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After CannotRun the exit code is 2."""

    def impossible(*_: object, **__: object) -> int:
        raise CannotRun("the server did not start")

    monkeypatch.setattr(program, "verify", impossible)
    result = CliRunner().invoke(commands, ["verify"])
    assert (result.exit_code, result.stderr) == (2, "socketio-eventstore: the server did not start\n")


# The end of the command ------------------------------------------------------------------------------


@contextmanager
def verifying(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``verify`` as a process. Yields the process, and a pidfd of the server's process."""
    with subprocess.Popen(
        [sys.executable, "-m", "socketio_eventstore", "verify", "--events", "100000"],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            handle = os.pidfd_open(server_of(process, folder))
            try:
                yield process, handle
            finally:
                os.close(handle)
        finally:
            process.kill()


def server_of(process: subprocess.Popen[str], folder: Path) -> int:
    """Return the process id of the server, with the scratch folder as its working directory."""
    give_up = time.monotonic() + DEADLINE
    while time.monotonic() < give_up:
        if list(folder.glob("*/events.db-wal")):
            for link in Path("/proc").glob("[0-9]*/cwd"):
                with suppress(OSError):  # another user's process, or an ended process
                    if link.readlink().parent == folder:
                        return int(link.parent.name)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            break
    raise AssertionError("no server")


def ended(handle: int) -> bool:
    readable, _, _ = select.select([handle], [], [], DEADLINE)
    return bool(readable)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has handles of processes")
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_server_exits_with_the_command(tmp_path: Path, by: signal.Signals) -> None:
    """The server exits with the command, also after a kill of the command."""
    with verifying(tmp_path) as (process, server):
        process.send_signal(by)
        assert ended(server)
        said, _ = process.communicate(timeout=DEADLINE)
    assert "Traceback" not in said, said
    if by is signal.SIGINT:
        assert process.returncode == 130
        assert not list(tmp_path.iterdir())
