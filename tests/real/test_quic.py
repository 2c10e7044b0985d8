"""QUIC over loopback UDP: links, floods, readers that stand still; and a foreign implementation on the other side."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from aioquic_peer import AioquicPeer
from quic_places import Place, connected

from kodectl.core.identity import Identity
from kodectl.core.quic_admission import RETRY_ABOVE
from kodectl.core.quic_connection import QuicCore
from kodectl.core.quic_paths import Path
from kodectl.node.link import Link, LocalEnd, accept, dial
from kodectl.node.quic_stream import QuicStream
from kodectl.runtime.base import Address, Stream, StreamClosed
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.announcement import Ports
from kodectl.wire.messages import DisconnectReason, Hello, MessageKind
from kodectl.wire.quic import CREDIT_WINDOW
from kodectl.wire.suite import RealSuite

IP = "127.0.0.1"
LIMIT_S = 60.0
HELLO = Hello((1,), "kodectl/test", "testnet", (), Ports(30303, 30301))


def local_end(number: int) -> LocalEnd:
    return LocalEnd(Identity(RealSuite(), bytes((number,)) * 32), bytes((number, 1)) * 16)


class Stage:
    def __init__(self) -> None:
        self.runtime = GreenRuntime()
        self.scope = self.runtime.scope("test")
        self._open: list[Any] = []

    def place(self, **options: Any) -> Place:
        self._open.append(Place(self.runtime, IP, **options))
        return self._open[-1]

    def foreign(self, remote: Address | None = None) -> AioquicPeer:
        self._open.append(AioquicPeer(self.runtime, IP, remote))
        return self._open[-1]

    def tell(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs it as a task; a mailbox that gets what it returned or raised."""
        outcome = self.runtime.mailbox(1)

        def task() -> None:
            try:
                outcome.put(function(*args))
            except StreamClosed as error:
                outcome.put(error)

        self.scope.spawn("task", task)
        return outcome

    def leave(self) -> None:
        for closable in self._open:
            closable.close()
        assert self.scope.join(5.0) == []
        assert not self.runtime.faults.counts
        self.runtime.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with gevent.Timeout(LIMIT_S):
        stage = Stage()
        yield stage
        stage.leave()


