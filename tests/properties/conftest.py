from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest

from socketio_eventstore.core import replay
from support.simulated_clients import LOGGED


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few events several pages; let only ``Faults`` handle the logs of the core."""
    monkeypatch.setattr(replay, "PAGE_EVENTS", 2)
    monkeypatch.setattr(replay, "READ_EVENTS", 3)
    root = logging.getLogger("socketio_eventstore")
    monkeypatch.setattr(root, "handlers", [LOGGED])
    monkeypatch.setattr(root, "propagate", False)


@pytest.fixture
def without_coverage() -> Iterator[None]:
    """Run without coverage, which doubles the time; the other histories cover the same lines."""
    trace = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(trace)
