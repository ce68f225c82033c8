"""``check-store`` on PostgreSQL: what it finds in a server, in a role, and in the rows of a log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from socketio_eventlog.errors import StoreNotUsable
from socketio_eventlog.options import Synchronous
from socketio_eventlog.postgres import check_log, check_schema, check_server
from socketio_eventlog.postgres.check import check
from socketio_eventlog.postgres.check_report import Report
from socketio_eventlog.postgres.schema import READER
from socketio_eventlog.session_changes import RoomJoined
from socketio_eventstore.program.cli import commands
from support.postgres import Cluster, shared_cluster
from support.postgres_proxies import pgbouncer
from support.storing import event, opened_postgres, session

REDACTING = "SET session_replication_role = replica"
"""No trigger runs: as after a restore of a part, or a damaged table."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that flushes, as PostgreSQL does by default, and whose settings are changed."""
    cluster = Cluster()
    try:
        cluster.start(fsync="on", max_prepared_transactions="2")
        cluster.migrate("migrated")
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def database(cluster: Cluster) -> str:
    return cluster.new_database("migrated")


def command(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["check-store", *arguments])


def checked(cluster: Cluster, database: str, synchronous: Synchronous = "full") -> Report:
    return check(cluster.url(database), synchronous)


def notes_and_problems(report: Report) -> str:
    return "\n".join(report.notes + report.problems)


async def fill(cluster: Cluster, database: str) -> None:
    """Five events, one of them binary, and a session with a room; the server has stopped."""
    async with opened_postgres(cluster.url(database)) as log:
        await log.append([session("s1"), RoomJoined("/", "s1", "room")])
        await log.append([event(text=f"é{number}") for number in range(4)])
        await log.append([event(attachments=(b"\x00", b"\x01"))])


