"""docs/protocol.md, "Discovery: UDP", against a running node over a real socket: each case says what is sent and what
must come back. The other end is the second implementation, so that a node of anybody's could be tested so.

Silence is seen by what follows it: after a packet that must get no answer, the next one gets its own.
"""

import hashlib
import itertools
import time

import gevent
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gevent import socket
from second_implementation import Callee, Caller, check_letter, letter, message, msgpack, record

from kodectl.core.identity import Identity
from kodectl.node.node import Node
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.wire.suite import RealSuite

SIGNAL, SIGNALLED = 11, 12
RELAY, RELAYED = 15, 16
RELAY_OFF = 1
PROBE, PROBED = 13, 14
FORWARDED, DELIVERED, NOT_LINKED = 0, 1, 2
KNOCKING, NOT_THERE = 0, 2
PING, PONG, FIND_NODE, NODES, STORE, STORED, FIND_VALUE, VALUES, PEER_REQUEST, PEER_RESPONSE = range(1, 11)
ERROR = 0
UNKNOWN_KIND, MALFORMED, REFUSED = 1, 2, 4
BAD_TOKEN, OLD_SEQUENCE, EXPIRED, BAD_SIGNATURE, BAD_RECORD = 1, 2, 4, 5, 6
RESET_TYPE, MESSAGE_TYPE, CHALLENGE_TYPE, HANDSHAKE_TYPE = 0x0C, 0x0B, 0x09, 0x0A
CLIENT = 1
PING_BODY = msgpack([CLIENT, 30303])
SEEDS = itertools.count(1)


class SettableClock(GreenRuntime):
    """Real sockets; a test lets time pass at once."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


class Target:
    def __init__(self, name: bytes = b"target", nat: str = "none") -> None:
        self.runtime = SettableClock()
        settings = NodeSettings(listen_host="127.0.0.1", tcp_port=0, udp_port=0, lan=False, nat=nat)
        self.node = Node(self.runtime, settings, Identity(RealSuite(), name.ljust(32)))
        self.node.start()
        self.id = self.node.identity.node_id
        self.address = ("127.0.0.1", self.node.udp_port)


@pytest.fixture(scope="module")
def target():
    one = Target()
    yield one
    one.node.stop()
    one.runtime.close()


class Peer:
    """A socket, and the second implementation on it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5.0)
        self.number = next(SEEDS)
        self.caller = self.make_caller()
        self.request_id = 100
        self.signals: list = []

    def make_caller(self, nonce: int = 0) -> Caller:
        unique = hashlib.sha256(b"%d %d" % (self.number, nonce)).digest()
        return Caller(self.number.to_bytes(32, "big"), unique, unique[:16])

    def send(self, packet: bytes) -> None:
        self.socket.sendto(packet, self.target.address)

    def receive(self) -> bytes:
        data, sender = self.socket.recvfrom(65_536)
        assert sender == self.target.address
        assert len(data) <= 1232
        return data

    def exchange(self, packet: bytes) -> bytes:
        self.send(packet)
        return self.receive()

    def challenge(self) -> bytes:
        return self.exchange(self.caller.hail(self.target.id))

    def connect(self, flags: int = CLIENT) -> "Peer":
        """A session; as a DHT client it leaves the target's table as it is."""
        ping = message(PING, 1, msgpack([flags, 30303]))
        handshake = self.caller.handshake(self.challenge(), ping, 30303, flags)
        kind, request_id, _ = self.opened(self.exchange(handshake))
        assert (kind, request_id) == (PONG, 1)
        return self

    def opened(self, packet: bytes) -> tuple[int, int, object]:
        plain = self.caller.open(packet)
        body = plain[5:] if plain[0] == PEER_RESPONSE else msgspec.msgpack.decode(plain[5:])
        return plain[0], int.from_bytes(plain[1:5], "big"), body

    def ask(self, kind: int, body) -> tuple[int, object]:
        self.request_id += 1
        answer_kind, request_id, answer = self.opened(
            self.exchange(self.caller.seal(message(kind, self.request_id, body)))
        )
        assert request_id == self.request_id
        return answer_kind, answer

    def ask_beside_letters(self, kind: int, body) -> tuple[int, object]:
        """As `ask`, where letters may come before the answer; they wait for `next_signal`."""
        self.request_id += 1
        self.send(self.caller.seal(message(kind, self.request_id, body)))
        while True:
            answer_kind, request_id, answer = self.opened(self.receive())
            if answer_kind != SIGNAL:
                assert request_id == self.request_id
                return answer_kind, answer
            self.signals.append(answer)

    def next_signal(self) -> list:
        """Answers it, as the node that it is for has to."""
        if not self.signals:
            kind, request_id, body = self.opened(self.receive())
            assert kind == SIGNAL
            self.send(self.caller.seal(message(SIGNALLED, request_id, msgpack([DELIVERED]))))
            return body
        return self.signals.pop(0)

    def gets_nothing_for(self, packet: bytes) -> None:
        probe = Caller(b"p" * 32, b"p" * 32, b"probe".ljust(16))
        self.send(packet)
        answer = self.exchange(probe.hail(self.target.id))
        assert answer[0] == CHALLENGE_TYPE
        assert answer[4:20] == probe.nonce


