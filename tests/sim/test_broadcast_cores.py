"""Many gossip cores on virtual time: what arrives where, in how many copies, and how long it takes."""

import hashlib
import heapq
import random
from itertools import count

import pytest

from kodectl.core.gossip import Gossip
from kodectl.core.gossip_effects import Distrust, Relay, SendDigest, SendHave, SendWant, Verdict

EPOCH = 1_790_000_000.0
ROOM = 1 << 20
ORIGIN = b"o" * 32


class Member:
    """A node of the test network: its core, and what it was given."""

    def __init__(self, node_id, rng):
        self.node_id = node_id
        self.core = Gossip(rng)
        self.links = {}
        self.delivered = {}
        self.copies = 0
        self.alive = True
        self.tick_at = float("inf")
        self.clock_error_s = 0.0


class Net:
    """Nodes joined by links with latency. A cut link loses what is on its way, as a broken TCP connection does."""

    def __init__(self, size, degree, seed, loss=0.0):
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self._queue = []
        self._number = count()
        self.members = [Member(index.to_bytes(32, "big"), random.Random(seed + index)) for index in range(size)]
        for one, other in regular_graph(size, degree, self.rng):
            self.join(self.members[one], self.members[other])

    def unix(self, member):
        return EPOCH + self.now + member.clock_error_s

    def join(self, one, other):
        latency = self.rng.uniform(0.01, 0.08)
        link = {"latency": latency, "up": True}
        for member, peer in ((one, other), (other, one)):
            member.links[peer.node_id] = (peer, link)
        for member, peer in ((one, other), (other, one)):
            self.perform(member, member.core.connected(peer.node_id, self.now))

    def cut(self, one, other):
        one.links[other.node_id][1]["up"] = False
        for member, peer in ((one, other), (other, one)):
            del member.links[peer.node_id]
            member.core.disconnected(peer.node_id, self.now)
            self.plan(member)

    def crash(self, member):
        member.alive = False
        for peer, _link in list(member.links.values()):
            self.cut(member, peer)

    def publish(self, member, flood=False, size=200):
        time_ms = int(self.unix(member) * 1000)
        number = next(self._number)
        message_id = hashlib.sha256(number.to_bytes(8, "big")).digest()
        message = message_id + time_ms.to_bytes(8, "big") + bytes([flood]) + bytes(size)
        relay = member.core.publish(message_id, time_ms, message, self.now, flood=flood)
        member.delivered[message_id] = self.now
        self.perform(member, [relay] if relay else [])
        return message_id

    def perform(self, member, effects):
        for effect in effects:
            match effect:
                case Relay(peers, _, message):
                    for peer in peers:
                        if self.rng.random() >= self.loss:
                            self.transmit(member, peer, message)
                case SendHave(peer, _) | SendWant(peer, _) | SendDigest(peer, _):
                    self.transmit(member, peer, effect)
        self.plan(member)

    def transmit(self, member, peer_id, what):
        peer, link = member.links[peer_id]
        self.at(self.now + link["latency"], self.receive, peer, member.node_id, link, what)

    def receive(self, member, source, link, what):
        if not link["up"]:
            return
        match what:
            case SendHave(_, ids):
                member.core.on_have(source, ids, self.now)
                effects = []
            case SendWant(_, ids):
                effects = member.core.on_want(source, ids, ROOM, self.now)
            case SendDigest(_, slots):
                effects = member.core.on_digest(source, slots, self.now, self.unix(member))
            case _:
                effects = self.take_message(member, source, what)
        self.perform(member, effects)

    def take_message(self, member, source, message):
        member.copies += 1
        message_id, time_ms, flood = message[:32], int.from_bytes(message[32:40], "big"), bool(message[40])
        assert member.core.allow(source, len(message), self.now)
        verdict = member.core.judge(source, message_id, ORIGIN, time_ms, len(message), self.now, self.unix(member))
        if verdict is not Verdict.NEW:
            return []
        assert message_id not in member.delivered, "delivered twice"
        member.delivered[message_id] = self.now
        relay = member.core.accept(source, message_id, ORIGIN, time_ms, message, self.now, flood=flood)
        return [relay] if relay else []

    def plan(self, member):
        deadline = max(self.now, member.core.next_deadline())
        if member.alive and deadline < member.tick_at:
            member.tick_at = deadline
            self.at(deadline, self.tick, member, deadline)

    def tick(self, member, planned):
        if not member.alive or planned != member.tick_at:
            return
        member.tick_at = float("inf")
        rooms = dict.fromkeys(member.core.indebted(), ROOM)
        self.perform(member, member.core.tick(self.now, self.unix(member), rooms))

    def at(self, time, function, *args):
        heapq.heappush(self._queue, (time, next(self._number), function, args))

    def run(self, seconds):
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, function, args = heapq.heappop(self._queue)
            function(*args)
        self.now = end


