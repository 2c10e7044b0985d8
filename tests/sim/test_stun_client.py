"""Asking STUN servers on virtual time: repetition, silence, lies, and the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kodectl.core.stun_transactions import BindingAnswer, StunRefused
from kodectl.errors import NegativeAnswer, PeerFault, WireError
from kodectl.node.stun_client import DEFAULT_SCHEDULE, MAX_TCP_ANSWER, StunClient, ask_over_tcp
from kodectl.runtime.base import Address, Stopped, Stream
from kodectl.sim.world import World
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, StunError, decode, encode

CLIENT_IP, SERVER_IP, OTHER_IP = "20.0.0.7", "20.1.0.1", "20.2.0.1"
PORT, CLIENT_PORT = 3478, 4000
SERVER, OTHER = (SERVER_IP, PORT), (OTHER_IP, PORT)
LIMIT_S = 120.0

Serve = Callable[[bytes, Address], None]


def success(request: bytes, mapped: Address) -> bytes:
    read = decode(request)
    return encode(read._replace(kind=MessageClass.SUCCESS, attributes=((Attribute.XOR_MAPPED_ADDRESS, mapped),)))


def refusal(request: bytes, number: int) -> bytes:
    read = decode(request)
    return encode(read._replace(kind=MessageClass.ERROR, attributes=((Attribute.ERROR_CODE, StunError(number, "No")),)))


class Scene:
    """A client's host with its socket, and two hosts that answer as the test says."""

    def __init__(self) -> None:
        self.world = World("stun")
        self.near = self.world.host(CLIENT_IP)
        self.far, self.other = self.world.host(SERVER_IP), self.world.host(OTHER_IP)
        self.serve: Serve = lambda data, sender: None
        self.asked_at: list[float] = []
        self.passed_over: list[bytes] = []
        self.far_socket = self.far.open_datagram(SERVER, self._asked)
        self.other_socket = self.other.open_datagram(OTHER, lambda *_: None)
        socket = self.near.open_datagram((CLIENT_IP, CLIENT_PORT), self._received)
        self.client = StunClient(self.near, socket.send)

    def _asked(self, data: bytes, sender: Address) -> None:
        self.asked_at.append(round(self.far.now() - self.started, 1))
        self.serve(data, sender)

    def _received(self, data: bytes, sender: Address) -> None:
        if not self.client.received(data, sender):
            self.passed_over.append(data)

    def answers(self, data: bytes, sender: Address) -> None:
        self.far_socket.send(success(data, sender), sender)

    def ask(self, **options: Any) -> BindingAnswer:
        return self.run(lambda: self.client.ask(SERVER, **options))

    def run(self, procedure: Callable[[], Any]) -> Any:
        self.started = self.near.now()
        return self.world.call(self.near, procedure, limit_s=LIMIT_S)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.world.close()


def test_an_answer_says_where_one_is_seen(scene: Scene) -> None:
    scene.serve = scene.answers
    answer = scene.ask()
    assert answer.mapped == (CLIENT_IP, CLIENT_PORT)
    assert answer.source == SERVER
    assert answer.sendings == 1
    assert answer.rtt_s > 0


def test_silence_is_asked_into_at_growing_intervals_and_then_given_up(scene: Scene) -> None:
    with pytest.raises(NegativeAnswer, match=r"no answer from the STUN server at 20\.1\.0\.1:3478 over UDP") as caught:
        scene.ask()
    assert caught.value.code == "no_answer"
    assert scene.asked_at == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert round(scene.near.now() - scene.started, 1) == sum(DEFAULT_SCHEDULE) == 39.5


def test_what_was_lost_is_asked_again(scene: Scene) -> None:
    def deaf_at_first(data: bytes, sender: Address) -> None:
        if len(scene.asked_at) == 3:
            scene.answers(data, sender)

    scene.serve = deaf_at_first
    answer = scene.ask(schedule=(0.1, 0.2, 0.4, 0.8))
    assert answer.sendings == 3
    assert scene.asked_at == [0.0, 0.1, 0.3]


def test_what_is_no_answer_ends_nothing(scene: Scene) -> None:
    """Another's id, another's address, broken bytes with the right id: and then the answer."""

    def lies_first(data: bytes, sender: Address) -> None:
        scene.other_socket.send(success(data, ("20.66.6.6", 666)), sender)
        scene.far_socket.send(success(data, ("20.66.6.6", 666)).replace(data[8:20], b"x" * 12), sender)
        scene.far_socket.send(b"\1\1\0\4" + data[4:20], sender)
        scene.far_socket.send(b"nonsense", sender)
        scene.far_socket.send(data, sender)
        scene.near.call_later(0.3, lambda: scene.answers(data, sender))

    scene.serve = lies_first
    assert scene.ask().mapped == (CLIENT_IP, CLIENT_PORT)
    assert len(scene.passed_over) == 3