@pytest.fixture
def aging():
    """A target whose clock may be set ahead; the others' timers shall not be put out of step by that."""
    one = Target()
    yield one
    one.node.stop()
    one.runtime.close()


@pytest.fixture
def stranger(target):
    return Peer(target)


@pytest.fixture
def peer(target):
    return Peer(target).connect()


def changed(packet: bytes, position: int, value: int | None = None) -> bytes:
    new = packet[position] ^ 1 if value is None else value
    return packet[:position] + bytes((new,)) + packet[position + 1 :]


# -- HAIL --------------------------------------------------------------------------------------------------------------


def test_hail_is_answered_by_a_signed_challenge_of_the_same_size(stranger, target):
    hail = stranger.caller.hail(target.id)
    challenge = stranger.exchange(hail)
    assert len(challenge) == len(hail) == 184
    stranger.caller.check_challenge(challenge, target.id, time.time())
    assert int.from_bytes(challenge[116:118], "big") == target.node.tcp_port


def test_hail_to_whoever_answers_there_is_answered(stranger, target):
    stranger.caller.check_challenge(stranger.exchange(stranger.caller.hail(bytes(32))), target.id, time.time())


def test_hail_to_another_node_gets_nothing(stranger):
    stranger.gets_nothing_for(stranger.caller.hail(b"x" * 32))


def test_hail_without_its_padding_gets_nothing(stranger, target):
    stranger.gets_nothing_for(stranger.caller.hail(target.id)[:183])


def test_hail_with_extra_data_gets_no_more_than_without(stranger, target):
    assert len(stranger.exchange(stranger.caller.hail(target.id) + b"later version")) == 184


def test_hail_of_version_2_gets_nothing(stranger, target):
    stranger.gets_nothing_for(changed(stranger.caller.hail(target.id), 1, 2))


def test_hail_from_the_node_itself_gets_nothing(stranger, target):
    hail = stranger.caller.hail(target.id)
    stranger.gets_nothing_for(hail[:36] + target.id + hail[68:])


def test_hail_sent_again_is_answered_again_with_a_cookie_that_works(stranger, target):
    stranger.challenge()
    again = stranger.challenge()
    stranger.send(stranger.caller.handshake(again, message(PING, 7, PING_BODY), 1, 1))
    assert stranger.opened(stranger.receive())[:2] == (PONG, 7)


def test_hail_over_the_packet_limit_gets_nothing(stranger, target):
    stranger.gets_nothing_for(stranger.caller.hail(target.id).ljust(1233, b"\0"))


# -- HANDSHAKE ---------------------------------------------------------------------------------------------------------


def begun(peer: Peer, body: bytes = PING_BODY) -> bytes:
    return peer.caller.handshake(peer.challenge(), message(PING, 7, body), 30303, 1)


def test_handshake_carries_a_request_that_is_answered(stranger):
    kind, request_id, body = stranger.opened(stranger.exchange(begun(stranger)))
    assert (kind, request_id) == (PONG, 7)
    assert body[2:4] == [bytes((127, 0, 0, 1)), stranger.socket.getsockname()[1]]


def test_handshake_without_a_request_makes_a_session_all_the_same(stranger):
    stranger.gets_nothing_for(stranger.caller.handshake(stranger.challenge(), b"", 30303, 1))
    assert stranger.ask(PING, PING_BODY)[0] == PONG


def test_handshake_sent_twice_is_answered_once(stranger):
    handshake = begun(stranger)
    stranger.exchange(handshake)
    stranger.gets_nothing_for(handshake)


def test_handshake_from_another_port_gets_nothing(stranger, target):
    Peer(target).gets_nothing_for(begun(stranger))


def test_handshake_with_an_expired_cookie_gets_nothing(aging):
    stranger = Peer(aging)
    handshake = begun(stranger)
    aging.runtime.ahead_s += 20.5
    stranger.gets_nothing_for(handshake)


def test_handshake_with_a_cookie_of_19_seconds_is_answered(aging):
    stranger = Peer(aging)
    handshake = begun(stranger)
    aging.runtime.ahead_s += 19.0
    assert stranger.opened(stranger.exchange(handshake))[0] == PONG


def test_handshake_with_a_cookie_from_the_future_gets_nothing(stranger):
    handshake = begun(stranger)
    ahead = (int.from_bytes(handshake[20:28], "big") + 5000).to_bytes(8, "big")
    stranger.gets_nothing_for(handshake[:20] + ahead + handshake[28:])