class TestStream:
    def test_bytes_arrive_in_order_whatever_the_pieces(self, stage: Stage) -> None:
        near, far = connected(stage.place(), stage.place())
        data = os.urandom(5_000_000)
        stage.tell(near.write, data)
        sizes = [1, 2, 0, 65_535, 2_000_000, 17, 131_072]
        sizes.append(len(data) - sum(sizes))
        assert b"".join(far.read_exactly(size) for size in sizes) == data
        far.write(b"answer")
        assert near.read_exactly(6) == b"answer"

    def test_the_end_of_one_side_is_the_end_of_the_other(self, stage: Stage) -> None:
        near, far = connected(stage.place(), stage.place())
        near.write(b"last words")
        near.close()
        assert far.read_exactly(4) == b"last"
        with pytest.raises(StreamClosed):
            far.read_exactly(7)
        with pytest.raises(StreamClosed):
            near.read_exactly(1)
        with pytest.raises(StreamClosed):
            near.write(b"more")

    def test_an_accept_callback_that_raises_costs_one_connection(self, stage: Stage) -> None:
        near, far = stage.place(), stage.place()
        far.endpoint._accept = lambda _stream: 1 / 0
        with pytest.raises(StreamClosed):
            near.connect(far.address).read_exactly(1)
        far.endpoint._accept = far.streams.put
        connected(near, far)[0].close()

    def test_many_connections_share_a_socket(self, stage: Stage) -> None:
        near, far = stage.place(), stage.place()
        pairs = [connected(near, far) for _ in range(30)]
        for number, (one, other) in enumerate(pairs):
            one.write(b"%08d" % number)
            assert other.read_exactly(8) == b"%08d" % number
        for one, other in pairs:
            one.close()
            other.close()

    def test_a_reader_that_stands_still_bounds_the_memory_of_both(self, stage: Stage) -> None:
        near, far = connected(stage.place(), stage.place())
        size = 40 * CREDIT_WINDOW
        data = bytes(size)
        gc.collect()
        tracemalloc.start()
        wrote = stage.tell(near.write, data)
        stage.scope.sleep(1.0)
        assert len(wrote) == 0
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 8 * CREDIT_WINDOW
        assert len(far._buffer) <= CREDIT_WINDOW
        assert near._core._connection.get_send_buffer_size() <= CREDIT_WINDOW
        for _ in range(40):
            far.read_exactly(CREDIT_WINDOW)
        assert wrote.get(5.0) is None

    def test_a_flood_of_garbage_ends_no_connection(self, stage: Stage) -> None:
        near_place, far_place = stage.place(), stage.place()
        near, far = connected(near_place, far_place)
        rng = random.Random(3)
        ids = list(far_place.endpoint._by_id)
        forger = stage.runtime.open_datagram((IP, 0), lambda _data, _sender: None)
        heads = [
            b"\x40%b",
            b"\xc0\0\0\0\1\x08%b\x08" + bytes(8),
            b"\xe0\0\0\0\1\x08%b\x08" + bytes(8),
            b"\xc1\x1a\x2a\x3a\x4a\x08%b\x00",
        ]

        def flood() -> None:
            for number in range(20_000):
                head = rng.choice(heads) % rng.choice(ids)
                forger.send((head + rng.randbytes(30)).ljust(rng.choice([40, 1_200]), b"x"), far_place.address)
                if number % 16 == 0:
                    stage.scope.sleep(0.0)

        over = stage.tell(flood)
        wrote = stage.tell(near.write, bytes(5_000_000))
        assert far.read_exactly(5_000_000) == bytes(5_000_000)
        assert wrote.get(5.0) is None
        assert over.get(LIMIT_S) is None
        near.write(b"still there")
        assert far.read_exactly(11) == b"still there"
        forger.close()

    def test_a_thousand_handshakes_that_stop_after_the_first_packet(self, stage: Stage) -> None:
        far = stage.place()
        silent = stage.place()
        silent.endpoint.received = lambda _data, _path: None
        for _ in range(1_000):
            path, send = silent.path_to(far.address)
            for _, datagrams in QuicCore.dial(silent.endpoint._dialler, path, stage.runtime.now()).datagrams(0.0):
                send(datagrams)
            stage.scope.sleep(0.0)
        assert far.endpoint.half_open <= RETRY_ABOVE + 1
        assert far.endpoint.counters["retried"] > 500
        near, there = connected(stage.place(), far)
        near.write(b"through all of them")
        assert there.read_exactly(19) == b"through all of them"

    def test_a_move_to_another_socket_and_back(self, stage: Stage) -> None:
        near_place, far_place = stage.place(), stage.place()
        near, far = connected(near_place, far_place)
        second = stage.runtime.open_datagram(
            (IP, 0), lambda data, sender: near_place.endpoint.received(data, Path(second.local, sender))
        )
        data = os.urandom(10_000_000)
        stage.tell(near.write, data)
        got = far.read_exactly(3_000_000)
        near.move(Path(second.local, far.local), lambda datagrams: second.send_many(datagrams, far.local))
        got += far.read_exactly(3_000_000)
        near.move(*near_place.path_to(far_place.address))
        assert got + far.read_exactly(4_000_000) == data
        second.close()


class TestLinks:
    def test_ten_thousand_messages_each_way(self, stage: Stage) -> None:
        streams = connected(stage.place(), stage.place())
        got: dict[bool, list[bytes]] = {True: [], False: []}
        links: list[Link] = []

        def handle(link: Link, _kind: int, body: bytes) -> None:
            got[link.outbound].append(body)
            if all(len(bodies) == 10_000 for bodies in got.values()):
                link.disconnect(DisconnectReason.REQUESTED, "all have come")

        def produce(link: Link) -> None:
            for number in range(10_000):
                link.wait_room(10.0)
                assert link.send(MessageKind.TRANSACTION, b"%06d" % number + bytes(194))

        def work(stream: Stream, outbound: bool) -> DisconnectReason:
            me, you = local_end(1), local_end(2)
            link = (
                dial(stage.runtime, me, stream, you.identity.node_id, HELLO)
                if outbound
                else accept(stage.runtime, you, stream, HELLO)
            )
            links.append(link)
            stage.tell(produce, link)
            return link.run(handle)

        outcomes = [stage.tell(work, stream, number == 0) for number, stream in enumerate(streams)]
        assert [outcome.get(LIMIT_S) for outcome in outcomes] == [DisconnectReason.REQUESTED] * 2
        for bodies in got.values():
            assert bodies == [b"%06d" % number + bytes(194) for number in range(10_000)]
        assert {link.close_text for link in links} == {"all have come"}


