"""Commands, groups, and the options that all of them take.

A command is parse, one call, print:

    from kodectl.cli.command import command
    from kodectl.cli.output import Outcome, Output, table

    @command("peers", epilog=examples("kodectl node peers --sort latency"))
    @setting("datadir", "api")                    # kodectl.cli.options: flag > KODECTL_* > file > default
    @time_limits(timeout_s=5, deadline_s=15)      # kodectl.cli.options: --timeout and --deadline
    @click.option("--sort", type=click.Choice(["latency", "trust"]))
    @click.pass_obj
    def peers(output: Output, datadir: Path, timeout_s: float, deadline_s: float, sort: str | None) -> Outcome:
        '''List the peers.'''                     # the first sentence is the summary in the group's help
        from kodectl.cli.client import connect    # whatever is heavier than click is imported here
        view = connect(datadir).peers(sort)
        return Outcome(view, text=table(["id", "latency"], ((peer.id, peer.latency_ms) for peer in view.peers)),
                       rows=view.peers)

The command is entered in `kodectl.cli.tree`, which is what `kodectl --help` and completion read: modules are imported
when one of their commands is needed; what its documents hold is entered in `kodectl.cli.documents`, for `--schema`. It
raises `KodectlError` for an answer that did not come (the class fixes the exit code), or returns an `Outcome` with
`failure` for an answer that is not a good one. A command that streams calls `output.emit(record, text)` for each record
and returns None; on SystemExit (a signal, the deadline: see `kodectl.cli.interrupts`) it emits its summary and raises on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from kodectl.cli.output import Format, Outcome, Output

PROGRAM = "kodectl"
COMPLETION_VARIABLE = "_KODECTL_COMPLETE"
"""Set by the completion scripts: the arguments are then a line to complete."""
GLOBAL_SECTION = "Options of every command"


class Branch:
    """A group: its help, and by name its commands (`module:attribute`, imported on demand) and groups."""

    __slots__ = ("children", "help")

    def __init__(self, help: str, children: Mapping[str, str | Branch]) -> None:
        self.help = help
        self.children = children


class GlobalOption(click.Option):
    """An option that may stand before or after the subcommand; it sets the `Output` and reaches no function."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, expose_value=False, is_eager=True, callback=_apply, **kwargs)


def _apply(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    output = ctx.find_object(Output)
    source = ctx.get_parameter_source(option.name or "")
    if output is None or source in (None, click.core.ParameterSource.DEFAULT):
        return
    match option.name:
        case "json":
            output.format = Format.JSON
        case "jsonl":
            output.format = Format.JSONL
        case "verbosity":
            output.verbosity += value
        case "schema":
            output.show_schema()
            ctx.exit()
        case name:
            setattr(output, str(name), value)


def global_options() -> list[click.Parameter]:
    return [
        GlobalOption(["--json", "json"], is_flag=True, help="Answer with one JSON document."),
        GlobalOption(["--jsonl", "jsonl"], is_flag=True, help="Answer with one JSON document a line."),
        GlobalOption(["-q", "--quiet", "quiet"], is_flag=True, help="Nothing on stderr but errors."),
        GlobalOption(["-v", "--verbose", "verbosity"], count=True, help="Log more; twice for debugging."),
        GlobalOption(["--log-format"], type=click.Choice(["text", "json"]), help="Form of the log on stderr."),
        GlobalOption(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            envvar="KODECTL_COLOR",
            help="Colour the text; auto: on a terminal, unless NO_COLOR is set.",
        ),
        GlobalOption(["--config", "config_path"], type=click.Path(), help="Read this configuration file."),
        GlobalOption(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]


class _WithGlobalOptions(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *global_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        output = ctx.find_object(Output)
        if output is not None:
            # The first word is the program's own name, however it was called.
            output.command = ".".join(_command_path(ctx))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records: dict[str, list[tuple[str, str]]] = {"Options": [], GLOBAL_SECTION: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                records[GLOBAL_SECTION if isinstance(parameter, GlobalOption) else "Options"].append(record)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        for section, entries in records.items():
            if entries:
                with formatter.section(section):
                    formatter.write_dl(entries)


class Command(_WithGlobalOptions):
    """Prints what its function returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        what = "Print the JSON Schema of what --json prints (with --jsonl: of a line), and do nothing else."
        self.params = [*self.params, GlobalOption(["--schema"], is_flag=True, help=what)]

    def invoke(self, ctx: click.Context) -> None:
        from kodectl.cli.interrupts import deadline

        with deadline(ctx.params.get("deadline_s")):
            outcome = super().invoke(ctx)
        if isinstance(outcome, Outcome):
            output = ctx.find_object(Output)
            assert output is not None, "the root group puts an Output into every context"
            output.finish(outcome)
            if outcome.failure is not None:
                ctx.exit(int(outcome.failure.exit))


class LazyGroup(_WithGlobalOptions, click.Group):
    """Imports a command when it is needed; its children are the table's."""

    def __init__(self, name: str | None = None, *, branch: Branch, **kwargs: Any) -> None:
        super().__init__(name, help=branch.help, no_args_is_help=True, **kwargs)
        self._children = branch.children

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._children)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        child = self._children.get(cmd_name)
        if isinstance(child, Branch):
            return LazyGroup(cmd_name, branch=child)
        return None if child is None else load(child)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._children and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {name!r}.{suggest(name, self._children)}", ctx)
        return super().resolve_command(ctx, args)


def load(target: str) -> click.Command:
    module, attribute = target.split(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, click.Command), target
    return found


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Command]:
    return click.command(name, cls=Command, **kwargs)


def examples(*lines: str) -> str:
    """The epilog of a command: what one would type."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def suggest(word: str, known: Any) -> str:
    """` Did you mean X?` when something known is near, else nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _command_path(ctx: click.Context) -> list[str]:
    names = []
    current: click.Context | None = ctx
    while current is not None and current.parent is not None:
        names.append(current.info_name or "")
        current = current.parent
    return names[::-1]
