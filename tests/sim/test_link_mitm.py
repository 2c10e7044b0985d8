"""Somebody stands between two nodes that link: over TCP at each message of the handshake, over QUIC at each datagram.

Real keys, on virtual time. Whatever he does, neither side ever takes him, or anybody else, for the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from quic_places import Place

from kodectl.core.identity import Identity
from kodectl.core.quic_paths import Path
from kodectl.errors import KodectlError
from kodectl.node.handshake import Knocked, LinkClosed, StunBegun
from kodectl.node.link import Link, LocalEnd, accept, dial
from kodectl.runtime.base import Address, ConnectFailed, Stream, StreamClosed, TimedOut
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World
from kodectl.wire.announcement import Ports
from kodectl.wire.messages import Hello
from kodectl.wire.suite import RealSuite

HELLO = Hello((1,), "kodectl/test", "testnet", (), Ports(30303, 30301))
NEAR_IP, MIDDLE_IP, FAR_IP = "20.0.0.1", "20.0.0.2", "20.0.0.3"
PORT = 30303
CALM = PathModel(latency_s=0.01, spread_s=0.0, jitter_s=0.0)
LIMIT_S = 60.0
REFUSALS = (KodectlError, LinkClosed, TimedOut, StreamClosed, Knocked, StunBegun)
SUITE = RealSuite()


def local_end(number: int) -> LocalEnd:
    return LocalEnd(Identity(SUITE, bytes((number,)) * 32), bytes((number, 1)) * 16)


ALICE, BOB, MALLORY = local_end(1), local_end(2), local_end(3)


def posing_as(whom: LocalEnd) -> LocalEnd:
    """Mallory's keys, and the proof that somebody gave for his own."""
    end = local_end(3)
    end.proof = whom.proof
    return end


# -- TCP ---------------------------------------------------------------------------------------------------------------

Meddle = Callable[[bool, int, bytes], Sequence[bytes]]
"""From whether it goes to the far side, the message's number in that direction and the message, with its size before it, to
what is sent in its place. From the near side: ephemeral key, then keys and proof, then hello; from the far one: keys and
proof, then hello."""


def unchanged(to_far: bool, number: int, message: bytes) -> Sequence[bytes]:
    return [message]


class Middle:
    """Takes the near side's connection, makes one to the far side, and passes messages on as `meddle` has them."""

    def __init__(self, meddle: Meddle = unchanged, seed: int = 1) -> None:
        self.world = World(seed, CALM)
        self.near, self.middle, self.far = (self.world.host(ip) for ip in (NEAR_IP, MIDDLE_IP, FAR_IP))
        self.meddle = meddle
        self.passed: dict[tuple[bool, int], bytes] = {}
        self.outcomes: dict[str, Any] = {}
        self.far.listen((FAR_IP, PORT), lambda stream: self._start(self.far, "far", lambda: self._accept(stream)))
        self.middle.listen((MIDDLE_IP, PORT), self._arrived)

    def _start(self, runtime: SimRuntime, name: str, procedure: Callable[[], Any]) -> None:
        def task() -> None:
            try:
                self.outcomes[name] = procedure()
            except REFUSALS as error:
                self.outcomes[name] = error

        runtime.scope("task").spawn(name, task)

    def _accept(self, stream: Stream) -> Link:
        return accept(self.far, BOB, stream, HELLO)

    def _arrived(self, stream: Stream) -> None:
        def join() -> None:
            beyond = self.middle.connect((FAR_IP, PORT), 5.0)
            self._start(self.middle, "there", lambda: self._pass_on(True, stream, beyond))
            self._start(self.middle, "back", lambda: self._pass_on(False, beyond, stream))

        self._start(self.middle, "join", join)

    def _pass_on(self, to_far: bool, here: Stream, there: Stream) -> None:
        number = 0
        try:
            while True:
                size = here.read_exactly(2)
                message = size + here.read_exactly(int.from_bytes(size))
                self.passed[to_far, number] = message
                for changed in self.meddle(to_far, number, message):
                    if changed[:1] == b"<":
                        here.write(changed[1:])
                    else:
                        there.write(changed)
                number += 1
        except StreamClosed:
            there.close()

    def play(self) -> tuple[Any, Any]:
        """What the two ends make of it."""

        def dialled() -> Link:
            return dial(self.near, ALICE, self.near.connect((MIDDLE_IP, PORT), 5.0), BOB.identity.node_id, HELLO)

        self._start(self.near, "near", dialled)
        self.world.run(lambda: {"near", "far"} <= self.outcomes.keys(), LIMIT_S)
        self.world.close()
        return self.outcomes.get("near"), self.outcomes.get("far")


