"""What comes to the discovery socket goes to the one part that it is for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.identity import Identity
from kodectl.core.quic_paths import Path
from kodectl.node.discovery import Discovery
from kodectl.node.multiplexer import Multiplexer
from kodectl.runtime.base import Address
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire.packets import DISCOVERY_TYPES
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

STRANGER = ("21.1.0.1", 5000)
TRANSACTION, OTHER_TRANSACTION = b"transactions", b"other ones.."
CONNECTION = b"connect."
INITIAL = b"\xc0\x00\x00\x00\x01\x08" + bytes(1194)


class Session:
    """One of ICE, which has asked with `TRANSACTION` and heard of one peer."""

    def __init__(self, parts: Parts, ufrag: str, transaction: bytes, heard: Address) -> None:
        self.parts, self.ufrag, self.transaction, self.heard = parts, ufrag, transaction, heard

    def received_shared(self, data: bytes, source: Address) -> None:
        self.parts.took.append((f"session {self.ufrag}", data))

    def knows_source(self, source: Address) -> bool:
        return source == self.heard


class Parts:
    """Everything that can be attached; `took` is what went where."""

    def __init__(self, world: World) -> None:
        self.took: list[tuple[str, bytes]] = []
        runtime = world.host("21.0.0.1")
        discovery = Discovery(runtime, Identity(SimSuite(), bytes(32)))
        discovery.open(("21.0.0.1", 30301))
        self.world, self.runtime = world, runtime
        self.multiplexer = Multiplexer(runtime, discovery)
        self.multiplexer.own_questions = lambda data, source: data[8:20] == b"own question" and self.take("own", data)
        self.multiplexer.relay = lambda data, source: (
            (0x40 <= data[0] < 0x50 or data[:2] == b"\x00\x03") and self.take("relay", data)
        )
        self.multiplexer.quic = self
        self.attach(Session(self, "aaaa", TRANSACTION, ("21.2.0.1", 1)))
        self.attach(Session(self, "bbbb", OTHER_TRANSACTION, ("21.3.0.1", 1)))

    def attach(self, session: Session) -> None:
        self.multiplexer.attach(session)
        self.multiplexer.asked(session, stun(MessageClass.REQUEST, session.transaction))

    def take(self, who: str, data: bytes) -> bool:
        self.took.append((who, data))
        return True

    def knows(self, data: bytes) -> bool:
        return data[1:9] == CONNECTION

    def received(self, data: bytes, path: Path) -> None:
        self.took.append((f"quic {path.remote[0]}", data))

    def who_takes(self, data: bytes, source: Address = STRANGER) -> list[str]:
        self.took.clear()
        self.multiplexer.received(data, source)
        return [who for who, _ in self.took]


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    with World(1) as world:
        yield Parts(world)


def stun(
    kind: MessageClass, transaction: bytes, *attributes: tuple[int, object], method: int = Method.BINDING
) -> bytes:
    return encode(Message(kind, method, transaction, attributes), fingerprint=True)


@pytest.mark.parametrize(
    ("data", "whose"),
    [
        (stun(MessageClass.SUCCESS, b"own question"), ["own"]),
        (stun(MessageClass.SUCCESS, TRANSACTION), ["session aaaa"]),
        (stun(MessageClass.SUCCESS, OTHER_TRANSACTION), ["session bbbb"]),
        (stun(MessageClass.SUCCESS, b"of nobody..."), []),
        (stun(MessageClass.REQUEST, b"not asked...", (Attribute.USERNAME, "bbbb:cccc")), ["session bbbb"]),
        (stun(MessageClass.REQUEST, TRANSACTION, (Attribute.USERNAME, "cccc:aaaa")), []),
        (stun(MessageClass.REQUEST, b"not asked...", method=Method.ALLOCATE), ["relay"]),
        (b"\x40\x01" + CONNECTION, ["relay"]),
        (b"\x41" + CONNECTION, ["quic 21.1.0.1"]),
        (b"\xc1" + CONNECTION, ["quic 21.1.0.1"]),
        (INITIAL, []),
        (b"\x00", []),
        (b"\x20 neither", []),
        (b"", []),
    ],
)
def test_each_datagram_has_one_taker_at_most(parts: Parts, data: bytes, whose: list[str]) -> None:
    assert parts.who_takes(data) == whose


def test_a_connection_is_begun_only_by_who_has_been_heard(parts: Parts) -> None:
    assert parts.who_takes(INITIAL, ("21.3.0.1", 1)) == ["quic 21.3.0.1"]
    assert parts.who_takes(INITIAL, ("21.3.0.1", 2)) == []


def test_a_session_that_has_left_takes_nothing(parts: Parts) -> None:
    leaving = Session(parts, "dddd", b"a third one.", ("21.4.0.1", 1))
    parts.attach(leaving)
    leaving.ufrag = "eeee"
    parts.multiplexer.attach(leaving)
    request = stun(MessageClass.REQUEST, b"not asked...", (Attribute.USERNAME, "dddd:x"))
    assert parts.who_takes(request) == ["session eeee"]
    answer = stun(MessageClass.SUCCESS, leaving.transaction)
    assert parts.who_takes(answer) == ["session eeee"]
    parts.multiplexer.detach(leaving)
    assert parts.who_takes(request) == []
    assert parts.who_takes(answer) == []
    assert parts.who_takes(INITIAL, leaving.heard) == []


def test_what_nobody_takes_is_answered_where_it_is_a_binding_request(parts: Parts) -> None:
    answers: list[bytes] = []
    runtime = parts.runtime
    asking = runtime.open_datagram(("21.0.0.1", 0), lambda data, sender: answers.append(data))
    parts.who_takes(stun(MessageClass.REQUEST, b"whoever asks"), asking.local)
    parts.world.run_for(1.0)
    assert [data[8:20] for data in answers] == [b"whoever asks"]


@given(st.binary(max_size=64).filter(lambda data: not data or data[0] not in DISCOVERY_TYPES))
def test_nothing_that_arrives_raises_anything(parts: Parts, data: bytes) -> None:
    assert len(parts.who_takes(data)) <= 1


def test_what_a_stranger_makes_up_is_asked_of_no_session(parts: Parts) -> None:
    """With many of them, answers to nothing would keep the node busy."""
    asked: list[str] = []
    for number in range(50):
        session = Session(parts, f"busy{number}", b"busy%08d" % number, STRANGER)
        session.knows_source = lambda source: asked.append("source") is None  # type: ignore[method-assign]
        parts.multiplexer.attach(session)
    for made_up in (stun(MessageClass.SUCCESS, b"made up....."), b"\x80" + bytes(40), b"\xd0" * 30):
        assert parts.who_takes(made_up) == []
    assert asked == []
