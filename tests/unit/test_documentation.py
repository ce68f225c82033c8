"""What people read first names what the code does, has no dead link, and stays short."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from socketio_eventstore.program.config import TABLES

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/*.md")],
)
SOURCES = ("server/socketio_eventstore", "store/socketio_eventlog", "")
KEYS = [(table, key) for table, model in TABLES.items() for key in model.model_fields]

MAX_WORDS_PER_PARAGRAPH = 60
MAX_WORDS_PER_SENTENCE = 14.0

FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[([^\[\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
ITEM = re.compile(r"^ *(?:[-*]|\d+\.) +", re.MULTILINE)
LEAD_IN = re.compile(r"^\*\*[^*]+\*\*")
SENTENCE_END = re.compile(r"(?<=[.!?])[*_)\"\\]*\s+")
FILE_NAME = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose(text: str) -> list[str]:
    """The paragraphs and list items; no code, headings or tables."""
    text = HEADING.sub("\n", FENCE.sub("\n", text))
    text = re.sub(r"^ *\|.*$", "", text, flags=re.MULTILINE)
    text = LINK.sub(r"\1", text)
    blocks = re.split(r"\n\s*\n", ITEM.sub("\n\n", text))
    return [" ".join(block.split()) for block in blocks if words(block)]


def cells(text: str) -> list[str]:
    """The cells of all tables."""
    rows = re.findall(r"^ *\|(.+)\|$", FENCE.sub("\n", text), flags=re.MULTILINE)
    return [cell.strip() for row in rows for cell in row.split("|") if words(cell)]


def words(text: str) -> list[str]:
    return [word for word in text.split() if re.search(r"\w", word)]


def sentences(paragraph: str) -> list[str]:
    """Whole sentences only: a list of links, or the bold name of an item, would lower the mean."""
    text = LEAD_IN.sub("", paragraph)
    return [sentence for sentence in SENTENCE_END.split(text) if re.search(r"[.!?:]\W*$", sentence)]


def anchors(document: Path) -> set[str]:
    """The headings as GitHub links them."""
    headings = HEADING.findall(FENCE.sub("\n", document.read_text()))
    plain = (re.sub(r"[^\w\- ]", "", LINK.sub(r"\1", heading).lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found[1]


# Configuration --------------------------------------------------------------------------------------


def default_of(table: str, key: str) -> str:
    """A default as TOML writes it."""
    default = TABLES[table].model_fields[key].default
    if key == "file_mode":
        return f"0o{default:o}"
    return json.dumps(list(default) if isinstance(default, tuple) else default, default=str)


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_a_key_and_its_default_are_documented(table: str, key: str) -> None:
    text = section((ROOT / "docs" / "configuration.md").read_text(), table)
    row = re.search(rf"^\| `{key}` \| `([^`]+)` \| (.+) \|$", text, re.MULTILINE)
    assert row, f"docs/configuration.md does not explain {key} below {table}"
    assert row[1] == default_of(table, key)


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_a_key_and_its_default_are_in_the_shipped_file(table: str, key: str) -> None:
    lines = section_of_toml((ROOT / "config.toml").read_text(), table)
    line = next((line for line in lines if line.startswith(f"{key} = ")), None)
    assert line, f"config.toml does not have {key} in [{table}]"
    shipped = tomllib.loads(line)[key]
    assert shipped == tomllib.loads(f"{key} = {default_of(table, key)}")[key]
    assert "#" in line, f"config.toml does not say what {key} means"


def section_of_toml(text: str, table: str) -> list[str]:
    return re.split(r"^\[", text.partition(f"\n[{table}]")[2], maxsplit=1, flags=re.MULTILINE)[0].splitlines()


def test_no_unknown_key_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for table in TABLES:
        keys = re.findall(r"^\| `(\w+)` \|", section(text, table), re.MULTILINE)
        assert keys == list(TABLES[table].model_fields)


# Links ----------------------------------------------------------------------------------------------


def links() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        for _, target in LINK.findall(FENCE.sub("\n", document.read_text())):
            if not re.match(r"[a-z]+:", target):
                yield document, target


@pytest.mark.parametrize(
    ("document", "target"), [pytest.param(d, t, id=f"{name(d)} {t}") for d, t in links()]
)
def test_a_relative_link_leads_somewhere(document: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (document.parent / path).resolve() if path else document
    assert file.exists(), f"{name(document)}: there is no {target}"
    assert file.is_relative_to(ROOT), f"{name(document)}: {target} leads out of the project"
    if anchor:
        assert anchor in anchors(file), f"{name(document)}: there is no heading for {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_source_files_that_are_named_exist(document: Path) -> None:
    for file in FILE_NAME.findall(document.read_text()):
        places = [ROOT / folder / file for folder in SOURCES]
        places += [place / file for place in (ROOT / "store/socketio_eventlog/sqlite", document.parent)]
        assert any(place.exists() for place in places), f"{name(document)}: there is no {file}"


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {README.parent / target.partition("#")[0] for document, target in links() if document == README}
    assert set((ROOT / "docs").glob("*.md")) <= linked


# Sentences ------------------------------------------------------------------------------------------


def test_the_readme_has_short_sentences() -> None:
    counts = [len(words(sentence)) for block in prose(README.read_text()) for sentence in sentences(block)]
    mean = sum(counts) / len(counts)
    assert mean <= MAX_WORDS_PER_SENTENCE, f"{mean:.1f} words per sentence"


def test_the_readme_has_short_paragraphs() -> None:
    text = README.read_text()
    for block in [*prose(text), *cells(text)]:
        assert len(words(block)) <= MAX_WORDS_PER_PARAGRAPH, block
