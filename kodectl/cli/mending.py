"""Commands to type, made whole: the options that the doctor was given belong to the node that is to be mended."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kodectl.cli.configuration import BY_KEY, Setting
from kodectl.wire.addresses import address_text

WITH_ALL = ("kodectl node run", "kodectl doctor")
"""They take every setting."""
WITH_DATADIR = "kodectl node "
BETWEEN = "; "


def whole(commands: str, given: Mapping[str, Any], config_path: str | None) -> str:
    """`given`: settings by key, as options gave them; what a command says itself comes before. No secret gets in."""
    return BETWEEN.join(_whole(command, given, config_path) for command in commands.split(BETWEEN))


def _whole(command: str, given: Mapping[str, Any], config_path: str | None) -> str:
    if command.startswith(WITH_ALL):
        settings = [BY_KEY[key] for key in given]
    elif command.startswith(WITH_DATADIR):
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
