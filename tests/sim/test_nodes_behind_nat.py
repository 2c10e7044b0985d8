"""Whole nodes behind boxes of every kind: they join, dial out, learn what they are behind, and follow what changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pytest
from town import INNER, KINDS, SYMMETRIC, Town, town_of

from kodectl.core.mapping import Transport
from kodectl.core.nat import Behavior
from kodectl.core.observers import Belief
from kodectl.core.reachability import Trial
from kodectl.errors import NegativeAnswer
from kodectl.node import outer_port
from kodectl.node.node import Node
from kodectl.sim.nat import Nat
from kodectl.sim.translation import PortRule
from kodectl.wire.contacts import Contact

UDP_ARRIVALS = ("arrived_from_observer", "arrived_from_helper", "own_udp_contacted", "own_udp_stranger")


@pytest.fixture
def town() -> Iterator[Town]:
    with town_of() as built:
        yield built


def test_nodes_behind_every_kind_of_box_dial_out_and_learn_what_it_is(town):
    nodes = {name: town.behind(town.box(number, **rules)) for number, (name, rules) in enumerate(KINDS.items())}
    thought: dict[str, set[str | None]] = {name: set() for name in nodes}

    def settled() -> bool:
        for name, node in nodes.items():
            thought[name].add(node.nat().nat_type)
        return town.settled(*nodes.values())

    assert town.world.run(settled, 30.0)
    for name, node in nodes.items():
        assert thought[name] == {None, name}  # never a wrong one meanwhile
        with_open = [node.peering.links[other.identity.node_id] for other in town.open]
        assert all(peer.outbound for peer in with_open)
        is_direct = name == "full_cone"
        assert (node.nat().state == "direct") is is_direct
        assert node.nat_traversal.is_server is is_direct
        assert town.world.run(lambda node=node, wanted=is_direct: town.holding(node) == [wanted] * 6, 30.0)


def test_what_one_behind_a_box_says_is_heard_behind_the_others(town):
    nodes = [town.behind(town.box(number, **rules)) for number, rules in enumerate(KINDS.values())]
    assert town.world.run(lambda: town.settled(*nodes), 30.0)
    heard: list[bytes] = []
    for node in nodes[1:]:
        node.broadcasting.subscribe(lambda envelope: heard.append(envelope.payload))
    town.world.call(nodes[0].runtime, nodes[0].broadcast, "transaction", b"hello", "gossip")
    assert town.world.run(lambda: heard == [b"hello"] * (len(nodes) - 1), 20.0)


def test_two_behind_one_box_and_one_behind_two_boxes(town):
    shared = town.box(1)
    provider = town.box(2, inner_ip="100.64.0.1", mapping=SYMMETRIC, ports=PortRule.RANDOM)
    home = town.world.nat("home", "100.64.0.2", filtering=Behavior.ENDPOINT_INDEPENDENT, behind=provider)
    twins = [town.behind(shared, ip) for ip in (INNER, "192.168.1.3")]
    nested = town.behind(home)
    assert town.world.run(lambda: town.settled(*twins, nested), 30.0)
    views = [twin.nat() for twin in twins]
    assert {view.nat_type for view in views} == {"port_restricted"}
    assert {view.observed_address for view in views} == {shared.outer_ip}
    assert len({view.observed_port for view in views}) == 2
    assert (nested.nat().nat_type, nested.nat().observed_address) == ("symmetric", provider.outer_ip)


@pytest.mark.parametrize("kind", ["port_restricted", "symmetric"])
def test_ports_that_the_operator_forwards_make_a_node_direct(town, kind):
    nat = town.box(1, **KINDS[kind])
    for transport, port in ((Transport.UDP, 30_301), (Transport.TCP, 30_303)):
        nat.forward(transport, port, (INNER, port))
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node) and all(town.holding(node)), 30.0)
    view = node.nat()
    assert (view.state, view.reachable_udp, view.reachable_tcp) == ("direct", True, True)
    assert f"@{nat.outer_ip}:30303" in node.enode
    newcomer = town.node(town.world.host("24.0.0.1"))
    assert town.world.run(lambda: node.identity.node_id in newcomer.peering.links, 30.0)


@pytest.mark.parametrize("kind", ["full_cone", "port_restricted", "symmetric"])
def test_another_outer_address_is_noticed_and_peers_are_back(town, kind):
    nat = town.box(1, **KINDS[kind])
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    nat.change_address("25.0.0.1")
    assert town.world.run(lambda: node.nat().observed_address == "25.0.0.1", 30.0)
    assert town.world.run(lambda: town.settled(node) and node.nat().nat_type == kind, 120.0)


def test_an_address_stays_believed_where_fewer_observers_are_left_to_name_it(town):
    nat = town.box(1, **KINDS["port_restricted"])
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    for other in town.open[3:]:
        town.world.cut(nat.name, other.runtime.name)
    nat.forget()
    for _ in range(60):
        town.world.run_for(1.0)
        assert f"@{nat.outer_ip}:" in node.enode
    assert node.nat().observers == 3


def test_a_box_that_comes_to_map_otherwise_is_noticed(town):
    nat = town.box(1, ports=PortRule.RANDOM)
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    for rule, kind in ((SYMMETRIC, "symmetric"), (Behavior.ENDPOINT_INDEPENDENT, "port_restricted")):
        nat.change_rules(mapping=rule)
        assert town.world.run(lambda kind=kind: node.nat().nat_type == kind, 60.0)


def test_a_box_that_forgets_its_mappings_is_noticed(town):
    nat = town.box(1, **KINDS["port_restricted"])
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    before = node.nat().observed_port
    nat.forget()
    assert town.world.run(lambda: node.nat().observed_port not in (before, None), 30.0)
    assert node.nat().nat_type == "port_restricted"
    assert town.world.run(lambda: town.settled(node), 120.0)


def test_a_node_behind_a_box_crashes_and_is_back(town):
    nat = town.box(1)
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    town.world.crash(node.runtime.name)
    town.world.run_for(1.0)
    again = town.node(town.world.restart(node.runtime.name))
    assert town.world.run(lambda: town.settled(again), 30.0)


def lan_of_three(town: Town, nat: Nat) -> list[Node]:
    runtimes = [town.world.host(f"192.168.1.{number}", behind=nat) for number in (2, 3, 4)]
    town.world.lan("home", [runtime.name for runtime in runtimes])
    return [town.node(runtime, lan=True) for runtime in runtimes]


def settled_as(town: Town, kind: str, nodes: list[Node]) -> bool:
    views = [node.nat() for node in nodes]
    return town.settled(*nodes) and all((view.nat_type, view.reachable_tcp) == (kind, False) for view in views)


def test_neighbours_on_the_lan_do_not_hide_the_box_before_it(town):
    nodes = lan_of_three(town, town.box(1, **KINDS["port_restricted"]))
    assert town.world.run(lambda: settled_as(town, "port_restricted", nodes), 60.0)
    town.world.run_for(30.0)
    assert settled_as(town, "port_restricted", nodes)


def test_who_knew_its_lan_only_learns_of_the_box_with_the_way_out(town):
    nat = town.box(1, **KINDS["port_restricted"])
    for node in town.open:
        town.world.cut(nat.name, node.runtime.name)
    nodes = lan_of_three(town, nat)
    assert town.world.run(lambda: all(node.nat().state == "direct" for node in nodes), 30.0)
    town.world.heal()
    assert town.world.run(lambda: settled_as(town, "port_restricted", nodes), 120.0)


def test_udp_cut_off_while_the_node_runs_is_noticed_and_so_is_its_return(town):
    nat = town.box(1, **KINDS["port_restricted"])
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    nat.change_rules(udp_blocked=True)
    assert town.world.run(lambda: node.nat().nat_type == "blocked", 120.0)
    town.world.run_for(600.0)
    view = node.nat()
    assert (view.state, view.nat_type, view.observed_address) == ("turn_relay", "blocked", None)
    assert not node.nat_traversal.is_server
    nat.change_rules(udp_blocked=False)
    assert town.world.run(lambda: node.nat().nat_type == "port_restricted", 30.0)


def test_a_net_that_is_cut_for_minutes_is_not_taken_for_one_without_udp(town):
    nat = town.box(1, **KINDS["full_cone"])
    node = town.behind(nat)
    assert town.world.run(lambda: town.settled(node), 30.0)
    for other in town.open:
        town.world.cut(nat.name, other.runtime.name)
    thought: set[str | None] = set()

    def is_over(until: float) -> bool:
        thought.add(node.nat().nat_type)
        return town.world.now >= until

    for minutes in (15, 5):
        town.world.run(lambda until=town.world.now + minutes * 60.0: is_over(until), 1000.0)
        town.world.heal()
    assert thought == {"full_cone", None}
    assert node.nat().state == "direct"
    assert all(town.holding(node))


def test_who_is_cut_off_from_udp_hears_of_others_from_nodes_without_room() -> None:
    with town_of(6, max_peers=3) as town:
        first = town.open[0]
        assert town.world.run(lambda: len(first.peering.links) == 3, 60.0)
        # Room is elsewhere, and only the nodes that have none know where.
        roomy = town.node(town.world.host("21.99.0.1"), max_peers=50)
        assert town.world.run(lambda: bool(roomy.peering.links) or len(first.kademlia.table) > 5, 60.0)
        blocked = town.behind(town.box(1, udp_blocked=True))
        assert town.world.run(lambda: bool(blocked.peering.links), 60.0)
        assert len(blocked.kademlia.table) == 0


@pytest.mark.parametrize("there", ["port_restricted", "symmetric"])
def test_one_open_node_is_enough_for_two_behind_nats(there: str) -> None:
    """It learns that it is open from those that come, and relays for them where it has to."""
    with town_of(1) as town:
        alone = town.open[0]
        one = town.behind(town.box(1, **KINDS["port_restricted"]))
        assert town.world.run(lambda: bool(one.peering.links), 10.0)
        assert alone.nat().reachable_udp is None
        other = town.behind(town.box(2, **KINDS[there]))
        assert town.world.run(lambda: alone.nat().reachable_udp is True, 10.0)
        town.world.run_for(15.0)
        view = town.world.call(one.runtime, one.connect, other.identity.node_id.hex(), 20.0)
        assert view.outcome == "connected", view


def test_one_open_node_stays_known_as_open() -> None:
    """Peers that have come are no strangers any more, and it may be hours until the next one comes."""
    with town_of(1) as town:
        alone = town.open[0]
        nodes = [town.behind(town.box(number, **KINDS["symmetric"])) for number in (1, 2)]
        assert town.world.run(lambda: alone.nat().reachable_udp is True, 30.0)
        town.world.run_for(3_600.0)
        assert alone.nat().reachable_udp is True
        assert alone.nat().relay.state == "on"
        nodes.append(town.behind(town.box(3, **KINDS["symmetric"])))
        town.world.run_for(30.0)
        view = town.world.call(nodes[2].runtime, nodes[2].connect, nodes[0].identity.node_id.hex(), 20.0)
        assert view.outcome == "connected", view


@pytest.mark.parametrize("is_sent_something", [False, True])
def test_whom_a_node_has_sent_something_to_does_not_prove_that_it_is_open(is_sent_something: bool) -> None:
    """A firewall lets in who was sent something."""
    with town_of(1) as town:
        alone, world = town.open[0], town.world
        if is_sent_something:
            for number in (1, 2):
                alone.kademlia.check(Contact(bytes(31) + bytes([number]), f"24.{number}.0.1", 30301, 30303))
        world.run_for(1.0)
        for number in (1, 2):
            town.node(world.host(f"24.{number}.0.1"))
        world.run_for(5.0)
        assert alone.discovery.strangers.get_in("21.0.0.1", world.now) is not is_sent_something


def test_whom_a_node_has_sent_something_long_ago_is_no_stranger_if_he_has_gone_on_sending() -> None:
    """A firewall stays open by what comes in, too: two liars could wait until the node has forgotten them."""
    with town_of(1) as town:
        alone, world = town.open[0], town.world
        hosts = [world.host(f"24.{number}.0.1") for number in (1, 2)]
        for number, host in enumerate(hosts, 1):
            alone.kademlia.check(Contact(bytes(31) + bytes([number]), host.name, 30301, 30303))
        noisy = [host.open_datagram((host.name, 30301), lambda data, source: None) for host in hosts]
        for _ in range(20):
            world.run_for(60.0)
            for socket in noisy:
                socket.send(b"\xff", ("21.0.0.1", alone.discovery.port))
        for socket in noisy:
            socket.close()
        for host in hosts:
            town.node(host)
        world.run_for(5.0)
        assert not alone.discovery.strangers.get_in("21.0.0.1", world.now)


@pytest.mark.parametrize("lost", ["own_tcp", "udp"])
def test_knocks_that_are_lost_once_do_not_make_an_open_node_unreachable(lost: str) -> None:
    with town_of(6) as town:
        node, world = town.open[0], town.world
        assert world.run(lambda: node.nat().reachable_udp is True and node.nat().reachable_tcp is True, 30.0)
        reachability = node.nat_traversal.reachability
        rounds: list[list[Trial]] = []
        knocks = reachability._knocks

        def losing_once(belief: Belief) -> list[Trial]:
            trials = knocks(belief)
            if not rounds:
                for trial in trials:
                    for name in ("own_tcp",) if lost == "own_tcp" else UDP_ARRIVALS:
                        setattr(trial, name, False)
            rounds.append(trials)
            return trials

        reachability._knocks = losing_once
        thought: set[tuple[bool | None, bool | None]] = set()

        def asked_twice() -> bool:
            thought.add((node.nat().reachable_udp, node.nat().reachable_tcp))
            return len(rounds) == 2

        reachability.look_again()
        assert world.run(asked_twice, 60.0)
        world.run_for(5.0)
        thought.add((node.nat().reachable_udp, node.nat().reachable_tcp))
        assert thought == {(True, True)}


def test_a_full_cone_is_not_taken_for_a_filter_by_the_silence_of_two() -> None:
    """Whose helpers do not knock; the others' trials are lost."""
    with town_of(6) as town:
        node = town.behind(town.box(1, **KINDS["full_cone"]))
        reachability = node.nat_traversal.reachability
        knocks = reachability._knocks
        types: list[str | None] = []
        rounds = 0

        def thin_at_first(belief: Belief) -> list[Trial]:
            nonlocal rounds
            rounds += 1
            trials = knocks(belief)
            if rounds > 1 or len(trials) < 4:
                return trials
            return [Trial(helpers=2, own_helpers=2) if place < 2 else Trial() for place in range(len(trials))]

        reachability._knocks = thin_at_first
        changed = reachability.on_changed
        reachability.on_changed = lambda: (types.append(node.nat().nat_type), changed())[1]
        assert town.world.run(lambda: node.nat().nat_type == "full_cone", 30.0)
        assert set(types) <= {"full_cone", None}
        assert rounds >= 2


