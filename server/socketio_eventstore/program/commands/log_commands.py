"""The commands about events and sessions: ``emit``, ``events``, ``sessions``, ``session``, ``stats``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from socketio_eventstore.program import session_report
from socketio_eventstore.program.command_config import config_option
from socketio_eventstore.program.commands.connection import client_for, url_elsewhere, url_option
from socketio_eventstore.program.commands.tables import (
    Columns,
    json_option,
    printable,
    seconds_text,
    show,
    show_line,
    value_of,
)

if TYPE_CHECKING:
    from socketio_eventstore.program.api_client import ApiClient

namespace_option = click.option("--namespace", help="With a room or an emit, the default is /.")
EVENTS_PAGE: Final = ("events", "older", "newer")
HEAD: Final = ("head_offset",)
LINK: Final = ("url", "path", "valid_seconds")
limit_option = click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True)


def add_to(commands: click.Group) -> None:
    """Add the commands of the module."""
    for command in (emit, events, inspect, sessions, session, stats):
        commands.add_command(command)


@click.command()
@click.argument("event")
@click.argument("args", nargs=-1)
@click.option(
    "--room", "rooms", multiple=True, help="A room, as a text; may be repeated. Default: the whole namespace."
)
@namespace_option
@click.option("--volatile", is_flag=True, help="Send to those who are connected, and store nothing.")
@click.option("--idempotency-key", "key", help="With the same key, a repeat publishes nothing again.")
@url_option
@config_option
@json_option
def emit(
    event: str, args: tuple[str, ...], rooms: tuple[str, ...], namespace: str | None, **options: Any
) -> None:
    """Publish an event, and print its offset.

    Each of ARGS is JSON, or else a text. With --url, EVENTSTORE_API_KEY has the key.
    """
    body: dict[str, Any] = {"event": event, "args": [value_of(text) for text in args]}
    if rooms:
        body["rooms"] = list(rooms)
    if namespace is not None:
        body["namespace"] = namespace
    if options["volatile"]:
        body["volatile"] = True
    headers = {} if options["key"] is None else {"Idempotency-Key": options["key"]}
    answer = client_for(options["url"], options["path"]).post("/emit", ["offset"], body, headers)
    click.echo(json.dumps(answer) if options["as_json"] else answer["offset"] or "sent, not stored")


@click.command()
@click.option("--room")
@namespace_option
@click.option("--event", help="Only events with this name.")
@click.option("--after", help="Only events beyond this offset.")
@click.option("--before", help="Only events below this offset.")
@limit_option
@click.option("--follow", is_flag=True, help="Go on with new events, until Ctrl-C.")
@url_option
@config_option
@json_option
def events(
    limit: int, follow: bool, url: str | None, path: Path | None, as_json: bool, **query: str | None
) -> None:
    """Show stored events, the newest last."""
    client = client_for(url, path, needs_server=follow)
    newer, found = _events(client, limit, query)
    columns: Columns = {
        "Time": lambda event: event["emitted_at"],
        "Offset": lambda event: event["offset"],
        "Namespace": lambda event: event["namespace"],
        "Event": lambda event: event["event"],
        "Rooms": lambda event: "(all)" if event["rooms"] is None else ", ".join(map(str, event["rooms"])),
        "Arguments": lambda event: json.dumps(event["args"], ensure_ascii=False)[1:-1],
    }
    show(found, columns, as_json=as_json)
    if follow:
        names = ("room", "namespace", "event")
        following = client.follow("/events/stream", after=newer, **{name: query[name] for name in names})
        for event in following:
            show_line(event, columns, as_json=as_json)


def _events(client: ApiClient, limit: int, query: Mapping[str, str | None]) -> tuple[str | None, list[Any]]:
    """Return the cursor behind the events, and the events of all pages."""
    if query["after"] is not None:
        return _events_after(client, limit, query, query["after"])
    page = client.get("/events", EVENTS_PAGE, **{**query, "limit": _page_of(limit)})
    newer, found = page["newer"], list(page["events"])
    while len(found) < limit and page["older"] is not None:
        left = _page_of(limit - len(found))
        page = client.get("/events", EVENTS_PAGE, **{**query, "limit": left, "before": page["older"]})
        found = [*page["events"], *found]
    return newer, found


def _events_after(
    client: ApiClient, limit: int, query: Mapping[str, str | None], after: str | None
) -> tuple[str | None, list[Any]]:
    found: list[Any] = []
    # On a busy server the end of the log moves on; so all pages up to the present end, and a last page.
    ends = [query["before"]] if query["before"] else [client.get("/stats", HEAD)["head_offset"], None]
    for before in ends:
        is_end = False
        while not is_end and len(found) < limit:
            bounds = {"after": after, "before": before, "limit": _page_of(limit - len(found))}
            page = client.get("/events", EVENTS_PAGE, **{**query, **bounds})
            found += page["events"]
            is_still = not page["events"] and page["newer"] == after  # an empty page alone is no end
            is_end, after = is_still or before is None, page["newer"]
    return after, found


@click.command()
@click.option("--state", type=click.Choice(("connected", "connecting", "away")))
@click.option("--room")
@click.option("--identity")
@namespace_option
@limit_option
@url_option
@config_option
@json_option
def sessions(limit: int, url: str | None, path: Path | None, as_json: bool, **query: str | None) -> None:
    """List the sessions, connected or away, by namespace and sid."""
    found = islice(_sessions(client_for(url, path), limit, query), limit)
    columns: Columns = {
        "Namespace": lambda session: session["namespace"],
        "Sid": lambda session: session["sid"],
        "State": lambda session: session["state"],
        "Identity": lambda session: session["identity"] or "",
        "Rooms": lambda session: str(session["rooms"]),
        "Connected since": lambda session: session["connected_at"] or "",
        "Remaining": lambda session: seconds_text(session["remaining_seconds"]),
    }
    show(found, columns, as_json=as_json)


def _sessions(client: ApiClient, limit: int, query: Mapping[str, str | None]) -> Iterator[Any]:
    cursor = None
    while True:
        page = client.get("/sessions", ("sessions", "next"), **query, cursor=cursor, limit=_page_of(limit))
        yield from page["sessions"]
        cursor = page["next"]
        if cursor is None:
            return


@click.command(cls=session_report.SidCommand)
@click.argument("sid")
@click.option("--namespace", default="/", show_default=True)
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="The most events to show."
)
@url_option
@config_option
@json_option
def session(sid: str, namespace: str, limit: int, url: str | None, path: Path | None, as_json: bool) -> None:
    """Show the history of a session.

    The session may have ended. The output also has the events of the session's client.
    """
    from socketio_eventstore.core.event_pages import MAX_EVENTS

    where = f"/sessions/{quote(namespace, safe='')}/{quote(sid, safe='')}"
    answer = client_for(url, path).get(where, session_report.NAMES, limit=MAX_EVENTS)
    answer["events"] = answer["events"][-limit:]
    if as_json:
        click.echo(json.dumps(answer))
        return
    for line in session_report.sentences(answer):
        click.echo(printable(line))
    show(answer["timeline"], session_report.TIMELINE, as_json=False)
    show(answer["events"], session_report.EVENTS, as_json=False)


@click.command()
@url_option
@config_option
@json_option
def stats(url: str | None, path: Path | None, as_json: bool) -> None:
    """Show the server in numbers."""
    answer = client_for(url, path).get("/stats", HEAD)
    if as_json:
        click.echo(json.dumps(answer))
        return
    rows = [(name, json.dumps(value)) for name, value in answer.items()]
    columns: Columns = {"Name": lambda row: row[0], "Value": lambda row: row[1]}
    show(rows, columns, as_json=False)


@click.command()
@url_option
@config_option
@json_option
def inspect(url: str | None, path: Path | None, as_json: bool) -> None:
    """Print a link to the inspector. The link works once, and for a short time."""
    from socketio_eventstore.program.http_settings import UNIX

    answer = client_for(url, path, needs_server=True).post("/inspector-links", LINK, {})
    address = url_elsewhere(url)
    if address and not address.startswith(UNIX):  # the server names an address for browsers
        answer["url"] = address.rstrip("/") + answer["path"]
    if as_json:
        click.echo(json.dumps(answer))
        return
    seconds = f"within {answer['valid_seconds']:.0f} seconds. It works once."
    if answer["url"]:
        click.echo(f"{answer['url']}\n\nOpen this link {seconds}")
    else:
        where = "The inspector has no TCP address. Open this path at the address of its proxy"
        click.echo(f"{answer['path']}\n\n{where} {seconds}")


def _page_of(limit: int) -> int:
    """Return how many entries to ask for at once."""
    from socketio_eventstore.core.event_pages import MAX_EVENTS

    return min(limit, MAX_EVENTS)
