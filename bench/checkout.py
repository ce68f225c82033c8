"""A checkout of the project, at this or another commit, and the start of its server."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = ("server", "store", "migrations")


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout, installed or not."""

    folder: Path

    @property
    def interpreter(self) -> str:
        """The Python of the checkout's environment, or the running Python."""
        own = self.folder / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    @property
    def _is_linked(self) -> bool:
        """The top-level folders were once the packages, under ``socketio_eventstore`` by links."""
        return (self.folder / "server" / "__main__.py").exists()

    def command(self, config: Path) -> list[str]:
        """The command line to serve a config file."""
        program = "socketio_eventstore.server" if self._is_linked else "socketio_eventstore"
        return [self.interpreter, "-m", program, "serve", "--config", str(config)]

    def import_paths(self, scratch: Path) -> list[Path]:
        """The folders to import from; ``scratch`` is a folder for links."""
        if not self._is_linked:
            return [self.folder / name for name in _FOLDERS]
        links = scratch / "socketio_eventstore"
        links.mkdir(parents=True, exist_ok=True)
        # Without the file an installed package of the same name comes first, at any place in the path.
        (links / "__init__.py").touch()
        for name in _FOLDERS:
            if not (links / name).exists():
                (links / name).symlink_to(self.folder / name)
        return [scratch]
