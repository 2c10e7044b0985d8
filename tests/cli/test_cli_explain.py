"""No error code without an explanation: the source is searched for the codes that it uses."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_lines import options_asked

import kodectl
from kodectl.cli.explanations import EXIT_CODES, EXPLANATIONS, GROUPS
from kodectl.cli.main import cli
from kodectl.core.diagnosis import FOLLOWS_FROM
from kodectl.errors import ExitCode
from kodectl.runtime.binding import FAULT_CODES
from kodectl.wire.messages import DisconnectReason

PACKAGE = Path(kodectl.__file__).parent
SHELL = re.compile(r"; | && | \| ")
ELSEWHERE = {
    *FAULT_CODES.values(),
    *(reason.name.lower() for reason in DisconnectReason),
    # Outcomes of a dial (node.views.ConnectView) and reasons of a ping, which `explain` is pointed to.
    *("refused", "timeout", "unreachable", "not_resolved", "no_route", "recently_dialed", "already_connected"),
}


def codes_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="code", value=value) | ast.Assign(targets=[ast.Name(id="code")], value=value):
                yield from constants(value)
            case ast.Call(func=ast.Attribute(attr="warn"), args=[value, *_]):
                yield from constants(value)
            case ast.Call(func=ast.Name(id="Finding"), args=[_, _, _, value, *_]):
                yield from constants(value)


def constants(value: ast.AST) -> Iterator[str]:
    """The text itself, or the two of `a if x else b`; a variable is somebody else's constant."""
    for node in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def used() -> set[str]:
    found = set(ELSEWHERE)
    for path in PACKAGE.rglob("*.py"):
        found.update(codes_in(ast.parse(path.read_text(encoding="utf-8"))))
    return found


def test_every_code_in_the_source_is_explained() -> None:
    assert used() - set(EXPLANATIONS) == set()


def test_the_search_finds_what_is_there() -> None:
    assert {"usage", "key_exists", "identity_mismatch", "address_guessed", "port_in_use", "banned"} <= used()
    assert len(used()) > 80


def test_every_code_that_causes_others_is_explained() -> None:
    assert set(FOLLOWS_FROM) <= set(EXPLANATIONS)


def typed() -> list[str]:
    """The command lines of kodectl in entries, and in the hints that are whole constants, each once."""
    hints = [
        text for path in PACKAGE.rglob("*.py") for text in commands_in(ast.parse(path.read_text(encoding="utf-8")))
    ]
    parts = {
        part for line in (*(entry.command for entry in EXPLANATIONS.values()), *hints) for part in SHELL.split(line)
    }
    return sorted(part for part in parts if part.startswith("kodectl ") and "COMMAND" not in part and "..." not in part)


def commands_in(tree: ast.AST) -> Iterator[str]:
    """Of f-strings nothing is known."""
    if isinstance(tree, ast.JoinedStr):
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        text = tree.value
        if text.startswith("kodectl ") and "\n" not in text and not text.endswith(" "):
            yield text
    for child in ast.iter_child_nodes(tree):
        yield from commands_in(child)


@pytest.mark.parametrize("line", typed())
def test_what_an_entry_tells_to_type_can_be_typed(line: str) -> None:
    """Placeholders stand in capitals; the command and its options are there."""
    asked = options_asked(line)
    assert asked is not None, f"no such command: {line}"
    assert asked[0] <= asked[1]


def test_all_codes_are_listed_by_what_they_are_about() -> None:
    listed = CliRunner().invoke(cli, ["explain"]).stdout
    blocks = [block.splitlines() for block in listed.strip().split("\n\n")]
    assert [block[0] for block in blocks] == list(GROUPS)
    assert [{line.split()[0] for line in block[1:]} for block in blocks] == [set(group) for group in GROUPS.values()]
    told = json.loads(CliRunner().invoke(cli, ["explain", "--json"]).stdout)["data"]
    assert {row["code"]: row["subject"] for row in told["codes"]} == {
        code: subject for subject, group in GROUPS.items() for code in group
    }
    assert told["count"] == len(EXPLANATIONS)


@pytest.mark.parametrize("written", ["port_in_use", "PORT-IN-USE", "port in use"])
def test_a_code_is_found_however_it_is_written(written: str) -> None:
    done = CliRunner().invoke(cli, ["explain", written, "--json"])
    assert json.loads(done.stdout)["data"]["code"] == "port_in_use"


def test_exit_codes_are_found_however_they_are_written() -> None:
    texts = {
        CliRunner().invoke(cli, ["explain", written]).stdout for written in ("exit-codes", "exit_codes", "Exit codes")
    }
    assert len(texts) == 1
    assert "130" in texts.pop()


def test_the_nearest_code_is_named() -> None:
    done = CliRunner().invoke(cli, ["explain", "nat_symetric"])
    assert (done.exit_code, done.stdout) == (3, "")
    assert "Did you mean 'nat_symmetric'?" in done.stderr


def test_no_code_is_explained_twice() -> None:
    assert sum(map(len, GROUPS.values())) == len(EXPLANATIONS)


def test_every_exit_code_has_a_meaning() -> None:
    assert set(EXIT_CODES) == set(ExitCode)


@pytest.mark.parametrize("code", sorted(EXPLANATIONS))
def test_an_explanation_is_whole(code: str) -> None:
    cause, recognised, mend, command = EXPLANATIONS[code]
    assert cause.endswith(".")
    assert recognised.endswith(".")
    assert mend.endswith(".")
    assert not command.endswith(".") or command.endswith(" ...")