@pytest.mark.parametrize(
    ("field", "position"),
    [
        ("flags", 2),
        ("nonce", 4),
        ("cookie time", 27),
        ("cookie", 28),
        ("public key", 44),
        ("ephemeral key", 76),
        ("tcp port", 108),
        ("signature", 112),
        ("sealed request", 176),
    ],
)
def test_handshake_with_a_changed_field_gets_nothing(stranger, field, position):
    stranger.gets_nothing_for(changed(begun(stranger), position))


def test_handshake_of_another_identity_with_this_cookie_gets_nothing(stranger):
    challenge = stranger.challenge()
    thief = Caller(b"t" * 32, b"t" * 32, stranger.caller.nonce)
    stranger.gets_nothing_for(thief.handshake(challenge, message(PING, 7, PING_BODY), 1))


def test_handshake_with_a_key_of_small_order_gets_nothing(stranger):
    caller, challenge = stranger.caller, stranger.challenge()
    head = begun(stranger)[:20] + challenge[20:44] + caller.public + bytes(32) + bytes(4)
    signed = b"kodechain discovery handshake v1" + head + challenge[44:108]
    stranger.gets_nothing_for(head + caller.key.sign(signed) + bytes(40))


def test_handshake_of_version_2_gets_nothing(stranger):
    stranger.gets_nothing_for(changed(begun(stranger), 1, 2))


def test_handshake_cut_short_gets_nothing(stranger):
    stranger.gets_nothing_for(begun(stranger)[:191])


def test_handshake_over_the_packet_limit_gets_nothing(stranger):
    stranger.gets_nothing_for(begun(stranger, PING_BODY + bytes(1232)))


def test_second_session_of_a_peer_works_beside_the_first(peer):
    first, peer.caller = peer.caller, peer.make_caller(nonce=1)
    peer.connect()
    assert peer.ask(PING, PING_BODY)[0] == PONG
    peer.caller = first
    assert peer.ask(PING, PING_BODY)[0] == PONG


# -- MESSAGE and RESET -------------------------------------------------------------------------------------------------


def test_message_without_a_session_is_answered_by_a_shorter_reset(stranger):
    packet = b"\x0b" + bytes(8) + bytes(8) + b"sealed".ljust(60, b".")
    assert stranger.exchange(packet) == b"\x0c" + packet[-16:]


def test_message_too_short_to_be_one_gets_nothing(stranger):
    stranger.gets_nothing_for(b"\x0b" + bytes(31))


def test_message_from_another_port_is_answered_by_reset(peer, target):
    packet = peer.caller.seal(message(PING, 7, PING_BODY))
    assert Peer(target).exchange(packet) == b"\x0c" + packet[-16:]
    assert peer.ask(PING, PING_BODY)[0] == PONG


def test_message_sent_twice_is_answered_once(peer):
    packet = peer.caller.seal(message(PING, 7, PING_BODY))
    peer.exchange(packet)
    peer.gets_nothing_for(packet)


def test_message_that_was_overtaken_by_63_is_answered(peer):
    late = peer.caller.seal(message(PING, 7, PING_BODY))
    peer.caller.sent += 62
    peer.ask(PING, PING_BODY)
    assert peer.opened(peer.exchange(late))[:2] == (PONG, 7)


def test_message_that_was_overtaken_by_64_gets_nothing(peer):
    late = peer.caller.seal(message(PING, 7, PING_BODY))
    peer.caller.sent += 63
    peer.ask(PING, PING_BODY)
    peer.gets_nothing_for(late)


def test_message_that_is_changed_gets_nothing_and_costs_nothing(peer):
    packet = peer.caller.seal(message(PING, 7, PING_BODY))
    for position in (16, 17, len(packet) - 1):
        peer.gets_nothing_for(changed(packet, position))
    assert peer.opened(peer.exchange(packet))[0] == PONG


def test_message_over_the_packet_limit_gets_nothing(peer):
    peer.gets_nothing_for(peer.caller.seal(message(PING, 7, PING_BODY + bytes(1300))))


def test_handshake_counter_cannot_be_used_again(peer):
    peer.gets_nothing_for(peer.caller.seal(message(PING, 7, PING_BODY), counter=0))


def test_reset_out_of_nowhere_gets_nothing_and_ends_nothing(peer):
    peer.gets_nothing_for(b"\x0c" + bytes(16))
    assert peer.ask(PING, PING_BODY)[0] == PONG


def test_reset_gets_no_reset(stranger):
    stranger.gets_nothing_for(b"\x0c" + b"t" * 16)


def test_challenge_that_nobody_asked_for_gets_nothing(stranger, target):
    callee = Callee(b"c" * 32, b"p" * 32)
    stranger.gets_nothing_for(callee.challenge(stranger.caller.hail(target.id), int(time.time()) + 999))


