"""A TURN server on virtual time: what ends by itself, connections that stand still, and clients that vanish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kodectl.core.turn_access import NONCE_LIFETIME_S, keys_of
from kodectl.core.turn_allocations import DEFAULT_LIFETIME_S, RelayLimits
from kodectl.core.turn_server import RESERVATION_LIFETIME_S
from kodectl.node.stun_client import ask_over_tcp
from kodectl.node.stun_framing import read_turn_framed
from kodectl.node.stun_server import StunServer
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.node.turn_server import (
    MAX_QUEUED,
    MAX_QUEUED_BYTES,
    RESERVED,
    UNUSED_LIMIT_S,
    Connection,
    RelayPlace,
    TurnSettings,
    relay_places,
    turn_service,
)
from kodectl.runtime.base import Address, LocalNetwork, Stream, StreamClosed
from kodectl.sim.world import World
from kodectl.wire.channel_data import pack_channel_data
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, decode, encode
from kodectl.wire.stun_credentials import long_term_key

SERVER, PEER = ("20.1.0.1", 3478), ("20.2.0.2", 700)
REALM, USER, PASSWORD = "example.org", "ann", "secret"
LIMIT_S = 20_000.0


class Scene:
    def __init__(self) -> None:
        self.world = World("turn server")
        self.far = self.world.host(SERVER[0])
        self.near = self.world.host("20.0.0.7")
        self.peer = self.world.host(PEER[0])
        settings = TurnSettings(REALM, keys_of({USER: PASSWORD}, REALM), RelayLimits(user_allocations=3))
        self.turn = turn_service(self.far, settings, {4: RelayPlace(SERVER[0], SERVER[0])})
        self.server = StunServer(self.far, self.turn)
        self.server.start(SERVER)
        self.echo = self.peer.open_datagram(PEER, lambda data, sender: self.echo.send(data, sender))

    def run(self, procedure: Callable[[], Any]) -> Any:
        return self.world.call(self.near, procedure, limit_s=LIMIT_S)

    def wait(self, seconds: float) -> None:
        self.near.event().wait(seconds)

    def connect(self) -> Stream:
        return self.near.connect(SERVER, 5.0)

    def ends(self, stream: Stream) -> float:
        """Waits for the server to close; how long that took."""
        began = self.near.now()
        try:
            while True:
                stream.read_exactly(1)
        except StreamClosed:
            return self.near.now() - began


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.world.call(scene.far, scene.server.stop)
    scene.echo.close()
    scene.world.run()
    assert scene.world.waiting() == []
    scene.world.close()


class Asker:
    """Over a stream, one request after the other."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.nonce = b""
        self.serial = 0

    def packed(self, method: Method, *attributes: tuple[int, Any]) -> bytes:
        self.serial += 1
        credentials = ((Attribute.USERNAME, USER), (Attribute.REALM, REALM), (Attribute.NONCE, self.nonce))
        message = Message(MessageClass.REQUEST, method, self.serial.to_bytes(12), attributes + credentials)
        return encode(message, key=long_term_key(USER, REALM, PASSWORD))

    def ask(self, method: Method, *attributes: tuple[int, Any]) -> Message:
        self.stream.write(self.packed(method, *attributes))
        answer = decode(read_turn_framed(self.stream))
        nonce = answer.get(Attribute.NONCE)
        if nonce is None:
            return answer
        self.nonce = nonce
        return self.ask(method, *attributes)

    def allocate(self, *attributes: tuple[int, Any]) -> Address:
        answer = self.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17), *attributes)
        relayed: Address = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        return relayed


def through(allocation: Allocation, scene: Scene, count: int) -> None:
    """`count` round trips to the peer and back."""
    heard = scene.near.mailbox(10)
    allocation.on_data = lambda data, peer: heard.put((data, peer))
    allocation.permit([PEER[0]])
    scene.wait(1.0)  # datagrams may overtake each other
    for number in range(count):
        allocation.send(str(number).encode(), PEER)
        assert heard.get(5.0) == (str(number).encode(), PEER)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_allocation_outlives_its_nonces_and_permissions(scene: Scene, transport: Any) -> None:
    def procedure() -> None:
        scope = scene.near.scope("client")
        allocation = allocate(scene.near, scope, TurnServer(*SERVER, transport, USER, PASSWORD))
        through(allocation, scene, 20)
        scene.wait(2 * NONCE_LIFETIME_S)
        through(allocation, scene, 20)
        allocation.close()
        scene.wait(1.0)
        scope.close()

    scene.run(procedure)
    assert len(scene.turn._relays) == 0


