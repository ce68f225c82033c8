"""The headers of responses, as a scanner of security finds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from socketio_eventstore import chat
from socketio_eventstore.program.app import build
from socketio_eventstore.program.config import Config, HttpSettings, ServerSettings
from socketio_eventstore.program.errors import StartError
from socketio_eventstore.program.keys import hash_of
from socketio_eventstore.program.page_headers import NO_PAGE, POLICY
from support.processes import HOST


def handlers(folder: Path, name: str, more: str = "") -> Config:
    pages = folder / "pages"
    pages.mkdir(exist_ok=True)
    (pages / "index.html").write_text("<script>1</script>")
    (folder / f"{name}.py").write_text(f"PAGES = 'pages'\n{more}\ndef register(sio): pass\n")
    return Config(folder=folder, server=ServerSettings(handlers=name))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def headers_of(config: Config, http: aiohttp.ClientSession, *paths: str) -> list[dict[str, str]]:
    """The headers of the answers to these paths."""
    built = await build(config, is_stored=False)
    runner = web.AppRunner(built.app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    url, found = f"http://{HOST}:{runner.addresses[0][1]}", []
    try:
        for path in paths:
            async with http.get(url + path) as response:
                found.append({name.lower(): value for name, value in response.headers.items()})
    finally:
        await runner.cleanup()
    return found


async def test_every_answer_has_headers(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Pages, probes and errors have them; the chat and the HTTP interface have the strictest policies."""
    keys = HttpSettings(api_keys={"a": (hash_of("b"),)})
    paths = ("/", "/pages/chat.js", "/client.js", "/healthz", "/metrics", "/none", "/api/stats", "/api/")
    found = await headers_of(Config(folder=tmp_path, http=keys), http, *paths)
    for path, headers in zip(paths, found, strict=True):
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] in ("same-origin", "no-referrer"), path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["server"] == "socketio-eventstore", path
    assert found[0]["content-security-policy"] == chat.CONTENT_SECURITY_POLICY
    assert found[3]["content-security-policy"] == NO_PAGE
    assert "script-src 'self'" in found[-1]["content-security-policy"]


async def test_pages_of_handlers_go_on(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Pages with inline scripts work as before, unless their module is stricter."""
    found = await headers_of(handlers(tmp_path, "open_pages"), http, "/", "/pages/index.html")
    assert [headers["content-security-policy"] for headers in found] == [POLICY] * 2
    strict = "CONTENT_SECURITY_POLICY = \"default-src 'self'\""
    (headers,) = await headers_of(handlers(tmp_path, "strict_pages", strict), http, "/")
    assert headers["content-security-policy"] == "default-src 'self'"
    with pytest.raises(StartError, match="CONTENT_SECURITY_POLICY must be a text in one line"):
        await build(handlers(tmp_path, "wrong_pages", "CONTENT_SECURITY_POLICY = 'a\\nb'"), is_stored=False)


async def test_the_protocol_has_no_more_headers(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    (headers,) = await headers_of(Config(folder=tmp_path), http, "/socket.io/?EIO=4&transport=none")
    assert "content-security-policy" not in headers and headers["server"] == "socketio-eventstore"
