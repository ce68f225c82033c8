"""Set-up by make, as on a machine that is new: the locks are installed and nothing is resolved."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen
from zipfile import ZipFile

import pytest
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
MADE = (
    *(".*_cache", ".coverage*", ".git", ".hypothesis", ".venv", "__pycache__"),
    *("node_modules", "client_bundle", "bundle", "build", "data", "dist"),
)
RUN, DEV, NODE = (f".requirements{kind}.lock" for kind in ("", "-dev", "-node"))
IN_CI = os.environ.get("CI") == "true"
OLDEST = "3.11"
NEWER = ("3.12", "3.13")
OURS = "socketio-eventstore"
BROUGHT_BY_VENV = {"pip", "setuptools"}


def unavailable(what: str) -> None:
    """A test that needs it is skipped, but never in CI."""
    if IN_CI:
        pytest.fail(what)
    pytest.skip(what)


def python(minor: str) -> Path:
    """Any Python of this minor version. Debian has only one of them, so CI, too, skips without."""
    names = [f"python{minor}", os.environ.get(f"PYTHON{minor.replace('.', '')}", "")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names += map(str, pyenv.glob(f"versions/{minor}.*/bin/python"))
    check = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != ({minor.replace('.', ',')}))"
    for name in filter(None, names):
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", check], capture_output=True, check=False).returncode == 0:
            return Path(found)
    pytest.skip(f"Python {minor} is not installed; PYTHON{minor.replace('.', '')} may name one")


def environ(**changes: str) -> dict[str, str]:
    """The environment of a person's shell: without what make, pytest and coverage hand to their children."""
    ours = re.compile(r"MAKE|MFLAGS|PYTEST|PYTHONPATH|COV_|COVERAGE|EVENTSTORE_|VIRTUAL_ENV")
    return {name: text for name, text in os.environ.items() if not ours.match(name)} | changes


