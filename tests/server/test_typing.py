"""The public API, the README and the documentation, as type checkers see them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

# python-socketio has no types, so a typed application that imports it has this setting already.
MYPY_CONFIG = """
[mypy]
strict = true
[mypy-socketio.*,engineio.*]
ignore_missing_imports = true
"""

USES = """
from pathlib import Path
from typing import Any, assert_type

from socketio_eventstore import (
    AsyncServer,
    QueueFull,
    RecoveryManager,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreNotUsable,
    StoreRejected,
    StoreUnavailable,
    __version__,
)

assert_type(__version__, str)
sio = AsyncServer(
    Path("events.db"), async_mode="asgi", max_disconnection_duration=60.0, cors_allowed_origins=[]
)
manager = RecoveryManager(None, synchronous="normal")


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: object) -> bool:
    await sio.bind(sid, "alice")
    await sio.enter_room(sid, "lobby")
    assert_type(sio.recovered(sid), bool)
    return True


@sio.event(namespace="/admin")
async def disconnect(sid: str, reason: str) -> None:
    await sio.leave_room(sid, 7)


@sio.on("chat message", namespace="/admin")
async def chat_message(sid: str, text: str) -> str | None:
    try:
        offset = await sio.emit("chat message", text, room="lobby")
        assert_type(offset, str | None)
        return offset
    except (StoreBusy, QueueFull) as error:
        assert_type(str(error), str)
    except (StoreUnavailable, StoreRejected, StoreNotUsable, StoreClosed):
        raise
    return None


@sio.exactly_once("order")
async def order(sid: str, item: str, key: str) -> None:
    await sio.save_session(sid, {"item": item})
    assert_type(await sio.get_session(sid), dict[str, Any])


async def end(sid: str) -> None:
    await sio.revoke(sid)
    await sio.disconnect(sid)
    await sio.shutdown()


error: StoreError = QueueFull()
"""

MISUSES = {
    'AsyncServer("events.db", async_mode="gevent")': "gevent",
    'AsyncServer("events.db", synchronous="never")': "never",
    'AsyncServer("events.db", max_disconection_duration=1.0)': "max_disconection_duration",
    'RecoveryManager("events.db", index_memory="64 MB")': "index_memory",
    "AsyncServer()": "path",
}


def snippets(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def mypy(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    (folder / "mypy.ini").write_text(MYPY_CONFIG)
    command = (sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--strict", *files)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def pyright(folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    program = CHECKOUT / "node_modules" / ".bin" / "pyright"
    if shutil.which("node") is None or not program.exists():
        reason = "pyright needs Node and the npm packages of the development set-up"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    command = (str(program), "--pythonpath", sys.executable, *files)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the public API in use and every snippet of the documentation, each as a module."""
    folder = tmp_path_factory.mktemp("typed application")
    (folder / "uses.py").write_text(USES)
    names = ["uses.py"]
    for page in PAGES:
        for number, snippet in enumerate(snippets(page), start=1):
            names.append(f"{page.stem.lower().replace('-', '_')}_{number}.py")
            (folder / names[-1]).write_text(snippet)
    return folder, names


def test_documentation_has_snippets(written: tuple[Path, list[str]]) -> None:
    """The README has at least one Python block; otherwise the tests below check nothing."""
    assert "readme_1.py" in written[1]


def test_mypy_accepts_documentation(written: tuple[Path, list[str]]) -> None:
    """The public API and every snippet of the documentation have no error in mypy --strict."""
    folder, names = written
    result = mypy(folder, *names)
    assert result.returncode == 0, result.stdout + result.stderr


def test_pyright_accepts_documentation(written: tuple[Path, list[str]]) -> None:
    """The public API and every snippet of the documentation have no error in pyright."""
    folder, names = written
    result = pyright(folder, *names)
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy_refuses_misuse(tmp_path: Path) -> None:
    """Each wrong argument of the constructors is an error that names the argument or its value."""
    lines = ["from socketio_eventstore import AsyncServer, RecoveryManager", *MISUSES]
    (tmp_path / "misuses.py").write_text("\n".join(lines) + "\n")
    output = mypy(tmp_path, "misuses.py").stdout
    for number, named in enumerate(MISUSES.values(), start=2):
        errors = [line for line in output.splitlines() if line.startswith(f"misuses.py:{number}: error")]
        assert errors and named in errors[0], output
