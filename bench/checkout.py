"""A checkout of this project, of this commit or of another, and how its server is started."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = ("server", "store", "migrations")


@dataclass(frozen=True, slots=True)
class Checkout:
    """One checkout; it need not be installed."""

    folder: Path

    @property
    def interpreter(self) -> str:
        """The Python of its own environment, or the one that runs here."""
        own = self.folder / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    @property
    def _is_linked(self) -> bool:
        """The top-level folders were once the packages, under ``socketio_eventstore`` by links."""
        return (self.folder / "server" / "__main__.py").exists()

    def command(self, config: Path) -> list[str]:
        """The command line that serves a config file."""
        program = "socketio_eventstore.server" if self._is_linked else "socketio_eventstore"
        return [self.interpreter, "-m", program, "serve", "--config", str(config)]

    def import_paths(self, scratch: Path) -> list[Path]:
        """The folders to import from; ``scratch`` is a folder for links."""
        if not self._is_linked:
            return [self.folder / name for name in _FOLDERS]
        links = scratch / "socketio_eventstore"
        links.mkdir(parents=True, exist_ok=True)
        # Without it an installed package of the same name comes first, wherever it is in the path.
        (links / "__init__.py").touch()
        for name in _FOLDERS:
            if not (links / name).exists():
                (links / name).symlink_to(self.folder / name)
        return [scratch]