def regular_graph(size, degree, rng):
    """Pairs so that everyone has `degree` others, or one or two less where chance leaves no partner."""
    pairs = {(index, (index + 1) % size) if index + 1 < size else (0, index) for index in range(size)}
    degrees = [2] * size
    for _ in range(size * degree * 4):
        one, other = sorted(rng.sample(range(size), 2))
        if degrees[one] < degree and degrees[other] < degree and (one, other) not in pairs:
            pairs.add((one, other))
            degrees[one] += 1
            degrees[other] += 1
    return sorted(pairs)


def spread(net, count, seconds_between=0.1, flood=False):
    """Publishes from nodes that chance picks; gives the ids."""
    ids = []
    for _ in range(count):
        alive = [member for member in net.members if member.alive]
        ids.append(net.publish(net.rng.choice(alive), flood=flood))
        net.run(seconds_between)
    return ids


def lacking(net, ids):
    """How many deliveries are missing, over all live nodes. That none came twice is checked on arrival."""
    return sum(len(ids) - len(member.delivered.keys() & ids) for member in net.members if member.alive)


def copies_per_node(net, messages):
    return sum(member.copies for member in net.members) / len(net.members) / messages


def counter(net, name):
    return sum(member.core.counters()[name] for member in net.members)


@pytest.mark.parametrize(("size", "messages"), [(10, 200), (50, 100), (1000, 10)])
def test_everyone_gets_every_message_in_few_copies(size, messages):
    net = Net(size, degree=8, seed=1, loss=0.05)
    ids = spread(net, messages)
    net.run(10)
    assert lacking(net, ids) == 0
    assert copies_per_node(net, messages) <= 3.5
    # And not by handing every message to everybody's every question.
    assert counter(net, "pulled") < 0.2 * size * messages


def test_a_message_is_everywhere_within_a_second_where_nothing_is_lost():
    net = Net(200, degree=8, seed=2)
    published_at = net.now
    [message_id] = spread(net, 1)
    net.run(5)
    assert max(member.delivered[message_id] for member in net.members) - published_at < 1.0


def test_flood_goes_over_every_link_but_back():
    net = Net(50, degree=8, seed=3)
    ids = spread(net, 20, flood=True)
    net.run(2)
    links = sum(len(member.links) for member in net.members) / 2
    assert lacking(net, ids) == 0
    # Both ways over links whose ends hear of it at the same time, one way over the tree of first arrivals.
    assert links < counter(net, "eager_copies") / len(ids) <= 2 * links


@pytest.mark.parametrize("messages", [2000])
def test_links_that_break_and_return_lose_nothing(messages):
    net = Net(10, degree=4, seed=4)
    pairs = regular_graph(10, 4, random.Random(4))
    ids = set()
    for number in range(messages):
        ids.add(net.publish(net.rng.choice(net.members)))
        net.run(0.005)
        if number % 100 == 50:
            broken = [(net.members[one], net.members[other]) for one, other in net.rng.sample(pairs, 1)]
            for one, other in broken:
                net.cut(one, other)
        if number % 100 == 90:
            for one, other in broken:
                net.join(one, other)
    net.run(20)
    assert lacking(net, ids) == 0
    assert counter(net, "pulled") > 0


def test_two_halves_that_meet_again_complete_each_other():
    net = Net(40, degree=6, seed=5)
    left, right = net.members[:20], net.members[20:]
    for member in left:
        for peer in [peer for peer, _link in member.links.values() if peer in right]:
            net.cut(member, peer)
    ids = set(spread(net, 300, seconds_between=0.2))
    assert lacking(net, ids) > 0
    net.join(left[3], right[3])
    net.run(20)
    assert lacking(net, ids) == 0


