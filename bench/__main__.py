"""Side by side with the reference: ``python -m bench``, or ``make bench ARGS='--only W1,W2'``.

Servers run on one core, this load generator on another. The workloads take turns with all servers in
every round, and what counts are the ratios within a round, since machines are noisy.
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

from bench import chart, machine, report
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
}


def main() -> None:
    """Measure, print, and write down."""
    arguments = _arguments()
    only = arguments.only.upper().split(",") if arguments.only else list(WORKLOADS)
    if unknown := [name for name in only if name not in WORKLOADS]:
        sys.exit(f"There is no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}.")
    about = machine.description()
    machine.claim_load_core()
    signal.signal(signal.SIGTERM, _end)
    if redis_server() is None:
        Bench.say(
            "There is no redis-server here (nor in REDIS_SERVER): rows that compare with it are missing."
        )
    with tempfile.TemporaryDirectory(prefix="eventstore-bench-", dir=arguments.folder) as folder:
        bench = Bench(
            Path(folder),
            rounds=1 if arguments.quick else arguments.rounds,
            quick=arguments.quick,
            only_ours=arguments.only_ours,
            source=arguments.source.resolve(),
            other=arguments.other and arguments.other.resolve(),
        )
        failed = _measure(bench, only)
    report.show(bench.results, Console(width=None if sys.stdout.isatty() else 170))
    if not arguments.only_ours and arguments.other is None:
        _write(bench, about, arguments, failed)
    sys.exit(1 if failed else 0)


def _measure(bench: Bench, only: list[str]) -> list[str]:
    failed = []
    for name in only:
        try:
            import_module(f"bench.{WORKLOADS[name]}").run(bench)
        except KeyboardInterrupt:
            bench.say("Interrupted; what follows is what was measured until now.")
            return [name]
        except Exception as error:  # noqa: BLE001 -- the other workloads still count, and it fails in the end
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
    of_npm = ("socket.io", "@socket.io/redis-streams-adapter", "redis", "ws")
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
    parser.add_argument("--folder", type=Path, help="where databases are made; its disk is what is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
