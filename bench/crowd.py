"""The load generator: thousands of WebSocket clients on one epoll, without a task or object per message.

Most clients are *counted*: the kernel discards the bytes (MSG_TRUNC), and only the sum is kept. Every client
of a fan-out gets the same bytes, so the sum shows whether all clients have all bytes. A few clients are
*watched*: the frames are parsed, checked for order and timed, and watched clients are served first.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from bench import wire
from bench.client import EVENT, Client, Stage, Watcher

_DISCARD_BYTES = 1 << 20
_READ_BYTES = 1 << 18
_AT_ONCE = 64
"""Sockets to read before the next look at the watched sockets."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SO_TIMESTAMPNS = 35
"""Linux, and not in the module ``socket``."""
_TIMESPEC = struct.Struct("ll")


class Crowd:
    """Clients of one server, served by ``step``."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._watched_epoll = select.epoll()
        self._epoll.register(self._watched_epoll.fileno(), select.EPOLLIN)
        self._open: dict[int, Client] = {}
        self._counted: dict[int, Callable[[bytearray, int, int], int]] = {}
        self._discarded = bytearray(_DISCARD_BYTES)
        self.counted_bytes = 0
        """The bytes sent to all counted clients together."""
        self.lost = 0
        """Clients with a connection ended by the server."""
        self._shaking = 0
        self._notes_arrivals = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop(list(self._open.values()))
        self._epoll.close()
        self._watched_epoll.close()

    # Connecting -------------------------------------------------------------------------------------

    def connect(
        self, clients: Sequence[Client], *, missed: int = 0, at_once: int = 10_000, seconds: float = 60.0
    ) -> None:
        """Connect clients, with their sessions, until all have CONNECT and ``missed`` events.

        At most ``at_once`` shake hands at a time. Raises TimeoutError.
        """
        waiting = list(reversed(clients))
        deadline = time.monotonic() + seconds
        while waiting or self._shaking:
            while waiting and self._shaking < at_once:
                self._begin(waiting.pop(), missed)
            self.step(0.1)
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self._shaking + len(waiting)} of {len(clients)} clients did not connect."
                )
            if self.lost:
                raise ConnectionError(f"The server ended {self.lost} connections.")

    def begin(self, clients: Sequence[Client], *, missed: int = 0) -> None:
        """Begin to connect clients as ``connect`` does, while other crowds do, too."""
        for client in clients:
            self._begin(client, missed)

    @property
    def is_connecting(self) -> bool:
        """Whether a client lacks CONNECT or a missed event. Raises ConnectionError."""
        if self.lost:
            raise ConnectionError(f"The server ended {self.lost} connections.")
        return self._shaking > 0

    def _begin(self, client: Client, missed: int) -> None:
        client.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A reset leaves no TIME_WAIT behind; thousands of such states would use up the ports.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        client.buffer.clear()
        client.stage, client.recovered, client.expected = Stage.UPGRADING, False, missed
        self._shaking += 1
        self._open[sock.fileno()] = client
        sock.connect_ex(self._address)
        self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def drop(self, clients: Iterable[Client]) -> None:
        """Reset the connections."""
        for client in clients:
            fd = client.sock.fileno()
            if self._open.pop(fd, None) is not None:
                self._counted.pop(fd, None)
                client.sock.close()

    def ask(self, clients: Sequence[Client], name: str, *arguments: Any, seconds: float = 60.0) -> None:
        """Let each of the clients send an event, and wait until all have the acknowledgement."""
        for client in clients:
            client.send(wire.event(name, *arguments, ack=0))
        for client in clients:
            self.until(lambda buffer=client.buffer: b"430[]" in buffer, seconds)  # type: ignore[misc]

    def receive(self, clients: Sequence[Client], events: int, seconds: float = 60.0) -> None:
        """Wait until each client has ``events`` events since the clearing of the buffer."""
        for client in clients:
            self.until(lambda buffer=client.buffer: buffer.count(EVENT) >= events, seconds)  # type: ignore[misc]

    # Serving ----------------------------------------------------------------------------------------

    def count(self, clients: Iterable[Client]) -> None:
        """From now on, only count the bytes of the clients."""
        for client in clients:
            client.buffer.clear()
            client.watcher = None
            self._counted[client.sock.fileno()] = client.sock.recv_into

    def watch(self, client: Client, watcher: Watcher) -> None:
        """From now on, pass a client's frames to a function, before other clients are served."""
        fd = client.sock.fileno()
        if client.watcher is None:
            client.buffer.clear()
            self._counted.pop(fd, None)
            self._epoll.unregister(fd)
            self._watched_epoll.register(fd, select.EPOLLIN)
        client.watcher = watcher

    def note_arrivals(self, clients: Iterable[Client]) -> None:
        """From now on, note the arrival of bytes in the kernel for watched clients.

        A load generator on the same core as attackers reads late, which is not the server's fault.
        """
        self._notes_arrivals = True
        for client in clients:
            client.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def step(self, seconds: float) -> None:
        """Wait for at most ``seconds``, then read."""
        ready = self._epoll.poll(seconds, _AT_ONCE)
        if not ready:
            return
        for fd, _ in self._watched_epoll.poll(0):
            self._read(fd)
        counted, discarded, total = self._counted, self._discarded, 0
        for fd, mask in ready:
            receive = counted.get(fd)
            if receive is None:
                if fd in self._open and self._open[fd].watcher is None:
                    self._shake(fd, mask)
                continue
            try:
                got = receive(discarded, _DISCARD_BYTES, socket.MSG_TRUNC)
            except ConnectionError:
                got = 0
            if got:
                total += got
            else:
                self._lose(fd)
        self.counted_bytes += total

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Serve until a condition holds. Raises TimeoutError, ConnectionError if a client was lost."""
        deadline = time.monotonic() + seconds
        while not done():
            self.step(0.05)
            if self.lost:
                raise ConnectionError(f"The server ended {self.lost} connections.")
            if time.monotonic() > deadline:
                raise TimeoutError("The server did not send what was expected.")

    def _read(self, fd: int) -> None:
        client = self._open[fd]
        if self._fill(client):
            self._hand_over(client)

    def _hand_over(self, client: Client) -> None:
        assert client.watcher is not None
        for payload, size in wire.take_frames(client.buffer):
            client.watcher(client, payload, size)

    def _fill(self, client: Client) -> bool:
        try:
            data = self._receive_noting(client) if self._notes_arrivals else client.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if data:
            client.buffer += data
        else:
            self._lose(client.sock.fileno())
        return bool(data)

    @staticmethod
    def _receive_noting(client: Client) -> bytes:
        data, notes, _, _ = client.sock.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
        client.arrived_at = time.time()  # the kernel notes no time right after the request for times
        for level, kind, content in notes:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(content)
                client.arrived_at = seconds + nanoseconds / 1e9
        return data

    def _lose(self, fd: int) -> None:
        client = self._open.pop(fd)
        self._counted.pop(fd, None)
        client.sock.close()
        self.lost += 1

    def _shake(self, fd: int, mask: int) -> None:
        client = self._open[fd]
        if mask & select.EPOLLOUT:
            client.sock.send(wire.UPGRADE)
            self._epoll.modify(fd, select.EPOLLIN)
            return
        if self._fill(client) and client.stage is not Stage.READY and client.advance():
            self._shaking -= 1
