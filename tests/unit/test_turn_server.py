"""The TURN server's core: who is let in, what each request leads to, what is relayed, and what nobody can make it do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodectl.core.stun_answers import server_budget
from kodectl.core.turn_access import ALGORITHMS, NONCE_LIFETIME_S, Client, Gate, Nonces, keys_of
from kodectl.core.turn_allocations import (
    CHANNEL_LIFETIME_S,
    DEFAULT_LIFETIME_S,
    MAX_CHANNELS,
    MAX_LIFETIME_S,
    MAX_PERMISSIONS,
    PERMISSION_LIFETIME_S,
    SHARE,
    SPARE,
    Relay,
    RelayLimits,
)
from kodectl.core.turn_reach import LOOPBACK, PRIVATE, Reach, ReachPolicy
from kodectl.core.turn_server import (
    MAX_REPEATS_KNOWN,
    MAX_REQUEST,
    MAX_RESERVATIONS,
    REPEATS_KNOWN_S,
    RESERVATION_LIFETIME_S,
    Bind,
    Close,
    Effect,
    Forward,
    Reply,
    TurnResponder,
)
from kodectl.wire.channel_data import pack_channel_data, unpack_channel_data
from kodectl.wire.stun import (
    Attribute,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    decode,
    encode,
    verifies,
)
from kodectl.wire.stun_credentials import MD5, SHA256, long_term_key

REALM, USER, PASSWORD = "example.org", "ann", "secret"
KEYS = {"ann": PASSWORD, "bob": "other"}
OWN = "198.41.0.4"
CLIENT: Client = ("20.0.0.7", 4000)
TCP_CLIENT: Client = ("20.0.0.7", 4000, "tcp")
PEER, OTHER = ("20.9.9.9", 900), ("20.8.8.8", 800)
UDP = (Attribute.REQUESTED_TRANSPORT, 17)


class Server:
    """The core, with sockets that are numbers."""

    def __init__(self, limits: RelayLimits | None = None, *, to_relays: bool = False, families: Sequence[int] = (4,)):
        self.rng = random.Random(7)
        self.gate = Gate(REALM, keys_of(KEYS, REALM), bytes(32))
        reach = ReachPolicy([OWN], to_relays=to_relays)
        self.core = TurnResponder(
            self.gate, reach, limits or RelayLimits(), families, server_budget(), self.rng.randbytes
        )
        self.now = 1000.0
        self.port = 50_000
        self.open: set[Relay] = set()
        self.has_sockets = True

    def take(self, data: bytes, client: Client = CLIENT) -> list[Effect]:
        """What is left to do, once sockets are opened and closed."""
        return self.done(self.core.from_client(data, client, self.now))

    def done(self, effects: Sequence[Effect]) -> list[Effect]:
        left: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Bind):
                relays = self._bind(effect) if self.has_sockets else ()
                self.open.update(relays)
                left += self.done(self.core.bound(effect, relays, self.now))
            elif isinstance(effect, Close):
                self.open.remove(effect.relay)
            else:
                left.append(effect)
        return left

    def _bind(self, bind: Bind) -> tuple[Relay, ...]:
        self.port += 2
        ip = OWN if bind.family == 4 else "2001:500::4"
        relays = (Relay((ip, self.port), self.port), Relay((ip, self.port + 1), self.port + 1))
        return relays if bind.with_next else relays[:1]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.done(self.core.expire(self.now))


class Asker:
    """A client that does as RFC 8489 says."""

    def __init__(
        self, server: Server, client: Client = CLIENT, user: str = USER, password: str = PASSWORD, algorithm: int = MD5
    ) -> None:
        self.server, self.client, self.user = server, client, user
        self.key = long_term_key(user, REALM, password, algorithm)
        self.algorithm = algorithm
        self.nonce = b""
        self.serial = 0

    def request(self, method: Method, *attributes: tuple[int, Any], **changed: Any) -> bytes:
        self.serial += 1
        contents: tuple[tuple[int, Any], ...] = (
            *attributes,
            (Attribute.USERNAME, self.user),
            (Attribute.REALM, REALM),
            (Attribute.NONCE, changed.get("nonce", self.nonce)),
        )
        integrity = Attribute.MESSAGE_INTEGRITY
        if self.algorithm == SHA256:
            contents += (
                (Attribute.PASSWORD_ALGORITHMS, ALGORITHMS),
                (Attribute.PASSWORD_ALGORITHM, PasswordAlgorithm(SHA256)),
            )
            integrity = Attribute.MESSAGE_INTEGRITY_SHA256
        message = Message(MessageClass.REQUEST, method, self.serial.to_bytes(12), contents)
        return encode(message, key=self.key, integrity=(integrity,))

    def sent(self, data: bytes) -> Message:
        (reply,) = self.server.take(data, self.client)
        assert isinstance(reply, Reply)
        assert reply.client == self.client
        answer = decode(reply.data)
        if answer.get(Attribute.NONCE) is not None:
            self.nonce = answer.get(Attribute.NONCE)
        else:
            integrity = Attribute.MESSAGE_INTEGRITY if self.algorithm == MD5 else Attribute.MESSAGE_INTEGRITY_SHA256
            assert answer.get(integrity) is None or verifies(reply.data, self.key, integrity)
        return answer

    def ask(self, method: Method, *attributes: tuple[int, Any]) -> Message:
        if not self.nonce:
            self.sent(self.request(method, *attributes))  # which brings a nonce
        return self.sent(self.request(method, *attributes))

    def allocate(self, *attributes: tuple[int, Any]) -> Message:
        return self.ask(Method.ALLOCATE, UDP, *attributes)

    def permit(self, *ips: str) -> Message:
        return self.ask(Method.CREATE_PERMISSION, *((Attribute.XOR_PEER_ADDRESS, (ip, 0)) for ip in ips))

    def bind(self, number: int, peer: tuple[str, int]) -> Message:
        return self.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, number), (Attribute.XOR_PEER_ADDRESS, peer))

    def refresh(self, lifetime_s: int, *attributes: tuple[int, Any]) -> Message:
        return self.ask(Method.REFRESH, (Attribute.LIFETIME, lifetime_s), *attributes)

    def send(self, peer: tuple[str, int], data: bytes, *attributes: tuple[int, Any]) -> list[Effect]:
        contents = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data), *attributes)
        return self.server.take(encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), contents)), self.client)

    def channel(self, number: int, data: bytes) -> list[Effect]:
        return self.server.take(pack_channel_data(number, data), self.client)

    def heard(self, data: bytes, peer: tuple[str, int]) -> bytes | None:
        allocation = self.server.core.allocation_of(self.client)
        assert allocation is not None
        return self.server.core.from_peer(allocation, data, peer, self.server.now)


def error_of(answer: Message) -> int | None:
    error = answer.get(Attribute.ERROR_CODE)
    return error.code if error else None


def is_success(answer: Message) -> bool:
    return answer.kind is MessageClass.SUCCESS


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def ann(server: Server) -> Asker:
    asker = Asker(server)
    assert is_success(asker.allocate())
    return asker


class TestNamesThatChange:
    """Of one person, one after the other: "ann" and "anna" here, the first of which is good for nothing new any more."""

    @pytest.fixture
    def server(self) -> Server:
        server = Server(RelayLimits(user_allocations=1))
        known = {**KEYS, "anna": PASSWORD}
        self.keys = keys_of(known, REALM)
        gate = Gate(REALM, lambda *asked: self.keys(*asked), bytes(32), keys_of(known, REALM), lambda name: name[:3])
        reach = ReachPolicy([OWN])
        server.core = TurnResponder(
            gate, reach, RelayLimits(user_allocations=1), (4,), server_budget(), server.rng.randbytes
        )
        return server

    def test_share_one_quota(self, server: Server) -> None:
        assert is_success(Asker(server).allocate())
        later = Asker(server, ("20.0.0.7", 4001), user="anna")
        assert error_of(later.allocate()) == 486
        assert is_success(Asker(server, ("20.0.0.7", 4002), "bob", "other").allocate())

    def test_keep_what_they_have_and_get_nothing_new(self, server: Server) -> None:
        ann = Asker(server)
        assert is_success(ann.allocate())
        self.keys = keys_of({"anna": PASSWORD}, REALM)
        assert is_success(ann.refresh(600))
        assert is_success(ann.permit(PEER[0]))
        assert is_success(ann.bind(0x4000, PEER))
        assert is_success(ann.refresh(0))
        assert error_of(ann.allocate()) == 401
        assert len(server.core) == 0

    def test_are_still_two_users(self, server: Server) -> None:
        assert is_success(Asker(server).allocate())
        assert error_of(Asker(server, user="anna").refresh(0)) == 441


class TestCredentials:
    @pytest.mark.parametrize("algorithm", [MD5, SHA256])
    def test_let_in_after_a_challenge(self, server: Server, algorithm: int) -> None:
        answer = Asker(server, algorithm=algorithm).allocate()
        assert answer.get(Attribute.XOR_MAPPED_ADDRESS) == CLIENT
        assert answer.get(Attribute.XOR_RELAYED_ADDRESS)[0] == OWN
        assert answer.get(Attribute.LIFETIME) == DEFAULT_LIFETIME_S

    @pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD), ("bob", PASSWORD)])
    def test_that_are_wrong_are_challenged_again_and_get_nothing(
        self, server: Server, user: str, password: str
    ) -> None:
        assert error_of(Asker(server, user=user, password=password).allocate()) == 401
        assert not server.open

    def test_expire_with_their_nonce_and_go_on_with_the_next(self, server: Server, ann: Asker) -> None:
        server.now += NONCE_LIFETIME_S / 4
        assert is_success(ann.refresh(MAX_LIFETIME_S))
        server.now += NONCE_LIFETIME_S
        old = ann.nonce
        assert error_of(ann.refresh(600)) == 438
        assert ann.nonce != old
        assert is_success(ann.refresh(600))

    def test_are_of_no_use_from_another_address(self, server: Server) -> None:
        ann, thief = Asker(server), Asker(server, ("20.0.0.8", 4000))
        ann.allocate()
        thief.nonce = ann.nonce
        assert error_of(thief.allocate()) == 438

    @pytest.mark.parametrize("nonce", [b"", b"x" * 40, b"obMatJos2gAAA" + b"!" * 16, b"obMatJos2gAAA"])
    def test_with_a_made_up_nonce_are_challenged(self, server: Server, nonce: bytes) -> None:
        ann = Asker(server)
        assert error_of(ann.sent(ann.request(Method.ALLOCATE, UDP, nonce=nonce))) == 438

    def test_a_nonce_with_one_bit_changed_is_not_taken(self) -> None:
        nonces = Nonces(b"secret")
        nonce = nonces.issue(CLIENT, 5.0)
        assert nonces.accepts(nonce, CLIENT, 5.0)
        assert not Nonces(b"other").accepts(nonce, CLIENT, 5.0)
        assert not nonces.accepts(nonce, TCP_CLIENT, 5.0)
        for at in range(len(b"obMatJos2gAAA"), len(nonce)):
            forged = nonce[:at] + bytes((nonce[at] ^ 1,)) + nonce[at + 1 :]
            assert not nonces.accepts(forged, CLIENT, 5.0)

    def test_an_offer_that_was_weakened_on_the_way_is_refused(self, server: Server) -> None:
        ann = Asker(server)
        only_md5 = (PasswordAlgorithm(MD5),)
        weakened = ((Attribute.PASSWORD_ALGORITHMS, only_md5), (Attribute.PASSWORD_ALGORITHM, only_md5[0]))
        assert error_of(ann.ask(Method.ALLOCATE, UDP)) is None
        assert error_of(ann.ask(Method.REFRESH, *weakened)) == 400

    def test_no_user_name_is_a_bad_request(self, server: Server) -> None:
        message = Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP,))
        (reply,) = server.take(encode(message, key=b"k"))
        assert isinstance(reply, Reply)
        assert error_of(decode(reply.data)) == 400

    def test_of_another_user_do_not_reach_the_allocation(self, server: Server, ann: Asker) -> None:
        assert error_of(Asker(server, user="bob", password="other").refresh(0)) == 441
        assert len(server.open) == 1

    def test_a_challenge_says_no_more_than_it_must(self, server: Server) -> None:
        """The figure in the module's docstring: IP and UDP have 28 bytes."""
        request = encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12)))
        (reply,) = server.take(request)
        assert isinstance(reply, Reply)
        assert (len(reply.data) + 28) / (len(request) + 28) < 3.0


