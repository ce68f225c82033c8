"""``verify`` with several servers on one PostgreSQL database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from socketio_eventstore.verify import program
from socketio_eventstore.verify.database_link import DatabaseLink
from socketio_eventstore.verify.judge import Fault
from socketio_eventstore.verify.plan import Settings, make_plan
from socketio_eventstore.verify.postgres_store import remove_log
from socketio_eventstore.verify.process import SERVE, CannotRun
from socketio_eventstore.verify.runner import run
from support.postgres import Cluster

# With this seed the freeze and the partition are shorter than the lease.
FAULTS = Settings(
    clients=6, rooms=3, cuts=8, kills=1, freezes=1, breaks=2, partitions=1, nodes=2, events=150, seed=3
)

SMALLEST = Settings(clients=1, rooms=1, cuts=0, kills=0, events=5, seed=1)
LOGS = "SELECT count(*) FROM pg_namespace WHERE nspname = 'eventstore'"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        cluster.remove()


def url_of(cluster: Cluster, database: str) -> str:
    return f"postgresql://tests@/{database}?host={cluster.folder}"


async def test_several_servers(cluster: Cluster, tmp_path: Path) -> None:
    """Two servers keep all promises through faults."""
    database = cluster.new_database()
    outcome = await run(make_plan(FAULTS), tmp_path, lambda: None, SERVE, url_of(cluster, database))
    assert outcome.verdict.kept, outcome.verdict.findings[:5]
    assert outcome.notes == ()
    done = {name: outcome.done[name] for name in ("cuts", "kills", "freezes", "breaks", "partitions")}
    assert done == {"cuts": 8, "kills": 1, "freezes": 1, "breaks": 2, "partitions": 1}
    assert outcome.verdict.recovered == outcome.verdict.returns > 0
    assert all(outcome.verdict.checked[fault] > 0 for fault in Fault)


async def test_promotion(tmp_path: Path) -> None:
    """The database is lost, its synchronous standby promoted, and clocks jump: nothing is lost."""
    primary, settings = (
        Cluster(),
        Settings(clients=4, rooms=3, cuts=4, kills=1, jumps=2, promotions=1, nodes=2, events=80, seed=3),
    )
    try:
        primary.start()
        database = primary.new_database()
        standby = primary.standby()
        try:
            standby.start()
            primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.sql("postgres", "SELECT pg_reload_conf()")
            primary.until("postgres", "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
            urls = url_of(primary, database), url_of(standby, database)
            remove_log(urls[1])  # of a standby: nothing
            outcome = await run(make_plan(settings), tmp_path, lambda: None, SERVE, *urls)
            assert outcome.verdict.kept, outcome.verdict.findings[:5]
            assert outcome.notes == () and (outcome.done["promotions"], outcome.done["jumps"]) == (1, 2)
            assert outcome.verdict.recovered == outcome.verdict.returns > 0
            assert standby.sql("postgres", "SELECT pg_is_in_recovery()") == "f\n"
        finally:
            standby.stop()
            standby.remove()
    finally:
        primary.stop()
        primary.remove()


async def test_promotion_of_no_standby(cluster: Cluster, tmp_path: Path) -> None:
    """A database that is no standby is refused."""
    url, settings = url_of(cluster, cluster.new_database()), replace(SMALLEST, promotions=1)
    with pytest.raises(CannotRun, match="a standby of --url"):
        await run(make_plan(settings), tmp_path, lambda: None, SERVE, url, url)


def test_log_of_a_run(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a run is removed, unless it is to be kept; then the next run refuses the database."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    database = cluster.new_database()
    url = url_of(cluster, database)
    assert program.verify(SMALLEST, keep=False, database=url) == 0
    assert cluster.sql(database, LOGS) == "0\n"
    assert program.verify(SMALLEST, keep=True, database=url) == 0
    assert cluster.sql(database, LOGS) == "1\n"
    with pytest.raises(CannotRun, match="a database without one"):
        program.verify(SMALLEST, keep=False, database=url)
    assert cluster.sql(database, LOGS) == "1\n"


async def test_database_with_a_log(cluster: Cluster, tmp_path: Path) -> None:
    """A database with a log of somebody is refused, and stays as it is."""
    database = cluster.new_database()
    cluster.sql(database, "CREATE SCHEMA eventstore")
    with pytest.raises(CannotRun, match="a database without one"):
        await run(make_plan(FAULTS), tmp_path, lambda: None, SERVE, url_of(cluster, database))
    assert cluster.sql(database, LOGS) == "1\n"


async def test_no_database(cluster: Cluster, tmp_path: Path) -> None:
    """A database that is not there is an error in one line, and several servers need one."""
    with pytest.raises(CannotRun, match="none"):
        await run(make_plan(FAULTS), tmp_path, lambda: None, SERVE, url_of(cluster, "none"))
    with pytest.raises(CannotRun, match="--url"):
        await run(make_plan(FAULTS), tmp_path, lambda: None)


@pytest.mark.parametrize("url", ["postgresql://a,b/c", "http://localhost"])
def test_urls_that_lead_nowhere(url: str) -> None:
    """Links go to one host, by a URL of PostgreSQL."""
    with pytest.raises(CannotRun):
        DatabaseLink(url)