def test_a_server_that_answers_nonsense_is_not_a_silent_one(scene: Scene) -> None:
    scene.serve = lambda data, sender: scene.far_socket.send(b"\1\1\0\4" + data[4:20], sender)
    with pytest.raises(WireError, match="cut short"):
        scene.ask(schedule=(0.5, 1.0))
    assert scene.asked_at == [0.0, 0.5]


@pytest.mark.parametrize("number", [300, 420])
def test_a_refusal_ends_it_at_once(scene: Scene, number: int) -> None:
    scene.serve = lambda data, sender: scene.far_socket.send(refusal(data, number), sender)
    with pytest.raises(StunRefused) as caught:
        scene.ask()
    assert caught.value.number == number
    assert scene.asked_at == [0.0]


def test_an_answer_from_elsewhere_counts_only_where_it_was_asked_for(scene: Scene) -> None:
    scene.serve = lambda data, sender: scene.other_socket.send(success(data, sender), sender)
    assert scene.ask(change_ip=True, change_port=True).source == OTHER
    with pytest.raises(NegativeAnswer):
        scene.ask(schedule=(0.5,))


def test_several_questions_are_told_apart(scene: Scene) -> None:
    waiting: list[tuple[bytes, Address]] = []

    def in_reverse(data: bytes, sender: Address) -> None:
        waiting.append((data, sender))
        if len(waiting) == 3:
            for number, (asked, asker) in enumerate(reversed(waiting)):
                scene.far_socket.send(success(asked, (CLIENT_IP, 1 + number)), asker)

    scene.serve = in_reverse
    answers = scene.near.mailbox(3)
    scope = scene.near.scope("asking")

    def ask_three() -> list[BindingAnswer]:
        for number in range(3):
            scope.spawn(f"ask {number}", lambda: answers.put(scene.client.ask(SERVER)))
        return [answers.get() for _ in range(3)]

    assert sorted(answer.mapped[1] for answer in scene.run(ask_three)) == [1, 2, 3]


def test_closing_ends_the_waits(scene: Scene) -> None:
    def ask_until_stopped() -> float:
        with pytest.raises(Stopped):
            scene.client.ask(SERVER)
        return scene.near.now() - scene.started

    scene.near.call_later(1.0, scene.client.close)
    assert scene.run(ask_until_stopped) == 1.0
    assert scene.run(ask_until_stopped) == 0.0


class TestOverTcp:
    def ask(self, scene: Scene, serve: Callable[[Stream], None], timeout_s: float = 5.0) -> BindingAnswer:
        tasks = scene.far.scope("tcp")
        scene.far.listen(SERVER, lambda stream: tasks.spawn("serve", serve, stream))
        return scene.run(lambda: ask_over_tcp(scene.near, SERVER, timeout_s))

    def test_the_answer_says_where_the_connection_comes_from(self, scene: Scene) -> None:
        def serve(stream: Stream) -> None:
            packed = success(stream.read_exactly(20), stream.remote)
            stream.write(packed[:7])
            stream.write(packed[7:])

        answer = self.ask(scene, serve)
        assert answer.mapped[0] == CLIENT_IP
        assert (answer.source, answer.sendings) == (SERVER, 1)

    def test_nobody_listens(self, scene: Scene) -> None:
        with pytest.raises(NegativeAnswer, match="over TCP: refused") as caught:
            scene.run(lambda: ask_over_tcp(scene.near, SERVER, 5.0))
        assert caught.value.code == "no_answer"

    def test_a_silent_server_is_waited_for_so_long(self, scene: Scene) -> None:
        with pytest.raises(NegativeAnswer, match="no answer"):
            self.ask(scene, lambda stream: scene.far.scope("idle").sleep(60.0))
        assert round(scene.near.now() - scene.started, 1) == 5.0

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (lambda request: b"", NegativeAnswer),
            (lambda request: success(request, OTHER)[:30], NegativeAnswer),
            (lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n", WireError),
            (lambda request: b"\1\1" + (MAX_TCP_ANSWER + 4).to_bytes(2) + bytes(16), WireError),
            (lambda request: success(b"\0\1\0\0" + request[4:8] + b"x" * 12, OTHER), WireError),
            (lambda request: encode(Message(MessageClass.SUCCESS, Method.BINDING, request[8:20])), WireError),
            (lambda request: refusal(request, 500), StunRefused),
        ],
    )
    def test_anything_else_is_no_answer(
        self, scene: Scene, answer: Callable[[bytes], bytes], expected: type[PeerFault]
    ) -> None:
        def serve(stream: Stream) -> None:
            stream.write(answer(stream.read_exactly(20)))
            stream.close()

        with pytest.raises(expected):
            self.ask(scene, serve)