class TestStrangers:
    def test_by_the_ten_thousand_leave_nothing(self, server: Server) -> None:
        request = encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP,)))
        for number in range(10_000):
            server.now += 0.001
            server.take(request, (f"20.{number >> 8 & 255}.{number & 255}.1", 4000))
        assert not server.open
        assert len(server.core) == 0
        assert server.core.next_deadline() is None
        assert not server.core._repeats

    def test_of_one_network_are_told_so_much(self, server: Server) -> None:
        request = encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP,)))
        answers = sum(len(server.take(request, ("20.0.0.9", port))) for port in range(1, 2000))
        assert answers == 500
        assert server.core.counters["over_rate"] == 1499

    def test_that_flood_do_not_touch_who_has_an_allocation(self, server: Server, ann: Asker) -> None:
        request = encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP,)))
        for number in range(25_000):
            server.take(request, (f"20.{number & 255}.{number >> 8}.1", 4000))
        assert server.core.counters["over_rate"] > 0
        assert is_success(ann.refresh(600))

    def test_are_not_listened_to_for_long(self, server: Server) -> None:
        long = (Attribute.DATA, bytes(MAX_REQUEST))
        assert server.take(encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (UDP, long)))) == []

    def test_send_nothing_through(self, server: Server, ann: Asker) -> None:
        stranger = Asker(server, ("20.0.0.7", 4001))
        ann.bind(0x4000, PEER)
        assert stranger.send(PEER, b"x") == stranger.channel(0x4000, b"x") == []


