"""A world of simulated hosts: one seed, one course of events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple

from greenlet import getcurrent

from kodectl.core.nat import Behavior
from kodectl.errors import LocalMisuse
from kodectl.runtime.base import TimedOut
from kodectl.runtime.tasks import Failure
from kodectl.sim.nat import UDP_TIMEOUT_S, Nat, NatRules
from kodectl.sim.network import Host, Network, PathModel
from kodectl.sim.realm import NAME_SEPARATOR, Realm
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.schedule import Schedule
from kodectl.sim.tasks import SimTasks
from kodectl.sim.trace import Trace
from kodectl.sim.translation import PortRule

RUN_LIMIT_S = 3_600.0
"""How long a condition is waited for: a node's timers go on for ever, and a test must not."""

WORLD_SCOPE = "world"


class Deadlock(Exception):
    """Tasks wait, and nothing will ever happen."""


class CallbackFault(NamedTuple):
    at_s: float
    host: str
    place: str
    error: Exception


class World:
    """Hosts on virtual time. The clock jumps to the next event as soon as every task waits.

    `strict`: an exception that a callback lets out comes out of `run`; otherwise it is kept in `callback_faults`, as a
    real node counts it and goes on. Used as a context manager, a world raises at its end the first failure of a task
    that no `join` has raised.

    Hosts go by their names (`runtime.name`): that of one on the internet is its address, that of one behind a box is
    like `router/192.168.1.2`. The box goes by its own."""

    def __init__(
        self, seed: int | str, model: PathModel | None = None, *, strict: bool = True, traces_contents: bool = True
    ) -> None:
        """`traces_contents`: whether the trace is of the bytes too. Those of QUIC differ from run to run: its library draws
        keys and ids by itself."""
        self.failures: list[Failure] = []
        self.callback_faults: list[CallbackFault] = []
        self.names: dict[str, list[str]] = {}
        """What `resolve` answers."""
        self._seed = str(seed)
        self._strict = strict
        self._hub = getcurrent()
        self._schedule = Schedule()
        self._trace = Trace(has_contents=traces_contents)
        self._network = Network(self._seed, model or PathModel(), self._schedule, self._trace, self._callback_failed)
        self._runtimes: dict[str, SimRuntime] = {}
        self._crashed: list[Host] = []
        self._fatal: Failure | None = None

    # Hosts

    @property
    def now(self) -> float:
        return self._schedule.now

    def host(self, ip: str, clock_offset_s: float = 0.0, *, behind: Nat | None = None) -> SimRuntime:
        """Adds a host, on the internet or `behind` a box."""
        realm = self._realm_behind(behind)
        realm.require_free(ip)
        return self._start(realm, ip, clock_offset_s)

    def nat(
        self,
        name: str,
        outer_ip: str,
        *,
        inner_ip: str = "192.168.1.1",
        mapping: Behavior = Behavior.ENDPOINT_INDEPENDENT,
        filtering: Behavior = Behavior.ADDRESS_AND_PORT_DEPENDENT,
        ports: PortRule = PortRule.PRESERVE,
        hairpin: bool = False,
        udp_timeout_s: float = UDP_TIMEOUT_S,
        udp_blocked: bool = False,
        behind: Nat | None = None,
    ) -> Nat:
        """Adds a box that translates, on the internet or `behind` another one."""
        if not name[:1].isalpha() or NAME_SEPARATOR in name or name in self._network.stations:
            raise LocalMisuse(f"a box cannot be called {name!r}, or one is already")
        rules = NatRules(
            mapping=mapping,
            filtering=filtering,
            ports=ports,
            hairpin=hairpin,
            udp_timeout_s=udp_timeout_s,
            udp_blocked=udp_blocked,
        )
        around = self._realm_behind(behind)
        around.require_free(outer_ip)
        nat = Nat(self._network, name, rules, around, outer_ip, inner_ip, self._seed)
        self._start(nat.inside, inner_ip, 0.0)
        return nat

    def crash(self, name: str) -> None:
        """The host loses power: nobody is told, and none of its tasks runs again."""
        host = self._runtimes[name].host
        if host.alive:
            host.crash()
            self._crashed.append(host)

    def restart(self, name: str) -> SimRuntime:
        """The host comes up again, with nothing running on it; crashes it first if need be."""
        self.crash(name)
        former = self._runtimes[name]
        return self._start(former.host.realm, former.ip, former.clock_offset_s)

    def _realm_behind(self, nat: Nat | None) -> Realm:
        return self._network.internet if nat is None else nat.inside

    def _start(self, realm: Realm, ip: str, clock_offset_s: float) -> SimRuntime:
        name, number = realm.name_of(ip), self._network.next_number()
        tasks = SimTasks(self._schedule, self._hub, name, self._task_failed)
        host = Host(self._network, tasks, realm, ip, number)
        runtime = self._runtimes[name] = SimRuntime(host, f"{self._seed} {name} {number}", clock_offset_s, self.names)
        if realm.gateway is not None and realm.gateway.inner_ip == ip:
            realm.gateway.started(runtime)
        self._network.place(host)
        return runtime

    # The network

    def lan(self, name: str, members: Iterable[str]) -> None:
        """Puts hosts on one segment: they hear each other's announcements. All are on the internet, or behind one box."""
        self._network.set_segment(name, members)

    def set_path(self, name: str, other_name: str, model: PathModel) -> None:
        """Of two that see each other without a box between. A box is a neighbour of those outside by its name, and of
        those inside by that of its inner address."""
        self._network.set_model(name, other_name, model)

    def partition(self, *islands: Iterable[str]) -> None:
        """Only hosts of one island reach each other; the hosts of none are one more island."""
        self._network.partition(islands)

    def cut(self, name: str, other_name: str, *, one_way: bool = False) -> None:
        """Takes away the way between two neighbours; `one_way`: only from the first to the second."""
        self._network.cut(name, other_name, one_way=one_way)

    def mend(self, name: str, other_name: str) -> None:
        self._network.mend(name, other_name)

    def heal(self) -> None:
        """Takes back every partition and cut."""
        self._network.heal()

    # Time

    def at(self, time_s: float, callback: Callable[[], Any]) -> None:
        """Runs `callback` between two events at the given time: for what happens to the world."""
        self._schedule.at(max(time_s, self.now), callback)

    def spawn(self, runtime: SimRuntime, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Starts a task of the scenario; its failure comes out of `run`."""
        runtime.scope(WORLD_SCOPE).spawn(name, function, *args)

    def call(self, runtime: SimRuntime, function: Callable[..., Any], *args: Any, limit_s: float = RUN_LIMIT_S) -> Any:
        """Runs `function` as a task of the host until it has returned, and gives its value or raises its failure."""
        outcome: list[Any] = []
        self.spawn(runtime, getattr(function, "__name__", "call"), lambda: outcome.append(function(*args)))
        if not self.run(lambda: bool(outcome), limit_s):
            raise TimedOut(f"{function!r} has not returned after {limit_s:g} s of virtual time")
        return outcome[0]

    def run_for(self, seconds: float) -> None:
        self.run(self.now + seconds)

    def run(self, until: float | Callable[[], bool] | None = None, limit_s: float = RUN_LIMIT_S) -> bool:
        """Lets events happen until a time (absolute), until a condition holds, or until every task has ended.

        For the latter two: false when it is not so after `limit_s`; raises Deadlock when it never will be."""
        if getcurrent() is not self._hub:
            raise LocalMisuse("a world runs in the greenlet that made it, and not inside its own tasks")
        if isinstance(until, int | float):
            self._run_to(until, None)
            return True
        done = until or self._all_ended
        self._run_to(self.now + limit_s, done)
        if done():
            return True
        if self._schedule.empty:
            raise Deadlock("nothing will ever happen, and these wait:\n  " + "\n  ".join(self.waiting()))
        return False

    def _run_to(self, time_s: float, done: Callable[[], bool] | None) -> None:
        self._schedule.run(time_s, done)
        if self._fatal is not None:
            failure, self._fatal = self._fatal, None
            failure.raised = True
            raise failure.error
        if done is None:
            self._schedule.now = max(self._schedule.now, time_s)

    def _all_ended(self) -> bool:
        return not any(runtime.host.tasks.running for runtime in self._runtimes.values())

    # What it tells

    def trace_hash(self) -> str:
        """A hash over time, kind, source, destination and bytes of everything sent so far."""
        return self._trace.hexdigest()

    def waiting(self) -> list[str]:
        """Every living task, with host, name, and where it waits."""
        return [line for runtime in self._runtimes.values() for line in runtime.host.tasks.report()]

    def _callback_failed(self, host: Host, place: str, error: Exception) -> None:
        if self._strict:
            raise error
        self.callback_faults.append(CallbackFault(self.now, host.name, place, error))

    def _task_failed(self, failure: Failure) -> None:
        self.failures.append(failure)
        if failure.task.startswith(f"{WORLD_SCOPE}/") and self._fatal is None:
            self._fatal = failure
            self._schedule.stop()

    # The end

    def close(self) -> None:
        """Takes every task down; suspended greenlets would keep all they hold for ever."""
        hosts = [*self._crashed, *(runtime.host for runtime in self._runtimes.values())]
        for host in hosts:
            host.tasks.end()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unseen = [failure for failure in self.failures if not failure.raised]
        self.close()
        if error is None and unseen:
            raise unseen[0].error
