"""Argument and output of ``session``: a sid, and the HTTP interface's answer about the session."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click

_DASHED_SID: Final = re.compile(r"-[\w-]{19}", re.ASCII)
Columns = Mapping[str, Callable[[Any], str]]

NAMES: Final = (
    *("sid", "namespace", "state", "identity", "joined", "connected_at", "away_seconds", "remaining_seconds"),
    *("missed", "is_missed_complete", "timeline", "is_timeline_complete", "events"),
)
"""The used names of the answer about a session."""
TIMELINE: Final[Columns] = {
    "Time": lambda entry: entry["at"],
    "What happened": lambda entry: entry["text"],
    "Offset": lambda entry: entry["offset"] or "",
}
EVENTS: Final[Columns] = {
    "Time": lambda event: event["emitted_at"],
    "Event": lambda event: event["event"],
    "Rooms": lambda event: "(all)" if event["rooms"] is None else ", ".join(map(str, event["rooms"])),
    "State": lambda event: event["state"],
    "Offset": lambda event: event["offset"],
}


class SidCommand(click.Command):
    """A command with a sid as argument. One sid in 64 begins with a dash, and is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; arguments in the form of a sid come last."""
        sids = [text for text in args if _DASHED_SID.fullmatch(text)]
        others = [text for text in args if text not in sids]
        return super().parse_args(ctx, [*others, "--", *sids] if sids else args)


def sentences(session: Mapping[str, Any]) -> Iterator[str]:
    """Yield the session in words, a line for each sentence."""
    yield f"Session {session['sid']} of the namespace {session['namespace']} is {_state(session)}."
    if session["identity"] is not None:
        yield f"It belongs to {session['identity']}."
    if session["joined"]:
        yield f"Its rooms: {', '.join(map(str, session['joined']))}."
    if session["state"] != "connected":
        at_least = "" if session["is_missed_complete"] else "at least "
        yield f"Events that its client is not known to have: {at_least}{session['missed']}."
    if not session["is_timeline_complete"]:
        yield "The beginning of its history is not there any more."


def _state(session: Mapping[str, Any]) -> str:
    if session["state"] == "connected" and session["connected_at"] is not None:
        return f"connected since {session['connected_at']}"
    if session["remaining_seconds"] is not None:
        away, left = session["away_seconds"], session["remaining_seconds"]
        return f"{session['state']}, since {away:.0f} s; it may come back for {left:.0f} s more"
    return "over" if session["state"] == "ended" else str(session["state"])
