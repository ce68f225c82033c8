"""The module of handlers: the import, and the function ``register(sio)``."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.errors import HandlersError

MOVED_MODULES = {"socketio_eventstore.server.chat": "socketio_eventstore.chat"}
"""Former addresses of the shipped handlers, and the present addresses."""
REMOVED_PACKAGES = (
    "socketio_eventstore.server",
    "socketio_eventstore.store",
    "socketio_eventstore.migrations",
)
"""Packages of earlier versions. A config file may still name a module of such a package."""


def import_handlers(name: str, folder: Path) -> ModuleType:
    """Import the module of handlers, from ``folder`` (the config file's) before other places.

    Raises HandlersError for an absent module, a former address, or a failed import.
    """
    _check_address(name)
    sys.path.insert(0, str(folder))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise HandlersError(
                f"handlers = {name!r}: there is no such module, neither installed nor in {folder}"
            ) from error
        raise _failed(name, error) from error
    except Exception as error:  # a module may raise any exception during the import
        raise _failed(name, error) from error


async def register_handlers(module: ModuleType, sio: AsyncServer, name: str) -> None:
    """Call ``register(sio)`` of the module, and await an awaitable result. Raises HandlersError."""
    register: Callable[[Any], Any] | None = getattr(module, "register", None)
    if not callable(register):
        raise HandlersError(f"handlers = {name!r}: {module.__file__} has no function register(sio)")
    try:
        result = register(sio)
        if inspect.isawaitable(result):
            await result
    except Exception as error:  # a user's function may raise any exception
        raise _failed(name, error) from error


def pages_of(module: ModuleType, name: str, private: Iterable[Path] = ()) -> Path | None:
    """Return the absolute folder ``PAGES`` of the module; None without pages.

    ``PAGES`` is a path or a text. A relative path counts from the folder of the module's file. Everything in
    the folder is public, so it must not contain the ``private`` paths. Raises HandlersError.
    """
    pages = getattr(module, "PAGES", None)
    if pages is None:
        return None
    if not isinstance(pages, str | os.PathLike):
        kind = type(pages).__name__
        raise HandlersError(f"handlers = {name!r}: PAGES must be the path of a folder, not {kind}")
    if not os.fspath(pages):
        raise HandlersError(f"handlers = {name!r}: PAGES is empty; name a folder of its own")
    home = Path(module.__file__ or "").absolute().parent
    try:
        folder = (home / Path(os.fsdecode(pages)).expanduser()).resolve()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise HandlersError(f"handlers = {name!r}: PAGES cannot be used: {error}") from error
    if not is_folder:
        raise HandlersError(f"handlers = {name!r}: PAGES: there is no folder {folder}")
    for path in private:
        if _leads_into(path, folder):
            raise HandlersError(f"handlers = {name!r}: PAGES: {folder} is public, and {path} is in it")
    return folder


def _leads_into(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder, or is named by a symbolic link in the folder: links are served."""
    links = [path.absolute(), *path.absolute().parents]
    places = [path.resolve(), *(link.parent.resolve() / link.name for link in links)]
    return any(place.is_relative_to(folder) for place in places)


def _check_address(name: str) -> None:
    if name in MOVED_MODULES:
        raise HandlersError(
            f"handlers = {name!r}: the address of this module has changed; write {MOVED_MODULES[name]!r}"
        )
    for package in REMOVED_PACKAGES:
        if f"{name}.".startswith(f"{package}."):
            raise HandlersError(
                f"handlers = {name!r}: the address has changed; there is no package {package} any more"
            )


def _failed(name: str, error: Exception) -> HandlersError:
    if isinstance(error, SyntaxError):
        location = f"{error.filename}:{error.lineno}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        location = f"{frames[-1].filename}:{frames[-1].lineno}"
    return HandlersError(f"handlers = {name!r}: {type(error).__name__} at {location}: {error}")
