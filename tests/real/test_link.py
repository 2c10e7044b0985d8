"""Links over loopback TCP: two honest ends, and every dishonest one."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import msgspec
import pytest
import zstandard

from kodectl.core.identity import Identity
from kodectl.errors import PeerFault
from kodectl.node.handshake import PROLOGUE, open_inbound, open_outbound
from kodectl.node.link import Link, LinkClosed, LocalEnd, accept, dial
from kodectl.node.outbox import MAX_QUEUED_BYTES
from kodectl.runtime.base import Address, Stopped, Stream, StreamClosed
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.announcement import Ports
from kodectl.wire.frames import MAX_CONTENT, FrameDecoder, FrameEncoder, encode_message
from kodectl.wire.messages import Disconnect, DisconnectReason, Hello, MessageKind, pack_disconnect, pack_hello
from kodectl.wire.noise import Handshake
from kodectl.wire.suite import RealSuite

SUITE = RealSuite()
HELLO = Hello((1,), "kodectl/test", "testnet", ("gossip",), Ports(30303, 30301))
LIMIT_S = 10.0
"""For anything here to happen; a test that waits so long has failed."""


def local_end(number: int) -> LocalEnd:
    return LocalEnd(Identity(SUITE, bytes((number,)) * 32), bytes((number, 1)) * 16)


ALICE, BOB, MALLORY = local_end(1), local_end(2), local_end(3)


class Tapped:
    """A stream whose written bytes can be recorded, cut off or changed on their way."""

    def __init__(self, stream: Stream, alter: Callable[[int, bytes], bytes] = lambda _offset, data: data) -> None:
        self._stream = stream
        self._alter = alter
        self.written = b""
        self.writes = 0

    @property
    def local(self) -> Address:
        return self._stream.local

    @property
    def remote(self) -> Address:
        return self._stream.remote

    def read_exactly(self, size: int) -> bytes:
        return self._stream.read_exactly(size)

    def write(self, data: bytes) -> None:
        altered = self._alter(len(self.written), data)
        self.written += data
        self.writes += 1
        self._stream.write(altered)
        if len(altered) < len(data):
            self._stream.close()
            raise StreamClosed("cut")

    def close(self) -> None:
        self._stream.close()


class World:
    """A runtime, streams over it, and tasks whose outcome is asked for."""

    def __init__(self) -> None:
        self.runtime = GreenRuntime()
        self.scope = self.runtime.scope("test")
        self._arrived = self.runtime.mailbox(8)
        self._listener = self.runtime.listen(("127.0.0.1", 0), self._arrived.put)
        self._streams: list[Stream] = []

    def streams(self) -> tuple[Stream, Stream]:
        """The dialler's and the acceptor's end of a new connection."""
        pair = self.runtime.connect(self._listener.local, LIMIT_S), self._arrived.get(LIMIT_S)
        self._streams += pair
        return pair

    def start(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Runs it beside the test; the answer waits for its value, and raises what it raised."""
        outcome = self.runtime.mailbox(1)

        def task() -> None:
            try:
                outcome.put((function(*args), None))
            except Exception as error:
                outcome.put((None, error))

        def result() -> Any:
            value, error = outcome.get(LIMIT_S)
            if error is not None:
                raise error
            return value

        self.scope.spawn(getattr(function, "__name__", "task"), task)
        return result

    def links(self, a: LocalEnd = ALICE, b: LocalEnd = BOB) -> tuple[Link, Link]:
        near, far = self.streams()
        accepting = self.start(accept, self.runtime, b, far, HELLO)
        return dial(self.runtime, a, near, b.identity.node_id, HELLO), accepting()

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(int(LIMIT_S / 0.001)):
            if condition():
                return
            self.scope.sleep(0.001)
        raise AssertionError("it never happened")

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._listener.close()
        self.scope.close()
        assert self.scope.join(LIMIT_S) == [], "tasks are left over"
        self.runtime.close()


def live_greenlets() -> int:
    return sum(isinstance(found, gevent.Greenlet) and not found.dead for found in gc.get_objects())


