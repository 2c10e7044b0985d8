"""`kodectl config`: which settings hold, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kodectl.cli.command import command, examples
from kodectl.cli.options import configuration_of
from kodectl.cli.output import Outcome, Output, table


@command("show", epilog=examples("kodectl config show --origin", "KODECTL_MAX_PEERS=9 kodectl config show --json"))
@click.option("--origin", is_flag=True, help="Name the source of each value.")
@click.pass_context
def show(ctx: click.Context, origin: bool) -> Outcome:
    """Show the settings that hold: variable, then file, then default."""
    from kodectl.cli.configuration import BY_KEY

    settings = configuration_of(ctx).check()
    values = {key: BY_KEY[key].printable(found.value) for key, found in settings.items()}
    data = {
        key: {"value": as_plain(values[key]), "origin": found.origin} if origin else as_plain(values[key])
        for key, found in settings.items()
    }
    headers = ("setting", "origin", "value") if origin else ("setting", "value")
    rows = (
        (key, found.origin, line) if origin else (key, line)
        for key, found in settings.items()
        for line in _lines(values[key])
    )
    return Outcome(data, table(headers, rows))


@command("check", epilog=examples("kodectl config check --config /etc/kodectl/config.toml"))
@click.pass_context
def check(ctx: click.Context) -> Outcome:
    """Check file and variables without starting anything."""
    configuration = configuration_of(ctx)
    settings = configuration.check()
    given = sum(found.origin != "default" for found in settings.values())
    file = None if configuration.file is None else str(configuration.file)
    text = f"{file or 'no configuration file'}: {given} of {len(settings)} settings given, all valid"
    return Outcome({"file": file, "given": given, "settings": len(settings)}, text)


@command("init", epilog=examples("kodectl config init", "kodectl config init --stdout > config.toml"))
@click.argument("file", required=False, type=click.Path(), metavar="[FILE]")
@click.option("--stdout", "to_stdout", is_flag=True, help="Print it instead of writing it.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.pass_obj
def init(output: Output, file: str | None, to_stdout: bool, force: bool) -> Outcome:
    """Write a configuration file with every setting, its meaning and its default, all commented out."""
    content = template()
    if to_stdout:
        return Outcome({"file": None, "content": content}, content.rstrip("\n"))
    import os

    from kodectl.cli.configuration import standard_files
    from kodectl.cli.identity import make_directory
    from kodectl.store.whole_file import write_whole

    path = Path(file or output.config_path or standard_files(os.environ)[0])
    if file is None:
        make_directory(path.parent)
    write_whole(path, content.encode(), replace=force)
    return Outcome({"file": str(path), "content": content}, f"wrote {path}")


def template() -> str:
    from kodectl.cli.configuration import SETTINGS

    lines = ["# kodectl. A command line flag, or a variable KODECTL_<SETTING>, comes before what is written here.", ""]
    for setting in SETTINGS:
        default = setting.default() if callable(setting.default) else setting.default
        lines += [f"# {setting.help}", f"# {setting.key} = {as_toml(default)}", ""]
    return "\n".join(lines)


def _lines(value: Any) -> list[str]:
    """A value for people: of several, each on a line of its own."""
    plain = as_plain(value)
    items = plain if isinstance(plain, list) else [plain]
    return [as_toml(item) if isinstance(item, bool) else str(item) for item in items] or ["-"]


def as_plain(value: Any) -> Any:
    """A setting's value as it is written in the file."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int):
        from kodectl.wire.addresses import address_text

        return address_text(*value)
    return [as_plain(item) for item in value] if isinstance(value, tuple) else value


def as_toml(value: Any) -> str:
    import json

    # JSON's text, numbers, switches and lists of text are TOML's as well.
    return json.dumps(as_plain(value), ensure_ascii=False)
