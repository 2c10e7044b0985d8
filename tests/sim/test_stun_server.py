"""A STUN server on virtual time: connections that stay, stand still, and come in crowds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from kodectl.core.stun_answers import SERVER_NETWORK_BURST
from kodectl.errors import NegativeAnswer
from kodectl.node.stun_client import StunClient, ask_over_tcp
from kodectl.node.stun_server import (
    IDLE_LIMIT_S,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_NETWORK,
    MAX_TCP_REQUEST,
    StunServer,
)
from kodectl.runtime.base import Address, Runtime, Stream, StreamClosed
from kodectl.sim.world import World
from kodectl.wire.stun import Message, MessageClass, Method, decode, encode

SERVER = ("20.1.0.1", 3478)
REQUEST = encode(Message(MessageClass.REQUEST, Method.BINDING, b"x" * 12))
LIMIT_S = 300.0


class Scene:
    def __init__(self) -> None:
        self.world = World("stun server")
        self.far = self.world.host(SERVER[0])
        self.near = self.world.host("20.0.0.7")
        self.server = StunServer(self.far)
        self.server.start(SERVER)

    def run(self, procedure: Callable[[], Any]) -> Any:
        return self.world.call(self.near, procedure, limit_s=LIMIT_S)

    def ends(self, stream: Stream) -> float:
        """Waits for the server to close; how long that took."""
        began = self.near.now()
        with pytest.raises(StreamClosed):
            stream.read_exactly(1)
        return self.near.now() - began


def quietly(procedure: Callable[[], None]) -> Callable[[], None]:
    """For a writer whose stream will be closed under him."""

    def run() -> None:
        with suppress(StreamClosed):
            procedure()

    return run


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.world.call(scene.far, scene.server.stop)
    scene.world.run()
    assert scene.world.waiting() == []
    scene.world.close()


def test_both_ways_lead_to_an_answer(scene: Scene) -> None:
    assert scene.run(lambda: ask_over_tcp(scene.near, SERVER, 5.0)).mapped[0] == "20.0.0.7"

    def receive(data: bytes, sender: Address) -> None:
        assert client.received(data, sender)

    client = StunClient(scene.near, scene.near.open_datagram(("20.0.0.7", 4000), receive).send)
    assert scene.run(lambda: client.ask(SERVER)).mapped == ("20.0.0.7", 4000)
    assert scene.server.counters == {"answered": 2, "connections": 1}


class TestConnections:
    def test_serve_one_request_after_the_other(self, scene: Scene) -> None:
        def procedure() -> list[bytes]:
            stream = scene.near.connect(SERVER, 5.0)
            stream.write(REQUEST + REQUEST[:9])
            answers = [stream.read_exactly(32)]
            stream.write(REQUEST[9:])
            answers.append(stream.read_exactly(32))
            stream.close()
            return answers

        assert [decode(answer).kind for answer in scene.run(procedure)] == [MessageClass.SUCCESS] * 2

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\0\1" + (MAX_TCP_REQUEST + 4).to_bytes(2) + bytes(16),
            encode(Message(MessageClass.SUCCESS, Method.BINDING, b"x" * 12)),
            encode(Message(MessageClass.REQUEST, Method.ALLOCATE, b"x" * 12)),
        ],
    )
    def test_end_where_there_is_nothing_to_answer(self, scene: Scene, sent: bytes) -> None:
        def procedure() -> float:
            stream = scene.near.connect(SERVER, 5.0)
            stream.write(sent)
            return scene.ends(stream)

        assert scene.run(procedure) < 1.0

    def test_end_when_nothing_comes_even_drop_by_drop(self, scene: Scene) -> None:
        def procedure() -> float:
            stream = scene.near.connect(SERVER, 5.0)
            dripping = scene.near.scope("dripping")

            def drip() -> None:
                for at in range(len(REQUEST)):
                    stream.write(REQUEST[at : at + 1])
                    dripping.sleep(5.0)

            dripping.spawn("drip", quietly(drip))
            return scene.ends(stream)

        assert round(scene.run(procedure)) == IDLE_LIMIT_S

    def test_begin_the_limit_anew_with_each_request(self, scene: Scene) -> None:
        def procedure() -> float:
            stream = scene.near.connect(SERVER, 5.0)
            for _ in range(3):
                scene.near.event().wait(IDLE_LIMIT_S - 5.0)
                stream.write(REQUEST)
                stream.read_exactly(32)
            return scene.ends(stream)

        assert round(scene.run(procedure)) == IDLE_LIMIT_S

    def test_of_one_network_are_so_many(self, scene: Scene) -> None:
        def procedure() -> None:
            streams = [scene.near.connect(SERVER, 5.0) for _ in range(MAX_CONNECTIONS_OF_NETWORK + 1)]
            assert scene.ends(streams.pop()) < 1.0
            streams.pop().close()
            scene.near.event().wait(1.0)
            assert ask_over_tcp(scene.near, SERVER, 5.0)

        scene.run(procedure)
        assert scene.server.counters["connections_refused"] == 1

    def test_altogether_are_so_many(self, scene: Scene) -> None:
        hosts = [scene.world.host(f"20.2.{n}.1") for n in range(MAX_CONNECTIONS // MAX_CONNECTIONS_OF_NETWORK)]

        def fill(host: Runtime) -> list[Stream]:
            return [host.connect(SERVER, 5.0) for _ in range(MAX_CONNECTIONS_OF_NETWORK)]

        for host in hosts:
            scene.world.call(host, lambda host=host: fill(host))
        with pytest.raises(NegativeAnswer):
            scene.run(lambda: ask_over_tcp(scene.near, SERVER, 5.0))
        assert scene.server.counters == {"connections": MAX_CONNECTIONS, "connections_refused": 1}

    def test_share_the_rate_with_udp(self, scene: Scene) -> None:
        def procedure() -> int:
            stream = scene.near.connect(SERVER, 5.0)
            stream.write(REQUEST * int(2 * SERVER_NETWORK_BURST))
            answers = 0
            with suppress(StreamClosed):
                while stream.read_exactly(32):
                    answers += 1
            return answers

        assert scene.run(procedure) == SERVER_NETWORK_BURST
        assert scene.server.counters["over_rate"] == 1
