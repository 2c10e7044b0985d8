"""Another configuration for a node that runs: its file is read again at SIGHUP, and what can change takes effect.

A flag or a variable that was given at the start holds on. A file that is not valid changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kodectl.cli.config import as_plain, as_toml
from kodectl.cli.configuration import BY_KEY, Configuration
from kodectl.errors import KodectlError

if TYPE_CHECKING:
    from kodectl.node.events import Events

log = logging.getLogger("kodectl.config")

TAKEN_OVER = frozenset(
    {
        "api_names",
        "api_token",
        "bootstrap",
        "log_format",
        "log_level",
        "max_peers",
        "relay",
        "stun",
        "turn",
        "validators",
    }
)
"""Settings that a running node takes over; the others need a new start."""

Values = Mapping[str, Any]


class Changes(NamedTuple):
    """Keys: which take effect, which would with a new start, and which are written in the file but held otherwise by a flag
    or a variable."""

    applied: list[str]
    restart_needed: list[str]
    overridden: list[str]


def values_of(configuration: Configuration, flags: Values) -> dict[str, Any]:
    """Every setting. Raises LocalMisuse for the first that is wrong."""
    return {key: configuration.get(key).value for key in BY_KEY} | dict(flags)


def changes_between(running: Values, wanted: Values, configuration: Configuration) -> Changes:
    changed = [key for key in BY_KEY if running[key] != wanted[key]]
    return Changes(
        applied=[key for key in changed if key in TAKEN_OVER],
        restart_needed=[key for key in changed if key not in TAKEN_OVER],
        overridden=[key for key in BY_KEY if configuration.file_value(key, wanted[key]) != wanted[key]],
    )


class Reloading:
    """`load` reads the file; `apply` puts values into effect and says whether the API's token is another one now. Both
    raise KodectlError, and then nothing has changed."""

    def __init__(
        self, load: Callable[[], Configuration], apply: Callable[[Values], bool], running: Values, flags: Values
    ) -> None:
        self._load = load
        self._apply = apply
        self._running = dict(running)
        self._flags = flags

    def reload(self, events: Events) -> None:
        try:
            configuration = self._load()
            values = values_of(configuration, self._flags)
            changes = changes_between(self._running, values, configuration)
            before = dict(self._running)
            taken = before | {key: values[key] for key in changes.applied}
            is_other_token = self._apply(taken)
        except KodectlError as error:
            log.error("the configuration is not taken over, what held before still holds: %s", error.message)
            events.emit("config_refused", code=error.code, message=error.message, hint=error.hint)
            return
        self._running = taken
        file = None if configuration.file is None else str(configuration.file)
        tell(changes, before, values, is_other_token, file)
        events.emit("config_reloaded", file=file, api_token_changed=is_other_token, **changes._asdict())


def tell(changes: Changes, before: Values, after: Values, is_other_token: bool, file: str | None) -> None:
    """A line for each key."""
    log.info("read the configuration again: %s", file or "there is no file")
    for key in changes.applied:
        log.info("%s is now %s; it was %s", key, shown(key, after[key]), shown(key, before[key]))
    if is_other_token:
        log.info("the API's token is another one now")
    for key in changes.restart_needed:
        held, wanted = shown(key, before[key]), shown(key, after[key])
        log.warning("%s stays %s until the node is started again; then it is %s", key, held, wanted)
    for key in changes.overridden:
        log.info("%s stays %s: a flag or a variable comes before the file", key, shown(key, before[key]))
    if not (changes.applied or changes.restart_needed or is_other_token):
        log.info("nothing is other than before")


def shown(key: str, value: Any) -> str:
    """As in `config show`, on one line."""
    plain = as_plain(BY_KEY[key].printable(value))
    if isinstance(plain, list):
        return ", ".join(map(str, plain)) or "none"
    return as_toml(plain) if isinstance(plain, bool) else str(plain)
