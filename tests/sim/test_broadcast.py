"""Broadcasts over real links, on virtual time."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import DeadlineReached, LocalMisuse
from kodectl.node import broadcast as limits
from kodectl.node.broadcast import Broadcast
from kodectl.node.events import Events
from kodectl.node.link import LocalEnd, accept, dial
from kodectl.node.peer import Peer
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire.announcement import Ports
from kodectl.wire.messages import (
    BroadcastMode,
    DisconnectReason,
    Hello,
    MessageKind,
    SyncHave,
    new_envelope,
    pack_envelope,
    pack_sync,
)

HELLO = Hello((1,), "kodectl/test", "testnet", ("gossip", "sync"), Ports(30303, 30301))
BLOCK, TRANSACTION, SYNC = MessageKind.BLOCK, MessageKind.TRANSACTION, MessageKind.SYNC
FLOOD, GOSSIP = BroadcastMode.FLOOD, BroadcastMode.GOSSIP
PORT = 30303


class Roster:
    """The part of Peering that broadcasts see: here, who is linked with whom is the test's decision."""

    def __init__(self):
        self.handlers = {}
        self.on_connected = []
        self.on_disconnected = []
        self.distrusted = []

    def distrust(self, node_id):
        self.distrusted.append(node_id)


class Member:
    def __init__(self, world, number, verify_origin):
        self.ip = f"10.0.{number // 200}.{number % 200 + 1}"
        self.runtime = world.host(self.ip)
        self.identity = Identity(SimSuite(), number.to_bytes(32, "big"))
        self.local = LocalEnd(self.identity, number.to_bytes(32, "little"))
        self.scope = self.runtime.scope(f"member {number}")
        self.events = Events(self.runtime)
        self.roster = Roster()
        self.broadcast = Broadcast(
            self.runtime, self.identity, self.events, self.scope, self.roster, verify_origin=verify_origin
        )
        self.delivered = Counter()
        self.broadcast.subscribe(lambda envelope: self.delivered.update([envelope.id]))
        self.broadcast.start()
        self.links = {}
        self.ends = []
        self.runtime.listen((self.ip, PORT), lambda stream: self.scope.spawn("inbound", self.serve_inbound, stream))

    def serve_inbound(self, stream):
        self.serve(accept(self.runtime, self.local, stream, HELLO))

    def dial(self, other):
        stream = self.runtime.connect((other.ip, PORT), 5.0)
        link = dial(self.runtime, self.local, stream, other.identity.node_id, HELLO)
        self.scope.spawn("outbound", self.serve, link)

    def serve(self, link):
        peer = Peer(link, None)
        self.links[link.node_id] = link
        for connected in self.roster.on_connected:
            connected(peer)
        try:
            self.ends.append(link.run(lambda _link, kind, body: self.roster.handlers[kind](peer, body)))
        finally:
            del self.links[link.node_id]
            for disconnected in self.roster.on_disconnected:
                disconnected(peer)

    def publish(self, payload, kind=TRANSACTION, mode=GOSSIP):
        return self.broadcast.publish(kind, payload, mode).id


def a_block(number, size):
    """Does not compress."""
    return random.Random(number).randbytes(size)


class Mesh:
    def __init__(self, size, pairs, seed=1, verify_origin=True, model=None):
        self.world = World(seed, model or PathModel())
        self.rng = random.Random(seed)
        self.members = [Member(self.world, number, verify_origin) for number in range(size)]
        for one, other in pairs:
            self.join(one, other)
        self.world.run_for(2)

    def join(self, one, other):
        near, far = self.members[one], self.members[other]
        self.world.spawn(near.runtime, "dial", near.dial, far)

    def cut(self, one, other):
        """The connection breaks; what is on its way is lost."""
        near, far = self.members[one], self.members[other]
        for link in (near.links[far.identity.node_id], far.links[near.identity.node_id]):
            link._stream.close()

    def publish(self, number, payload, kind=TRANSACTION, mode=GOSSIP):
        member = self.members[number]
        return self.world.call(member.runtime, member.publish, payload, kind, mode)

    def lacking(self, ids):
        return sum(len(ids) - len(member.delivered.keys() & ids) for member in self.members)

    def nothing_came_twice(self):
        return all(count == 1 for member in self.members for count in member.delivered.values())