class TestForeignPeer:
    """aioquic, as dialler and as acceptor."""

    def test_it_dials(self, stage: Stage) -> None:
        place = stage.place()
        peer = stage.foreign(place.address)
        stream = place.streams.get(5.0)
        data = os.urandom(3_000_000)
        peer.write(data)
        assert stream.read_exactly(len(data)) == data
        stage.tell(stream.write, data)
        assert peer.wait(lambda: len(peer.received) >= len(data))
        assert peer.received == data

    def test_it_is_dialled(self, stage: Stage) -> None:
        peer = stage.foreign()
        stream = stage.place().connect(peer.socket.local)
        data = os.urandom(3_000_000)
        stage.tell(stream.write, data)
        assert peer.wait(lambda: len(peer.received) >= len(data))
        assert peer.received == data
        peer.write(data)
        assert stream.read_exactly(len(data)) == data

    def test_it_follows_a_retry(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kodectl.core.quic_admission.RETRY_ABOVE", 0)
        place = stage.place()
        peer = stage.foreign(place.address)
        stream = place.streams.get(5.0)
        assert place.endpoint.counters["retried"] == 1
        peer.write(b"after a retry")
        assert stream.read_exactly(13) == b"after a retry"

    def test_our_writer_waits_for_its_reader(self, stage: Stage) -> None:
        place = stage.place()
        peer = stage.foreign(place.address)
        peer.holds = True
        stream = place.streams.get(5.0)
        wrote = stage.tell(stream.write, bytes(3 * CREDIT_WINDOW))
        assert peer.wait(lambda: len(peer.received) == CREDIT_WINDOW)
        stage.scope.sleep(0.2)
        assert len(peer.received) == CREDIT_WINDOW
        assert len(wrote) == 0
        peer.read_on()
        assert peer.wait(lambda: len(peer.received) == 3 * CREDIT_WINDOW)
        assert wrote.get(5.0) is None

    def test_ends_in_order_from_either_side(self, stage: Stage) -> None:
        place = stage.place()
        first, second = stage.foreign(place.address), stage.foreign(place.address)
        one, other = place.streams.get(5.0), place.streams.get(5.0)
        one.write(b"good")
        other.write(b"good")
        assert first.wait(lambda: first.received == b"good")
        assert second.wait(lambda: second.received == b"good")
        one.close()
        first.finish()
        second.finish()
        with pytest.raises(StreamClosed):
            other.read_exactly(1)
        assert first.wait(lambda: first.ended is not None)
        assert second.wait(lambda: second.ended is not None)
        assert {first.ended, second.ended} <= {"0", "0 ended by the other side", "0 closed on this side"}

    @pytest.mark.parametrize(
        ("act", "words"),
        [
            (lambda quic: quic.send_stream_data(0, bytes(CREDIT_WINDOW + 5_000)), "over the credit"),
            (lambda quic: quic.send_stream_data(4, b"x"), "no meaning"),
            (lambda quic: quic.send_stream_data(2, b"\xff" * 8), "credit up to"),
            (lambda quic: quic.send_stream_data(2, bytes(8)), "credit up to"),
            (lambda quic: quic.reset_stream(0, 7), "reset"),
        ],
        ids=["over credit", "another stream", "limit too high", "limit withdrawn", "reset"],
    )
    def test_who_breaks_the_rules_is_told_and_let_go(self, stage: Stage, act: Callable[[Any], Any], words: str) -> None:
        place = stage.place()
        peer = stage.foreign(place.address)
        stream: QuicStream = place.streams.get(5.0)
        peer.break_rules(act)
        assert peer.wait(lambda: peer.ended is not None)
        assert peer.ended is not None
        assert peer.ended.startswith("1 ")
        assert words in peer.ended
        with pytest.raises(StreamClosed, match=words):
            stream.read_exactly(2 * CREDIT_WINDOW)

    def test_another_version_in_the_opening_byte_is_refused(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = stage.place()
        monkeypatch.setattr("kodectl.core.quic_connection.OPENING", b"\x02")
        foreign = stage.foreign(place.address)
        assert foreign.wait(lambda: foreign.ended is not None)
        assert foreign.ended == "1 the data stream begins with another version"
        assert len(place.streams) == 0
