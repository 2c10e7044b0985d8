"""The table of docs/conformance.md, from the cases themselves: `python tests/conformance/table.py` writes it anew.

A case is a test function of `test_*_cases.py`. Its section is the comment line of dashes above it, what is required its
docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
TABLE = DOCS / "conformance.md"
PROTOCOL = DOCS / "protocol.md"
HEAD = "| case | section | required |\n|---|---|---|\n"
_SECTION = re.compile(r"# -- (.*?) -+$")
_PREFIX = "test_"


class Case(NamedTuple):
    name: str
    section: str
    required: str


def cases() -> list[Case]:
    """In the order of protocol.md, and within a section in that of the files."""
    order = sections()
    found = [case for file in sorted(HERE.glob("test_*_cases.py")) for case in cases_of(file.read_text("utf-8"))]
    return sorted(found, key=lambda case: order.index(case.section))


def cases_of(source: str) -> Iterator[Case]:
    lines = source.splitlines()
    headings = {number: found[1] for number, line in enumerate(lines, 1) if (found := _SECTION.match(line))}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith(_PREFIX):
            above = max(number for number in headings if number < node.lineno)
            required = " ".join((ast.get_docstring(node) or "").split())
            yield Case(node.name.removeprefix(_PREFIX), headings[above], required)


def sections() -> list[str]:
    """The headings of docs/protocol.md, from the top."""
    return re.findall(r"^#+ (.+)$", PROTOCOL.read_text("utf-8"), re.MULTILINE)


def table() -> str:
    rows = [f"| `{case.name}` | {case.section} | {case.required.replace('|', chr(92) + '|')} |\n" for case in cases()]
    return HEAD + "".join(rows)


def main() -> None:
    text = TABLE.read_text("utf-8")
    TABLE.write_text(text[: text.index(HEAD)] + table(), "utf-8")


if __name__ == "__main__":
    main()