class TestAllocate:
    def test_a_second_one_of_the_same_client_is_a_mismatch(self, ann: Asker) -> None:
        assert error_of(ann.allocate()) == 437

    def test_that_somebody_has_kept_is_not_granted_again(self, server: Server) -> None:
        """The client would find its own address taken, and its quota used up."""
        ann = Asker(server)
        ann.ask(Method.REFRESH)
        kept = ann.request(Method.ALLOCATE, UDP)
        assert is_success(ann.sent(kept))
        assert is_success(ann.refresh(0))
        for _ in range(10):
            server.pass_time(NONCE_LIFETIME_S / 10 - 1.0)
            server.take(kept, ann.client)
            assert not server.open
        assert is_success(ann.allocate())

    def test_what_was_done_is_not_remembered_without_end(self, server: Server) -> None:
        ann = Asker(server)
        pause_s = 8.0
        for _ in range(500):
            ann.nonce = b""
            assert is_success(ann.allocate())
            assert is_success(ann.refresh(0))
            server.now += pause_s
        assert len(server.core._done) <= 2 * NONCE_LIFETIME_S / pause_s + 2

    def test_repeated_is_answered_alike(self, server: Server) -> None:
        ann = Asker(server)
        ann.sent(ann.request(Method.ALLOCATE, UDP))
        request = ann.request(Method.ALLOCATE, UDP)
        first = ann.sent(request)
        assert ann.sent(request) == first
        assert len(server.open) == 1

    @pytest.mark.parametrize(
        ("attributes", "code"),
        [
            ((), 400),
            (((Attribute.REQUESTED_TRANSPORT, 6),), 442),
            ((UDP, (Attribute.DONT_FRAGMENT, True)), 420),
            ((UDP, (0x7777, b"")), 420),
            ((UDP, (Attribute.REQUESTED_ADDRESS_FAMILY, 2)), 440),
            ((UDP, (Attribute.REQUESTED_ADDRESS_FAMILY, 9)), 440),
            ((UDP, (Attribute.RESERVATION_TOKEN, bytes(8))), 508),
            ((UDP, (Attribute.RESERVATION_TOKEN, bytes(8)), (Attribute.EVEN_PORT, 0)), 400),
            ((UDP, (Attribute.ADDITIONAL_ADDRESS_FAMILY, 1)), 400),
            ((UDP, (Attribute.ADDITIONAL_ADDRESS_FAMILY, 2), (Attribute.EVEN_PORT, 0x80)), 400),
            ((UDP, (Attribute.ADDITIONAL_ADDRESS_FAMILY, 2), (Attribute.REQUESTED_ADDRESS_FAMILY, 1)), 400),
        ],
    )
    def test_is_refused(self, server: Server, attributes: tuple[tuple[int, Any], ...], code: int) -> None:
        assert error_of(Asker(server).ask(Method.ALLOCATE, *attributes)) == code
        assert not server.open

    def test_of_both_families_gets_one_and_the_reason(self, server: Server) -> None:
        answer = Asker(server).allocate((Attribute.ADDITIONAL_ADDRESS_FAMILY, 2))
        assert is_success(answer)
        assert answer.get(Attribute.ADDRESS_ERROR_CODE)[:2] == (2, 440)

    def test_of_ipv6_where_there_is_some(self) -> None:
        answer = Asker(Server(families=(4, 6))).allocate((Attribute.REQUESTED_ADDRESS_FAMILY, 2))
        assert ":" in answer.get(Attribute.XOR_RELAYED_ADDRESS)[0]

    @pytest.mark.parametrize(
        ("asked", "given"), [(0, DEFAULT_LIFETIME_S), (60, DEFAULT_LIFETIME_S), (1800, 1800), (99_999, MAX_LIFETIME_S)]
    )
    def test_lasts(self, server: Server, asked: int, given: int) -> None:
        assert Asker(server).allocate((Attribute.LIFETIME, asked)).get(Attribute.LIFETIME) == given
        assert server.core.next_deadline() == server.now + given
        server.pass_time(given - 0.1)
        assert server.open
        server.pass_time(0.2)
        assert not server.open
        assert server.core.next_deadline() is None

    def test_without_a_socket_is_refused(self, server: Server) -> None:
        server.has_sockets = False
        assert error_of(Asker(server).allocate()) == 508
        assert len(server.core) == 0

    def test_the_next_port_is_kept_for_whoever_has_the_token(self, server: Server) -> None:
        first = Asker(server).allocate((Attribute.EVEN_PORT, 0x80))
        token = first.get(Attribute.RESERVATION_TOKEN)
        other = Asker(server, ("20.0.0.7", 4001))
        second = other.allocate((Attribute.RESERVATION_TOKEN, token))
        ports = [answer.get(Attribute.XOR_RELAYED_ADDRESS)[1] for answer in (first, second)]
        assert ports[1] == ports[0] + 1
        assert error_of(Asker(server, ("20.0.0.7", 4002)).allocate((Attribute.RESERVATION_TOKEN, token))) == 508

    def test_the_next_port_is_given_back(self, server: Server) -> None:
        Asker(server).allocate((Attribute.EVEN_PORT, 0x80))
        assert len(server.open) == 2
        server.pass_time(RESERVATION_LIFETIME_S)
        assert len(server.open) == 1

    def test_the_next_port_is_nobodys_when_its_time_is_over(self, server: Server) -> None:
        token = Asker(server).allocate((Attribute.EVEN_PORT, 0x80)).get(Attribute.RESERVATION_TOKEN)
        server.now += RESERVATION_LIFETIME_S
        assert error_of(Asker(server, ("20.0.0.7", 4001)).allocate((Attribute.RESERVATION_TOKEN, token))) == 508
        assert len(server.open) == 1

    def test_next_ports_that_are_kept_are_so_many(self) -> None:
        server = Server(RelayLimits(user_allocations=1000, network_allocations=1000))
        pair = (Attribute.EVEN_PORT, 0x80)
        for number in range(MAX_RESERVATIONS):
            server.now += 0.02
            assert is_success(Asker(server, ("20.0.0.7", 1 + number)).allocate(pair))
        assert error_of(Asker(server, ("20.0.0.7", 4000)).allocate(pair)) == 508
        assert is_success(Asker(server, ("20.0.0.7", 4001)).allocate())

    @pytest.mark.parametrize(
        ("limits", "code"),
        [
            (RelayLimits(user_allocations=2), 486),
            (RelayLimits(network_allocations=2), 486),
            (RelayLimits(allocations=2), 508),
        ],
    )
    def test_is_held_to_quotas_until_one_is_given_back(self, limits: RelayLimits, code: int) -> None:
        server = Server(limits)
        askers = [Asker(server, ("20.0.0.7", port)) for port in (1, 2, 3)]
        assert [error_of(asker.allocate()) for asker in askers] == [None, None, code]
        assert is_success(askers[0].refresh(0))
        assert is_success(askers[2].allocate())


