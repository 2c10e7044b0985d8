"""The runtime of one simulated host."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kodectl.errors import NegativeAnswer
from kodectl.runtime.base import Address, ConnectFailed, Connection, LocalNetwork, Scope, Stopped
from kodectl.runtime.tasks import TaskEvent, TaskMailbox, TaskScope
from kodectl.sim import streams
from kodectl.sim.network import Host, SimDatagramSocket, SimLan
from kodectl.sim.schedule import SimTimer

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""The wall clock of every world starts here, in January 2027."""

THREAD_TIME_S = 0.001
"""What work off the hub takes: long enough for other tasks to run meanwhile."""

RESOLUTION_TIME_S = 0.02


class SimRuntime:
    """See `runtime.base.Runtime`. Lives until its host crashes; the restarted host has another."""

    def __init__(self, host: Host, seed: str, clock_offset_s: float, names: Mapping[str, list[str]]) -> None:
        self.host = host
        self.ip = host.ip
        self.name = host.name
        """What the world calls it; addresses repeat behind boxes that translate."""
        self.clock_offset_s = clock_offset_s
        """How far the wall clock is off; may be changed at any time, and then the clock jumps."""
        # One generator for decisions and one for secrets, as outside: how much is drawn of one must not move the other.
        self.rng = random.Random(f"{seed} decisions")
        self._secrets = random.Random(f"{seed} secrets")
        self._schedule = host.tasks.schedule
        self._names = names

    def now(self) -> float:
        return self._schedule.now

    def take_turn(self) -> None:
        """No time passes while a task works."""

    def task_count(self) -> int:
        return self.host.tasks.count

    def unix_time(self) -> float:
        return EPOCH + self._schedule.now + self.clock_offset_s

    def random_bytes(self, size: int) -> bytes:
        return self._secrets.randbytes(size)

    def scope(self, name: str) -> TaskScope:
        return TaskScope(self.host.tasks, name)

    def event(self) -> TaskEvent:
        return TaskEvent(self.host.tasks)

    def mailbox(self, limit: int) -> TaskMailbox[Any]:
        return TaskMailbox(self.host.tasks, limit)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> SimTimer:
        return self._schedule.timer(delay_s, lambda: self._call(callback))

    def _call(self, callback: Callable[[], None]) -> None:
        if not self.host.alive:
            return
        try:
            callback()
        except Exception as error:
            self.host.network.callback_failed(self.host, "timer", error)

    def open_datagram(self, local: Address, receive: Callable[[bytes, Address], None]) -> SimDatagramSocket:
        return SimDatagramSocket(self.host, local, receive)

    def open_lan(self, port: int, receive: Callable[[bytes, Address], None]) -> SimLan:
        return SimLan(self.host, port, receive)

    def listen(self, local: Address, accept: Callable[[Connection], None]) -> streams.SimListener:
        return streams.SimListener(self.host, local, accept)

    def connect(
        self, remote: Address, timeout_s: float, local_port: int | None = None, scope: Scope | None = None
    ) -> streams.SimStream:
        return streams.connect(self.host, remote, timeout_s, local_port or 0, scope)

    def connect_tls(
        self, remote: Address, timeout_s: float, name: str, ca_file: str | None = None
    ) -> streams.SimStream:
        raise ConnectFailed("unreachable", "the simulated network has no TLS")

    def resolve(self, host: str, timeout_s: float, scope: Scope | None = None) -> list[str]:
        if host[:1].isdigit() or ":" in host:
            return [host]
        self._pass_time(min(RESOLUTION_TIME_S, timeout_s))
        if scope is not None and scope.closed:
            raise Stopped
        if host not in self._names or timeout_s < RESOLUTION_TIME_S:
            raise NegativeAnswer(f"host name {host!r} does not resolve", code="name_not_resolved")
        return list(self._names[host])

    def local_network(self) -> LocalNetwork:
        gateway = self.host.realm.gateway
        inner_ip = None if gateway is None or gateway.inner is self.host else gateway.inner_ip
        return LocalNetwork((self.ip, "127.0.0.1"), self.ip, inner_ip, None, None)

    def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        self._pass_time(THREAD_TIME_S)
        return function(*args)

    def _pass_time(self, seconds: float) -> None:
        self.host.tasks.waiters().wait(seconds)