def recorded(seed: int = 1) -> dict[tuple[bool, int], bytes]:
    """The messages of a handshake that went well."""
    middle = Middle(seed=seed)
    near, far = middle.play()
    assert isinstance(near, Link)
    assert isinstance(far, Link)
    return middle.passed


MESSAGES = [(True, 0), (False, 0), (True, 1), (True, 2), (False, 1)]
IDS = ["key", "answer", "proof", "hello", "hello back"]


def at(where: tuple[bool, int], change: Callable[[bytes], Sequence[bytes]]) -> Meddle:
    return lambda to_far, number, message: change(message) if (to_far, number) == where else [message]


def refused(where: tuple[bool, int], near: Any, far: Any) -> None:
    """Who was to get the message has no link; the other has none either, unless it has heard all that it waits for: the one
    that speaks last cannot know what became of it."""
    to_far = where[0]
    victim, other = (far, near) if to_far else (near, far)
    assert isinstance(victim, REFUSALS)
    may_stand = where in ((True, 2), (False, 1))
    assert isinstance(other, REFUSALS) or may_stand
    for end, whom in ((near, BOB), (far, ALICE)):
        if isinstance(end, Link):
            assert end.node_id == whom.identity.node_id


def test_who_changes_nothing_is_not_noticed() -> None:
    assert len(recorded()) == len(MESSAGES)


def sized(message: bytes) -> bytes:
    return len(message).to_bytes(2) + message