class TestRefresh:
    def test_of_nothing_is_a_mismatch(self, server: Server) -> None:
        assert error_of(Asker(server).refresh(600)) == 437

    def test_of_zero_ends_it_and_is_answered_alike_when_repeated(self, server: Server, ann: Asker) -> None:
        request = ann.request(Method.REFRESH, (Attribute.LIFETIME, 0))
        first = ann.sent(request)
        assert first.get(Attribute.LIFETIME) == 0
        assert not server.open
        assert ann.sent(request) == first

    def test_is_not_answered_as_it_was_for_ever(self, server: Server, ann: Asker) -> None:
        request = ann.request(Method.REFRESH, (Attribute.LIFETIME, 0))
        assert is_success(ann.sent(request))
        server.now += REPEATS_KNOWN_S
        assert error_of(ann.sent(request)) == 437

    @pytest.mark.parametrize("pause_s", [1.0, REPEATS_KNOWN_S, NONCE_LIFETIME_S - 1.0, NONCE_LIFETIME_S + 60.0])
    def test_that_somebody_has_kept_does_not_end_the_next_one(self, server: Server, ann: Asker, pause_s: float) -> None:
        """Its sender can be forged, and the nonce is good for half an hour."""
        kept = ann.request(Method.REFRESH, (Attribute.LIFETIME, 0))
        assert is_success(ann.sent(kept))
        assert is_success(ann.allocate())
        server.pass_time(pause_s)
        if not server.open:
            ann.nonce = b""
            assert is_success(ann.allocate())
        server.take(kept, ann.client)
        assert len(server.open) == 1
        ann.nonce = b""
        assert is_success(ann.refresh(600))

    def test_comes_too_late_even_where_nobody_has_looked_at_the_clock(self, server: Server, ann: Asker) -> None:
        ann.bind(0x4000, PEER)
        server.now += DEFAULT_LIFETIME_S - 1.0
        ann.bind(0x4000, PEER)
        server.now += 1.0
        assert ann.channel(0x4000, b"x") == []
        assert ann.heard(b"x", PEER) is None
        assert error_of(ann.refresh(600)) == 437

    def test_of_another_family_is_refused(self, ann: Asker) -> None:
        assert error_of(ann.refresh(600, (Attribute.REQUESTED_ADDRESS_FAMILY, 2))) == 443
        assert is_success(ann.refresh(600, (Attribute.REQUESTED_ADDRESS_FAMILY, 1)))

    def test_a_client_that_ends_its_connection_ends_its_allocation(self, server: Server) -> None:
        assert is_success(Asker(server, TCP_CLIENT).allocate())
        server.done(server.core.vanished(TCP_CLIENT))
        assert not server.open
        assert server.core.vanished(TCP_CLIENT) == []


