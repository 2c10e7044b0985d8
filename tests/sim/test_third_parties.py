"""What a peer can have nodes send to somebody who takes no part: by candidates, dials, punches, sprays, knocks and relays.

Everything that leaves for the victim is counted, with headers. The limits are of one node that is used, whoever uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from third_party import Sent, Tally
from town import KINDS, Town, town_of

from kodectl.core.ice.allowance import CHECK_BURST, CHECKS_PER_S
from kodectl.core.ice.requests import named_ufrag
from kodectl.core.spray import MAX_PACKETS
from kodectl.node.conversation import Conversation
from kodectl.node.ice import Description, IceSession
from kodectl.node.knocking import TARGET_BURST, TARGET_KNOCKS_PER_S
from kodectl.node.node import Node
from kodectl.node.passage import Passage
from kodectl.node.spraying import NETWORK_SPRAY_BURST, NETWORK_SPRAYS_PER_S
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.wire.candidates import Address, Candidate, CandidateType
from kodectl.wire.contacts import pack_ip
from kodectl.wire.enode import Enode
from kodectl.wire.offers import MAX_CANDIDATES, NatHint, Offer, OfferKind
from kodectl.wire.packets import NONCE_SIZE
from kodectl.wire.rpc import Probe

VICTIM = "66.6.6.6"
SETTLE_LIMIT_S = 90.0
PASSWORD = "p" * 24
AFTER_S = 45.0
"""Longer than the last repetition of a check waits for its turn."""
CHECK_BYTES = 160
"""With headers."""
KNOCK_PACKETS = 6
"""Three datagrams, and a SYN with two repetitions."""


class Scene:
    """A node that is used, and who uses it; `used` is behind a box unless it is open."""

    def __init__(self, town: Town, kind: str, attackers: int) -> None:
        self.town = town
        self.world = town.world
        self.used = town.open[3] if kind == "open" else town.behind(town.box(1, **KINDS[kind]))
        self.evil = [town.node(self.world.host(f"30.{number}.0.1")) for number in range(attackers)]
        self.world.host(VICTIM)
        nodes = [self.used, *self.evil]
        assert self.world.run(lambda: all(node.nat().state != "unknown" for node in nodes), SETTLE_LIMIT_S)
        if kind != "open":
            assert self.world.run(lambda: self.used.connectivity.rendezvous.is_told, SETTLE_LIMIT_S)
        self.world.run_for(5.0)
        self.located = [self._locate(node) for node in self.evil]
        self.tally = Tally(self.world)
        self._numbers = count()

    def _locate(self, node: Node) -> Any:
        signalling = node.connectivity.signalling
        return self.world.call(node.runtime, signalling.locate, self.used.identity.node_id, 10.0)

    def ufrag(self) -> str:
        return f"evil{next(self._numbers):06}"

    def conversation(self, number: int) -> Conversation:
        conversation = self.evil[number].connectivity.signalling.open(self.used.identity.node_id, self.located[number])
        conversation.on_message = lambda offer: None
        return conversation

    def every(self, pause_s: float, seconds: float, attack: Callable[[int], None]) -> None:
        """Each attacker, so often, for so long; and what comes of it afterwards."""
        ends = self.world.now + seconds

        def step() -> None:
            for number in range(len(self.evil)):
                attack(number)
            if self.world.now + pause_s < ends:
                self.world.at(self.world.now + pause_s, step)

        step()
        self.world.run_for(seconds + AFTER_S)

    @property
    def suffered(self) -> Sent:
        return self.tally.to(VICTIM)


def at(*addresses: Address) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(f"f{place}", 1, "udp", 2**31 - 1 - place, address, CandidateType.HOST)
        for place, address in enumerate(addresses)
    )


def scene_of(kind: str, attackers: int) -> Iterator[Scene]:
    with town_of(6) as town:
        yield Scene(town, kind, attackers)


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    yield from scene_of(*request.param)


# -- candidates --------------------------------------------------------------------------------------------------------


def aim_candidates(scene: Scene, seconds: float) -> None:
    """Each attacker opens what conversations it can, and begins each anew every four seconds, with 64 other ports."""
    held: list[list[Conversation]] = [[] for _ in scene.evil]
    ports = count(1024)

    def aimed() -> tuple[Candidate, ...]:
        return at(*((VICTIM, 1024 + next(ports) % 60_000) for _ in range(MAX_CANDIDATES)))

    def attack(number: int) -> None:
        conversations = held[number]
        conversations.append(scene.conversation(number))
        del conversations[:-8]
        for conversation in conversations:
            ufrag = scene.ufrag()
            conversation.send(Offer(OfferKind.OFFER, ufrag, PASSWORD, aimed()), is_urgent=True)
            for _ in range(3):
                conversation.send(Offer(OfferKind.UPDATE, ufrag, PASSWORD, aimed()))

    scene.every(4.0, seconds, attack)


def may_suffer(scene: Scene, seconds: float) -> None:
    packets = CHECK_BURST + CHECKS_PER_S * (seconds + AFTER_S)
    assert 0 < scene.suffered.packets <= packets
    assert scene.suffered.bytes <= packets * CHECK_BYTES


@pytest.mark.parametrize("scene", [("open", 2), ("port_restricted", 1)], indirect=True, ids=str)
def test_candidates_at_somebody_else_get_few_checks(scene: Scene) -> None:
    aim_candidates(scene, 15.0)
    may_suffer(scene, 15.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["open", "port_restricted"])
@pytest.mark.parametrize("attackers", [1, 8, 24])
def test_candidates_at_somebody_else_get_few_checks_however_many_name_him(kind: str, attackers: int) -> None:
    for scene in scene_of(kind, attackers):
        aim_candidates(scene, 60.0)
        may_suffer(scene, 60.0)
        print(kind, attackers, scene.suffered, scene.tally.by(*(node.runtime.name for node in scene.evil)))


@pytest.mark.parametrize("scene", [("open", 1)], indirect=True, ids=str)
def test_candidates_that_are_no_place_of_a_peer_get_no_checks(scene: Scene) -> None:
    odd = [
        ("127.0.0.1", 53),
        ("127.9.9.9", 22),
        ("0.0.0.0", 30301),
        ("224.0.0.1", 5353),
        ("239.255.255.250", 1900),
        ("255.255.255.255", 67),
        ("::1", 53),
        ("ff02::1", 5353),
        ("::ffff:127.0.0.1", 53),
        (VICTIM, 0),
    ]
    sent: list[Address] = []
    discovery = scene.used.discovery
    send = discovery.send

    def noted(data: bytes, address: Address) -> None:
        sent.append(address)
        send(data, address)

    discovery.send = noted  # type: ignore[method-assign]
    conversation = scene.conversation(0)
    conversation.send(Offer(OfferKind.OFFER, scene.ufrag(), PASSWORD, at(*odd, (VICTIM, 53))))
    scene.world.run_for(AFTER_S)
    assert (VICTIM, 53) in sent, "it did check"
    assert not set(odd) & set(sent)


# -- TCP ---------------------------------------------------------------------------------------------------------------


def aim_tcp(scene: Scene, seconds: float, offer: Offer) -> None:
    """Always at another port, where that is dialled: no dial is made twice at a time."""
    ports = count(443)

    def attack(number: int) -> None:
        conversation = scene.conversation(number)
        target = None if offer.tcp is None else (offer.tcp[0], next(ports))
        conversation.send(offer._replace(ufrag=scene.ufrag(), tcp=target))
        scene.world.at(scene.world.now + 1.0, lambda: conversation.send(Offer(OfferKind.GO)))
        scene.world.at(scene.world.now + 6.0, conversation.close)

    scene.every(2.0, seconds, attack)


DIAL = Offer(OfferKind.OFFER, "", PASSWORD, tcp=(VICTIM, 443))
PUNCH = Offer(OfferKind.OFFER, "", PASSWORD, hint=NatHint(is_udp_blocked=True), tcp_seen=(VICTIM, 443))


@pytest.mark.parametrize("scene", [("blocked", 2)], indirect=True, ids=str)
@pytest.mark.parametrize(("offer", "most"), [(DIAL, 20), (PUNCH, 1_000)], ids=["dial", "punch"])
def test_no_port_of_somebody_else_is_knocked_at_without_end(scene: Scene, offer: Offer, most: int) -> None:
    """Segments of TCP: a punch is some fifty in two seconds."""
    aim_tcp(scene, 30.0, offer)
    assert 0 < scene.suffered.packets <= most
    assert scene.suffered.bytes <= most * 60


@pytest.mark.parametrize("scene", [("blocked", 1)], indirect=True, ids=str)
@pytest.mark.parametrize("offer", [DIAL, PUNCH], ids=["dial", "punch"])
def test_nobody_from_far_away_has_a_node_dial_into_its_own_network(scene: Scene, offer: Offer) -> None:
    """Its router's pages, say."""
    router = scene.used.runtime.host.realm.gateway.inner.name
    inside = offer._replace(**{name: ("192.168.1.1", 80) for name in ("tcp", "tcp_seen") if getattr(offer, name)})
    before = scene.tally.to(router).packets
    dialled: list[Address] = []
    connect = scene.used.runtime.connect

    def noted(remote: Address, *args: Any, **options: Any) -> Any:
        dialled.append(remote)
        return connect(remote, *args, **options)

    scene.used.runtime.connect = noted
    aim_tcp(scene, 5.0, inside)
    assert "192.168.1.1" not in {ip for ip, _ in dialled}
    assert before == 0