@pytest.mark.parametrize("packet", [b"\x07" + bytes(200), b"\x0d" + bytes(200), b"\xff", b"\x08", b""])
def test_packet_of_no_known_type_gets_nothing(stranger, packet):
    stranger.gets_nothing_for(packet)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_ping_says_where_it_was_seen(peer, target):
    kind, body = peer.ask(PING, PING_BODY)
    assert (kind, body[:4]) == (PONG, [0, target.node.tcp_port, bytes((127, 0, 0, 1)), peer.socket.getsockname()[1]])


def test_ping_says_what_time_it_is(peer):
    assert abs(peer.ask(PING, PING_BODY)[1][4] / 1000 - time.time()) < 5.0


def test_elements_of_later_versions_are_passed_over(peer):
    assert peer.ask(PING, msgpack([CLIENT, 30303, "later", [1, 2]]))[0] == PONG


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", msgpack([0]), msgpack(["0", 1]), msgpack([0, 65536]), msgpack([256, 1]), msgpack([0, 1])[:-1]],
    ids=["empty", "no msgpack", "too few", "wrong type", "port too large", "flags too large", "cut short"],
)
def test_malformed_body_is_an_error(peer, body):
    kind, answer = peer.ask(PING, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


@pytest.mark.parametrize("kind", [17, 201, 255])
def test_unknown_request_is_an_error(peer, kind):
    answer_kind, answer = peer.ask(kind, msgpack([]))
    assert (answer_kind, answer[0]) == (ERROR, UNKNOWN_KIND)


@pytest.mark.parametrize("kind", [ERROR, PONG, NODES, STORED, VALUES, PEER_RESPONSE, 200])
def test_answer_that_nobody_asked_for_gets_nothing(peer, kind):
    peer.gets_nothing_for(peer.caller.seal(message(kind, 7, msgpack([0, 0, bytes(4), 0]))))


def test_message_without_a_request_id_gets_nothing(peer):
    peer.gets_nothing_for(peer.caller.seal(b"\1\0\0"))


def test_find_node_names_contacts(peer):
    kind, (contacts,) = peer.ask(FIND_NODE, msgpack([b"t" * 32]))
    assert kind == NODES
    assert len(contacts) % 41 == 0


def test_find_node_with_a_target_of_31_bytes_is_malformed(peer):
    assert peer.ask(FIND_NODE, msgpack([bytes(31)]))[1][0] == MALFORMED


def test_a_client_is_not_named_and_a_node_is(target):
    client, node = Peer(target).connect(flags=1), Peer(target).connect(flags=0)
    _, (contacts,) = client.ask(FIND_NODE, msgpack([node.caller.id]))
    assert contacts[9:41] == node.caller.id
    assert contacts[:9] == bytes((4, 127, 0, 0, 1)) + node.socket.getsockname()[1].to_bytes(2) + (30303).to_bytes(2)
    assert client.caller.id not in contacts
    node.ask(PING, msgpack([CLIENT, 30303]))
    _, (contacts,) = client.ask(FIND_NODE, msgpack([node.caller.id]))
    assert node.caller.id not in contacts


def test_peer_request_is_json_with_enodes(peer):
    kind, body = peer.ask(PEER_REQUEST, b'{"type":"peer_request","requested_count":20,"later":true}')
    assert kind == PEER_RESPONSE
    assert msgspec.json.decode(body) == {"type": "peer_response", "peers": []}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"type":"peer_request"}', b'{"type":"other","requested_count":1}', b"[1]"]
)
def test_peer_request_that_is_none_is_malformed(peer, body):
    peer.send(peer.caller.seal(message(PEER_REQUEST, 7, body)))
    assert peer.caller.open(peer.receive())[0] == ERROR


# -- values ------------------------------------------------------------------------------------------------------------


