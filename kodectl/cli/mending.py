"""Commands to type, made whole: the options that the doctor was given belong to the node that is to be mended."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kodectl.cli.configuration import BY_KEY, Setting
from kodectl.wire.addresses import address_text

RUN = "kodectl node run"
WITH_ALL = (RUN, "kodectl doctor")
"""They take every setting."""
WITH_DATADIR = "kodectl node "
BETWEEN = "; "
AS_SOMEBODY = re.compile(r"^sudo (-u \S+ )?")


def with_restart(commands: str) -> str:
    """Of a node that runs: it is to end before it can begin anew."""
    return f"kodectl node stop{BETWEEN}{commands}" if RUN in commands else commands


def given_to(pid: int) -> tuple[dict[str, Any], str | None]:
    """Settings by key that the command line of a running node gives, and the configuration file that it names; nothing where
    that cannot be read (somebody else's process, or none that was started by `kodectl node run`)."""
    import click
    import psutil

    from kodectl.cli.node_run import run

    try:
        process = psutil.Process(pid)
        words, directory = process.cmdline(), process.cwd()
        place = words.index("run", words.index("node"))
    except (psutil.Error, OSError, ValueError):
        return {}, None
    ctx = run.make_context("run", words[place + 1 :], resilient_parsing=True)
    by_flag = click.core.ParameterSource.COMMANDLINE
    given = {
        key: value for key, value in ctx.params.items() if key in BY_KEY and ctx.get_parameter_source(key) is by_flag
    }
    if "datadir" in given:
        given["datadir"] = directory / given["datadir"]
    named = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--config"]
    return given, named[-1] if named else None


def whole(commands: str, given: Mapping[str, Any], config_path: str | None) -> str:
    """`given`: settings by key, as options gave them; what a command says itself comes before. No secret gets in."""
    return BETWEEN.join(_whole(command, given, config_path) for command in commands.split(BETWEEN))


def _whole(command: str, given: Mapping[str, Any], config_path: str | None) -> str:
    bare = AS_SOMEBODY.sub("", command)
    if bare.startswith(WITH_ALL):
        settings = [BY_KEY[key] for key in given]
    elif bare.startswith(WITH_DATADIR):
        settings = [BY_KEY["datadir"]]
    else:
        return command
    said = set(command.split())
    added = [word for setting in settings for word in _words(setting, given[setting.key]) if setting.option not in said]
    if config_path is not None and "--config" not in said:
        added = ["--config", config_path, *added]
    return " ".join([command, *map(shlex.quote, added)])


def _words(setting: Setting, value: Any) -> Iterator[str]:
    if value is None:
        return
    shown = setting.printable(value)
    if isinstance(shown, bool):
        yield setting.option if shown else f"--no-{setting.key}"
        return
    for one in shown if setting.many else (shown,):
        yield from (setting.option, address_text(*one) if isinstance(one, tuple) else str(one))
