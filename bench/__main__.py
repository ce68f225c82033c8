"""Side by side with the reference: ``python -m bench``, or ``make bench ARGS='--only W1,W2'``.

Servers run on one core, this load generator on another. The workloads alternate between all servers in every
round. The ratios within a round count, since machines are noisy.

``--pair CHECKOUT`` compares this checkout with another checkout instead, such as the parent commit in a
worktree of git: the processor time of both servers for a client's event, a delivery, a connection and a
recovery, as ratios with a confidence interval. ``--only`` takes P1 (events to one client), P2 (to 100
clients), P3 (deliveries to 100), P4 (to 1000) and P5 (connections and recoveries) then. Each server runs in
its checkout's own ``.venv``, or in this one's where it has none.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import signal
import subprocess
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from bench import bun, chart, machine, pairs, postgres, report
from bench.servers import BENCH, PROJECT, redis_server
from bench.session import Bench

WORKLOADS = {
    "W1": "w1_fanout",
    "W2": "w2_publish",
    "W3": "w3_recovery",
    "W4": "w4_storm",
    "W5": "w5_memory",
    "W6": "w6_kill",
    "W7": "w7_drop",
    "W8": "w8_start",
    "W9": "w9_attacks",
    "W10": "w10_postgres",
    "W11": "w11_nodes",
    "W12": "w12_cluster_peers",
}


def main() -> None:
    """Measure, print, and write down."""
    arguments = _arguments()
    workloads = list(pairs.LOADS if arguments.pair else WORKLOADS)
    only = arguments.only.upper().split(",") if arguments.only else workloads
    if unknown := [name for name in only if name not in workloads]:
        sys.exit(f"There is no workload {', '.join(unknown)}; there are {', '.join(workloads)}.")
    about = machine.description()
    machine.claim_load_core()
    signal.signal(signal.SIGTERM, _end)
    if redis_server() is None and not arguments.pair:
        Bench.say(
            "There is no redis-server here (nor in REDIS_SERVER): rows that compare with it are missing."
        )
    if bun.program() is None and not arguments.pair:
        Bench.say(bun.MISSING)
    if postgres.programs() is None and not arguments.pair:
        Bench.say(postgres.MISSING)
    with tempfile.TemporaryDirectory(prefix="eventstore-bench-", dir=arguments.folder) as folder:
        bench = Bench(
            Path(folder),
            rounds=1 if arguments.quick else arguments.rounds,
            quick=arguments.quick,
            only_ours=arguments.only_ours,
            source=arguments.source.resolve(),
            other=arguments.other and arguments.other.resolve(),
        )
        console = Console(width=None if sys.stdout.isatty() else 170)
        if arguments.pair:
            failed = _compare(bench, arguments, only, console)
        else:
            failed = _measure(bench, only)
            report.show(bench.results, console)
            console.print(f"A write to a TCP connection takes {about['a write to a TCP connection']} here.")
            if not arguments.only_ours and arguments.other is None:
                _write(bench, about, arguments, failed)
    sys.exit(1 if failed else 0)


def _compare(bench: Bench, arguments: argparse.Namespace, only: list[str], console: Console) -> list[str]:
    count = 2 if arguments.quick else arguments.pairs
    measured, failed = pairs.run(bench, arguments.pair.resolve(), count, only, in_turn=arguments.in_turn)
    pairs.show(measured, console)
    return failed


def _measure(bench: Bench, only: list[str]) -> list[str]:
    failed = []
    for name in only:
        try:
            import_module(f"bench.{WORKLOADS[name]}").run(bench)
        except KeyboardInterrupt:
            bench.say("Interrupted; what follows is what was measured until now.")
            return [name]
        except Exception as error:  # noqa: BLE001 -- the other workloads still count, and the run fails at the end
            bench.say(
                f"{name} failed: {type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}"
            )
            failed.append(name)
    return failed


def _write(bench: Bench, about: dict[str, str], arguments: argparse.Namespace, failed: list[str]) -> None:
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    content = {
        "measured_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "rounds": bench.rounds,
        "machine": about,
        "versions": _versions(),
        **bench.results.as_json(),
    }
    whole = not arguments.quick and not arguments.only and not failed
    name = "latest" if whole else "partial"
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if whole:
        (folder / "chart.svg").write_text(chart.draw(bench.results))


def _versions() -> dict[str, str]:
    packages = json.loads((BENCH / "package-lock.json").read_text())["packages"]
    of_npm = ["socket.io", "@socket.io/redis-streams-adapter", "redis", "ws"]
    of_npm += ["@socket.io/postgres-adapter", "pg"]
    if bun.program() is not None:
        of_npm += ["bun", "@socket.io/bun-engine"]
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "node": node,
        **{name: packages[f"node_modules/{name}"]["version"] for name in of_npm},
        **{name: metadata.version(name) for name in ("python-socketio", "python-engineio", "aiohttp")},
    }


def _end(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", help="workloads, such as W1,W2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke test: one short round, few clients")
    parser.add_argument("--only-ours", action="store_true", help="leave the peers out")
    parser.add_argument("--source", type=Path, default=PROJECT, help="the checkout that is measured")
    parser.add_argument("--other", type=Path, help="another checkout of this project, to compare with")
    parser.add_argument("--pair", type=Path, help="another checkout, to compare processor time with")
    parser.add_argument("--pairs", type=int, default=10, help="how many pairs of each measurement")
    parser.add_argument("--in-turn", action="store_true", help="pairs do not run at the same time")
    parser.add_argument("--folder", type=Path, help="where databases are made; its disk is what is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