class TestPeers:
    def test_without_permission_get_nothing_through(self, ann: Asker) -> None:
        assert ann.heard(b"x", PEER) is None
        assert ann.send(PEER, b"x") == []
        ann.permit(PEER[0])
        assert ann.heard(b"x", OTHER) is None

    def test_with_permission_are_heard_from_any_port_for_five_minutes(self, server: Server, ann: Asker) -> None:
        assert is_success(ann.permit(PEER[0], OTHER[0]))
        packed = ann.heard(b"hello", (PEER[0], 1))
        assert packed is not None
        indication = decode(packed)
        assert (indication.kind, indication.method) == (MessageClass.INDICATION, Method.DATA)
        assert indication.get(Attribute.XOR_PEER_ADDRESS) == (PEER[0], 1)
        assert indication.get(Attribute.DATA) == b"hello"
        (forward,) = ann.send(OTHER, b"back")
        assert isinstance(forward, Forward)
        assert (forward.data, forward.peer) == (b"back", OTHER)
        server.now += PERMISSION_LIFETIME_S
        assert ann.heard(b"x", PEER) is None
        assert ann.send(PEER, b"x") == []

    def test_are_permitted_all_or_none(self, ann: Asker) -> None:
        assert error_of(ann.permit(PEER[0], "127.0.0.1")) == 403
        assert ann.heard(b"x", PEER) is None

    def test_have_a_port(self, ann: Asker) -> None:
        ann.permit(PEER[0])
        assert ann.send((PEER[0], 0), b"x") == []

    def test_permissions_are_so_many(self, ann: Asker) -> None:
        for number in range(0, MAX_PERMISSIONS, 32):
            assert is_success(ann.permit(*(f"20.3.{number}.{at}" for at in range(32))))
        assert error_of(ann.permit(PEER[0])) == 508
        ann.server.now += PERMISSION_LIFETIME_S
        assert is_success(ann.permit(PEER[0]))

    def test_permissions_for_nobody_or_the_other_family_are_refused(self, ann: Asker) -> None:
        assert error_of(ann.permit()) == 400
        assert error_of(ann.permit("2001:500::1")) == 443

    def test_an_indication_that_must_not_be_fragmented_is_dropped(self, ann: Asker) -> None:
        ann.permit(PEER[0])
        assert ann.send(PEER, b"x", (Attribute.DONT_FRAGMENT, True)) == []