@pytest.fixture
def world() -> Iterator[World]:
    before = live_greenlets()
    world = World()
    yield world
    world.close()
    gevent.sleep(0)
    assert live_greenlets() <= before, "greenlets are left over"


def ignore(_link: Link, _kind: int, _body: bytes) -> None:
    pass


def fault_of(action: Callable[[], Any]) -> str:
    """The code of the failure that it must end in."""
    with pytest.raises((PeerFault, LinkClosed)) as failure:
        action()
    return failure.value.code


# Honest ends


def test_both_know_whom_they_talk_to(world):
    ours, theirs = world.links()
    assert (ours.node_id, theirs.node_id) == (BOB.identity.node_id, ALICE.identity.node_id)
    assert (ours.public_key, theirs.public_key) == (BOB.identity.public_key, ALICE.identity.public_key)
    assert (ours.outbound, theirs.outbound) == (True, False)
    assert ours.hello == theirs.hello == HELLO
    assert not ours.closed
    assert ours.remote == world._listener.local


@pytest.mark.parametrize("unknown", [None, bytes(32)])
def test_whoever_answers_is_enough_when_the_id_is_unknown(world, unknown):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    assert dial(world.runtime, ALICE, near, unknown, HELLO).node_id == BOB.identity.node_id
    accepting()


def test_messages_of_all_sizes_in_order_both_ways(world):
    rng = random.Random(5)
    messages = [(rng.randrange(2, 7), rng.randbytes(size)) for size in (0, 1, 127, 128, 1500, 65_536, 200, 4 << 20, 3)]
    messages += [(5, bytes(size)) for size in (2000, 300_000)]
    received: dict[Link, list[tuple[int, bytes]]] = {}
    ends = world.links()
    running = []
    for link in ends:
        received[link] = []
        running.append(world.start(link.run, lambda link, kind, body: received[link].append((kind, body))))
        for kind, body in messages:
            assert link.send(kind, body)
    world.until(lambda: all(len(got) == len(messages) for got in received.values()))
    assert list(received.values()) == [messages, messages]
    for link, other in (ends, ends[::-1]):
        assert link.messages_sent == other.messages_received == len(messages)
        assert link.bytes_sent == other.bytes_received
        assert link.queued_bytes == 0
    ends[0].disconnect(DisconnectReason.REQUESTED)
    assert [result() for result in running] == [DisconnectReason.REQUESTED] * 2


def test_type_that_nobody_knows_reaches_the_handler(world):
    ours, theirs = world.links()
    kinds: list[int] = []
    world.start(theirs.run, lambda _link, kind, _body: kinds.append(kind))
    ours.send(200, b"from a later version")
    world.until(lambda: kinds == [200])


def test_encoded_message_is_shared_between_links(world):
    message = encode_message(MessageKind.BLOCK, b"block")
    got: list[bytes] = []
    for ours, theirs in (world.links(), world.links(MALLORY, BOB)):
        world.start(theirs.run, lambda _link, _kind, body: got.append(body))
        assert ours.send_encoded(message)
    world.until(lambda: got == [b"block"] * 2)


def test_small_messages_leave_together(world):
    near, far = world.streams()
    tapped = Tapped(near)
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    ours, theirs = dial(world.runtime, ALICE, tapped, None, HELLO), accepting()
    world.start(theirs.run, ignore)
    before = tapped.writes
    for number in range(1000):
        ours.send(MessageKind.TRANSACTION, b"%200d" % number)
    world.until(lambda: theirs.messages_received == 1000)
    assert tapped.writes - before <= 1 + 1000 * 203 // 65_000


def test_message_in_one_frame_with_hello_is_not_lost(world):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    speaker = raw_dialler(near)
    speaker.say((MessageKind.HELLO, pack_hello(HELLO)), (MessageKind.TRANSACTION, b"early"))
    got: list[bytes] = []
    world.start(accepting().run, lambda _link, _kind, body: got.append(body))
    world.until(lambda: got == [b"early"])


