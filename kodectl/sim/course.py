"""The course of a scenario: nodes join, some go and come, all the while they broadcast, connect, put and get.

What happens when, and to whom, comes from the seed alone. Nothing that is measured changes anything in the world: who
reads the report of a run that was cut short has the same first half as of one that was not.
"""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from kodectl.errors import KodectlError
from kodectl.node.views import ConnectView
from kodectl.runtime.base import Stopped
from kodectl.sim.network import PathModel
from kodectl.sim.population import Member, Population
from kodectl.sim.report import (
    ConnectsReport,
    MessagesReport,
    NodesReport,
    SimReport,
    ValuesReport,
    spread_of,
)
from kodectl.sim.scenario import BOXES, Scenario
from kodectl.sim.world import World

JOIN_EVERY_S = 0.5
SETTLE_S = 45.0
"""After joining, and before the last look: NATs are found out, links made, and what was lost on the way is asked for
again."""
CONNECT_LIMIT_S = 20.0
LOOK_AT_PATH_S = 25.0
"""After a connect: the longest spray is over."""
GET_AFTER_S = 5.0
VALUE_TTL_S = 3_600.0
PAYLOAD_SIZE = 200
CRASH_SHARE = 0.5
AGAIN_SHARE = 0.5
"""Of those that come during the churn, where somebody has gone before."""
MESSAGE_TYPES = frozenset({"transaction"})


class Life(NamedTuple):
    """A member, from one start to the next end."""

    number: int
    life: int


class Published:
    """One message. `audience`: who was linked when it was published."""

    def __init__(self, at_s: float, publisher: Life, audience: set[Life]) -> None:
        self.at_s = at_s
        self.publisher = publisher
        self.audience = audience
        self.delays_s: dict[Life, float] = {}


