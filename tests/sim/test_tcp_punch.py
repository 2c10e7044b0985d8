"""TCP through boxes that let nobody in, and datagrams over what comes of it, on virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kodectl.core.nat import Behavior
from kodectl.node.tcp_base import MAX_QUEUED_BYTES, REST_S, TcpBase
from kodectl.node.tcp_punch import (
    ALIGNED_SHARE,
    ATTEMPT_S,
    BURST_EVERY_S,
    BURST_S,
    GREETING,
    GREETING_LIMIT_S,
    MAX_ATTEMPTS,
    Bursts,
    TcpPunch,
)
from kodectl.runtime.base import Address, ConnectFailed, Listener, Runtime, Stream, StreamClosed
from kodectl.sim.network import PathModel
from kodectl.sim.translation import PortRule
from kodectl.sim.world import World

TCP_PORT = 30_303
LEFT, RIGHT, THIRD = "21.0.0.1", "21.1.0.1", "21.2.0.1"
INNER = "192.168.1.2"
OPEN, FAR = "22.0.0.1", "22.1.0.1"


AT_HAND = PathModel(latency_s=0.000_05, spread_s=0.0, jitter_s=0.0)
ROUND_TRIP_AT_HAND_S = 0.000_1


@pytest.fixture
def world() -> Iterator[World]:
    with World("punch", PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)) as made:
        yield made


class Side:
    """A host whose listener shares its port with the punch, and hands on what the punch does not take."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.scope = runtime.scope("punch")
        self.others: list[Stream] = []
        self.outcome: Stream | ConnectFailed | None = None
        self.punched: TcpPunch | None = None
        self.listener: Listener = runtime.listen(("0.0.0.0", TCP_PORT), self._accept)
        self.took_s = 0.0

    def _accept(self, stream: Stream) -> None:
        if self.punched is None or not self.punched.accepted(stream):
            self.others.append(stream)

    def punch(self, targets: list[Address], delay_s: float, limit_s: float) -> None:
        self.runtime.event().wait(delay_s)
        began = self.runtime.now()
        self.punched = TcpPunch(self.runtime, self.scope, TCP_PORT, targets)
        self.punched.start(limit_s)
        try:
            self.outcome = self.punched.wait()
        except ConnectFailed as failure:
            self.outcome = failure
        self.took_s = self.runtime.now() - began
        self.punched.close()

    @property
    def stream(self) -> Stream:
        assert self.outcome is not None
        assert not isinstance(self.outcome, ConnectFailed), self.outcome
        return self.outcome


def home(world: World, outer_ip: str, **rules: object) -> Side:
    return Side(world.host(INNER, behind=world.nat(f"nat {outer_ip}", outer_ip, **rules)))


def punch(world: World, left: Side, right: Side, lag_s: float = 0.0, limit_s: float = 10.0) -> None:
    world.spawn(left.runtime, "punch", left.punch, [(RIGHT, TCP_PORT)], 0.0, limit_s)
    world.spawn(right.runtime, "punch", right.punch, [(LEFT, TCP_PORT)], lag_s, limit_s)
    assert world.run(lambda: left.outcome is not None and right.outcome is not None, 30.0)


def crosses(world: World, one: Side, other: Side) -> None:
    for here, there in ((one, other), (other, one)):
        here.stream.write(b"over here")
        assert world.call(there.runtime, there.stream.read_exactly, 9) == b"over here"


class TestBursts:
    def test_most_begin_by_the_clock_and_all_last_as_long(self) -> None:
        bursts, now, aligned = Bursts(random.Random(1)), 100.0, 0
        for _ in range(1_000):
            pause_s = bursts.pause_s(now, 7.0 + now)
            assert 0.0 < pause_s <= 2 * BURST_EVERY_S
            now += pause_s
            aligned += abs((7.0 + now + 1e-6) % BURST_EVERY_S) < 1e-5
            assert bursts.pause_s(now + 0.99 * BURST_S, 0.0) == 0.0
            now += 1.01 * BURST_S
        assert aligned / 1_000 == pytest.approx(ALIGNED_SHARE, abs=0.05)


