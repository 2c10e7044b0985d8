"""No error code without an explanation: the source is searched for the codes that it uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kodectl
from kodectl.cli.explanations import EXIT_CODES, EXPLANATIONS, GROUPS
from kodectl.core.diagnosis import FOLLOWS_FROM
from kodectl.errors import ExitCode
from kodectl.runtime.binding import FAULT_CODES
from kodectl.wire.messages import DisconnectReason

PACKAGE = Path(kodectl.__file__).parent
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
