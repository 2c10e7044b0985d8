"""The TURN client's core: transcripts of single steps, and any sequence of anything."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.cli.explanations import EXPLANATIONS
from kodectl.core.turn_answers import is_acceptable_alternate
from kodectl.core.turn_client import KEEPALIVE_S, MAX_DATA, State, TurnClient
from kodectl.core.turn_events import Allocated, DataReceived, Lost, Mismatched, Redirected
from kodectl.core.turn_peers import (
    CHANNEL_AFTER,
    CHANNEL_LIFETIME_S,
    CHANNEL_REFRESH_S,
    MAX_CHANNELS,
    MAX_COUNTED,
    MAX_PERMISSIONS,
    MAX_PERMITTED_AT_ONCE,
    PERMISSION_REFRESH_S,
    Channels,
    Permissions,
)
from kodectl.core.turn_refusals import MEANINGS, Refusal, refusal
from kodectl.core.turn_requests import LENGTHENING, LIFETIME_S, STREAM_PAUSES_S, UDP_PAUSES_S
from kodectl.wire.channel_data import LAST_CHANNEL, pack_channel_data
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, StunError, decode, encode, verifies
from kodectl.wire.stun_credentials import long_term_key

USER, PASSWORD, REALM = "alice", "wonderland", "rabbit hole"
KEY = long_term_key(USER, REALM, PASSWORD)
SERVER, RELAYED, MAPPED, PEER = ("20.1.0.1", 3478), ("20.1.0.1", 50_000), ("20.0.0.7", 4_000), ("20.2.0.1", 5_000)
REQUEST_S = sum(UDP_PAUSES_S)


def client(**options: Any) -> TurnClient:
    return TurnClient(SERVER, (USER, PASSWORD), random.Random(1).randbytes, **options)


def answer(packet: bytes, *contents: tuple[int, Any], key: bytes | None = KEY, error: int = 0) -> bytes:
    request = decode(packet)
    kind = MessageClass.ERROR if error else MessageClass.SUCCESS
    said = ((Attribute.ERROR_CODE, StunError(error, "No")), *contents) if error else contents
    return encode(request._replace(kind=kind, attributes=said), key=key)


def challenge(packet: bytes, code: int = 401, nonce: bytes = b"nonce") -> bytes:
    return answer(packet, (Attribute.REALM, REALM), (Attribute.NONCE, nonce), key=None, error=code)


def success(packet: bytes, lifetime_s: int = 600, relayed: tuple[str, int] = RELAYED) -> bytes:
    match decode(packet).method:
        case Method.ALLOCATE:
            places = (Attribute.XOR_RELAYED_ADDRESS, relayed), (Attribute.XOR_MAPPED_ADDRESS, MAPPED)
            return answer(packet, *places, (Attribute.LIFETIME, lifetime_s))
        case Method.REFRESH:
            return answer(packet, (Attribute.LIFETIME, lifetime_s))
    return answer(packet)


def data_of(peer: tuple[str, int], *more: tuple[int, Any]) -> bytes:
    contents = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, b"data"), *more)
    return encode(Message(MessageClass.INDICATION, Method.DATA, bytes(12), contents))


def allocated(now: float = 0.0, lifetime_s: int = 600, **options: Any) -> TurnClient:
    it = client(**options)
    (first,) = it.start(now).packets
    step = it.receive(challenge(first), now)
    assert step is not None
    step = it.receive(success(step.packets[0], lifetime_s), now)
    assert step is not None
    assert step.events == (Allocated(RELAYED, MAPPED, min(lifetime_s, 3_600)),)
    return it


class TestTranscript:
    def test_of_an_allocation(self) -> None:
        it = client()
        (first,) = it.start(0.0).packets
        message = decode(first)
        assert (message.kind, message.method) == (MessageClass.REQUEST, Method.ALLOCATE)
        assert message.attributes == (
            (Attribute.REQUESTED_TRANSPORT, 17),
            (Attribute.LIFETIME, LIFETIME_S),
            LENGTHENING,
        )
        step = it.receive(challenge(first), 0.1)
        assert step is not None
        (second,) = step.packets
        sealed = decode(second)
        assert sealed.transaction_id != message.transaction_id
        assert sealed.attributes[:2] == message.attributes[:2]
        assert (sealed.get(Attribute.USERNAME), sealed.get(Attribute.NONCE)) == (USER, b"nonce")
        assert verifies(second, KEY)
        step = it.receive(success(second), 0.2)
        assert step is not None
        assert step == ((), (Allocated(RELAYED, MAPPED, 600),))
        assert it.state is State.ALLOCATED
        assert it.next_deadline() == pytest.approx(0.1 + KEEPALIVE_S)

    def test_of_an_allocation_for_ipv6(self) -> None:
        (first,) = client(family=6).start(0.0).packets
        assert decode(first).get(Attribute.REQUESTED_ADDRESS_FAMILY) == 2

    def test_of_permission_data_and_channel(self) -> None:
        it = allocated()
        (asked,) = it.permit([PEER[0], "20.2.0.2", PEER[0]], 1.0).packets
        peers = [value for number, value in decode(asked).attributes if number == Attribute.XOR_PEER_ADDRESS]
        assert peers == [(PEER[0], 0), ("20.2.0.2", 0)]
        assert it.permit([PEER[0]], 1.0).packets == ()
        assert it.receive(success(asked), 1.1) == ((), ())
        for _ in range(CHANNEL_AFTER - 1):
            (packet,) = it.send(b"data", PEER, 2.0).packets
            message = decode(packet)
            assert (message.kind, message.method) == (MessageClass.INDICATION, Method.SEND)
            assert message.attributes == ((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"data"))
        asked, packet = it.send(b"data", PEER, 2.0).packets
        assert decode(asked).attributes[:2] == ((Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, PEER))
        assert decode(packet).method == Method.SEND
        assert it.receive(pack_channel_data(0x4000, b"early"), 2.1) == ((), (DataReceived(b"early", PEER),))
        it.receive(success(asked), 2.2)
        assert it.send(b"hello", PEER, 2.3).packets == (bytes.fromhex("40000005 68656c6c6f"),)
        assert it.receive(pack_channel_data(0x4000, b"hi", padded=True), 2.4) == ((), (DataReceived(b"hi", PEER),))

    def test_of_channel_data_over_a_stream_is_padded(self) -> None:
        it = allocated(is_stream=True)
        (asked, *_) = [it.send(b"hello", PEER, 1.0) for _ in range(CHANNEL_AFTER)][-1].packets
        it.receive(success(asked), 1.1)
        assert it.send(b"hello", PEER, 1.2).packets == (bytes.fromhex("40000005 68656c6c6f 000000"),)

    @pytest.mark.parametrize(("lifetime_s", "refreshed_s"), [(600, 300), (100, 40), (30, 7.5), (90_000, 1_800)])
    def test_of_a_refresh(self, lifetime_s: int, refreshed_s: float) -> None:
        """At half of the lifetime or a minute before its end, whichever comes first."""
        it = allocated(lifetime_s=lifetime_s, is_stream=True)
        assert it.next_deadline() == refreshed_s
        assert it.tick(refreshed_s - 0.1).packets == ()
        (asked,) = it.tick(refreshed_s).packets
        assert decode(asked).method == Method.REFRESH
        assert decode(asked).get(Attribute.LIFETIME) == LIFETIME_S
        it.receive(success(asked), refreshed_s)
        assert it.next_deadline() == refreshed_s + 300

    def test_of_an_end(self) -> None:
        it = allocated()
        (last,) = it.close(5.0).packets
        assert decode(last).get(Attribute.LIFETIME) == 0
        assert verifies(last, KEY)
        assert it.next_deadline() is None
        assert it.close(6.0).packets == ()
        assert it.receive(success(last), 6.0) is None
        assert it.receive(data_of(PEER), 6.0) is None

    def test_of_repetitions(self) -> None:
        it = client()
        (first,) = it.start(0.0).packets
        times = []
        while it.state is State.ALLOCATING:
            now = it.next_deadline()
            assert now is not None
            step = it.tick(now)
            times += [now for packet in step.packets if packet == first]
        assert times == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
        assert now == 39.5
        assert [type(event) for event in step.events] == [Lost]

    def test_of_a_stream_has_no_repetitions(self) -> None:
        it = client(is_stream=True)
        it.start(0.0)
        assert it.tick(sum(STREAM_PAUSES_S) - 0.1) == ((), ())
        assert [type(event) for event in it.tick(sum(STREAM_PAUSES_S)).events] == [Lost]


class TestPassedOver:
    @pytest.mark.parametrize(
        ("data", "peer"),
        [
            (bytes(MAX_DATA + 1), PEER),
            (b"x", ("2001:db8::1", 5)),
            (b"x", ("224.0.0.1", 5)),
            (b"x", (PEER[0], 0)),
            (b"x", ("nonsense", 5)),
        ],
    )
    def test_what_cannot_be_sent(self, data: bytes, peer: tuple[str, int]) -> None:
        it = allocated()
        assert it.send(data, peer, 1.0) == ((), ())
        assert it.counters["not_sent"] == 1

    def test_data_before_there_is_an_allocation(self) -> None:
        assert client().send(b"x", PEER, 0.0) == ((), ())

    def test_an_indication_of_an_icmp_error(self) -> None:
        it = allocated()
        it.permit([PEER[0]], 1.0)
        contents = ((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.ICMP, bytes(8)))
        packet = encode(Message(MessageClass.INDICATION, Method.DATA, bytes(12), contents))
        assert it.receive(packet, 1.0) == ((), ())
        assert it.counters["indications_dropped"] == 1

    @pytest.mark.parametrize("kind", [MessageClass.SUCCESS, MessageClass.ERROR])
    def test_an_answer_with_what_must_be_understood_and_is_not(self, kind: MessageClass) -> None:
        it = allocated()
        (asked,) = it.permit([PEER[0]], 1.0).packets
        assert it.receive(answer(asked, (0x7777, b""), error=403 * (kind is MessageClass.ERROR)), 1.0) == ((), ())
        assert it.counters["unusable_answers"] == 1
        assert it.receive(success(asked), 1.1) is not None

    def test_data_with_what_must_be_understood_and_is_not(self) -> None:
        it = allocated()
        it.permit([PEER[0]], 1.0)
        assert it.receive(data_of(PEER), 1.0) == ((), (DataReceived(b"data", PEER),))
        assert it.receive(data_of(PEER, (0x7777, b"")), 1.0) == ((), ())

    def test_an_answer_of_rfc_3489(self) -> None:
        """It has no cookie, and so another transaction id."""
        it = client()
        (asked,) = it.start(0.0).packets
        packet = bytearray(answer(asked, key=None, error=486))
        packet[4:8] = b"none"
        assert it.receive(bytes(packet), 0.1) == ((), ())
        assert it.state is State.ALLOCATING

    def test_an_answer_that_was_answered(self) -> None:
        it = allocated()
        (asked,) = it.permit([PEER[0]], 1.0).packets
        assert it.receive(success(asked), 1.1) is not None
        assert it.receive(success(asked), 1.2) is None


@pytest.mark.parametrize(
    ("server", "alternate", "is_acceptable"),
    [
        ("20.1.0.1", "20.9.0.1", True),
        ("192.168.1.1", "192.168.1.2", True),
        ("192.168.1.1", "20.1.0.1", True),
        ("127.0.0.1", "127.0.0.2", True),
        ("192.168.1.1", "10.0.0.1", True),
        ("192.168.1.1", "127.0.0.1", False),
        ("20.1.0.1", "127.0.0.1", False),
        ("20.1.0.1", "10.0.0.1", False),
        ("20.1.0.1", "100.64.0.1", False),
        ("20.1.0.1", "169.254.0.1", False),
        ("20.1.0.1", "0.0.0.0", False),
        ("20.1.0.1", "255.255.255.255", False),
        ("20.1.0.1", "2001:4860::1", False),
        ("2001:4860::1", "fd00::1", False),
        ("2001:4860::1", "::1", False),
        ("2001:4860::1", "2001:4860::2", True),
    ],
)
def test_redirections_lead_nowhere_inside(server: str, alternate: str, is_acceptable: bool) -> None:
    assert is_acceptable_alternate((server, 3478), (alternate, 3478)) is is_acceptable
    assert not is_acceptable_alternate((server, 3478), (alternate, 0))


def test_every_refusal_is_explained() -> None:
    assert {meaning.code for meaning in MEANINGS.values()} | {"turn_untrusted", "turn_forbidden_peer"} <= set(
        EXPLANATIONS
    )


@pytest.mark.parametrize("number", [*Refusal, 300, 400, 599, 699])
def test_any_number_is_an_error_of_one_of_the_kinds(number: int) -> None:
    assert refusal(StunError(number, "because"), SERVER).code in EXPLANATIONS


class TestPermissions:
    def test_when_full_the_one_unused_for_the_longest_time_lapses(self) -> None:
        permissions = Permissions()
        for number in range(MAX_PERMISSIONS):
            assert permissions.add(f"20.2.{number >> 8}.{number & 255}", number)
        assert not permissions.add("20.2.0.0", 1_000)
        assert permissions.add("20.9.0.1", 1_001)
        assert len(permissions) == MAX_PERMISSIONS
        assert permissions.allows("20.2.0.0", 1_002)
        assert not permissions.allows("20.2.0.1", 1_002)

    def test_are_asked_for_in_portions(self) -> None:
        permissions = Permissions()
        ips = tuple(f"20.2.0.{number}" for number in range(50))
        for ip in ips:
            permissions.add(ip, 0.0)
        permissions.ask_again(ips, 0.0)
        portions = permissions.take_due(0.0)
        assert [len(portion) for portion in portions] == [MAX_PERMITTED_AT_ONCE, MAX_PERMITTED_AT_ONCE, 10]
        assert permissions.take_due(0.0) == []
        permissions.granted(ips, 1.0)
        assert permissions.next_deadline() == 1.0 + PERMISSION_REFRESH_S
        assert sum(map(len, permissions.take_due(1.0 + PERMISSION_REFRESH_S))) == 50


class TestChannels:
    def bound(self, channels: Channels, peer: tuple[str, int], now: float) -> int:
        wanted = [channels.wanted(peer, now) for _ in range(CHANNEL_AFTER)][-1]
        assert wanted is not None
        channels.granted(wanted.number, now)
        return wanted.number

    def test_are_not_more_than_the_limit(self) -> None:
        channels = Channels()
        for port in range(1, MAX_COUNTED * 3):
            for _ in range(CHANNEL_AFTER):
                channels.wanted((PEER[0], port), 0.0)
        assert len(channels) == MAX_CHANNELS

    def test_count_datagrams_to_no_more_peers_than_the_limit(self) -> None:
        channels = Channels()
        for port in range(1, MAX_COUNTED * 3):
            assert channels.wanted((PEER[0], port), 0.0) is None
            assert len(channels._sent) <= MAX_COUNTED

    def test_use_no_number_twice_and_end_with_the_numbers(self) -> None:
        channels, now, numbers = Channels(), 0.0, []
        for port in range(1, LAST_CHANNEL - 0x4000 + 2):
            numbers.append(self.bound(channels, (PEER[0], port), now))
            now += CHANNEL_LIFETIME_S
            channels.take_due(now)
        assert numbers == list(range(0x4000, LAST_CHANNEL + 1))
        assert [channels.wanted(PEER, now) for _ in range(CHANNEL_AFTER)] == [None] * CHANNEL_AFTER

    def test_are_not_used_after_their_end(self) -> None:
        channels = Channels()
        number = self.bound(channels, PEER, 0.0)
        assert channels.bound(PEER, CHANNEL_LIFETIME_S - 0.1) == number
        assert channels.bound(PEER, CHANNEL_LIFETIME_S) is None

    def test_are_refreshed_in_time_for_a_slow_answer(self) -> None:
        assert CHANNEL_REFRESH_S + REQUEST_S < CHANNEL_LIFETIME_S
        assert PERMISSION_REFRESH_S + REQUEST_S < 300.0

    def test_that_were_refused_are_not_asked_for_again(self) -> None:
        channels = Channels()
        channels.refused(self.bound(channels, PEER, 0.0))
        assert channels.bound(PEER, 1.0) is None
        assert [channels.wanted(PEER, 1.0) for _ in range(CHANNEL_AFTER * 2)] == [None] * CHANNEL_AFTER * 2
        assert channels.take_due(10_000.0) == []


Numbers = st.sampled_from([300, 400, 401, 403, 437, 438, 441, 442, 486, 500, 508])
Ips = st.sampled_from([f"20.2.0.{number}" for number in range(1, 30)] + ["10.0.0.1", "::1", "224.0.0.1", "x"])
Peers = st.tuples(Ips, st.integers(0, 3))
Actions = st.one_of(
    st.tuples(st.just("start")),
    st.tuples(st.just("permit"), st.lists(Ips, max_size=40)),
    st.tuples(st.just("send"), Peers, st.integers(1, 15)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 5.0, 40.0, 250.0])),
    st.tuples(st.just("deadline")),
    st.tuples(st.just("success"), st.sampled_from([0, 1, 30, 600, 2**32 - 1])),
    st.tuples(st.just("error"), Numbers, st.booleans()),
    st.tuples(st.just("challenge"), st.binary(max_size=30)),
    st.tuples(st.just("garbage"), st.binary(max_size=64)),
    st.tuples(st.just("damaged"), st.integers(0, 200), st.integers(0, 255)),
    st.tuples(st.just("channel data"), st.integers(0x4000, 0x4005), st.binary(max_size=9)),
    st.tuples(st.just("data"), Peers, st.binary(max_size=9)),
    st.tuples(st.just("close")),
)


class AnyServer:
    """Does to a client what a list of actions says; requests are answered in any order, rightly or not."""

    def __init__(self, is_stream: bool, is_allocated: bool) -> None:
        self.client = (allocated if is_allocated else client)(is_stream=is_stream)
        self.now = 0.0
        self.open: list[bytes] = []
        self.data: list[DataReceived] = []
        self.permitted: set[str] = set()

    def act(self, action: Any) -> None:
        name, *values = action
        step = getattr(self, name.replace(" ", "_"))(*values)
        if step is None:
            return
        assert len(step.packets) <= 600
        for packet in step.packets:
            if packet[0] < 4 and decode(packet).kind is MessageClass.REQUEST:
                self.open = [*self.open[-50:], packet]
        for event in step.events:
            if isinstance(event, DataReceived):
                assert event.peer[0] in self.permitted
            if isinstance(event, Lost | Mismatched | Redirected):
                assert self.client.state is State.ENDED

    def start(self) -> Any:
        return self.client.start(self.now) if self.client.state is State.IDLE else None

    def permit(self, ips: list[str]) -> Any:
        self.permitted.update(ips)
        return self.client.permit(ips, self.now)

    def send(self, peer: tuple[str, int], count: int) -> Any:
        self.permitted.add(peer[0])
        for _ in range(count - 1):
            self.act(("send", peer, 1))
        return self.client.send(b"data", peer, self.now)

    def wait(self, seconds: float) -> Any:
        self.now += seconds
        return self.client.tick(self.now)

    def deadline(self) -> Any:
        self.now = max(self.now, self.client.next_deadline() or 0.0)
        return self.client.tick(self.now)

    def close(self) -> Any:
        return self.client.close(self.now)

    def receive(self, packet: bytes) -> Any:
        return self.client.receive(packet, self.now)

    def success(self, lifetime_s: int) -> Any:
        return self.receive(success(self.open.pop(), lifetime_s)) if self.open else None

    def error(self, number: int, is_sealed: bool) -> Any:
        alternate = (Attribute.ALTERNATE_SERVER, ("20.1.0.9", 3478))
        key = KEY if is_sealed else None
        return self.receive(answer(self.open.pop(), alternate, key=key, error=number)) if self.open else None

    def challenge(self, nonce: bytes) -> Any:
        return self.receive(challenge(self.open.pop(), 438 if len(nonce) % 2 else 401, nonce)) if self.open else None

    def garbage(self, data: bytes) -> Any:
        return self.receive(data)

    def damaged(self, at: int, value: int) -> Any:
        if not self.open:
            return None
        packet = bytearray(success(self.open[-1]))
        packet[at % len(packet)] = value
        return self.receive(bytes(packet))

    def channel_data(self, number: int, data: bytes) -> Any:
        return self.receive(pack_channel_data(number, data))

    def data_(self, peer: tuple[str, int], data: bytes) -> Any:
        contents = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        return self.receive(encode(Message(MessageClass.INDICATION, Method.DATA, bytes(12), contents)))


@given(st.lists(Actions, max_size=60), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_nothing_raises_and_everything_stays_within_bounds(
    actions: list[Any], is_stream: bool, is_allocated: bool
) -> None:
    server = AnyServer(is_stream, is_allocated)
    server.act(("start",))
    for action in actions:
        if action[0] == "data":
            if action[1][0] != "x":
                server.act(("data_", *action[1:]))
            continue
        server.act(action)
        it = server.client
        assert len(it._permissions) <= MAX_PERMISSIONS
        assert len(it._channels) <= MAX_CHANNELS
        assert len(it._requests) <= MAX_PERMISSIONS + MAX_CHANNELS + 2
        if it.state is State.ENDED:
            assert it.next_deadline() is None
        elif it.state is not State.IDLE:
            assert it.next_deadline() is not None
