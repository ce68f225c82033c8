"""``POST /api/inspector-links``: a link for a single use, for ``socketio-eventstore inspect``."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field

from socketio_eventstore.program.api.app import OWNER
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.problems import Problem
from socketio_eventstore.program.http_settings import INSPECT_PATH
from socketio_eventstore.program.inspector.logins import LINK_SECONDS, Logins

OFF: Final = "The inspector is off: [http] api_keys has no key."


class LinkResult(BaseModel):
    """A link to the inspector."""

    path: str = Field(description="The path with a token, which opens the inspector once.")
    url: str | None = Field(description="The link on the server's own address; null without a TCP address.")
    valid_seconds: float = Field(description="How long the link waits to be opened.")


class Links:
    """Makes links. ``address`` returns the server's own address, once the server listens."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self.address: str | None = None

    def endpoint(self) -> Endpoint:
        """Return the operation."""
        return Endpoint(
            name="createInspectorLink",
            method="POST",
            path="/inspector-links",
            summary="A link to the inspector that works once, and for a short time.",
            answer=self._answer,
            result=LinkResult,
        )

    async def _answer(self, call: Call) -> LinkResult:
        if not self._logins:
            raise Problem(404, OFF)
        key = None
        if call.key_name != OWNER:
            key = call.request.headers["Authorization"].partition(" ")[2].strip()
        # In the fragment, which browsers do not send: no log and no proxy sees the token.
        path = f"{INSPECT_PATH}#once={self._logins.new_link(call.key_name, key)}"
        url = None if self.address is None else self.address + path
        return LinkResult(path=path, url=url, valid_seconds=LINK_SECONDS)
