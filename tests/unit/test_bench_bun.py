"""Where the benchmark finds Bun, and what it does where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import bun
from bench.servers import BUN, FULL, MEMORY
from bench.session import Bench


def install(modules: Path, platform: str, script: str, *, engine: bool = True) -> Path:
    """Put a program in the place of Bun, as npm does without install scripts."""
    program = modules / "@oven" / f"bun-{platform}" / "bin" / "bun"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    if engine:
        (modules / "@socket.io" / "bun-engine").mkdir(parents=True)
    return program


def test_found_in_platform_package(tmp_path: Path) -> None:
    program = install(tmp_path, "linux-x64", "echo 1.0.0")
    assert bun.program(tmp_path) == program


def test_one_that_runs_is_taken(tmp_path: Path) -> None:
    """A package for another machine ends with an error, as on a processor without the instructions."""
    install(tmp_path, "linux-aarch64", "exit 132")
    program = install(tmp_path, "linux-x64", "echo 1.0.0", engine=False)
    assert bun.program(tmp_path) == program


@pytest.mark.parametrize("script", ["exit 132", "kill -ILL $$"])
def test_one_that_does_not_run_is_none(tmp_path: Path, script: str) -> None:
    install(tmp_path, "linux-x64", script)
    assert bun.program(tmp_path) is None


def test_none_without_packages(tmp_path: Path) -> None:
    """Neither nothing nor Bun without its engine is a peer."""
    assert bun.program(tmp_path / "nothing") is None
    install(tmp_path, "linux-x64", "echo 1.0.0", engine=False)
    assert bun.program(tmp_path) is None


def test_rows_are_missing_without_bun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other servers are measured all the same."""
    bench = Bench(tmp_path, rounds=1, quick=True)
    monkeypatch.setattr("bench.bun.program", lambda: None)
    assert bench.servers(MEMORY, BUN, FULL) == [MEMORY, FULL]
    monkeypatch.setattr("bench.bun.program", lambda: tmp_path / "bun")
    assert bench.servers(MEMORY, BUN, FULL) == [MEMORY, BUN, FULL]