async def test_sound_log_with_a_server(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table says what is durable against what, which servers there are, and how large all is."""
    monkeypatch.setattr(check_server, "NOTICE_SECONDS", 30.0)  # on a busy machine
    async with opened_postgres(cluster.url(database)) as log:
        await log.append([event()])
        report = await asyncio.to_thread(checked, cluster, database)
        assert not report.problems, report.problems
        assert all("disk" in note for note in report.notes), report.notes  # another's business
        assert report.head == 1 and report.epoch is not None
        (one,) = report.nodes
        assert (one.node, one.reader, one.behind, one.is_alive) == (log.node, READER, 0, True)
        assert one.connections > 0
        assert report.losses["The machine of PostgreSQL loses power"] == "nothing"
        assert "last backup" in report.losses["The machine of PostgreSQL is lost"]
        assert report.figures["notifications_arrive"] is True
        assert isinstance(report.figures["flush_seconds"], float)
    (tmp_path / "config.toml").write_text(f'[store]\nurl = "{cluster.url(database)}"\n')
    done = command("--config", str(tmp_path / "config.toml"), "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["tables"]["events"]["rows"] == 1
    done = command(cluster.url(database))
    assert done.exit_code == 0 and done.stdout.endswith(f"{database} on {cluster.folder} is sound\n")
    assert "Oldest transaction" in done.stdout and "alembic_version" in done.stdout


EVENTS = "UPDATE eventstore.events SET attachments = 1"
BREAKS = (
    ('DELETE FROM eventstore.events WHERE "offset" IN (2, 3)', "events 2 to 3 are gone without a note"),
    (f'{EVENTS} WHERE "offset" = 5', "event 5 has not the attachments 0 to 1"),
    ('UPDATE eventstore.events SET size_bytes = 1 WHERE "offset" = 4', "event 4 has another size than its"),
    ("UPDATE eventstore.events SET rooms = 'a' WHERE \"offset\" = 1", "event 1 has a payload, rooms or sids"),
    ("UPDATE eventstore.sessions SET node = 'gone'", "s1 of / belongs to the server gone, which is gone"),
    ("UPDATE eventstore.rooms SET joined_after = 99", 'room "room" of s1 of / does not fit the log'),
    ("UPDATE eventstore.batches SET before = 1, last = 1 WHERE batch = 2", "batch 2 does not continue"),
    ("UPDATE eventstore.log_state SET pruned_through = 1", "event 1 is there, although it was pruned"),
    ("DELETE FROM eventstore.epochs", "session s1 of / has a start"),
)


async def test_broken_rows_are_found(cluster: Cluster, database: str) -> None:
    """Each change past the triggers is named, and the log without it is sound."""
    await fill(cluster, database)
    assert not checked(cluster, database).problems
    cluster.sql(database, REDACTING, *(statement for statement, _ in BREAKS))
    found = checked(cluster, database).problems
    for _, problem in BREAKS:
        assert any(problem in text for text in found), (problem, found)
    cluster.sql(
        database,
        REDACTING,
        "DELETE FROM eventstore.sessions",
        "ALTER TABLE eventstore.events DISABLE TRIGGER events_deleted",
    )
    found = checked(cluster, database).problems
    assert (
        "schema: the trigger events_deleted is missing or off: changed events would not be noticed" in found
    )


@pytest.mark.parametrize(
    ("kind", "name"), [("FUNCTION", "follow"), ("TABLE", "publications"), ("VIEW", "recent_events")]
)
def test_missing_parts_are_problems(cluster: Cluster, database: str, kind: str, name: str) -> None:
    """What was dropped, or was not in a backup of a part, is named, and the report goes on."""
    cluster.sql(database, f"DROP {kind} eventstore.{name}")
    report = checked(cluster, database)
    assert report.problems == [f"objects: the {kind.lower()} eventstore.{name} is missing: put a backup back"]
    assert "Space" in report.facts


def test_lists_of_objects_are_those_of_the_schema(cluster: Cluster, database: str) -> None:
    """A migration that adds a table or a function adds it to the lists, too."""
    report = checked(cluster, database)
    assert {table.name for table in report.tables} == check_schema.TABLES
    found = cluster.sql(
        database, "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'eventstore'::regnamespace"
    )
    assert set(found.split()) == check_schema.FUNCTIONS


async def test_column_that_is_missing(cluster: Cluster, database: str) -> None:
    """A check that cannot run is a problem, and the others run."""
    cluster.sql(database, "ALTER TABLE eventstore.altered_ranges RENAME COLUMN first TO begin")
    report = checked(cluster, database)
    assert any(problem.startswith("altered: not checked: column") for problem in report.problems)
    assert report.tables


def test_check_that_is_cut_off(cluster: Cluster, database: str) -> None:
    """What was found is shown when PostgreSQL ends the connection, as a standby does for its primary."""

    def cut(title: str, *_: int) -> None:
        if title == "nodes":
            cluster.sql("postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity {where}")

    where = f"WHERE datname = '{database}'"
    report = check(cluster.url(database), "full", cut)
    assert any(note.startswith("nodes: not checked, nor what comes after: ") for note in report.notes)
    assert "Log" in report.facts and not report.tables


def test_each_limit_has_its_own_count(cluster: Cluster, database: str) -> None:
    """The limit of a role is compared with its own connections, and not with all of the server."""
    cluster.sql(
        database,
        "CREATE ROLE few LOGIN CONNECTION LIMIT 8",
        "GRANT USAGE ON SCHEMA eventstore TO few",
    )
    url = cluster.url(database)
    with psycopg.connect(url), psycopg.connect(url), psycopg.connect(url.replace("tests@", "few@")):
        report = check(url.replace("tests@", "few@"), "full")
        assert report.facts["Connections"] == "2 of 8 are in use; each server takes 6"
        assert not any("connections are left" in note for note in report.notes)


async def test_changes_by_others_are_notes(cluster: Cluster, database: str) -> None:
    await fill(cluster, database)
    cluster.sql(database, 'DELETE FROM eventstore.events WHERE "offset" = 2')
    report = checked(cluster, database)
    assert not report.problems
    assert any(note.startswith("event 2 changed or lost") for note in report.notes)


def test_settings_that_break_promises(cluster: Cluster) -> None:
    database = cluster.new_database()
    report = checked(cluster, database)
    assert not report.problems and any("no log yet" in note for note in report.notes)
    cluster.sql(
        "postgres",
        f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'",
        f"ALTER DATABASE {database} SET idle_session_timeout = '1h'",
    )
    found = notes_and_problems(checked(cluster, database))
    assert "default_transaction_isolation is 'serializable'; 'read committed' is needed" in found
    assert "idle_session_timeout is 60 min" in found
    cluster.sql("postgres", f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    report = check(cluster.url(database) + "&target_session_attrs=any", "full")
    assert "settings: default_transaction_read_only is on: no server can write" in report.problems


def test_without_fsync_only_normal_is_sound() -> None:
    """``synchronous = "full"`` promises to survive a loss of power, which fsync = off breaks."""
    cluster = shared_cluster()  # it does not flush
    (problem,) = checked(cluster, "migrated").problems
    assert "fsync = off" in problem and 'synchronous = "normal"' in problem
    report = checked(cluster, "migrated", "normal")
    assert not report.problems and any("fsync = off" in note for note in report.notes)


def test_missing_standby_is_a_problem(cluster: Cluster, database: str) -> None:
    """Emits wait for a synchronous standby that is not there; the check does not."""
    change = "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (one, two)'"
    reload = "SELECT pg_reload_conf()"
    try:
        cluster.sql("postgres", change, reload)
        cluster.until(
            "postgres", "SELECT 'set' WHERE current_setting('synchronous_standby_names') LIKE 'ANY%'"
        )
        report = checked(cluster, database)
    finally:
        cluster.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names", reload)
        cluster.until("postgres", "SELECT 'unset' WHERE current_setting('synchronous_standby_names') = ''")
    (problem,) = report.problems
    assert problem == "standbys: synchronous_standby_names needs 1, and 0 are connected: emits wait"


def test_what_keeps_deleted_rows(cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long snapshot, a prepared transaction and a slot without a reader are named, with the remedy."""
    monkeypatch.setattr(check_server, "LONG_SECONDS", 0.0)
    url = cluster.url(database)
    cluster.sql(
        database,
        "BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'forgotten'",
        "SELECT pg_create_physical_replication_slot('unread', true)",
    )
    with psycopg.connect(url, application_name="report") as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        report, pid = checked(cluster, database), other.info.backend_pid
    cluster.sql(database, "ROLLBACK PREPARED 'forgotten'", "SELECT pg_drop_replication_slot('unread')")
    found = notes_and_problems(report)
    assert f"process {pid} of report is open" in found and not report.problems
    assert "'forgotten'" in found and "'unread'" in found, found


def test_held_lock_is_a_problem(cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has the lock of the log for long is named."""
    monkeypatch.setattr(check_log, "LOCK_SECONDS", 0.0)
    url, lock = cluster.url(database), "SELECT pg_advisory_xact_lock(hashtextextended('eventstore', 0))"
    with (
        psycopg.connect(url) as holder,
        psycopg.connect(url) as waiting,
    ):
        holder.execute(lock)
        waiting.pgconn.send_query(lock.encode())
        cluster.until(
            database, "SELECT 'waits' FROM pg_locks WHERE locktype = 'advisory' AND waitstart IS NOT NULL"
        )
        (problem,) = checked(cluster, database).problems
        assert f"SELECT pg_terminate_backend({holder.info.backend_pid})" in problem
        waiting.pgconn.finish()


def test_rights_that_are_missing(cluster: Cluster, database: str) -> None:
    cluster.sql(
        database,
        "CREATE ROLE stranger LOGIN",
        "CREATE ROLE reader LOGIN",
        "GRANT USAGE ON SCHEMA eventstore TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA eventstore TO reader",
    )
    url = cluster.url(database)
    (problem,) = check(url.replace("tests@", "stranger@"), "full").problems
    assert problem == "schema: the role stranger may not use the schema eventstore of tests"
    (problem,) = check(url.replace("tests@", "reader@"), "full").problems
    assert problem.startswith("rights: the role may not read, write or call altered_ranges, answers")


def test_another_schema(cluster: Cluster, database: str) -> None:
    """An older schema is a note, a newer one too; but not a format that this program does not read."""
    cluster.sql(database, "UPDATE eventstore.alembic_version SET version_num = '0001'")
    report = checked(cluster, database)
    assert "migrate brings it up to date" in report.notes[0] and not report.problems and not report.tables
    cluster.sql(database, "UPDATE eventstore.alembic_version SET version_num = '9999'")
    report = checked(cluster, database)
    assert "the newer revision 9999" in report.notes[0] and not report.problems and report.tables
    cluster.sql(database, "UPDATE eventstore.log_state SET min_reader = 2")
    assert checked(cluster, database).problems == [
        "format: the log has format 2, and this program knows 1: upgrade it"
    ]


def test_dead_notifications_are_a_note(cluster: Cluster, database: str) -> None:
    """Behind PgBouncer in transaction mode LISTEN is silently dead, and everything else works."""
    with pgbouncer(cluster) as folder:
        report = check(f"postgresql://tests@/{database}?host={folder}&port=6432", "full")
    assert report.figures["notifications_arrive"] is False and report.figures["is_pooled"] is True
    assert not report.problems and any("PgBouncer" in note for note in report.notes)


def test_unreachable_database_is_one_line(cluster: Cluster) -> None:
    """Without a connection the exit code is 2, and no password is shown."""
    done = command(cluster.url("nothing").replace("tests@", "tests:secret@"))
    assert done.exit_code == 2 and "secret" not in done.output
    assert f"nothing on {cluster.folder}: " in done.output and done.output.count("\n") == 1
    with pytest.raises(StoreNotUsable):
        check("postgresql://%", "full")


def test_standby_is_no_store(cluster: Cluster, database: str) -> None:
    """A standby can be checked before its promotion: it says how old its last change is."""
    standby = cluster.standby()
    try:
        standby.start(fsync="on", max_prepared_transactions="2")
        standby.until_caught_up_with(cluster)
        url = standby.url(database) + "&target_session_attrs=any"
        report = check(url, "full")
        (problem,) = report.problems
        assert "this is a standby" in problem and report.tables
        primary = checked(cluster, database)
        assert "1 asynchronous" in primary.facts["Standbys"]
        assert "what no standby has" in primary.losses["The machine of PostgreSQL is lost"]
    finally:
        standby.remove()