def test_idle_link_has_no_writer(world):
    ours, theirs = world.links()
    world.start(theirs.run, ignore)
    ours.send(MessageKind.HEARTBEAT, b"x")
    world.until(lambda: theirs.messages_received == 1)
    before = live_greenlets()
    for _ in range(10):
        ours.send(MessageKind.HEARTBEAT, b"x")
    assert live_greenlets() == before + 1
    world.until(lambda: theirs.messages_received == 11)
    assert live_greenlets() == before


def test_producer_that_waits_for_room_is_never_too_fast(world):
    ours, theirs = world.links()
    world.start(theirs.run, ignore)
    piece = random.Random(1).randbytes(256 << 10)
    for _ in range(4 * MAX_QUEUED_BYTES // len(piece)):
        ours.wait_room(LIMIT_S)
        assert ours.send(MessageKind.BLOCK, piece)
    ours.wait_room(LIMIT_S)
    assert not ours.closed


def test_hub_gets_its_turn_within_a_batch(world):
    """A handler that takes a millisecond, and a frame of a hundred messages for it."""
    ours, theirs = world.links()
    turns_seen: list[int] = []
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            world.scope.sleep(0)

    def handle(_link: Link, _kind: int, _body: bytes) -> None:
        ends = world.runtime.now() + 0.001
        while world.runtime.now() < ends:
            pass
        turns_seen.append(turns)

    world.start(theirs.run, handle)
    world.start(count_turns)
    for _ in range(100):
        ours.send(MessageKind.TRANSACTION, b"slow to handle")
    world.until(lambda: len(turns_seen) == 100)
    assert len(set(turns_seen)) > 5


def test_hub_gets_its_turn_however_many_links_are_busy(world):
    """What each of them may do at a time must not add up: a timer waits for a few messages, not for a few of each link."""
    links = [world.links(ALICE, local_end(100 + number)) for number in range(20)]
    handled, most, count = 0, 0, 25

    def handle(_link: Link, _kind: int, _body: bytes) -> None:
        nonlocal handled
        handled += 1
        ends = time.thread_time() + 0.001
        while time.thread_time() < ends:
            pass

    def watch() -> None:
        nonlocal most
        while True:
            before = handled
            world.scope.sleep(0.001)
            most = max(most, handled - before)

    for ours, theirs in links:
        for _ in range(count):
            ours.send(MessageKind.TRANSACTION, b"slow to handle")
        world.start(theirs.run, handle)
    world.start(watch)
    world.until(lambda: handled == count * len(links))
    assert most < len(links)


# Ends of a link


@pytest.mark.parametrize("reason", list(DisconnectReason))
def test_reason_reaches_the_other_side_after_what_was_queued(world, reason):
    ours, theirs = world.links()
    got: list[bytes] = []
    running = [
        world.start(ours.run, ignore),
        world.start(theirs.run, lambda _link, _kind, body: got.append(body)),
    ]
    ours.send(MessageKind.TRANSACTION, b"the last one")
    ours.disconnect(reason, "because")
    assert ours.closed
    assert not ours.send(MessageKind.TRANSACTION, b"too late")
    assert [result() for result in running] == [reason, reason]
    assert (theirs.close_text, theirs.closed_by_peer, ours.closed_by_peer) == ("because", True, False)
    assert got == ([] if reason is DisconnectReason.SLOW else [b"the last one"])


def test_reason_arrives_though_this_side_never_reads(world):
    """A link that was accepted only to be refused; the other side has much to say meanwhile."""
    ours, theirs = world.links()
    running = world.start(ours.run, ignore)
    for _ in range(8):
        ours.send(MessageKind.BLOCK, random.Random(1).randbytes(1 << 20))
    theirs.disconnect(DisconnectReason.TOO_MANY_PEERS)
    assert running() is DisconnectReason.TOO_MANY_PEERS


def test_second_disconnect_changes_nothing(world):
    ours, theirs = world.links()
    running = world.start(theirs.run, ignore)
    ours.disconnect(DisconnectReason.BANNED)
    ours.disconnect(DisconnectReason.USELESS)
    assert running() is DisconnectReason.BANNED
    assert ours.close_reason is DisconnectReason.BANNED


def test_lost_connection_ends_the_link(world):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    ours = dial(world.runtime, ALICE, near, None, HELLO)
    running = world.start(accepting().run, ignore)
    near.close()
    assert running() is DisconnectReason.UNSPECIFIED
    assert ours.run(ignore) is DisconnectReason.UNSPECIFIED
    assert not ours.send(MessageKind.TRANSACTION, b"")


def test_waiting_for_room_ends_with_the_link(world):
    ours, theirs = world.links()
    for _ in range(8):
        ours.send(MessageKind.BLOCK, random.Random(1).randbytes(1 << 20))
    waiting = world.start(ours.wait_room, LIMIT_S)
    gevent.sleep(0.01)
    ours.disconnect(DisconnectReason.REQUESTED)
    assert fault_of(waiting) == "requested"
    theirs.disconnect(DisconnectReason.REQUESTED)


# Faults stay where they are


@pytest.mark.parametrize(
    ("failure", "reason", "text"),
    [
        (PeerFault("bad transaction"), DisconnectReason.PROTOCOL_ERROR, "bad transaction"),
        (ValueError("a bug"), DisconnectReason.UNSPECIFIED, "internal error"),
        (Stopped(), DisconnectReason.SHUTTING_DOWN, ""),
    ],
    ids=["peer fault", "bug", "stopped"],
)
def test_exception_of_a_handler_closes_only_its_link(world, failure, reason, text, caplog):
    def handle(_link: Link, _kind: int, body: bytes) -> None:
        if body == b"bad":
            raise failure

    (ours, theirs), (good, good_end) = world.links(), world.links(MALLORY, BOB)
    running = [world.start(link.run, handle) for link in (ours, theirs, good, good_end)]
    with caplog.at_level(logging.ERROR):
        ours.send(MessageKind.TRANSACTION, b"bad")
        assert [result() for result in running[:2]] == [reason, reason]
    assert ours.close_text == text
    assert ("a bug" in caplog.text) == isinstance(failure, ValueError)
    good.send(MessageKind.TRANSACTION, b"good")
    world.until(lambda: good_end.messages_received == 1)
    assert not good.closed


def test_failure_of_the_writer_closes_only_its_link(world, caplog):
    (ours, theirs), (good, good_end) = world.links(), world.links(MALLORY, BOB)
    running = [world.start(link.run, ignore) for link in (ours, theirs, good, good_end)]
    ours._outbox._encoder._cipher._counter = 2**64 - 1
    with caplog.at_level(logging.ERROR):
        ours.send(MessageKind.TRANSACTION, b"not to be sealed")
        assert [result() for result in running[:2]] == [DisconnectReason.UNSPECIFIED] * 2
    assert "the key is used up" in caplog.text
    assert (ours.close_text, ours.closed_by_peer) == ("internal error", False)
    good.send(MessageKind.TRANSACTION, b"good")
    world.until(lambda: good_end.messages_received == 1)


class RawPeer:
    """Keys like a peer's, and a free tongue."""

    def __init__(self, stream: Stream, encoder: FrameEncoder, decoder: FrameDecoder) -> None:
        self.stream = stream
        self._encoder = encoder
        self._decoder = decoder

    def say(self, *messages: tuple[int, bytes]) -> None:
        encoded = [encode_message(kind, body) for kind, body in messages]
        self.stream.write(b"".join(self._encoder.seal(encoded)))

    def say_plaintext(self, plaintext: bytes) -> None:
        self.stream.write(self._encoder._segment(plaintext))

    def hear(self) -> list[tuple[int, bytes]]:
        return self._decoder.open(self.stream.read_exactly(int.from_bytes(self.stream.read_exactly(2))))


def raw_dialler(stream: Stream) -> RawPeer:
    """Everything up to its own hello."""
    noise = Handshake(SUITE, initiator=True, static=MALLORY.static, ephemeral_secret=b"e" * 32, prologue=PROLOGUE)
    write_sized(stream, noise.write_message())
    noise.read_message(read_sized(stream))
    write_sized(stream, noise.write_message(MALLORY.proof))
    transport = noise.split()
    return RawPeer(
        stream,
        FrameEncoder(transport.send, MALLORY.compression),
        FrameDecoder(transport.receive, MALLORY.compression),
    )


def write_sized(stream: Stream, message: bytes) -> None:
    stream.write(len(message).to_bytes(2) + message)


def read_sized(stream: Stream) -> bytes:
    return stream.read_exactly(int.from_bytes(stream.read_exactly(2)))


def raw_peer(world: World) -> tuple[RawPeer, Callable[[], DisconnectReason], Link]:
    """A raw peer after hello, the outcome of the link on the other side, and that link."""
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    peer = raw_dialler(near)
    peer.say((MessageKind.HELLO, pack_hello(HELLO)))
    assert peer.hear()[0][0] == MessageKind.HELLO
    link = accepting()
    return peer, world.start(link.run, ignore), link


BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        (lambda peer: peer.say_plaintext(b"\x01" + BOMB), "zstd frame of 67108864 bytes"),
        (lambda peer: peer.say_plaintext(b"\0\x05" + b"\x80" * 9 + b"\x01"), "size longer than 9 bytes"),
        (lambda peer: peer.say_plaintext(b"\0\x05" + b"\xff" * 8 + b"\x7f"), "message of 9223372036854775807 bytes"),
        (lambda peer: peer.say_plaintext(b"\x80"), "flags 0x80"),
        (lambda peer: peer.say_plaintext(b"\x02"), "empty segment"),
        (lambda peer: peer.say_plaintext(b"\0" + b"\x07\0" * 5000), "more than 4096 messages"),
        (lambda peer: peer.stream.write(b"\0\x10" + bytes(16)), "segment of 16 bytes"),
        (lambda peer: peer.stream.write(b"\0\x20" + bytes(32)), "not sealed"),
        (lambda peer: peer.say((MessageKind.HELLO, pack_hello(HELLO))), "a second hello"),
        (lambda peer: peer.say((MessageKind.DISCONNECT, b"\xc1")), "disconnect: "),
        (
            lambda peer: [peer.say_plaintext(b"\x02" + bytes(65_518)) for _ in range(MAX_CONTENT // 65_518 + 1)],
            "frame of more than",
        ),
    ],
    ids=[
        "bomb",
        "2^63",
        "2^63-1",
        "flags",
        "endless",
        "4096 messages",
        "short",
        "unsealed",
        "second hello",
        "bad disconnect",
        "long frame",
    ],
)
def test_broken_frame_is_a_protocol_error(world, attack, text):
    peer, running, link = raw_peer(world)
    attack(peer)
    ((kind, body),) = peer.hear()
    assert kind == MessageKind.DISCONNECT
    assert msgspec.msgpack.decode(body)[0] == DisconnectReason.PROTOCOL_ERROR
    peer.stream.close()
    assert running() is DisconnectReason.PROTOCOL_ERROR
    assert text in link.close_text


def test_replayed_frame_is_refused(world):
    peer, running, link = raw_peer(world)
    segment = peer._encoder._segment(b"\0" + encode_message(5, b"pay me"))
    peer.stream.write(segment)
    peer.stream.write(segment)
    peer.hear()
    peer.stream.close()
    assert running() is DisconnectReason.PROTOCOL_ERROR
    assert link.messages_received == 1


def test_peer_that_stops_reading_is_dropped(world):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    raw_dialler(near).say((MessageKind.HELLO, pack_hello(HELLO)))
    link = accepting()
    running = world.start(link.run, ignore)
    piece = random.Random(1).randbytes(64 << 10)
    most = 0
    while link.send(MessageKind.TRANSACTION, piece):
        most = max(most, link.queued_bytes)
        gevent.sleep(0)
    assert link.close_reason is DisconnectReason.SLOW
    assert most <= MAX_QUEUED_BYTES
    assert link.queued_bytes <= 128 << 10
    near.close()
    assert running() is DisconnectReason.SLOW


def test_tiny_messages_are_bounded_by_their_memory(world):
    ours, _ = world.links()
    count = sum(1 for _ in itertools.takewhile(bool, (ours.send(5, b"") for _ in itertools.count())))
    assert count == MAX_QUEUED_BYTES // 50


# Handshakes that must not succeed


def attempt(
    world: World, dialler: LocalEnd, acceptor: LocalEnd, *, expect: LocalEnd | None = None, alter_near: Any = None
) -> tuple[str, str]:
    """The codes with which both sides fail."""
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, acceptor, far, HELLO)
    expected = expect.identity.node_id if expect else None
    stream = Tapped(near, alter_near) if alter_near else near
    codes = fault_of(lambda: dial(world.runtime, dialler, stream, expected, HELLO)), fault_of(accepting)
    for end in (near, far):
        with pytest.raises(StreamClosed):
            end.write(b"closed")
    return codes


