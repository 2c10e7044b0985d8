"""Links on virtual time: what depends on clocks, slow readers and cut ways."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import PeerFault
from kodectl.node.handshake import HANDSHAKE_LIMIT_S
from kodectl.node.link import CLOSING_LIMIT_S, Link, LinkClosed, LocalEnd, accept, dial
from kodectl.node.outbox import WRITE_LIMIT_S
from kodectl.runtime.base import Runtime, Stream, StreamClosed, TimedOut
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire.announcement import Ports
from kodectl.wire.messages import DisconnectReason, Hello, MessageKind

SUITE = SimSuite()
HELLO = Hello((1,), "kodectl/test", "testnet", (), Ports(30303, 30301))
NEAR_IP, FAR_IP = "10.0.0.1", "10.0.0.2"
FAR_ADDRESS = (FAR_IP, 30303)
NOISE = random.Random(7).randbytes


def local_end(number: int) -> LocalEnd:
    return LocalEnd(Identity(SUITE, bytes((number,)) * 32), bytes((number, 1)) * 16)


ALICE, BOB = local_end(1), local_end(2)


def ignore(_link: Link, _kind: int, _body: bytes) -> None:
    pass


class Scene:
    """Two hosts; the far one serves each stream with `serve`, the near one plays the scenario."""

    def __init__(self, serve: Callable[[Runtime, Stream], Any], seed: int = 1, model: PathModel | None = None) -> None:
        self.world = World(seed, model)
        self.near, self.far = self.world.host(NEAR_IP), self.world.host(FAR_IP)
        self.outcomes: list[Any] = []
        scope = self.far.scope("far")

        def task(stream: Stream) -> None:
            try:
                self.outcomes.append(serve(self.far, stream))
            except Exception as error:
                self.outcomes.append(error)

        self.far.listen(FAR_ADDRESS, lambda stream: scope.spawn("serve", task, stream))

    def play(self, function: Callable[[Runtime, Stream], Any]) -> Any:
        """What the near side's procedure returns; then everything has to come to its end."""
        value = self.world.call(self.near, lambda: function(self.near, self.near.connect(FAR_ADDRESS, 5.0)))
        self.world.run()
        assert self.world.waiting() == []
        return value


def serve_link(runtime: Runtime, stream: Stream) -> tuple[DisconnectReason, Link]:
    link = accept(runtime, BOB, stream, HELLO)
    return link.run(ignore), link


def test_messages_arrive_over_a_lossy_way_and_the_trace_repeats():
    messages = [(5, NOISE(size)) for size in (0, 1, 200, 70_000, 3)] + [(4, NOISE(1 << 20)), (6, bytes(5000))]

    def once() -> str:
        got: list[tuple[int, bytes]] = []

        def serve(runtime: Runtime, stream: Stream) -> DisconnectReason:
            return accept(runtime, BOB, stream, HELLO).run(lambda _link, kind, body: got.append((kind, body)))

        def play(runtime: Runtime, stream: Stream) -> DisconnectReason:
            link = dial(runtime, ALICE, stream, BOB.identity.node_id, HELLO)
            for kind, body in messages:
                assert link.send(kind, body)
            while len(got) < len(messages):
                runtime.scope("play").sleep(0.1)
            link.disconnect(DisconnectReason.REQUESTED)
            return link.run(ignore)

        scene = Scene(serve, model=PathModel(loss=0.05))
        assert scene.play(play) is DisconnectReason.REQUESTED
        assert scene.outcomes == [DisconnectReason.REQUESTED]
        assert got == messages
        return scene.world.trace_hash()

    assert once() == once()


# Handshakes that never come to an end


def test_silence_ends_a_handshake_on_both_sides():
    def fails(side: Callable[[], Link], runtime: Runtime) -> float:
        began = runtime.now()
        with pytest.raises(TimedOut, match="no complete handshake within 5 s"):
            side()
        return runtime.now() - began

    def say_nothing(_runtime: Runtime, stream: Stream) -> None:
        with pytest.raises(StreamClosed):
            stream.read_exactly(1_000_000)

    dialled = Scene(say_nothing).play(
        lambda runtime, stream: fails(lambda: dial(runtime, ALICE, stream, None, HELLO), runtime)
    )
    accepted = Scene(lambda runtime, stream: fails(lambda: accept(runtime, BOB, stream, HELLO), runtime))
    accepted.play(say_nothing)
    assert [dialled, *accepted.outcomes] == [pytest.approx(HANDSHAKE_LIMIT_S)] * 2


def test_a_byte_a_second_does_not_hold_the_place():
    def serve(runtime: Runtime, stream: Stream) -> float:
        began = runtime.now()
        with pytest.raises(TimedOut):
            accept(runtime, BOB, stream, HELLO)
        return runtime.now() - began

    def drip(runtime: Runtime, stream: Stream) -> None:
        for byte in b"\0\x20" + bytes(30):
            try:
                stream.write(bytes((byte,)))
            except StreamClosed:
                return
            runtime.scope("drip").sleep(1.0)

    scene = Scene(serve)
    scene.play(drip)
    assert scene.outcomes == [pytest.approx(HANDSHAKE_LIMIT_S)]


