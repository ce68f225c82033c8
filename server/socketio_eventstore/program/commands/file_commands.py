"""The commands about the database as a file: ``backup``, ``restore``, ``check-store``.

The commands need no server, and open the file themselves.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from socketio_eventstore.program.command_config import config_option, load_config
from socketio_eventstore.program.command_error import CommandError
from socketio_eventstore.program.commands import check_output, database_check
from socketio_eventstore.program.commands.connection import control_of, file_of, is_served
from socketio_eventstore.program.commands.progress import bars
from socketio_eventstore.program.commands.tables import bytes_text

if TYPE_CHECKING:
    from socketio_eventlog.sqlite.check import Report

FILE = click.Path(path_type=Path, dir_okay=False)
database_option = click.option(
    "--database", type=FILE, metavar="FILE", help="A database, instead of that of the configuration."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
_BACKUP = (
    "pg_dump --format=custom --schema=eventstore --file={file} {database} makes a backup while servers run"
)
_RESTORE = (
    "stop all servers, rename the schema eventstore, then pg_restore --exit-on-error --single-transaction "
    "--dbname={database} {file}; the next start tells clients from beyond the backup the truth"
)
UNSOUND = 1
"""The exit code of ``check-store`` for a store with problems."""


def add_to(commands: click.Group) -> None:
    """Add the commands of the module."""
    for command in (backup, restore, check_store):
        commands.add_command(command)


@click.command()
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--no-check", "is_unchecked", is_flag=True, help="Copy a damaged database as it is.")
@database_option
@config_option
@json_option
def backup(
    file: Path, force: bool, is_unchecked: bool, database: Path | None, path: Path | None, as_json: bool
) -> None:
    """Copy the database into FILE.

    The server may run meanwhile. The copy shows the log at one moment. The copy gets its name after the
    checks, on disk; the mode is 0600.
    """
    from socketio_eventlog.sqlite.backup import back_up

    source = database or file_of(load_config(path), _BACKUP, file)
    with _errors(source), bars() as shown:
        report = back_up(
            source,
            file,
            replaces=force,
            is_checked=not is_unchecked,
            on_copied=shown.copied,
            on_step=shown.checked,
        )
    size = file.stat().st_size
    if as_json:
        head = {} if report is None else {"head": report.head}
        click.echo(json.dumps({"file": str(file), "bytes": size, "is_checked": report is not None, **head}))
        return
    checked = "not checked" if report is None else f"checked, up to event {report.head}"
    click.echo(f"{file} is a backup of {source}: {bytes_text(size)}, {checked}")
    check_output.show_notes(() if report is None else report.notes)


@click.command()
@click.argument("file", type=FILE)
@database_option
@config_option
@json_option
def restore(file: Path, database: Path | None, path: Path | None, as_json: bool) -> None:
    """Put the backup FILE in the place of the database. The server must be stopped.

    The copy is checked first. Clients with events from after the backup get a new session.
    """
    from socketio_eventlog.options import DEFAULT_FILE_MODE
    from socketio_eventlog.sqlite import restore as restoring

    mode = DEFAULT_FILE_MODE
    if database is None:
        config = load_config(path)
        database, mode = file_of(config, _RESTORE, file), config.store.file_mode
    if is_served(control_of(database)):
        raise CommandError(f"a server runs on {database}; stop it first")
    with _errors(file), bars() as shown:
        done = restoring.restore(
            file, database, file_mode=mode, on_copied=shown.copied, on_step=shown.checked
        )
    if as_json:
        replaced = None if done.replaced is None else str(done.replaced)
        click.echo(json.dumps({"database": str(database), "head": done.report.head, "replaced": replaced}))
        return
    click.echo(f"{database} has the state of {file}, up to event {done.report.head}")
    if done.replaced is not None:
        click.echo(f"The former database is {done.replaced}, until the next restore; delete it to save space")
    check_output.show_notes(done.report.notes)


@click.command()
@click.argument("place", required=False, metavar="[FILE|URL]")
@config_option
@json_option
def check_store(place: str | None, path: Path | None, as_json: bool) -> None:
    """Check the database, or a backup.

    Without an argument, the database of the configuration is checked, also while servers run. FILE is another
    database, such as a backup; URL begins with postgresql://. In a file, the command checks the pages, the
    schema, and the promises of the log. In PostgreSQL also the server: settings, standbys, clocks, old
    transactions, rights, and the servers on the log. The exit code is 1 for a problem.
    """
    from socketio_eventlog.opening import is_url

    if place is not None and not is_url(place):
        is_sound = _check_file(Path(place), is_named=True, as_json=as_json)
    else:
        config = None if place is not None else load_config(path)
        if config is not None and not config.store.url:
            is_sound = _check_file(config.store.path, is_named=False, as_json=as_json)
        else:
            is_sound = database_check.check(place, config, as_json=as_json)
    if not is_sound:
        click.get_current_context().exit(UNSOUND)


def _check_file(database: Path, *, is_named: bool, as_json: bool) -> bool:
    """Check a file, show the result, and return whether there is no problem."""
    from socketio_eventlog.sqlite import check, copies

    opened = copies.snapshot_or_copy(database) if is_named else copies.snapshot(database)
    with _errors(database), bars() as shown, opened as connection:
        report = check.check(connection, shown.checked)
    if as_json:
        result = check_output.as_json(str(database), report) | {"unused_bytes": report.unused_bytes}
        click.echo(json.dumps(result))
    else:
        _show_report(database, report)
    return report.is_sound


def _show_report(database: Path, report: Report) -> None:
    check_output.show_tables(report.tables)
    if report.tables:
        click.echo(f"{bytes_text(report.unused_bytes)} of the file are free for new events")
        click.echo(f"The log ends at event {report.head}, and is pruned up to {report.pruned_through}")
    check_output.show_findings(str(database), report)


def back_up_before_migration(database: Path) -> Path | None:
    """Back up a database with an older schema, beside the database; None if no migration is needed."""
    from socketio_eventlog.sqlite import copies
    from socketio_eventlog.sqlite.backup import back_up
    from socketio_eventlog.sqlite.schema import HEAD_REVISION, revision_of

    if not database.exists() or not database.stat().st_size:
        return None
    with _errors(database), bars() as shown:
        with copies.snapshot(database) as connection:
            revision = revision_of(connection)
        if revision is None or revision >= HEAD_REVISION:  # migrate refuses a newer revision
            return None
        target = database.with_name(f"{database.name}-{revision}")
        back_up(database, target, replaces=True, on_copied=shown.copied, on_step=shown.checked)
    return target


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Turn an error of the store into one line with the name of the file."""
    from socketio_eventlog.errors import StoreError

    try:
        yield
    except StoreError as error:
        raise CommandError(str(error)) from error
    except (OSError, sqlite3.Error) as error:
        raise CommandError(f"{file} cannot be read: {error}") from error