class Course:
    """`advance` lets virtual time pass; `report` tells how it stands. Used as a context manager, for the greenlets of the
    simulated tasks are ended with it."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        model = PathModel(
            latency_s=scenario.latency_s,
            spread_s=scenario.latency_s * 0.6,
            loss=scenario.loss,
            duplication=scenario.duplication,
            reordering=scenario.reordering,
        )
        self.world = World(scenario.seed, model, strict=False, traces_contents=False)
        self._rng = random.Random(f"{scenario.seed} course")
        self.population = Population(self.world, scenario, self._rng)
        self._begins_s = scenario.nodes * JOIN_EVERY_S + SETTLE_S
        self._stops_s = self._begins_s + scenario.duration_s
        self.length_s = self._stops_s + SETTLE_S
        self._came_at: dict[Life, float] = {}
        self._first_peer_s: list[float] = []
        self._counts: Counter[str] = Counter()
        self._published: dict[str, Published] = {}
        self._outcomes: Counter[str] = Counter()
        self._usable_s: list[float] = []
        self._put_s: list[float] = []
        self._get_s: list[float] = []
        self._gone: list[Member] = []
        self._plan()

    def __enter__(self) -> Course:
        return self

    def __exit__(self, *_: object) -> None:
        self.world.close()

    @property
    def is_over(self) -> bool:
        return self.world.now >= self.length_s

    def advance(self, seconds: float) -> None:
        self.world.run(min(self.length_s, self.world.now + seconds))

    # -- what happens when -----------------------------------------------------------------------------------------

    def _plan(self) -> None:
        for number in range(self.scenario.nodes):
            self.world.at(number * JOIN_EVERY_S, self._join)
        scenario = self.scenario
        for per_minute, happens in (
            (scenario.churn_per_min, self._churn),
            (scenario.messages_per_min, self._publish),
            (scenario.connects_per_min, self._connect),
            (scenario.values_per_min, self._put),
        ):
            self._next(per_minute, happens)

    def _next(self, per_minute: float, happens: Callable[[], None]) -> None:
        """The times are those of a Poisson process, drawn one by one: a long scenario is not laid out in advance."""

        def now() -> None:
            happens()
            self._next(per_minute, happens)

        if not per_minute:
            return
        at_s = max(self.world.now, self._begins_s) + self._rng.expovariate(per_minute / 60.0)
        if at_s < self._stops_s:
            self.world.at(at_s, now)

    def _join(self) -> None:
        self._came(self.population.add())

    def _came(self, member: Member) -> None:
        self._counts["came"] += 1
        self._came_at[Life(member.number, member.lives)] = self.world.now
        self.world.spawn(member.runtime, "watch", self._watch, member)
        self.world.spawn(member.runtime, "first peer", self._await_peer, member)

    def _churn(self) -> None:
        candidates = [member for member in self.population.present if not member.is_first]
        if not candidates:
            return
        going = self._rng.choice(candidates)
        self._counts["went"] += 1
        if self._rng.random() < CRASH_SHARE:
            self._counts["crashed"] += 1
            self.population.crash(going)
        else:
            self.population.stop(going)
        self._gone.append(going)
        if len(self._gone) > 1 and self._rng.random() < AGAIN_SHARE:
            # Not the one that has just gone: it may still be saying goodbye.
            coming = self._gone.pop(self._rng.randrange(len(self._gone) - 1))
            self._counts["came_again"] += 1
            self.population.come_again(coming)
            self._came(coming)
        else:
            self._join()

    # -- what nodes do ---------------------------------------------------------------------------------------------

    def _watch(self, member: Member) -> None:
        """Notes when messages come, for as long as this life lasts."""
        node, life = member.node, Life(member.number, member.lives)
        assert node is not None
        again, seen = member.runtime.event(), 0
        node.events.watch(again, MESSAGE_TYPES)
        while True:
            found = node.events.since(seen, types=MESSAGE_TYPES)
            seen = found.next
            for event in found.events:
                published = self._published.get(str(event.data["id"]))
                if published is not None:
                    published.delays_s.setdefault(life, self.world.now - published.at_s)
            again.wait()
            again.clear()

    def _await_peer(self, member: Member) -> None:
        node, began = member.node, self.world.now
        assert node is not None
        again = member.runtime.event()
        node.events.watch(again, frozenset({"peer_connected"}))
        while not node.peering.links:
            again.wait()
            again.clear()
        node.events.unwatch(again)
        self._first_peer_s.append(self.world.now - began)

    def _publish(self) -> None:
        linked = self.population.linked
        if not linked:
            return
        publisher = self._rng.choice(linked)
        payload = self._rng.randbytes(PAYLOAD_SIZE)
        self.world.spawn(publisher.runtime, "publish", self._publish_as, publisher, payload)

    def _publish_as(self, publisher: Member, payload: bytes) -> None:
        node = publisher.node
        if node is None:
            return
        audience = {Life(one.number, one.lives) for one in self.population.linked if one is not publisher}
        published = Published(self.world.now, Life(publisher.number, publisher.lives), audience)
        try:
            view = node.broadcast("transaction", payload, "gossip")
        except (KodectlError, Stopped):
            return
        self._published[view.id] = published

    def _connect(self) -> None:
        linked = self.population.linked
        if len(linked) < 2:
            return
        asker, target = self._rng.sample(linked, 2)
        assert asker.node is not None
        if target.id in asker.node.peering.links:
            return
        self._counts["connects"] += 1
        self.world.spawn(asker.runtime, "connect", self._connect_as, asker, target)

    def _connect_as(self, asker: Member, target: Member) -> None:
        node, began, lives = asker.node, self.world.now, (asker.lives, target.lives)
        assert node is not None
        try:
            view: ConnectView = node.connect(target.id.hex(), CONNECT_LIMIT_S)
        except Stopped:
            self._outcomes["gone"] += 1
            return
        usable_s = self.world.now - began
        if view.outcome not in ("connected", "already_connected"):
            is_there = target.node is not None and lives == (asker.lives, target.lives)
            self._outcomes[view.outcome if is_there else "gone"] += 1
            return
        self._usable_s.append(usable_s)
        asker.runtime.event().wait(LOOK_AT_PATH_S)
        peer = node.peering.links.get(target.id)
        self._outcomes["gone" if peer is None else peer.route.path] += 1

    def _put(self) -> None:
        # The DHT is spoken over UDP alone.
        able = [member for member in self.population.linked if not BOXES[member.kind].get("udp_blocked")]
        if len(able) < 2:
            return
        putter, getter = self._rng.sample(able, 2)
        key, value = self._rng.randbytes(16), self._rng.randbytes(PAYLOAD_SIZE)
        self.world.spawn(putter.runtime, "put", self._put_as, putter, getter, key, value)

    def _put_as(self, putter: Member, getter: Member, key: bytes, value: bytes) -> None:
        node, began = putter.node, self.world.now
        if node is None:
            return
        try:
            node.dht_put(key, value, VALUE_TTL_S)
        except KodectlError:
            self._counts["not_put"] += 1
            return
        except Stopped:
            return
        self._put_s.append(self.world.now - began)
        get = partial(self._get, getter, getter.lives, key, value)
        self.world.at(self.world.now + GET_AFTER_S, get)

    def _get(self, getter: Member, life: int, key: bytes, value: bytes) -> None:
        if getter.node is not None and getter.lives == life:
            self.world.spawn(getter.runtime, "get", self._get_as, getter, key, value)

    def _get_as(self, getter: Member, key: bytes, value: bytes) -> None:
        node, began = getter.node, self.world.now
        if node is None:
            return
        try:
            records = node.dht_get(key).records
        except KodectlError:
            self._counts["lost"] += 1
            return
        except Stopped:
            return
        if base64.b64encode(value).decode() in [record.value for record in records]:
            self._get_s.append(self.world.now - began)
        else:
            self._counts["lost"] += 1

    # -- how it stands ---------------------------------------------------------------------------------------------

    def report(self, wall_s: float, ended: str = "complete") -> SimReport:
        return SimReport(
            self.scenario.seed,
            ended,
            round(self.world.now, 3),
            round(wall_s, 3),
            self._nodes(),
            self._messages(),
            self._connects(),
            ValuesReport(
                len(self._put_s),
                self._counts["not_put"],
                len(self._get_s),
                self._counts["lost"],
                spread_of(self._put_s),
                spread_of(self._get_s),
            ),
            list(self._faults()),
            self.world.trace_hash(),
        )

    def _nodes(self) -> NodesReport:
        present = self.population.present
        peers = [len(member.node.peering.links) for member in present if member.node is not None]
        counts = self._counts
        return NodesReport(
            len(present),
            dict(sorted(Counter(member.kind for member in present).items())),
            sum(not count for count in peers),
            counts["came"],
            counts["came_again"],
            counts["went"],
            counts["crashed"],
            spread_of(self._first_peer_s),
            spread_of(peers),
        )

    def _messages(self) -> MessagesReport:
        there = {Life(member.number, member.lives) for member in self.population.present}
        due = [one for one in self._published.values() if one.at_s <= self.world.now - SETTLE_S]
        wanted = [(one, life) for one in due for life in one.audience & there]
        missing = sum(life not in one.delays_s for one, life in wanted)
        delays_s = [one.delays_s[life] for one, life in wanted if life in one.delays_s]
        return MessagesReport(len(due), len(wanted), missing, spread_of(delays_s))

    def _connects(self) -> ConnectsReport:
        outcomes = Counter(self._outcomes)
        direct, relayed, gone = (outcomes.pop(name, 0) for name in ("direct", "relay", "gone"))
        failed = dict(sorted(outcomes.items()))
        asked = self._counts["connects"]
        # Who asked may be gone as well, and its task with it.
        gone += asked - direct - relayed - gone - outcomes.total() if self.is_over else 0
        return ConnectsReport(asked, direct, relayed, gone, failed, spread_of(self._usable_s))

    def _faults(self) -> Iterator[str]:
        """And lets the world end without raising them once more."""
        for failure in self.world.failures:
            failure.raised = True
            yield f"{failure.task}: {failure.error!r}"
        for fault in self.world.callback_faults:
            yield f"{fault.host} at {fault.at_s:.3f} s, {fault.place}: {fault.error!r}"