def with_proof(static: LocalEnd, proof: LocalEnd) -> LocalEnd:
    """Who shows another's proof for a static key of its own."""
    end = LocalEnd(static.identity, b"s" * 32)
    end.proof = proof.proof
    return end


def test_wrong_identity_is_refused(world):
    assert attempt(world, ALICE, MALLORY, expect=BOB) == ("identity_mismatch", "unspecified")


def test_swapped_static_key_is_refused_by_the_dialler(world):
    assert attempt(world, ALICE, with_proof(MALLORY, BOB), expect=BOB) == ("handshake_failed", "unspecified")


def test_swapped_static_key_is_refused_by_the_acceptor(world):
    dialled, accepted = attempt(world, with_proof(MALLORY, ALICE), BOB, expect=BOB)
    assert accepted == "handshake_failed"
    assert dialled == "unspecified"


def test_short_proof_is_refused(world):
    end = LocalEnd(MALLORY.identity, b"s" * 32)
    end.proof = end.proof[:-1]
    assert attempt(world, ALICE, end) == ("handshake_failed", "unspecified")


def test_self_dial_is_recognised(world):
    assert attempt(world, ALICE, ALICE) == ("self", "unspecified")


def test_another_run_of_this_node_is_self_too(world):
    again = LocalEnd(Identity(SUITE, bytes((1,)) * 32), b"another static key of the node!!")
    assert attempt(world, ALICE, again) == ("self", "unspecified")


