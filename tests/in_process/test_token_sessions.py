"""Sessions of clients with tokens: who recovers which one, its rooms, its replay and its end."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from socketio import exceptions

from socketio_eventlog.changes import Pruned
from socketio_eventstore import StoreUnavailable
from socketio_eventstore.adapter.authentication import KeysNotAvailable, Token
from socketio_eventstore.adapter.token_renewal import renewal
from socketio_eventstore.core.operation import Operation
from socketio_eventstore.core.operations import LeaveRoom
from socketio_eventstore.core.recovery import RecoveryResult
from socketio_eventstore.core.sessions import Session, State
from support.embedded import Server, Socket, away, results, serving, until
from support.tokens import authentication, claims_of, token_of


def needing_tokens(more: Callable[[Any], None] = lambda sio: None, **rules: Any) -> Callable[[Any], None]:
    """Register the check of tokens, and more."""

    def register(sio: Any) -> None:
        sio.authentication = authentication(**rules)
        more(sio)

    return register


async def refusal(server: Server, auth: Any, namespace: str = "/") -> Any:
    """The content of the CONNECT_ERROR for this auth."""
    socket = await server.socket()
    prefix = "" if namespace == "/" else f"{namespace},"
    await socket.send(f"40{prefix}{json.dumps(auth)}")
    return await socket.content(f"44{prefix}")


async def back(server: Server, pid: str, token: str) -> tuple[Socket, dict[str, Any]]:
    socket = await server.socket()
    return socket, await socket.connect(auth={"pid": pid, "token": token})


def session_of(server: Server, sid: str) -> Session:
    assert server.manager.runtime is not None
    session = server.manager.runtime.registry.get("/", sid)
    assert session is not None
    return session


async def test_a_client_needs_a_token(path: Path) -> None:
    """Without handlers, a valid token opens a session that is bound and in the rooms of the token."""
    async with serving(path, register=needing_tokens()) as server:
        assert await refusal(server, None) == {
            "message": "A token is needed",
            "data": {"code": "token_missing"},
        }
        expired = await refusal(server, {"token": token_of(seconds=-60)})
        assert expired["data"]["code"] == "token_expired"
        not_here = await refusal(server, {"token": token_of(namespaces=["/b"])})
        assert not_here["data"]["code"] == "token_namespace"
        client = await server.client({"token": token_of(rooms=["red", 7], namespaces=["/"])})
        assert session_of(server, client.sid).identity == "https://issuer.example ann"
        assert set(server.sio.rooms(client.sid)) == {client.sid, "red", 7}
        assert await client.event_of(server.sio.emit("to", "red", room="red")) == ["to", "red"]
        with pytest.raises(exceptions.ConnectionRefusedError):
            await server.sio.bind(client.sid, "bob")
        await server.sio.bind(client.sid, "https://issuer.example ann")
        taken = await refusal(server, {"token": token_of("bob", rooms=[client.sid])})
        assert taken["message"] == "The token names the room of a session"
        assert dict(server.sio.authentication.refused) == {
            "token_missing": 1,
            "token_expired": 1,
            "token_namespace": 1,
            "token_invalid": 1,
        }


@pytest.mark.parametrize("skip_middlewares", [False, True], ids=["", "skipped"])
async def test_a_pid_opens_for_its_identity_only(path: Path, skip_middlewares: bool) -> None:
    """Another identity with the pid gets a session of its own, and the owner notices nothing."""
    calls: list[str] = []

    def more(sio: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            calls.append(sio.claims(sid)["sub"])

        sio.on("connect", connect)

    recovery = {"skip_middlewares": skip_middlewares}
    async with serving(path, register=needing_tokens(more), recovery=recovery) as server:
        owner = await server.socket()
        answer = await owner.connect(auth={"token": token_of()})
        _, stranger = await back(server, answer["pid"], token_of("bob"))
        assert stranger["sid"] != answer["sid"]
        socket = await server.socket()
        await socket.send(f'40{{"pid":"{answer["pid"]}","token":"{token_of(seconds=-60)}"}}')
        assert (await socket.content("44"))["data"]["code"] == "token_expired"
        assert await owner.event_of(server.sio.emit("hello")) == ["hello"]
        await away(server, owner)
        await server.sio.emit("missed")
        again, found = await back(server, answer["pid"], token_of())
        assert found["sid"] == answer["sid"]
        assert [(await again.event())[0] for _ in range(2)] == ["hello", "missed"]
        assert await results(server) == {RecoveryResult.REFUSED: 1, RecoveryResult.RECOVERED: 1}
        assert calls == ["ann", "bob"] if skip_middlewares else ["ann", "bob", "ann"]


async def test_lost_rooms_end_with_the_old_token(path: Path) -> None:
    """A client with fewer rooms gets their events until its former token ended, also after a restart."""
    ends = time.time() + 3600
    register = needing_tokens(leeway_seconds=0.0)
    async with serving(path, register=register) as server:
        client = await server.socket()
        token = token_of(rooms=["lost", "kept", "unread"], exp=ends)
        answer = await client.connect(auth={"token": token})
        await server.sio.enter_room(answer["sid"], "by a handler")
        await away(server, client)
        for number in range(6):
            for room in ("lost", "kept", "by a handler", "unread"):
                await server.sio.emit(room, number, room=room)
    # The token ends between the third and the fourth emit to each room.
    with closing(sqlite3.connect(path)) as database:
        times = "CASE WHEN json_extract(payload, '$[1]') < 3 THEN 1 ELSE 0 END"
        database.execute("DROP TRIGGER events_updated")
        (changed,) = database.execute(f"SELECT count(*) FROM events WHERE {times}").fetchone()
        assert changed == 12
        (middle,) = database.execute(
            "SELECT emitted_at FROM events ORDER BY offset LIMIT 1 OFFSET 11"
        ).fetchone()
        database.execute("UPDATE sessions SET token_expires_at = ?", (middle,))
        database.commit()
    async with serving(path, register=register) as server:
        again, found = await back(server, answer["pid"], token_of(rooms=["kept", "new"]))
        assert found["sid"] == answer["sid"]
        await server.sio.emit("end")
        received = []
        while (event := await again.event())[0] != "end":
            received.append(tuple(event[:2]))
        assert received == [
            (room, number)
            for number in range(6)
            for room in ("lost", "kept", "by a handler", "unread")
            if number < 3 or room in ("kept", "by a handler")
        ]
        assert set(server.sio.rooms(found["sid"])) == {found["sid"], "kept", "new", "by a handler"}
        await server.sio.emit("lost", room="lost")
        assert await again.event_of(server.sio.emit("to", "new", room="new")) == ["to", "new"]


async def test_a_token_that_still_counts_ends_now(path: Path) -> None:
    """A client that comes back early with fewer rooms gets what was emitted until it showed the new token."""
    async with serving(path, register=needing_tokens()) as server:
        client = await server.socket()
        answer = await client.connect(auth={"token": token_of(rooms=["lost"])})
        await away(server, client)
        await server.sio.emit("lost", room="lost")
        again, _ = await back(server, answer["pid"], token_of())
        assert (await again.event())[0] == "lost"
        assert server.sio.rooms(answer["sid"]) == [answer["sid"]]
        assert session_of(server, answer["sid"]).token_rooms == ()


async def test_a_refused_renewal_changes_nothing(path: Path) -> None:
    """A connect handler sees the new rooms, and its refusal leaves the session as it was."""
    seen: list[set[Any]] = []

    def more(sio: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            seen.append(set(sio.rooms(sid)) - {sid})
            if sio.claims(sid).get("refuse"):
                raise exceptions.ConnectionRefusedError("no")

        sio.on("connect", connect)

    async with serving(path, register=needing_tokens(more)) as server:
        client = await server.socket()
        answer = await client.connect(auth={"token": token_of(rooms=["a"])})
        await away(server, client)
        refused = {"pid": answer["pid"], "token": token_of(rooms=["b"], refuse=True)}
        assert (await refusal(server, refused))["message"] == "no"
        assert session_of(server, answer["sid"]).token_rooms == ("a",)
        await server.sio.emit("missed", room="a")
        again, _ = await back(server, answer["pid"], token_of(rooms=["a"]))
        assert (await again.event())[0] == "missed"
        assert seen == [{"a"}, {"b"}, {"a"}]


async def test_the_end_of_a_token_ends_the_transport(path: Path) -> None:
    """The transport ends without a DISCONNECT packet, with every event before it; the session stays."""
    async with serving(path, register=needing_tokens(leeway_seconds=0.0)) as server:
        forever = await server.client({"token": token_of()})
        client = await server.socket()
        answer = await client.connect(auth={"token": token_of()})
        await server.sio.emit("before")
        current = session_of(server, client.sid).current
        assert current.expires_at is not None and current.connection is not None
        current.expires_at = time.time() + 0.01  # a slow machine would not be in time for a short token
        server.sio.clients.token_ends.watch(current.connection)
        assert [packet[:12] for packet in await client.rest()] == ['42["before",']
        assert server.sio.clients.token_ends.ended == 1
        assert len(server.sio.clients.token_ends._timers) == 1
        await server.sio.emit("after")
        again, found = await back(server, answer["pid"], token_of())
        assert found["sid"] == answer["sid"]
        assert [(await again.event())[0] for _ in range(2)] == ["before", "after"]
        await away(server, forever)
        await again.leave()
        await until(lambda: not server.sio.clients.token_ends._timers)


async def test_without_keys_the_client_comes_back(path: Path) -> None:
    """While the keys cannot be had, the transport ends without CONNECT_ERROR."""

    class NoKeys:
        async def check(self, auth: Any, namespace: str) -> Any:
            raise KeysNotAvailable

    async with serving(path, register=lambda sio: setattr(sio, "authentication", NoKeys())) as server:
        socket = await server.socket()
        await socket.send("40")
        assert await socket.rest() == []


async def test_the_database_has_no_token(path: Path) -> None:
    """The database has issuer, subject, rooms and the end of a token, and nothing else of it."""
    token = token_of(email="s3cret@example.com", rooms=["red"])
    async with serving(path, register=needing_tokens()) as server:
        client = await server.client({"token": token})
        claims = server.sio.claims(client.sid)
        assert claims["email"] == "s3cret@example.com" and claims["sub"] == "ann"
    with closing(sqlite3.connect(path)) as database:
        dump = "\n".join(database.iterdump())
    assert "https://issuer.example ann" in dump and "s3cret" not in dump
    assert not any(part in dump for part in token.split("."))
    async with serving(path, register=needing_tokens()) as server:
        await server.manager.start()
        assert server.sio.claims(client.sid) is None
        with pytest.raises(KeyError):
            server.sio.claims("nobody")
        assert claims_of()["sub"] == "ann"


async def test_a_namespace_that_was_left_ends_nothing(path: Path) -> None:
    """A token ends the connection only while one of its sessions is there."""
    async with serving(path, register=needing_tokens(), namespaces="*") as server:
        client = await server.client({"token": token_of()})
        await client.connect("/b", auth={"token": token_of()})
        assert server.manager.runtime is not None
        (other,) = server.manager.runtime.registry.namespaces["/b"].values()
        connection = other.current.connection
        assert connection is not None
        other.current.expires_at = time.time() + 2.0
        server.sio.clients.token_ends.watch(connection)
        first = server.sio.clients.token_ends._timers[connection]
        await client.send("41/b,")
        await until(lambda: server.sio.clients.token_ends._timers[connection] is not first)
        assert await client.event_of(server.sio.emit("still here")) == ["still here"]
        assert server.sio.clients.token_ends.ended == 0


async def test_a_store_that_fails_leaves_the_session(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log cannot tell where lost rooms end, the client is sent away; then it recovers."""
    async with serving(path, register=needing_tokens()) as server:
        client = await server.socket()
        answer = await client.connect(auth={"token": token_of(rooms=["lost"])})
        await away(server, client)
        await server.sio.emit("late", room="lost")
        session = session_of(server, answer["sid"])
        session.token_expires_at = 1.0
        assert server.manager.runtime is not None

        async def missed(*_: object, **__: object) -> None:
            raise StoreUnavailable("broken.")

        with monkeypatch.context() as broken:
            broken.setattr(server.manager.runtime.log, "missed", missed)
            socket = await server.socket()
            await socket.send(f'40{{"pid":"{answer["pid"]}","token":"{token_of()}"}}')
            assert await socket.rest() == []
        assert session.state is State.AWAY and session.token_rooms == ("lost",)
        again, found = await back(server, answer["pid"], token_of())
        assert found["sid"] == answer["sid"]
        assert await again.event_of(server.sio.emit("next")) == ["next"]