class TestChannels:
    def test_carry_both_ways_for_ten_minutes(self, server: Server, ann: Asker) -> None:
        assert is_success(ann.bind(0x4001, PEER))
        (forward,) = ann.channel(0x4001, b"there")
        assert isinstance(forward, Forward)
        assert (forward.data, forward.peer) == (b"there", PEER)
        packed = ann.heard(b"back", PEER)
        assert packed is not None
        assert unpack_channel_data(packed) == (0x4001, b"back")
        ann.refresh(MAX_LIFETIME_S)
        server.now += CHANNEL_LIFETIME_S
        assert ann.channel(0x4001, b"x") == []

    def test_are_padded_over_tcp_only(self, server: Server, ann: Asker) -> None:
        over_tcp = Asker(server, TCP_CLIENT)
        over_tcp.allocate()
        for asker, size in ((ann, 9), (over_tcp, 12)):
            asker.bind(0x4001, PEER)
            packed = asker.heard(b"12345", PEER)
            assert packed is not None
            assert len(packed) == size

    def test_have_one_peer_and_peers_one_channel(self, ann: Asker) -> None:
        assert is_success(ann.bind(0x4001, PEER))
        assert is_success(ann.bind(0x4001, PEER))
        assert error_of(ann.bind(0x4001, OTHER)) == 400
        assert error_of(ann.bind(0x4002, PEER)) == 400

    def test_have_another_peer_when_they_have_ended(self, server: Server, ann: Asker) -> None:
        ann.refresh(MAX_LIFETIME_S)
        ann.bind(0x4001, PEER)
        server.now += CHANNEL_LIFETIME_S
        assert is_success(ann.bind(0x4001, OTHER))

    @pytest.mark.parametrize("number", [0, 0x3FFF, 0x5000, 0xFFFF])
    def test_have_numbers_that_quic_has_not(self, ann: Asker, number: int) -> None:
        assert error_of(ann.bind(number, PEER)) == 400

    @pytest.mark.parametrize(
        ("peer", "code"), [(("10.0.0.1", 5), 403), (("20.1.1.1", 0), 400), (("2001:500::1", 5), 443)]
    )
    def test_are_refused(self, ann: Asker, peer: tuple[str, int], code: int) -> None:
        assert error_of(ann.bind(0x4000, peer)) == code

    def test_are_so_many(self, ann: Asker) -> None:
        for number in range(MAX_CHANNELS):
            assert is_success(ann.bind(0x4000 + number, (PEER[0], 1 + number)))
        assert error_of(ann.bind(0x4FFF, PEER)) == 508

    @pytest.mark.parametrize("cut", range(4 + 5))
    def test_cut_short_are_dropped(self, ann: Asker, cut: int) -> None:
        ann.bind(0x4000, PEER)
        assert ann.server.take(pack_channel_data(0x4000, b"12345")[:cut]) == []


