"""The packets and auths of hostile clients."""

from __future__ import annotations

import json
import random
from typing import Any

MAX_PAYLOAD = 100_000

GARBAGE = (
    "",
    "2",
    "8",
    "hello",
    "4",
    "49",
    "4x",
    "42",
    "42{}",
    "42[]",
    "42[1]",
    '42"text"',
    "42[",
    "44{}",
    '43{"a":1}',
    "45",
    "451-[",
    "45x-[]",
    '42["x",NaN]',
    '42["x",-Infinity]',
    '452-["x",NaN]',
    '42["*",1]',
    '42["connect"]',
    '42["connect_error"]',
    '42["disconnect","reason"]',
    '42["disconnecting"]',
    '42["session_expired","sid",{}]',
    "42" + "[" * 100_000,
)
"""Invalid packets of Engine.IO or Socket.IO, and events reserved for the server."""

NAMESPACES = [
    "/",
    "/other",
    "",
    "//",
    "/" * 1_000,
    "/\0",
    "/ä😀",
    "/a?b=c",
    "/a,b",
    "/" + "x" * 90_000,
    "n",
    "/\n",
    "/[",
    "/*",
]
NUMBERS = [
    "0",
    "-1",
    "1" * 400,
    "1e999",
    "-0.0",
    "9" * 18,
    str(2**53),
    str(2**64),
    "0.1e-400",
    "NaN",
    "Infinity",
]
TEXTS = [
    "",
    "\0",
    "\ud800",
    "😀",
    "__proto__",
    "x" * 50_000,
    "' OR 1=1; --",
    "%s%n",
    "\x1e",
    "b",
    "../../etc/passwd",
]
PLACEHOLDERS: list[Any] = [
    {"_placeholder": True, "num": n} for n in (0, 1, -1, 10**9, 10**30, 0.5, "0", None, True, [0])
]


def json_value(chance: random.Random, depth: int = 0) -> str:
    """JSON or similar text, unusual texts included."""
    kind = chance.randrange(9 if depth < 4 else 5)
    match kind:
        case 0:
            return chance.choice(NUMBERS)
        case 1 | 2:
            return json.dumps(chance.choice(TEXTS))
        case 3:
            return chance.choice(["null", "true", "false", "undefined", "", '"', "[", "{", "\ufeff", "'a'"])
        case 4:
            return json.dumps(chance.choice(PLACEHOLDERS))
        case 5 | 6:
            return "[" + ",".join(json_value(chance, depth + 1) for _ in range(chance.randrange(4))) + "]"
        case 7:
            pairs = (f"{json.dumps(chance.choice(TEXTS))}:{json_value(chance, depth + 1)}" for _ in range(2))
            return "{" + ",".join(pairs) + "}"
        case _:
            bracket = chance.choice(["[", '{"a":', "[[", '[{"a":'])
            return bracket * chance.choice([10, 990, 20_000])


def packet(chance: random.Random) -> str | bytes:
    """Text or bytes similar to a Socket.IO packet."""
    if chance.random() < 0.2:
        return chance.randbytes(chance.choice([0, 1, 5, 200]))
    engine = chance.choice(["4"] * 12 + ["0", "1", "2", "3", "5", "6", "7", "b", ""])
    kind = chance.choice(["0", "1", "2", "2", "2", "3", "4", "5", "5", "6", "9", "", "-"])
    attachments = chance.choice(["", "", "0-", "1-", "2-", "11-", "999999999-", "1" * 300 + "-", "-1-", "x-"])
    namespace = chance.choice(["", "", "", *NAMESPACES])
    number = chance.choice(["", "", "7", *NUMBERS])
    name = chance.choice(
        ["anything", "anything", "join", "save", "connect", "disconnect", "session_expired", "*", ""]
    )
    content = chance.choice([json_value(chance), f'["{name}",{json_value(chance)}]', f'["{name}"]'])
    comma = "," if namespace and chance.random() < 0.9 else ""
    text = f"{engine}{kind}{attachments if kind in '56' else ''}{namespace}{comma}{number}{content}"
    return text[: MAX_PAYLOAD - 1].encode("utf-8", "replace").decode()


def hostile_auths(pid: str, offset: str) -> list[str]:
    epoch, _, number = offset.rpartition(".")
    offsets: list[Any] = [
        f"{epoch}.{int(number) + 10**6}", f"{epoch}.-1", f"{epoch}.{number} ", f" {offset}",
        f"{epoch}.0{number}", f"{epoch}.{'9' * 300}", f"{epoch}.1e3", f"{epoch}.٣", f"{epoch}\0.1",
        f"..{number}", ".", "", "x" * 80_000,
        "'; DROP TABLE events; --.1", 0, -1, 2**80, 1.5, True, None, [], {}, [offset], {"offset": offset},
        "\ud800.1",
    ]  # fmt: skip
    pids: list[Any] = [
        "", "x", pid + "x", pid[:-1], pid.upper(), "\0", "\ud800", "x" * 80_000, 0, -1, 1.5, True, [pid],
        {"pid": pid}, [], {}, "' OR pid_hash IS NOT NULL; --",
    ]  # fmt: skip
    auths = [json.dumps({"pid": pid, "offset": bad}) for bad in offsets]
    auths += [json.dumps({"pid": bad, "offset": offset}) for bad in pids]
    auths += [
        "[]",
        '"text"',
        "5",
        "null",
        "true",
        "[[[",
        '{"pid":',
        f'{{"pid":"{pid}","pid":5}}',
        "1e999",
        "NaN",
    ]
    return auths
