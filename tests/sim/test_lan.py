"""LAN announcements on virtual time: who is believed, who is not, and what clocks may do."""

import hashlib
import json

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import EnvironmentFault
from kodectl.node.lan import ANNOUNCE_EVERY_S, LAN_PORT, MAX_KNOWN, WINDOW_S, Lan, start_or_warn
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire.announcement import EnodeData, Ports, announcement_statement, pack_announcement
from kodectl.wire.enode import Enode

SUITE = SimSuite()
IPS = ["192.168.1.1", "192.168.1.2", "192.168.1.3"]
PORTS = Ports(30303, 30301)


class Neighbour:
    def __init__(self, world: World, runtime, network: str = "kodechain") -> None:
        self.runtime = runtime
        self.identity = Identity(SUITE, hashlib.sha256(runtime.ip.encode()).digest())
        self.scope = runtime.scope("lan")
        self.found: list[Enode] = []
        self.lan = Lan(runtime, self.identity, network, self.scope, self.found.append)

    @property
    def enode(self) -> Enode:
        return Enode(self.identity.node_id, self.runtime.ip, PORTS.tcp, PORTS.udp)


@pytest.fixture
def world():
    with World(1, PathModel()) as one:
        hosts = [one.host(ip) for ip in IPS]
        one.lan("home", IPS)
        one.neighbours = [Neighbour(one, host) for host in hosts]
        yield one


@pytest.fixture
def listener(world):
    """The first neighbour, who hears, and the voice of the third, whom a test lets say anything."""
    receiver = world.neighbours[0]
    receiver.lan.start(PORTS)
    world.run_for(5.0)
    voice = world.neighbours[2].runtime.open_lan(LAN_PORT, lambda *_: None)

    def say(packed: bytes) -> list[Enode]:
        before = len(receiver.found)
        voice.announce(packed)
        world.run_for(0.01)
        return receiver.found[before:]

    receiver.say = say
    return receiver


def signed(speaker: Neighbour, at: float, ip: str = "0.0.0.0", network: str = "kodechain", **changed) -> bytes:
    identity = speaker.identity
    fields = {"id": identity.node_id.hex(), "public_key": identity.public_key.hex(), **changed}
    data = EnodeData(ip=ip, ports=PORTS, network=network, **fields)
    return pack_announcement(data, int(at), identity.sign(announcement_statement(data, int(at))))


def test_neighbours_find_each_other_at_once_and_hear_of_each_other_again(world):
    first, second, _ = world.neighbours
    first.lan.start(PORTS)
    world.run_for(100.0)
    second.lan.start(PORTS)
    world.run_for(0.1)
    assert set(first.found) == {second.enode}
    assert set(second.found) == {first.enode}  # answered out of turn
    heard = len(first.found)
    world.run_for(ANNOUNCE_EVERY_S * 3)
    assert len(first.found) >= heard + 3


def test_two_announcements_in_one_second_both_count(world):
    first, second, _ = world.neighbours
    first.lan.start(PORTS)
    second.lan.start(PORTS)
    world.run_for(10.0)
    first.found.clear()
    for _ in range(3):
        second.lan.announce()
        world.run_for(0.01)
    assert first.found == [second.enode] * 3


def test_nobody_finds_itself(world):
    first = world.neighbours[0]
    first.lan.start(PORTS)
    world.run_for(100.0)
    assert first.found == []
    assert not first.lan.dropped


def test_a_good_announcement_is_believed_once(world, listener):
    speaker, now = world.neighbours[2], listener.runtime.unix_time()
    packed = signed(speaker, now)
    assert listener.say(packed) == [speaker.enode]
    assert listener.say(packed) == []
    assert listener.say(signed(speaker, now - 1)) == []
    assert listener.say(signed(speaker, now + 1)) == [speaker.enode]


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", IPS[2]])
def test_the_senders_address_counts(world, listener, ip):
    (found,) = listener.say(signed(world.neighbours[2], listener.runtime.unix_time(), ip=ip))
    assert found.host == IPS[2]


def test_nobody_is_sent_to_anothers_address(world, listener):
    assert listener.say(signed(world.neighbours[2], listener.runtime.unix_time(), ip="192.168.1.77")) == []
    assert listener.lan.dropped == {"another's address": 1}


@pytest.mark.parametrize(
    "ip",
    ["255.255.255.255", "224.0.0.1", "239.255.75.67", "0.0.0.1", "ff02::1", "::ffff:10.0.0.1", "name", "", "1.2.3"],
)
def test_an_address_that_is_not_one_host_is_not_believed(world, listener, ip):
    assert listener.say(signed(world.neighbours[2], listener.runtime.unix_time(), ip=ip)) == []
    assert sum(listener.lan.dropped.values()) == 1


@pytest.mark.parametrize("skew_s", [-WINDOW_S - 2, WINDOW_S + 2, -3600.0, 1e9])
def test_outside_the_window_is_not_believed(world, listener, skew_s):
    at = max(0.0, listener.runtime.unix_time() + skew_s)
    assert listener.say(signed(world.neighbours[2], at)) == []
    assert listener.lan.dropped["outside the time window"] == 1


@pytest.mark.parametrize("skew_s", [-WINDOW_S + 1, WINDOW_S - 1])
def test_within_the_window_is_believed(world, listener, skew_s):
    assert listener.say(signed(world.neighbours[2], listener.runtime.unix_time() + skew_s))


