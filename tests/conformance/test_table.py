"""docs/conformance.md says what the cases are, and the cases know nothing of the node but docs/protocol.md."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conformance.conftest import OTHERS_NODE
from conformance.table import HEAD, TABLE, cases, cases_of, sections, table

HERE = Path(__file__).parent
LEAST_CASES = 60
NODES_CODE = re.compile(r"^\s*(?:from|import)\s+kodectl|import_module|__import__", re.MULTILINE)
FOREIGN = {"conformance", "cryptography"}
"""Beside the standard library, what the client is made of; the cases have pytest too."""


def test_the_table_is_that_of_the_cases():
    text = TABLE.read_text("utf-8")
    assert text[text.index(HEAD) :] == table(), "python tests/conformance/table.py"


def test_each_case_has_a_name_of_its_own_a_section_and_a_requirement():
    found = cases()
    assert len({case.name for case in found}) == len(found) >= LEAST_CASES
    assert {case.section for case in found} <= set(sections())
    assert [case.name for case in found if not case.required.endswith(".")] == []


def test_a_case_of_no_section_is_an_error():
    with pytest.raises(ValueError):
        list(cases_of('def test_it():\n    """It."""\n'))


def test_nothing_here_imports_the_node():
    files = list(HERE.rglob("*.py"))
    assert len(files) >= 8
    assert [file.name for file in files if file != Path(__file__) and NODES_CODE.search(file.read_text("utf-8"))] == []


def test_the_client_needs_no_more_than_primitives():
    assert imported(HERE / "client") - sys.stdlib_module_names == FOREIGN
    assert imported(HERE) - sys.stdlib_module_names == FOREIGN | {"pytest"}


def imported(folder: Path) -> set[str]:
    """What the modules of a folder import, by the first name."""
    names: set[str] = set()
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "line", ["import kodectl", "    from kodectl.wire import frames", "import kodectl.errors as e"]
)
def test_an_import_of_the_node_is_found(line):
    assert NODES_CODE.search(f"import os\n{line}\n")


@pytest.mark.slow
def test_a_node_of_anybodys_can_be_tried(shared_nodes):
    """As docs/conformance.md has it; here it is one of ours."""
    enode = shared_nodes.start("others").enode
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-k",
        "hello_is_the_first or dialler_begins",
        HERE,
    ]
    done = subprocess.run(
        command, env={**os.environ, OTHERS_NODE: enode}, cwd=HERE.parents[1], capture_output=True, timeout=120
    )
    assert b"1 passed, 1 skipped" in done.stdout, done.stdout
