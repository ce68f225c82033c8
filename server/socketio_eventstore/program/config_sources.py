"""The sources of the configuration: a TOML file, the environment and flags. Later sources override.

Each value keeps the name of its source, for error messages.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

PREFIX = "EVENTSTORE_"
OTHER_VARIABLES = frozenset({"EVENTSTORE_API_KEY", "EVENTSTORE_URL"})
"""Variables for commands that call a running server, and no settings."""
LONGEST_VALUE_SHOWN = 80
SECRETS = frozenset({"api_keys", "key", "url"})
"""Keys with values that no error shows: passwords in URLs, and secrets given in place of hashes."""
_PASSWORD = re.compile(r"://[^/@\s]*@")
"""The name and the password in a URL."""
NOT_SHOWN = "(not shown)"


class ConfigError(Exception):
    """The configuration is invalid."""

    def __init__(self, *errors: str) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors
        """One line per error."""


class Layers:
    """The values of all sources, and the errors of each source."""

    def __init__(self, path: Path, expected: Mapping[str, Mapping[str, str]]) -> None:
        """Read the file at ``path``. Raises ConfigError for an unreadable file and for invalid TOML.

        ``expected`` describes the valid values by table and key.
        """
        self._path = path
        self._expected = expected
        self._text = _read(path)
        self._sources: dict[tuple[str, str], str] = {}
        self._errors: list[str] = []
        self.tables = _parse(path, self._text)

    def add_environment(self, environ: Mapping[str, str], read: Callable[[str, str, str], object]) -> None:
        """Override values by variables ``EVENTSTORE_TABLE__KEY``.

        ``read`` converts a table, a key and the text of a variable to a value.
        """
        keys = ((table, key) for table, keys in self._expected.items() for key in keys)
        variables = {f"{PREFIX}{table}__{key}".upper(): (table, key) for table, key in keys}
        for name, text in sorted(environ.items()):
            if name in variables:
                table, key = variables[name]
                self._override(table, key, text if _has_stray_bytes(text) else read(table, key, text), name)
            elif name.startswith(PREFIX) and name not in OTHER_VARIABLES:
                self._errors.append(f"{name}: there is no such setting{_nearest(name, variables)}")

    def add_flags(self, flags: Mapping[str, Mapping[str, object]]) -> None:
        """Override values by flags ``--key``; ``flags`` has the values by table and key."""
        for table, values in flags.items():
            for key, value in values.items():
                self._override(table, key, value, f"--{key.replace('_', '-')}")

    def errors(self, locations: Iterable[Sequence[int | str]]) -> list[str]:
        """Return one line for each invalid value and for each error found while reading the sources.

        A location begins with the table, or with the table and the key, as in pydantic's errors.
        """
        invalid = dict.fromkeys((str(loc[0]), str(loc[1]) if len(loc) > 1 else None) for loc in locations)
        return [*(self._error(table, key) for table, key in invalid), *self._errors]

    def error(self, table: str, key: str, expected: str) -> str:
        """Return the line for a value that does not fit the other values."""
        values = self.tables[table]
        assert isinstance(values, dict)
        source = self._sources.get((table, key)) or f"{self._in_file(table, key)}: [{table}] {key}"
        shown = NOT_SHOWN if key in SECRETS else _shown(values[key])
        return f"{source} = {shown}: expected {expected}"

    def _override(self, table: str, key: str, value: object, source: str) -> None:
        if isinstance(value, str) and _has_stray_bytes(value):
            self._errors.append(f"{source}: not UTF-8")
            return
        values = self.tables.setdefault(table, {})
        # The validation refuses another type of value.
        if isinstance(values, dict):
            values[key] = value
            self._sources[table, key] = source

    def _error(self, table: str, key: str | None) -> str:
        value = self.tables[table]
        if table not in self._expected:
            kind = "table" if isinstance(value, dict) else "key"
            return f"{self._in_file(table)}: there is no {kind} {table!r}{self._where(table, self._expected)}"
        if key is None or not isinstance(value, dict):
            shown = _shown(value) if SECRETS.isdisjoint(self._expected[table]) else NOT_SHOWN
            return f"{self._in_file(table)}: {table} = {shown}: expected a table, [{table}]"
        if key not in self._expected[table]:
            where = self._where(key, self._expected[table])
            return f"{self._in_file(table, key)}: [{table}] has no key {key!r}{where}"
        return self.error(table, key, self._expected[table][key])

    def _where(self, name: str, names: Iterable[str]) -> str:
        owner = next((table for table, keys in self._expected.items() if name in keys), None)
        return f"; it belongs to [{owner}]" if owner else _nearest(name, names)

    def _in_file(self, *dotted: str) -> str:
        line = _line_of(".".join(dotted), self._text) or _line_of(dotted[0], self._text)
        return f"{self._path}, line {line}" if line else f"{self._path}"


def _read(path: Path) -> str:
    try:
        # Some editors write a byte order mark at the start of a file.
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8, the encoding of every TOML file") from None
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
    """Return the number of the first assignment of ``dotted``, since tomllib reports no line.

    A string of several lines may contain text like an assignment, and so lead to a wrong line.
    """
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
    # JSON and TOML write numbers alike, except for inf and nan.
    text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    text = _PASSWORD.sub("://…@", text)
    return text if len(text) <= LONGEST_VALUE_SHOWN else f"{text[:LONGEST_VALUE_SHOWN]}…"


def _has_stray_bytes(text: str) -> bool:
    # Python decodes invalid UTF-8 in the environment and in arguments to lone surrogates.
    return any("\udc80" <= character <= "\udcff" for character in text)
