"""Broadcasts in bad company, on virtual time: gossip cores, many seeds.

    python tests/gossip_campaign.py [--scenario NAME] [--seeds 1-20] [--size N]

One JSON line a seed: `missing` deliveries at live honest nodes of messages that any of them has, seconds until the last had each
message and until 99 of 100 had it, payload copies a node where they are of interest, and how often honest peers lost trust
(`wronged`). Exit code 1 if anything is missing. That nothing is delivered twice is asserted at each delivery.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from typing import Any

from gossip_net import Member, Net, copies_per_node

from kodectl.core.gossip_effects import Relay, SendDigest, SendHave

DEGREE = 8
LOSS = 0.05
SETTLE_S = 120.0


def calm(size: int, seed: int) -> dict[str, Any]:
    net = Net(size, DEGREE, seed, loss=LOSS)
    return report(net, published(net, 200 if size <= 10 else 100 if size <= 50 else 10)) | {
        "copies": round(copies_per_node(net, len(net.members[0].delivered)), 2)
    }


def lossy(size: int, seed: int) -> dict[str, Any]:
    """Of all that is sent, announcements, questions and digests included, 15 % are lost."""
    net = Net(size, DEGREE, seed, loss=0.15, sync_loss=0.15)
    return report(net, published(net, 100))


def crash(size: int, seed: int) -> dict[str, Any]:
    """Three in ten, in the middle."""
    net = Net(size, DEGREE, seed, loss=LOSS)
    before = published(net, 20, pause_s=0.02, settle_s=0)
    for member in net.rng.sample(net.members, size * 3 // 10):
        net.crash(member)
    crashed_at = net.now
    return report(net, before | published(net, 20, pause_s=0.02), since=crashed_at)


def halves(size: int, seed: int) -> dict[str, Any]:
    """Two that knew nothing of each other meet over one link."""
    net = Net(size, DEGREE, seed)
    one, other = net.members[: size // 2], net.members[size // 2 :]
    strangers = {member.node_id for member in other}
    for member in one:
        for peer, _link in list(member.links.values()):
            if peer.node_id in strangers:
                net.cut(member, peer)
    before = published(net, 300, settle_s=0)
    net.join(one[0], other[0])
    met_at = net.now
    net.run(SETTLE_S)
    return report(net, before, since=met_at)


def holes(size: int, seed: int) -> dict[str, Any]:
    """Three in ten take everything, announce it, and hand on nothing."""
    net = Net(size, DEGREE, seed, loss=LOSS)
    return report(net, published(net, 20, by=silenced(net, size * 3 // 10)))


def laggards(size: int, seed: int) -> dict[str, Any]:
    """Three in ten hand on everything, 1.9 s late: just within the patience for a first answer."""
    net = Net(size, DEGREE, seed, loss=LOSS)
    late = {member.node_id for member in net.rng.sample(net.members, size * 3 // 10)}
    at_once = net.perform

    def perform(member: Member, effects: Any) -> None:
        if member.node_id not in late:
            at_once(member, effects)
            return
        for effect in effects:
            net.at(net.now + (1.9 if isinstance(effect, Relay) else 0.0), hand, member, effect)
        net.plan(member)

    def hand(member: Member, effect: Any) -> None:
        peers = [peer for peer in getattr(effect, "peers", [getattr(effect, "peer", None)]) if peer in member.links]
        if peers:
            at_once(member, [effect._replace(peers=peers) if isinstance(effect, Relay) else effect])

    net.perform = perform
    return report(net, published(net, 100), trusted=[member for member in net.members if member.node_id not in late])


def stalls(size: int, seed: int) -> dict[str, Any]:
    """Each link stands still for 5 to 20 s, some time in a minute: nobody lies, and TCP repeats what was lost."""
    chance = random.Random(seed)
    until: dict[int, tuple[float, float]] = {}

    def stall(link: dict[str, Any], now: float) -> float:
        start, end = until.setdefault(id(link), (begin := now + chance.uniform(0, 60), begin + chance.uniform(5, 20)))
        return end if start <= now < end else now

    net = Net(size, DEGREE, seed, stall=stall)
    return report(net, published(net, 600))


def eclipse(size: int, seed: int) -> dict[str, Any]:
    """A node comes back after a while, and all but one of its sixteen peers are liars: they announce everything, hand on nothing,
    and answer its digests with its own, as if they had what it has. The one honest link loses nothing."""
    net = Net(size, DEGREE, seed)
    missed = published(net, 100)
    victim = Member(b"victim".ljust(32), random.Random(seed))
    liars = {member.node_id for member in net.rng.sample(net.members, 15)}
    honest_perform = net.perform

    def perform(member: Member, effects: Any) -> None:
        if member.node_id in liars:
            effects = [effect for effect in effects if not _to_victim(effect)]
        honest_perform(member, effects)
        for effect in effects if member is victim else ():
            if isinstance(effect, SendDigest) and effect.peer in liars:
                honest_perform(net_member(effect.peer), [SendDigest(victim.node_id, effect.slots)])

    def _to_victim(effect: Any) -> bool:
        return isinstance(effect, Relay | SendDigest) and victim.node_id in getattr(effect, "peers", [effect[0]])

    def net_member(node_id: bytes) -> Member:
        return next(member for member in net.members if member.node_id == node_id)

    net.perform = perform
    came_at = net.now
    for node_id in sorted(liars):
        net.join(net_member(node_id), victim)
    friend = next(member for member in net.members if member.node_id not in liars)
    net.join(friend, victim)
    net.members.append(victim)
    for liar in sorted(liars):
        honest_perform(net_member(liar), [SendHave(victim.node_id, tuple(sorted(missed)))])
    found = published(net, 100, by=[member for member in net.members if member.node_id not in liars])
    return report(net, missed | found, since=came_at)


SCENARIOS: dict[str, tuple[Callable[[int, int], dict[str, Any]], int]] = {
    "calm": (calm, 50),
    "lossy": (lossy, 50),
    "crash": (crash, 50),
    "halves": (halves, 20),
    "holes": (holes, 50),
    "laggards": (laggards, 50),
    "stalls": (stalls, 50),
    "eclipse": (eclipse, 50),
}
"""With the size where none is asked for."""


def silenced(net: Net, count: int) -> list[Member]:
    """Has `count` hand on nothing; the others."""
    silent = {member.node_id for member in net.rng.sample(net.members, count)}
    honest_perform = net.perform

    def perform(member: Member, effects: Any) -> None:
        is_silent = member.node_id in silent
        honest_perform(member, [effect for effect in effects if not (is_silent and isinstance(effect, Relay))])

    net.perform = perform
    return [member for member in net.members if member.node_id not in silent]


def published(
    net: Net, count: int, *, by: list[Member] | None = None, pause_s: float = 0.1, settle_s: float = SETTLE_S
) -> dict[bytes, float]:
    """Ids, and when each was published."""
    times = {}
    for _ in range(count):
        alive = [member for member in by or net.members if member.alive]
        times[net.publish(net.rng.choice(alive))] = net.now
        net.run(pause_s)
    net.run(settle_s)
    net.honest = by or net.members
    return times


def report(
    net: Net, times: dict[bytes, float], *, since: float = 0.0, trusted: list[Member] | None = None
) -> dict[str, Any]:
    honest = [member for member in net.honest if member.alive]
    held = {which for which in times if any(which in member.delivered for member in honest)}
    lateness = sorted(
        max(0.0, member.delivered[which] - max(since, times[which]))
        for member in honest
        for which in held
        if which in member.delivered
    )
    blameless = {member.node_id for member in trusted or honest}
    return {
        "messages": len(held),
        "missing": sum(which not in member.delivered for member in honest for which in held),
        "last_s": round(lateness[-1], 2),
        "p99_s": round(lateness[len(lateness) * 99 // 100], 2),
        "wronged": sum(peer in blameless for peer in net.told_on),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--seeds", default="1-20")
    parser.add_argument("--size", type=int)
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    is_short = False
    for name in arguments.scenario or SCENARIOS:
        play, size = SCENARIOS[name]
        for seed in range(int(first), int(last or first) + 1):
            found = play(arguments.size or size, seed)
            is_short = is_short or found["missing"] > 0
            print(json.dumps({"scenario": name, "size": arguments.size or size, "seed": seed} | found), flush=True)
    return is_short


if __name__ == "__main__":
    sys.exit(main())
