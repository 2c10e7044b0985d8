"""What the documents tell people to type: every console block is run, and every other command line is one of the tree's."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from console_sessions import ROOT, run_session, session

from kodectl.cli.command import PROGRAM
from kodectl.cli.main import cli

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TOOLS = ("bash", "curl", "jq", "xargs")
NOT_HERE = [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.mark.skipif(bool(NOT_HERE), reason=f"needs {', '.join(NOT_HERE)}")
@pytest.mark.parametrize("name", ["docs/cookbook.md"])
def test_the_console_blocks_work_as_they_are_written(tmp_path: Path, name: str) -> None:
    lines = session((ROOT / name).read_text(encoding="utf-8"))
    assert len(lines) > 5
    print(run_session(lines, tmp_path))


def shown() -> list[tuple[str, str]]:
    """Every line of a block that begins with the program's name, by document."""
    found = []
    for path in DOCUMENTS:
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            found += [(path.name, line) for line in block.splitlines() if line.startswith(f"{PROGRAM} ")]
    return found


@pytest.mark.parametrize(("document", "line"), shown())
def test_what_is_shown_without_being_run_can_be_typed(document: str, line: str) -> None:
    # What is set apart by spaces is said about the command, not typed.
    typed = shlex.split(re.split(r"\s{3,}", line)[0], comments=True)[1:]
    command: click.Command = cli
    ctx = click.Context(cli, info_name=PROGRAM)
    while isinstance(command, click.Group) and typed:
        name, found, typed = command.resolve_command(ctx, typed)
        assert found is not None
        command, ctx = found, click.Context(found, info_name=name, parent=ctx, resilient_parsing=True)
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    asked = {word.partition("=")[0] for word in typed if word.startswith("--")}
    assert asked <= options | {"--json", "--jsonl"}
