"""The sockets on which the server listens: addresses of TCP, and paths of Unix sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from socketio_eventstore.program.config import UNIX, Config
from socketio_eventstore.program.errors import PortInUse, StartError
from socketio_eventstore.program.http_settings import CONTROL_SUFFIX, parse_address

# Browsers cannot open the address of all interfaces.
REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""The address to open in a browser, for a host that stands for all interfaces."""


LONGEST_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a Unix socket: ``sun_path`` without the zero at its end."""


class Listener:
    """The listening sockets of several hosts with the same port."""

    @classmethod
    def of_server(cls, config: Config) -> Listener:
        """Listen on the addresses of ``[server]``. Raises StartError."""
        return cls(config.server.hosts, config.server.port, config.folder, scheme=_scheme(config))

    @classmethod
    def of_api(cls, config: Config) -> Listener:
        """Listen on the address of ``[http]``; without an address, on none. Raises StartError."""
        address = parse_address(config.http.listen)
        if address is None:
            return cls((), 0, config.folder)
        host, port = address
        return cls((host,), port, config.folder, scheme=_scheme(config))

    @classmethod
    def of_owner(cls, config: Config) -> Listener:
        """Listen on the socket beside the database, open to the owner only. Raises StartError."""
        path = config.store.path.absolute()
        if config.store.url:  # a database in a file makes the folder
            path.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o177)  # the file is only for the owner from the creation on
        try:
            return cls([f"{UNIX}{path.with_name(path.name + CONTROL_SUFFIX)}"], 0, config.folder)
        finally:
            os.umask(before)

    def __init__(self, hosts: Sequence[str], port: int, folder: Path, *, scheme: str = "http") -> None:
        """Listen on all hosts. Raises StartError, PortInUse included, and then listens on none.

        The path of a Unix socket counts from ``folder``. ``scheme`` is the scheme of TCP addresses.
        """
        self._hosts = hosts
        self._scheme = scheme
        self.sockets: list[socket.socket] = []
        self._files: list[Path] = []
        try:
            for host in self._hosts:
                if host.startswith(UNIX):
                    self._listen_on_file(folder / host.removeprefix(UNIX))
                else:
                    self.sockets.append(_listen(host, port, beside=self._hosts))
                    port = self.sockets[-1].getsockname()[1]  # all hosts get the port that the system chooses
        except BaseException:
            self.close()
            raise

    def urls(self) -> Iterator[str]:
        """Iterate over the addresses, for people."""
        for host, listening in zip(self._hosts, self.sockets, strict=True):
            yield host if host.startswith(UNIX) else self._url(host, listening.getsockname()[1])

    def url_for_browsers(self) -> str | None:
        """Return an address for browsers; None with Unix sockets only."""
        for host, listening in zip(self._hosts, self.sockets, strict=True):
            if not host.startswith(UNIX):
                return self._url(REACHABLE.get(host, host), listening.getsockname()[1])
        return None

    def _url(self, host: str, port: int) -> str:
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def close(self) -> None:
        """Close the sockets and remove the files of Unix sockets."""
        for listening in self.sockets:
            listening.close()
        for file in self._files:
            file.unlink(missing_ok=True)

    def _listen_on_file(self, path: Path) -> None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale_socket(path)
            listening.bind(str(path))
        except OSError as error:
            listening.close()
            raise StartError(f"cannot listen on {UNIX}{path}: {error.strerror or error}") from error
        except StartError:
            listening.close()
            raise
        self.sockets.append(listening)
        self._files.append(path)


async def stop_listening(servers: Sequence[asyncio.Server]) -> None:
    """Close servers of the running event loop; accepted connections are still served."""
    loop = asyncio.get_running_loop()
    for server in servers:
        for listening in server.sockets:
            with suppress(NotImplementedError):  # on Windows
                loop.remove_reader(listening.fileno())
    # asyncio makes the transport of a connection in the round after the accept. A server that is closed in
    # between forgets the connection: the client would wait until the process ends.
    await asyncio.sleep(0)
    for server in servers:
        server.close()


def check_addresses(config: Config) -> Iterator[str]:
    """Return one line for each host without a possible listener; a port in use is no fault."""
    server, address = config.server, parse_address(config.http.listen)
    hosts = [(host, server.port) for host in server.hosts]
    taken: list[tuple[str, str, int]] = []
    for host, port in [*hosts, address] if address is not None else hosts:
        if host.startswith(UNIX):
            place = str(config.folder / host.removeprefix(UNIX))
            problem = _problem_of_file(host, Path(place))
        else:
            place, problem = _bind(host, port, beside=server.hosts)
        other = next((name for name, where, at in taken if at == port and _overlap(where, place)), None)
        # The hosts of [server] share the port that the system chooses; [http] gets another one.
        has_own_port = port == 0 and len(taken) == len(hosts) and not host.startswith(UNIX)
        if problem:
            yield problem
        elif other is not None and not has_own_port:
            yield f"cannot listen on {host}: {other} takes the same address"
        taken.append((host, place, port))


def _bind(host: str, port: int, beside: Collection[str]) -> tuple[str, str]:
    """Return the numeric address of a host, and why nothing can listen there, if so."""
    try:
        with _listen(host, port, beside) as listening:
            return str(listening.getsockname()[0]), ""
    except PortInUse:  # by the running server
        return host, ""
    except StartError as error:
        return host, str(error)


def _problem_of_file(host: str, path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"cannot listen on {host}: there is no folder {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"cannot listen on {host}: the folder {folder} is not writable"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH_BYTES:
        return f"cannot listen on {host}: the path has more than {LONGEST_SOCKET_PATH_BYTES} bytes"
    return ""


def _overlap(one: str, other: str) -> bool:
    """Whether two paths or numeric addresses are the same, or one stands for all of its kind."""
    if one == other:
        return True
    is_same_kind = (":" in one) == (":" in other) and "/" not in one + other
    return is_same_kind and not {one, other}.isdisjoint(REACHABLE)


def _listen(host: str, port: int, beside: Collection[str]) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Accepted sockets inherit the option; aiohttp would set the option for each socket.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if family == socket.AF_INET6 and "0.0.0.0" in beside:  # noqa: S104 -- "::" would take its port
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        kind_of_error = PortInUse if error.errno == errno.EADDRINUSE else StartError
        text = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise kind_of_error(text) from error
    return listening


def _remove_stale_socket(path: Path) -> None:
    """Remove the file of a Unix socket on which no process listens, such as a killed server's."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"cannot listen on {UNIX}{path}: the file exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise PortInUse(f"cannot listen on {UNIX}{path}: another program listens there")


def _scheme(config: Config) -> str:
    return "https" if config.server.tls_certificate else "http"
