"""Disks of some megabytes, mounted for a test: ext4 on a loop device, and tmpfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Final, Literal, NoReturn

import pytest

Kind = Literal["ext4", "tmpfs"]
KINDS: Final[tuple[Kind, ...]] = ("ext4", "tmpfs")

BLOCK_BYTES: Final = 4096
"""The blocks of every larger disk."""


@contextmanager
def small_disk(folder: Path, kind: Kind, size_bytes: int, block_bytes: int = BLOCK_BYTES) -> Iterator[None]:
    """Mount an empty disk at ``folder``, which must not exist.

    Without the right to mount the test is skipped. In CI a missing mkfs.ext4 fails the test where a tmpfs
    can be mounted.
    """
    folder.mkdir()
    if problem := _mount(folder, kind, size_bytes, block_bytes):
        is_ci = os.environ.get("CI") == "true"
        if is_ci and kind != "tmpfs" and not _mount(folder, "tmpfs", size_bytes, block_bytes):
            _unmount(folder)
            pytest.fail(problem)
        pytest.skip(
            f"a small disk cannot be mounted here (it takes root, and a container may not): {problem}"
        )
    try:
        yield
    finally:
        _unmount(folder)


def fill(file: Path) -> None:
    """Write a file until the disk is full."""
    with file.open("ab", buffering=0) as ballast:
        for size in (65_536, 1):  # the second size fills the last block
            with pytest.raises(OSError, match="No space"):
                _write_until_failure(ballast, bytes(size))


def _write_until_failure(file: RawIOBase, content: bytes) -> NoReturn:
    while True:
        file.write(content)


def _mount(folder: Path, kind: Kind, size_bytes: int, block_bytes: int) -> str | None:
    """Mount a disk; return the reason when that is not possible."""
    if kind == "tmpfs":
        return _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    image = folder.with_name(f"{folder.name}.image")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    return _run("mkfs.ext4", "-q", "-b", str(block_bytes), str(image)) or _run(
        "mount", "-o", "loop", str(image), str(folder)
    )


def _unmount(folder: Path) -> None:
    subprocess.run(("umount", "--lazy", str(folder)), check=True)


def _run(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr or f"{command[0]} failed").strip() if done.returncode else None
