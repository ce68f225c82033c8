"""Where settings come from: a TOML file, the environment, flags. Later ones lie over earlier ones.

Each setting remembers its source, so that a complaint can say where to look.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

PREFIX = "EVENTSTORE_"
LONGEST_VALUE_SHOWN = 80


class ConfigError(Exception):
    """The configuration cannot be used."""

    def __init__(self, *complaints: str) -> None:
        super().__init__("\n".join(complaints))
        self.complaints = complaints
        """One line each."""


class Layers:
    """The settings of all sources, laid over each other."""

    def __init__(self, path: Path, expected: Mapping[str, Mapping[str, str]]) -> None:
        """Reads the file. ``expected`` says, by table and key, what a value may be."""
        self._path = path
        self._expected = expected
        self._text = _read(path)
        self._sources: dict[tuple[str, str], str] = {}
        self._complaints: list[str] = []
        self.tables = _parse(path, self._text)

    def add_environment(self, environ: Mapping[str, str], read: Callable[[str, str, str], object]) -> None:
        """Lays ``EVENTSTORE_TABLE__KEY`` over what is there; ``read`` turns its text into a value."""
        settings = ((table, key) for table, keys in self._expected.items() for key in keys)
        places = {f"{PREFIX}{table}__{key}".upper(): (table, key) for table, key in settings}
        for name, text in sorted(environ.items()):
            if name in places:
                table, key = places[name]
                self._lay(table, key, text if _has_stray_bytes(text) else read(table, key, text), name)
            elif name.startswith(PREFIX):
                self._complaints.append(f"{name}: there is no such setting{_nearest(name, places)}")

    def add_flags(self, flags: Mapping[str, Mapping[str, object]]) -> None:
        """Lays ``--key`` over what is there."""
        for table, settings in flags.items():
            for key, value in settings.items():
                self._lay(table, key, value, f"--{key.replace('_', '-')}")

    def complaints(self, places: Iterable[Sequence[int | str]]) -> list[str]:
        """A line for each of these places, whose values are wrong, and for what was wrong on the way."""
        wrong = dict.fromkeys((str(place[0]), str(place[1]) if len(place) > 1 else None) for place in places)
        return [*(self._complaint(table, key) for table, key in wrong), *self._complaints]

    def _lay(self, table: str, key: str, value: object, source: str) -> None:
        if isinstance(value, str) and _has_stray_bytes(value):
            self._complaints.append(f"{source}: not UTF-8")
            return
        settings = self.tables.setdefault(table, {})
        # What is no table at all is refused as a whole later.
        if isinstance(settings, dict):
            settings[key] = value
            self._sources[table, key] = source

    def _complaint(self, table: str, key: str | None) -> str:
        value = self.tables[table]
        if table not in self._expected:
            kind = "table" if isinstance(value, dict) else "key"
            return f"{self._in_file(table)}: there is no {kind} {table!r}{self._where(table, self._expected)}"
        if key is None or not isinstance(value, dict):
            return f"{self._in_file(table)}: {table} = {_shown(value)}: expected a table, [{table}]"
        if key not in self._expected[table]:
            where = self._where(key, self._expected[table])
            return f"{self._in_file(table, key)}: [{table}] has no key {key!r}{where}"
        source = self._sources.get((table, key)) or f"{self._in_file(table, key)}: [{table}] {key}"
        return f"{source} = {_shown(value[key])}: expected {self._expected[table][key]}"

    def _where(self, name: str, names: Iterable[str]) -> str:
        owner = next((table for table, keys in self._expected.items() if name in keys), None)
        return f"; it belongs to [{owner}]" if owner else _nearest(name, names)

    def _in_file(self, *dotted: str) -> str:
        line = _line_of(".".join(dotted), self._text) or _line_of(dotted[0], self._text)
        return f"{self._path}, line {line}" if line else f"{self._path}"


def _read(path: Path) -> str:
    try:
        # Some editors begin a file with a byte order mark.
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8, which TOML is always written in") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: too deeply nested") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _line_of(dotted: str, text: str) -> int | None:
    """The first line that writes to this name; tomllib does not tell. Strings of many lines may fool it."""
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if found := re.match(r"\s*\[\[?([^\]]+)\]", line):
            name = table = _plain(found[1])
        elif found := re.match(r"([^=#]+)=", line):
            name = f"{table}.{_plain(found[1])}".lstrip(".")
        else:
            continue
        if name == dotted or name.startswith(f"{dotted}."):
            return number
    return None


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _nearest(name: str, names: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the nearest is {nearest[0]!r}" if nearest else f"; known: {', '.join(names)}"


def _shown(value: object) -> str:
    # TOML and JSON write numbers alike, except for inf and nan.
    text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE_SHOWN else f"{text[:LONGEST_VALUE_SHOWN]}…"


def _has_stray_bytes(text: str) -> bool:
    # How Python brings in what is not UTF-8 in the environment and on the command line.
    return any("\udc80" <= character <= "\udcff" for character in text)
