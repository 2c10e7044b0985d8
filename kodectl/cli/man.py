"""Manual pages, made from the command tree: one for each command and group.

The macros are man(7)'s; text is escaped so that no word of a help text becomes a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from kodectl import __version__
from kodectl.api.files import SOCKET_FILE, TOKEN_FILE
from kodectl.cli.command import PROGRAM, Command, GlobalOption, command, examples
from kodectl.cli.output import Outcome
from kodectl.errors import LocalMisuse

RELEASED = "2026-11-22"
"""The date in the pages' footers: of the release, so that making them again changes nothing."""
SECTION = 1
LAYOUT = (".nh", ".ad l")
"""Neither hyphenated nor justified: a name or an option that is broken at the end of a line cannot be copied."""
EXIT_CODES_TOLD = re.compile(r"\s*\bExit code \d.*?\.(?=\s+[A-Z]|$)")
"""The sentence of a docstring that tells a command's own exit codes."""


@command("man", epilog=examples("kodectl man key gen | man -l -", "kodectl man > kodectl.1"))
@click.argument("words", nargs=-1, metavar="[COMMAND...]")
@click.pass_context
def man(ctx: click.Context, words: tuple[str, ...]) -> Outcome:
    """Print the manual page of a command, as groff source."""
    pages = all_pages(ctx.find_root().command)
    name = "-".join((PROGRAM, *words))
    page = pages.get(f"{name}.{SECTION}")
    if page is None:
        raise LocalMisuse(f"there is no command {' '.join(words)!r}", code="usage", hint=f"{PROGRAM} --help")
    return Outcome({"name": name, "page": page}, page.rstrip("\n"))


def all_pages(root: click.Command) -> dict[str, str]:
    """File name to page, of the whole tree."""
    ctx = click.Context(root, info_name=PROGRAM, **root.context_settings)
    return {f"{page_name(found)}.{SECTION}": page_of(found) for found in _walk(ctx)}


def page_name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def page_of(ctx: click.Context) -> str:
    lines = [
        f'.TH {_escape(page_name(ctx).upper())} {SECTION} {RELEASED} "{PROGRAM} {__version__}" "{PROGRAM} manual"',
        *LAYOUT,
        ".SH NAME",
        rf"{_escape(page_name(ctx))} \- {_escape(_summary(ctx.command))}",
        ".SH SYNOPSIS",
        rf"\fB{_escape(ctx.command_path)}\fR {_escape(' '.join(ctx.command.collect_usage_pieces(ctx)))}",
        ".SH DESCRIPTION",
        *_description(ctx.command),
        *_commands(ctx),
        *_options("OPTIONS", ctx, of_every_command=False),
    ]
    lines += _root_sections(ctx) if ctx.parent is None else _of_every_command(ctx)
    lines += [*_examples(ctx.command), ".SH SEE ALSO", ", ".join(_see_also(ctx))]
    return "\n".join(lines) + "\n"


def _walk(ctx: click.Context) -> Iterator[click.Context]:
    yield ctx
    for name, found in _children(ctx):
        yield from _walk(click.Context(found, info_name=name, parent=ctx, **found.context_settings))