# -- sprays ------------------------------------------------------------------------------------------------------------


def pose_as_its_relay(node: Node) -> None:
    """From now on it tells peers that the address which a relay has given to it is where others see its own socket. It answers
    there alone, so that the peer finds it proved, and no direct way."""
    traversal = node.connectivity.traversal
    make = traversal._passage

    def posing(*args: Any, **options: Any) -> Passage:
        passage = make(*args, **options)
        send, set_remote, session = passage._conversation.send, passage.session.set_remote, passage.session

        def lie(offer: Offer, **how: Any) -> None:
            false = tuple(
                one._replace(type=CandidateType.SERVER_REFLEXIVE)
                for one in offer.candidates
                if one.type is CandidateType.RELAYED
            )
            send(offer._replace(candidates=false), **how)

        def over_relays(remote: Description) -> None:
            relays = tuple(one for one in remote.candidates if one.type is CandidateType.RELAYED)
            set_remote(remote._replace(candidates=relays))

        passage._conversation.send = lie  # type: ignore[method-assign]
        session.set_remote = over_relays  # type: ignore[method-assign]
        session.add_remote = lambda one: (  # type: ignore[method-assign]
            IceSession.add_remote(session, one) if one.type is CandidateType.RELAYED else None
        )
        return passage

    traversal._passage = posing  # type: ignore[method-assign]


