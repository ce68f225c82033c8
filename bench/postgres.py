"""A PostgreSQL server of Debian's package, with the default settings, which flush each commit."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MISSING: Final = "There is no PostgreSQL here: rows that compare with it are missing."
_FOLDER: Final = Path("/usr/lib/postgresql")
_NAME: Final = "bench"


def programs() -> Path | None:
    """Return the folder of the newest version's programs."""
    found = sorted(_FOLDER.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def prepare(folder: Path) -> None:
    """Make a cluster in a new folder."""
    folder.mkdir()
    drop, user = _unprivileged()
    shutil.chown(folder, user)
    for parent in (folder.parent, folder.parent.parent):  # made by the benchmark, for another user
        parent.chmod(parent.stat().st_mode | 0o011)
    options = ("-A", "trust", "-U", _NAME, "-E", "UTF8")
    command = [*drop, _program("initdb"), "-D", str(folder / "data"), *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={"LC_ALL": "C"})


def command(folder: Path, port: int) -> Sequence[str]:
    """Return the command for the cluster's server."""
    drop, _ = _unprivileged()
    where = ("-D", str(folder / "data"), "-k", str(folder), "-h", "127.0.0.1", "-p", str(port))
    return [*drop, _program("postgres"), *where]


def url(port: int) -> str:
    """Return the URL of the database."""
    return f"postgresql://{_NAME}@127.0.0.1:{port}/postgres"


def _program(name: str) -> str:
    folder = programs()
    assert folder is not None, "asked for before"
    return str(folder / name)


def _unprivileged() -> tuple[Sequence[str], str]:
    """Return the prefix of a command for an unprivileged user, and the user."""
    if os.geteuid():
        return (), pwd.getpwuid(os.geteuid()).pw_name
    user = pwd.getpwnam("postgres")
    drop = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
    return drop, user.pw_name
