"""All ways between two linked nodes die at once: messages go both ways again soon, over the same link; on virtual time.

Nothing that either side knows of the other may be true any more, and boxes that fail take the links to the nodes along
through which the two write to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from linked_pair import BACK_LIMIT_S, RANDOM_PORTS, SYMMETRIC_BOX, Pair, Talk
from town import KINDS, Town, town_of

from kodectl.core.ice.pairs import PairState
from kodectl.core.turn_access import keys_of
from kodectl.node.node import Node
from kodectl.node.passage import Passage
from kodectl.node.stun_server import StunServer
from kodectl.node.turn_server import RelayPlace, TurnSettings, turn_service
from kodectl.sim.runtime import SimRuntime
from kodectl.wire.offers import Offer, OfferKind

DIRECT_LIMIT_S = 15.0
MESSAGES = 200
SEEDS = range(8)
"""For what happens with some of them only. A path is followed that the side which was asked has not used before."""
CONE: dict[str, Any] = {}
FULL_CONE = KINDS["full_cone"]
TURN_IPS, TURN_PORT = ("22.0.0.1", "22.1.0.1"), 3478
REALM, USER, PASSWORD = "example.org", "ann", "secret"

Fault = Callable[[Pair], None]


def forget(*sides: int) -> Fault:
    def fault(pair: Pair) -> None:
        for side in sides:
            pair.boxes[side].forget()

    return fault


def block_udp(side: int) -> Fault:
    def fault(pair: Pair) -> None:
        box = pair.boxes[side]
        box.rules = replace(box.rules, udp_blocked=True)

    return fault


def move(side: int) -> Fault:
    return lambda pair: pair.boxes[side].change_address("29.9.9.9")


@pytest.fixture
def town() -> Iterator[Town]:
    with town_of(4) as built:
        yield built


FAULTS: dict[str, tuple[dict[str, Any], Fault]] = {
    "both forget, direct": (RANDOM_PORTS, forget(0, 1)),
    "both forget, relayed": (SYMMETRIC_BOX, forget(0, 1)),
    "no UDP here, direct": (CONE, block_udp(0)),
    "no UDP there, direct": (CONE, block_udp(1)),
    "no UDP here, relayed": (SYMMETRIC_BOX, block_udp(0)),
    "no UDP there, relayed": (SYMMETRIC_BOX, block_udp(1)),
    "another address here, direct": (CONE, move(0)),
    "another address there, direct": (CONE, move(1)),
    "another address there, relayed": (SYMMETRIC_BOX, move(1)),
}


@pytest.mark.parametrize(("rules", "fault"), FAULTS.values(), ids=FAULTS)
def test_the_link_goes_on(town: Town, rules: dict[str, Any], fault: Fault) -> None:
    pair = Pair(town, rules, rules)
    assert pair.comes_to("relay" if rules is SYMMETRIC_BOX else "direct", DIRECT_LIMIT_S)
    talk = Talk(town, pair.one, pair.other, MESSAGES)
    town.world.run_for(3.0)
    fault(pair)
    town.world.run_for(0.2)
    assert talk.flows(BACK_LIMIT_S - 0.2)
    talk.end()
    assert pair.is_the_first_link()


@pytest.mark.parametrize("side", [0, 1])
def test_a_node_that_never_needed_a_relay_finds_one_when_it_has_lost_udp(town: Town, side: int) -> None:
    pair = Pair(town, FULL_CONE, FULL_CONE)
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    for node in (pair.one, pair.other):
        node.connectivity.relays._grants.clear()  # those of its first seconds would last for an hour
    talk = Talk(town, pair.one, pair.other, MESSAGES)
    block_udp(side)(pair)
    assert talk.flows(BACK_LIMIT_S)
    talk.end()
    assert pair.is_the_first_link()


@pytest.mark.parametrize("side", [0, 1])
def test_a_link_on_which_nobody_speaks_is_ready_when_somebody_does(town: Town, side: int) -> None:
    pair = Pair(town, CONE, CONE)
    assert pair.comes_to("direct", DIRECT_LIMIT_S)
    town.world.run_for(30.0)
    move(side)(pair)
    town.world.run_for(BACK_LIMIT_S)
    talk = Talk(town, pair.one, pair.other, MESSAGES)
    assert talk.flows(1.0)
    talk.end()
    assert pair.is_the_first_link()


def comes_back_after_a_spoilt_answer(seed: int) -> bool:
    """Whether there was one to spoil: some find each other again by their checks alone. Which side answers differs too."""
    spoilt: list[Offer] = []

    def spoiling(send: Callable[..., None]) -> Callable[..., None]:
        def sends(offer: Offer, **urgency: bool) -> None:
            if offer.kind is OfferKind.ANSWER and not spoilt:
                offer = offer._replace(password="short")
                spoilt.append(offer)
            send(offer, **urgency)

        return sends

    with town_of(4, seed) as town:
        pair = Pair(town, CONE, CONE)
        assert pair.comes_to("direct", DIRECT_LIMIT_S)
        for node in (pair.one, pair.other):
            conversation = passage_of(node)._conversation
            conversation.send = spoiling(conversation.send)  # type: ignore[method-assign]
        talk = Talk(town, pair.one, pair.other, MESSAGES)
        move(0)(pair)
        assert talk.flows(BACK_LIMIT_S)
        talk.end()
        assert pair.is_the_first_link()
    return bool(spoilt)


def test_an_answer_that_makes_no_sense_is_not_the_last() -> None:
    assert any(map(comes_back_after_a_spoilt_answer, SEEDS))


def passage_of(node: Node) -> Passage:
    (passage,) = node.connectivity.traversal._passages
    return passage


def follows_and_comes_back(seed: int) -> bool:
    """The one holds its path to be dead for a while, with or without reason; whether the other, who has none, went too."""
    with town_of(4, seed) as town:
        pair = Pair(town, SYMMETRIC_BOX, SYMMETRIC_BOX)
        talk = Talk(town, pair.one, pair.other, MESSAGES)
        town.world.run_for(3.0)
        here, there = (passage_of(node) for node in (pair.one, pair.other))
        best, expected = here.stream.sends_on, there.stream.sends_on
        valid = [pair for pair in here.session.agent.pairs if pair.state is PairState.SUCCEEDED]
        second = next(path for path in map(here._path_of, valid) if path != best)
        here.stream.on_elsewhere = lambda: None  # it would see that its path lives
        here.stream.move(second, here._sender(second))
        town.world.run_for(2.0)
        followed = there.stream.sends_on != expected
        here.stream.move(best, here._sender(best))
        assert town.world.run(lambda: there.stream.sends_on == expected, 2.0)
        talk.end()
        return followed


def test_who_follows_the_other_side_comes_back_with_it() -> None:
    assert any(map(follows_and_comes_back, SEEDS))


# -- configured TURN servers ---------------------------------------------------------------------------------------------


def serve_turn(runtime: SimRuntime) -> None:
    settings = TurnSettings(REALM, keys_of({USER: PASSWORD}, REALM), to_relays=True)
    turn = turn_service(runtime, settings, {4: RelayPlace(runtime.ip, runtime.ip)})
    StunServer(runtime, turn).start((runtime.ip, TURN_PORT))


def test_a_turn_server_that_was_away_serves_again_when_the_other_one_dies() -> None:
    """No node relays for anybody."""
    with town_of(4, relay=None) as town:
        world = town.world
        for ip in TURN_IPS:
            runtime = world.host(ip)
            world.call(runtime, serve_turn, runtime)
        told = tuple(f"{USER}:{PASSWORD}@{ip}:{TURN_PORT}" for ip in TURN_IPS)
        pair = Pair(town, SYMMETRIC_BOX, SYMMETRIC_BOX, turn=told, relay=None)
        talk = Talk(town, pair.one, pair.other, MESSAGES)
        world.run_for(3.0)
        used = next(ip for ip in TURN_IPS if ip in ends_of(pair))
        world.crash(used)
        world.run_for(0.2)
        assert talk.flows(BACK_LIMIT_S - 0.2)
        runtime = world.restart(used)
        world.call(runtime, serve_turn, runtime)
        world.run_for(1.0)
        world.crash(*(ip for ip in TURN_IPS if ip != used))
        world.run_for(0.2)
        assert talk.flows(BACK_LIMIT_S - 0.2)
        talk.end()
        assert pair.is_the_first_link()


def ends_of(pair: Pair) -> list[str]:
    route = pair.link.route
    return [end.address[0] for end in (route.local, route.remote) if end is not None]