def ring_with_chords(size, degree):
    return sorted(
        {tuple(sorted((one, (one + step) % size))) for one in range(size) for step in range(1, degree // 2 + 1)}
    )


def play_cut_mesh(messages):
    """The issue's mark: 10 nodes, degree 4, and every link in twenty breaks in mid-run and comes back later."""
    pairs = ring_with_chords(10, 4)
    mesh = Mesh(10, pairs, seed=4, verify_origin=False)
    ids = set()

    def publish_all(member, numbers):
        for number in numbers:
            ids.add(member.publish(b"transaction %d" % number))
            member.scope.sleep(0.01)

    for index, member in enumerate(mesh.members):
        mesh.world.spawn(member.runtime, "publish", publish_all, member, range(index, messages, 10))
    duration_s = messages / 10 * 0.01
    start = mesh.world.now
    for turn in range(4):
        one, other = mesh.rng.choice(pairs)
        mesh.world.run(start + duration_s * (turn + 0.5) / 5)
        mesh.cut(one, other)
        mesh.world.run(start + duration_s * (turn + 1.3) / 5)
        mesh.join(one, other)
    mesh.world.run(start + duration_s + 20)
    assert len(ids) == messages
    assert mesh.lacking(ids) == 0
    assert mesh.nothing_came_twice()
    return mesh


def test_links_that_break_lose_nothing():
    mesh = play_cut_mesh(2000)
    totals = Counter()
    for member in mesh.members:
        totals.update(member.broadcast.counters())
    # The cut links had something on them, and announcements brought it.
    assert totals["pulled"] > 0
    assert mesh.members[0].ends or mesh.members[1].ends


@pytest.mark.slow
def test_links_that_break_lose_none_of_ten_thousand():
    play_cut_mesh(10_000)


def test_a_flood_and_a_gossip_reach_everyone_in_one_event_each():
    mesh = Mesh(6, ring_with_chords(6, 4))
    flooded = mesh.publish(0, b"small", BLOCK, FLOOD)
    gossiped = mesh.publish(1, bytes(2000), TRANSACTION, GOSSIP)
    mesh.world.run_for(5)
    assert mesh.lacking({flooded, gossiped}) == 0
    assert mesh.nothing_came_twice()
    for member in mesh.members:
        events = {event.data["id"]: event for event in member.events.since(0).events}
        block, transaction = events[flooded.hex()], events[gossiped.hex()]
        assert (block.type, transaction.type) == ("block", "transaction")
        assert block.data["origin"] == mesh.members[0].identity.node_id.hex()
        assert (block.data["received_from"] is None) == (member is mesh.members[0])
        assert (block.data["mode"], block.data["size"], block.data["payload"]) == ("flood", 5, b"small")
        assert (transaction.data["size"], transaction.data["payload"]) == (2000, bytes(2000))


def test_one_seed_gives_one_trace():
    def run(seed):
        mesh = Mesh(5, ring_with_chords(5, 4), seed=seed)
        for number in range(20):
            mesh.publish(number % 5, b"%d" % number)
        mesh.world.run_for(10)
        return mesh.world.trace_hash()

    assert run(1) == run(1)
    assert run(1) != run(2)


def forged(envelope_of, **changes):
    """A transaction whose bytes were changed after signing."""
    identity = envelope_of.identity
    envelope = new_envelope(
        TRANSACTION,
        b"honest",
        GOSSIP,
        origin=identity.public_key,
        time_ms=int(envelope_of.runtime.unix_time() * 1000),
        nonce=bytes(8),
        sign=identity.sign,
    )
    body = bytearray(pack_envelope(envelope))
    for offset, byte in changes.items():
        body[int(offset[1:])] = byte
    return bytes(body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (TRANSACTION, lambda member: forged(member, _113=0)),
        (TRANSACTION, lambda member: forged(member, _60=0)),
        (TRANSACTION, lambda member: forged(member, _48=9)),
        (TRANSACTION, lambda member: b"short"),
        (BLOCK, lambda member: forged(member)),
        (SYNC, lambda member: b"\xff\xff"),
        (SYNC, lambda member: b"\x92\x00\xc4\x21" + bytes(33)),
    ],
    ids=["payload", "signature", "mode", "short", "transaction as block", "no msgpack", "half an id"],
)
def test_what_is_wrong_ends_the_link_it_came_over_and_no_other(kind, body):
    mesh = Mesh(3, [(0, 1), (1, 2), (0, 2)])
    victim, bad = mesh.members[1], mesh.members[0]
    bad.links[victim.identity.node_id].send(kind, body(bad))
    mesh.world.run_for(3)
    assert victim.ends == [DisconnectReason.PROTOCOL_ERROR]
    assert victim.delivered == Counter()
    assert list(victim.links) == [mesh.members[2].identity.node_id]
    message_id = mesh.publish(2, b"still working")
    mesh.world.run_for(3)
    assert mesh.lacking({message_id}) == 0


def test_the_honest_message_is_taken_as_it_stands():
    """The counterpart of the forgeries above."""
    mesh = Mesh(2, [(0, 1)])
    victim, good = mesh.members[1], mesh.members[0]
    good.links[victim.identity.node_id].send(TRANSACTION, forged(good))
    mesh.world.run_for(1)
    assert sum(victim.delivered.values()) == 1
    assert victim.ends == []


def test_a_large_message_is_recognised_by_its_head_and_a_forgery_under_it_is_not_delivered():
    mesh = Mesh(2, [(0, 1)])
    sender, victim = mesh.members
    payload = bytes(limits.LARGE_BYTES)
    message_id = mesh.publish(0, payload, BLOCK)
    mesh.world.run_for(2)
    copy = sender.broadcast._gossip._cache.get(message_id)[4:]
    link = sender.links[victim.identity.node_id]
    link.send(BLOCK, copy)
    link.send(BLOCK, copy[:-1] + b"x")
    mesh.world.run_for(2)
    assert victim.delivered == {message_id: 1}
    assert victim.broadcast.counters()["duplicates"] == 2
    assert victim.ends == []


def test_a_payload_over_the_limit_is_the_callers_fault():
    mesh = Mesh(1, [])
    with pytest.raises(LocalMisuse) as caught:
        mesh.publish(0, bytes((64 << 10) + 1))
    assert caught.value.code == "payload_too_large"


def test_a_message_published_alone_goes_to_the_first_peer():
    mesh = Mesh(2, [])
    message_id = mesh.publish(0, b"early")
    mesh.join(1, 0)
    mesh.world.run_for(5)
    assert mesh.lacking({message_id}) == 0


def test_a_failing_subscriber_harms_nobody(caplog):
    mesh = Mesh(2, [(0, 1)])

    def fail(envelope):
        raise RuntimeError("a bug of the application")

    mesh.members[1].broadcast.subscribe(fail)
    seen_after = []
    mesh.members[1].broadcast.subscribe(seen_after.append)
    message_id = mesh.publish(0, b"message")
    mesh.world.run_for(2)
    assert [envelope.id for envelope in seen_after] == [message_id]
    assert mesh.members[1].ends == []
    assert mesh.members[1].broadcast.counters()["subscriber_failures"] == 1
    assert "a bug of the application" in caplog.text


def test_who_announces_and_never_delivers_loses_trust():
    mesh = Mesh(3, [(0, 1), (1, 2)])
    victim, liar = mesh.members[1], mesh.members[0]
    invented = tuple(mesh.rng.randbytes(32) for _ in range(200))
    liar.links[victim.identity.node_id].send(SYNC, pack_sync(SyncHave(invented)))
    mesh.world.run_for(30)
    assert set(victim.roster.distrusted) == {liar.identity.node_id}


def test_a_forged_copy_that_comes_first_does_not_keep_the_genuine_one_away():
    """The id does not cover the signature: both have one id."""
    mesh = Mesh(3, [(0, 1), (1, 2), (0, 2)])
    forger, victim, honest = mesh.members
    genuine = forged(honest)
    copy = bytearray(genuine)
    copy[60] ^= 1
    forger.links[victim.identity.node_id].send(TRANSACTION, bytes(copy))
    mesh.world.run_for(1)
    assert victim.ends == [DisconnectReason.PROTOCOL_ERROR]
    honest.links[victim.identity.node_id].send(TRANSACTION, genuine)
    mesh.world.run_for(1)
    assert victim.delivered.total() == 1


def test_a_peer_that_takes_an_hour_for_a_block_holds_up_nobody():
    """It hands it on at once, but at 300 bytes a second: most of it never comes."""
    mesh = Mesh(3, [(0, 1), (1, 2), (0, 2)])
    slow, victim = mesh.members[0], mesh.members[1]
    mesh.world.set_path(slow.ip, victim.ip, PathModel(bandwidth=300.0))
    mesh.cut(0, 1)
    mesh.world.run_for(1)
    mesh.join(0, 1)
    mesh.world.run_for(5)
    ids = {mesh.publish(0, a_block(number, 1 << 19), BLOCK) for number in range(5)}
    mesh.world.run_for(2)
    assert len(victim.links) == 2
    assert mesh.lacking(ids) == 0
    assert victim.roster.distrusted == []


def test_a_peer_that_reads_nothing_is_dropped_and_costs_bounded_memory():
    mesh = Mesh(4, [(0, 1), (0, 2), (2, 3)])
    publisher, stuck = mesh.members[0], mesh.members[1]
    link = publisher.links[stuck.identity.node_id]
    most = []

    def stop_reading():
        """The reader's task sits in a handler for ever."""
        stuck.roster.handlers[BLOCK] = lambda peer, body: stuck.scope.sleep(1e6)

    stop_reading()
    ids = set()
    for number in range(30):
        ids.add(mesh.publish(0, a_block(number, 1 << 20), BLOCK))
        most.append(link.queued_bytes)
    mesh.world.run_for(60)
    assert publisher.ends == [DisconnectReason.SLOW]
    assert max(most) <= limits.CROWDED_BYTES + (1 << 20) + 1000
    for member in (mesh.members[2], mesh.members[3]):
        assert member.delivered.keys() >= ids


def test_a_slow_line_is_kept_and_gets_everything():
    """1 MB/s to one of three; the publisher goes at the others' pace."""
    mesh = Mesh(3, [(0, 1), (0, 2)])
    publisher, slow = mesh.members[0], mesh.members[1]
    mesh.world.set_path(publisher.ip, slow.ip, PathModel(bandwidth=1e6))
    mesh.cut(0, 1)
    mesh.world.run_for(1)
    mesh.join(0, 1)
    mesh.world.run_for(2)
    ends_before = list(publisher.ends)
    ids = {mesh.publish(0, a_block(number, 1 << 19), BLOCK) for number in range(100)}
    mesh.world.run_for(20)
    assert mesh.members[2].delivered.keys() >= ids
    assert publisher.broadcast.counters()["crowded"] > 0
    mesh.world.run_for(120)
    assert mesh.lacking(ids) == 0
    assert mesh.nothing_came_twice()
    assert publisher.ends == ends_before
    assert slow.roster.distrusted == []


def test_a_publisher_waits_for_what_the_network_takes():
    mesh = Mesh(2, [(0, 1)], model=PathModel(latency_s=0.001, spread_s=0.0))
    began = mesh.world.now
    ids = {mesh.publish(0, a_block(number, 4 << 20), BLOCK) for number in range(30)}
    # 80 MiB at once, then 8 MiB a second.
    assert 4 < mesh.world.now - began < 8
    mesh.world.run_for(5)
    assert mesh.lacking(ids) == 0
    assert mesh.members[1].broadcast.counters()["over_origin_rate"] == 0


def test_too_many_publishers_at_once_are_told_and_what_was_taken_arrives():
    mesh = Mesh(2, [(0, 1)])
    outcomes = Counter()

    def publish(number):
        try:
            mesh.members[0].publish(a_block(number, 4 << 20), BLOCK)
            outcomes["published"] += 1
        except DeadlineReached:
            outcomes["told"] += 1

    for number in range(30):
        mesh.world.spawn(mesh.members[0].runtime, "publish", publish, number)
    mesh.world.run_for(30)
    assert outcomes["told"] > 5
    assert 5 < outcomes["published"] == mesh.members[1].delivered.total()
    assert mesh.members[0].ends == []


def test_nothing_stays_behind():
    mesh = Mesh(3, [(0, 1), (1, 2)])
    mesh.publish(0, b"message")
    for member in mesh.members:
        member.scope.close()
        member.broadcast.stop()
        for link in list(member.links.values()):
            link.disconnect(DisconnectReason.SHUTTING_DOWN)
    mesh.world.run_for(5)
    assert mesh.world.waiting() == []
