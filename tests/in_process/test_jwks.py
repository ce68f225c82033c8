"""The keys at a URL: rotation, bounds on fetches, and sets that hang, are huge, or are no sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from socketio_eventstore.adapter.authentication import KeysNotAvailable
from socketio_eventstore.program.auth import jwks
from socketio_eventstore.program.auth.jwks import Jwks, UnknownKey
from support.processes import HOST
from support.tokens import jwk, private_key


class Issuer:
    """A server with a set of keys."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk("RS256", "one")]
        self.requests = 0
        self.now = 0.0
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._keys

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        return await self.answer(request)

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": self.keys})

    def answers(self, response: Callable[[], web.StreamResponse]) -> None:
        async def answer(request: web.Request) -> web.StreamResponse:
            return response()

        self.answer = answer

    def recovers(self) -> None:
        self.answer = self._keys


@asynccontextmanager
async def issuing() -> AsyncIterator[tuple[Issuer, Jwks]]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/keys", issuer.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield issuer, Jwks(f"http://{HOST}:{runner.addresses[0][1]}/keys", clock=lambda: issuer.now)
    finally:
        await runner.cleanup()


async def numbers(keys: Jwks, key_id: str | None = "one", algorithm: str = "RS256") -> Any:
    key: Any = await keys.key(key_id, algorithm)
    return key.public_numbers()


def own(number: int = 0) -> Any:
    return private_key("RS256", number).public_key().public_numbers()


async def test_keys_are_fetched_once_and_kept() -> None:
    """Many clients that come at once cause one fetch, and the next ones none."""
    async with issuing() as (issuer, keys):
        found = await asyncio.gather(*(numbers(keys) for _ in range(20)))
        assert found == [own()] * 20 and issuer.requests == 1
        issuer.now = 299.0
        assert await numbers(keys) == own() and issuer.requests == 1


async def test_an_unknown_key_id_fetches_again() -> None:
    """A rotated key is found at once; strangers with unknown ids cause one fetch in ten seconds."""
    async with issuing() as (issuer, keys):
        await numbers(keys)
        issuer.keys = [jwk("RS256", "two", 1)]
        issuer.now = 10.0
        assert await numbers(keys, "two") == own(1) and issuer.requests == 2
        for _ in range(5):
            with pytest.raises(KeysNotAvailable):
                await numbers(keys, "invented")
        with pytest.raises(KeysNotAvailable):
            await numbers(keys, "one")  # withdrawn
        assert issuer.requests == 2
        issuer.now = 20.0
        with pytest.raises(UnknownKey):
            await numbers(keys, "invented")
        assert issuer.requests == 3


async def test_strangers_do_not_keep_a_new_key_away() -> None:
    """A client with a new key is not refused because a stranger has just used the fetch."""
    async with issuing() as (issuer, keys):
        await numbers(keys)
        for rotation in (1, 2):
            issuer.now += 10.0
            with pytest.raises(UnknownKey):
                await numbers(keys, "invented")
            issuer.keys.append(jwk("RS256", f"new {rotation}", rotation))
            with pytest.raises(KeysNotAvailable):  # the client tries again
                await numbers(keys, f"new {rotation}")
            issuer.now += 10.0
            with pytest.raises(UnknownKey):
                await numbers(keys, "invented")
            assert await numbers(keys, f"new {rotation}") == own(rotation)


async def test_a_key_fits_id_and_algorithm() -> None:
    """A key counts for its own algorithm, its use and its id; without an id, it must be the only one."""
    async with issuing() as (issuer, keys):
        symmetric = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "hs"}
        issuer.keys += [
            jwk("ES256", "elliptic"),
            {**jwk("RS256", "encrypts", 1), "use": "enc"},
            {**jwk("RS256", "long", 1), "alg": "RS512"},
            symmetric,
            {"kty": ["RSA"]},
            {"kty": "RSA", "n": "AQAB", "e": 7},
            {**jwk("EdDSA", "ops"), "key_ops": 5},
            "text",
        ]
        assert await numbers(keys, None) == own()
        assert await numbers(keys, "elliptic", "ES256") is not None
        for key_id, algorithm in [
            ("elliptic", "RS256"),
            ("encrypts", "RS256"),
            ("long", "RS256"),
            ("hs", "HS256"),
            ("ops", "EdDSA"),
        ]:
            issuer.now += 10.0
            with pytest.raises(UnknownKey):
                await keys.key(key_id, algorithm)
        issuer.keys.append(jwk("RS256", "another", 1))
        issuer.now = 400.0
        await asyncio.gather(*(keys.key("elliptic", "ES256") for _ in range(3)))
        assert keys._fetching is not None
        await keys._fetching
        issuer.now = 410.0
        with pytest.raises(UnknownKey):
            await keys.key(None, "RS256")


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(status=302, headers={"Location": "file:///etc/passwd"}),
        lambda: web.Response(body=b"x" * 300_000),
        lambda: web.Response(body=b'{"keys":' + b"[" * 100_000),
        lambda: web.Response(text="<html>"),
        lambda: web.Response(text='{"keys": {}}'),
        lambda: web.json_response({"keys": [{}] * 101}),
        lambda: web.json_response({"keys": []}),
        lambda: web.json_response({"keys": [{}]}),
    ],
    ids=["500", "redirect", "huge", "deep", "html", "object", "many", "empty", "unusable"],
)
async def test_garbage_is_no_set(response: Callable[[], web.Response]) -> None:
    """A set that cannot be used leaves no key, then the former ones, and is asked for again with a pause."""
    async with issuing() as (issuer, keys):
        issuer.answers(response)
        for _ in range(3):
            with pytest.raises(KeysNotAvailable):
                await numbers(keys)
        assert (issuer.requests, keys.fetches) == (1, {"failed": 1})
        issuer.recovers()
        issuer.now = 10.0
        assert await numbers(keys) == own()
        issuer.answers(response)
        issuer.now = 20.0
        with pytest.raises(KeysNotAvailable):  # a new key may be in the set that cannot be read
            await numbers(keys, "new")
        assert await numbers(keys) == own()
        issuer.now = 3700.0
        with pytest.raises(KeysNotAvailable):
            await numbers(keys)


async def test_a_set_that_hangs_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a set hangs, known keys count; who needs the set gets no answer but the end of the wait."""
    monkeypatch.setattr(jwks, "TIMEOUT_SECONDS", 0.2)
    async with issuing() as (issuer, keys):
        await numbers(keys)
        hangs = asyncio.Event()

        async def hang(request: web.Request) -> web.StreamResponse:
            await hangs.wait()
            return web.Response()

        issuer.answer = hang
        issuer.now = 301.0
        assert await numbers(keys) == own()
        waiting = asyncio.gather(*(numbers(keys, "new") for _ in range(3)), return_exceptions=True)
        assert await numbers(keys) == own() and not waiting.done()
        assert [type(error) for error in await waiting] == [KeysNotAvailable] * 3
        assert issuer.requests == 2
        hangs.set()