class Changing:
    """Flips a bit of one byte of all that is written."""

    def __init__(self, stream: Stream, position: int) -> None:
        self._stream = stream
        self._position = position
        self.written = 0
        self.local, self.remote = stream.local, stream.remote
        self.read_exactly, self.close = stream.read_exactly, stream.close

    def write(self, data: bytes) -> None:
        changed = bytearray(data)
        if 0 <= self._position - self.written < len(data):
            changed[self._position - self.written] ^= 0x80
        self.written += len(data)
        self._stream.write(bytes(changed))


def unchanged(runtime: Runtime, stream: Stream) -> int:
    """How many bytes a dialler writes in a handshake."""
    counted = Changing(stream, -1)
    link = dial(runtime, ALICE, counted, None, HELLO)
    total = counted.written
    link.disconnect(DisconnectReason.REQUESTED)
    link.run(ignore)
    return total


def test_no_byte_of_the_dialler_can_be_changed():
    for position in range(Scene(serve_link).play(unchanged)):

        def play(runtime: Runtime, stream: Stream, position: int = position) -> None:
            try:
                link = dial(runtime, ALICE, Changing(stream, position), None, HELLO)
            except (PeerFault, LinkClosed, TimedOut):
                return
            # Their hello comes whatever ours looks like; what they think of ours comes after it.
            assert link.run(ignore) in (DisconnectReason.PROTOCOL_ERROR, DisconnectReason.UNSPECIFIED)

        scene = Scene(serve_link)
        scene.play(play)
        assert isinstance(scene.outcomes[0], PeerFault | LinkClosed | TimedOut), position


# Peers that read slowly or not at all


def reads_after_a_minute(runtime: Runtime, stream: Stream) -> DisconnectReason:
    link = accept(runtime, BOB, stream, HELLO)
    runtime.scope("deaf").sleep(60.0)
    return link.run(ignore)


def test_write_without_progress_ends_the_link():
    def play(runtime: Runtime, stream: Stream) -> tuple[DisconnectReason, str, float]:
        link = dial(runtime, ALICE, stream, None, HELLO)
        link.send(MessageKind.BLOCK, NOISE(1 << 20))
        return link.run(ignore), link.close_text, runtime.now() - link.opened_at

    reason, text, after_s = Scene(reads_after_a_minute).play(play)
    assert (reason, text) == (DisconnectReason.SLOW, "took nothing for 20 s")
    assert after_s == pytest.approx(WRITE_LIMIT_S + CLOSING_LIMIT_S, abs=0.5)


def test_slow_reader_that_goes_on_is_kept():
    """One segment every five seconds."""

    def read_slowly(runtime: Runtime, stream: Stream) -> int:
        link, scope = accept(runtime, BOB, stream, HELLO), runtime.scope("slow")
        return link.run(lambda *_: scope.sleep(5.0))

    def play(runtime: Runtime, stream: Stream) -> float:
        link, scope = dial(runtime, ALICE, stream, None, HELLO), runtime.scope("play")
        for _ in range(30):
            link.send(MessageKind.TRANSACTION, NOISE(60_000))
        while link.queued_bytes:
            assert not link.closed
            scope.sleep(1.0)
        lasted = runtime.now() - link.opened_at
        link.disconnect(DisconnectReason.REQUESTED)
        link.run(ignore)
        return lasted

    assert Scene(read_slowly).play(play) > 5 * WRITE_LIMIT_S


def test_idle_link_has_no_limit():
    def play(runtime: Runtime, stream: Stream) -> DisconnectReason:
        link, scope = dial(runtime, ALICE, stream, None, HELLO), runtime.scope("play")
        for _ in range(3):
            assert link.send(MessageKind.HEARTBEAT, b"")
            scope.sleep(100 * WRITE_LIMIT_S / 3 + 7)
        link.disconnect(DisconnectReason.REQUESTED)
        return link.run(ignore)

    assert Scene(serve_link).play(play) is DisconnectReason.REQUESTED


def test_disconnect_over_a_cut_way_closes_all_the_same():
    def play(runtime: Runtime, stream: Stream) -> float:
        link = dial(runtime, ALICE, stream, None, HELLO)
        scene.world.cut(NEAR_IP, FAR_IP)
        began = runtime.now()
        link.disconnect(DisconnectReason.REQUESTED)
        assert link.run(ignore) is DisconnectReason.REQUESTED
        scene.world.at(began + 60, lambda: scene.world.mend(NEAR_IP, FAR_IP))
        return runtime.now() - began

    scene = Scene(serve_link)
    assert scene.play(play) == pytest.approx(CLOSING_LIMIT_S)
    reason, link = scene.outcomes[0]
    assert (reason, link.closed_by_peer) == (DisconnectReason.REQUESTED, True)


def test_producer_that_waits_in_vain_is_told():
    def play(runtime: Runtime, stream: Stream) -> None:
        link = dial(runtime, ALICE, stream, None, HELLO)
        for _ in range(3):
            link.send(MessageKind.BLOCK, NOISE(1 << 20))
        with pytest.raises(TimedOut, match="still queued after 3 s"):
            link.wait_room(3.0)
        link.disconnect(DisconnectReason.REQUESTED)
        link.run(ignore)

    Scene(reads_after_a_minute).play(play)
