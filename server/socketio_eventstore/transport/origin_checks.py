"""The checks of ``Host`` and ``Origin``, with the values of ``cors_allowed_origins`` of python-engineio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from socketio_eventstore.transport.access_rules import AccessRules
from socketio_eventstore.transport.addresses import ANY, matches_any
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.websocket import Environ


class OriginChecks:
    """The part of ``Engine`` with the decision about hosts and origins.

    ``cors_allowed_origins`` is None for the server's own origin, [] for no check, "*", one origin, a list of
    origins, or a function. The server's own origin is always allowed beside a list.
    """

    access: AccessRules
    cors_allowed_origins: str | Sequence[str] | Callable[..., object] | None
    cors_credentials: bool
    origin_advice: str = "cors_allowed_origins adds origins"
    """The advice of the log for a refused origin: how to let the pages in."""
    _cors_allowed_origins: Callable[[Environ], Sequence[str] | None]

    def check_host(self, head: RequestHead) -> None:
        """Raise AccessRefused for a request to a forbidden host."""
        self.access.check_host(head, self._listed_origins)

    def check_access(self, head: RequestHead) -> None:
        """Raise AccessRefused for a request to another host, and for a page of a forbidden origin."""
        self.check_host(head)
        origin = head.header("origin")
        if origin and not self._may_connect(origin, head):
            asked = callable(self.cors_allowed_origins)
            expected = ["what the function allows"] if asked else self._listed_origins
            raise self.access.refuse_origin(origin, head, expected, self.origin_advice, has_own=not asked)

    def allows(self, head: RequestHead) -> bool:
        """Whether ``check_access`` refuses nothing; False also where only the application can tell."""
        if self.access.checks_hosts and not self.access.allows_host(head, self._listed_origins):
            return False
        if not head.headers("origin"):
            return True
        return not callable(self.cors_allowed_origins) and self._may_connect(head.header("origin"), head)

    def _may_connect(self, origin: str, head: RequestHead) -> bool:
        allowed = self.cors_allowed_origins
        if allowed == []:  # python-engineio: origins are not checked
            return True
        if callable(allowed):
            return bool(self._cors_allowed_origins(head.make_environ()))
        return matches_any(origin, self._listed_origins) or self.access.is_own(origin, head)

    @property
    def _listed_origins(self) -> Sequence[str]:
        """The allowed origins beside the server's own origin; none for a function."""
        allowed = self.cors_allowed_origins
        if allowed is None or callable(allowed):
            return ()
        return [allowed] if isinstance(allowed, str) else allowed

    def _cors_headers(self, environ: Environ) -> list[tuple[str, str]]:
        """Return the headers with which browsers let a page read the response.

        python-engineio calls this method for each response, and allows credentials to any page.
        """
        if self.cors_allowed_origins == []:
            return []
        headers = [("Vary", "Origin")]
        origin = environ.get("HTTP_ORIGIN")
        if origin and self._may_connect(origin, RequestHead.of_environ(environ)):
            if self.cors_credentials:
                headers.append(("Access-Control-Allow-Credentials", "true"))
            shared = ANY in self._listed_origins and not self.cors_credentials
            headers.append(("Access-Control-Allow-Origin", ANY if shared else origin))
        if environ["REQUEST_METHOD"] == "OPTIONS":
            headers.append(("Access-Control-Allow-Methods", "OPTIONS, GET, POST"))
        if requested := environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS"):
            headers.append(("Access-Control-Allow-Headers", requested))
        return headers
