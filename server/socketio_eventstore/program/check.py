"""The check of a configuration beside a running server. The check writes nothing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import StoreError
from socketio_eventlog.opening import check_database
from socketio_eventlog.sqlite.files import SUFFIXES, check_links
from socketio_eventlog.sqlite.schema import check_sqlite_version
from socketio_eventstore.program.config import Config, StoreSettings
from socketio_eventstore.program.errors import StartError

LIKELY_MILLISECONDS: Final = {
    ("server", "ping_interval"): 1000.0,
    ("server", "ping_timeout"): 1000.0,
    ("server", "connect_timeout"): 1000.0,
    ("server", "shutdown_grace"): 1000.0,
    ("server", "drain"): 10_000.0,
    ("store", "prune_interval"): 3600.0,
    ("store", "retention"): 31_536_000.0,
}
"""Durations from which on a number of seconds is likely a number of milliseconds."""
NO_FILE_SYSTEMS: Final = frozenset(
    {
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "mqueue",
        "nsfs",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    }
)
"""File systems of Linux without new files, or without files that survive a restart of the machine.

The permissions of such folders do not show this to root.
"""
LONGEST_SUFFIX: Final = max(SUFFIXES, key=len)
REFERENCE_DISCONNECTION_DURATION: Final = 120_000.0
"""The reference's default, in milliseconds; as seconds the value would be possible, but unlikely."""


def check_durations(config: Config) -> Iterator[str]:
    """Return one line for each duration probably given in milliseconds."""
    for (table, key), limit in LIKELY_MILLISECONDS.items():
        seconds = float(getattr(getattr(config, table), key))
        if seconds >= limit:
            yield _milliseconds(table, key, seconds)
    recovery = config.connection_state_recovery
    if recovery is not None and recovery.max_disconnection_duration == REFERENCE_DISCONNECTION_DURATION:
        key = "max_disconnection_duration"
        yield _milliseconds("connection_state_recovery", key, recovery.max_disconnection_duration)


def _milliseconds(table: str, key: str, seconds: float) -> str:
    return (
        f"[{table}] {key} = {seconds:.12g} is {seconds / 3600:.1f} hours; "
        f"durations are in seconds: {seconds / 1000:g}?"
    )


def check_store(store: StoreSettings) -> Iterator[str]:
    """Return one line for each obstacle to the use of the store."""
    path = store.path
    try:
        if store.url:
            check_database(store.url)
            return
        check_sqlite_version()
    except StoreError as error:
        yield str(error)
    try:
        yield from _check_file(path)
    except OSError as error:
        yield f"cannot use the store {path}: {error.strerror}"


def _check_file(path: Path) -> Iterator[str]:
    try:
        check_links(path)
    except StoreError as error:
        yield str(error)
        return
    target = path.resolve()  # SQLite puts the side files beside the target of a symbolic link
    folder = next(parent for parent in target.parents if parent.exists())
    if not folder.is_dir():
        yield f"cannot create {path}: {folder} is not a folder"
        return
    kind = file_system_of(folder)
    if kind in NO_FILE_SYSTEMS:
        yield f"cannot use the store {path}: {folder} is on {kind}, which keeps no files"
        return
    if target.is_dir():
        yield f"{path} is a folder; the path of a file is needed"
    elif target.exists() and not target.is_file():
        yield f"{path} is not a file, but a device, a pipe or a socket"
        return
    elif target.exists():
        with target.open("r+b") as file:
            header = file.read(16)
        if header and header != b"SQLite format 3\0":
            yield f"{path} is not a SQLite database"
    longest = _longest_name(folder)
    if any(len(os.fsencode(name)) > longest for name in _names_to_be(target, folder)):
        yield f"cannot create {path}: a name in it is too long, with {LONGEST_SUFFIX} at its end"
    if not _is_writable(folder):  # SQLite creates files beside the database, too
        yield f"cannot use the store {path}: the folder {folder} is not writable"


def _names_to_be(target: Path, folder: Path) -> Iterator[str]:
    """The names of the server's future files and folders in a folder."""
    yield from target.relative_to(folder).parts[:-1]
    yield from (target.name + suffix for suffix in SUFFIXES)


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, ValueError, OSError):  # Windows, or a file system without the information
        return 255


def file_system_of(folder: Path) -> str:
    """Return the kind of a folder's file system; an empty text if unknown, as on macOS."""
    number = folder.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for fields, _, source in (line.partition(" - ") for line in mounts):  # proc(5)
        if fields.split(maxsplit=3)[2] == device:
            return source.split(maxsplit=1)[0]
    return ""


def _is_writable(folder: Path) -> bool:
    """Whether a file can be created in a folder. Creates only an unnamed file."""
    flag = getattr(os, "O_TMPFILE", None)  # Linux only
    if flag is not None:
        try:
            os.close(os.open(folder, flag | os.O_RDWR, 0o600))
        except OSError as error:
            # Some file systems have no files without names.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                return False
        else:
            return True
    return os.access(folder, os.W_OK | os.X_OK)


def write_no_bytecode() -> None:
    """Keep Python from writing the compiled form of the handlers' module."""
    sys.dont_write_bytecode = True


def raise_for(problems: list[str]) -> None:
    """Raise StartError with all problems, if there are any."""
    if problems:
        raise StartError("\n".join(problems))
