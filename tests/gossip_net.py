"""Many gossip cores on virtual time, joined by links with latency."""

import hashlib
import heapq
import random
from itertools import count

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
    """Nodes joined by links with latency. A cut link loses what is on its way, as a broken TCP connection does.

    `loss`: of the copies that are handed on; `sync_loss`: of announcements, questions and digests. Links lose neither while they
    last; a queue without room does, and more of it shows sooner what is not made good.
    `stall`: called with the link before each transmission, gives the time before which nothing on it arrives.
    `told_on`: peers that lost trust, once for each time."""

    def __init__(self, size, degree, seed, loss=0.0, sync_loss=0.0, stall=None):
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.sync_loss = sync_loss
        self.stall = stall
        self.told_on = []
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
                    if not self.sync_loss or self.rng.random() >= self.sync_loss:
                        self.transmit(member, peer, effect)
                case Distrust(peer, _):
                    self.told_on.append(peer)
        self.plan(member)

    def transmit(self, member, peer_id, what):
        peer, link = member.links[peer_id]
        arrival = self.now + link["latency"]
        if self.stall is not None:
            arrival = max(arrival, self.stall(link, self.now))
        self.at(arrival, self.receive, peer, member.node_id, link, what)

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