@pytest.mark.parametrize(
    ("theirs", "code"),
    [
        (msgspec.structs.replace(HELLO, network="mainnet"), "wrong_network"),
        (msgspec.structs.replace(HELLO, versions=(2, 3)), "incompatible_version"),
    ],
)
def test_hello_that_does_not_match_is_named_on_both_sides(world, theirs, code):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, theirs)
    assert fault_of(lambda: dial(world.runtime, ALICE, near, None, HELLO)) == code
    assert fault_of(accepting) == code


@pytest.mark.parametrize("code", ["wrong_network", "incompatible_version"])
def test_hello_that_does_not_match_is_answered_with_the_reason(world, code):
    theirs = {"network": "mainnet"} if code == "wrong_network" else {"versions": (9,)}
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    peer = raw_dialler(near)
    peer.say((MessageKind.HELLO, pack_hello(msgspec.structs.replace(HELLO, **theirs))))
    assert fault_of(accepting) == code
    assert [kind for kind, _ in peer.hear()] == [MessageKind.HELLO]
    ((kind, body),) = peer.hear()
    assert (kind, DisconnectReason(msgspec.msgpack.decode(body)[0]).name.lower()) == (MessageKind.DISCONNECT, code)


def test_disconnect_instead_of_hello_gives_its_reason(world):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    reason = pack_disconnect(Disconnect(DisconnectReason.TOO_MANY_PEERS, "full"))
    raw_dialler(near).say((MessageKind.DISCONNECT, reason))
    with pytest.raises(LinkClosed, match=r"too_many_peers \(full\)") as closed:
        accepting()
    assert closed.value.reason is DisconnectReason.TOO_MANY_PEERS


