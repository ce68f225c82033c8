"""The command ``verify``: a scratch folder, a run with a progress bar, and the report."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from socketio_eventstore.verify.plan import Settings, make_plan
from socketio_eventstore.verify.postgres_store import remove_log
from socketio_eventstore.verify.process import SERVE
from socketio_eventstore.verify.report import report
from socketio_eventstore.verify.runner import Outcome, run

BROKEN = 1
"""The exit code after a broken promise."""


def verify(
    settings: Settings, *, keep: bool, command: Sequence[str] = SERVE, database: str = "", standby: str = ""
) -> int:
    """Run, print the report, and return the exit code. Raises CannotRun.

    ``command`` starts a server. ``database`` is the URL of a PostgreSQL database without a log; "" is a file.
    ``standby`` is that of its synchronous standby, which a promotion needs.
    The scratch folder and the log in PostgreSQL are removed, except with ``keep`` and after a broken promise.
    """
    folder = Path(tempfile.mkdtemp(prefix="socketio-eventstore-verify-"))
    try:
        outcome = _run(settings, folder, command, database, standby)
        keep = keep or not outcome.verdict.kept
        click.echo(report(settings, outcome))
    finally:
        if keep:
            click.echo(f"Store and server log: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if database and not keep:
        for url in filter(None, (database, standby)):
            remove_log(url)
    return 0 if outcome.verdict.kept else BROKEN


def _run(settings: Settings, folder: Path, command: Sequence[str], database: str, standby: str) -> Outcome:
    plan = make_plan(settings)
    label = f"{settings.cuts} cuts, {settings.kills} kills"
    with click.progressbar(iterable=plan.steps, label=label, file=sys.stderr) as bar:

        def progress() -> None:
            bar.update(1)

        return asyncio.run(run(plan, folder, progress, command, database, standby))
