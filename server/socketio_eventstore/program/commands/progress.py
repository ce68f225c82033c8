"""Progress bars on a terminal, for long commands; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bars:
    """The bars of a command, one below the other, on the error output."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def copied(self, done: int, total: int) -> None:
        """Show how many pages are copied."""
        self._show("copy", "copy", done, total)

    def checked(self, title: str, done: int, total: int) -> None:
        """Show which check runs."""
        self._show("check", f"check {title}".rstrip(), done, total)

    def _show(self, key: str, text: str, done: int, total: int) -> None:
        if self._progress is None:
            return
        if key not in self._bars:
            self._bars[key] = self._progress.add_task(text, total=total)
        self._progress.update(self._bars[key], description=text, completed=done, total=total)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars on a terminal, until the end of the block; then remove the bars."""
    if not sys.stderr.isatty():
        yield Bars(None)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield Bars(progress)
