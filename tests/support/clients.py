"""Official clients: socket.io-client on Node, driven by ``client.cjs``."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from support.processes import DEADLINE

DRIVER = Path(__file__).with_name("client.cjs")
MODULE_FOLDERS = (Path(__file__).parents[2],)


def node_command() -> list[str] | str:
    """The command that starts the driver, or the reason why no driver can be started."""
    node = shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))
    if node is None:
        return "node is not installed"
    for folder in MODULE_FOLDERS:
        modules = folder / "node_modules"
        if (modules / "socket.io-client").is_dir() and (modules / "socket.io-msgpack-parser").is_dir():
            return [node, str(DRIVER), str(folder / "package.json")]
    return "socket.io-client is not installed: run `make dev`"


def sequence_of(offset: object) -> int:
    """The sequence of an offset. Only tests may look inside."""
    assert isinstance(offset, str), f"not an offset: {offset!r}"
    epoch, dot, sequence = offset.rpartition(".")
    assert epoch and dot and sequence.isdigit(), f"not an offset: {offset!r}"
    return int(sequence)


@dataclass(frozen=True)
class Connected:
    """A CONNECT that a client received."""

    sid: str
    recovered: bool
    pid: str | None
    transport: str


@dataclass(frozen=True)
class Received:
    """An event that a client received."""

    name: str
    args: list[Any]
    asks: bool
    """Whether the server asked for an acknowledgement; such events carry no offset."""

    @property
    def offset(self) -> str:
        sequence_of(self.args[-1])
        return str(self.args[-1])

    @property
    def data(self) -> list[Any]:
        """The arguments without the offset."""
        sequence_of(self.args[-1])
        return self.args[:-1]


class NotAnswered(Exception):
    """The command failed in Node, the connection ended before the server acknowledged, or a poll failed."""


class Client:
    """An official client: the connections and events so far, and methods that wait for more."""

    def __init__(self, node: NodeClients, number: int) -> None:
        self._node = node
        self._number = number
        self._expected_connects = 1
        self._changed = asyncio.Condition()
        self.is_connected = False
        self.connects: list[Connected] = []
        self.disconnects: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self.transport = ""
        """The current transport's name; an upgrade may come before or after CONNECT."""
        self.events: list[Received] = []
        self.by_name: defaultdict[str, list[Received]] = defaultdict(list)
        self.acknowledged: dict[int, str] = {}
        """Offsets of the numbered events from ``pump`` with an acknowledgement of the server."""

    @property
    def sid(self) -> str:
        return self.connects[-1].sid

    @property
    def pid(self) -> str:
        pid = self.connects[-1].pid
        assert pid is not None, "recovery is not enabled"
        return pid

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        """Waits for a condition, which every report of the driver checks."""

        def is_decided() -> bool:
            return happened() or self._node.ended

        try:
            async with asyncio.timeout(DEADLINE), self._changed:
                await self._changed.wait_for(is_decided)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {DEADLINE} s; {self.story()}") from None
        assert happened(), f"{what}: Node ended before; {self.story()}"

    async def connected(self) -> Connected:
        """Waits until the client is connected; returns the last CONNECT."""
        await self.until(lambda: self.is_connected, "connected")
        self._expected_connects = len(self.connects) + 1
        return self.connects[-1]

    async def reconnected(self) -> Connected:
        """Waits for a connection after the last awaited connection."""
        await self.until(
            lambda: self.is_connected and len(self.connects) >= self._expected_connects, "connected again"
        )
        return await self.connected()

    async def recovered_again(self) -> Connected:
        """Waits for the next connection, which must have restored the session."""
        before = self.connects[self._expected_connects - 2]
        after = await self.reconnected()
        assert after.recovered, f"not recovered; {self.story()}"
        assert (after.sid, after.pid) == (before.sid, before.pid), self.story()
        return after

    async def gone(self) -> str:
        """Waits for the end of the last awaited connection; returns the reason.

        A client that reconnects by itself may be connected again before the call.
        """
        ended = max(self._expected_connects - 1, 1)
        await self.until(lambda: len(self.disconnects) >= ended, "disconnected")
        return self.disconnects[ended - 1]

    async def refused(self) -> dict[str, Any]:
        """Waits for the first connect_error."""
        await self.until(lambda: bool(self.errors), "connect_error")
        return self.errors[-1]

    async def upgraded(self) -> None:
        """Waits until a polling connection is a websocket."""
        await self.until(lambda: self.is_connected and self.transport == "websocket", "upgraded")

    async def received(self, name: str, count: int = 1) -> list[Received]:
        """Waits for ``count`` events of a name since the beginning; returns all such events."""
        events = self.by_name[name]
        await self.until(lambda: len(events) >= count, f"{count} times {name}")
        return list(events)

    async def has_acknowledged(self, count: int) -> None:
        """Waits until so many events of ``pump`` are acknowledged."""
        await self.until(lambda: len(self.acknowledged) >= count, f"{count} acknowledgements")

    async def call(self, name: str, *args: object) -> Any:
        """Emits and returns the server's acknowledgement."""
        return _unpack(await self._do("call", name=name, args=_pack(args)))

    async def emit(self, name: str, *args: object) -> None:
        await self._do("emit", name=name, args=_pack(args))

    async def connect(self, **auth: object) -> None:
        """``socket.connect()``, perhaps with another auth."""
        if auth:
            await self._do("auth", auth=auth)
        await self._do("connect")

    async def disconnect(self) -> str:
        """``socket.disconnect()``, the tutorial's button."""
        return await self._end("disconnect")

    async def cut(self) -> str:
        """The transport breaks without a close."""
        return await self._end("cut")

    async def close(self) -> str:
        """The transport is closed in the orderly way, without a Socket.IO packet."""
        return await self._end("close")

    async def last_offset(self) -> str | None:
        """The offset for the client's next reconnection."""
        offset: str | None = await self._do("offset")
        return offset

    async def pump(self, event: str, message: Mapping[str, object], window: int) -> None:
        """Emits numbered events as fast as the acknowledgements allow, until ``stop``."""
        await self._do("pump", event=event, message=message, window=window)

    async def stop(self) -> None:
        await self._do("stop")

    def story(self) -> str:
        """The history of the client, for the message of a failed test."""
        return (
            f"client {self._number}: connects {self.connects}, disconnects {self.disconnects}, "
            f"errors {self.errors[-3:]}, {len(self.events)} events, the last {self.events[-5:]}"
        )

    async def see(self, report: dict[str, Any]) -> None:
        """Reads a line of the driver."""
        async with self._changed:
            match report:
                case {"seen": "connect"}:
                    self.is_connected, self.transport = True, report["transport"]
                    self.connects.append(
                        Connected(report["sid"], report["recovered"], report.get("pid"), report["transport"])
                    )
                case {"seen": "disconnect", "reason": reason}:
                    self.is_connected = False
                    self.disconnects.append(reason)
                case {"seen": "connect_error"}:
                    self.errors.append({"message": report["message"], "data": report.get("data")})
                case {"seen": "upgrade", "transport": transport}:
                    self.transport = transport
                case {"seen": "acknowledged", "number": number, "offset": offset}:
                    self.acknowledged[number] = offset
                case {"seen": "event", "name": name}:
                    event = Received(name, _unpack(report["args"]), report["asks"])
                    self.events.append(event)
                    self.by_name[name].append(event)
                case _:
                    raise AssertionError(f"the driver said {report}")
            self._changed.notify_all()

    async def wake(self) -> None:
        """Lets all waiters check again: Node has ended."""
        async with self._changed:
            self._changed.notify_all()

    async def _end(self, command: str) -> str:
        """Ends the present connection; returns the reason."""
        before = len(self.disconnects)
        await self._do(command)
        await self.until(lambda: len(self.disconnects) > before or not self.is_connected, "disconnected")
        return self.disconnects[-1]

    async def _do(self, command: str, **what: object) -> Any:
        return await self._node.do(command, client=self._number, **what)