class Writer:
    """A publisher with a place of its own, and a token for it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.key = Ed25519PrivateKey.from_private_bytes(peer.number.to_bytes(32, "little"))
        self.place = hashlib.sha256(b"%d" % peer.number).digest()
        self.expiry = int(time.time()) + 3600
        self.token = self.find()[1]

    def find(self, place=None, skip=0):
        kind, answer = self.peer.ask(FIND_VALUE, msgpack([place or self.place, skip, True]))
        assert kind == VALUES
        return answer

    def record(self, sequence=1, value=b"v", expiry=None, place=None):
        return record(self.key, place or self.place, sequence, expiry or self.expiry, value)

    def store(self, packed, token=None):
        kind, (status,) = self.peer.ask(STORE, msgpack([self.token if token is None else token, packed]))
        assert kind == STORED
        return status


@pytest.fixture
def writer(peer):
    return Writer(peer)


def test_value_stored_with_a_token_is_found(writer):
    packed = writer.record()
    assert writer.store(packed) == 0
    total, _, records, _ = writer.find()
    assert (total, records) == (1, [packed])
    assert writer.find(skip=1)[2] == []


def test_value_of_full_size_fits(writer):
    assert writer.store(writer.record(value=b"x" * 1000)) == 0
    assert len(writer.find()[2][0]) == 1147


def test_value_over_the_limit_is_refused(writer):
    kind, answer = writer.peer.ask(STORE, msgpack([writer.token, writer.record(value=b"x" * 1001)]))
    assert (kind, answer[0]) == (ERROR, MALFORMED)


def test_value_without_token_is_refused(writer):
    assert writer.store(writer.record(), token=b"") == BAD_TOKEN
    assert writer.store(writer.record(), token=bytes(16)) == BAD_TOKEN


def test_token_of_another_key_is_refused(writer):
    assert writer.store(writer.record(), token=writer.find(place=bytes(32))[1]) == BAD_TOKEN


def test_token_of_another_peer_is_refused(writer, target):
    assert Writer(Peer(target).connect()).store(writer.record(), token=writer.token) == BAD_TOKEN


def test_token_lives_ten_to_twenty_minutes(aging):
    writer = Writer(Peer(aging).connect())
    aging.runtime.ahead_s += 599.0
    assert writer.store(writer.record()) == 0
    aging.runtime.ahead_s += 1202.0
    assert writer.store(writer.record(sequence=2)) == BAD_TOKEN


def test_old_sequence_never_wins(writer):
    assert writer.store(writer.record(sequence=5)) == 0
    assert writer.store(writer.record(sequence=4, value=b"old")) == OLD_SEQUENCE
    assert writer.store(writer.record(sequence=5, value=b"other")) == OLD_SEQUENCE
    assert writer.store(writer.record(sequence=5)) == 0
    assert writer.find()[2] == [writer.record(sequence=5)]


def test_expired_and_far_records_are_refused(writer):
    assert writer.store(writer.record(expiry=int(time.time()) - 1)) == EXPIRED
    assert writer.store(writer.record(expiry=int(time.time()) + 49 * 3600)) == EXPIRED


def test_forged_record_is_refused(writer):
    packed = writer.record()
    assert writer.store(changed(packed, 83)) == BAD_SIGNATURE
    assert writer.store(changed(packed, len(packed) - 1)) == BAD_SIGNATURE
    assert writer.store(packed[:-1]) == BAD_RECORD
    assert writer.store(changed(packed, 0, 2)) == BAD_RECORD


def test_two_publishers_share_a_key(writer, target):
    other = Writer(Peer(target).connect())
    other.place = writer.place
    other.token = other.find()[1]
    assert writer.store(writer.record(sequence=9, value=b"x" * 1000)) == 0
    assert other.store(other.record(sequence=8, value=b"y" * 1000)) == 0
    total, _, records, _ = writer.find()
    assert (total, records) == (2, [writer.record(sequence=9, value=b"x" * 1000)])
    assert writer.find(skip=1)[2] == [other.record(sequence=8, value=b"y" * 1000)]


def test_a_store_that_is_lost_and_sent_again_changes_nothing(writer):
    body = msgpack([writer.token, writer.record()])
    assert writer.peer.ask(STORE, body) == writer.peer.ask(STORE, body) == (STORED, [0])


# -- the node as the one who asks --------------------------------------------------------------------------------------


class Listener:
    """Another's node, as the target sees it: a socket that answers as a test says."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5.0)
        self.target = target
        unique = next(SEEDS).to_bytes(32, "big")
        self.callee = Callee(unique, unique)
        self.address = self.socket.getsockname()

    def asked(self):
        """The target asks for a ping; the outcome can be taken when it is there."""
        node = self.target.node
        return gevent.spawn(self._ask, node)

    def _ask(self, node):
        try:
            answer = node.discovery.ask(self.callee.id, self.address, node.kademlia.ping_body())
        except Exception as error:
            return getattr(error, "code", repr(error))
        return answer.body.tcp_port

    def receive(self) -> bytes:
        return self.socket.recvfrom(65_536)[0]

    def send(self, packet: bytes, via=None) -> None:
        (via or self.socket).sendto(packet, self.target.address)

    def shaken(self) -> bytes:
        """The first request."""
        self.send(self.callee.challenge(self.receive(), int(time.time()) + 999))
        return self.callee.accept(self.receive())

    def pong(self, request_id: bytes, tcp_port: int, kind: int = PONG) -> bytes:
        return self.callee.seal(bytes((kind,)) + request_id + msgpack([1, tcp_port, bytes((127, 0, 0, 1)), 9]))


@pytest.fixture
def listener(target):
    return Listener(target)