def test_more_than_fits_into_announcements_comes_over_one_link():
    """20,000 messages missed: more than are announced for one digest, more than may be missing at a time."""
    net = Net(2, degree=0, seed=6)
    one, other = net.members
    net.cut(one, other)
    ids = set()
    for _ in range(100):
        ids.update(net.publish(one, size=20) for _ in range(200))
        net.run(1.0)
    net.join(one, other)
    net.run(60)
    assert lacking(net, ids) == 0


def test_a_third_of_the_nodes_crashes_and_the_rest_is_complete():
    net = Net(200, degree=8, seed=7, loss=0.05)
    ids = set(spread(net, 20, seconds_between=0.02))
    for member in net.rng.sample(net.members, 60):
        net.crash(member)
    alive = [member for member in net.members if member.alive]
    # What died with the only nodes that had it is not a message of the network.
    survived = {message_id for message_id in ids if any(message_id in member.delivered for member in alive)}
    survived.update(spread(net, 20, seconds_between=0.02))
    net.run(60)
    assert len(survived) > 30
    assert lacking(net, survived) == 0


def test_a_liar_holds_up_nobody_and_is_told_on():
    """A node whose announcements are all it ever sends."""
    net = Net(20, degree=6, seed=8)
    liar = net.members[0]
    honest_perform, told_on = net.perform, set()

    def perform(member, effects):
        if member is liar:
            effects = [effect for effect in effects if not isinstance(effect, Relay)]
        told_on.update(effect.peer for effect in effects if isinstance(effect, Distrust))
        honest_perform(member, effects)

    def announce_what_nobody_has(step):
        for peer, link in liar.links.values():
            ids = tuple(hashlib.sha256(b"%d/%d" % (step, number)).digest() for number in range(100))
            net.receive(peer, liar.node_id, link, SendHave(liar.node_id, ids))

    net.perform = perform
    ids = set()
    for step in range(10):
        announce_what_nobody_has(step)
        ids.update(spread(net, 5) if step < 5 else ())
        net.run(5)
    ids = {message_id for message_id in ids if sum(message_id in member.delivered for member in net.members) > 1}
    assert lacking(net, ids) == 0
    assert told_on == {liar.node_id}


@pytest.mark.parametrize(
    ("size", "seed"), [(50, 1), *(pytest.param(1000, seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
def test_those_who_announce_everything_and_hand_on_nothing_hold_up_nobody(size, seed):
    """Three in ten take what comes, tell of it at once, and are asked in vain."""
    net = Net(size, degree=8, seed=seed, loss=0.05)
    holes = set(net.rng.sample(net.members, size * 3 // 10))
    honest_perform = net.perform

    def perform(member, effects):
        if member in holes:
            effects = [effect for effect in effects if not isinstance(effect, Relay)]
        honest_perform(member, effects)

    net.perform = perform
    honest = [member for member in net.members if member not in holes]
    published = {}
    for _ in range(20):
        published[net.publish(net.rng.choice(honest))] = net.now
        net.run(0.1)
    net.run(120)
    delays = sorted(member.delivered[which] - at for member in honest for which, at in published.items())
    assert delays[len(delays) * 99 // 100] < 5.0


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 90 * 24 * 3600.0])
def test_clocks_that_are_set_lose_nothing_and_repeat_nothing(jump_s):
    net = Net(20, degree=6, seed=9)
    steady = net.members[:15]
    ids = set()

    def publish_some():
        for _ in range(20):
            ids.add(net.publish(net.rng.choice(steady)))
            net.run(0.1)

    publish_some()
    for member in net.members[15:]:
        member.clock_error_s = jump_s
    publish_some()
    net.run(120)
    for member in net.members[15:]:
        member.clock_error_s = 0.0
    publish_some()
    net.run(30)
    assert lacking(net, ids) == 0


def test_a_node_that_comes_late_gets_what_still_lives():
    net = Net(10, degree=4, seed=10)
    ids = set(spread(net, 50))
    late = Member(b"late".ljust(32), random.Random(10))
    net.members.append(late)
    net.join(late, net.members[0])
    net.run(10)
    assert lacking(net, ids) == 0


def test_one_seed_is_one_run():
    def run(seed):
        net = Net(30, degree=6, seed=seed, loss=0.05)
        spread(net, 30)
        net.run(10)
        return [(sorted(member.delivered.items()), member.copies, member.core.counters()) for member in net.members]

    assert run(11) == run(11)
    assert run(11) != run(12)
