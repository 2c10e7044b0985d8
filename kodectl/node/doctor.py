"""Checks, run side by side: each in a task and with a limit of its own, so that one which hangs or breaks spoils only itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kodectl.core.diagnosis import ORDER, Finding, State
from kodectl.errors import KodectlError
from kodectl.node.doctor_views import Examined
from kodectl.runtime.base import Runtime, Stopped, TimedOut

log = logging.getLogger(__name__)

END_LIMIT_S = 0.3
"""For tasks of checks that were given up; what still waits in a thread ends with the process."""


class Check(NamedTuple):
    name: str
    examine: Callable[[], Finding]
    """Waits. Raises what it likes."""
    limit_s: float


def examine(
    runtime: Runtime, checks: Sequence[Check], limit_s: float, report: Callable[[Examined], None]
) -> list[Examined]:
    """Runs them all and answers in the order of the diagnosis. Waits `limit_s` at most; `report` hears of each as it ends,
    in the task that called."""
    scope = runtime.scope("doctor")
    ended = runtime.mailbox(2 * len(checks) + 1)
    began = runtime.now()
    waiting = {check.name: check for check in checks}
    timers = []
    for check in checks:
        scope.spawn(f"check {check.name}", _examine, runtime, check, ended.put)
        timers.append(runtime.call_later(min(check.limit_s, limit_s), _giver_up(check, ended.put)))
    found: list[Examined] = []
    try:
        while waiting:
            name, finding = ended.get(max(0.0, began + limit_s + END_LIMIT_S - runtime.now()))
            if waiting.pop(name, None) is not None:
                is_late = finding is None
                found.append(Examined(finding or given_up(name, runtime.now() - began), runtime.now() - began, is_late))
                report(found[-1])
    except TimedOut:
        found += [Examined(given_up(name, runtime.now() - began), runtime.now() - began, True) for name in waiting]
    finally:
        for timer in timers:
            timer.cancel()
        scope.close()
        scope.join(END_LIMIT_S)
    return sorted(found, key=lambda one: ORDER.index(one.finding.check))


def _examine(runtime: Runtime, check: Check, tell: Callable[[tuple[str, Finding | None]], bool]) -> None:
    try:
        finding = check.examine()
    except Stopped:
        finding = None
    except KodectlError as error:
        finding = Finding(check.name, State.UNKNOWN, f"it could not be checked: {error.message}", error.code)
    except Exception as error:  # a check that has a bug, or meets a machine that nobody has thought of
        log.warning("the check %s has failed", check.name, exc_info=error)
        seen = f"the check itself has failed: {type(error).__name__}: {error}"
        finding = Finding(check.name, State.UNKNOWN, seen, "internal_error")
    tell((check.name, finding))


def _giver_up(check: Check, tell: Callable[[tuple[str, Finding | None]], bool]) -> Callable[[], None]:
    def give_up() -> None:
        tell((check.name, None))

    return give_up


def given_up(name: str, after_s: float) -> Finding:
    return Finding(name, State.UNKNOWN, f"no result within {after_s:.0f} s; the check was given up", "deadline")