class TestThroughput:
    @pytest.mark.parametrize(
        ("limits", "most"),
        [(RelayLimits(packets_per_s=10), 10), (RelayLimits(total_packets_per_s=32), 32 * (SHARE + SPARE))],
    )
    def test_is_held_to_packets(self, limits: RelayLimits, most: float) -> None:
        ann = Asker(Server(limits))
        ann.allocate()
        ann.bind(0x4000, PEER)
        ann.server.now += 1.0
        assert sum(len(ann.channel(0x4000, b"x")) for _ in range(50)) == int(most)
        assert ann.heard(b"x", PEER) is None
        ann.server.now += 1.0
        assert ann.heard(b"x", PEER) is not None

    @pytest.mark.parametrize("limits", [RelayLimits(bytes_per_s=100_000), RelayLimits(total_bytes_per_s=100_000)])
    def test_is_held_to_bytes(self, limits: RelayLimits) -> None:
        ann = Asker(Server(limits))
        ann.allocate()
        ann.bind(0x4000, PEER)
        assert sum(len(ann.channel(0x4000, bytes(1000))) for _ in range(500)) == 100


class TestShares:
    """Of a relay of which others want everything that there is."""

    LIMITS = RelayLimits(
        allocations=200,
        user_allocations=200,
        network_allocations=32,
        bytes_per_s=500_000,
        packets_per_s=1_000,
        total_bytes_per_s=4_000_000,
        total_packets_per_s=8_000,
    )
    SECONDS = 6

    def arrived(self, greedy: list[Asker], modest: Asker, size: int) -> tuple[float, int]:
        """What part of 50 packets a second gets through, and how many bytes a second of the others, who want twice what the
        relay has."""
        server = modest.server
        for asker in (*greedy, modest):
            assert is_success(asker.allocate())
            assert is_success(asker.bind(0x4000, PEER))
        rounds = 50 * self.SECONDS
        each = max(1, int(2 * self.LIMITS.total_bytes_per_s / (50 * size * len(greedy))))
        through = passed = 0
        for _ in range(rounds):
            server.now += 0.02
            for asker in greedy:
                passed += sum(bool(asker.channel(0x4000, bytes(size))) for _ in range(each))
            through += bool(modest.channel(0x4000, bytes(1_000)))
        return through / rounds, passed * size // self.SECONDS

    @staticmethod
    def clients(server: Server, networks: int, each: int) -> list[Asker]:
        return [
            Asker(server, (f"20.{network}.0.{host}", 4000))
            for network in range(1, networks + 1)
            for host in range(each)
        ]

    @pytest.mark.parametrize(("networks", "each"), [(1, 32), (4, 16), (8, 4)])
    def test_are_left_to_others(self, networks: int, each: int) -> None:
        server = Server(self.LIMITS)
        greedy = self.clients(server, networks, each)
        part, _ = self.arrived(greedy, Asker(server, ("21.0.0.1", 4000)), 1_000)
        assert part >= 0.99

    def test_are_nearly_everything_where_nobody_else_wants_any(self) -> None:
        server = Server(self.LIMITS)
        _, rate = self.arrived(self.clients(server, 1, 16), Asker(server, ("21.0.0.1", 4000)), 1_000)
        assert rate >= 0.64 * self.LIMITS.total_bytes_per_s

    def test_are_forgotten_with_the_last_of_a_network(self, server: Server) -> None:
        one, other = self.clients(server, 1, 2)
        for asker in (one, other):
            assert is_success(asker.allocate())
        assert len(server.core._allocations._shares) == 1
        for asker in (one, other):
            assert is_success(asker.refresh(0))
        assert not server.core._allocations._shares


class TestReach:
    @pytest.mark.parametrize(
        "ip",
        [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3",
            "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", OWN, "::", "::1", "::7f00:1", "::ffff:127.0.0.1",
            "::ffff:8.8.8.8", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "64:ff9b::a00:1", "2002:7f00:1::", "nonsense", "",
        ],
    )  # fmt: skip
    def test_ends_at_everything_that_is_not_public(self, ip: str) -> None:
        assert ReachPolicy([OWN]).reach(ip) is Reach.FORBIDDEN

    @pytest.mark.parametrize("ip", ["8.8.8.8", "20.1.1.1", "2606:4700::1"])
    def test_has_public_addresses(self, ip: str) -> None:
        assert ReachPolicy([OWN]).reach(ip) is Reach.ANY_PORT

    def test_has_what_is_allowed_and_no_groups(self) -> None:
        policy = ReachPolicy([OWN], (*PRIVATE, *LOOPBACK, ip_network("224.0.0.0/3"), ip_network(f"{OWN}/32")))
        assert [policy.reach(ip) for ip in ("10.0.0.1", "127.0.0.1", "::1", OWN)] == [Reach.ANY_PORT] * 4
        assert [policy.reach(ip) for ip in ("224.0.0.1", "255.255.255.255", "169.254.0.1")] == [Reach.FORBIDDEN] * 3

    def test_has_neighbours_and_not_what_is_the_servers_own_among_them(self) -> None:
        policy = ReachPolicy(["10.0.0.5"], neighbours=PRIVATE, to_relays=True)
        assert [policy.reach(ip) for ip in ("10.0.0.6", "192.168.7.7")] == [Reach.ANY_PORT] * 2
        assert policy.reach("10.0.0.5") is Reach.RELAYS
        assert policy.reach("127.0.0.1") is Reach.FORBIDDEN

    def test_has_other_clients_here_where_that_is_allowed_and_nothing_else_here(self) -> None:
        server = Server(to_relays=True)
        ann, bob = Asker(server), Asker(server, ("20.5.5.5", 1), "bob", "other")
        relayed = [asker.allocate().get(Attribute.XOR_RELAYED_ADDRESS) for asker in (ann, bob)]
        assert is_success(ann.permit(OWN))
        assert ann.send(relayed[1], b"x") != []
        assert ann.send(relayed[0], b"x") == []  # to oneself, round and round
        assert ann.send((OWN, 3478), b"x") == []
        assert ann.send((OWN, 22), b"x") == []
        assert is_success(ann.bind(0x4000, relayed[0]))
        assert ann.channel(0x4000, b"x") == []
        assert is_success(ann.bind(0x4001, relayed[1]))
        assert ann.channel(0x4001, b"x") != []
        bob.refresh(0)
        assert ann.channel(0x4001, b"x") == []