class TestPunch:
    # A dial that ends beside one that begins is met by the listener.
    @pytest.mark.parametrize("lag_s", [0.0, 0.03, 0.2, ATTEMPT_S - 0.05, ATTEMPT_S, 4.0])
    def test_opens_two_boxes_however_late_the_other_begins(self, world: World, lag_s: float) -> None:
        left, right = home(world, LEFT), home(world, RIGHT, udp_blocked=True)
        punch(world, left, right, lag_s)
        assert (left.stream.remote, right.stream.remote) == ((RIGHT, TCP_PORT), (LEFT, TCP_PORT))
        assert left.stream.local[1] == right.stream.local[1] == TCP_PORT
        assert right.took_s < 0.3
        crosses(world, left, right)
        assert not left.others
        assert not right.others

    def test_takes_what_its_listener_got_while_it_was_not_dialling(self, world: World) -> None:
        """The other side is open, and refuses until it begins."""
        near = home(world, LEFT)
        far = world.host(RIGHT)
        world.spawn(near.runtime, "punch", near.punch, [(RIGHT, TCP_PORT)], 0.0, 10.0)
        world.run_for(1.02)
        dialled = world.call(far, far.connect, (LEFT, TCP_PORT), 1.0, TCP_PORT)
        dialled.write(2 * GREETING)
        assert world.run(lambda: near.outcome is not None, 1.0)
        dialled.write(b"it is me")
        assert world.call(near.runtime, near.stream.read_exactly, 8) == b"it is me"
        assert world.call(far, dialled.read_exactly, 2 * len(GREETING)) == 2 * GREETING

    def test_others_go_to_the_listener_as_ever(self, world: World) -> None:
        near = Side(world.host(OPEN))
        world.spawn(near.runtime, "punch", near.punch, [(RIGHT, TCP_PORT)], 0.0, 5.0)
        stranger = world.host(THIRD)
        world.run_for(0.5)
        world.call(stranger, stranger.connect, (OPEN, TCP_PORT), 1.0)
        assert [stream.remote[0] for stream in near.others] == [THIRD]
        assert world.run(lambda: near.outcome is not None, 10.0)

    def test_does_not_get_through_random_ports_and_says_so_in_time(self, world: World) -> None:
        rules = {"ports": PortRule.RANDOM, "mapping": Behavior.ADDRESS_AND_PORT_DEPENDENT}
        left, right = home(world, LEFT, **rules), home(world, RIGHT, **rules)
        punch(world, left, right, limit_s=5.0)
        assert isinstance(left.outcome, ConnectFailed)
        assert left.outcome.reason == "timeout"
        assert left.took_s == pytest.approx(5.0)
        world.run_for(0.1)
        assert not world.waiting()

    def test_tries_several_targets_side_by_side(self, world: World) -> None:
        left, right = home(world, LEFT), home(world, RIGHT)
        world.spawn(left.runtime, "punch", left.punch, [("23.0.0.9", 9), (RIGHT, TCP_PORT)], 0.0, 5.0)
        world.spawn(right.runtime, "punch", right.punch, [(LEFT, TCP_PORT), ("23.0.0.9", 9)], 0.0, 5.0)
        assert world.run(lambda: left.outcome is not None and right.outcome is not None, 30.0)
        assert right.took_s < 0.3
        crosses(world, left, right)

    def test_a_refusal_is_followed_by_the_next_dial_at_once(self, world: World) -> None:
        near, _ = Side(world.host(OPEN)), world.host(FAR)
        world.spawn(near.runtime, "punch", near.punch, [(FAR, TCP_PORT)], 0.0, 1_000.0)
        world.run_for(20.05)
        assert near.punched is not None
        assert near.punched.attempts == 201, "one in each round trip"

    def test_silence_after_refusals_is_not_waited_for(self, world: World) -> None:
        """A box has lost the thread: it is given four round trips, and not what a silent one gets."""
        near, far = Side(world.host(OPEN)), world.host(FAR)
        world.spawn(near.runtime, "punch", near.punch, [(FAR, TCP_PORT)], 0.0, 1_000.0)
        world.run_for(1.05)
        assert near.punched is not None
        before = near.punched.attempts
        world.cut(near.runtime.name, far.name)
        world.run_for(8.0)
        assert near.punched.attempts - before == pytest.approx(8.0 / (4 * 0.1), abs=2)

    def test_near_ones_come_in_bursts_and_to_an_end(self, world: World) -> None:
        near, closed = Side(world.host(OPEN)), world.host(FAR)
        world.set_path(near.runtime.name, closed.name, AT_HAND)
        world.spawn(near.runtime, "punch", near.punch, [(FAR, TCP_PORT)], 0.0, 1_000.0)
        world.run_for(1.0)
        assert near.punched is not None
        assert near.punched.attempts < 1.5 * BURST_S / BURST_EVERY_S * 1.0 / ROUND_TRIP_AT_HAND_S
        world.run_for(20.0)
        assert near.punched.attempts == MAX_ATTEMPTS
        near.punched.close()
        world.run_for(1.0)
        assert isinstance(near.outcome, ConnectFailed)
        assert near.outcome.reason == "stopped"

    @pytest.mark.parametrize("clock_offset_s", [0.0, 0.02], ids=["one clock", "clocks apart"])
    @pytest.mark.parametrize("latency_s", [0.000_05, 0.05])
    def test_two_that_refuse_each_other_meet(self, world: World, clock_offset_s: float, latency_s: float) -> None:
        left, right = Side(world.host(LEFT)), Side(world.host(RIGHT, clock_offset_s))
        world.set_path(left.runtime.name, right.runtime.name, replace(AT_HAND, latency_s=latency_s))
        for side in (left, right):
            side.listener.close()
        punch(world, left, right, lag_s=0.52)
        crosses(world, left, right)

    def test_what_was_not_taken_is_closed_at_the_end(self, world: World) -> None:
        near, far = Side(world.host(LEFT)), world.host(RIGHT)
        near.punched = TcpPunch(near.runtime, near.scope, TCP_PORT, [(RIGHT, TCP_PORT)])
        near.punched.start(60.0)
        dialled = world.call(far, far.connect, (LEFT, TCP_PORT), 1.0, TCP_PORT)
        assert not near.others
        dialled.write(2 * GREETING)
        world.run_for(1.0)
        attempts = near.punched.attempts
        world.run_for(5.0)
        assert near.punched.attempts == attempts, "it is met"
        near.punched.close()
        with pytest.raises(StreamClosed):
            world.call(far, dialled.read_exactly, 2 * len(GREETING) + 1)

    def test_a_connection_without_a_greeting_is_none(self, world: World) -> None:
        """As where a reset has made one box forget it."""
        near, far = Side(world.host(LEFT)), world.host(RIGHT)
        world.spawn(near.runtime, "punch", near.punch, [(RIGHT, TCP_PORT)], 0.0, 20.0)
        world.run_for(1.0)
        dumb = world.call(far, far.connect, (LEFT, TCP_PORT), 1.0, TCP_PORT)
        world.run_for(0.5)
        assert near.outcome is None
        dumb.write(GREETING)
        world.run_for(GREETING_LIMIT_S)
        assert near.outcome is None, "it has not answered"
        with pytest.raises(StreamClosed):
            world.call(far, dumb.read_exactly, 2 * len(GREETING) + 1)
        dumb.close()
        wrong = world.call(far, far.connect, (LEFT, TCP_PORT), 1.0, TCP_PORT)
        wrong.write(b"\x00\x01")
        world.run_for(1.0)
        assert near.outcome is None
        greeting = world.call(far, far.connect, (LEFT, TCP_PORT), 1.0, TCP_PORT)
        greeting.write(2 * GREETING)
        assert world.run(lambda: near.outcome is not None, 1.0)
        assert near.stream.remote == (RIGHT, TCP_PORT)

    def test_nothing_is_met_any_more_after_the_end(self, world: World) -> None:
        """Not by the dial that was under way either."""
        left, right = home(world, LEFT), home(world, RIGHT)
        world.spawn(left.runtime, "punch", left.punch, [(RIGHT, TCP_PORT)], 0.0, 5.0)
        world.run_for(0.5)
        assert left.punched is not None
        left.punched.close()
        world.spawn(right.runtime, "punch", right.punch, [(LEFT, TCP_PORT)], 0.0, 5.0)
        assert world.run(lambda: right.outcome is not None, 10.0)
        assert isinstance(right.outcome, ConnectFailed)


