"""Command lines of documents and explanations, held against the tree of commands."""

from __future__ import annotations

import re
import shlex

import click

from kodectl.cli.command import PROGRAM
from kodectl.cli.main import cli


def options_asked(line: str) -> tuple[set[str], set[str]] | None:
    """The options of a line that begins with the program's name, and those that its command has; None where there is no such
    command."""
    # What is set apart by spaces is said about the command, not typed.
    typed = shlex.split(re.split(r"\s{3,}", line)[0], comments=True)[1:]
    command: click.Command = cli
    ctx = click.Context(cli, info_name=PROGRAM)
    while isinstance(command, click.Group) and typed and not typed[0].startswith("-"):
        name, found, typed = command.resolve_command(ctx, typed)
        if found is None:
            return None
        command, ctx = found, click.Context(found, info_name=name, parent=ctx, resilient_parsing=True)
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    asked = {word.partition("=")[0] for word in typed if word.startswith("--")}
    return asked, options | {"--json", "--jsonl", "--help", "--version"}
