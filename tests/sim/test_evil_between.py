"""Who passes letters and datagrams on may lose, repeat, delay, change or misdirect them, from the start or in mid connection:
two nodes behind boxes get through all the same, as long as one of those between is honest, and often where none is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from town import KINDS, Town, town_of

from kodectl.core.limits import TokenBucket
from kodectl.core.signal_routes import Way
from kodectl.core.turn_allocations import Allocation
from kodectl.node.node import Node
from kodectl.runtime.base import Address
from kodectl.wire.enode import Enode
from kodectl.wire.rpc import Signal, SignalStatus

SETTLE_LIMIT_S = 90.0
ATTEMPT_S, ATTEMPTS = 15.0, 3
SEEDS = 10
WRONG: Address = ("66.6.6.6", 6666)
Pass = Callable[[Way, Signal, float], SignalStatus]


class Scene:
    def __init__(self, town: Town, kind: str) -> None:
        self.town, self.world = town, town.world
        self.nodes = [town.behind(town.box(number, **KINDS[kind])) for number in (1, 2)]
        assert self.world.run(lambda: town.settled(*self.nodes), SETTLE_LIMIT_S)
        assert self.world.run(self._are_told, SETTLE_LIMIT_S)
        self.world.run_for(5.0)

        self.relays = [Relay(node) for node in town.open]

    def _are_told(self) -> bool:
        return all(node.connectivity.rendezvous.is_told for node in self.nodes)

    def connect(self) -> None:
        one, other = self.nodes
        one.peering.dial(Enode(other.identity.node_id, "", 0, 0))

    def part(self) -> None:
        one, other = self.nodes
        for node, peer in ((one, other), (other, one)):
            self.world.call(node.runtime, node.disconnect, peer.identity.node_id.hex())
        self.world.run_for(30.0)

    @property
    def is_linked(self) -> bool:
        one, other = self.nodes
        return other.identity.node_id in one.peering.links and one.identity.node_id in other.peering.links

    def links_within(self, attempts: int = ATTEMPTS) -> bool:
        """As an operator would, who asks again once it has failed."""
        for _ in range(attempts):
            self.connect()
            if self.world.run(lambda: self.is_linked, ATTEMPT_S):
                return True
        return False


@pytest.fixture(scope="module")
def hidden() -> Iterator[Scene]:
    with town_of(6) as town:
        yield Scene(town, "port_restricted")


@pytest.fixture(scope="module")
def relayed() -> Iterator[Scene]:
    """Nothing but a relay connects them."""
    with town_of(6) as town:
        yield Scene(town, "symmetric")


# -- letters -----------------------------------------------------------------------------------------------------------


class Carrier:
    """A node that passes letters on in its own way."""

    def __init__(self, node: Node, how: str) -> None:
        self.node, self.rng = node, node.runtime.rng
        self.post = node.connectivity.signalling.post
        self.honest: Pass = self.post._pass_on
        self.kept: list[tuple[Way, Signal]] = []
        self.letters = 0
        self.how: Pass = getattr(self, how)
        self.post._pass_on = self._pass_on  # type: ignore[method-assign]

    def _pass_on(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        self.letters += 1
        return self.how(way, signal, now)

    def later(self, delay_s: float, way: Way, signal: Signal) -> None:
        runtime = self.node.runtime
        runtime.call_later(delay_s, lambda: self.honest(way, signal, runtime.now()))

    def repeats(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        for number in range(1, 20):
            self.later(0.2 * number, way, signal)
        return self.honest(way, signal, now)

    def reorders(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        self.later(self.rng.uniform(0.0, 1.5), way, signal)
        return SignalStatus.FORWARDED

    def loses_half(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        return self.honest(way, signal, now) if self.rng.random() < 0.5 else SignalStatus.FORWARDED

    def changes(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        letter = bytearray(signal.letter)
        letter[self.rng.randrange(len(letter))] ^= 1 << self.rng.randrange(8)
        return self.honest(way, _with(signal, letter=bytes(letter)), now)

    def misdirects(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        """To whom it is linked with, instead."""
        others = [node_id for node_id in self.node.peering.links if node_id not in (signal.target, way.node_id)]
        return self.honest(way, _with(signal, target=self.rng.choice(others)), now)

    def brings_up_the_past(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        """With every letter all that there were before, of all sessions."""
        for number, (old_way, old) in enumerate(self.kept[-50:]):
            self.later(0.01 * number, old_way, old)
        self.kept.append((way, signal))
        return self.honest(way, signal, now)

    def denies(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        return SignalStatus.NOT_THERE

    def is_always_busy(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        return SignalStatus.BUSY

    def swaps_the_sessions(self, way: Way, signal: Signal, now: float) -> SignalStatus:
        return self.honest(way, _with(signal, session=signal.session[::-1]), now)


def _with(signal: Signal, **changes: Any) -> Signal:
    changed: Signal = msgspec.structs.replace(signal, **changes)
    return changed


@contextmanager
def carried(scene: Scene, how: str, honest: int) -> Iterator[None]:
    """By all open nodes but so many of those that the record names."""
    named = [peer.node_id for peer in scene.nodes[1].connectivity.rendezvous.nodes()]
    spared = named[-honest:] if honest else []
    carriers = [Carrier(node, how) for node in scene.town.open if node.identity.node_id not in spared]
    try:
        yield
        assert sum(carrier.letters for carrier in carriers) > 0
    finally:
        for carrier in carriers:
            carrier.post._pass_on = carrier.honest  # type: ignore[method-assign]
        scene.part()


LATE = ["repeats", "reorders", "loses_half", "brings_up_the_past"]
FALSE = ["changes", "misdirects", "denies", "is_always_busy", "swaps_the_sessions"]


@pytest.mark.parametrize("how", ["reorders", "loses_half", "brings_up_the_past"])
def test_letters_that_come_late_twice_or_not_are_enough_though_none_is_honest(hidden: Scene, how: str) -> None:
    with carried(hidden, how, honest=0):
        assert hidden.links_within()
        hidden.world.run_for(30.0)
        assert hidden.is_linked
        for node in hidden.nodes:
            assert len(node.connectivity.traversal._passages) == 1


@pytest.mark.parametrize("how", ["changes", "misdirects", "denies"])
def test_one_honest_rendezvous_node_is_enough(hidden: Scene, how: str) -> None:
    with carried(hidden, how, honest=1):
        assert hidden.links_within()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "honest"), [*((how, 0) for how in LATE), *((how, 1) for how in FALSE)])
def test_letters_get_through_whatever_the_seed(how: str, honest: int) -> None:
    for seed in range(SEEDS):
        with town_of(6, seed=seed) as town:
            scene = Scene(town, "port_restricted")
            with carried(scene, how, honest):
                assert scene.links_within(), seed


# -- relays ------------------------------------------------------------------------------------------------------------


class Relay:
    """A node that relays in its own way."""

    def __init__(self, node: Node) -> None:
        service = node.connectivity.relaying._service
        assert service is not None
        self.node, self.runtime, self.rng = node, node.runtime, node.runtime.rng
        self.datagrams = 0
        self.how: Callable[[bytes], list[Copy]] = self.is_honest
        self.rate = TokenBucket(20.0, 20.0)
        self._service = service
        responder = service._responder
        self._forwarded, self._from_peer = responder._forwarded, responder.from_peer
        responder._forwarded = self._to_peer  # type: ignore[method-assign]
        responder.from_peer = self._to_client  # type: ignore[method-assign]

    def _to_peer(self, *args: Any) -> None:
        forward = self._forwarded(*args)
        if forward is None:
            return
        for copy in self._copies(forward.data):
            peer = WRONG if copy.is_misdirected else forward.peer
            self._later(copy, lambda data, peer=peer: forward.relay.socket.send(data, peer))

    def _to_client(self, allocation: Allocation, data: bytes, peer: Address, now: float) -> None:
        for copy in self._copies(data):
            packed = self._from_peer(allocation, copy.data, peer, now)
            client = WRONG if copy.is_misdirected else allocation.client
            if packed is not None:
                self._later(
                    copy._replace(data=packed), lambda data, client=client: self._service._deliver(data, client)
                )

    def _copies(self, data: bytes) -> list[Copy]:
        self.datagrams += 1
        return self.how(data)

    def _later(self, copy: Copy, send: Callable[[bytes], None]) -> None:
        self.runtime.call_later(copy.delay_s, lambda: send(copy.data))

    def is_honest(self, data: bytes) -> list[Copy]:
        return [Copy(data)]

    def repeats(self, data: bytes) -> list[Copy]:
        return [Copy(data, delay_s) for delay_s in (0.0, 0.01, 0.2, 1.0)]

    def reorders(self, data: bytes) -> list[Copy]:
        return [Copy(data, self.rng.uniform(0.0, 0.3))]

    def loses_some(self, data: bytes) -> list[Copy]:
        return [Copy(data)] if self.rng.random() < 0.7 else []

    def changes_some(self, data: bytes) -> list[Copy]:
        if not data or self.rng.random() < 0.8:
            return [Copy(data)]
        changed = bytearray(data)
        changed[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return [Copy(bytes(changed))]

    def swallows(self, data: bytes) -> list[Copy]:
        return []

    def misdirects(self, data: bytes) -> list[Copy]:
        return [Copy(data, is_misdirected=True)]

    def throttles(self, data: bytes) -> list[Copy]:
        return [Copy(data)] if self.rate.take(self.runtime.now()) else []


class Copy(NamedTuple):
    data: bytes
    delay_s: float = 0.0
    is_misdirected: bool = False


@contextmanager
def relayed_by(scene: Scene, how: str, honest: int) -> Iterator[list[Relay]]:
    relays = scene.relays
    for relay in relays[honest:]:
        relay.how = getattr(relay, how)
        relay.datagrams = 0
    try:
        yield relays
    finally:
        for relay in relays:
            relay.how = relay.is_honest
        scene.part()


BAD = ["repeats", "reorders", "loses_some", "changes_some", "throttles"]
USELESS = ["swallows", "misdirects"]


def stays_linked(scene: Scene, seconds: float) -> bool:
    """By one link from the beginning to the end."""
    one, other = scene.nodes
    link = one.peering.links.get(other.identity.node_id)
    scene.world.run_for(seconds)
    return scene.is_linked and one.peering.links[other.identity.node_id] is link


@pytest.mark.parametrize(("how", "honest"), [("changes_some", 0), ("swallows", 1)])
def test_relays_may_be_bad_if_one_is_of_use(relayed: Scene, how: str, honest: int) -> None:
    with relayed_by(relayed, how, honest) as relays:
        assert relayed.links_within()
        assert stays_linked(relayed, 30.0)
        assert sum(relay.datagrams for relay in relays[honest:]) > 0


def test_a_relay_that_turns_bad_is_left(relayed: Scene) -> None:
    with relayed_by(relayed, "is_honest", 0) as relays:
        assert relayed.links_within()
        relayed.world.run_for(5.0)
        used = max(relays, key=lambda relay: relay.datagrams)
        used.how = used.misdirects
        assert stays_linked(relayed, 45.0)
        seen = used.datagrams
        relayed.world.run_for(30.0)
        others = sum(relay.datagrams for relay in relays if relay is not used)
        assert others > used.datagrams - seen


@pytest.mark.slow
@pytest.mark.parametrize(("how", "honest"), [*((how, 0) for how in BAD), *((how, 1) for how in USELESS)])
def test_relays_may_be_bad_whatever_the_seed(how: str, honest: int) -> None:
    took = []
    for seed in range(SEEDS):
        with town_of(6, seed=seed) as town:
            scene = Scene(town, "symmetric")
            with relayed_by(scene, how, honest):
                began = scene.world.now
                assert scene.links_within(), seed
                took.append(scene.world.now - began)
                assert stays_linked(scene, 60.0), seed
    print(f"{how}, {honest} honest: linked after {min(took):.1f} to {max(took):.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize("how", [*BAD, *USELESS])
def test_a_relay_that_turns_bad_ends_no_link_whatever_the_seed(how: str) -> None:
    for seed in range(SEEDS):
        with town_of(6, seed=seed) as town:
            scene = Scene(town, "symmetric")
            assert scene.links_within(), seed
            scene.world.run_for(10.0)
            used = max(scene.relays, key=lambda relay: relay.datagrams)
            used.how = getattr(used, how)
            assert stays_linked(scene, 90.0), seed


def test_a_client_that_crashed_is_not_kept_out_by_what_it_had(relayed: Scene) -> None:
    """Its former allocation is there for ten minutes, from the very port that it has again; there is no other relay."""
    for relay in relayed.relays[1:]:
        relayed.world.call(relay.runtime, relay.node.connectivity.relaying.stop)
    assert relayed.links_within()
    (relaying, *_) = (relay.node.connectivity.relaying for relay in relayed.relays)
    assert relaying.view().allocations
    one, other = relayed.nodes
    relayed.world.crash(one.runtime.name)
    relayed.world.run_for(2.0)
    relayed.nodes = [relayed.town.node(relayed.world.restart(one.runtime.name)), other]
    assert relayed.world.run(lambda: relayed.town.settled(relayed.nodes[0]), SETTLE_LIMIT_S)
    assert relayed.links_within()
    assert relaying.view().allocations <= 4