@pytest.fixture
def sprayer() -> Iterator[Scene]:
    """Its box draws ports for every address, that of who is used filters by port: the one that is sprayed at 2,100 ports."""
    with town_of(3) as town:
        scene = Scene(town, "port_restricted", 0)
        evil = town.behind(town.box(2, **KINDS["symmetric"]))
        assert scene.world.run(lambda: town.settled(evil), SETTLE_LIMIT_S)
        scene.evil.append(evil)
        pose_as_its_relay(evil)
        yield scene


def sprayed(scene: Scene, times: int, pause_s: float) -> dict[str, int]:
    """By the address of each open node, the most packets that it can have had of a spray, to ports that are not its own."""
    for _ in range(times):
        (evil,) = scene.evil
        evil.peering.dial(Enode(scene.used.identity.node_id, "", 0, 0))
        scene.world.run_for(pause_s)
        scene.world.call(evil.runtime, evil.disconnect, scene.used.identity.node_id.hex())
    return {
        node.runtime.name: sum(
            packets
            for (target, port), packets in scene.tally.ports.items()
            if target == scene.tally.number(node.runtime.name) and port not in (node.udp_port, node.tcp_port)
        )
        for node in scene.town.open
    }


@pytest.mark.slow
def test_a_relay_is_not_sprayed_on_and_on_for_whom_it_relays(sprayer: Scene) -> None:
    """It has proved nothing but that somebody hears what comes to one port of it."""
    began = sprayer.world.now
    suffered = max(sprayed(sprayer, 12, 24.0).values())
    sprays = NETWORK_SPRAY_BURST + (sprayer.world.now - began) * NETWORK_SPRAYS_PER_S
    assert MAX_PACKETS < suffered <= sprays * MAX_PACKETS + 1_000
    print(suffered, sprayer.tally.by("box1"), sprayer.tally.by("box2"))