def _children(ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(ctx.command, click.Group):
        return
    for name in ctx.command.list_commands(ctx):
        found = ctx.command.get_command(ctx, name)
        if found is not None and not found.hidden:
            yield name, found


def _summary(found: click.Command) -> str:
    return (found.help or "").partition("\n")[0].strip().rstrip(".")


def _description(found: click.Command) -> list[str]:
    """Without what stands under EXIT STATUS, nor the sentence that stands under NAME, unless there is no other."""
    text = [" ".join(part.split()) for part in (found.help or "").split("\n\n")]
    paragraphs = [rest for part in text if (rest := EXIT_CODES_TOLD.sub("", part).strip())]
    lines: list[str] = []
    if len(paragraphs) > 1:
        del paragraphs[0]
    for number, paragraph in enumerate(paragraphs):
        lines += [".PP"] * (number > 0) + [_escape(paragraph)]
    return lines


def _commands(ctx: click.Context) -> list[str]:
    lines = [".SH COMMANDS"]
    for name, found in _children(ctx):
        page = f"{page_name(ctx)}-{name}"
        lines += [".TP", rf"\fB{_escape(page)}\fR({SECTION})", _escape(_summary(found)) + "."]
    return lines if len(lines) > 1 else []


def _options(title: str, ctx: click.Context, *, of_every_command: bool) -> list[str]:
    lines = [f".SH {title}"]
    for option in ctx.command.get_params(ctx):
        record = option.get_help_record(ctx)
        if record is None or isinstance(option, click.Argument) or isinstance(option, GlobalOption) != of_every_command:
            continue
        names, text = record
        lines += [".TP", rf"\fB{_escape(names)}\fR", _escape(" ".join(text.split())) or r"\&"]
    return lines if len(lines) > 1 else []


def _root_sections(ctx: click.Context) -> list[str]:
    from kodectl.cli.configuration import SETTINGS
    from kodectl.cli.explanations import EXIT_CODES

    # A command has one more of them than a group.
    lines = _options("OPTIONS OF EVERY COMMAND", click.Context(Command(PROGRAM)), of_every_command=True)
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", rf"\fB{int(code)}\fR", _escape(f"{meaning}.")]
    lines += [".SH ENVIRONMENT"]
    for setting in SETTINGS:
        lines += [".TP", rf"\fB{setting.variable}\fR", _escape(_in_a_variable(setting.help))]
    lines += [".TP", r"\fBNO_COLOR\fR", "When set, text is not coloured.", ".SH FILES"]
    for file, what in _files():
        lines += [".TP", rf"\fI{_escape(file)}\fR", _escape(what)]
    return lines


def _in_a_variable(text: str) -> str:
    return text.replace("; repeatable.", "; several stand with commas between them.")


def _of_every_command(ctx: click.Context) -> list[str]:
    root = rf"\fB{PROGRAM}\fR({SECTION})"
    lines = (
        []
        if isinstance(ctx.command, click.Group)
        else [".PP", f"Those of every command, such as \\-\\-json, are in {root}, with the variables and the files."]
    )
    own = EXIT_CODES_TOLD.search(" ".join((ctx.command.help or "").split()))
    return [*lines, ".SH EXIT STATUS", *_exit_status(own[0].strip() if own else "", root)]


def _exit_status(own: str, root: str) -> list[str]:
    if not own:
        return [f"0 when all is well; {root} has what the others mean."]
    success = "" if own.startswith("Exit code 0") else "0 when all is well. "
    return [f"{success}{_escape(own)} {root} has what the others mean."]


def _files() -> Iterator[tuple[str, str]]:
    from kodectl.cli.identity import KEY_FILE  # what reads keys is nothing that the list of commands should wait for

    yield "$XDG_CONFIG_HOME/kodectl/config.toml", "The configuration, unless --config names another."
    yield "/etc/kodectl/config.toml", "The configuration where the user has none."
    yield "$XDG_DATA_HOME/kodectl", "The data directory, unless --datadir names another."
    yield KEY_FILE, "There: the identity, for its owner alone to read."
    yield SOCKET_FILE, "There, while the node runs: the socket by which the commands reach it."
    yield TOKEN_FILE, "There, if made: the token of the API, for its owner alone to read."


def _examples(found: click.Command) -> list[str]:
    lines = [line.strip() for line in (found.epilog or "").replace("\b", "").splitlines()]
    shown = [line for line in lines if line and line != "Examples:"]
    if not shown:
        return []
    return [".SH EXAMPLES", ".nf", *(_escape(line) for line in shown), ".fi"]


def _see_also(ctx: click.Context) -> Iterator[str]:
    parent = ctx.parent
    if parent is None:
        names = [f"{PROGRAM}-{name}" for name, _ in _children(ctx)]
    else:
        siblings = (f"{page_name(parent)}-{name}" for name, _ in _children(parent) if name != ctx.info_name)
        names = [PROGRAM] * (parent.parent is not None) + [page_name(parent), *siblings]
    for name in names:
        yield rf"\fB{_escape(name)}\fR({SECTION})"


def _escape(text: str) -> str:
    """Text that groff shows as it is: hyphens as typed, no word taken for a request or a quote."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
