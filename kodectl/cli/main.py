"""The root of the command tree, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from kodectl import __version__
from kodectl.cli.command import COMPLETION_VARIABLE, PROGRAM, Branch, LazyGroup
from kodectl.cli.interrupts import DeadlineAlarm, Terminated, signals
from kodectl.cli.output import Format, Output, PipeClosed
from kodectl.cli.tree import TREE
from kodectl.errors import DeadlineReached, EnvironmentFault, ExitCode, KodectlError, LocalMisuse


class InterruptedBySignal(KodectlError):
    code = "interrupted"
    exit = ExitCode.SIGINT


class TerminatedBySignal(KodectlError):
    code = "terminated"
    exit = ExitCode.SIGTERM


class Root(LazyGroup):
    """Stands in for click's `main`: click knows exit codes 0, 1 and 2 only, and prints no documents."""

    def main(  # type: ignore[override]  # click's overloads tell standalone calls apart; here every call is one
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        arguments = list(sys.argv[1:] if args is None else args)
        if os.environ.get(COMPLETION_VARIABLE):
            from kodectl.cli.completion import complete

            sys.exit(complete(self, arguments))
        if None in (sys.stdin, sys.stdout, sys.stderr):
            from kodectl.cli import standard_streams

            standard_streams.fill_in()
        output = Output(_format_asked(arguments))
        with signals():
            code = _run(self, arguments, output)
        sys.exit(code)


def _run(root: Root, arguments: list[str], output: Output) -> int:
    """Runs the command and answers the exit code; whatever went wrong has been told."""
    try:
        failure = _failure_of(root, arguments, output)
        if isinstance(failure, int):
            return failure
        output.fail(failure)
        return int(failure.exit)
    except PipeClosed:
        return int(ExitCode.SIGPIPE)
    except EnvironmentFault as error:  # stdout itself cannot be written
        output.format = Format.TEXT
        output.fail(error)
        return int(error.exit)


def _failure_of(root: Root, arguments: list[str], output: Output) -> KodectlError | int:
    """What ended the command: the exit code when all is said, else the error to tell."""
    try:
        with root.make_context(PROGRAM, arguments, obj=output) as ctx:
            root.invoke(ctx)
        return int(ExitCode.OK)
    except click.exceptions.Exit as error:
        return error.exit_code
    except KodectlError as error:
        return error
    except click.ClickException as error:
        return _usage(error, output)
    except (KeyboardInterrupt, click.Abort) as error:
        return _caused(InterruptedBySignal("interrupted"), error)
    except Terminated as error:
        return _caused(TerminatedBySignal("terminated"), error)
    except DeadlineAlarm as error:
        return _caused(DeadlineReached(f"the deadline of {error.deadline_s:g} s has passed"), error)
    except PipeClosed:
        raise
    except BrokenPipeError as error:  # of click, which prints help by itself; commands translate those of sockets
        raise PipeClosed from error
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _caused(EnvironmentFault(f"{named}{error.strerror or error}"), error)
    except Exception as error:
        if _is_out_of_memory(error):
            why = "the system grants this process too little memory"
            return _caused(EnvironmentFault(why, code="out_of_memory"), error)
        hint = "this is a bug in kodectl: run it again with --debug, and report what it shows"
        return _caused(KodectlError(f"{type(error).__name__}: {error}", hint=hint), error)


def _is_out_of_memory(error: Exception) -> bool:
    """Also of a library that cannot be loaded for want of it, of which only the linker's words tell."""
    return isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map segment" in str(error))


def _usage(error: click.ClickException, output: Output) -> KodectlError:
    ctx = getattr(error, "ctx", None)
    hint = f"{ctx.command_path} --help" if ctx is not None else f"{PROGRAM} --help"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        output.note(error.format_message())
        message = "no command was given"
    else:
        # On one line: click indents its lists of choices.
        message = " ".join(error.format_message().split())
    return _caused(LocalMisuse(message, hint=hint), error)


def _caused(error: KodectlError, cause: BaseException) -> KodectlError:
    """`error`, which with --debug shows the traceback of `cause`."""
    error.__cause__ = cause
    return error


def _format_asked(arguments: list[str]) -> Format:
    """The format that an error in the arguments themselves is told in, before click has understood them."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--jsonl" in own:
        return Format.JSONL
    return Format.JSON if "--json" in own else Format.TEXT


def _show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


# Not click's version_option: that imports gettext's locale machinery, 1 ms for one line.
_VERSION = click.Option(
    ["-V", "--version"],
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)

cli = Root(
    PROGRAM,
    branch=Branch("Run a node of the KodeChain peer-to-peer network, and operate the network.", TREE),
    params=[_VERSION],
)


def main() -> None:
    """The process. Ends without taking the interpreter down where gevent's threads may still run: one that wakes up
    meanwhile (a name server that answers late) unwinds its greenlet's stack, and that crashes."""
    try:
        cli.main()
    except MemoryError:  # not even enough to say so in the usual way
        os.write(2, b"kodectl: error: the system grants this process too little memory\n")
        os._exit(int(ExitCode.ENVIRONMENT))
    except SystemExit as end:
        if "gevent" not in sys.modules:
            raise
        # All output is flushed as it is written.
        os._exit(end.code if isinstance(end.code, int) else int(ExitCode.INTERNAL))
