"""The Bun that ``npm ci`` has put beside the benchmark, if available for the machine.

npm runs no install scripts here. So `node_modules/.bin/bun` is a stub, and the program is in the package of
the platform.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

MODULES = Path(__file__).resolve().parent / "node_modules"
MISSING = "There is no Bun here (npm package bun): rows that compare with it are missing."


@cache
def program(modules: Path = MODULES) -> Path | None:
    """The program, or None if Bun or its engine is not installed, or does not run."""
    if not (modules / "@socket.io" / "bun-engine").is_dir():
        return None
    programs = sorted(modules.glob("@oven/bun-*/bin/bun"))
    return next(filter(_runs, programs), None)


def _runs(program: Path) -> bool:
    """Whether the program runs: a processor may lack instructions that Bun uses."""
    try:
        ended = subprocess.run([program, "--version"], check=False, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0