CHANGES: dict[str, Callable[[bytes], Sequence[bytes]]] = {
    "dropped": lambda message: [],
    "of zeros": lambda message: [sized(bytes(len(message) - 2))],
    "sent back": lambda message: [b"<" + message],
    "empty": lambda message: [b"\0\0"],
    "with one byte less": lambda message: [sized(message[2:-1])],
    "of the largest size": lambda message: [sized(message[2:].ljust(65_535, b"\0"))],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("where", MESSAGES, ids=IDS)
def test_a_message_that_is_changed_ends_the_handshake(where: tuple[bool, int], change: Any) -> None:
    refused(where, *Middle(at(where, change)).play())


@pytest.mark.parametrize("where", MESSAGES, ids=IDS)
def test_a_message_of_another_handshake_ends_this_one(where: tuple[bool, int]) -> None:
    """Between the same two nodes, with the same static keys."""
    other = recorded(seed=2)
    near, far = Middle(at(where, lambda message: [other[where]])).play()
    if where == (True, 0):
        # The far side answers to the recorded key, of which the near side has not the private half.
        assert isinstance(near, REFUSALS)
        assert isinstance(far, REFUSALS)
    else:
        refused(where, near, far)


@pytest.mark.parametrize("where", [(False, 0), (True, 1), (True, 2)], ids=["answer", "proof", "hello"])
def test_a_message_that_comes_twice_is_not_the_next_one(where: tuple[bool, int]) -> None:
    near, far = Middle(at(where, lambda message: [message, message])).play()
    victim = far if where[0] else near
    if where == (True, 2):  # more after the hello is the link's business
        assert isinstance(victim, Link)
    else:
        assert isinstance(victim, REFUSALS)


def test_messages_in_another_order_are_refused() -> None:
    held: list[bytes] = []

    def later(to_far: bool, number: int, message: bytes) -> Sequence[bytes]:
        if to_far and number == 1:
            held.append(message)
            return []
        return [message, *held] if to_far and number == 2 else [message]

    _, far = Middle(later).play()
    assert isinstance(far, REFUSALS)


def _cut_points(size: int, step: int) -> range:
    return range(0, size, step)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", MESSAGES, ids=IDS)
def test_no_message_can_be_cut_or_changed_at_any_byte(where: tuple[bool, int], step: int) -> None:
    size = len(recorded()[where])
    for position in range(0, size, step):
        refused(where, *Middle(at(where, lambda message, cut=position: [message[:cut]])).play())
        if position >= 2:
            shorter = at(where, lambda message, cut=position: [sized(message[2:cut])])
            refused(where, *Middle(shorter).play())
        bit = 1 << random.Random(position).randrange(8)

        def flip(message: bytes, position: int = position, bit: int = bit) -> Sequence[bytes]:
            return [message[:position] + bytes((message[position] ^ bit,)) + message[position + 1 :]]

        near, far = Middle(at(where, flip)).play()
        if where == (True, 0):
            # All 32 bytes are a key, and any key is one (but its top bit, which counts for nothing): the answer tells.
            assert isinstance(near, REFUSALS)
            assert isinstance(far, REFUSALS)
        else:
            refused(where, near, far)


class Terminating(Middle):
    """Shakes hands with either side by himself."""

    def __init__(self, to_near: LocalEnd, to_far: LocalEnd) -> None:
        super().__init__()
        self._to_near, self._to_far = to_near, to_far

    def _arrived(self, stream: Stream) -> None:
        def beyond() -> Link:
            out = self.middle.connect((FAR_IP, PORT), 5.0)
            return dial(self.middle, self._to_far, out, None, HELLO)

        self._start(self.middle, "towards near", lambda: accept(self.middle, self._to_near, stream, HELLO))
        self._start(self.middle, "towards far", beyond)


def test_who_has_keys_of_his_own_is_not_who_was_dialled() -> None:
    near, far = Terminating(MALLORY, MALLORY).play()
    assert near.code == "identity_mismatch"
    assert far.node_id == MALLORY.identity.node_id


def test_who_shows_the_proofs_of_others_is_nobody() -> None:
    near, far = Terminating(posing_as(BOB), posing_as(ALICE)).play()
    assert near.code == far.code == "handshake_failed"


# -- QUIC --------------------------------------------------------------------------------------------------------------

Alter = Callable[[int, bytes], Sequence[bytes]]
"""From the number of a datagram and itself to what leaves in its place."""


class Meddled(Place):
    """What it sends passes somebody."""

    alter: Alter = staticmethod(lambda number, data: [data])  # type: ignore[assignment]
    _count = 0

    def send(self, datagrams: Sequence[bytes], address: Address) -> None:
        self.history: list[bytes] = [*getattr(self, "history", []), *datagrams]
        for data in datagrams:
            self._count += 1
            for altered in self.alter(self._count - 1, data):
                super().send([altered], address)


class Pair:
    def __init__(self) -> None:
        self.world = World(1, CALM)
        self.near = Meddled(self.world.host(NEAR_IP), NEAR_IP, PORT)
        self.far = Meddled(self.world.host(FAR_IP), FAR_IP, PORT)

    def linked(self) -> tuple[Any, Any]:
        outcomes: dict[str, Any] = {}

        def run(name: str, procedure: Callable[[], Any]) -> Callable[[], None]:
            def task() -> None:
                try:
                    outcomes[name] = procedure()
                except (*REFUSALS, ConnectFailed) as error:
                    outcomes[name] = error

            return task

        def dialled() -> Link:
            return dial(self.near.runtime, ALICE, self.near.connect(self.far.address, 5.0), BOB.identity.node_id, HELLO)

        def accepted() -> Link:
            return accept(self.far.runtime, BOB, self.far.streams.get(8.0), HELLO)

        self.near.scope.spawn("near", run("near", dialled))
        self.far.scope.spawn("far", run("far", accepted))
        self.world.run(lambda: len(outcomes) == 2, LIMIT_S)
        return outcomes["near"], outcomes["far"]

    def leave(self) -> None:
        for place in (self.near, self.far):
            place.close()
        self.world.run_for(1.0)
        assert self.near.endpoint.connections == self.far.endpoint.connections == 0
        self.world.close()


@pytest.fixture(scope="module")
def honest() -> Iterator[Pair]:
    """One that went well, and what was sent in it."""
    pair = Pair()
    near, far = pair.linked()
    assert isinstance(near, Link)
    assert isinstance(far, Link)
    yield pair
    pair.leave()


def once(which: int, change: Callable[[bytes], Sequence[bytes]]) -> Alter:
    return lambda number, data: change(data) if number == which else [data]


def linked_with_each_other(near: Any, far: Any) -> None:
    """QUIC mends what was done to one datagram; who it is with is Noise's."""
    assert isinstance(near, Link), near
    assert isinstance(far, Link), far
    assert (near.node_id, far.node_id) == (BOB.identity.node_id, ALICE.identity.node_id)


DATAGRAMS = [("near", number) for number in range(4)] + [("far", number) for number in range(4)]

QUIC_CHANGES: dict[str, Callable[[bytes], Sequence[bytes]]] = {
    "dropped": lambda data: [],
    "twice": lambda data: [data, data],
    "cut in half": lambda data: [data[: len(data) // 2]],
    "cut by a byte": lambda data: [data[:-1]],
    "changed at the end": lambda data: [data[:-1] + bytes((data[-1] ^ 1,))],
    "changed in its header": lambda data: [data[:1] + bytes((data[1] ^ 1,)) + data[2:], data],
    "changed, and as it was": lambda data: [data[:30] + bytes((data[30] ^ 1,)) + data[31:], data],
    "beside garbage": lambda data: [data[:20] + bytes(1180), data, bytes(1200)],
}


@pytest.mark.parametrize("change", QUIC_CHANGES.values(), ids=QUIC_CHANGES)
@pytest.mark.parametrize(("who", "which"), DATAGRAMS)
def test_one_datagram_does_not_decide(who: str, which: int, change: Any) -> None:
    pair = Pair()
    getattr(pair, who).alter = once(which, change)
    linked_with_each_other(*pair.linked())
    pair.leave()


@pytest.mark.parametrize(("who", "which"), DATAGRAMS)
def test_a_datagram_of_another_connection_changes_nothing(honest: Pair, who: str, which: int) -> None:
    other = getattr(honest, who).history[which]
    pair = Pair()
    getattr(pair, who).alter = once(which, lambda data: [other, data])
    linked_with_each_other(*pair.linked())
    pair.leave()


@pytest.mark.parametrize("who", ["near", "far"])
def test_datagrams_that_are_sent_back_make_nobody_his_own_peer(who: str) -> None:
    """Whoever is quick enough may have an endpoint shake hands with itself, as far as QUIC goes."""
    pair = Pair()
    mirrored, victim = getattr(pair, who), (pair.far if who == "near" else pair.near)

    def mirror(number: int, data: bytes) -> Sequence[bytes]:
        mirrored.runtime.call_later(
            0.0, lambda: mirrored.endpoint.received(data, Path(mirrored.address, victim.address))
        )
        return [data]

    mirrored.alter = mirror
    for end, whom in zip(pair.linked(), (BOB, ALICE), strict=True):
        assert not isinstance(end, Link) or end.node_id == whom.identity.node_id
    pair.leave()


@pytest.mark.parametrize("who", ["near", "far"])
def test_a_path_that_changes_everything_gets_no_link(who: str) -> None:
    pair = Pair()
    getattr(pair, who).alter = lambda number, data: [data[:-1] + bytes((data[-1] ^ 1,))]
    near, far = pair.linked()
    assert not isinstance(near, Link)
    assert not isinstance(far, Link)
    pair.leave()


def test_who_ends_quic_himself_is_found_by_noise() -> None:
    """As a relay could: QUIC's certificates say nothing, the link's handshake does."""
    world = World(1, CALM)
    near = Place(world.host(NEAR_IP), NEAR_IP, PORT)
    mallory = Place(world.host(MIDDLE_IP), MIDDLE_IP, PORT)
    outcomes: list[str] = []

    def serve() -> None:
        with pytest.raises(REFUSALS):
            accept(mallory.runtime, MALLORY, mallory.streams.get(5.0), HELLO)

    def dialled() -> None:
        with pytest.raises(KodectlError) as refusal:
            dial(near.runtime, ALICE, near.connect(mallory.address, 5.0), BOB.identity.node_id, HELLO)
        outcomes.append(refusal.value.code)

    world.spawn(mallory.runtime, "serve", serve)
    world.spawn(near.runtime, "dial", dialled)
    world.run(lambda: bool(outcomes), LIMIT_S)
    assert outcomes == ["identity_mismatch"]
    world.close()