# Anything at all

clients = st.sampled_from([CLIENT, TCP_CLIENT, ("20.0.0.7", 4001)])
numbers = st.sampled_from([int(attribute) for attribute in Attribute])
addresses = st.sampled_from([PEER, OTHER, (OWN, 50_002), ("127.0.0.1", 1), ("2001:500::9", 9), ("20.1.1.1", 0)])
VALUES: dict[int, Any] = {
    Attribute.REQUESTED_TRANSPORT: st.sampled_from([17, 17, 17, 6]),
    Attribute.LIFETIME: st.sampled_from([0, 1, 600, 2**32 - 1]),
    Attribute.EVEN_PORT: st.sampled_from([0, 0x80, 0xFF]),
    Attribute.XOR_PEER_ADDRESS: addresses,
    Attribute.CHANNEL_NUMBER: st.sampled_from([0x4000, 0x4001, 0x5000]),
    Attribute.DATA: st.binary(max_size=50),
    Attribute.RESERVATION_TOKEN: st.binary(min_size=8, max_size=8),
    Attribute.REQUESTED_ADDRESS_FAMILY: st.sampled_from([0, 1, 2]),
    Attribute.ADDITIONAL_ADDRESS_FAMILY: st.sampled_from([1, 2]),
    Attribute.DONT_FRAGMENT: st.just(True),
}
attribute_lists = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda number: st.tuples(st.just(number), VALUES[number])), max_size=6
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("request"), clients, st.sampled_from([3, 4, 8, 9]), attribute_lists),
        st.tuples(st.just("indication"), clients, st.just(6), attribute_lists),
        st.tuples(st.just("bytes"), clients, st.just(0), st.binary(max_size=100)),
        st.tuples(st.just("channel"), clients, st.sampled_from([0x4000, 0x4001, 0x4FFF]), st.binary(max_size=30)),
        st.tuples(st.just("peer"), clients, st.just(0), addresses),
        st.tuples(st.just("gone"), clients, st.just(0), st.just(())),
        st.tuples(st.just("time"), clients, st.sampled_from([1, 300, 3600]), st.just(())),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps=steps)
def test_whatever_comes_nothing_is_raised_and_every_socket_has_its_holder(steps: list[Any]) -> None:
    server = Server(RelayLimits(user_allocations=2), to_relays=True, families=(4, 6))
    askers = {client: Asker(server, client) for client in (CLIENT, TCP_CLIENT, ("20.0.0.7", 4001))}
    for what, client, number, content in steps:
        asker = askers[client]
        match what:
            case "request":
                asker.ask(Method(number), *content)
            case "indication":
                server.take(encode(Message(MessageClass.INDICATION, number, bytes(12), tuple(content))), client)
            case "bytes":
                server.take(content, client)
            case "channel":
                asker.channel(number, content)
            case "peer":
                allocation = server.core.allocation_of(client)
                if allocation is not None:
                    server.core.from_peer(allocation, bytes(9), content, server.now)
            case "gone":
                server.done(server.core.vanished(client))
            case "time":
                server.pass_time(number)
        assert len(server.core) <= 2
        assert len(server.core) <= len(server.open) <= len(server.core) + len(server.core._reservations)
        assert len(server.core._repeats) <= MAX_REPEATS_KNOWN
        assert (server.core.next_deadline() is None) == (not server.open)
    server.pass_time(MAX_LIFETIME_S)
    assert not server.open


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, 300))
def test_bytes_that_are_nearly_a_request_raise_nothing(data: bytes, cut: int) -> None:
    server = Server()
    ann = Asker(server)
    ann.allocate()
    request = bytearray(ann.request(Method.REFRESH, (Attribute.LIFETIME, 0)))
    for at, byte in enumerate(data):
        request[(at * 37 + byte) % len(request)] ^= byte
    server.take(bytes(request[:cut]))
    server.take(b"\0\3" + data)
    server.take(b"\x40" + data)