# -- knocks ------------------------------------------------------------------------------------------------------------


def knocked(scene: Scene, seconds: float) -> None:
    """Each attacker, posing as an observer of the victim, asks every open node, as often as it can."""
    probe = Probe(bytes(NONCE_SIZE), 443, 443, pack_ip(VICTIM))

    def attack(number: int) -> None:
        for node in scene.town.open:
            scene.evil[number].discovery.request(
                node.identity.node_id,
                (node.runtime.ip, node.udp_port),
                probe,
                lambda *answer: None,
                lambda notice: None,
            )

    scene.every(0.5, seconds, attack)


@pytest.mark.parametrize("scene", [("open", 3)], indirect=True, ids=str)
def test_knocks_at_somebody_else_are_few_and_small(scene: Scene) -> None:
    """One in two seconds from each node that is asked: three datagrams of 17 bytes and the segments of a connection."""
    seconds = 20.0
    knocked(scene, seconds)
    nodes = len(scene.town.open)
    knocks = nodes * (TARGET_BURST + TARGET_KNOCKS_PER_S * seconds)
    assert 0 < scene.suffered.packets <= knocks * KNOCK_PACKETS
    attackers = scene.tally.by(*(node.runtime.name for node in scene.evil))
    assert scene.suffered.bytes <= attackers.bytes


# -- relays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [("open", 1)], indirect=True, ids=str)
def test_a_relay_sends_no_more_than_it_is_sent(scene: Scene) -> None:
    relayed = allocation_of(scene)
    relayed.permit([VICTIM])
    for size in (0, 1, 16, 100, 1_200) * 40:
        relayed.send(bytes(size), (VICTIM, 53))
        scene.world.run_for(0.01)
    scene.world.run_for(5.0)
    attackers = scene.tally.by(scene.evil[0].runtime.name)
    assert 190 <= scene.suffered.packets <= 200
    assert scene.suffered.bytes <= attackers.bytes


def allocation_of(scene: Scene) -> Allocation:
    """The attacker's, on the node that is used."""
    evil, used = scene.evil[0].runtime, scene.used
    granted = used.connectivity.relaying.grant(scene.evil[0].identity.node_id)
    server = TurnServer(used.runtime.ip, used.udp_port, "udp", granted.username, granted.password)
    allocation: Allocation = scene.world.call(evil, allocate, evil, evil.scope("turn"), server)
    return allocation


# -- replays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [("full_cone", 0)], indirect=True, ids=str)
def test_checks_that_are_sent_again_in_somebody_elses_name_get_him_little(scene: Scene) -> None:
    """By who has seen some on the way, and can forge their sender: each gets its answer, which is smaller, and is a reason for
    checks of this side's own, which are not many."""
    peer = scene.town.behind(scene.town.box(2, **KINDS["port_restricted"]))
    assert scene.world.run(lambda: scene.town.settled(peer), SETTLE_LIMIT_S)
    seen: list[tuple[bytes, int]] = []
    box = scene.tally.number("box1")

    def overhear(source: int, source_port: int, target: int, port: int, data: bytes) -> None:
        if target == box and named_ufrag(data) is not None:
            seen.append((data, port))

    scene.tally.on_datagram = overhear
    peer.peering.dial(Enode(scene.used.identity.node_id, "", 0, 0))
    scene.world.run_for(2.0)
    assert seen
    scene.tally.on_datagram = lambda *datagram: None
    forger = scene.town.open[0].runtime.host
    sent = Sent()
    began = scene.world.now
    scene.tally.forget()
    for number in range(1_000):
        data, port = seen[number % len(seen)]
        sent = sent.plus(len(data) + 28)
        scene.world._network.send_datagram(forger, (VICTIM, 1024 + number % 50), data, ("23.1.0.1", port))
        scene.world.run_for(0.01)
    scene.world.run_for(AFTER_S)
    checks = CHECK_BURST + CHECKS_PER_S * (scene.world.now - began)
    assert scene.suffered.packets > len(seen)
    assert scene.suffered.packets <= sent.packets + checks
    assert scene.suffered.bytes <= sent.bytes + checks * CHECK_BYTES
