"""What a service manager is told of the node, by the protocol of sd_notify(3): datagrams of lines to a unix socket.

Written out, since it is one datagram; libsystemd's binding needs a compiler and the library's headers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress

from kodectl.runtime.base import Scope

BEATS = 3
"""Signs of life in the time after which systemd takes the node for dead: one may be late."""
MICROSECONDS = 1_000_000


class Supervisor:
    """Does nothing where none listens. Nothing waits but `keep_alive`."""

    def __init__(self, environment: MutableMapping[str, str], pid: int) -> None:
        """Takes its variables away, so that no child speaks for this process."""
        self._place = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        is_for_us = environment.pop("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog_s = int(watchdog_us) / MICROSECONDS if is_for_us and watchdog_us.isdecimal() else None

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=leaving")

    def keep_alive(self, scope: Scope, is_alive: Callable[[], bool]) -> None:
        """Until the scope closes. A hub that stands still says nothing, nor does a node whose tasks have failed."""
        while self.watchdog_s:
            if is_alive():
                self._tell("WATCHDOG=1")
            scope.sleep(self.watchdog_s / BEATS)

    def _tell(self, *lines: str) -> None:
        if not self._place.startswith(("/", "@")):
            return
        address = "\0" + self._place[1:] if self._place.startswith("@") else self._place
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)
