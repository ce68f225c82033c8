"""Histories that once showed a fault of the core, each as short as it can be told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventstore.core.sessions import Session
from support.cluster_histories import ClusterHistories
from support.histories import Histories
from support.simulated_clients import Scene
from support.simulated_server import DURATION, SimulatedServer


@pytest.fixture
def one() -> Iterator[Histories]:
    """A server with three clients."""
    machine = Histories()
    machine.begin(durable=True, connected=3)
    yield machine
    machine.close()


@pytest.fixture
def three() -> Iterator[ClusterHistories]:
    """Three nodes with a client each."""
    machine = ClusterHistories()
    machine.begin(connected=3, alone=False)
    yield machine
    machine.close()


def test_unstored_absence_does_not_begin_early(one: Histories) -> None:
    """A session waits as long as promised although its absence was stored late."""
    one.pass_time(3.0, sweep=False)
    one.fail(StoreUnavailable, times=1, may_be_found=False)
    one.disconnect(0, Scene.cut)
    one.pass_time(DURATION - 1.0, sweep=True)
    one.invariants_hold()
    one.finish()


def test_dead_first_node_is_declared_dead(three: ClusterHistories) -> None:
    """The nodes that are left declare the node dead that joined first."""
    three.kill(0, lands=False, back=False)
    three.world.pass_a_lease()
    assert len(three.world.shared.state.nodes) == 2


def test_node_that_is_behind_knows_the_session(three: ClusterHistories) -> None:
    """A client recovers on a node that has not applied the opening of its session yet."""
    three.hold(0, "deliveries", steps=4)
    three.end(2, 1, farewell=True)
    three.deliver_everything()
    three.reconnect_at_once(1, at=2)
    client = three.world.clients[1]
    pid = client.pid
    three.move(1, 0, Scene.cut)
    three.world.nodes[0].handle.release()
    three.world.loop.run_until_idle()
    three.reconnect_at_once(1, at=0)
    assert client.connected and client.pid == pid


def test_departure_takes_effect_in_the_order(three: ClusterHistories) -> None:
    """A client that left and came to another node has left nowhere: its departure came too late."""
    three.hold(1, "appends", steps=4)
    three.disconnect(1, Scene.send_disconnect)
    three.connect(1, 2)
    three.invariants_hold()
    three.finish()


def test_only_a_death_repeats_session_expired(
    three: ClusterHistories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node calls a handler that runs on this one only if this node dies inside it."""
    world, calls = three.world, list[SimulatedServer]()
    expired = world.session_expired

    def stuck(server: SimulatedServer, session: Session) -> None:
        expired(server, session)
        calls.append(server)
        if len(calls) == 1:
            three.hold(0, "appends", steps=100)

    monkeypatch.setattr(world, "session_expired", stuck)
    first, second, _ = world.nodes
    three.disconnect(1, Scene.cut)
    while not calls:
        world.pass_time(2.0)
    second.sweep()
    assert calls == [first]
    three.kill(0, lands=False, back=False)
    world.pass_a_lease()
    second.sweep()
    assert calls == [first, second]
    assert len(world.shared.state.sessions) == 2
