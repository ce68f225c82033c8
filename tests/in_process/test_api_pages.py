"""Pages of the log over HTTP, of a server in this process."""

from __future__ import annotations

import aiohttp
from aiohttp.test_utils import TestServer

from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.core.operations import Prune
from socketio_eventstore.program.api.app import api_application
from socketio_eventstore.program.api.events import events_endpoint
from socketio_eventstore.program.keys import ApiKeys, hash_of
from support.api import KEY
from support.embedded import Server


async def test_deleted_events(server: Server) -> None:
    """A program that polls is told that it has missed events, and does not go on as if there were none."""
    offsets = [str(await server.sio.emit("said", number)) for number in range(4)]
    await (await server.manager.start()).queue.submit(Prune(2))
    app = api_application(ApiKeys({"tests": [hash_of(KEY)]}), [events_endpoint(Administration(server.sio))])
    headers = {"Authorization": f"Bearer {KEY}"}
    async with TestServer(app) as serving, aiohttp.ClientSession(headers=headers) as http:
        url = serving.make_url("/events")
        async with http.get(url, params={"after": offsets[0]}) as response:
            assert (response.status, response.content_type) == (410, "application/problem+json")
        for query in ({"after": offsets[1]}, {}):
            async with http.get(url, params=query) as response:
                events = (await response.json())["events"]
                assert [event["offset"] for event in events] == offsets[2:]