def test_a_client_that_vanishes_leaves_nothing_after_its_lifetime(scene: Scene) -> None:
    def procedure() -> None:
        scope = scene.near.scope("client")
        for _ in range(3):
            allocate(scene.near, scope, TurnServer(*SERVER, "udp", USER, PASSWORD))
        scene.world.cut("20.0.0.7", SERVER[0])
        scene.wait(DEFAULT_LIFETIME_S - 10.0)
        assert len(scene.turn._relays) == 3
        scene.wait(20.0)
        assert not scene.turn._relays
        scope.close()

    scene.run(procedure)
    assert scene.turn.counters["expired"] == 3


class TestConnections:
    def test_without_an_allocation_have_a_limit(self, scene: Scene) -> None:
        assert round(scene.run(lambda: scene.ends(scene.connect()))) == UNUSED_LIMIT_S

    def test_without_an_allocation_have_the_limit_whatever_they_ask(self, scene: Scene) -> None:
        def ask_again_and_again() -> float:
            stream, began = scene.connect(), scene.near.now()
            request = encode(Message(MessageClass.REQUEST, Method.BINDING, bytes(12)))
            try:
                while True:
                    stream.write(request)
                    stream.read_exactly(32)
                    scene.wait(9.0)
            except StreamClosed:
                return scene.near.now() - began

        assert UNUSED_LIMIT_S <= scene.run(ask_again_and_again) < UNUSED_LIMIT_S + 10.0

    def test_serve_stun_beside_turn(self, scene: Scene) -> None:
        assert scene.run(lambda: ask_over_tcp(scene.near, SERVER, 5.0)).mapped[0] == "20.0.0.7"

    @pytest.mark.parametrize(
        "half",
        [b"", b"\0", b"\0\3\0", b"\0\3\0\x20\x21\x12", b"\x40\0\0\x09abc", b"\0\4\xff\xfc", b"GET / HTTP/1.1\r\n\r\n"],
    )
    def test_with_half_a_message_end_with_their_allocation(self, scene: Scene, half: bytes) -> None:
        def procedure() -> float:
            stream = scene.connect()
            Asker(stream).allocate()
            stream.write(half)
            return scene.ends(stream)

        assert round(scene.run(procedure)) == DEFAULT_LIFETIME_S + UNUSED_LIMIT_S
        assert not scene.turn._relays

    @pytest.mark.parametrize(
        "sent", [b"POST / HTTP/1.1\r\n\r\n", b"\0\1\0\x03" + bytes(40), b"\x80" + bytes(40), b"\0" * 40]
    )
    def test_end_where_there_is_nothing_to_answer(self, scene: Scene, sent: bytes) -> None:
        def procedure() -> float:
            stream = scene.connect()
            stream.write(sent)
            return scene.ends(stream)

        assert scene.run(procedure) < 1.0

    def test_that_end_take_their_allocation_with_them(self, scene: Scene) -> None:
        def procedure() -> None:
            stream = scene.connect()
            Asker(stream).allocate()
            assert len(scene.turn._relays) == 1
            stream.close()
            scene.wait(1.0)

        scene.run(procedure)
        assert not scene.turn._relays

    def test_that_give_their_allocation_back_are_answered_and_get_their_limit_again(self, scene: Scene) -> None:
        def procedure() -> float:
            stream = scene.connect()
            asker = Asker(stream)
            asker.allocate()
            assert asker.ask(Method.REFRESH, (Attribute.LIFETIME, 0)).kind is MessageClass.SUCCESS
            return scene.ends(stream)

        assert round(scene.run(procedure)) == UNUSED_LIMIT_S

    def test_carry_messages_cut_anywhere(self, scene: Scene) -> None:
        def procedure() -> bytes:
            stream = scene.connect()
            asker = Asker(stream)
            asker.allocate()
            asker.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, PEER))
            sent = pack_channel_data(0x4000, b"12345", padded=True) * 3
            for at in range(len(sent)):
                stream.write(sent[at : at + 1])
                scene.wait(0.01)
            return b"".join(stream.read_exactly(12) for _ in range(3))

        assert scene.run(procedure) == pack_channel_data(0x4000, b"12345", padded=True) * 3

    def test_carry_more_than_may_wait_as_long_as_it_is_read(self, scene: Scene) -> None:
        count = 2 * MAX_QUEUED_BYTES // 1000

        def procedure() -> int:
            stream = scene.connect()
            asker = Asker(stream)
            asker.allocate()
            asker.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, PEER))
            for _ in range(count):
                stream.write(pack_channel_data(0x4000, bytes(1000)))
                assert len(read_turn_framed(stream)) == 1004
            return count

        assert scene.run(procedure) == count

    def test_that_nobody_reads_keep_so_much_and_lose_the_rest(self, scene: Scene) -> None:
        connection = Connection(scene.far, None)  # type: ignore[arg-type]
        for _ in range(1000):
            connection.relay(bytes(1000))
        assert connection.lost == 1000 - MAX_QUEUED_BYTES // 1000

    def test_that_nobody_reads_keep_room_for_answers(self, scene: Scene) -> None:
        connection = Connection(scene.far, None)  # type: ignore[arg-type]
        for _ in range(MAX_QUEUED):
            connection.relay(b"x")
        assert connection.lost == RESERVED
        for _ in range(RESERVED):
            connection.answer(b"x")
        assert connection.lost == RESERVED
        connection.answer(b"x")
        assert connection.lost == RESERVED + 1


