"""How a command that serves is told to end: in order at the first signal, at once at the second."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack

import gevent
from gevent.event import Event

from kodectl.errors import ExitCode

log = logging.getLogger(__name__)


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
