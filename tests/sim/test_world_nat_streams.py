"""Streams through boxes that translate addresses: out, in by forwards, and what ends them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from kodectl.core.mapping import Transport
from kodectl.core.nat import Behavior
from kodectl.runtime.base import Address, ConnectFailed, Stream, StreamClosed
from kodectl.sim import streams
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.translation import PortRule
from kodectl.sim.world import World

STEADY = PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)
OUTER, OTHER_OUTER = "21.0.0.1", "21.1.0.1"
INNER = "192.168.1.2"
SERVER, OTHER_SERVER = "22.0.0.1", "22.1.0.1"
TCP_PORT = 30_303


@pytest.fixture
def world() -> Iterator[World]:
    with World(1, STEADY) as one:
        yield one


class Connected(NamedTuple):
    near: Stream
    far: Stream


def connected(world: World, here: SimRuntime, there: SimRuntime, address: Address) -> Connected:
    accepted: list[Stream] = []
    listener = there.listen(("0.0.0.0", TCP_PORT), accepted.append)
    near = world.call(here, here.connect, address, 5.0)
    listener.close()
    return Connected(near, accepted[0])


def crosses(world: World, here: SimRuntime, there: SimRuntime, ends: Connected) -> None:
    """Bytes go both ways."""
    for source, sink, runtime in ((ends.near, ends.far, here), (ends.far, ends.near, there)):
        data = runtime.random_bytes(300_000)
        world.spawn(runtime, "write", source.write, data)
        assert world.call(runtime, sink.read_exactly, len(data)) == data


class TestStreams:
    @pytest.mark.parametrize("rule", list(PortRule), ids=lambda rule: rule.value)
    @pytest.mark.parametrize("behavior", list(Behavior), ids=lambda behavior: behavior.value)
    def test_go_out_and_are_seen_from_an_outer_address(self, world: World, behavior: Behavior, rule: PortRule) -> None:
        nat = world.nat("router", OUTER, mapping=behavior, ports=rule, udp_blocked=True)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        ends = connected(world, inside, outside, (SERVER, TCP_PORT))
        assert ends.near.local[0] == INNER
        assert ends.near.remote == ends.far.local == (SERVER, TCP_PORT)
        assert ends.far.remote[0] == OUTER
        assert (ends.far.remote[1] == ends.near.local[1]) is (rule is PortRule.PRESERVE)
        crosses(world, inside, outside, ends)

    def test_do_not_come_in_by_themselves(self, world: World) -> None:
        nat = world.nat("router", OUTER, filtering=Behavior.ENDPOINT_INDEPENDENT)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        inside.listen(("0.0.0.0", TCP_PORT), lambda stream: None)
        with pytest.raises(ConnectFailed, match="timeout"):
            world.call(outside, outside.connect, (OUTER, TCP_PORT), 5.0)

    def test_come_in_by_a_forward(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        nat.forward(Transport.TCP, 40_000, (INNER, TCP_PORT))
        ends = connected(world, outside, inside, (OUTER, 40_000))
        assert ends.near.remote == (OUTER, 40_000)
        assert ends.far.local == (INNER, TCP_PORT)
        assert ends.far.remote == ends.near.local
        crosses(world, outside, inside, ends)
        with pytest.raises(ConnectFailed, match="refused"):  # the listener is closed by now
            world.call(outside, outside.connect, (OUTER, 40_000), 5.0)

    def test_go_through_two_boxes_on_each_side(self, world: World) -> None:
        sides = []
        for name, ip in (("left", OUTER), ("right", OTHER_OUTER)):
            provider = world.nat(f"{name} provider", ip, inner_ip="100.64.0.1", ports=PortRule.RANDOM)
            sides.append((provider, world.nat(name, "100.64.0.2", behind=provider)))
        here, there = (world.host(INNER, behind=home) for _, home in sides)
        provider, home = sides[1]
        provider.forward(Transport.TCP, 1, ("100.64.0.2", 2))
        home.forward(Transport.TCP, 2, (INNER, TCP_PORT))
        ends = connected(world, here, there, (OTHER_OUTER, 1))
        assert ends.far.remote[0] == OUTER
        crosses(world, here, there, ends)

    @pytest.mark.parametrize("hairpin", [True, False])
    def test_to_the_own_outer_address_need_hairpin(self, world: World, hairpin: bool) -> None:
        nat = world.nat("router", OUTER, hairpin=hairpin)
        here, there = (world.host(f"192.168.1.{number}", behind=nat) for number in (2, 3))
        nat.forward(Transport.TCP, 40_000, (there.ip, TCP_PORT))
        crosses(world, here, there, connected(world, here, there, (there.ip, TCP_PORT)))
        if hairpin:
            ends = connected(world, here, there, (OUTER, 40_000))
            assert ends.far.remote[0] == OUTER
            crosses(world, here, there, ends)
        else:
            with pytest.raises(ConnectFailed, match="timeout"):
                world.call(here, here.connect, (OUTER, 40_000), 5.0)

    @pytest.mark.parametrize("part", [("router/192.168.1.1", "router/192.168.1.2"), ("router", SERVER)])
    def test_are_as_slow_as_each_part_of_the_way(self, world: World, part: tuple[str, str]) -> None:
        nat = world.nat("router", OUTER)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        ends = connected(world, inside, outside, (SERVER, TCP_PORT))

        def took(**said: float) -> float:
            world.set_path(*part, PathModel(latency_s=0.001, spread_s=0.0, jitter_s=0.0, **said))
            began = world.now
            world.spawn(inside, "write", ends.near.write, bytes(1_000))
            world.call(outside, ends.far.read_exactly, 1_000)
            return world.now - began

        assert took() < 0.06
        assert took(bandwidth=1_000.0) == pytest.approx(1.0, abs=0.06)
        assert took(loss=1.0) > 1.6  # sent again eight times

    def test_let_in_nobody_but_whom_they_dialled(self, world: World) -> None:
        nat = world.nat("router", OUTER, filtering=Behavior.ENDPOINT_INDEPENDENT)
        inside, outside, stranger = world.host(INNER, behind=nat), world.host(SERVER), world.host(OTHER_SERVER)
        outside.listen(("0.0.0.0", TCP_PORT), lambda stream: None)
        inside.listen(("0.0.0.0", TCP_PORT), lambda stream: None)
        world.call(inside, streams.connect, inside.host, (SERVER, TCP_PORT), 5.0, TCP_PORT)
        with pytest.raises(ConnectFailed, match="timeout"):
            world.call(stranger, stranger.connect, (OUTER, TCP_PORT), 5.0)

    def test_to_oneself_go_through_no_box(self, world: World) -> None:
        host = world.host(INNER, behind=world.nat("router", OUTER))
        for ip in (INNER, "127.0.0.1"):
            crosses(world, host, host, connected(world, host, host, (ip, TCP_PORT)))

    def test_survive_what_the_box_forgets_if_it_gives_them_the_same_port(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        ends = connected(world, inside, outside, (SERVER, TCP_PORT))
        nat.forget()
        ends.far.write(b"from outside")
        world.spawn(inside, "read", ends.near.read_exactly, 12)
        world.run_for(60.0)
        assert any("world/read" in line for line in world.waiting())
        ends.near.write(b"from inside")
        world.run_for(1.0)
        assert not any("world/read" in line for line in world.waiting())
        assert world.call(outside, ends.far.read_exactly, 11) == b"from inside"
        crosses(world, inside, outside, ends)

    @pytest.mark.parametrize("event", ["forget", "change of address"])
    def test_are_reset_as_soon_as_they_come_from_another_address(self, world: World, event: str) -> None:
        nat = world.nat("router", OUTER, ports=PortRule.RANDOM)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        ends = connected(world, inside, outside, (SERVER, TCP_PORT))
        nat.forget() if event == "forget" else nat.change_address(OTHER_OUTER)
        ends.near.write(b"x")
        with pytest.raises(StreamClosed, match="reset"):
            world.call(inside, ends.near.read_exactly, 1)
        world.spawn(outside, "read", ends.far.read_exactly, 1)
        world.run_for(60.0)
        assert any("world/read" in line for line in world.waiting())  # nobody told the other side

    def test_end_with_a_removed_forward_only_once_it_is_forgotten(self, world: World) -> None:
        nat = world.nat("router", OUTER, ports=PortRule.RANDOM)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        nat.forward(Transport.TCP, 40_000, (INNER, TCP_PORT))
        ends = connected(world, outside, inside, (OUTER, 40_000))
        nat.remove_forward(Transport.TCP, 40_000)
        ends.far.write(b"x")
        with pytest.raises(StreamClosed, match="reset"):
            world.call(inside, ends.far.read_exactly, 1)

    def test_are_idle_for_two_hours_at_most(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        ends = connected(world, inside, outside, (SERVER, TCP_PORT))
        for _ in range(3):  # what comes in keeps it too
            world.run_for(7_000.0)
            ends.far.write(b"x")
        assert world.call(inside, ends.near.read_exactly, 3) == b"xxx"
        world.run_for(7_500.0)
        ends.far.write(b"x")
        world.spawn(inside, "read", ends.near.read_exactly, 1)
        world.run_for(60.0)
        assert any("world/read" in line for line in world.waiting())
        ends.near.write(b"x")  # opens it again
        assert world.run(lambda: not world.waiting(), 60.0)

    def test_of_a_host_that_restarted_are_reset(self, world: World) -> None:
        nat = world.nat("router", OUTER)
        inside, outside = world.host(INNER, behind=nat), world.host(SERVER)
        ends = connected(world, inside, outside, (SERVER, TCP_PORT))
        world.restart(inside.name)
        ends.far.write(b"x")
        with pytest.raises(StreamClosed, match="reset"):
            world.call(outside, ends.far.read_exactly, 1)


class TestSimultaneousOpen:
    def punch(self, world: World, **rules: Any) -> list[Stream | str]:
        """Two behind boxes dial each other's outer address at about the same time, from the ports that the other dials."""
        homes = [world.nat("left", OUTER, **rules), world.nat("right", OTHER_OUTER, **rules)]
        hosts = [world.host(INNER, behind=nat) for nat in homes]
        outcomes: dict[str, Stream | str] = {}

        def dial(host: SimRuntime, remote: str, delay_s: float) -> None:
            host.event().wait(delay_s)
            try:
                outcomes[host.name] = streams.connect(host.host, (remote, TCP_PORT), 10.0, local_port=TCP_PORT)
            except ConnectFailed as failure:
                outcomes[host.name] = failure.reason

        world.spawn(hosts[0], "dial", dial, hosts[0], OTHER_OUTER, 0.0)
        world.spawn(hosts[1], "dial", dial, hosts[1], OUTER, 0.02)
        world.run(lambda: len(outcomes) == 2)
        if rules.get("ports") is not PortRule.RANDOM:
            near, far = (outcomes[host.name] for host in hosts)
            assert isinstance(near, streams.SimStream)
            assert isinstance(far, streams.SimStream)
            assert (near.remote, far.remote) == ((OTHER_OUTER, TCP_PORT), (OUTER, TCP_PORT))
            crosses(world, hosts[0], hosts[1], Connected(near, far))
        return list(outcomes.values())

    def test_gets_through_where_ports_are_kept(self, world: World) -> None:
        self.punch(world)

    def test_does_not_where_the_ports_are_other_ones(self, world: World) -> None:
        assert self.punch(world, ports=PortRule.RANDOM) == ["timeout", "timeout"]

    def test_a_dial_that_ended_meets_nobody(self, world: World) -> None:
        here, there = world.host(SERVER), world.host(OTHER_SERVER)
        with pytest.raises(ConnectFailed, match="refused"):
            world.call(here, streams.connect, here.host, (OTHER_SERVER, 2), 1.0, 1)
        with pytest.raises(ConnectFailed, match="refused"):
            world.call(there, streams.connect, there.host, (SERVER, 1), 1.0, 2)
        assert not here.host.dials
        assert not there.host.dials
