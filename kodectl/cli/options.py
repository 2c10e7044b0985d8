"""Options that several commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from kodectl.cli.output import Output
from kodectl.errors import EnvironmentFault, LocalMisuse

if TYPE_CHECKING:
    from kodectl.cli.configuration import Configuration, Setting

MAX_LIMIT_S = 7 * 86_400.0
"""No time limit is longer than a week: it is finite, and a timer can hold it."""
MAX_TARGETS = 100_000
"""How many lines are read from stdin; a list of every node one knows is shorter."""
MAX_LINE = 4_096
"""No target is as long, even inside a JSON object."""

NODE_KEYS = (
    "datadir",
    "listen",
    "discovery_port",
    "api",
    "api_token",
    "api_names",
    "bootstrap",
    "max_peers",
    "nat",
    "stun",
    "turn",
    "relay",
    "lan",
    "network",
    "validators",
)
"""Settings of a node: what `node run` takes, and the doctor examines."""

Function = Callable[..., Any]
CONFIGURATION = "kodectl.configuration"


class Seconds(click.ParamType[float]):
    """A time: above zero, finite."""

    name = "seconds"

    def __init__(self, most_s: float = MAX_LIMIT_S) -> None:
        self.most_s = most_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= self.most_s:
            self.fail(f"{value!r} is not a number of seconds above 0, at most {self.most_s:.0f}", param, ctx)
        return seconds


class Parsed(click.ParamType[Any]):
    """What a function makes of text; its ValueError("what it should be") is the usage error, which does not repeat a secret."""

    def __init__(
        self, parse: Callable[[str], Any], name: str, choices: tuple[str, ...] = (), *, is_secret: bool = False
    ) -> None:
        self.parse = parse
        self.name = name
        self.choices = choices
        self.is_secret = is_secret

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            return self.fail(f"{'this' if self.is_secret else repr(value)} is not {error}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if self.name in ("directory", "file"):
            return [CompletionItem(incomplete, type="dir" if self.name == "directory" else "file")]
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]


def setting(*keys: str) -> Callable[[Function], Function]:
    """The options of these settings; the function gets their values by key, from flag, variable, file or default."""

    def decorate(function: Function) -> Function:
        for key in reversed(keys):
            function = _setting_option(key)(function)
        return function

    return decorate


def given_settings(*keys: str) -> Callable[[Function], Function]:
    """The same options, for a command that looks into the configuration itself; it gets what flags say, else None or ()."""

    def decorate(function: Function) -> Function:
        for key in reversed(keys):
            function = _option_of(BY_KEY[key], None)(function)
        return function

    from kodectl.cli.configuration import BY_KEY

    return decorate


def time_limits(timeout_s: float, deadline_s: float) -> Callable[[Function], Function]:
    """`--timeout` (one operation) and `--deadline` (the whole command); every network command has both."""

    def decorate(function: Function) -> Function:
        function = seconds("deadline", deadline_s, "Limit for the whole command.")(function)
        return seconds("timeout", timeout_s, "Limit for one operation.")(function)

    return decorate


def seconds(name: str, default_s: float, help_: str) -> Callable[[Function], Function]:
    """The option `--name`, which the function gets as `name_s`."""
    return click.option(
        f"--{name}",
        f"{name}_s",
        type=Seconds(),
        default=f"{default_s:g}",
        show_default=True,
        metavar="SECONDS",
        help=help_,
    )


def configuration_of(ctx: click.Context) -> Configuration:
    """Read when the first setting is needed, so that what needs none starts without it."""
    if CONFIGURATION not in ctx.meta:
        from kodectl.cli.configuration import load_configuration

        output = ctx.find_object(Output)
        ctx.meta[CONFIGURATION] = load_configuration(output.config_path if output else None)
    loaded: Configuration = ctx.meta[CONFIGURATION]
    return loaded


def read_targets(targets: tuple[str, ...], *, name: str = "TARGET") -> Iterator[str]:
    """The targets of the command line; `-` stands for the lines of stdin, as they come.

    A line is a target, or a JSON object with `enode`, `target`, `addr` or `id` (itself or in its `data`). Empty lines
    and lines that begin with # are skipped."""
    if not targets:
        raise LocalMisuse(f"no {name} given", hint="give some as arguments, or - to read them from stdin")
    for target in targets:
        if target == "-":
            yield from _lines_of_stdin()
        else:
            yield target


def read_input(file: str, limit: int) -> bytes:
    """The first `limit` bytes of a file, or of stdin for `-`. Raises EnvironmentFault (file_unreadable)."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(limit)
        with open(file, "rb") as stream:
            return stream.read(limit)
    except OSError as error:
        raise EnvironmentFault(f"cannot read {file}: {error.strerror}", code="file_unreadable") from error


def _setting_option(key: str) -> Callable[[Function], Function]:
    from kodectl.cli.configuration import BY_KEY

    described = BY_KEY[key]

    def resolve(ctx: click.Context, parameter: click.Parameter, given: Any) -> Any:
        if ctx.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE:
            return given
        # Completion and help need no values, and a broken file must not break them.
        return None if ctx.resilient_parsing else configuration_of(ctx).get(key).value

    return _option_of(described, resolve)


def _option_of(described: Setting, resolve: Callable[..., Any] | None) -> Callable[[Function], Function]:
    names, kind = _declaration(described)
    default = f" [default: {described.default_text}]" if described.default_text else ""
    decorate: Callable[[Function], Function] = click.option(
        *names, callback=resolve, help=described.help + default, **kind
    )
    return decorate


def _declaration(described: Setting) -> tuple[list[str], dict[str, Any]]:
    """The names of the setting's option, and what click is to know beside them."""
    if isinstance(described.default, bool):
        return [f"{described.option}/--no-{described.option[2:]}", described.key], {"default": None}
    name = described.metavar.lower()
    kind = Parsed(described.parse, name, described.choices, is_secret=described.without_secret is not None)
    metavar = "|".join(described.choices) or described.metavar
    return [described.option, described.key], {"type": kind, "multiple": described.many, "metavar": metavar}


def _lines_of_stdin() -> Iterator[str]:
    stream = sys.stdin.buffer
    for number in range(1, MAX_TARGETS + 1):
        line = stream.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise LocalMisuse(f"line {number} of stdin has more than {MAX_LINE} bytes", code="input_too_long")
        text = line.decode(errors="replace").strip()
        if text and not text.startswith("#"):
            yield _target_in_object(text, number) if text.startswith("{") else text
    if stream.readline(1):
        raise LocalMisuse(f"more than {MAX_TARGETS} lines on stdin", code="input_too_long")


def _target_in_object(text: str, number: int) -> str:
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LocalMisuse(f"line {number} of stdin is not JSON: {error}", code="input_malformed") from error
    inner = found.get("data") if isinstance(found.get("data"), dict) else {}
    for field in ("enode", "target", "addr", "id"):
        for holder in (found, inner):
            if isinstance(holder.get(field), str):
                return str(holder[field])
    raise LocalMisuse(f"line {number} of stdin has no enode, target, addr or id", code="input_malformed")
