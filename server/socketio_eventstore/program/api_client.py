"""A client of the HTTP interface, for the command line."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from socketio_eventstore.program.command_error import CommandError
from socketio_eventstore.program.http_settings import API_PATH, UNIX

TIMEOUT_SECONDS: Final = 30.0
"""The longest silence of the server; a stream is never silent for so long."""
PAUSE_SECONDS: Final = 1.0
"""The pause before an interrupted stream goes on."""
EVENT_STREAM: Final = "text/event-stream"
MAX_ERROR_BYTES: Final = 100_000
"""The most bytes to read of an error."""


class Unreachable(CommandError):
    """No server answers, or the server cannot serve at the moment."""


class ApiClient:
    """Calls a running server. All methods raise CommandError with the reason from the server."""

    def __init__(self, url: str, key: str) -> None:
        """``url``: the URL of the server, including the path prefix of a proxy; or ``unix:/path``.

        An empty ``key`` is not sent.
        """
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._parts = urlsplit("http://localhost" if url.startswith(UNIX) else url)
            is_address = self._parts.scheme in ("http", "https") and bool(self._parts.hostname)
            self._port = self._parts.port
        except ValueError:  # such as a port beyond 65535
            is_address = False
        if not is_address:
            raise CommandError(f"{url!r} is no address of a server: http://127.0.0.1:3000, or unix:/path")

    def get(self, path: str, names: Iterable[str], /, **query: object) -> Any:
        """Return the answer to a GET request; the answer has the names. Parameters with None are left out."""
        with self._asked("GET", _with_query(path, query)) as response:
            return _answer(response, names)

    def post(
        self,
        path: str,
        names: Iterable[str],
        body: object,
        headers: Mapping[str, str] | None = None,
        *,
        takes_long: bool = False,
    ) -> Any:
        """Return the answer to a POST request with a body of JSON. The answer has the names.

        A long request has no timeout.
        """
        timeout_seconds = None if takes_long else TIMEOUT_SECONDS
        with self._asked("POST", path, json.dumps(body), headers, timeout_seconds) as response:
            return _answer(response, names)

    def follow(self, path: str, **query: object) -> Iterator[Any]:
        """Yield the data of server-sent events, for ever.

        After an interruption, such as a restart of the server, the stream goes on behind the last event. Only
        an unreachable server at the beginning is an error.
        """
        last_id: str | None = None
        has_begun = False
        while True:
            headers = None if last_id is None else {"Last-Event-ID": last_id}
            try:
                with self._asked("GET", _with_query(path, query), headers=headers) as response:
                    if response.headers.get_content_type() != EVENT_STREAM:
                        raise ValueError(f"the answer is no {EVENT_STREAM}")
                    has_begun = True
                    for line in response:
                        name, _, value = line.decode().rstrip("\n").partition(": ")
                        if name == "id":
                            last_id = value
                        elif name == "data":
                            yield json.loads(value)
            except Unreachable:
                if not has_begun:
                    raise
            time.sleep(PAUSE_SECONDS)

    @contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = TIMEOUT_SECONDS,
    ) -> Iterator[http.client.HTTPResponse]:
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = self._connection(timeout_seconds)
        try:
            prefix = self._parts.path.rstrip("/")
            connection.request(method, f"{prefix}{API_PATH.rstrip('/')}{path}", body, sent)
            with connection.getresponse() as response:
                self._refuse_errors(response)
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"cannot reach {self._url}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise CommandError(f"another program answers at {self._url}: {error}") from error
        finally:
            connection.close()

    def _refuse_errors(self, response: http.client.HTTPResponse) -> None:
        if response.status >= http.client.INTERNAL_SERVER_ERROR:
            raise Unreachable(_reason(response))
        if response.status >= http.client.BAD_REQUEST:
            raise CommandError(_reason(response))
        if response.status >= http.client.MULTIPLE_CHOICES:
            # The key is for the given address: no redirect takes the key elsewhere.
            target = response.headers["Location"]
            raise CommandError(f"{self._url} redirects to {target!r} ({response.status}); name that address")

    def _connection(self, timeout_seconds: float | None) -> http.client.HTTPConnection:
        if self._url.startswith(UNIX):
            return _UnixConnection(self._url.removeprefix(UNIX), timeout_seconds)
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._port, timeout=timeout_seconds)


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str, timeout_seconds: float | None) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _with_query(path: str, query: Mapping[str, object]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _answer(response: http.client.HTTPResponse, names: Iterable[str]) -> Any:
    """Return the object of an answer. Raises ValueError for an object without one of the names."""
    answer = json.loads(response.read())
    missing = [name for name in names if not isinstance(answer, dict) or name not in answer]
    if missing:
        raise ValueError(f"the answer has no {missing[0]!r}")
    return answer


def _reason(response: http.client.HTTPResponse) -> str:
    """Return the server's reason for a refusal; for a page, such as a proxy's, only the status."""
    try:
        return f"the server says: {json.loads(response.read(MAX_ERROR_BYTES))['detail']} ({response.status})"
    except (ValueError, RecursionError, KeyError, TypeError):  # a proxy, or another program
        return f"the server says: {response.status} {response.reason}"
