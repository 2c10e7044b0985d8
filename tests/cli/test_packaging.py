"""What installers, containers and the CI are told, as far as it can be read without them."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import kodectl

ROOT = Path(__file__).parents[2]
NAME_OF_IMPORT = {"nacl": "pynacl", "Crypto": "pycryptodome", "stun": "pystun3"}
USED_LATER = {"pystun3", "miniupnpc"}
"""Settled for NAT traversal; an entry leaves this list with the code that uses it."""


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of `setup`, without installing."""
    import setuptools

    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    exec(compile((ROOT / "setup.py").read_text(), str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    return given


def imported_packages() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "kodectl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def test_every_import_is_required_and_every_requirement_imported(metadata: dict[str, Any]) -> None:
    import sys

    required = {Requirement(text).name for text in metadata["install_requires"]}
    foreign = imported_packages() - set(sys.stdlib_module_names) - {"kodectl"}
    used = {NAME_OF_IMPORT.get(name, name).replace("_", "-") for name in foreign}
    assert used - required <= {"greenlet"}  # gevent's own, and part of its interface
    assert required - used <= USED_LATER


def test_installed_versions_are_within_the_bounds(metadata: dict[str, Any]) -> None:
    for text in metadata["install_requires"]:
        requirement = Requirement(text)
        assert importlib.metadata.version(requirement.name) in requirement.specifier


def test_the_package_is_whole(metadata: dict[str, Any]) -> None:
    assert metadata["version"] == kodectl.__version__
    assert {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "kodectl").rglob("__init__.py")} == set(
        metadata["packages"]
    )
    for _, files in metadata["data_files"]:
        assert files
        assert all((ROOT / name).is_file() for name in files)


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {kodectl.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# -- Dockerfile, by the rules of hadolint that matter here -----------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_the_container_has_two_stages_and_no_root() -> None:
    found = instructions()
    stages = [number for number, (name, _) in enumerate(found) if name == "FROM"]
    assert [found[number][1] for number in stages] == ["python:3.12-slim AS build", "python:3.12-slim"]
    last = found[stages[1] :]
    users = [argument for name, argument in last if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    after_user = last[[name for name, _ in last].index("USER") :]
    assert "RUN" not in [name for name, _ in after_user]


def test_the_container_starts_watches_and_stops_the_node() -> None:
    found = dict(instructions())
    assert found["HEALTHCHECK"].endswith('CMD ["kodectl", "node", "health", "live"]')
    assert (found["ENTRYPOINT"], found["CMD"]) == ('["kodectl"]', '["node", "run"]')
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert "KODECTL_DATADIR=/var/lib/kodectl" in found["ENV"]
    assert found["VOLUME"] == "/var/lib/kodectl"


def test_the_container_gets_all_that_setup_reads() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent >= {"setup.py", "pyproject.toml", "README.md", "kodectl", "man", "completions"}
    assert all((ROOT / name).exists() for name in sent)


def test_the_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
