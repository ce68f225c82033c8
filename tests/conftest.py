from __future__ import annotations

import asyncio
import gc
import os
import signal
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from socketio_eventstore.core import repeated_failures
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from support import order, postgres
from support.clients import NodeClients, node_command
from support.core import Core, running
from support.embedded import Server, serving
from support.log_engines import STORES, Store
from support.processes import ServerProcess
from support.storing import Clock

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from support.browser import OpenTab


# An example may take longer than 200 ms, and the making of the first ones longer than a second.
settings.register_profile(
    "slow machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("slow machine")


async def accept(loop: Any, factory: Any, connection: Any, extra: Any, *args: Any, **kwargs: Any) -> None:
    """Take a connection as asyncio does, but close it if its server is closed already.

    asyncio forgets such a connection without closing it, and the collector then complains in some test:
    clients that reconnect hit that moment in one of some thousand closings.
    """
    server = kwargs.get("server", args[1] if len(args) > 1 else None)
    if server is not None and not server.sockets:
        connection.close()
        return
    await asyncio_accepts(loop, factory, connection, extra, *args, **kwargs)


asyncio_accepts = BaseSelectorEventLoop._accept_connection2  # type: ignore[attr-defined]
BaseSelectorEventLoop._accept_connection2 = accept  # type: ignore[attr-defined]


def pytest_configure() -> None:
    """Let servers have SIGHUP: under ``nohup make test`` they would inherit that it is ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests."""
    items[:] = order.longest_first(items, order.workers_of_this_run())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Answer ``--numprocesses auto``."""
    return order.workers_of_this_machine()


def pytest_collection_finish() -> None:
    """Freeze the imported objects, so that the collections after each test skip them."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    postgres.stop_shared_cluster()


@pytest.fixture(autouse=True)
def an_hour_between_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no failure be reported once more during a test in this process, however slow the machine is."""
    monkeypatch.setattr(RepeatedFailures.__init__, "__defaults__", (3600.0, repeated_failures.MAX_KINDS))


@pytest.fixture(autouse=True)
def guard_the_loop(request: pytest.FixtureRequest) -> None:
    """Guard every asynchronous test; the other tests have no event loop."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("guarded_loop")


@pytest.fixture
async def guarded_loop() -> AsyncIterator[None]:
    """Fail the test for the error of a task that is not awaited, and for a task that still runs."""
    loop = asyncio.get_running_loop()
    lost: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: lost.append(context))
    yield
    # This fixture was set up first, so all other fixtures are closed by now.
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for _ in range(30):  # not one long wait: a starved process gets as many rounds of the loop as another
        if left:
            _, left = await asyncio.wait(left, timeout=0.1)
    gc.collect()  # a task reports its unretrieved exception when it goes
    assert not left, f"the test left tasks behind: {left}"
    assert not lost, f"errors that were not retrieved: {lost}"


@pytest.fixture
async def node() -> AsyncIterator[NodeClients]:
    """Official clients. Without Node the test is skipped; in CI it fails."""
    command = node_command()
    if isinstance(command, str):
        if os.environ.get("CI") == "true":
            pytest.fail(command)
        pytest.skip(command)
    async with NodeClients(command) as clients:
        yield clients


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each durable engine."""
    return STORES[request.param](tmp_path, Clock())


@pytest.fixture(name="server")
async def embedded_server(path: Path) -> AsyncIterator[Server]:
    """An application in this process. Tests of other servers define their own fixture."""
    async with serving(path) as server:
        yield server


@pytest.fixture(name="core")
async def running_core(path: Path) -> AsyncIterator[Core]:
    async with running(path) as core:
        yield core


@pytest.fixture
def chat_server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, {"server": {"handlers": "socketio_eventstore.chat"}}) as server:
        yield server


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from support.browser import (
        running_chromium,  # here, because this import skips the test without playwright
    )

    with running_chromium() as browser:
        yield browser


@pytest.fixture
def open_tab(chromium: Browser, chat_server: ServerProcess) -> Iterator[OpenTab]:
    from support.browser import opening_tabs

    with opening_tabs(chromium, chat_server.url) as open_tab:
        yield open_tab