def run(*command: str | Path, cwd: Path, **changes: str) -> str:
    result = subprocess.run(
        command,
        cwd=cwd,
        env=environ(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def pinned(*names: str) -> dict[str, str]:
    text = "".join((CHECKOUT / name).read_text() for name in names)
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def installed(folder: Path) -> dict[str, str]:
    listed = json.loads(run(".venv/bin/python", "-m", "pip", "list", "--format=json", cwd=folder))
    return {canonicalize_name(entry["name"]): entry["version"] for entry in listed}


def make_wheel(folder: Path, name: str, version: str, *requirements: str) -> Path:
    """A wheel of this name that holds nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: toml\n"]
    metadata += [f"Requires-Dist: {requirement}\n" for requirement in requirements]
    path = folder / f"{stem}-py3-none-any.whl"
    with ZipFile(path, "w") as wheel:
        wheel.writestr(f"{stem}.dist-info/METADATA", "".join(metadata))
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        names = ("METADATA", "WHEEL", "RECORD")
        wheel.writestr(f"{stem}.dist-info/RECORD", "".join(f"{stem}.dist-info/{name},,\n" for name in names))
    return path


def pin(wheel: Path) -> str:
    name, version, *_ = wheel.name.split("-")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n"


BACKEND = """
import shutil

def build_editable(folder, *_):
    return shutil.copy("project-1.0-py3-none-any.whl", folder).rpartition("/")[2]
"""


def test_set_up_resolves_nothing(tmp_path: Path) -> None:
    """A newer release and a requirement that is not locked lie in the index: both stay there."""
    index, folder = tmp_path / "index", tmp_path / "it's new"
    for new in (index, folder):
        new.mkdir()
    shutil.copy(CHECKOUT / "Makefile", folder)
    make_wheel(folder, "project", "1.0")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    for newer in ("coverage", "unlocked"):
        make_wheel(index, newer, "99.0")
    locked = make_wheel(index, "coverage", "1.0")
    asking = make_wheel(index, "pytest-cov", "1.0", "coverage[toml]>=1", "unlocked")
    (folder / RUN).write_text(pin(locked))
    (folder / DEV).write_text(pin(asking))
    make = ("make", "place=here", f"PYTHON={sys.executable}", ".venv/developing-in-here")
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}

    resolving = subprocess.run(
        [*make, "install=.venv/bin/python -m pip install"],
        cwd=folder,
        env=environ(**offline),
        capture_output=True,
        text=True,
        check=False,
    )
    assert resolving.returncode != 0 and "In --require-hashes mode" in resolving.stderr

    run(*make, cwd=folder, **offline)
    versions = {name: version for name, version in installed(folder).items() if name not in BROUGHT_BY_VENV}
    assert versions == {"coverage": "1.0", "pytest-cov": "1.0", "project": "1.0"}


def test_vanished_python_is_replaced(tmp_path: Path) -> None:
    """As after an upgrade of the system: the environment is there, and its Python points to nothing."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (tmp_path / ".venv" / "made-in-here").touch()
    make = ("make", "--dry-run", "place=here", ".venv/made-in-here")
    (bin_folder / "python").symlink_to(sys.executable)
    assert "-m venv" not in run(*make, cwd=tmp_path)
    (bin_folder / "python").unlink()
    (bin_folder / "python").symlink_to(tmp_path / "vanished")
    assert "-m venv" in run(*make, cwd=tmp_path)


# With the registries ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _pypi(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where PyPI cannot be reached."""
    command = (
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--retries=5",
        "--no-cache-dir",
        "pip==23.0.1",
    )
    result = subprocess.run(
        (sys.executable, *command),
        cwd=tmp_path_factory.mktemp("download"),
        env=environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        unavailable(f"PyPI cannot be reached: {result.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of the checkout in which nothing has been made. It goes at once, as environments are large."""
    folder = tmp_path / "it's new"
    shutil.copytree(CHECKOUT, folder, ignore=shutil.ignore_patterns(*MADE))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def newer_releases(tmp_path: Path) -> Path:
    """A newer release of every package that is locked."""
    index = tmp_path / "newer"
    index.mkdir()
    for name in pinned(RUN, DEV, NODE):
        make_wheel(index, name, "9999")
    return index


def python_with_pip(folder: Path, version: str) -> Path:
    """A Python 3.11 whose environments have this pip."""
    script = folder / "python"
    script.write_text(
        "#!/bin/sh -e\n"
        f"'{python(OLDEST)}' \"$@\"\n"
        f'[ "$1 $2" != "-m venv" ] || .venv/bin/python -m pip install --quiet --upgrade {version}\n'
    )
    script.chmod(0o755)
    return script


@contextmanager
def served(folder: Path, *arguments: str, **changes: str) -> Iterator[list[str]]:
    """`make run`, from its first line to the one that says how to stop; Ctrl-C ends it."""
    process = subprocess.Popen(
        ["make", "run", "CONFIG=test.toml", *arguments],
        cwd=folder,
        env=environ(EVENTSTORE_LOG__FORMAT="text", **changes),  # as on a terminal, with the banner
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip())
                if "Ctrl-C" in line:
                    break
            else:
                pytest.fail("\n".join(lines))
            yield lines
            os.killpg(process.pid, signal.SIGINT)
            assert "Traceback" not in process.stdout.read()
            assert process.wait(timeout=60) in (-signal.SIGINT, 130, 2)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("_pypi")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("pip", ["pip==23.0.1", "pip==23.2.1", "pip"])
def test_new_machine(folder: Path, newer_releases: Path, pip: str, tmp_path: Path) -> None:
    """`make run` installs what runs and serves; `make dev` adds the rest, with the oldest and newest pip."""
    arguments = f"PYTHON={python_with_pip(tmp_path, pip)}"
    (folder / "test.toml").write_text("[server]\nport = 0\n[connection_state_recovery]\n")
    with served(folder, arguments, PIP_FIND_LINKS=str(newer_releases)) as lines:
        said = "\n".join(lines)
        assert re.search(r"^Making \.venv with Python 3\.11\.", said, re.MULTILINE)
        assert f"Installing {len(pinned(RUN))} packages" in said
        assert "Fetching the official client" in said
        found = re.fullmatch(
            r"Open (http://127\.0\.0\.1:\d+) in a browser\. Ctrl-C stops the server\.", lines[-1]
        )
        assert found, said
        for path in ("/", "/socket.io/socket.io.min.js"):
            with urlopen(found[1] + path, timeout=60) as response:
                assert response.status == 200
    only_run = installed(folder)
    from_pypi = pinned(NODE) if (folder / ".venv/bin/node").exists() else {}
    besides = {*BROUGHT_BY_VENV, OURS, *from_pypi}
    assert {name: only_run[name] for name in only_run.keys() - besides} == pinned(RUN)
    assert f"pip=={only_run['pip']}".startswith(pip)
    run(".venv/bin/python", "-m", "pip", "check", cwd=folder)

    if pip == "pip==23.2.1":
        return
    run("make", "dev", arguments, cwd=folder, PIP_FIND_LINKS=str(newer_releases))
    versions = installed(folder)
    assert {name: versions[name] for name in versions.keys() - only_run.keys()} == pinned(DEV)
    assert versions.items() >= only_run.items()
    run(".venv/bin/python", "-m", "pip", "check", cwd=folder)


@pytest.mark.usefixtures("_pypi")
@pytest.mark.timeout(2400)  # 500 s on two cores without other work
@pytest.mark.parametrize("minor", NEWER)
def test_newer_pythons(folder: Path, minor: str) -> None:
    """The same locks serve them, and the tests that start nothing pass; in CI, the newest passes more."""
    run("make", "dev", f"PYTHON={python(minor)}", cwd=folder)
    run(".venv/bin/python", "-m", "pip", "check", cwd=folder)
    tests = ["tests/unit", "tests/in_process"][: 2 if IN_CI and minor == NEWER[-1] else 1]
    assert " passed" in run(".venv/bin/pytest", "-p", "no:cacheprovider", *tests, cwd=folder)