def test_the_node_begins_with_a_padded_hail(listener, target):
    listener.asked()
    hail = listener.receive()
    assert len(hail) == 184
    assert hail[:4] + hail[4:36] == bytes.fromhex("08010000") + listener.callee.id
    assert hail[36:68] == target.id
    assert hail[84:] == bytes(100)


def test_the_node_takes_the_answer_to_its_question(listener):
    outcome = listener.asked()
    request = listener.shaken()
    assert request[0] == PING
    listener.send(listener.pong(request[1:5], 777))
    assert outcome.get(timeout=5) == 777


def test_answers_with_another_id_kind_or_source_do_not_count(listener):
    outcome = listener.asked()
    request = listener.shaken()
    other_port = Listener(listener.target)
    listener.send(listener.pong(changed(request[1:5], 0), 1))
    listener.send(listener.pong(request[1:5], 2, kind=NODES))
    listener.send(listener.pong(request[1:5], 3), via=other_port.socket)
    listener.send(listener.pong(request[1:5], 777))
    assert outcome.get(timeout=5) == 777


def test_another_identity_is_noticed(listener):
    outcome = listener.asked()
    hail = listener.receive()
    listener.send(Callee(b"other".ljust(32), b"p" * 32).challenge(hail, int(time.time()) + 999))
    assert outcome.get(timeout=5) == "identity_mismatch"


def test_an_expired_prekey_is_refused(listener):
    outcome = listener.asked()
    listener.send(listener.callee.challenge(listener.receive(), int(time.time()) - 1))
    assert outcome.get(timeout=5) == "clock_skew"


def test_a_prekey_with_a_wrong_signature_is_refused(listener):
    outcome = listener.asked()
    listener.send(changed(listener.callee.challenge(listener.receive(), int(time.time()) + 999), 183))
    assert outcome.get(timeout=5) == "bad_signature"


def test_a_challenge_from_elsewhere_or_with_another_nonce_does_not_count(listener):
    outcome = listener.asked()
    hail = listener.receive()
    challenge = listener.callee.challenge(hail, int(time.time()) + 999)
    listener.send(changed(challenge, 4))
    listener.send(Callee(b"other".ljust(32), b"p" * 32).challenge(hail, 2**40), via=Listener(listener.target).socket)
    listener.send(challenge)
    request = listener.callee.accept(listener.receive())
    listener.send(listener.pong(request[1:5], 777))
    assert outcome.get(timeout=5) == 777


def test_after_a_reset_the_node_begins_again(listener):
    outcome = listener.asked()
    request = listener.shaken()
    listener.send(listener.pong(request[1:5], 1))
    assert outcome.get(timeout=5) == 1
    outcome = listener.asked()
    packet = listener.receive()
    listener.send(b"\x0c" + packet[-16:])
    listener.callee.sent = 0
    request = listener.shaken()
    listener.send(listener.pong(request[1:5], 2))
    assert outcome.get(timeout=5) == 2


def test_a_question_without_an_answer_is_asked_again(listener):
    outcome = listener.asked()
    hail = listener.receive()
    assert listener.receive() == hail
    request = listener.shaken()
    listener.send(listener.pong(request[1:5], 777))
    assert outcome.get(timeout=5) == 777


# -- dial-back, and STUN ------------------------------------------------------------------------------------------------


def test_who_asks_is_knocked_at_from_another_port(peer):
    nonce = bytes(range(16))
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind(("127.0.0.1", 0))
    here.settimeout(5.0)
    assert peer.ask(PROBE, msgpack([nonce, here.getsockname()[1], 0, b""])) == (PROBED, [KNOCKING, 0])
    knock, sender = here.recvfrom(65_536)
    assert knock == b"\x0d" + nonce
    assert sender[0] == "127.0.0.1"
    assert sender != peer.target.address


def test_without_anybody_else_to_ask_the_node_knocks_over_tcp_itself(peer):
    nonce = bytes(range(16))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(5.0)
    peer.ask(PROBE, msgpack([nonce, 0, listener.getsockname()[1], b""]))
    stream, _ = listener.accept()
    stream.settimeout(5.0)
    with stream.makefile("rb") as reader:
        assert reader.read() == bytes(2) + nonce


@pytest.mark.parametrize("ip", [bytes(4), b"\xe0\0\0\1", b"\xff" * 4], ids=["unspecified", "multicast", "broadcast"])
def test_nobody_knocks_where_no_host_is(peer, ip):
    assert peer.ask(PROBE, msgpack([bytes(16), 1, 1, ip])) == (PROBED, [NOT_THERE, 0])


@pytest.mark.parametrize(
    "body",
    [
        [bytes(15), 1, 1, b""],
        [bytes(17), 1, 1, b""],
        [bytes(16), 65536, 1, b""],
        [bytes(16), 1, 1, bytes(5)],
        [bytes(16)],
    ],
    ids=["short nonce", "long nonce", "port too large", "no address", "no ports"],
)
def test_malformed_probe_is_an_error(peer, body):
    kind, answer = peer.ask(PROBE, msgpack(body))
    assert (kind, answer[0]) == (ERROR, MALFORMED)