class TestPorts:
    def test_are_even_where_that_is_asked_for(self, scene: Scene) -> None:
        def procedure() -> list[int]:
            streams = [scene.connect() for _ in range(3)]
            return [Asker(stream).allocate((Attribute.EVEN_PORT, 0))[1] % 2 for stream in streams]

        assert scene.run(procedure) == [0, 0, 0]

    def test_come_in_pairs_that_begin_even(self, scene: Scene) -> None:
        def procedure() -> None:
            stream = scene.connect()
            ip, port = Asker(stream).allocate((Attribute.EVEN_PORT, 0x80))
            assert (ip, port % 2) == (SERVER[0], 0)
            assert sorted(scene.turn._relays) == [(ip, port), (ip, port + 1)]
            scene.wait(RESERVATION_LIFETIME_S + 1.0)
            assert sorted(scene.turn._relays) == [(ip, port)]

        scene.run(procedure)


class TestPlaces:
    NETWORK = LocalNetwork(("127.0.0.1", "10.0.0.5"), "10.0.0.5", "10.0.0.1", "2001:500::5", None)
    NOWHERE = LocalNetwork(("127.0.0.1",), None, None, None, None)

    @pytest.mark.parametrize(
        ("host", "external", "places"),
        [
            ("20.0.0.1", None, {4: ("20.0.0.1", "20.0.0.1")}),
            ("10.0.0.9", "20.0.0.1", {4: ("10.0.0.9", "20.0.0.1")}),
            ("2001:500::1", None, {6: ("2001:500::1", "2001:500::1")}),
            ("0.0.0.0", None, {4: ("10.0.0.5", "10.0.0.5")}),
            ("0.0.0.0", "20.0.0.1", {4: ("10.0.0.5", "20.0.0.1")}),
            ("::", None, {4: ("10.0.0.5", "10.0.0.5"), 6: ("2001:500::5", "2001:500::5")}),
        ],
    )
    def test_are_where_the_server_listens_or_the_default_route_leaves(
        self, host: str, external: str | None, places: dict[int, tuple[str, str]]
    ) -> None:
        assert relay_places(host, external, self.NETWORK) == places

    def test_are_nowhere_without_a_route(self) -> None:
        assert relay_places("0.0.0.0", None, self.NOWHERE) == {}
        assert relay_places("0.0.0.0", "20.0.0.1", self.NOWHERE) == {4: ("0.0.0.0", "20.0.0.1")}
