"""The files of a database: created and kept with the configured mode."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from socketio_eventlog.errors import StoreNotUsable

logger = logging.getLogger(__name__)

SUFFIXES: Final = ("", "-wal", "-shm", "-lock", "-reserve")
"""The names of the files begin with the name of the database."""


def check_links(path: Path) -> None:
    """Raise StoreNotUsable for symbolic links in a circle, or in the place of a side file."""
    try:
        path.resolve()
        path.stat()
    except RuntimeError:  # Python before 3.13
        pass
    except OSError as error:
        if error.errno != errno.ELOOP:
            return  # the opening of the file names the error
    else:
        check_side_files(path)
        return
    raise StoreNotUsable(f"The symbolic links of {path} lead in a circle.")


def check_side_files(path: Path) -> None:
    """Raise StoreNotUsable for a file beside the database that is a symbolic link, or no file.

    SQLite follows no link to a WAL. The server would change the mode of the target, or its content.
    """
    path = path.resolve()
    for file in (path.with_name(path.name + suffix) for suffix in SUFFIXES if suffix):
        with suppress(OSError):  # mostly there is none
            if not stat.S_ISREG(file.lstat().st_mode):
                raise StoreNotUsable(f"{file} is not a file, but a link, a folder or a device: remove it.")


def create(path: Path, mode: int) -> None:
    """Create an empty file with a mode; SQLite gives the -wal and -shm the same mode."""
    path = path.resolve()  # a symbolic link may lead to an absent file
    if path.is_dir():
        raise StoreNotUsable(f"{path} is a directory; the path of a file is needed.")
    if path.exists() and not path.is_file():
        raise StoreNotUsable(f"{path} is not a file, but a device, a pipe or a socket.")
    check_side_files(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    except FileExistsError:
        if not os.access(path, os.W_OK):
            # SQLite would open the file nevertheless, and leave a read-only -wal and a read-only -shm.
            raise StoreNotUsable(f"{path} is read-only.") from None
        return
    os.close(handle)
    if mode != 0o600:
        path.chmod(mode)  # os.open would apply the umask
    # A power cut after the first commit must not take the directory entries of the file and its folders.
    for folder in (path.parent, *(new.parent for new in missing)):
        _sync_folder(folder)


def narrow(path: Path, mode: int) -> None:
    """Take rights beyond ``mode`` from the files, for example from a restored backup."""
    path = path.resolve()  # SQLite puts the WAL beside the target of a symbolic link
    for file in (path.with_name(path.name + suffix) for suffix in SUFFIXES):
        try:
            present = stat.S_IMODE(file.stat().st_mode)
        except FileNotFoundError:
            continue
        if not present & ~mode:
            continue
        try:
            file.chmod(present & mode)
            logger.warning("%s had the mode %04o, and has %04o now.", file, present, present & mode)
        except PermissionError:
            logger.warning(
                "%s has the mode %04o, beyond file_mode; only its owner can change that.", file, present
            )


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder can be writable and unreadable
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
