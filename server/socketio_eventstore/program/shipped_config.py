"""The commented config file: a link to ``config.toml`` of the repository, and a file in the wheel."""

from __future__ import annotations

from importlib.resources import files


def shipped_config() -> str:
    """Return the text of the config file with every key, its default and its meaning."""
    return (files("socketio_eventstore.program") / "config.toml").read_text(encoding="utf-8")