@pytest.mark.parametrize("size", [1, 16, 17, 100])
def test_a_knock_gets_nothing(stranger, size):
    stranger.gets_nothing_for(b"\x0d" * size)


def test_a_connection_that_only_knocks_is_closed(target):
    stream = socket.create_connection(("127.0.0.1", target.node.tcp_port))
    stream.settimeout(5.0)
    stream.sendall(bytes(2) + bytes(16))
    assert stream.recv(1) == b""


# -- SIGNAL ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linked(target):
    """A node that the target is linked with."""
    one = Target(b"linked")
    assert one.node.connect(target.node.enode, 10.0).outcome == "connected"
    yield one
    one.node.stop()
    one.runtime.close()


SESSIONS = itertools.count(1)


def new_session() -> bytes:
    return next(SESSIONS).to_bytes(8, "big")


def now_ms() -> int:
    return int(time.time() * 1000)


def signal(peer: Peer, to: bytes, in_session: bytes, packed: bytes = b"", **changes) -> bytes:
    fields = {"target": to, "sender": peer.caller.id, "session": in_session, "hops": 0, "via": b"", "letter": packed}
    return msgpack(list({**fields, **changes}.values()))


def offer(peer: Peer, to: bytes, session: bytes, **changes) -> bytes:
    return letter(peer.caller.key, to, session, **{"time_ms": now_ms(), **changes})


def test_a_letter_to_nobody_it_is_linked_with_is_not_passed_on(peer):
    assert peer.ask(SIGNAL, signal(peer, b"x" * 32, new_session())) == (SIGNALLED, [NOT_LINKED])


def test_an_offer_is_heard_by_the_one_it_is_for(peer, target):
    session = new_session()
    asked = signal(peer, target.id, session, offer(peer, target.id, session))
    assert peer.ask_beside_letters(SIGNAL, asked) == (SIGNALLED, [DELIVERED])
    to, sender, in_session, hops, via, packed = peer.next_signal()
    assert (to, sender, in_session, hops, via) == (peer.caller.id, target.id, session, 0, b"")
    assert check_letter(packed, peer.caller.id, target.id, session)[1] == 1


def test_an_offer_to_a_linked_peer_is_passed_on_and_its_letters_come_back(peer, target, linked):
    session = new_session()
    asked = signal(peer, linked.id, session, offer(peer, linked.id, session))
    assert peer.ask_beside_letters(SIGNAL, asked) == (SIGNALLED, [FORWARDED])
    to, sender, in_session, hops, _, packed = peer.next_signal()
    assert (to, sender, in_session, hops) == (peer.caller.id, linked.id, session, 1)
    assert check_letter(packed, peer.caller.id, linked.id, session)[1] == 1


def test_a_refusal_is_heard_too(peer, target):
    """Whatever it thinks of the offer, it says so in the end: here that it heard the word that ends it."""
    session = new_session()
    peer.ask_beside_letters(SIGNAL, signal(peer, target.id, session, offer(peer, target.id, session)))
    bye = offer(peer, target.id, session, kind=5, number=2, heard=1)
    peer.ask_beside_letters(SIGNAL, signal(peer, target.id, session, bye))
    heard = 0
    while heard < 2:
        heard = check_letter(peer.next_signal()[5], peer.caller.id, target.id, session)[1]
    assert heard == 2


@pytest.mark.parametrize(
    "changes",
    [{"sender": b"s" * 32}, {"hops": 3}, {"hops": 255}],
    ids=["another sender", "passed on three times", "passed on 255 times"],
)
def test_a_letter_that_no_honest_node_sends_is_refused(peer, target, changes):
    session = new_session()
    kind, answer = peer.ask(SIGNAL, signal(peer, target.id, session, offer(peer, target.id, session), **changes))
    assert (kind, answer[0]) == (ERROR, REFUSED)


@pytest.mark.parametrize("forge", ["signature", "session", "target", "key", "content"])
def test_a_forged_letter_is_refused(peer, target, forge):
    session = new_session()
    packed = offer(peer, target.id, session)
    if forge == "signature":
        packed = changed(packed, 0)
    elif forge == "session":
        packed = offer(peer, target.id, new_session())
    elif forge == "target":
        packed = offer(peer, b"x" * 32, session)
    elif forge == "key":
        packed = letter(Ed25519PrivateKey.generate(), target.id, session, now_ms())
    else:
        packed = changed(packed, 105)
    kind, answer = peer.ask(SIGNAL, signal(peer, target.id, session, packed))
    assert (kind, answer[0]) == (ERROR, REFUSED)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": bytes(31)},
        {"session": bytes(7)},
        {"session": bytes(9)},
        {"hops": 256},
        {"via": bytes(213)},
        {"letter": bytes(901)},
        {"letter": bytes(95)},
        {"letter": bytes(96)},
        {"letter": bytes(100)},
    ],
    ids=[
        "short target",
        "short session",
        "long session",
        "hops too many",
        "via too long",
        "letter too long",
        "no key",
        "no content",
        "content cut short",
    ],
)
def test_malformed_signal_is_an_error(peer, target, changes):
    kind, answer = peer.ask(SIGNAL, signal(peer, target.id, new_session(), **changes))
    assert (kind, answer[0]) == (ERROR, MALFORMED)