class Ends:
    """Two bases over one connection."""

    def __init__(self, world: World) -> None:
        self.world = world
        here, there = world.host(OPEN), world.host(FAR)
        accepted: list[Stream] = []
        listener = there.listen((FAR, TCP_PORT), accepted.append)
        self.near_stream = world.call(here, here.connect, (FAR, TCP_PORT), 1.0)
        listener.close()
        self.far_stream = accepted[0]
        self.got: list[tuple[bytes, Address]] = []
        self.closed: list[str] = []
        self.near = self._base(here, self.near_stream, "near")
        self.far = self._base(there, self.far_stream, "far")

    def _base(self, runtime: Runtime, stream: Stream, name: str) -> TcpBase:
        base = TcpBase(
            runtime, runtime.scope("frames"), stream, lambda base, data, sender: self.got.append((data, sender))
        )
        base.on_closed = lambda: self.closed.append(name)
        return base


class TestTcpBase:
    def test_carries_datagrams_as_they_were(self, world: World) -> None:
        ends = Ends(world)
        sent = [b"", b"one", bytes(1_400), bytes(60_000), b"last"]
        for data in sent:
            ends.near.send(data, ends.near.remote)
        world.run_for(2.0)
        assert ends.got == [(data, ends.near.address) for data in sent]
        ends.far.send(b"back", ends.far.remote)
        world.run_for(1.0)
        assert ends.got[-1] == (b"back", (FAR, TCP_PORT))

    def test_what_was_sent_last_arrives_all_the_same(self, world: World) -> None:
        ends = Ends(world)
        ends.near.send(b"goodbye", ends.near.remote)
        ends.near.close()
        ends.far.send(b"too late", ends.far.remote)
        world.run_for(2.0 * REST_S)
        assert ends.got == [(b"goodbye", ends.near.address)]

    def test_sends_to_its_peer_alone(self, world: World) -> None:
        ends = Ends(world)
        ends.near.send(b"elsewhere", (FAR, TCP_PORT + 1))
        world.run_for(1.0)
        assert ends.got == []
        assert ends.near.lost == 1

    def test_never_waits_and_loses_what_is_too_much(self, world: World) -> None:
        ends = Ends(world)
        world.cut(ends.near_stream.local[0], FAR)
        for _ in range(2_000):
            ends.near.send(bytes(1_200), ends.near.remote)
        world.run_for(1.0)
        assert ends.near.lost > 2_000 - MAX_QUEUED_BYTES * 2.2 / 1_200 > 0
        world.mend(ends.near_stream.local[0], FAR)
        world.run_for(60.0)
        assert len(ends.got) == 2_000 - ends.near.lost
        lost, got = ends.near.lost, len(ends.got)
        for _ in range(200):
            ends.near.send(bytes(1_200), ends.near.remote)
        world.run_for(1.0)
        assert (ends.near.lost, len(ends.got)) == (lost, got + 200)

    @pytest.mark.parametrize("end", ["stream", "base"])
    def test_both_hear_of_the_end_once(self, world: World, end: str) -> None:
        ends = Ends(world)
        (ends.near_stream if end == "stream" else ends.near).close()
        world.run_for(2.0 * REST_S)
        ends.near.close()
        ends.far.send(b"nobody", ends.far.remote)
        assert sorted(ends.closed) == ["far", "near"]
        assert not world.waiting()
