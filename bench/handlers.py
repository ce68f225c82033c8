"""The handlers of every Python server here, ours and stock python-socketio.

``peers/reference.mjs`` has the same for Node.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

TEXT = "x" * 74
"""Makes the packet of an event 106 bytes long, without the offset."""
FILL_BATCH = 1024


class Receipts:
    """How many events the last client has confirmed."""

    def __init__(self) -> None:
        self.seen = 0
        self.more = asyncio.Event()

    def confirm(self, count: int) -> None:
        """The client has received so many events of the run."""
        self.seen = count
        self.more.set()

    async def wait_for(self, count: int) -> None:
        """Wait until so many are confirmed."""
        while self.seen < count:
            self.more.clear()
            await self.more.wait()


def register(sio: Any) -> None:
    """Attach the handlers to a server."""
    _register_fan_out(sio)

    async def join(sid: str, room: str) -> None:
        await sio.enter_room(sid, room)

    async def publish(sid: str, data: Any) -> None:
        await sio.emit("news", data, room="news")

    async def fill(sid: str, order: dict[str, Any]) -> None:
        """Emit ``count`` events: ``for_mine``, evenly spread, to ``mine``, the rest to ``others`` rooms."""
        count, for_mine, others = order["count"], order["for_mine"], order.get("others", 1)
        stride = count // for_mine

        def room_of(n: int) -> str:
            return order["mine"] if n % stride == 0 and n // stride <= for_mine else f"others-{n % others}"

        for start in range(1, count + 1, FILL_BATCH):
            batch = range(start, min(start + FILL_BATCH, count + 1))
            await asyncio.gather(*(sio.emit("news", {"n": n, "text": TEXT}, room=room_of(n)) for n in batch))

    async def collect(sid: str) -> None:
        gc.collect()

    for name, handler in (("join", join), ("publish", publish), ("fill", fill), ("gc", collect)):
        sio.on(name, handler)


def _register_fan_out(sio: Any) -> None:
    receipts: dict[str, Receipts] = {}

    async def say(sid: str, data: Any) -> None:
        await sio.emit("fan", data)

    async def seen(sid: str, count: int) -> None:
        receipts.setdefault(sid, Receipts()).confirm(count)

    async def fan(sid: str, order: dict[str, Any]) -> dict[str, Any]:
        """Emit to all clients at full rate: ``window`` emitters wait, each for an event of its own."""
        receipt = receipts[sid] = Receipts()
        run = Run(sio, receipt, order["ahead"], perf_counter() + order["seconds"])
        with timed_commits(sio) as commits:
            await asyncio.gather(*(run.emitter() for _ in range(order["window"])))
        return {"count": run.count, "emit_ms": summary_ms(run.waits), "commit_ms": summary_ms(commits)}

    for name, handler in (("say", say), ("seen", seen), ("fan", fan)):
        sio.on(name, handler)


class Run:
    """A fan-out at full rate."""

    def __init__(self, sio: Any, receipt: Receipts, ahead: int, end: float) -> None:
        self._sio = sio
        self._receipt = receipt
        self._ahead = ahead
        self._end = end
        self.count = 0
        self.waits: list[float] = []

    async def emitter(self) -> None:
        """Emit one event after the other, as long as the last client keeps up, until the time is over."""
        while perf_counter() < self._end:
            self.count += 1
            number = self.count
            begun = perf_counter()
            await self._sio.emit("fan", {"n": 99_999 + number, "text": TEXT})
            self.waits.append(perf_counter() - begun)
            if number - self._receipt.seen > self._ahead:
                await self._receipt.wait_for(number - self._ahead)


@contextmanager
def timed_commits(sio: Any) -> Iterator[list[float]]:
    """A list of the durations of our server's commits; empty on stock python-socketio."""
    durations: list[float] = []
    log = getattr(getattr(sio.manager, "runtime", None), "log", None)
    kind: Any = type(log)
    append = getattr(kind, "append", None)
    if append is None:
        yield durations
        return
    kind.append = timed(append, durations)
    try:
        yield durations
    finally:
        kind.append = append


def timed(append: Callable[..., asyncio.Future[int]], durations: list[float]) -> Callable[..., Any]:
    """An append that notes the duration."""

    def timing(*arguments: Any) -> asyncio.Future[int]:
        begun = perf_counter()
        place = append(*arguments)
        place.add_done_callback(lambda _: durations.append(perf_counter() - begun))
        return place

    return timing


def summary_ms(seconds: list[float]) -> list[float]:
    """The median and the 99th percentile, in milliseconds; nothing for nothing."""
    if len(seconds) < 2:
        return []
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [cuts[49] * 1000, cuts[98] * 1000]