async def test_tokens_without_recovery() -> None:
    """A server without a store checks tokens, too, and joins their rooms."""
    async with serving(None, register=needing_tokens()) as server:
        assert (await refusal(server, {"token": "none"}))["data"]["code"] == "token_invalid"
        client = await server.client({"token": token_of(rooms=["red"])})
        await server.sio.emit("to", "red", room="red")
        assert await client.event() == ["to", "red"]
        assert session_of(server, client.sid).identity == "https://issuer.example ann"


@pytest.mark.parametrize("when", ["in the handler", "after the handler"])
async def test_a_token_that_ends_while_connecting(path: Path, when: str) -> None:
    """A client whose token ends before its acceptance is closed and gets nothing, until it has another."""
    ending: list[Any] = []

    def more(sio: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            if sio.claims(sid).get("ends"):
                ending.append(sid)
                current = session_of(server, sid).current
                current.expires_at = time.time() + (0 if when == "in the handler" else 0.05)
                if when == "after the handler":  # the acceptance waits behind this operation
                    assert server.manager.runtime is not None
                    server.manager.runtime.queue.enqueue(Waiting(current.expires_at))

        sio.on("connect", connect)

    class Waiting(Operation):
        """Holds the queue until a token has ended."""

        def __init__(self, moment: float) -> None:
            self._moment = moment

        def changes(self) -> Any:
            return (Pruned(0),)

        def apply(self, context: Any, batch: Any, committed: Any) -> None:
            while time.time() < self._moment:
                pass

    async with serving(path, register=needing_tokens(more)) as server:
        fresh = await server.socket()
        await fresh.send(f"40{json.dumps({'token': token_of(ends=True)})}")
        assert await fresh.rest() == []
        owner = await server.socket()
        answer = await owner.connect(auth={"token": token_of(rooms=["red"])})
        await away(server, owner)
        await server.sio.emit("missed", room="red")
        late = await server.socket()
        token = token_of(rooms=["red"], ends=True)
        await late.send(f"40{json.dumps({'pid': answer['pid'], 'token': token})}")
        assert await late.rest() == []
        assert len(ending) == 2 and ending[1] == answer["sid"]
        again, found = await back(server, answer["pid"], token_of(rooms=["red"]))
        assert found["sid"] == answer["sid"]
        assert (await again.event())[0] == "missed"
        registry = (await server.manager.start()).registry
        await until(lambda: len(list(registry)) == 1)


async def test_a_renewal_reads_no_events(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of lost rooms come from the times of the missed events, in one statement for all rooms."""
    async with serving(path, register=needing_tokens()) as server:
        client = await server.client({"token": token_of(rooms=["a", "b", "c"])})
        session = session_of(server, client.sid)
        await away(server, client)
        for room in ("a", "b", "a", "c"):
            await server.sio.emit("large", "x" * 10_000, room=room)
        context = (await server.manager.start()).context
        times = await context.log.emission_times(range(5))
        session.token_expires_at = times[1][1]
        asked: list[Any] = []

        async def counted(sequences: Any) -> Any:
            asked.append(list(sequences))
            return times

        async def no_read(*_: object) -> Any:
            raise AssertionError

        monkeypatch.setattr(context.log, "emission_times", counted)
        with monkeypatch.context() as patched:
            patched.setattr(context.log, "read", no_read)
            token = Token("https://issuer.example ann", {}, ("b",))
            changes = await renewal(session, token, context.log, context.position)
        ends = {change.room: change.through for change in changes if isinstance(change, LeaveRoom)}
        numbers = [sequence for sequence, _ in times]
        assert asked == [[numbers[0], numbers[2], numbers[3]]]
        assert ends == {"a": numbers[1], "c": numbers[2]}
