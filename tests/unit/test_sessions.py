"""Discovery sessions: two cores back to back, a second implementation written from the document, and attackers."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from second_implementation import Callee, Caller

from kodectl.core import sessions as sessions_module
from kodectl.core.identity import Identity
from kodectl.core.limits import MAX_SOURCES, SharedBudget, TokenBucket
from kodectl.core.prekey import OVERLAP_S, PREKEY_ROTATION_S
from kodectl.core.sessions import ANY_ID, NOTHING, Sessions
from kodectl.wire import packets
from kodectl.wire.suite import KEPT_CIPHERS, RealSuite, kept_cipher

A_ADDRESS, B_ADDRESS = ("192.0.2.1", 1001), ("192.0.2.2", 1002)
UNIX = 1_790_000_000.0
VECTOR = json.loads((Path(__file__).parent.parent / "vectors" / "discovery.json").read_text())["handshake"]


def make(seed: int, tcp_port: int = 30303) -> Sessions:
    rng = random.Random(seed)
    return Sessions(Identity(RealSuite(), rng.randbytes(32)), rng.randbytes, 0, tcp_port)


@pytest.fixture
def pair():
    return make(1), make(2)


def shake(a: Sessions, b: Sessions, message: bytes = b"first", now: float = 5.0):
    """Runs the handshake; returns A's session and B's."""
    hail = a.seal(b.identity.node_id, B_ADDRESS, message, now)
    (challenge,) = b.receive(hail, A_ADDRESS, now, UNIX).replies
    (handshake,) = a.receive(challenge, B_ADDRESS, now, UNIX).replies
    received = b.receive(handshake, A_ADDRESS, now, UNIX)
    assert received.message == message
    return a.session_with(b.identity.node_id, B_ADDRESS), received.session


def test_handshake_then_messages_both_ways(pair):
    a, b = pair
    session_a, session_b = shake(a, b)
    assert session_b.node_id == a.identity.node_id
    assert session_b.tcp_port == 30303
    assert not session_a.confirmed
    answer = b.reply(session_b, b"answer", 5.1)
    assert a.receive(answer, B_ADDRESS, 5.1, UNIX) == ((), session_a, b"answer", None, None)
    assert session_a.confirmed
    second = a.seal(b.identity.node_id, B_ADDRESS, b"second", 5.2)
    assert b.receive(second, A_ADDRESS, 5.2, UNIX).message == b"second"


def test_messages_queued_during_the_handshake_follow_it(pair):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"one", 0.0)
    assert a.seal(b.identity.node_id, B_ADDRESS, b"two", 0.0) is None
    challenge = b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0]
    replies = a.receive(challenge, B_ADDRESS, 0.0, UNIX).replies
    assert [b.receive(packet, A_ADDRESS, 0.0, UNIX).message for packet in replies] == [b"one", b"two"]


def test_unknown_id_is_learned(pair):
    a, b = pair
    hail = a.seal(ANY_ID, B_ADDRESS, b"who are you", 0.0)
    challenge = b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0]
    handshake = a.receive(challenge, B_ADDRESS, 0.0, UNIX).replies[0]
    assert b.receive(handshake, A_ADDRESS, 0.0, UNIX).message == b"who are you"
    assert a.session_with(ANY_ID, B_ADDRESS).node_id == b.identity.node_id


def test_another_identity_is_refused_by_name(pair):
    a, b = pair
    hail = a.seal(bytes(31) + b"\1", B_ADDRESS, b"x", 0.0)
    assert b.receive(hail, A_ADDRESS, 0.0, UNIX) == NOTHING
    # An impostor answers all the same.
    to_impostor = hail[:4] + b.identity.node_id + hail[36:]
    challenge = b.receive(to_impostor, A_ADDRESS, 0.0, UNIX).replies[0]
    node_id, fault = a.receive(challenge, B_ADDRESS, 0.0, UNIX).refused
    assert node_id == bytes(31) + b"\1"
    assert fault.code == "identity_mismatch"


@pytest.mark.parametrize("position", [2, *range(44, 184, 7), 183])
def test_a_changed_challenge_is_refused(pair, position):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
    challenge = bytearray(b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0])
    challenge[position] ^= 1
    received = a.receive(bytes(challenge), B_ADDRESS, 0.0, UNIX)
    assert received.replies == ()
    assert received.refused[1].code in ("bad_signature", "identity_mismatch")


@pytest.mark.parametrize("position", range(1, 200, 3))
def test_a_changed_handshake_makes_no_session(pair, position):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"some message", 0.0)
    challenge = b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0]
    handshake = bytearray(a.receive(challenge, B_ADDRESS, 0.0, UNIX).replies[0])
    handshake[position] ^= 1
    assert b.receive(bytes(handshake), A_ADDRESS, 0.0, UNIX) == NOTHING
    assert len(b) == 0


def test_cookie_is_bound_to_address_and_time_and_good_once(pair):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
    challenge = b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0]
    handshake = a.receive(challenge, B_ADDRESS, 0.0, UNIX).replies[0]
    assert b.receive(handshake, ("192.0.2.3", 1001), 0.0, UNIX) == NOTHING
    assert b.receive(handshake, ("192.0.2.1", 1002), 0.0, UNIX) == NOTHING
    assert b.receive(handshake, A_ADDRESS, sessions_module.COOKIE_LIMIT_S + 0.1, UNIX) == NOTHING
    assert b.receive(handshake, A_ADDRESS, 1.0, UNIX).message == b"x"
    assert b.receive(handshake, A_ADDRESS, 1.0, UNIX) == NOTHING
    b.expire(2.0)
    assert b.receive(handshake, A_ADDRESS, 2.0, UNIX) == NOTHING
    assert b.dropped["handshake replayed"] == 2


def test_strangers_cost_no_state_and_no_public_key_operation(pair, monkeypatch):
    a, b = pair
    b.receive(a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0), A_ADDRESS, 0.0, UNIX)  # b has its prekey now
    for name in ("sign", "verify", "exchange", "exchange_keypair"):
        monkeypatch.setattr(b.identity.suite, name, lambda *_, name=name: pytest.fail(f"{name} for a stranger"))
    rng = random.Random(3)
    for number in range(300):
        source = (f"198.51.100.{number % 250}", 1 + number)
        hail = packets.pack_hail(packets.Hail(b.identity.node_id, rng.randbytes(32), rng.randbytes(16)))
        (challenge,) = b.receive(hail, source, 0.0, UNIX).replies
        assert len(challenge) <= len(hail)
        forged = bytes((packets.HANDSHAKE, 1)) + rng.randbytes(300)
        assert b.receive(forged, source, 0.0, UNIX) == NOTHING
    assert len(b) == 0


@given(data=st.binary(max_size=1472), kind=st.sampled_from([8, 9, 10, 11, 12, 0, 255]))
def test_no_answer_to_a_stranger_is_larger_than_the_question(data, kind):
    b = make(2)
    packet = (bytes((kind,)) + data)[:1472]
    replies = b.receive(packet, A_ADDRESS, 0.0, UNIX).replies
    assert sum(map(len, replies)) <= len(packet)


def test_replayed_and_late_messages_are_dropped(pair):
    a, b = pair
    _, session_b = shake(a, b)
    sent = [a.seal(b.identity.node_id, B_ADDRESS, bytes((n,)), 6.0) for n in range(80)]
    assert b.receive(sent[79], A_ADDRESS, 6.0, UNIX).message == bytes((79,))
    assert b.receive(sent[79], A_ADDRESS, 6.0, UNIX) == NOTHING
    assert b.receive(sent[16], A_ADDRESS, 6.0, UNIX).message == bytes((16,))
    assert b.receive(sent[16], A_ADDRESS, 6.0, UNIX) == NOTHING
    assert b.receive(sent[15], A_ADDRESS, 6.0, UNIX) == NOTHING
    assert b.dropped["replayed"] == 3
    assert session_b.is_new(200)


@given(order=st.permutations(range(12)), repeats=st.lists(st.integers(0, 11), max_size=12))
def test_each_message_is_taken_exactly_once_in_any_order(order, repeats):
    a, b = make(1), make(2)
    shake(a, b)
    sent = [a.seal(b.identity.node_id, B_ADDRESS, bytes((n,)), 6.0) for n in range(12)]
    taken = [b.receive(sent[n], A_ADDRESS, 6.0, UNIX).message for n in [*order, *repeats]]
    assert sorted(message for message in taken if message is not None) == [bytes((n,)) for n in range(12)]


def test_a_message_from_elsewhere_is_answered_by_reset_only(pair):
    a, b = pair
    shake(a, b)
    packet = a.seal(b.identity.node_id, B_ADDRESS, b"moved", 6.0)
    received = b.receive(packet, ("203.0.113.9", 9), 6.0, UNIX)
    assert received.message is None
    assert received.replies == (b"\x0c" + packet[-16:],)


def test_restarted_peer_is_found_by_reset_and_shaken_again(pair):
    a, b = pair
    session_a, session_b = shake(a, b)
    a.receive(b.reply(session_b, b"ok", 5.0), B_ADDRESS, 5.0, UNIX)
    reborn = make(2)
    packet = a.seal(b.identity.node_id, B_ADDRESS, b"hello?", 20.0)
    (reset,) = reborn.receive(packet, A_ADDRESS, 20.0, UNIX).replies
    assert a.receive(reset, B_ADDRESS, 20.0, UNIX).lost is session_a
    hail = a.restart(b.identity.node_id, B_ADDRESS, b"hello?", 20.0)
    challenge = reborn.receive(hail, A_ADDRESS, 20.0, UNIX).replies[0]
    handshake = a.receive(challenge, B_ADDRESS, 20.0, UNIX).replies[0]
    received = reborn.receive(handshake, A_ADDRESS, 20.0, UNIX)
    assert received.message == b"hello?"
    assert len(a) == 2  # the old one stays until the new one is confirmed
    a.receive(reborn.reply(received.session, b"yes", 20.0), B_ADDRESS, 20.0, UNIX)
    assert len(a) == 1


def test_a_reset_counts_once(pair):
    a, b = pair
    shake(a, b)
    packet = a.seal(b.identity.node_id, B_ADDRESS, b"x", 6.0)
    assert a.receive(packets.pack_reset(packet), B_ADDRESS, 6.0, UNIX).lost is not None
    assert a.receive(packets.pack_reset(packet), B_ADDRESS, 6.0, UNIX) == NOTHING


def test_a_message_asked_again_during_the_handshake_is_sent_once(pair):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
    assert a.seal(b.identity.node_id, B_ADDRESS, b"x", 1.0, retry=True) == hail
    assert len(a.receive(b.receive(hail, A_ADDRESS, 1.0, UNIX).replies[0], B_ADDRESS, 1.0, UNIX).replies) == 1


def test_a_session_that_was_never_confirmed_goes_soon_and_a_confirmed_one_late(pair):
    a, b = pair
    shake(a, b, now=0.0)
    soon, late = sessions_module.UNCONFIRMED_LIMIT_S + 1, sessions_module.IDLE_LIMIT_S - 1
    a.expire(soon)
    b.expire(late)
    assert (len(a), len(b)) == (0, 1)
    b.expire(late + 2)
    assert len(b) == 0
    assert not b._by_address


def test_a_session_whose_ciphers_were_let_go_still_works(pair):
    a, b = pair
    _, session_b = shake(a, b)
    for number in range(KEPT_CIPHERS):
        kept_cipher(number.to_bytes(16))
    made = kept_cipher.cache_info().misses
    assert a.receive(b.reply(session_b, b"answer", 5.0), B_ADDRESS, 5.0, UNIX).message == b"answer"
    assert kept_cipher.cache_info().misses == made + 1, "both ends have the same one in this process"
    assert kept_cipher.cache_info().currsize == KEPT_CIPHERS


def test_buckets_of_sources_are_bounded():
    budget = SharedBudget(TokenBucket(1.0, 10_000.0), 1.0, 1.0)
    for number in range(MAX_SOURCES + 100):
        assert budget.take(str(number), 0.0)
    assert len(budget._sources) == MAX_SOURCES
    assert not budget.take(str(MAX_SOURCES + 99), 0.0)


def test_prekeys_change_daily_and_the_old_one_is_refused_soon():
    b = make(2)

    def challenge(caller, now):
        return b.receive(caller.hail(b.identity.node_id), A_ADDRESS, now, UNIX + now).replies[0]

    first = challenge(Caller(b"1" * 32, b"1" * 32, b"1" * 16), 0.0)
    caller = Caller(b"2" * 32, b"2" * 32, b"2" * 16)
    rotated = PREKEY_ROTATION_S + 1
    second = challenge(caller, rotated)
    assert first[76:108] != second[76:108]
    too_late = rotated + OVERLAP_S + 1
    fresh_cookie = challenge(caller, too_late)
    old_key = fresh_cookie[:76] + first[76:]
    assert b.receive(caller.handshake(old_key, b"x", 1), A_ADDRESS, too_late, UNIX + too_late) == NOTHING


def test_a_forged_reset_changes_nothing(pair):
    a, b = pair
    session_a, _ = shake(a, b)
    a.seal(b.identity.node_id, B_ADDRESS, b"x", 6.0)
    assert a.receive(b"\x0c" + bytes(16), B_ADDRESS, 6.0, UNIX) == NOTHING
    assert a.session_with(b.identity.node_id, B_ADDRESS) is session_a


def test_crossed_handshakes_serve_both(pair):
    a, b = pair
    hail_a = a.seal(b.identity.node_id, B_ADDRESS, b"from a", 0.0)
    hail_b = b.seal(a.identity.node_id, A_ADDRESS, b"from b", 0.0)
    shake_b = b.receive(a.receive(hail_b, B_ADDRESS, 0.0, UNIX).replies[0], A_ADDRESS, 0.0, UNIX).replies[0]
    shake_a = a.receive(b.receive(hail_a, A_ADDRESS, 0.0, UNIX).replies[0], B_ADDRESS, 0.0, UNIX).replies[0]
    at_a, at_b = a.receive(shake_b, B_ADDRESS, 0.0, UNIX), b.receive(shake_a, A_ADDRESS, 0.0, UNIX)
    assert (at_a.message, at_b.message) == (b"from b", b"from a")
    assert a.receive(b.reply(at_b.session, b"to a", 0.1), B_ADDRESS, 0.1, UNIX).message == b"to a"
    assert b.receive(a.reply(at_a.session, b"to b", 0.1), A_ADDRESS, 0.1, UNIX).message == b"to b"


def test_lost_handshake_is_begun_again_on_retry(pair):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
    a.receive(b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0], B_ADDRESS, 0.0, UNIX)  # HANDSHAKE is lost
    again = a.seal(b.identity.node_id, B_ADDRESS, b"x", 1.0, retry=True)
    assert again[0] == packets.HAIL


def test_sessions_and_pending_are_bounded(pair, monkeypatch):
    a, _ = pair
    monkeypatch.setattr(sessions_module, "MAX_PENDING", 10)
    begun = [a.seal(bytes(32), ("192.0.2.9", port), b"x", 0.0) for port in range(1, 20)]
    assert sum(packet is not None for packet in begun) == 10
    later = sessions_module.PENDING_LIMIT_S + 1
    assert a.seal(bytes(32), ("192.0.2.9", 99), b"x", later) is not None


def test_oldest_sessions_make_room(monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 32)
    b = make(0)
    for seed in range(1, 40):
        shake(make(seed), b, now=float(seed))
    assert len(b) <= 32


def test_one_address_has_few_identities():
    b = make(0)
    for seed in range(1, sessions_module.MAX_SESSIONS_PER_ADDRESS + 5):
        shake(make(seed), b, now=float(seed))
    assert len(b) == sessions_module.MAX_SESSIONS_PER_ADDRESS
    assert b.session_with(make(seed).identity.node_id, A_ADDRESS) is not None


def test_the_newest_session_of_a_peer_is_used_and_an_older_one_when_it_is_gone(pair):
    a, b = pair
    older, _ = shake(a, b)
    newer, _ = begun_again(a, b)
    assert a.session_with(b.identity.node_id, B_ADDRESS) is newer
    newer.last_used -= sessions_module.IDLE_LIMIT_S
    a.expire(6.0)
    assert a.session_with(b.identity.node_id, B_ADDRESS) is older


def begun_again(a, b):
    hail = a.restart(b.identity.node_id, B_ADDRESS, b"again", 5.0)
    (challenge,) = b.receive(hail, A_ADDRESS, 5.0, UNIX).replies
    (handshake,) = a.receive(challenge, B_ADDRESS, 5.0, UNIX).replies
    session = b.receive(handshake, A_ADDRESS, 5.0, UNIX).session
    return a.session_with(b.identity.node_id, B_ADDRESS), session


def test_accepted_handshakes_are_rated(monkeypatch):
    monkeypatch.setattr(sessions_module, "HANDSHAKE_BURST", 3.0)
    monkeypatch.setattr(sessions_module, "HANDSHAKES_PER_S", 1.0)
    b = make(0)
    outcomes = []
    for seed in range(1, 6):
        a = make(seed)
        hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
        handshake = a.receive(b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0], B_ADDRESS, 0.0, UNIX).replies[0]
        outcomes.append(b.receive(handshake, A_ADDRESS, 0.0, UNIX).message is not None)
    assert outcomes == [True, True, True, False, False]


def begin(a, b, address, now=0.0):
    """A HANDSHAKE of `a` as it would reach `b` from `address`."""
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", now)
    return a.receive(b.receive(hail, address, now, UNIX).replies[0], B_ADDRESS, now, UNIX).replies[0]


def test_one_subnet_cannot_use_up_the_handshakes_of_all(monkeypatch):
    monkeypatch.setattr(sessions_module, "SUBNET_HANDSHAKE_BURST", 3.0)
    monkeypatch.setattr(sessions_module, "SUBNET_HANDSHAKES_PER_S", 1.0)
    b = make(0)

    def accepted(seed, ip):
        return b.receive(begin(make(seed), b, (ip, 1)), (ip, 1), 0.0, UNIX).message is not None

    assert [accepted(seed, f"20.1.1.{seed}") for seed in range(1, 6)] == [True, True, True, False, False]
    assert accepted(6, "20.1.2.1")
    assert all(accepted(seed, "192.168.1.1") for seed in range(7, 12))  # nothing is scarce on a private network


def test_one_subnet_cannot_drive_out_the_sessions_of_others(monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 64)
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS_PER_SUBNET", 4)
    b = make(0)
    honest = make(1)
    b.receive(begin(honest, b, ("20.9.9.9", 1)), ("20.9.9.9", 1), 0.0, UNIX)
    for seed in range(2, 92):
        where = (f"20.1.1.{seed}", 1)
        assert b.receive(begin(make(seed), b, where, float(seed)), where, float(seed), UNIX).message
    assert b.session_with(honest.identity.node_id, ("20.9.9.9", 1)) is not None
    assert len(b) == 5
    b.expire(10_000.0)
    assert len(b) == 0
    assert not b._subnets


def test_one_peer_holds_few_sessions_however_often_he_begins():
    a, b = make(1), make(2)
    for attempt in range(20):
        handshake = begin(a, b, A_ADDRESS)
        assert b.receive(handshake, A_ADDRESS, 0.0, UNIX).message == b"x"
        a = make(1)
        a._random = random.Random(attempt).randbytes
    assert len(b) == sessions_module.MAX_SESSIONS_PER_PEER


def test_a_request_too_long_for_the_handshake_follows_it(pair):
    a, b = pair
    long = b"l" * (packets.MAX_PACKET - packets.MESSAGE_HEAD - packets.TAG_SIZE)
    hail = a.seal(b.identity.node_id, B_ADDRESS, long, 0.0)
    replies = a.receive(b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0], B_ADDRESS, 0.0, UNIX).replies
    assert max(map(len, replies)) <= packets.MAX_PACKET
    assert [b.receive(packet, A_ADDRESS, 0.0, UNIX).message for packet in replies] == [b"", long]


@pytest.mark.parametrize("size", [1, packets.MAX_FIRST_MESSAGE])
def test_a_request_that_fits_goes_with_the_handshake(pair, size):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, bytes(size), 0.0)
    (handshake,) = a.receive(b.receive(hail, A_ADDRESS, 0.0, UNIX).replies[0], B_ADDRESS, 0.0, UNIX).replies
    assert len(handshake) <= packets.MAX_PACKET
    assert b.receive(handshake, A_ADDRESS, 0.0, UNIX).message == bytes(size)


def test_packets_over_the_limit_are_dropped(pair):
    a, b = pair
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
    assert b.receive(hail.ljust(packets.MAX_PACKET, b"-"), A_ADDRESS, 0.0, UNIX).replies
    assert b.receive(hail.ljust(packets.MAX_PACKET + 1, b"-"), A_ADDRESS, 0.0, UNIX) == NOTHING
    assert b.dropped["oversize"] == 1


@pytest.mark.parametrize("set_by_s", [-40 * 24 * 3600, 5 * 24 * 3600, 50 * 365 * 24 * 3600])
def test_a_clock_that_is_set_right_makes_a_new_prekey(pair, set_by_s):
    a, b = pair
    b.receive(make(3).seal(b.identity.node_id, B_ADDRESS, b"x", 0.0), A_ADDRESS, 0.0, UNIX - set_by_s)
    hail = a.seal(b.identity.node_id, B_ADDRESS, b"x", 1.0)
    challenge = b.receive(hail, A_ADDRESS, 1.0, UNIX).replies[0]
    assert 0 < int.from_bytes(challenge[108:116]) - UNIX <= 4 * 24 * 3600
    assert a.receive(challenge, B_ADDRESS, 1.0, UNIX).refused is None


def test_prekey_rotation_keeps_handshakes_under_way_and_expiry_is_checked(pair):
    a, b = pair
    late = PREKEY_ROTATION_S
    b.receive(a.seal(b.identity.node_id, B_ADDRESS, b"x", 0.0), A_ADDRESS, 0.0, UNIX)
    hail = make(3).seal(b.identity.node_id, B_ADDRESS, b"x", 0.0)
    c = make(3)
    hail = c.seal(b.identity.node_id, B_ADDRESS, b"x", late)
    challenge = b.receive(hail, A_ADDRESS, late, UNIX).replies[0]
    other = make(4).seal(b.identity.node_id, B_ADDRESS, b"x", late)
    b.receive(other, A_ADDRESS, late + 1, UNIX)  # rotates
    handshake = c.receive(challenge, B_ADDRESS, late + 1, UNIX).replies[0]
    assert b.receive(handshake, A_ADDRESS, late + 1, UNIX).message == b"x"
    far = UNIX + 4 * 24 * 3600
    d = make(5)
    old = b.receive(d.seal(b.identity.node_id, B_ADDRESS, b"x", late), A_ADDRESS, late + 1, UNIX).replies[0]
    assert d.receive(old, B_ADDRESS, late + 1, far).refused[1].code == "clock_skew"


def test_a_second_implementation_written_from_the_document():
    second = Caller(b"s" * 32, b"e" * 32, b"n" * 16)
    b = make(2)
    challenge = b.receive(second.hail(b.identity.node_id), A_ADDRESS, 0.0, UNIX).replies[0]
    received = b.receive(second.handshake(challenge, b"request", 7), A_ADDRESS, 0.0, UNIX)
    assert (received.message, received.session.node_id, received.session.tcp_port) == (b"request", second.id, 7)
    assert second.open(b.reply(received.session, b"answer", 0.0)) == b"answer"


def test_a_second_implementation_answers():
    callee = Callee(b"t" * 32, b"p" * 32)
    a = make(1)
    hail = a.seal(callee.id, B_ADDRESS, b"request", 0.0)
    (handshake,) = a.receive(callee.challenge(hail, int(UNIX) + 9, 7), B_ADDRESS, 0.0, UNIX).replies
    assert callee.accept(handshake) == b"request"
    assert a.receive(callee.seal(b"answer"), B_ADDRESS, 0.0, UNIX).message == b"answer"
    assert callee.open(a.seal(callee.id, B_ADDRESS, b"more", 0.0)) == b"more"


def test_handshake_vector():
    """The published bytes: a fixed challenge, answered by fixed keys."""
    given_bytes = {name: bytes.fromhex(value) for name, value in VECTOR.items() if isinstance(value, str)}
    second = Caller(given_bytes["seed_a"], given_bytes["ephemeral_secret"], given_bytes["nonce"])
    assert (
        second.handshake(given_bytes["challenge"], given_bytes["request"], VECTOR["tcp_port"])
        == given_bytes["handshake"]
    )
    assert second.okm == given_bytes["key_material"]
    assert second.id == given_bytes["id_a"]
    assert second.hail(given_bytes["id_b"]) == given_bytes["hail"]
    randoms = iter([bytes(32), given_bytes["nonce"], given_bytes["ephemeral_secret"]])
    ours = Sessions(Identity(RealSuite(), given_bytes["seed_a"]), lambda size: next(randoms), 0, VECTOR["tcp_port"])
    assert ours.seal(given_bytes["id_b"], B_ADDRESS, given_bytes["request"], 0.0) == given_bytes["hail"]
    replies = ours.receive(given_bytes["challenge"], B_ADDRESS, 0.0, VECTOR["unix_time"]).replies
    assert replies == (given_bytes["handshake"],)
    received = ours.receive(given_bytes["answer_message"], B_ADDRESS, 0.0, VECTOR["unix_time"])
    assert received.message == given_bytes["answer"]
