"""`kodectl explain`: what a code means, and what mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.command import command, examples, suggest
from kodectl.cli.output import Outcome, table
from kodectl.cli.wording import folded
from kodectl.errors import NegativeAnswer

if TYPE_CHECKING:
    from kodectl.cli.explanations import Explanation

EXIT_CODES = "exit-codes"


class CodeType(click.ParamType[str]):
    """Any text; completed with the codes that there are."""

    name = "code"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        from kodectl.cli.explanations import EXPLANATIONS

        return [CompletionItem(code) for code in (EXIT_CODES, *EXPLANATIONS) if code.startswith(incomplete)]


@command("explain", epilog=examples("kodectl explain identity_mismatch", "kodectl explain exit-codes"))
@click.argument("code", type=CodeType(), required=False)
def explain(code: str | None) -> Outcome:
    """Explain an error code, or the exit codes.

    An entry has the cause, how it was recognised, what mends it, and the command. Without CODE: all codes, by what they
    are about.
    """
    if code is None:
        return _all_codes()
    name = "_".join(code.lower().replace("-", " ").split())
    return _exit_codes() if name == EXIT_CODES.replace("-", "_") else _one(code, name)


def _one(code: str, name: str) -> Outcome:
    from kodectl.cli.explanations import EXPLANATIONS

    found = EXPLANATIONS.get(name)
    if found is None:
        message = f"there is no code {code!r}.{suggest(name, EXPLANATIONS)}"
        raise NegativeAnswer(message, code="not_found", hint="kodectl explain lists all codes")
    entry = _entry(_subject_of(name), name, found)
    return Outcome(entry, "\n".join(_line(name, text, max(map(len, entry))) for name, text in entry.items()))


def _line(name: str, text: str | None, width: int) -> str:
    """The command stays whole: it is there to be copied."""
    shown = text if name == "command" else text and folded(text, width + 2)
    return f"{click.style(name.ljust(width), bold=True)}  {shown or '-'}"


def _subject_of(code: str) -> str:
    from kodectl.cli.explanations import GROUPS

    return next(subject for subject, group in GROUPS.items() if code in group)


def _entry(subject: str, code: str, found: Explanation) -> dict[str, str | None]:
    return {"code": code, "subject": subject, **found._asdict(), "command": found.command or None}


def _all_codes() -> Outcome:
    from kodectl.cli.explanations import GROUPS

    groups = {subject: sorted(group.items()) for subject, group in GROUPS.items()}
    rows = [_entry(subject, code, found) for subject, group in groups.items() for code, found in group]
    width = max(len(str(row["code"])) for row in rows)
    blocks = [
        "\n".join(
            [
                click.style(subject, bold=True),
                *(f"  {code.ljust(width)}  {folded(found.cause, width + 4)}" for code, found in group),
            ]
        )
        for subject, group in groups.items()
    ]
    return Outcome({"codes": rows, "count": len(rows)}, "\n\n".join(blocks), rows=rows)


def _exit_codes() -> Outcome:
    from kodectl.cli.explanations import EXIT_CODES as MEANINGS

    rows = [{"exit": int(code), "name": code.name.lower(), "meaning": text} for code, text in MEANINGS.items()]
    text = table(("code", "meaning"), ((row["exit"], row["meaning"]) for row in rows))
    return Outcome({"exit_codes": rows}, text, rows=rows)
