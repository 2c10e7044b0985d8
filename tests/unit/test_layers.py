"""The layers hold: who may import whom, what the pure layers never touch, and where patching happens.

All imports count, also those inside functions and those for type checkers alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "kodectl"

LAYERS = ("errors", "settings", "wire", "core", "runtime", "node", "store", "api", "sim", "cli")
"""Each may import itself and those before it."""

TOP = {"__init__": "errors", "__main__": "cli"}
"""Modules of the package itself that belong to a layer of another name."""

CLOCKS = ("time", "datetime", "sched")
RANDOMNESS = ("random", "secrets", "uuid", "os", "Crypto.Random")
INPUT_AND_OUTPUT = ("socket", "_socket", "ssl", "select", "selectors", "asyncio", "http", "urllib", "subprocess")
CONCURRENCY = ("gevent", "greenlet", "threading", "_thread", "concurrent", "multiprocessing", "queue", "signal")

FORBIDDEN = {
    "wire": (*CLOCKS, *RANDOMNESS, *INPUT_AND_OUTPUT, *CONCURRENCY, "logging"),
    "core": (*CLOCKS, *RANDOMNESS, *INPUT_AND_OUTPUT, *CONCURRENCY, "logging"),
    "node": ("time", "sched", "secrets", "uuid", *INPUT_AND_OUTPUT, *CONCURRENCY),
    "sim": (*CLOCKS, "secrets", "uuid", "os", *INPUT_AND_OUTPUT, "gevent", "threading", "_thread", "concurrent"),
}
"""Node and sim run on virtual time too: what waits, or asks the machine, goes through the runtime."""

PATCHING_MODULE = "cli/node_run.py"
"""The one module that may monkey-patch."""

VAGUE_NAMES = ("util", "utils", "helper", "helpers", "manager", "managers", "common", "misc")


class Import(NamedTuple):
    line: int
    module: str
    for_types: bool
    """Under `if TYPE_CHECKING`: an arrow between layers all the same, but nothing that runs."""


def imports_of(tree: ast.Module, package: tuple[str, ...]) -> Iterator[Import]:
    """Every module that is imported anywhere in a file; `from a import b` counts as `a.b`."""
    for_types = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.unparse(guard.test)
        for statement in guard.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*base, *([node.module] if node.module else [])))
            for alias in node.names:
                yield Import(node.lineno, f"{source}.{alias.name}", id(node) in for_types)


def violations(package: Path) -> list[str]:
    """What breaks the rules in the package at this path, one line each."""
    return [problem for path in sorted(package.rglob("*.py")) for problem in violations_in(path, package)]


def violations_in(path: Path, package: Path) -> Iterator[str]:
    relative = path.relative_to(package)
    where = relative.as_posix()
    name = relative.parts[0].removesuffix(".py")
    layer = TOP.get(name, name)
    if layer not in LAYERS:
        yield f"{where}: {layer} is no layer"
        return
    if set(relative.stem.split("_")) & set(VAGUE_NAMES):
        yield f"{where}: a name that says nothing"
    tree = ast.parse(path.read_text(), str(path))
    for found in imports_of(tree, (package.name, *relative.parts[:-1])):
        if found.module == "random" and names_a_type_only(tree):
            continue
        yield from (
            f"{where}:{found.line}: {problem}" for problem in import_problems(found, layer, where, package.name)
        )
    if where != PATCHING_MODULE:
        for line in patching_lines(tree):
            yield f"{where}:{line}: patches"


def import_problems(found: Import, layer: str, where: str, package: str) -> Iterator[str]:
    parts = found.module.split(".")
    if parts[0] == package and len(parts) > 1 and parts[1] in LAYERS:
        if LAYERS.index(parts[1]) > LAYERS.index(layer):
            yield f"{layer} imports {found.module}"
        return
    banned = [root for root in FORBIDDEN.get(layer, ()) if is_within(found.module, root)]
    if banned and not found.for_types:
        yield f"{layer} imports {found.module}"
    if is_within(found.module, "gevent.monkey") and where != PATCHING_MODULE:
        yield "imports gevent.monkey"


def names_a_type_only(tree: ast.Module) -> bool:
    """True when `random` serves for nothing but the type of a generator that comes in, `random.Random`."""
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random"]
    return bool(uses) and all(node.attr == "Random" and id(node) not in calls for node in uses)


def is_within(module: str, root: str) -> bool:
    return module == root or module.startswith(f"{root}.")


def patching_lines(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("patch_all", "patch_module"):
            yield node.lineno


def test_the_package_keeps_its_layers() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 20
    assert violations(PACKAGE) == []


MUTANTS = {
    "a pure layer that imports a later one": ("wire/x.py", "from kodectl.core.table import Table", "wire imports"),
    "inside a function": ("core/x.py", "def f():\n    from kodectl.node import node", "core imports kodectl.node.node"),
    "for type checkers alone": (
        "core/x.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kodectl.cli.main",
        "core imports kodectl.cli.main",
    ),
    "a relative import": ("node/x.py", "from ..api import app", "node imports kodectl.api.app"),
    "the whole layer": ("runtime/x.py", "from kodectl import node", "runtime imports kodectl.node"),
    "a clock": ("wire/x.py", "import time", "wire imports time"),
    "a clock, by name": ("core/x.py", "from time import monotonic", "core imports time.monotonic"),
    "randomness": ("core/x.py", "def f():\n    import random", "core imports random"),
    "a generator made on the spot": ("core/x.py", "import random\nrng = random.Random()", "core imports random"),
    "a draw beside the type": ("core/x.py", "import random\nrandom.Random, random.random()", "core imports random"),
    "randomness of a library": (
        "wire/x.py",
        "from Crypto.Random import get_random_bytes",
        "wire imports Crypto.Random",
    ),
    "a socket": ("core/x.py", "import socket as s", "core imports socket"),
    "logging": ("wire/x.py", "import logging", "wire imports logging"),
    "gevent below the runtime's users": ("node/x.py", "import gevent.event", "node imports gevent.event"),
    "a real clock in the simulator": ("sim/x.py", "import time", "sim imports time"),
    "a folder that is no layer": ("extras/x.py", "", "extras is no layer"),
    "patching": ("api/x.py", "from gevent import monkey", "imports gevent.monkey"),
    "patching at a distance": ("api/x.py", "import gevent\ngevent.monkey.patch_all()", "patches"),
    "a vague name": ("core/string_utils.py", "", "a name that says nothing"),
}


@pytest.mark.parametrize(("file", "source", "problem"), MUTANTS.values(), ids=MUTANTS)
def test_a_violation_is_found(tmp_path: Path, file: str, source: str, problem: str) -> None:
    path = tmp_path / "kodectl" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = violations(tmp_path / "kodectl")
    assert len(found) >= 1
    assert all(line.startswith(file) for line in found)
    assert problem in found[0]


ALLOWED = {
    "an earlier layer": ("node/x.py", "from kodectl.core import table\nfrom kodectl.errors import WireError"),
    "its own layer": ("core/x.py", "from . import y"),
    "the patching module": ("cli/node_run.py", "def run():\n    from gevent import monkey\n    monkey.patch_all()"),
    "a generator as a type": ("core/x.py", "import random\ndef draw(rng: random.Random): ..."),
    "for type checkers alone": (
        "core/x.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from random import Random",
    ),
    "a longer name": ("wire/x.py", "import timeline"),
}


@pytest.mark.parametrize(("file", "source"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_is_left_alone(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / "kodectl" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path / "kodectl") == []
