"""What the documents tell people to type: every console block is run, and every other command line is one of the tree's."""

from __future__ import annotations

import re
import shutil

import pytest
from command_lines import options_asked
from console_sessions import ROOT, run_session, session

from kodectl.cli.command import PROGRAM

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TOOLS = ("bash", "curl", "jq", "xargs")
NOT_HERE = [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.mark.skipif(bool(NOT_HERE), reason=f"needs {', '.join(NOT_HERE)}")
@pytest.mark.parametrize(
    "name", ["docs/api-guide.md", "docs/configuration.md", "docs/cookbook.md", "docs/nat-guide.md", "docs/operating.md"]
)
def test_the_console_blocks_work_as_they_are_written(name: str) -> None:
    lines = session((ROOT / name).read_text(encoding="utf-8"))
    assert len(lines) > 2
    print(run_session(lines))


def shown() -> list[tuple[str, str]]:
    """Every line of a block that begins with the program's name, by document."""
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            found += [(path.name, line) for line in block.splitlines() if line.startswith(f"{PROGRAM} ")]
    return found


@pytest.mark.parametrize(("document", "line"), shown())
def test_what_is_shown_without_being_run_can_be_typed(document: str, line: str) -> None:
    asked = options_asked(line)
    assert asked is not None
    assert asked[0] <= asked[1]
