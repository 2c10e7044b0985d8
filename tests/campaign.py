"""Whole networks on virtual time in bad weather, and what has to hold of them: a seed a run.

    python tests/campaign.py [--seeds 0-99] [--minutes 60] [--twice 10]

Each seed draws its network (nodes, boxes, latency, loss, duplication, reordering, churn) and its weather: islands, cuts, boxes
that forget or get another address, clocks that are set, disks that are full, and nodes that come again without what they had
saved, or with what was on the disk a while ago. When it has passed, the network is left alone, and then has to be whole. Prints
one JSON line a seed; `found` lists what did not hold. Exit code 1 if anything was found. `--twice 10`: every tenth seed runs
twice, and has to give one trace.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from kodectl.errors import EnvironmentFault, KodectlError
from kodectl.node.node import Node
from kodectl.node.persistence import MemoryStore
from kodectl.sim.course import MESSAGE_TYPES, Course, Life
from kodectl.sim.dht import public_ip
from kodectl.sim.garbage import seldom_collected
from kodectl.sim.population import FIRST, Member
from kodectl.sim.scenario import BOXES, OPEN, Scenario

CALM_S = 120.0
"""After the weather: boxes are found out again, partitions heal, digests are compared, backed off dials come."""
LONGEST_TROUBLE_S = 60.0
ASKED_AT_END = 12
"""Connections and values that are asked for when all is calm."""
CONNECT_LIMIT_S = 20.0
FAREWELL_S = 15.0
MAX_TASKS = 400
"""Of one node: 50 peers with a few each, and what it does of its own."""
KINDS_OF_TROUBLE = ("islands", "cut", "forget", "move", "clock", "disk")
MANY = 1 << 24
ELSEWHERE = 5_000
"""Numbers of addresses that boxes move to, beyond those of all members."""


class Disk(MemoryStore):
    """May be full, and may have kept what was written a while ago only."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.earlier: dict[str, Any] = {}

    def keep(self) -> None:
        self.earlier = copy.deepcopy({name: held for name, held in vars(self).items() if name != "earlier"})

    def go_back(self) -> None:
        vars(self).update(copy.deepcopy(self.earlier))
        self.is_full = False

    def _need_room(self) -> None:
        if self.is_full:
            raise EnvironmentFault("no space left on device", code="disk_full")

    def save_peers(self, *args: Any, **kwargs: Any) -> None:
        self._need_room()
        super().save_peers(*args, **kwargs)

    def save_bans(self, *args: Any, **kwargs: Any) -> None:
        self._need_room()
        super().save_bans(*args, **kwargs)

    def save_records(self, *args: Any, **kwargs: Any) -> None:
        self._need_room()
        super().save_records(*args, **kwargs)


def scenario_of(seed: int) -> Scenario:
    rng = random.Random(f"{seed} scenario")
    return Scenario(
        seed=seed,
        nodes=rng.randint(6, 24),
        duration_s=rng.choice((90.0, 180.0, 300.0)),
        latency_s=rng.choice((0.01, 0.05, 0.15)),
        loss=rng.choice((0.0, 0.01, 0.03, 0.05)),
        duplication=rng.choice((0.0, 0.0, 0.03)),
        reordering=rng.choice((0.0, 0.0, 0.05)),
        churn_per_min=rng.choice((0.0, 2.0, 6.0)),
        messages_per_min=rng.choice((10.0, 40.0)),
        connects_per_min=6.0,
        values_per_min=6.0,
    )