def test_strangers_prove_nothing_about_a_private_address() -> None:
    """A box may let in more than one expects; which address of it is seen has to be said by others."""
    with town_of(1) as town:
        inside, outside = town.behind(town.box(1, **KINDS["full_cone"])), town.open[0]
        for node in (inside, outside):
            for ip in ("24.1.0.1", "24.2.0.1"):
                node.discovery.strangers.hailed(ip, town.world.now)
                node.discovery.strangers.proved(ip, town.world.now)
        reach = [node.nat_traversal.reachability for node in (inside, outside)]
        assert [one._strangers_get_in() for one in reach] == [False, True]


def test_who_connects_in_its_first_moments_is_not_left_on_a_relay() -> None:
    """A node without UDP learns how its TCP port looks from outside only when it has found whom to ask."""
    with town_of(6, seed=1) as town:
        blocked, cone, other = (
            town.behind(town.box(number, **KINDS[kind]))
            for number, kind in enumerate(("blocked", "full_cone", "port_restricted"), 1)
        )
        assert town.world.run(lambda: town.settled(blocked, cone, other), 60.0)
        assert town.world.run(lambda: blocked.connectivity.rendezvous.is_told, 60.0)
        assert town.world.run(lambda: cone.connectivity.rendezvous.is_told, 60.0)
        asks = blocked.connectivity._outer_port
        asks.seen = None  # with most seeds it has been told by now
        asks._asked.clear()
        asks._asked_at.clear()
        view = town.world.call(blocked.runtime, blocked.connect, cone.identity.node_id.hex(), 20.0)
        assert view.outcome == "connected"
        peer = blocked.peering.links[cone.identity.node_id]
        assert town.world.run(lambda: peer.route.path == "direct", 5.0)


def test_who_never_learns_how_its_tcp_port_looks_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_answers(*_: object) -> NoReturn:
        raise NegativeAnswer("no answer", code="silent")

    monkeypatch.setattr(outer_port, "ask_over_tcp", nobody_answers)
    with town_of(6, seed=1) as town:
        blocked, cone = (
            town.behind(town.box(number, **KINDS[kind])) for number, kind in enumerate(("blocked", "full_cone"), 1)
        )
        assert town.world.run(lambda: town.settled(blocked, cone), 60.0)
        assert town.world.run(lambda: blocked.connectivity.rendezvous.is_told, 60.0)
        town.world.run_for(5.0)
        began = town.world.now
        view = town.world.call(blocked.runtime, blocked.connect, cone.identity.node_id.hex(), 20.0)
        assert view.outcome == "connected"
        assert town.world.now - began < 2.0