def test_another_network_is_not_ours(world, listener):
    assert listener.say(signed(world.neighbours[2], listener.runtime.unix_time(), network="other")) == []
    assert listener.lan.dropped == {"another network's": 1}


def test_anothers_id_cannot_be_claimed(world, listener):
    now, victim = listener.runtime.unix_time(), world.neighbours[1].identity
    assert listener.say(signed(world.neighbours[2], now, id=victim.node_id.hex())) == []
    both = {"id": victim.node_id.hex(), "public_key": victim.public_key.hex()}
    assert listener.say(signed(world.neighbours[2], now, **both)) == []
    assert listener.lan.dropped == {"id and public key do not match": 1, "wrong signature": 1}


def test_what_does_not_hold_does_not_shut_out_the_real_one(world, listener):
    now, victim = listener.runtime.unix_time(), world.neighbours[1]
    both = {"id": victim.identity.node_id.hex(), "public_key": victim.identity.public_key.hex()}
    listener.say(signed(world.neighbours[2], now + 50, **both))
    assert [enode.node_id for enode in listener.say(signed(victim, now))] == [victim.identity.node_id]


def test_every_byte_of_data_is_signed_as_it_stands(world, listener):
    speaker = world.neighbours[2]
    packed = signed(speaker, listener.runtime.unix_time())
    assert listener.say(packed.replace(b"30303", b"30304")) == []
    assert listener.say(packed.replace(b'"ports":{', b'"ports": {')) == []
    assert listener.say(packed.replace(b'"type":"announcement"', b'"more":1, "type" : "announcement"')) == [
        speaker.enode
    ]


@pytest.mark.parametrize("packed", [b"", b"{}", b"[]", b"\xff" * 50, b"{" * 1024, b"x" * 2000])
def test_rubbish_is_counted(world, listener, packed):
    assert listener.say(packed) == []
    assert listener.lan.dropped == {"malformed": 1}


def test_an_announcement_over_the_limit_is_rubbish(world, listener):
    packed = signed(world.neighbours[2], listener.runtime.unix_time())
    assert listener.say(packed + b" " * 1024) == []
    assert listener.say(packed)


def test_a_flood_of_signatures_is_rated(world, listener):
    speaker, now = world.neighbours[2], listener.runtime.unix_time()
    packed = json.loads(signed(speaker, now))
    packed["signature"] = "00" * 64
    for _ in range(600):
        listener.say(json.dumps(packed).encode())
    assert listener.lan.dropped["over the budget of signature checks"] >= 50
    world.run_for(5.0)
    assert listener.say(signed(speaker, listener.runtime.unix_time()))


def test_memory_of_who_was_heard_is_bounded(world, listener):
    for number in range(MAX_KNOWN + 100):
        listener.lan._remember(number.to_bytes(32), 1)
    assert len(listener.lan._latest) == MAX_KNOWN


@pytest.mark.parametrize("back_s", [5.0, 3600.0, 1e7])
def test_a_speaker_whose_clock_is_set_right_is_heard_again_soon(world, back_s):
    listener, speaker, _ = world.neighbours
    speaker.runtime.clock_offset_s = back_s
    listener.lan.start(PORTS)
    speaker.lan.start(PORTS)
    world.run_for(10.0)
    speaker.runtime.clock_offset_s = 0.0
    listener.found.clear()
    assert world.run(lambda: speaker.enode in listener.found, 2 * ANNOUNCE_EVERY_S)


def test_a_whole_network_whose_clocks_are_set_right_finds_itself_again(world):
    for one in world.neighbours:
        one.runtime.clock_offset_s = 3600.0
        one.lan.start(PORTS)
    world.run_for(10.0)
    for one in world.neighbours:
        one.runtime.clock_offset_s = 0.0
        one.found.clear()
    assert world.run(lambda: all(len(set(one.found)) == 2 for one in world.neighbours), 2 * ANNOUNCE_EVERY_S)


def test_what_was_said_before_a_clock_was_set_back_cannot_be_said_again(world, listener):
    speaker = world.neighbours[2]
    old = signed(speaker, listener.runtime.unix_time())
    assert listener.say(old)
    listener.runtime.clock_offset_s = -3600.0
    assert listener.say(old) == []
    assert listener.say(signed(speaker, listener.runtime.unix_time()))


def test_stopped_means_silent_and_without_tasks(world):
    first, second, _ = world.neighbours
    second.lan.start(PORTS)
    first.lan.start(PORTS)
    world.run_for(5.0)
    first.lan.stop()
    first.scope.close()
    world.run_for(1.0)
    first.found.clear()
    second.found.clear()
    first.lan.announce()
    world.run_for(100.0)
    assert first.found == second.found == []
    assert not [line for line in world.waiting() if line.startswith(f"{IPS[0]} ")]


def test_a_network_without_multicast_is_a_warning(world, monkeypatch):
    one = world.neighbours[0]

    def refuse(port, receive):
        raise EnvironmentFault("no multicast here", code="environment")

    monkeypatch.setattr(one.runtime, "open_lan", refuse)
    assert start_or_warn(one.lan, PORTS) == "no LAN announcements: no multicast here"
    one.lan.announce()
    one.lan.stop()
    assert start_or_warn(world.neighbours[1].lan, PORTS) is None
