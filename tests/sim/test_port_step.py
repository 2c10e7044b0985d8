"""Mappings of a sequential NAT, measured and foretold, on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from spray_places import PORT, Side

from kodectl.core.nat import Behavior
from kodectl.core.stun_answers import BindingResponder
from kodectl.errors import LocalMisuse
from kodectl.node.port_step import (
    AGAIN_AFTER_S,
    ANSWER_LIMIT_S,
    ATTEMPTS,
    CHECK_PACE,
    CHECKS,
    PORTS_PER_CHECK,
    RESEND_AFTER_S,
    STEP_PROBES,
    Foretold,
    PortStep,
    Way,
    foretell,
    learn_step,
)
from kodectl.runtime.base import Address
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.translation import HIGHEST_PORT, PortRule
from kodectl.sim.world import World

LATENCY_S = 0.05
SEQUENTIAL, FILTERING = "21.0.0.1", "21.1.0.1"
INNER = "192.168.1.2"
OBSERVERS = ("22.0.0.1", "22.1.0.1")


class Observer:
    """Answers Binding requests, as every node does."""

    def __init__(self, runtime: SimRuntime) -> None:
        self.asked = 0
        self.is_silent = False
        self.misses_first = False
        """What comes a second time has another port: a box has lost it the first time, before or behind the translation."""
        self.shows: Callable[[int], int] = lambda port: port
        self._runtime = runtime
        self._binding = BindingResponder()
        self._socket = runtime.open_datagram((runtime.ip, PORT), self._received)
        self.address: Address = self._socket.local

    def _received(self, data: bytes, sender: Address) -> None:
        self.asked += 1
        if self.misses_first:
            self.misses_first, lost = False, sender[1]
            self.shows = lambda port: port + 9 if port == lost else port
            return
        answer = self._binding.answer(data, (sender[0], self.shows(sender[1])), self._runtime.now())
        if answer is not None and not self.is_silent:
            self._socket.send(answer, sender)


class Scene:
    def __init__(self, seed: object, loss: float = 0.0, **rules: Any) -> None:
        self.world = World(f"step {seed}", PathModel(latency_s=LATENCY_S, spread_s=0.0, jitter_s=0.0, loss=loss))
        row = {"mapping": Behavior.ADDRESS_AND_PORT_DEPENDENT, "ports": PortRule.SEQUENTIAL, **rules}
        self.nat = self.world.nat("sequential", SEQUENTIAL, **row)
        self.filtering = self.world.nat("filtering", FILTERING)
        self.here = self.world.host(INNER, behind=self.nat)
        self.observers = [Observer(self.world.host(ip)) for ip in OBSERVERS]
        self.servers = [observer.address for observer in self.observers]

    def learn(self) -> int | None:
        step: int | None = self.world.call(self.here, learn_step, self.here, INNER, self.servers)
        return step

    def sides(self) -> tuple[Side, Side]:
        near = Side(self.here, INNER, (SEQUENTIAL, 9), is_controlling=True)
        there = self.world.host(INNER, behind=self.filtering)
        far = Side(there, INNER, (FILTERING, PORT), is_controlling=False)
        ours, theirs = near.session.description, far.session.description
        near.session.set_remote(theirs)
        far.session.set_remote(ours)
        return near, far

    def foretell(self, near: Side, far: Side, *, is_verified: bool = True) -> Foretold | None:
        terms = near.terms(far.session.description)
        way = Way(terms, INNER, SEQUENTIAL, (FILTERING, PORT))

        def procedure() -> Foretold | None:
            return foretell(self.here, self.servers, way, near.adopt, near.receive, is_verified=is_verified)

        told: Foretold | None = self.world.call(self.here, procedure)
        return told

    def make_busy(self, per_s: float) -> None:
        """Another host behind the NAT opens mappings, one after the other."""
        other = self.world.host("192.168.1.9", behind=self.nat)
        socket = other.open_datagram(("192.168.1.9", 0), lambda *_: None)
        ports = iter(range(1, HIGHEST_PORT))

        def send() -> None:
            socket.send(b"", ("23.0.0.1", next(ports)))
            other.call_later(other.rng.expovariate(per_s), send)

        send()

    @property
    def open_sockets(self) -> int:
        return len(self.here.host.sockets)


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(request.node.name, **getattr(request, "param", {}))
    yield made
    made.world.close()


def is_connected(*sides: Side) -> bool:
    return all(side.session.selected is not None for side in sides)


class TestStep:
    def test_of_a_sequential_nat(self, scene: Scene) -> None:
        assert scene.learn() == 1
        assert scene.world.now == pytest.approx(2 * LATENCY_S, abs=0.01)
        assert scene.open_sockets == 0

    def test_where_others_are_busy(self, scene: Scene) -> None:
        scene.make_busy(1_000.0)
        assert scene.learn() == 1

    def test_that_counts_down_is_how_far_apart_they_are(self, scene: Scene) -> None:
        for observer in scene.observers:
            observer.shows = lambda port: 66_600 - port
        assert scene.learn() == 1

    def test_is_asked_for_a_few_times(self, scene: Scene) -> None:
        for observer in scene.observers:
            observer.is_silent = True
        assert scene.learn() is None
        scene.world.run_for(1.0)
        assert sum(observer.asked for observer in scene.observers) == 4 * STEP_PROBES

    @pytest.mark.parametrize("scene", [{"loss": 0.2}], indirect=True)
    def test_with_losses(self, scene: Scene) -> None:
        assert [scene.learn() for _ in range(10)].count(1) >= 9

    @pytest.mark.parametrize("scene", [{"ports": PortRule.RANDOM}, {"udp_blocked": True}], indirect=True)
    def test_of_others_is_none(self, scene: Scene) -> None:
        assert scene.learn() is None
        assert scene.world.now <= ANSWER_LIMIT_S
        assert scene.open_sockets == 0


class TestForetold:
    @pytest.mark.parametrize("busy_per_s", [0.0, 100.0])
    def test_ports_connect_what_would_not(self, scene: Scene, busy_per_s: float) -> None:
        near, far = scene.sides()
        if busy_per_s:
            scene.make_busy(busy_per_s)
        scene.world.run_for(3.0)
        assert not is_connected(near, far)
        told = scene.foretell(near, far)
        assert told is not None
        assert CHECKS <= len(told.candidates) <= CHECKS * PORTS_PER_CHECK
        for candidate in told.candidates:
            far.session.add_remote(candidate)
        began = scene.world.now
        assert scene.world.run(lambda: is_connected(near, far), 5.0)
        assert scene.world.now - began < 1.0
        assert near.adopted
        scene.world.run_for(2.0)
        assert scene.open_sockets == 1 + len(near.adopted), "what was not adopted is closed"

    def test_ways_beside_the_one_taken_are_closed(self, scene: Scene) -> None:
        near, far = scene.sides()
        scene.world.run_for(1.0)
        told = scene.foretell(near, far)
        assert told is not None
        far.session.add_remote(told.candidates[1])
        assert scene.world.run(lambda: is_connected(near, far), 5.0)
        scene.world.run_for(2.0)
        assert len(near.adopted) == 1
        assert scene.open_sockets == 2

    def test_are_exact_where_nobody_else_opens_any(self, scene: Scene) -> None:
        near, far = scene.sides()
        scene.world.run_for(1.0)
        told = scene.foretell(near, far)
        assert told is not None
        ports = [candidate.address[1] for candidate in told.candidates]
        assert len(ports) == CHECKS
        assert ports[1] - ports[0] == ports[2] - ports[1] == 2
        assert all(candidate.address[0] == SEQUENTIAL for candidate in told.candidates)
        assert len({candidate.foundation for candidate in told.candidates}) == CHECKS
        told.close()
        assert scene.open_sockets == 1

    def test_once_more_where_the_row_begins_again(self, scene: Scene) -> None:
        near, far = scene.sides()
        scene.world.run_for(1.0)
        translations = scene.nat._tables
        for table in translations.values():
            table._last_port = HIGHEST_PORT - 3
        told = scene.foretell(near, far)
        assert told is not None
        assert scene.open_sockets == 1 + CHECKS

    @pytest.mark.parametrize("which", [0, 1])
    def test_what_had_to_be_asked_twice_does_not_count(self, scene: Scene, which: int) -> None:
        near, far = scene.sides()
        scene.world.run_for(1.0)
        missing = scene.observers[which]
        missing.misses_first = True
        told = scene.foretell(near, far)
        assert told is not None
        ports = [candidate.address[1] for candidate in told.candidates]
        assert ports[1] - ports[0] == 2
        assert scene.world.now < 1.0 + RESEND_AFTER_S + 5 * LATENCY_S, "at the first attempt"

    @pytest.mark.parametrize("scene", [{"ports": PortRule.RANDOM}], indirect=True)
    def test_are_none_where_ports_are_drawn(self, scene: Scene) -> None:
        near, far = scene.sides()
        assert scene.foretell(near, far) is None
        assert scene.open_sockets == 1

    @pytest.mark.parametrize("silent", [0, 1])
    def test_with_one_observer_of_two(self, scene: Scene, silent: int) -> None:
        near, far = scene.sides()
        scene.world.run_for(1.0)
        scene.observers[silent].is_silent = True
        assert scene.learn() == 1
        told = scene.foretell(near, far)
        assert told is not None
        for candidate in told.candidates:
            far.session.add_remote(candidate)
        assert scene.world.run(lambda: is_connected(near, far), 5.0)

    def test_are_none_without_observers(self, scene: Scene) -> None:
        near, far = scene.sides()
        for observer in scene.observers:
            observer.is_silent = True
        assert scene.foretell(near, far) is None
        assert scene.world.now <= ATTEMPTS * ANSWER_LIMIT_S + 0.1
        assert scene.open_sockets == 1

    def test_ways_that_nobody_takes_are_given_up(self, scene: Scene) -> None:
        near, far = scene.sides()
        assert scene.foretell(near, far) is not None
        scene.world.run_for(CHECK_PACE.every_s * CHECK_PACE.packets + 5.0)
        assert scene.open_sockets == 1

    def test_nobody_unverified_is_sent_anything(self, scene: Scene) -> None:
        near, far = scene.sides()
        with pytest.raises(LocalMisuse, match="verified"):
            scene.foretell(near, far, is_verified=False)
        assert scene.open_sockets == 1


class TestKeptKnown:
    def test_as_long_as_it_is_needed(self, scene: Scene) -> None:
        servers: list[Address] = []
        step = PortStep(scene.here, scene.here.scope("step"), lambda: INNER, lambda: servers)
        step.start()
        scene.world.run_for(10.0)
        assert step.step is None
        servers += scene.servers
        scene.world.run_for(10.0)
        assert step.step == 1
        asked = sum(observer.asked for observer in scene.observers)
        assert asked == STEP_PROBES
        scene.world.run_for(AGAIN_AFTER_S + 10.0)
        assert sum(observer.asked for observer in scene.observers) == 2 * asked
        servers.clear()
        scene.world.run_for(10.0)
        assert step.step is None

    def test_silence_is_asked_ever_more_rarely(self, scene: Scene) -> None:
        for observer in scene.observers:
            observer.is_silent = True
        step = PortStep(scene.here, scene.here.scope("step"), lambda: INNER, lambda: scene.servers)
        step.start()
        scene.world.run_for(3_600.0)
        asked = sum(observer.asked for observer in scene.observers)
        assert asked < 15 * STEP_PROBES * 4, "15 times in an hour, each with three repetitions"
        for observer in scene.observers:
            observer.is_silent = False
        scene.world.run_for(AGAIN_AFTER_S + 10.0)
        assert step.step == 1