class NodeClients:
    """A Node process with any number of official clients."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._clients: dict[int, Client] = {}
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self.ended = False

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the driver's signal to exit
        try:
            async with asyncio.timeout(DEADLINE):
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
            await self._reader

    async def client(
        self,
        url: str,
        namespace: str = "/",
        *,
        transports: tuple[str, ...] = ("websocket",),
        reconnection: bool = True,
        beside: Client | None = None,
        **options: object,
    ) -> Client:
        """Creates and connects a client.

        ``beside`` puts a namespace on another client's transport. With ``reconnection`` off a client stays
        away until ``connect``, so a test decides about the missed events.
        """
        number = next(self._ids)
        client = self._clients[number] = Client(self, number)
        delays = {"reconnectionDelay": 50, "reconnectionDelayMax": 200, "randomizationFactor": 0.5}
        settings = {"transports": transports, "reconnection": reconnection, **delays, **options}
        neighbour = {} if beside is None else {"beside": beside._number}
        await self.do(
            "create", client=number, url=url, namespace=namespace, options=_pack(settings), **neighbour
        )
        return client

    async def control(self, url: str, **options: Any) -> Client:
        """A connected client in the namespace that lets tests act on the server."""
        client = await self.client(url, "/control", **options)
        await client.connected()
        return client

    async def do(self, command: str, **what: object) -> Any:
        """Sends a command to the driver and returns its result."""
        number = next(self._ids)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "command": command, **what}).encode() + b"\n")
        try:
            async with asyncio.timeout(DEADLINE):
                await self._process.stdin.drain()
                return await reply
        except TimeoutError:
            raise AssertionError(f"no reply to {command} {what} within {DEADLINE} s") from None
        finally:
            del self._replies[number]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                report = json.loads(line)
                if "reply" in report:
                    self._resolve(report)
                else:
                    await self._clients[report.pop("client")].see(report)
        finally:
            self.ended = True
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_exception(NotAnswered("Node has ended"))
            for client in self._clients.values():
                await client.wake()

    def _resolve(self, report: dict[str, Any]) -> None:
        reply = self._replies.get(report["reply"])
        if reply is None or reply.done():
            return  # the caller has given up
        if "error" in report:
            reply.set_exception(NotAnswered(report["error"]))
        else:
            reply.set_result(report["result"])


def _pack(value: object) -> Any:
    match value:
        case bytes():
            return {"$binary": base64.b64encode(value).decode()}
        case Mapping():
            return {key: _pack(item) for key, item in value.items()}
        case list() | tuple():
            return [_pack(item) for item in value]
        case _:
            return value


def _unpack(value: Any) -> Any:
    match value:
        case {"$binary": str(text)}:
            return base64.b64decode(text)
        case dict():
            return {key: _unpack(item) for key, item in value.items()}
        case list():
            return [_unpack(item) for item in value]
        case _:
            return value
