"""The runtime on gevent.

Uses gevent's parts by name and needs no monkey-patching. A runtime belongs to the hub (thread) that made it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import gevent

from kodectl.errors import EnvironmentFault
from kodectl.runtime import streams
from kodectl.runtime.base import Address, Connection, LocalNetwork, Scope, Stream
from kodectl.runtime.binding import FAULT_CODES, HINTS
from kodectl.runtime.datagrams import GreenDatagramSocket
from kodectl.runtime.faults import CallbackFaults
from kodectl.runtime.green_tasks import GreenTasks, GreenTimer
from kodectl.runtime.lan import GreenLan
from kodectl.runtime.local_network import read_local_network
from kodectl.runtime.names import Names
from kodectl.runtime.tasks import TaskEvent, TaskMailbox, TaskScope
from kodectl.runtime.threads import Threads
from kodectl.runtime.turns import Turns

T = TypeVar("T")

WORK_THREADS = 4
"""For disk and key derivation: enough that one slow sync does not hold up a read; work past them waits its turn."""


class GreenRuntime:
    """See `runtime.base.Runtime`. `faults.counts` tells what callbacks have let out."""

    def __init__(self) -> None:
        self._hub = gevent.get_hub()
        self._tasks = GreenTasks(self._hub)
        self._workers = Threads(WORK_THREADS, self._hub)
        self._names = Names(self._hub)
        self._turns = Turns(self._hub)
        self._local_network: LocalNetwork | None = None
        self.faults = CallbackFaults()
        self.rng = random.Random()

    def now(self) -> float:
        return time.monotonic()

    def take_turn(self) -> None:
        self._turns.take()

    def task_count(self) -> int:
        return self._tasks.count

    def unix_time(self) -> float:
        return time.time()

    def random_bytes(self, size: int) -> bytes:
        return os.urandom(size)

    def scope(self, name: str) -> TaskScope:
        return TaskScope(self._tasks, name)

    def event(self) -> TaskEvent:
        return TaskEvent(self._tasks)

    def mailbox(self, limit: int) -> TaskMailbox[Any]:
        return TaskMailbox(self._tasks, limit)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> GreenTimer:
        return GreenTimer(self._hub, delay_s, callback, self.faults)

    def open_datagram(self, local: Address, receive: Callable[[bytes, Address], None]) -> GreenDatagramSocket:
        return GreenDatagramSocket(self._hub, local, receive, self.faults)

    def open_lan(self, port: int, receive: Callable[[bytes, Address], None]) -> GreenLan:
        return GreenLan(self._hub, port, receive, self.faults)

    def listen(self, local: Address, accept: Callable[[Connection], None]) -> streams.GreenListener:
        return streams.GreenListener(self._hub, local, accept, self.faults)

    def connect(
        self, remote: Address, timeout_s: float, local_port: int | None = None, scope: Scope | None = None
    ) -> streams.GreenStream:
        return streams.connect(self._hub, remote, timeout_s, local_port, scope)

    def connect_tls(self, remote: Address, timeout_s: float, name: str, ca_file: str | None = None) -> Stream:
        from kodectl.runtime import tls  # OpenSSL takes 20 ms to import

        context = self.in_thread(tls.trusting, ca_file)
        return tls.connect_tls(self, remote, timeout_s, name, context)

    def resolve(self, host: str, timeout_s: float, scope: Scope | None = None) -> list[str]:
        return self._names.resolve(host, timeout_s, scope)

    def local_network(self) -> LocalNetwork:
        try:
            self._local_network = read_local_network()
        except OSError as error:
            # Looking takes descriptors. Who has used them up must not make it seem that the network has changed, or is gone.
            if error.errno not in streams.EXHAUSTED:
                raise
            if self._local_network is None:
                why = f"cannot look at this machine's addresses: {error.strerror}"
                code = FAULT_CODES.get(error.errno, "environment")
                raise EnvironmentFault(why, code=code, hint=HINTS.get(code)) from error
        return self._local_network

    def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        value, error = self._workers.spawn(_outcome, function, args).get()
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Ends the threads, and waits for those that have no work. Sockets and scopes belong to who opened them."""
        self._turns.close()
        self._names.close()
        self._workers.end()


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Runs in a thread. A failure is a value: the pool would print what is raised."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error
