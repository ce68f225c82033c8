"""A backup of a database: a copy of one snapshot, checked before the copy gets the final name. Blocking.

The backup runs in a process of its own, as a reader beside the server. So the backup uses neither the
server's event loop, nor the writer, nor the interpreter lock.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

from socketio_eventlog.errors import NothingChanged
from socketio_eventlog.sqlite import check, copies
from socketio_eventlog.sqlite.check import OnStep, Report
from socketio_eventlog.sqlite.copies import OnCopied
from socketio_eventlog.sqlite.files import SUFFIXES


def back_up(
    database: Path,
    target: Path,
    *,
    replaces: bool = False,
    is_checked: bool = True,
    on_copied: OnCopied = lambda *_: None,
    on_step: OnStep = lambda *_: None,
) -> Report | None:
    """Copy a database into a new file with the mode 0600; return the report of the checks.

    Without ``is_checked`` nothing is checked, which allows the copy of a damaged database.

    The copy gets the final name when complete, sound and durable: a kill leaves a file ``NAME.….part``. With
    ``replaces`` an existing file is replaced. Raises NothingChanged.
    """
    _refuse_own_files(database, target)
    if not replaces and (target.exists() or target.is_symlink()):
        raise NothingChanged(f"{target} exists; --force replaces it.")
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with copies.snapshot(database) as source:
            copies.copy_pages(source, part, on_copied)
        report = checked(part, on_step) if is_checked else None
        _publish(part, target, replaces=replaces)
    except (OSError, sqlite3.Error) as error:
        raise NothingChanged(f"{database} cannot be copied to {target}: {error}.") from error
    finally:
        copies.delete(part)
    return report


def checked(copy: Path, on_step: OnStep) -> Report:
    """Check a copy; return the report. Raises NothingChanged for an unsound copy."""
    with copies.opened_copy(copy) as connection:
        report = check.check(connection, on_step)
    if not report.is_sound:
        raise NothingChanged(
            f"The copy is not sound, as check-store would say: {'; '.join(report.problems[:3])}."
        )
    return report


def _refuse_own_files(database: Path, target: Path) -> None:
    database = database.resolve()
    own = {database.with_name(database.name + suffix) for suffix in (*SUFFIXES, "-journal", "-api")}
    if not target.absolute().parent.is_dir():
        raise NothingChanged(f"There is no folder {target.parent}.")
    if target.is_dir():
        raise NothingChanged(f"{target} is a folder; the path of a file is needed.")
    if target.exists() and not target.is_file():
        raise NothingChanged(f"{target} is no regular file.")
    is_same = target.exists() and database.exists() and target.samefile(database)
    if is_same or target.resolve() in own:
        raise NothingChanged(f"{target} is a file of the database itself.")


def _publish(part: Path, target: Path, *, replaces: bool) -> None:
    """Give a complete copy the final name, durably."""
    if replaces:
        part.replace(target)
    else:
        try:
            os.link(part, target)  # unlike a rename, a link never replaces a new file
        except FileExistsError:
            raise NothingChanged(f"{target} exists; --force replaces it.") from None
        except OSError:  # a file system without hard links
            if target.exists():
                raise
            part.rename(target)
    copies.sync(target.absolute().parent)
