"""The errors of the program. ``cli`` prints the text of an error and exits with code 2."""

from __future__ import annotations


class StartError(Exception):
    """The server cannot start. The text is one line for the person at the terminal."""


class DatabaseInUse(StartError):
    """A server has the database."""


class PortInUse(StartError):
    """Another program listens on the port."""


class HandlersError(StartError):
    """The module of handlers cannot be used."""
