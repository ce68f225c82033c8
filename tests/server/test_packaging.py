from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

import socketio_eventstore

CHECKOUT = Path(__file__).parents[2]
FOLDERS = ("server", "store", "migrations")
PACKAGES = (
    "server/socketio_eventstore",
    "store/socketio_eventlog",
    "migrations/socketio_eventlog_migrations",
)
CLIENT_FILES = {
    "LICENSE",
    *(
        f"socket.io{build}.js{suffix}"
        for build in ("", ".min", ".msgpack.min", ".esm.min")
        for suffix in ("", ".map")
    ),
}
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build needs of the checkout, in a folder whose name is no pleasure for shells."""
    folder = tmp_path_factory.mktemp("it's a copy")
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "config.toml"):
        shutil.copy(CHECKOUT / name, folder)
    for name in FOLDERS:
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(copy: Path) -> Path:
    """Built from the sdist, which is built from the copy: what the sdist lacks, the wheel lacks too."""
    run(sys.executable, "-m", "build", "--no-isolation", copy, cwd=copy)
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has this wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    bin_folder = folder / "bin"
    run(
        *(sys.executable, "-m", "pip", "--python", bin_folder / "python", "install"),
        *("--no-index", "--no-deps", wheel),
        cwd=folder,
    )
    paths = {"base": str(folder), "platbase": str(folder)}
    # A path that stands in a .pth file comes last, and its own .pth files are not read: what is in the
    # wheel goes before what is in the checkout.
    (Path(sysconfig.get_path("purelib", "venv", paths)) / "dependencies.pth").write_text(
        sysconfig.get_path("purelib")
    )
    return bin_folder


def test_the_wheel_holds_every_file_of_the_packages(copy: Path, wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for name in FOLDERS for path in (copy / name).rglob("*") if path.is_file())
    assert packed == {path.relative_to(copy).as_posix().partition("/")[2] for path in files}


def test_the_packages_say_that_they_are_typed() -> None:
    assert all((CHECKOUT / name / "py.typed").exists() for name in PACKAGES)


def test_wheel_carries_the_official_client(wheel: Path) -> None:
    folder = "socketio_eventstore/program/client_bundle/"
    with ZipFile(wheel) as archive:
        carried = {name.removeprefix(folder) for name in archive.namelist() if name.startswith(folder)}
    assert carried == CLIENT_FILES, "make has not brought the client"


def test_wheel_carries_the_charts(wheel: Path) -> None:
    """The library that draws the charts of the inspector comes with its licence."""
    folder = "socketio_eventstore/program/inspector/bundle/"
    with ZipFile(wheel) as archive:
        carried = {name.removeprefix(folder) for name in archive.namelist() if name.startswith(folder)}
    assert carried == {"LICENSE", "uPlot.iife.min.js", "uPlot.min.css"}, "make has not brought the charts"


def test_the_wheel_names_its_licence_and_its_python(wheel: Path) -> None:
    assert wheel.name == f"socketio_eventstore-{PROJECT['version']}-py3-none-any.whl"
    with ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert "License-Expression: MIT" in text and "Requires-Python: >=3.11" in text


def test_program_beside_foreign_modules(installed: Path, tmp_path: Path) -> None:
    for name in ("server", "store", "migrations", "config"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a foreign module was imported')\n")
    (tmp_path / "config.toml").write_text(
        '[server]\nport = 0\nhandlers = "mine"\n[connection_state_recovery]\n'
    )
    (tmp_path / "mine.py").write_text(
        "import sys\nimport socketio_eventstore as ours\n\ndef register(sio):\n    print(ours.__file__)\n"
    )
    for program in (
        [installed / "socketio-eventstore"],
        [installed / "python", "-m", "socketio_eventstore"],
    ):
        assert "Usage: socketio-eventstore" in run(*program, "--help", cwd=tmp_path)
        assert "this version's schema" in run(*program, "migrate", cwd=tmp_path)
        where, _ = run(*program, "check-config", cwd=tmp_path).splitlines()
        assert Path(where).is_relative_to(installed.parent)


def test_what_tests_import_is_the_checkout() -> None:
    assert socketio_eventstore.__file__ is not None
    assert Path(socketio_eventstore.__file__).samefile(CHECKOUT / PACKAGES[0] / "__init__.py")


def test_a_python_that_is_too_old_is_refused_in_words(tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    old = tmp_path / "old python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.9 || exit 1\n')
    old.chmod(0o755)
    result = subprocess.run(
        ["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert result.stderr.startswith(f"Python 3.11 or newer is needed, but {old} is Python 3.10.9.\n")