@pytest.mark.parametrize("first", [(MessageKind.TRANSACTION, b"x"), (MessageKind.HELLO, b"{}"), (200, b"")])
def test_anything_else_instead_of_hello_is_refused(world, first):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    raw_dialler(near).say(first)
    assert fault_of(accepting) == "handshake_failed"


def honest_bytes(world: World) -> tuple[bytes, bytes]:
    """All that dialler and acceptor write in a handshake."""
    near, far = world.streams()
    dialler, acceptor = Tapped(near), Tapped(far)
    accepting = world.start(open_inbound, world.runtime, BOB, acceptor, HELLO)
    open_outbound(world.runtime, ALICE, dialler, None, HELLO)
    accepting()
    near.close()
    far.close()
    return dialler.written, acceptor.written


def test_replay_of_the_first_and_third_message_is_refused(world):
    recorded, _ = honest_bytes(world)
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    near.write(recorded[:34])
    read_sized(near)
    near.write(recorded[34:])
    assert fault_of(accepting) == "handshake_failed"


def test_replay_of_the_second_message_is_refused(world):
    _, recorded = honest_bytes(world)
    near, far = world.streams()
    dialling = world.start(dial, world.runtime, ALICE, near, None, HELLO)
    read_sized(far)
    far.write(recorded)
    assert fault_of(dialling) == "handshake_failed"