class Storm(Course):
    """The course of a scenario with trouble in it."""

    def __init__(self, scenario: Scenario) -> None:
        self._weather = random.Random(f"{scenario.seed} weather")
        self.troubles: Counter[str] = Counter()
        self.found: list[str] = []
        self.stale = 0
        self._moved = 0
        self._disks: dict[int, Disk] = {}
        super().__init__(scenario)
        self.length_s = self._stops_s + LONGEST_TROUBLE_S + CALM_S
        self._next(self._weather.choice((2.0, 6.0)), self._trouble)

    # -- the weather -----------------------------------------------------------------------------------------------

    def _trouble(self) -> None:
        kind = self._weather.choice(KINDS_OF_TROUBLE)
        self.troubles[kind] += 1
        lasts_s = self._weather.uniform(1.0, LONGEST_TROUBLE_S)
        over: Callable[[], None] = getattr(self, f"_{kind}")()
        self.world.at(self.world.now + lasts_s, over)

    def _islands(self) -> Callable[[], None]:
        names = [self._neighbour_name(member) for member in self.population.members]
        cut_off = self._weather.sample(names, self._weather.randint(1, len(names)))
        self.world.partition(cut_off)
        return self.world.heal

    def _cut(self) -> Callable[[], None]:
        one, other = (self._neighbour_name(member) for member in self._weather.sample(self.population.members, 2))
        self.world.cut(one, other, one_way=self._weather.random() < 0.3)
        return lambda: self.world.mend(one, other)

    def _forget(self) -> Callable[[], None]:
        for member in self._boxed():
            member.runtime.host.realm.gateway.forget()  # type: ignore[union-attr]
        return _nothing

    def _move(self) -> Callable[[], None]:
        for member in self._boxed()[:1]:
            self._moved += 1
            member.runtime.host.realm.gateway.change_address(public_ip(ELSEWHERE + self._moved))  # type: ignore[union-attr]
        return _nothing

    def _clock(self) -> Callable[[], None]:
        member = self._weather.choice(self.population.members)
        set_by = self._weather.choice((-86_400.0, -600.0, -20.0, 20.0, 600.0, 86_400.0))
        member.runtime.clock_offset_s = set_by

        def over() -> None:
            member.runtime.clock_offset_s = 0.0

        return over

    def _disk(self) -> Callable[[], None]:
        member = self._weather.choice(self.population.members)
        disk = self._disk_of(member)
        if self._weather.random() < 0.5:
            disk.keep()
            return lambda: self._come_back_with(member, disk.go_back)
        disk.is_full = True

        def over() -> None:
            disk.is_full = False

        return over

    def _come_back_with(self, member: Member, change: Callable[[], None]) -> None:
        """Loses power, and finds an old disk."""
        if member.node is None:
            return
        self.population.crash(member)
        change()
        self.population.come_again(member)
        self._came(member)

    def _boxed(self) -> list[Member]:
        behind = [member for member in self.population.members if member.kind != OPEN]
        return self._weather.sample(behind, min(len(behind), self._weather.randint(1, 3)))

    def _neighbour_name(self, member: Member) -> str:
        gateway = member.runtime.host.realm.gateway
        return member.runtime.name if gateway is None else gateway.name

    def _disk_of(self, member: Member) -> Disk:
        assert isinstance(member._store, Disk)
        return member._store

    def _publish_as(self, publisher: Member, payload: bytes) -> None:
        if not publisher.runtime.clock_offset_s:  # nobody takes a message from tomorrow
            super()._publish_as(publisher, payload)

    def _join(self) -> None:
        member = self.population.add(Disk())
        self._came(member)

    # -- what has to hold ------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The network is calm: what is asked of it now has to come off."""
        self.found += [f"exception: {fault}" for fault in self._faults()]
        self.found += self._overlay()
        self.found += self._incomplete()
        self.found += self._bounds()
        self.found += self._connections()
        self.found += self._values()
        self.found += self._farewell()

    def _incomplete(self) -> Iterator[str]:
        """What anybody who is there has is with all who were there when it was published."""
        there = {Life(member.number, member.lives) for member in self.population.present}
        for message_id, one in self._published.items():
            missing = (one.audience & there) - one.delays_s.keys()
            if missing and there & {one.publisher, *one.delays_s}:
                yield f"message {message_id[:8]} of {one.at_s:.0f} s has not come to {sorted(missing)}"
        for member in self.population.present:
            told = [
                event.data["id"] for event in node_of(member).events.since(0, MANY, MESSAGE_TYPES, max_size=MANY).events
            ]
            if len(set(told)) < len(told):
                yield f"{member.number} was told {len(told) - len(set(told))} messages twice"

    def _overlay(self) -> Iterator[str]:
        """Everybody is linked, and with all others over some."""
        linked = {member.id: member for member in self.population.present}
        for member in linked.values():
            if not member.is_linked:
                yield f"{member.number} {member.kind} has no peer"
        if not linked:
            return
        met, edge = set(), [next(iter(linked))]
        while edge:
            here = edge.pop()
            if here not in met and here in linked:
                met.add(here)
                edge += list(node_of(linked[here]).peering.links)
        if len(met) < len(linked):
            yield f"{len(met)} of {len(linked)} hang together"

    def _bounds(self) -> Iterator[str]:
        for member in self.population.present:
            node = node_of(member)
            tasks, under_way = member.runtime.task_count(), len(node.discovery.requests)
            if tasks > MAX_TASKS:
                yield f"{member.number} has {tasks} tasks"
            if under_way > 64:
                yield f"{member.number} has {under_way} questions under way"
            if len(node.peering.links) > node.settings.max_peers:
                yield f"{member.number} has {len(node.peering.links)} peers"

    def _connections(self) -> Iterator[str]:
        for _ in range(ASKED_AT_END):
            asker, target = self._weather.sample(self.population.present, 2)
            view = self.world.call(asker.runtime, node_of(asker).connect, target.id.hex(), CONNECT_LIMIT_S)
            if view.outcome not in ("connected", "already_connected"):
                where = f"{asker.number} {asker.kind} to {target.number} {target.kind}"
                yield f"{where}: {view.outcome} at {view.stage}, {view.detail}"

    def _values(self) -> Iterator[str]:
        """Whoever asks gets what anybody who is there holds. Where it was written in two islands, that may be the older of
        the two, until the holders republish it within the hour: counted in `stale`."""
        held: dict[bytes, int] = {}
        for member in self.population.present:
            values = node_of(member).values
            for record in [record for key in list(values.store.keys()) for record in values.held(key)]:
                held[record.key] = max(held.get(record.key, 0), record.sequence)
        askers = [member for member in self.population.present if not BOXES[member.kind].get("udp_blocked")]
        for key in self._weather.sample(sorted(held), min(len(held), ASKED_AT_END)):
            asker = self._weather.choice(askers)
            records = self.world.call(asker.runtime, node_of(asker).values.get, key)
            newest = max((record.sequence for record in records), default=0)
            self.stale += 0 < newest < held[key]
            if not newest:
                yield f"{asker.number} {asker.kind} finds nothing under {key.hex()[:8]}, and {held[key]} is there"

    def _farewell(self) -> Iterator[str]:
        """Who stops leaves nothing behind."""
        for member in self.population.present[FIRST:][:4]:
            node = node_of(member)
            self.world.call(member.runtime, node.stop)
            member.node = None
            self.world.run_for(FAREWELL_S)
            host = member.runtime.host
            left = [line for line in host.tasks.report() if "world/" not in line]
            if left:
                yield f"{member.number} has stopped, and goes on: {left[:3]}"
            if host.sockets or host.listeners:
                yield f"{member.number} has stopped, and listens at {[*host.sockets, *host.listeners]}"


