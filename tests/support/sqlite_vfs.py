"""Records SQLite's writes and syncs, for ``disk_recorder``.

SQLite accesses files through a table of functions, the VFS (https://sqlite.org/vfs.html). The recorder makes
a copy of the table the default for a while. The copy records writes, truncations, syncs, creations and
deletions before the calls to the real functions: no privileges, no compiler and no other program is needed,
and the recording shows the real store. SQLite's own crash tests work in the same way.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from support.disk_recorder import Record, Recording, Synced, Truncated, Written

# Paths are pointers: SQLite keeps the pointers, and Python would free a copy of the text.
_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_CLOSE = ctypes.CFUNCTYPE(c_int, c_void_p)
_WRITE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)


class _Methods(Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = [
        ("iVersion", c_int),
        ("xClose", _CLOSE),
        ("xRead", c_void_p),
        ("xWrite", _WRITE),
        ("xTruncate", _TRUNCATE),
        ("xSync", _SYNC),
        ("others", c_void_p * 13),
    ]


class _File(Structure):
    """sqlite3_file; the private data of the VFS follows in memory."""

    _fields_ = [("pMethods", POINTER(_Methods))]


class _Vfs(Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        ("others", c_void_p * 14),
    ]


def why_not() -> str | None:
    """The reason why no recording is possible with this Python; None if recording is possible."""
    try:
        assert ctypes.CDLL(_sqlite3.__file__).sqlite3_vfs_find is not None
    except (AttributeError, OSError, TypeError) as error:
        return f"this Python's SQLite gives no access to its VFS: {error}"
    return None


@contextmanager
def recording(folder: Path) -> Iterator[Recording]:
    """Record the access of all new connections to the files in a folder."""
    shim = _Shim(Recording(folder))
    shim.register()
    try:
        yield shim.recording
    finally:
        shim.unregister()


class _Shim:
    """The copy of the default VFS; the copy must outlive every connection."""

    _kept: list[_Shim] = []  # noqa: RUF012 -- SQLite keeps pointers into the copies

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._kept.append(self)
        self._library = ctypes.CDLL(_sqlite3.__file__)
        self._library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._default = self._library.sqlite3_vfs_find(None)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._default, ctypes.sizeof(_Vfs))
        self._vfs.zName = f"recorder{len(self._kept)}".encode()
        self._vfs.xOpen = _OPEN(self._open)
        self._vfs.xDelete = _DELETE(self._delete)
        self._tables: dict[int, _Methods] = {}
        self._numbers: dict[int, int] = {}
        self._real: dict[int, Any] = {}

    def register(self) -> None:
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == 0

    def unregister(self) -> None:
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs)) == 0
        assert self._library.sqlite3_vfs_register(self._default, 1) == 0

    def _name(self, path: int | None) -> str | None:
        if path is None:
            return None
        found = Path(os.fsdecode(ctypes.string_at(path)))
        return found.name if found.parent == self.recording.folder.resolve() else None

    def _open(self, vfs: int, path: int | None, file: int, flags: int, out: Any) -> int:
        code: int = self._default.contents.xOpen(vfs, path, file, flags, out)
        name = self._name(path)
        handle = ctypes.cast(file, POINTER(_File)).contents
        if code == 0 and name is not None and handle.pMethods:
            self._numbers[file] = self.recording.opened(name)
            real = handle.pMethods.contents
            self._real[file] = real
            handle.pMethods = ctypes.pointer(self._table_for(real))
        return code

    def _table_for(self, real: _Methods) -> _Methods:
        address = ctypes.addressof(real)
        if address not in self._tables:
            table = _Methods()
            ctypes.memmove(ctypes.byref(table), ctypes.byref(real), ctypes.sizeof(_Methods))
            table.xClose = _CLOSE(self._close)
            table.xWrite = _WRITE(self._write)
            table.xTruncate = _TRUNCATE(self._truncate)
            table.xSync = _SYNC(self._sync)
            self._tables[address] = table
        return self._tables[address]

    def _note(self, file: int, code: int, record: Callable[[int], Record]) -> int:
        if code == 0:
            self.recording.records.append(record(self._numbers[file]))
        return code

    def _write(self, file: int, content: int, size: int, start: int) -> int:
        written = ctypes.string_at(content, size)
        code = self._real[file].xWrite(file, content, size, start)
        return self._note(file, code, lambda number: Written(number, start, written))

    def _truncate(self, file: int, size: int) -> int:
        code = self._real[file].xTruncate(file, size)
        return self._note(file, code, lambda number: Truncated(number, size))

    def _sync(self, file: int, flags: int) -> int:
        return self._note(file, self._real[file].xSync(file, flags), Synced)

    def _close(self, file: int) -> int:
        del self._numbers[file]
        code: int = self._real.pop(file).xClose(file)
        return code

    def _delete(self, vfs: int, path: int, sync: int) -> int:
        code: int = self._default.contents.xDelete(vfs, path, sync)
        if code == 0 and (name := self._name(path)) is not None:
            self.recording.deleted(name)
        return code
