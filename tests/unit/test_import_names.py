"""A package of this project has one name only, whatever the working directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("folder", "package"),
    [("store", "socketio_eventlog"), ("migrations", "socketio_eventlog_migrations")],
)
def test_a_package_refuses_another_name(folder: str, package: str) -> None:
    """An import by the path from the repository's root fails and names the right package."""
    command = [sys.executable, "-c", f"import {folder}.{package}"]
    refused = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    message = refused.stderr.splitlines()[-1]
    assert refused.returncode == 1
    assert message == f"ImportError: Import this package as {package}, not as {folder}.{package}."


@pytest.mark.parametrize("package", ["socketio_eventlog", "socketio_eventlog_migrations"])
def test_a_package_accepts_its_own_name(package: str) -> None:
    """An import by the installed name succeeds in the repository's root, too."""
    subprocess.run([sys.executable, "-c", f"import {package}"], cwd=ROOT, check=True)