def node_of(member: Member) -> Node:
    assert member.node is not None
    return member.node


def _nothing() -> None:
    pass


def run(seed: int) -> dict[str, Any]:
    began = time.monotonic()
    with Storm(scenario_of(seed)) as storm:
        try:
            storm.advance(storm.length_s)
            storm.finish()
        except KodectlError as error:
            storm.found.append(f"{error!r}")
        return {
            "seed": seed,
            "nodes": storm.scenario.nodes,
            "virtual_s": round(storm.world.now),
            "wall_s": round(time.monotonic() - began, 1),
            "troubles": dict(sorted(storm.troubles.items())),
            "stale": storm.stale,
            "found": storm.found,
            "trace": storm.world.trace_hash(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-19")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--twice", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    first, _, last = arguments.seeds.partition("-")
    ends = time.monotonic() + 60.0 * arguments.minutes
    has_found = False
    for seed in range(int(first), int(last or first) + 1):
        if time.monotonic() > ends:
            break
        with seldom_collected():
            result = run(seed)
            if arguments.twice and seed % arguments.twice == 0 and run(seed)["trace"] != result["trace"]:
                result["found"].append("the second run was another one")
        has_found = has_found or bool(result["found"])
        print(json.dumps(result), flush=True)
    return has_found


if __name__ == "__main__":
    sys.exit(main())
