"""How a command that serves is told to end: in order at the first signal, at once at the second."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack

import gevent
from gevent.event import Event

from kodectl.errors import ExitCode

log = logging.getLogger(__name__)


def watch_hangups(reload: Callable[[], object], leaving: Event, cleanup: ExitStack) -> None:
    """SIGHUP calls `reload`, to have the configuration read again. When it comes because the terminal has gone it asks to
    leave, unless the process was started to survive that (nohup)."""
    is_immune = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    had_terminal = not is_immune and has_terminal()

    def on_hangup() -> None:
        if had_terminal and not has_terminal():
            log.info("the terminal has gone: leaving")
            leaving.set()
        else:
            reload()

    watcher = gevent.signal_handler(signal.SIGHUP, on_hangup)
    cleanup.callback(watcher.cancel)


def has_terminal() -> bool:
    """Whether the process has a controlling terminal, which is there no more after it was hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def watch_signals(leaving: Event, cleanup: ExitStack) -> None:
    """The first SIGTERM or SIGINT asks to leave, the second ends the process at once; what serves survives that."""

    def on_signal(number: int, forced: ExitCode) -> None:
        if leaving.is_set():
            os._exit(int(forced))
        log.info("%s: leaving; once more ends the process at once", signal.Signals(number).name)
        leaving.set()

    for number, forced in ((signal.SIGTERM, ExitCode.SIGTERM), (signal.SIGINT, ExitCode.SIGINT)):
        watcher = gevent.signal_handler(number, on_signal, number, forced)
        cleanup.callback(watcher.cancel)
