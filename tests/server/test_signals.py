"""The signals of the program: stop with grace, end at once, reload."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from socketio_eventstore.program.keys import hash_of
from support.api import KEY, call
from support.command_line import COMMAND, MINIMAL, environment, run, running, write_program_folder
from support.processes import DEADLINE

EXIT_CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 0)]

SLOW_START = """
import asyncio, os, signal

async def register(sio):
    os.kill(os.getpid(), signal.{name})
    await asyncio.sleep(60)
"""
RELOAD_AT_START = """
import asyncio, os, signal

async def register(sio):
    os.replace("changed.toml", "config.toml")
    os.kill(os.getpid(), signal.SIGHUP)
    for _ in range(10):
        await asyncio.sleep(0)
"""
SLOW_STOP = """
import asyncio, time

def register(sio):
    async def disconnect(sid, reason):
        open("stopping", "w").close()
        {wait}

    sio.on("connect", lambda sid, environ: None)
    sio.on("disconnect", disconnect)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_program_folder(tmp_path)


def until(happened: Callable[[], object]) -> None:
    give_up = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def connect_by_polling(address: str) -> None:
    url = f"{address}/socket.io/?EIO=4&transport=polling"
    with urllib.request.urlopen(url) as response:
        sid = json.loads(response.read()[1:])["sid"]
    urllib.request.urlopen(f"{url}&sid={sid}", data=b"40").close()
    with urllib.request.urlopen(f"{url}&sid={sid}") as response:
        assert response.read().startswith(b"40")


@pytest.mark.parametrize(("by", "code"), EXIT_CODES)
def test_exit_code(folder: Path, by: signal.Signals, code: int) -> None:
    """serve ends with exit code 0 after SIGTERM and 130 after Ctrl-C."""
    with running(folder, "serve") as (process, _):
        process.send_signal(by)
        assert process.wait(DEADLINE) == code
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize(("by", "code"), EXIT_CODES)
def test_signal_during_the_start(folder: Path, by: signal.Signals, code: int) -> None:
    """A signal during the start ends serve with the same exit code and no traceback."""
    (folder / "handlers.py").write_text(SLOW_START.format(name=by.name))
    result = run(folder, "serve")
    assert (result.returncode, result.stderr) == (code, "")


@pytest.mark.parametrize("wait", ["await asyncio.sleep(60)", "time.sleep(60)", "while True: pass"])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(folder: Path, second: signal.Signals, wait: str) -> None:
    """A second signal ends serve at once, also while a handler blocks the event loop."""
    (folder / "handlers.py").write_text(SLOW_STOP.format(wait=wait))
    grace = {"EVENTSTORE_SERVER__SHUTDOWN_GRACE": "50"}
    with running(folder, "serve", **grace) as (process, address):
        connect_by_polling(address)
        process.send_signal(signal.SIGTERM)
        until((folder / "stopping").exists)
        process.send_signal(second)  # the handler and the grace last longer than this waits
        assert process.wait(DEADLINE / 2) == 128 + second
    assert run(folder, "migrate").returncode == 0


def test_end_of_the_terminal(folder: Path) -> None:
    """A server of a terminal stops with grace when the terminal ends."""
    (folder / "handlers.py").write_text(SLOW_STOP.format(wait="pass"))
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        (*COMMAND, "serve"),
        cwd=folder,
        env=environment({}),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as process:
        os.close(terminal)
        assert process.stdout is not None
        found = re.search(r"Listening on (\S+)", process.stdout.readline())
        assert found
        connect_by_polling(found[1])
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEADLINE) == 0
    assert (folder / "stopping").exists()


def test_reload_during_the_start(folder: Path) -> None:
    """A key that is revoked while the handlers register is not valid after the start."""
    (folder / "handlers.py").write_text(RELOAD_AT_START)
    keys = f'[http]\napi_keys = {{ old = "{hash_of(KEY)}" }}\n'
    (folder / "config.toml").write_text(MINIMAL + keys)
    (folder / "changed.toml").write_text(
        MINIMAL + keys.replace("old", "new").replace(hash_of(KEY), hash_of("x"))
    )
    with running(folder, "serve") as (_, address):
        assert call(int(address.rpartition(":")[2]), "GET", "/stats").status == 401
        assert "Reload: [http] api_keys = ['new']" in (folder / "log").read_text()


def test_reload(folder: Path) -> None:
    """SIGHUP applies the keys that can change, and names the others, until they are as they were."""
    log, config = folder / "log", folder / "config.toml"

    def status(address: str, **headers: str) -> int:
        request = urllib.request.Request(f"{address}/socket.io/?EIO=4&transport=polling")
        request.add_header("Origin", "https://page.example")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            return int(urllib.request.urlopen(request).status)
        except urllib.error.HTTPError as error:
            return error.code

    with running(folder, "serve") as (process, address):
        assert status(address) == 403
        reloadable = 'cors_allowed_origins = ["https://page.example"]\nallowed_hosts = ["chat.example"]'
        changed = MINIMAL.replace("port = 0", f'port = 1\n{reloadable}\ntrusted_proxies = ["127.0.0.1"]')
        config.write_text(f"{changed}max_missed_packets = 5\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: "max_missed_packets has changed; it takes effect after a restart" in log.read_text())
        assert "[server] port has changed; it takes effect after a restart" in log.read_text()
        assert "[server] cors_allowed_origins = ('https://page.example',)" in log.read_text()
        assert status(address) == 200
        assert status(address, X_Forwarded_Host="chat.example") == 200
        assert status(address, X_Forwarded_Host="evil.example") == 421

        config.write_text("[server]\nprot = 1\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: "the configuration is invalid; nothing has changed" in log.read_text())
        assert "[server] has no key 'prot'; the nearest is 'port'" in log.read_text()
        assert status(address) == 200

        config.write_text(f"{changed}max_missed_packets = 5\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: log.read_text().count("[server] port has changed") == 2)
        config.write_text(changed.replace("port = 1", "port = 0"))
        process.send_signal(signal.SIGHUP)
        until(lambda: "Reload: nothing has changed" in log.read_text())
        assert log.read_text().count("takes effect after a restart") == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