def test_reflection_to_the_dialler_is_refused(world):
    near, far = world.streams()
    dialling = world.start(dial, world.runtime, ALICE, near, None, HELLO)
    write_sized(far, read_sized(far))
    assert fault_of(dialling) == "handshake_failed"


def test_reflection_to_the_acceptor_is_refused(world):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    near.write(honest_bytes(world)[0][:34])
    write_sized(near, read_sized(near))
    assert fault_of(accepting) == "handshake_failed"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0\2" + bytes(99),
        b"\0\x1f" + bytes(31),
        b"\xff" * 1000,
    ],
    ids=["http", "tls", "two bytes", "short key", "ones"],
)
def test_garbage_is_refused_at_once(world, garbage):
    near, far = world.streams()
    accepting = world.start(accept, world.runtime, BOB, far, HELLO)
    near.write(garbage)
    assert fault_of(accepting) == "handshake_failed"
    dialling = world.start(dial, world.runtime, ALICE, (streams := world.streams())[0], None, HELLO)
    streams[1].write(garbage)
    assert fault_of(dialling) == "handshake_failed"


def test_dialler_cut_off_after_any_byte_gets_nowhere(world):
    total = len(honest_bytes(world)[0])
    for cut in range(total):
        codes = attempt(world, ALICE, BOB, alter_near=lambda offset, data, cut=cut: data[: max(0, cut - offset)])
        assert codes == ("unspecified", "unspecified"), cut


def test_dialler_changed_in_any_byte_gets_nowhere(world):
    """But for the sizes: with one of those changed, the other side may wait for more (tests/sim/test_link_time.py)."""
    total = len(honest_bytes(world)[0])
    for position in sorted(set(range(total)) - {0, 1, 34, 35, 196, 197}):

        def flip(offset: int, data: bytes, position: int = position) -> bytes:
            changed = bytearray(data)
            if offset <= position < offset + len(data):
                changed[position - offset] ^= 1
            return bytes(changed)

        near, far = world.streams()
        accepting = world.start(accept, world.runtime, BOB, far, HELLO)
        dialling = world.start(dial, world.runtime, ALICE, Tapped(near, flip), None, HELLO)
        if position < 34:  # the first message: the dialler sees it at the second
            assert (fault_of(dialling), fault_of(accepting)) == ("handshake_failed", "unspecified"), position
            continue
        assert fault_of(accepting) == "handshake_failed", position
        if position < 196:
            assert fault_of(dialling) == "unspecified", position
        else:  # only our hello was changed, and theirs is here: the reason comes after it
            assert dialling().run(ignore) is DisconnectReason.PROTOCOL_ERROR, position
