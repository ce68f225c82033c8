"""The lock files are complete, so that an installation of them has nothing to resolve."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions, requires, version
from itertools import product
from pathlib import Path

import hatchling.build
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
RUN, DEV, NODE = (f".requirements{kind}.lock" for kind in ("", "-dev", "-node"))

PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
ENVIRONMENTS = [
    {
        **{name: str(text) for name, text in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
        "sys_platform": platform,
        "platform_system": system,
        "platform_machine": machine,
    }
    for python, (platform, system, machine) in product(PYTHONS, MACHINES)
]
IDS = ["-".join((e["python_version"], e["sys_platform"], e["platform_machine"])) for e in ENVIRONMENTS]

OPTIONAL = tuple(PROJECT["optional-dependencies"].keys() - {"dev"})


def pins(name: str) -> dict[str, str]:
    text = (CHECKOUT / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)(?: ;.*)? \\$", text, re.MULTILINE))


def roots(*extras: str) -> Iterator[Requirement]:
    """What the project asks for by itself, with what its editable installation takes."""
    texts = [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]]
    texts += hatchling.build.get_requires_for_build_editable()
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return map(Requirement, texts)


def needed(requirements: Iterable[Requirement], environment: dict[str, str]) -> set[str]:
    """The names of all packages that these requirements lead to. Each pinned version is allowed by all."""
    pinned = pins(RUN) | pins(DEV)
    todo, seen = [(requirement, "") for requirement in requirements], set[tuple[str, str]]()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not locked: run make lock, with Python {PYTHONS[0]}"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is needed: run make lock"
        for wanted in {"", *requirement.extras} - {extra for other, extra in seen if other == name}:
            seen.add((name, wanted))
            todo += [(Requirement(text), wanted) for text in requires(name) or ()]
    return {name for name, _ in seen}


def imported(folders: Iterable[str]) -> set[str]:
    """The top-level names that the modules below these folders import."""
    names = set()
    for path in (path for folder in folders for path in (CHECKOUT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def test_what_is_installed_is_what_is_locked() -> None:
    """Otherwise the other tests would read the requirements of other versions."""
    locked = pins(RUN) | pins(DEV)
    assert {name: version(name) for name in locked} == locked, "run make dev"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=IDS)
def test_one_lock_is_complete_everywhere(environment: dict[str, str]) -> None:
    assert needed(roots(), environment) <= pins(RUN).keys()
    assert needed(roots("dev", *OPTIONAL), environment) <= pins(RUN).keys() | pins(DEV).keys()


def test_locks_hold_nothing_superfluous() -> None:
    run = set[str]().union(*(needed(roots(), environment) for environment in ENVIRONMENTS))
    everything = set[str]().union(*(needed(roots("dev"), environment) for environment in ENVIRONMENTS))
    assert pins(RUN).keys() == run
    assert pins(DEV).keys() == everything - run


def test_classifiers_are_the_pythons_of_the_lock() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = {f"3.{text.removeprefix(prefix)}" for text in PROJECT["classifiers"] if text.startswith(prefix)}
    assert named == set(PYTHONS) and PROJECT["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(("server", "store", "migrations"), OPTIONAL), (("bench", "examples", "tests"), ("dev",))],
)
def test_every_import_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in roots(*extras)}
    for name in imported(folders) - sys.stdlib_module_names:
        distributions = {canonicalize_name(found) for found in packages_distributions().get(name, ())}
        is_ours = name in ("support", "bench") or name.startswith("socketio_event")
        assert is_ours or distributions & declared, f"{name} is imported and not declared"


@pytest.mark.parametrize("name", [RUN, DEV, NODE])
def test_every_pin_has_its_hashes(name: str) -> None:
    blocks = re.findall(r"^[a-z0-9-]+==.*(?:\n    .*)*", (CHECKOUT / name).read_text(), re.MULTILINE)
    assert len(blocks) == len(pins(name)) > 0
    assert all("--hash=sha256:" in block for block in blocks)


NPM = ("package.json", "package-lock.json", ".npmrc")
ADDRESSLESS = (RUN, DEV, NODE, *NPM, *(f"bench/{name}" for name in NPM))
WHOM_TO_THANK = {"github.com", "opencollective.com"}
"""The sites that npm notes for thanks."""


@pytest.mark.parametrize("name", ADDRESSLESS)
def test_no_address_of_a_registry_is_kept(name: str) -> None:
    text = (CHECKOUT / name).read_text()
    assert not re.search(r'file:/|--(extra-)?index-url|--find-links|"resolved"|registry=|@file', text)
    assert set(re.findall(r"https?://([^/\"]+)", text)) <= WHOM_TO_THANK
