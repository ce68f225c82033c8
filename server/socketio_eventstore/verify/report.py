"""The printed report of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from socketio_eventstore.verify.judge import Fault, Verdict
from socketio_eventstore.verify.plan import Settings
from socketio_eventstore.verify.runner import Outcome

_EXAMPLES: Final = 3
_CHECKED: Final = {
    Fault.LOST: "events for a client",
    Fault.REPEATED: "deliveries",
    Fault.MISORDERED: "deliveries",
    Fault.LEAKED: "deliveries",
    Fault.REFUSED: "reconnections",
    Fault.REUSED: "offsets",
    Fault.UNLOGGED: "deliveries and acknowledgements",
    Fault.ROOMS: "joins and leaves",
}


def report(settings: Settings, outcome: Outcome) -> str:
    """Return the table of a run, and the command for a repetition."""
    return "\n".join(_lines(settings, outcome))


def _lines(settings: Settings, outcome: Outcome) -> Iterator[str]:
    verdict, done = outcome.verdict, outcome.done
    others = ("freezes", "breaks", "partitions", "jumps", "promotions")
    yield (
        ("" if settings.nodes == 1 else f"{settings.nodes} servers, ")
        + f"{settings.clients} clients, {settings.rooms} rooms, {done['cuts']} cuts, {done['kills']} kills, "
        + "".join(f"{done[name]} {name}, " for name in others if done[name])
        + f"{done['moves']} joins and leaves, {outcome.events:,} events, synchronous = {settings.synchronous}"
    )
    yield ""
    for fault in Fault:
        checked = f"of {verdict.checked.get(fault, 0):,} {_CHECKED[fault]}"
        yield f"  {fault:<16}{verdict.count(fault):>8,}  {checked}"
    recovered = f"{verdict.recovered:,} of {verdict.returns:,} reconnections"
    yield f"  {'recovered':<16}{_percent(verdict):>8}  {recovered}"
    yield ""
    yield from _examples(verdict)
    yield from (f"Note: {note}." for note in outcome.notes)
    yield "All promises were kept." if verdict.kept else "PROMISES WERE BROKEN."
    yield f"Repeat: {repeat_command(settings)}"


def _examples(verdict: Verdict) -> Iterator[str]:
    for fault in Fault:
        found = [finding for finding in verdict.findings if finding.fault is fault]
        for finding in found[:_EXAMPLES]:
            yield f"{fault}: {finding.subject} {finding.description}"
        if len(found) > _EXAMPLES:
            yield f"{fault}: and {len(found) - _EXAMPLES:,} more"
    if not verdict.kept:
        yield ""


def _percent(verdict: Verdict) -> str:
    if not verdict.returns:
        return "-"
    # Rounded down: 100 % means all.
    return f"{int(verdict.recovered * 10_000 / verdict.returns) / 100:g} %"


def repeat_command(settings: Settings) -> str:
    """Return the command that repeats a run, except for differences in timing."""
    more = [] if settings.nodes == 1 else [f"--url … --nodes {settings.nodes} "]
    names = ("freezes", "breaks", "partitions", "jumps")
    faults = {name: getattr(settings, name) for name in names}
    more += [f"--{name} {number} " for name, number in faults.items() if number]
    more += ["--standby … "] * settings.promotions
    return (
        f"socketio-eventstore verify {''.join(more)}--clients {settings.clients} --rooms {settings.rooms} "
        f"--cuts {settings.cuts} --kills {settings.kills} --events {settings.events} "
        f"--synchronous {settings.synchronous} --seed {settings.seed}"
    )