@pytest.mark.parametrize("age_s", [-660, 660])
def test_an_offer_out_of_its_time_is_refused(peer, target, age_s):
    session = new_session()
    old = offer(peer, target.id, session, time_ms=now_ms() - age_s * 1000)
    assert peer.ask_beside_letters(SIGNAL, signal(peer, target.id, session, old)) == (SIGNALLED, [DELIVERED])
    kind, heard = 0, 0
    while kind == 0:
        kind, heard = check_letter(peer.next_signal()[5], peer.caller.id, target.id, session)
    assert (kind, heard) == (5, 1)


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5])
def test_what_is_no_offer_begins_nothing(peer, target, kind):
    session = new_session()
    packed = offer(peer, target.id, session, kind=kind)
    assert peer.ask(SIGNAL, signal(peer, target.id, session, packed)) == (SIGNALLED, [DELIVERED])
    assert peer.ask(PING, PING_BODY)[0] == PONG


def test_who_is_not_linked_names_nobody_to_write_to(peer, linked):
    contact = b"\4" + bytes((127, 0, 0, 1)) + linked.node.udp_port.to_bytes(2, "big") + bytes(2) + linked.id
    asked = signal(peer, b"x" * 32, new_session(), via=contact)
    assert peer.ask(SIGNAL, asked) == (SIGNALLED, [NOT_LINKED])


BINDING_REQUEST = b"\0\1\0\0"
COOKIE = b"\x21\x12\xa4\x42"


def test_who_is_not_known_to_be_reached_says_that_it_relays_for_nobody(peer):
    kind, answer = peer.ask(RELAY, msgpack([]))
    assert (kind, answer[0]) == (RELAYED, RELAY_OFF)


def test_who_is_reached_gives_credentials_that_stay_the_same_for_one_node():
    one = Target(b"relay", nat="extip:127.0.0.1")
    try:
        peer, other = Peer(one).connect(), Peer(one).connect()
        (kind, answer), again = peer.ask(RELAY, msgpack([])), peer.ask(RELAY, msgpack([]))
        status, name, password, lifetime_s, udp, tcp = answer
        assert (kind, status, udp, tcp) == (RELAYED, 0, one.node.udp_port, one.node.peering.tcp_port)
        assert lifetime_s >= 60
        assert again[1][1:3] == [name, password]
        assert other.ask(RELAY, msgpack([]))[1][1] != name
    finally:
        one.node.stop()
        one.runtime.close()


@pytest.mark.parametrize("body", [b"", b"\xc0", b"\x01"])
def test_malformed_relay_is_an_error(peer, body):
    kind, answer = peer.ask(RELAY, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


def test_a_binding_request_is_answered_with_the_address_it_came_from(stranger):
    answer = stranger.exchange(BINDING_REQUEST + COOKIE + b"transaction!")
    ip, port = stranger.socket.getsockname()
    assert answer[:8] == b"\1\1\0\x0c" + COOKIE
    assert answer[8:20] == b"transaction!"
    assert answer[20:26] == b"\0\x20\0\x08\0\1"
    assert int.from_bytes(answer[26:28], "big") ^ 0x2112 == port
    assert bytes(a ^ b for a, b in zip(answer[28:32], COOKIE, strict=True)) == socket.inet_aton(ip)
    assert len(answer) + 28 <= 1.5 * (20 + 28)


def test_a_classic_binding_request_is_answered_in_clear(stranger):
    answer = stranger.exchange(BINDING_REQUEST + b"16 bytes, no cok")
    ip, port = stranger.socket.getsockname()
    assert answer[20:] == b"\0\1\0\x08\0\1" + port.to_bytes(2, "big") + socket.inet_aton(ip)


@pytest.mark.parametrize(
    "packet",
    [
        BINDING_REQUEST,
        b"\0\1\0\4" + COOKIE + bytes(12),
        b"\1\1\0\0" + COOKIE + bytes(12),
        b"\0\3\0\0" + COOKIE + bytes(12),
    ],
    ids=["cut short", "wrong length", "an answer", "TURN Allocate"],
)
def test_other_stun_gets_nothing(stranger, packet):
    stranger.gets_nothing_for(packet)
