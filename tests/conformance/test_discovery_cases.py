"""Conformance of discovery. The headings are those of docs/protocol.md, a docstring says what is required there."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
import zlib

import pytest
from conformance.client import msgpack
from conformance.client.discovery import (
    ANSWER_LIMIT_S,
    CHALLENGE,
    CLIENT,
    ERROR,
    FIND_NODE,
    FIND_VALUE,
    HAIL,
    HANDSHAKE,
    KNOCK,
    MALFORMED,
    MESSAGE,
    NODES,
    PEER_REQUEST,
    PEER_RESPONSE,
    PING,
    PONG,
    PROBE,
    PROBED,
    REFUSED,
    RELAY,
    RELAYED,
    RESET,
    SIGNAL,
    SIGNALLED,
    STORE,
    STORED,
    UNKNOWN_KIND,
    VALUES,
    Callee,
    Challenge,
    message,
    read_message,
)
from conformance.client.keys import Identity, changed, new_key, node_id
from conformance.client.links import ANSWER, REQUEST
from conformance.client.records import OFFER, REFUSAL, letter, read_contacts, read_letter, record

PING_BODY = [CLIENT, 30303]
DAY_S = 24 * 3600


def begun(peer, request: bytes = b"") -> bytes:
    return peer.handshake(peer.challenge(), request or message(PING, 7, PING_BODY))


def is_alive(peer) -> bool:
    return peer.ask(PING, PING_BODY)[0] == PONG


# -- Discovery: UDP ----------------------------------------------------------------------------------------------------


def test_packet_of_1232_bytes_is_taken(stranger):
    """A packet of 1,232 bytes is the largest that is taken."""
    assert [answer[0] for answer in stranger.answers_to(stranger.hail().ljust(1232, b"\0"))] == [CHALLENGE]


def test_packet_of_1233_bytes_is_dropped(stranger):
    """A larger packet is dropped."""
    assert stranger.answers_to(stranger.hail().ljust(1233, b"\0")) == []


def test_nothing_from_a_stranger_is_answered_with_more_bytes(stranger):
    """Until an address is proved no packet, of whatever type and size, gets back more bytes than it has."""
    for kind in (0x00, 0x07, *range(HAIL, KNOCK + 1), 0x40, 0xC0, 0xFF):
        for size in (1, 17, 33, 183, 184, 192, 1232):
            packet = bytes((kind, 1)).ljust(size, b"\0")[:size]
            assert sum(map(len, stranger.answers_to(packet))) <= size


def test_empty_datagram_gets_nothing(stranger):
    """A datagram without a byte has no type, and gets no answer."""
    assert stranger.answers_to(b"") == []


# -- 0x08 HAIL, 184 bytes ----------------------------------------------------------------------------------------------


def test_hail_is_answered_by_a_challenge_of_its_size(stranger):
    """A HAIL gets a CHALLENGE of 184 bytes."""
    hail = stranger.hail()
    (answer,) = stranger.answers_to(hail)
    assert (answer[0], len(answer)) == (CHALLENGE, len(hail))


def test_hail_to_whoever_answers_gets_a_challenge(stranger, node):
    """With zeros as the recipient, the node names itself."""
    (answer,) = stranger.answers_to(stranger.hail(recipient=bytes(32)))
    assert node_id(answer[44:76]) == node.id


def test_hail_to_another_node_gets_nothing(stranger):
    """With another recipient's id there is no answer."""
    assert stranger.answers_to(stranger.hail(recipient=new_key())) == []


def test_hail_from_the_nodes_own_id_gets_nothing(stranger, node):
    """With the recipient's own id as the sender's there is no answer."""
    hail = stranger.hail()
    assert stranger.answers_to(hail[:36] + node.id + hail[68:]) == []


def test_hail_without_its_padding_gets_nothing(stranger):
    """A HAIL shorter than 184 bytes gets no answer."""
    assert stranger.answers_to(stranger.hail()[:183]) == []


def test_hail_with_more_bytes_gets_no_larger_answer(stranger):
    """Bytes after the layout are accepted, and change nothing."""
    (answer,) = stranger.answers_to(stranger.hail() + b"of a later version")
    assert len(answer) == 184


def test_hail_with_its_zeros_used_is_answered(stranger):
    """What stands in the fields of zeros is for later versions, and is not looked at."""
    hail = stranger.hail()
    assert len(stranger.answers_to(hail[:2] + b"\xff\xff" + hail[4:84] + b"\xff" * 100)) == 1


def test_hail_of_version_2_gets_nothing(stranger):
    """Another version gets no answer."""
    assert stranger.answers_to(changed(stranger.hail(), 1, 2)) == []


def test_hail_sent_again_is_answered_again(stranger):
    """A HAIL that is repeated gets a CHALLENGE with which a session can be made."""
    stranger.challenge()
    assert stranger.opened(stranger.exchange(begun(stranger)))[:2] == (PONG, 7)


# -- 0x09 CHALLENGE, 184 bytes -----------------------------------------------------------------------------------------


def test_challenge_is_signed_by_who_was_asked(stranger, node):
    """Its key is that of the recipient's id, and has signed prekey, time and port."""
    challenge = stranger.challenge()
    assert node_id(challenge.public) == node.id
    assert challenge.is_signed()


def test_challenge_repeats_nonce_and_version(stranger):
    """It names version 1 and the HAIL's nonce; its zeros are zero."""
    challenge = stranger.challenge()
    assert (challenge.version, challenge.nonce) == (1, stranger.nonce)
    assert challenge.packed[3:4] + challenge.packed[118:120] == bytes(3)


def test_challenge_has_a_prekey_that_is_in_time(stranger):
    """The prekey can still be used: its time is ahead."""
    assert stranger.challenge().expiry > time.time()


def test_challenge_names_the_tcp_port(stranger, node):
    """It tells where links are accepted."""
    assert stranger.challenge().tcp_port == node.tcp


def test_challenges_have_cookies_of_their_own(stranger, make_peer):
    """No two who ask get the same cookie."""
    assert stranger.challenge().cookie[8:] != make_peer(stranger=True).challenge().cookie[8:]


def test_challenge_that_nobody_asked_for_gets_nothing(stranger):
    """A CHALLENGE for no HAIL gets no answer."""
    assert stranger.answers_to(stranger.challenge().packed) == []


# -- 0x0a HANDSHAKE, 192 bytes and up ----------------------------------------------------------------------------------


def test_handshake_carries_a_request(stranger):
    """The request that it carries is answered over the session that it makes."""
    assert stranger.opened(stranger.exchange(begun(stranger)))[:2] == (PONG, 7)


def test_handshake_without_a_request_makes_a_session(stranger):
    """With nothing sealed but the tag there is no answer, and the session stands."""
    assert stranger.answers_to(stranger.handshake(stranger.challenge())) == []
    assert is_alive(stranger)


def test_handshake_sent_twice_is_answered_once(stranger):
    """A cookie counts once."""
    handshake = begun(stranger)
    assert len(stranger.answers_to(handshake)) == 1
    assert stranger.answers_to(handshake) == []


def test_nonce_makes_one_session(stranger):
    """A new cookie for a nonce that a session was made with does not count."""
    assert len(stranger.answers_to(begun(stranger))) == 1
    assert stranger.answers_to(begun(stranger)) == []


def test_handshake_from_another_port_gets_nothing(stranger, make_peer):
    """A cookie counts for the address that it was given to."""
    assert make_peer(stranger=True).answers_to(begun(stranger)) == []


def test_handshake_of_another_identity_gets_nothing(stranger):
    """A cookie counts for the id that asked for it."""
    challenge = stranger.challenge()
    stranger.identity = Identity()
    assert stranger.answers_to(stranger.handshake(challenge, message(PING, 7, PING_BODY))) == []


@pytest.mark.parametrize(
    ("field", "offset"),
    [
        ("version", 1),
        ("flags", 2),
        ("nonce", 4),
        ("cookie's time", 27),
        ("cookie", 43),
        ("public key", 44),
        ("ephemeral key", 76),
        ("TCP port", 108),
        ("zeros", 110),
        ("signature", 112),
        ("sealed request", 176),
        ("tag", -1),
    ],
)
def test_handshake_with_a_changed_field_gets_nothing(stranger, field, offset):
    """Every byte of it is bound by cookie, signature or seal."""
    assert stranger.answers_to(changed(begun(stranger), offset)) == []


@pytest.mark.parametrize(
    ("field", "offset"),
    [("nonce", 4), ("time", 27), ("time by 256 ms", 26), ("the rest", 28), ("the last byte", 43)],
)
def test_handshake_with_a_cookie_that_was_not_given_gets_nothing(stranger, field, offset):
    """However well it is signed: the cookie is for this nonce and time, and only its maker can compute it."""
    forged = Challenge(changed(stranger.challenge().packed, offset))
    assert stranger.answers_to(stranger.handshake(forged, message(PING, 7, PING_BODY))) == []


def test_handshake_signed_in_another_context_gets_nothing(stranger):
    """The signature covers the name of what it is for."""
    handshake = stranger.handshake(stranger.challenge(), message(PING, 7, PING_BODY), context=b"kodechain record v1")
    assert stranger.answers_to(handshake) == []


def test_handshake_with_a_key_of_small_order_gets_nothing(stranger):
    """An all-zero result of X25519 is refused."""
    assert stranger.answers_to(stranger.handshake(stranger.challenge(), b"", ephemeral=bytes(32))) == []


def test_handshake_of_191_bytes_gets_nothing(stranger):
    """Without a whole tag it is cut short."""
    assert stranger.answers_to(stranger.handshake(stranger.challenge())[:191]) == []


def test_second_session_stands_beside_the_first(peer):
    """Two sessions made within 10 seconds can both be used."""
    first = peer.session
    peer.connect()
    assert is_alive(peer)
    peer.session = first
    assert is_alive(peer)


# -- 0x0b MESSAGE ------------------------------------------------------------------------------------------------------


def test_answers_are_counted_from_zero(stranger):
    """The counter of the node's direction starts at 0, and goes up by one with each packet."""
    first = stranger.exchange(begun(stranger))
    second = stranger.exchange(stranger.sealed(PING, PING_BODY))
    assert first[9:17] + second[9:17] == bytes(15) + b"\1"


def test_message_sent_twice_is_answered_once(peer):
    """A counter counts once."""
    packet = peer.sealed(PING, PING_BODY)
    assert len(peer.answers_to(packet)) == 1
    assert peer.answers_to(packet) == []


def test_counter_of_the_handshake_cannot_be_used_again(peer):
    """0 was the handshake's."""
    assert peer.answers_to(peer.session.seal(message(PING, 7, PING_BODY), counter=0)) == []


def test_counters_may_be_passed_over(peer):
    """Only that it was not used before matters of a higher counter."""
    peer.session.next_counter = 1 << 40
    assert is_alive(peer)


def test_message_overtaken_by_63_is_answered(peer):
    """A counter that is 63 below the highest one still counts."""
    late = peer.session.seal(message(PING, 7, PING_BODY))
    peer.session.next_counter += 62
    assert is_alive(peer)
    assert peer.opened(peer.exchange(late))[:2] == (PONG, 7)


def test_message_overtaken_by_64_gets_nothing(peer):
    """One that is 64 below does not."""
    late = peer.session.seal(message(PING, 7, PING_BODY))
    peer.session.next_counter += 63
    assert is_alive(peer)
    assert peer.answers_to(late) == []


@pytest.mark.parametrize(("field", "offset"), [("counter", 9), ("sealed", 17), ("tag", -1)])
def test_message_that_was_changed_gets_nothing(peer, field, offset):
    """What does not open is dropped, and moves no counter: the true packet is still taken."""
    packet = peer.sealed(PING, PING_BODY)
    assert peer.answers_to(changed(packet, offset)) == []
    assert len(peer.answers_to(packet)) == 1


def test_message_of_32_bytes_gets_nothing(stranger):
    """Without a whole tag it is cut short, and gets no RESET."""
    assert stranger.answers_to(bytes((MESSAGE,)) + bytes(31)) == []


# -- 0x0c RESET, 17 bytes ----------------------------------------------------------------------------------------------


def test_message_without_a_session_is_answered_by_a_reset(stranger):
    """It gets 17 bytes, which end as it does."""
    packet = bytes((MESSAGE,)) + os.urandom(60)
    assert stranger.answers_to(packet) == [bytes((RESET,)) + packet[-16:]]


def test_message_from_another_port_is_answered_by_a_reset(peer, make_peer):
    """A session belongs to its address; there it goes on."""
    packet = peer.sealed(PING, PING_BODY)
    assert make_peer(stranger=True).answers_to(packet) == [bytes((RESET,)) + packet[-16:]]
    assert len(peer.answers_to(packet)) == 1


def test_forged_reset_changes_nothing(peer):
    """It gets no answer, and the session stays."""
    assert peer.answers_to(bytes((RESET,)) + os.urandom(16)) == []
    assert is_alive(peer)


def test_reset_of_a_true_packet_ends_no_session(peer):
    """Even one that names a packet of the node's leaves the session as it is, until a new one stands."""
    answer = peer.exchange(peer.sealed(PING, PING_BODY))
    assert peer.answers_to(bytes((RESET,)) + answer[-16:]) == []
    assert is_alive(peer)


# -- 0x0d KNOCK, 17 bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 17, 100])
def test_knock_gets_nothing(stranger, size):
    """A KNOCK is never answered, whole or not."""
    assert stranger.answers_to(bytes((KNOCK,)) * size) == []


# -- Messages ----------------------------------------------------------------------------------------------------------


def test_pong_names_the_address_of_who_asks(peer):
    """It has the address and the port that the ping came from."""
    kind, body = peer.ask(PING, PING_BODY)
    assert (kind, body[2:4]) == (PONG, [socket.inet_aton(peer.socket.getsockname()[0]), peer.port])


def test_pong_names_the_tcp_port(peer, node):
    """It has the node's TCP port, as the CHALLENGE has."""
    assert peer.ask(PING, PING_BODY)[1][1] == node.tcp


def test_pong_tells_the_time(peer):
    """Its time is Unix time in ms, or 0."""
    told_ms = peer.ask(PING, PING_BODY)[1][4]
    assert told_ms == 0 or abs(told_ms / 1000 - time.time()) < 600


@pytest.mark.parametrize("request_id", [0, 1, 0xFFFFFFFF])
def test_answer_has_the_requests_id(peer, request_id):
    """Whatever the id is."""
    assert peer.opened(peer.exchange(peer.session.seal(message(PING, request_id, PING_BODY))))[1] == request_id


def test_elements_of_later_versions_are_ignored(peer):
    """A receiver ignores elements past those it knows, of every type."""
    assert peer.ask(PING, [*PING_BODY, "later", [1, [2]], b"bytes", None, True])[0] == PONG


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x93\1", [0], ["0", 1], [0, 65_536], [256, 1], [0, None], msgpack.pack([0, 1]) + b"\0"],
    ids=["empty", "reserved byte", "cut short", "one missing", "text", "port", "flags", "nil", "a second value"],
)
def test_malformed_body_is_an_error(peer, body):
    """A request whose body does not decode gets error 2; missing elements are never accepted."""
    kind, answer = peer.ask(PING, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


@pytest.mark.parametrize("kind", [17, 201, 255])
def test_unknown_request_is_an_error(peer, kind):
    """A request (odd) of an unknown kind gets error 1."""
    answer_kind, answer = peer.ask(kind, [])
    assert (answer_kind, answer[0]) == (ERROR, UNKNOWN_KIND)


@pytest.mark.parametrize("kind", [ERROR, PONG, NODES, STORED, VALUES, PEER_RESPONSE, SIGNALLED, 200])
def test_answer_that_nobody_asked_for_gets_nothing(peer, kind):
    """What is no request (even) gets nothing, known or not."""
    assert peer.answers_to(peer.sealed(kind, [0, 0, bytes(4), 0])) == []


def test_message_without_an_id_gets_nothing(peer):
    """Fewer than five bytes are no message."""
    assert peer.answers_to(peer.session.seal(b"\1\0\0\0")) == []


def test_find_node_is_answered_with_contacts(peer):
    """`contacts` is one byte string of whole entries, at most 16."""
    kind, (contacts,) = peer.ask(FIND_NODE, [new_key()])
    assert kind == NODES
    assert len(read_contacts(contacts)) <= 16


def test_find_node_names_a_node_that_has_a_session(peer, make_peer):
    """Who makes a session without the client flag is in the table, with address, ports and id."""
    server = make_peer(flags=0)
    found = read_contacts(peer.ask(FIND_NODE, [server.identity.id])[1][0])
    assert (peer.place.ip, server.port, 30303, server.identity.id) in [(c.ip, c.udp, c.tcp, c.id) for c in found]
    server.ask(PING, PING_BODY)


def test_find_node_names_no_client(peer, make_peer):
    """Who has set the client flag is in no table."""
    client = make_peer()
    assert client.identity.id not in [c.id for c in read_contacts(peer.ask(FIND_NODE, [client.identity.id])[1][0])]


def test_node_that_becomes_a_client_is_named_no_more(peer, make_peer):
    """A ping with the client flag takes its sender out of the table."""
    server = make_peer(flags=0)
    server.ask(PING, [CLIENT, 30303])
    assert server.identity.id not in [c.id for c in read_contacts(peer.ask(FIND_NODE, [server.identity.id])[1][0])]


@pytest.mark.parametrize("target", [bytes(31), bytes(33), "0" * 32], ids=["31 bytes", "33 bytes", "text"])
def test_find_node_wants_an_id(peer, target):
    """A target that is not 32 bytes is malformed."""
    assert peer.ask(FIND_NODE, [target])[1][0] == MALFORMED


def test_peer_request_is_answered_in_json(peer):
    """The answer is JSON; fields that the node does not know are ignored."""
    kind, body = peer.ask(PEER_REQUEST, b'{"later": [], "type": "peer_request", "requested_count": 20}')
    assert kind == PEER_RESPONSE
    answer = json.loads(body)
    assert answer["type"] == "peer_response"
    assert all(text.startswith("enode://") for text in answer["peers"])


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[1]", b'{"type":"peer_request"}', b'{"type":"other","requested_count":1}', b"\xff"],
    ids=["empty", "no fields", "array", "no count", "other type", "no UTF-8"],
)
def test_peer_request_that_is_none_is_malformed(peer, body):
    """What is not the documented object gets error 2."""
    kind, answer = peer.ask(PEER_REQUEST, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


# -- Values ------------------------------------------------------------------------------------------------------------


class Writer:
    """A publisher with a place of its own, and a token for it."""

    def __init__(self, peer) -> None:
        self.peer = peer
        self.place = new_key()
        self.token = self.find()[1]

    def find(self, key=None, skip=0, contacts_wanted=False):
        kind, answer = self.peer.ask(FIND_VALUE, [key or self.place, skip, contacts_wanted])
        assert kind == VALUES
        return answer

    def record(self, sequence=1, value=b"v", ahead_s=3600, key=None):
        # Of a whole minute, so that a record made again is the same.
        expiry = int(time.time()) // 3600 * 3600 + 3600 + ahead_s
        return record(self.peer.identity, key or self.place, sequence, expiry, value)

    def store(self, packed, token=None) -> int:
        kind, (status,) = self.peer.ask(STORE, [self.token if token is None else token, packed])
        assert kind == STORED
        return status


STORED_WELL, BAD_TOKEN, OLD_SEQUENCE, QUOTA, EXPIRED, BAD_SIGNATURE, BAD_RECORD = range(7)


@pytest.fixture
def writer(peer):
    return Writer(peer)


@pytest.fixture
def other_writer(make_peer, writer):
    """Another publisher at the same place."""
    other = Writer(make_peer())
    other.place, other.token = writer.place, other.find(writer.place)[1]
    return other


def test_value_stored_with_a_token_is_found(writer):
    """A record with a token of the same asker and key is stored, and found byte for byte."""
    packed = writer.record()
    assert writer.store(packed) == STORED_WELL
    assert writer.find()[0::2] == [1, [packed]]


def test_value_that_nobody_stored_is_not_found(writer):
    """`values` says 0 and names none, and gives a token."""
    total, token, records, _ = writer.find(new_key())
    assert (total, records) == (0, [])
    assert 1 <= len(token) <= 32


def test_value_of_1000_bytes_is_stored_and_fits_an_answer(writer):
    """The largest value is one of 1,000 bytes."""
    packed = writer.record(value=os.urandom(1000))
    assert writer.store(packed) == STORED_WELL
    assert writer.find(contacts_wanted=True)[2] == [packed]


def test_empty_value_is_stored(writer):
    """A value may have no bytes."""
    assert writer.store(writer.record(value=b"")) == STORED_WELL


def test_value_of_1001_bytes_is_malformed(writer):
    """A record of more than 1,147 bytes is no request."""
    kind, answer = writer.peer.ask(STORE, [writer.token, writer.record(value=bytes(1001))])
    assert (kind, answer[0]) == (ERROR, MALFORMED)


@pytest.mark.parametrize("token", [b"", bytes(16), bytes(32)], ids=["none", "16 zeros", "32 zeros"])
def test_store_without_a_token_is_refused(writer, token):
    """A token that the node has not made is status 1."""
    assert writer.store(writer.record(), token) == BAD_TOKEN


def test_token_of_another_key_is_refused(writer):
    """A token is bound to its key."""
    assert writer.store(writer.record(), writer.find(new_key())[1]) == BAD_TOKEN


def test_token_of_another_node_is_refused(writer, other_writer):
    """A token is bound to the asker's id and address."""
    assert other_writer.store(other_writer.record(), writer.token) == BAD_TOKEN


def test_token_of_another_port_is_refused(writer, make_peer):
    """A token is bound to the asker's address, whoever he is."""
    elsewhere = Writer(make_peer(identity=writer.peer.identity))
    assert elsewhere.store(writer.record(), writer.token) == BAD_TOKEN


def test_higher_sequence_replaces_a_record(writer):
    """A key holds one record of a publisher: that with the highest sequence."""
    newer = writer.record(sequence=6, value=b"newer")
    assert [writer.store(writer.record(sequence=5)), writer.store(newer)] == [STORED_WELL] * 2
    assert writer.find()[0::2] == [1, [newer]]


@pytest.mark.parametrize("sequence", [0, 4])
def test_lower_sequence_is_refused(writer, sequence):
    """An old sequence is status 2, and changes nothing."""
    newest = writer.record(sequence=5)
    writer.store(newest)
    assert writer.store(writer.record(sequence=sequence, value=b"old")) == OLD_SEQUENCE
    assert writer.find()[2] == [newest]


def test_other_bytes_at_equal_sequence_are_refused(writer):
    """At equal sequence other bytes are status 2."""
    writer.store(writer.record(value=b"first"))
    assert writer.store(writer.record(value=b"other")) == OLD_SEQUENCE


def test_same_bytes_at_equal_sequence_are_a_refresh(writer):
    """At equal sequence the same bytes are stored."""
    assert [writer.store(writer.record()) for _ in range(2)] == [STORED_WELL] * 2


@pytest.mark.parametrize("sequence", [0, 1 << 63, (1 << 64) - 1])
def test_sequence_has_64_bits(writer, sequence):
    """Every sequence of 8 bytes can be stored."""
    assert writer.store(writer.record(sequence=sequence)) == STORED_WELL


@pytest.mark.parametrize("ahead_s", [-DAY_S, 3 * DAY_S])
def test_record_out_of_its_time_is_refused(writer, ahead_s):
    """An expiry that is past, or more than 48 hours ahead, is status 4."""
    assert writer.store(writer.record(ahead_s=ahead_s)) == EXPIRED


def test_record_of_46_hours_is_stored(writer):
    """An expiry within 48 hours is in time."""
    assert writer.store(writer.record(ahead_s=46 * 3600)) == STORED_WELL


@pytest.mark.parametrize(
    ("field", "offset"), [("key of the publisher", 1), ("sequence", 72), ("value", 83), ("last", -1)]
)
def test_forged_record_is_refused(writer, field, offset):
    """What the publisher has not signed is status 5, and is not found."""
    assert writer.store(changed(writer.record(), offset)) == BAD_SIGNATURE
    assert writer.find()[0] == 0


def test_record_cut_short_is_malformed(writer):
    """A record with a byte missing is status 6."""
    assert writer.store(writer.record()[:-1]) == BAD_RECORD


def test_record_of_version_2_is_malformed(writer):
    """A record of another version is status 6."""
    assert writer.store(changed(writer.record(), 0, 2)) == BAD_RECORD


def test_bytes_after_a_record_are_left_off(writer):
    """Bytes after the layout are accepted, and are not part of the record."""
    assert writer.store(writer.record() + b"later") == STORED_WELL
    assert writer.find()[2] == [writer.record()]


def test_publishers_share_a_key(writer, other_writer):
    """Nobody's record replaces another's; the newest comes first."""
    mine, others = writer.record(sequence=8), other_writer.record(sequence=9)
    assert [writer.store(mine), other_writer.store(others)] == [STORED_WELL] * 2
    assert writer.find()[0::2] == [2, [others, mine]]


def test_records_that_do_not_fit_come_with_skip(writer, other_writer):
    """As many come as fit, `total` tells of all, and `skip` goes on from there."""
    mine = writer.record(sequence=8, value=os.urandom(1000))
    others = other_writer.record(sequence=9, value=os.urandom(1000))
    assert [writer.store(mine), other_writer.store(others)] == [STORED_WELL] * 2
    assert writer.find()[0::2] == [2, [others]]
    assert writer.find(skip=1)[0::2] == [2, [mine]]
    assert writer.find(skip=2)[0::2] == [2, []]


def test_record_of_the_node_whose_id_the_key_is_comes_first(writer, other_writer):
    """Before newer ones of others."""
    key = writer.peer.identity.id
    mine, others = writer.record(sequence=1, key=key), other_writer.record(sequence=9, key=key)
    assert other_writer.store(others, other_writer.find(key)[1]) == STORED_WELL
    assert writer.store(mine, writer.find(key)[1]) == STORED_WELL
    assert writer.find(key)[2] == [mine, others]


def test_contacts_come_where_they_are_wanted(writer, make_peer):
    """`values` names nodes closer to the key if the asker wants them."""
    server = make_peer(flags=0)
    key = server.identity.id
    assert writer.find(key)[3] == b""
    assert key in [contact.id for contact in read_contacts(writer.find(key, contacts_wanted=True)[3])]
    server.ask(PING, PING_BODY)


@pytest.mark.parametrize(
    "body",
    [[bytes(31), 0, True], [bytes(32), -1, True], [bytes(32), 0, 1], [bytes(32), 0]],
    ids=["short key", "skip below 0", "number for a boolean", "one missing"],
)
def test_malformed_find_value_is_an_error(peer, body):
    """What is not the documented array gets error 2."""
    packed = b"\x93\xc4\x20" + bytes(32) + b"\xff\xc3" if body[1] == -1 else body
    assert peer.ask(FIND_VALUE, packed)[1][0] == MALFORMED


# -- Dial-back ---------------------------------------------------------------------------------------------------------


def test_probe_is_answered_by_knocks_from_another_port(peer):
    """KNOCKs with the nonce come to the port that was named, from one that nothing was sent to."""
    nonce = os.urandom(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((peer.place.ip, 0))
        here.settimeout(ANSWER_LIMIT_S)
        assert peer.ask(PROBE, [nonce, here.getsockname()[1], 0, b""]) == (PROBED, [0, 0])
        knock, sender = here.recvfrom(65_536)
    assert knock == bytes((KNOCK,)) + nonce
    assert sender[1] != peer.place.udp


def test_probe_is_answered_by_a_knock_over_tcp(peer):
    """With nobody else to ask, the observer connects, sends two zeros and the nonce, and closes."""
    nonce = os.urandom(16)
    with socket.create_server((peer.place.ip, 0)) as here:
        here.settimeout(ANSWER_LIMIT_S)
        peer.ask(PROBE, [nonce, 0, here.getsockname()[1], b""])
        stream, _ = here.accept()
    stream.settimeout(ANSWER_LIMIT_S)
    with stream, stream.makefile("rb") as reader:
        assert reader.read() == bytes(2) + nonce


@pytest.mark.parametrize("ip", ["0.0.0.0", "224.0.0.1", "255.255.255.255"])
def test_nobody_knocks_where_no_host_is(peer, ip):
    """An address that is not one host's is status 2."""
    assert peer.ask(PROBE, [bytes(16), 1, 1, socket.inet_aton(ip)]) == (PROBED, [2, 0])


@pytest.mark.parametrize(
    "body",
    [[bytes(15), 1, 1, b""], [bytes(17), 1, 1, b""], [bytes(16), 65_536, 1, b""], [bytes(16), 1, 1, bytes(5)]],
    ids=["short nonce", "long nonce", "port", "no address"],
)
def test_malformed_probe_is_an_error(peer, body):
    """What is not the documented array gets error 2."""
    kind, answer = peer.ask(PROBE, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


# -- Signalling --------------------------------------------------------------------------------------------------------


def signal(peer, target, session, packed=b"", sender=None, hops=0, via=b""):
    return [target, sender or peer.identity.id, session, hops, via, packed]


def offer(peer, target, session, **changes):
    return letter(peer.identity, target, session, **{"time_ms": int(time.time() * 1000), **changes})


@pytest.fixture
def session():
    return new_key()[:8]


def test_letter_to_nobody_known_is_not_passed_on(peer, session):
    """Without a link with the target, and without a way back to it, the status is 2."""
    assert peer.ask(SIGNAL, signal(peer, new_key(), session)) == (SIGNALLED, [2])


def test_contacts_in_via_count_over_links_only(peer, session, node):
    """Over UDP, `via` does not have the letter sent anywhere."""
    via = b"\4" + socket.inet_aton(node.ip) + node.udp.to_bytes(2, "big") + node.tcp.to_bytes(2, "big") + node.id
    assert peer.ask(SIGNAL, signal(peer, new_key(), session, via=via)) == (SIGNALLED, [2])


def test_offer_to_the_node_is_heard(peer, session, node):
    """It is status 1, and a letter comes back that says that it was heard, signed by the node."""
    assert peer.ask(SIGNAL, signal(peer, node.id, session, offer(peer, node.id, session))) == (SIGNALLED, [1])
    target, sender, in_session, hops, via, packed = peer.next_signal()
    assert (target, sender, in_session, hops, via) == (peer.identity.id, node.id, session, 0, b"")
    assert read_letter(packed, peer.identity.id, node.id, session).heard == 1
    peer.ask(SIGNAL, signal(peer, node.id, session, offer(peer, node.id, session, kind=REFUSAL, number=2)))


@pytest.mark.parametrize("off_s", [-660, 660])
def test_offer_out_of_its_time_is_refused(peer, session, node, off_s):
    """One whose time is more than ten minutes off is heard, and answered by a refusal."""
    stale = offer(peer, node.id, session, time_ms=int((time.time() + off_s) * 1000))
    assert peer.ask(SIGNAL, signal(peer, node.id, session, stale)) == (SIGNALLED, [1])
    said = []
    while REFUSAL not in said:
        said.append(read_letter(peer.next_signal()[5], peer.identity.id, node.id, session).kind)


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5])
def test_session_begins_with_an_offer(peer, session, node, kind):
    """Another letter in a session that there is not is taken, and begins nothing."""
    packed = offer(peer, node.id, session, kind=kind)
    assert peer.ask(SIGNAL, signal(peer, node.id, session, packed)) == (SIGNALLED, [1])
    assert is_alive(peer)
    assert peer.signals == []


def test_letter_that_an_honest_node_does_not_send_is_refused(peer, session, node):
    """With `hops` 0 the sender is the node that it comes from: another is error 4."""
    kind, answer = peer.ask(SIGNAL, signal(peer, node.id, session, sender=new_key()))
    assert (kind, answer[0]) == (ERROR, REFUSED)


@pytest.mark.parametrize("hops", [3, 255])
def test_letter_passed_on_too_often_is_refused(peer, session, node, hops):
    """`hops` of 3 and more is error 4."""
    packed = offer(peer, node.id, session)
    kind, answer = peer.ask(SIGNAL, signal(peer, node.id, session, packed, hops=hops))
    assert (kind, answer[0]) == (ERROR, REFUSED)


@pytest.mark.parametrize("forged", ["signature", "key", "content", "session", "target", "signer"])
def test_forged_letter_is_refused(peer, session, node, forged):
    """What its sender has not signed for this target and session is error 4."""
    packed = offer(peer, node.id, session)
    if forged == "session":
        packed = offer(peer, node.id, new_key()[:8])
    elif forged == "target":
        packed = offer(peer, new_key(), session)
    elif forged == "signer":
        packed = letter(Identity(), node.id, session, int(time.time() * 1000), OFFER)
    else:
        packed = changed(packed, {"signature": 0, "key": 64, "content": 105}[forged])
    kind, answer = peer.ask(SIGNAL, signal(peer, node.id, session, packed))
    assert (kind, answer[0]) == (ERROR, REFUSED)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, bytes(31)), (2, bytes(7)), (2, bytes(9)), (3, 256), (4, bytes(213)), (5, bytes(901)), (5, bytes(95))],
    ids=["target", "short session", "long session", "hops", "via", "long letter", "letter without a key"],
)
def test_malformed_signal_is_an_error(peer, session, node, place, value):
    """What is not the documented array, or over its limits, gets error 2."""
    body = signal(peer, node.id, session)
    body[place] = value
    kind, answer = peer.ask(SIGNAL, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


# -- Relays ------------------------------------------------------------------------------------------------------------


def test_relay_is_answered_with_a_status(peer):
    """It is granted with names, times and ports, or off or full."""
    kind, answer = peer.ask(RELAY, [])
    assert kind == RELAYED
    assert answer[0] in (0, 1, 2)


@pytest.mark.parametrize("body", [b"", b"\xc0", b"\x01"], ids=["empty", "nil", "number"])
def test_malformed_relay_is_an_error(peer, body):
    """What is no array gets error 2."""
    kind, answer = peer.ask(RELAY, body)
    assert (kind, answer[0]) == (ERROR, MALFORMED)


# -- STUN --------------------------------------------------------------------------------------------------------------

BINDING_REQUEST = b"\0\1\0\0"
COOKIE = b"\x21\x12\xa4\x42"


def test_binding_request_is_answered_with_the_address(stranger):
    """RFC 8489: a success response with XOR-MAPPED-ADDRESS and nothing else."""
    (answer,) = stranger.answers_to(BINDING_REQUEST + COOKIE + b"transaction!")
    assert answer[:20] == b"\1\1\0\x0c" + COOKIE + b"transaction!"
    ip, port = stranger.socket.getsockname()
    xored = bytes(a ^ b for a, b in zip(socket.inet_aton(ip), COOKIE, strict=True))
    assert answer[20:] == b"\0\x20\0\x08\0\1" + struct.pack(">H", port ^ 0x2112) + xored


def test_binding_request_without_the_cookie_is_answered_in_clear(stranger):
    """RFC 3489: MAPPED-ADDRESS."""
    (answer,) = stranger.answers_to(BINDING_REQUEST + b"16 bytes, no cok")
    ip, port = stranger.socket.getsockname()
    assert answer[20:] == b"\0\1\0\x08\0\1" + struct.pack(">H", port) + socket.inet_aton(ip)


def test_binding_request_with_a_fingerprint_gets_one(stranger):
    """FINGERPRINT is answered with FINGERPRINT, a CRC-32 of what is before it."""
    head = b"\0\1\0\x08" + COOKIE + b"transaction!"
    fingerprint = struct.pack(">HHI", 0x8028, 4, zlib.crc32(head) ^ 0x5354554E)
    (answer,) = stranger.answers_to(head + fingerprint)
    assert answer[-8:] == struct.pack(">HHI", 0x8028, 4, zlib.crc32(answer[:-8]) ^ 0x5354554E)


def test_answer_to_a_binding_request_is_small(stranger):
    """With IP and UDP headers at most 1.5 times the request."""
    request = BINDING_REQUEST + COOKIE + os.urandom(12)
    (answer,) = stranger.answers_to(request)
    assert len(answer) + 28 <= 1.5 * (len(request) + 28)


@pytest.mark.parametrize(
    "packet",
    [
        BINDING_REQUEST,
        b"\0\1\0\4" + COOKIE + bytes(12),
        b"\1\1\0\0" + COOKIE + bytes(12),
        b"\0\3\0\0" + COOKIE + bytes(12),
    ],
    ids=["cut short", "wrong size", "an answer", "Allocate where nothing is relayed"],
)
def test_other_stun_gets_nothing(stranger, packet):
    """What is no Binding request gets no answer from a node that is no relay."""
    assert stranger.answers_to(packet) == []


def test_handshake_and_its_cookie_are_one_type_each(stranger):
    """The types 0x08 to 0x0d are discovery's: the same bytes under another first byte get no answer."""
    assert stranger.answers_to(changed(begun(stranger), 0, HANDSHAKE + 0x10)) == []


# -- 0x09 CHALLENGE, 184 bytes -----------------------------------------------------------------------------------------


class Asked:
    """A node that hears of a callee and has something to ask it: it looks up the callee's id for a peer over a link, and
    the one DHT server that it knows names the callee."""

    def __init__(self, link, server, callee: Callee) -> None:
        self.link, self.server, self.callee = link, server, callee
        self.hail = self.look_up(HAIL)

    def look_up(self, kind: int) -> bytes:
        """The first packet of that type that the callee gets. On a busy machine the node repeats its questions."""
        request = bytes((FIND_VALUE,)) + bytes(4) + msgpack.pack([self.callee.identity.id, 0, False])
        self.link.send(REQUEST, request)
        while True:
            readable, _, _ = select.select([self.server.socket, self.callee.socket], [], [], ANSWER_LIMIT_S)
            assert readable
            if self.callee.socket in readable:
                packet = self.callee.receive()
                if packet[0] == kind:
                    return packet
            else:
                self._name_callee()

    def _name_callee(self) -> None:
        kind, request_id, _ = self.server.opened(self.server.receive())
        body = {FIND_NODE: [self.callee.contact], FIND_VALUE: [0, b"token", [], self.callee.contact]}.get(kind)
        if body:
            self.server.send(self.server.session.seal(message(kind + 1, request_id, body)))

    @property
    def nonce(self) -> bytes:
        return self.hail[68:84]

    def answered(self, challenge: bytes) -> tuple[int, int, list]:
        """What is asked after a challenge."""
        self.callee.send(challenge)
        return self.callee.accept(self.callee.next(HANDSHAKE), self.nonce)

    def told(self, request: tuple[int, int, list]) -> list:
        """What the peer is told in the end, when the callee has answered that it knows of nothing."""
        kind, request_id, _ = request
        body = [b""] if kind == FIND_NODE else [0, b"token", [], b""]
        self.callee.send(self.callee.session.seal(message(kind + 1, request_id, body)))
        return self.end()

    def end(self) -> list:
        answer = self.link.next(ANSWER)
        assert answer[0] == VALUES
        return msgpack.unpack(answer[5:])


@pytest.fixture
def asked(make_link, make_peer, node):
    server, callee = make_peer(flags=0), Callee(node.ip)
    yield Asked(make_link(), server, callee)
    server.ask(PING, PING_BODY)
    callee.close()


def test_node_begins_with_a_padded_hail(asked, node):
    """184 bytes with the id that it looks for, its own and a nonce; the rest is zero."""
    callee, hail = asked.callee, asked.hail
    assert hail[:68] == bytes((HAIL, 1, 0, 0)) + callee.identity.id + node.id
    assert hail[84:] == bytes(100)
    asked.told(asked.answered(callee.challenge(hail)))


def test_node_proves_itself_and_asks(asked, node):
    """Its HANDSHAKE brings nonce and cookie back, is signed, and carries the request."""
    callee = asked.callee
    callee.send(callee.challenge(asked.hail))
    handshake = callee.next(HANDSHAKE)
    assert node_id(handshake[44:76]) == node.id
    assert handshake[108:110] == node.tcp.to_bytes(2, "big")
    kind, request_id, body = callee.accept(handshake, asked.nonce)
    assert (kind, body[0]) in ((FIND_NODE, callee.identity.id), (FIND_VALUE, callee.identity.id))
    assert asked.told((kind, request_id, body))[0] == 0


@pytest.mark.parametrize("wrong", ["identity", "time", "signature", "flags", "port"])
def test_node_shakes_no_hands_after_a_wrong_challenge(asked, wrong):
    """Another identity, a prekey that is over, or what is not signed gets no HANDSHAKE."""
    callee = asked.callee
    challenge = {
        "identity": lambda: callee.challenge(asked.hail, identity=Identity()),
        "time": lambda: callee.challenge(asked.hail, ahead_s=-60),
        "signature": lambda: changed(callee.challenge(asked.hail), -1),
        "flags": lambda: changed(callee.challenge(asked.hail), 2),
        "port": lambda: changed(callee.challenge(asked.hail), 117),
    }[wrong]()
    callee.send(challenge)
    asked.end()
    assert [packet for packet in callee.waiting() if packet[0] == HANDSHAKE] == []


def test_node_takes_no_challenge_with_another_nonce(asked):
    """It is not the answer to its HAIL, and changes nothing: the true one still counts."""
    callee = asked.callee
    callee.send(changed(callee.challenge(asked.hail), 4))
    assert asked.told(asked.answered(callee.challenge(asked.hail)))[0] == 0


def test_node_takes_no_challenge_from_another_address(asked, node):
    """Nor is one from another port."""
    callee, other = asked.callee, Callee(node.ip)
    other.asker = callee.asker
    other.send(callee.challenge(asked.hail, ahead_s=-60))
    other.close()
    assert asked.told(asked.answered(callee.challenge(asked.hail)))[0] == 0


def test_node_repeats_its_hail_as_it_was(asked):
    """What gets no answer is asked again."""
    callee = asked.callee
    assert callee.receive() == asked.hail
    asked.told(asked.answered(callee.challenge(asked.hail)))


# -- 0x0c RESET, 17 bytes ----------------------------------------------------------------------------------------------


def test_node_begins_again_after_a_reset(asked):
    """A RESET for a MESSAGE of its own makes it begin with another HAIL, and ask the same again."""
    callee = asked.callee
    asked.told(asked.answered(callee.challenge(asked.hail)))
    packet = asked.look_up(MESSAGE)
    kind, _, body = read_message(callee.session.open(packet))
    callee.waiting()
    callee.send(bytes((RESET,)) + packet[-16:])
    asked.hail = callee.next(HAIL)
    request = asked.answered(callee.challenge(asked.hail))
    assert (request[0], request[2]) == (kind, body)
    assert asked.told(request)[0] == 0


# -- Messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["id", "kind"])
def test_answer_to_something_else_does_not_count(asked, wrong):
    """A response with another id or kind than the request's is passed over."""
    callee = asked.callee
    kind, request_id, body = asked.answered(callee.challenge(asked.hail))
    false = [b""] if kind == FIND_NODE else [0, b"token", [record(callee.identity, body[0], 1, 2**40, b"false")], b""]
    number, answer = (request_id ^ 1, kind + 1) if wrong == "id" else (request_id, PONG)
    callee.send(callee.session.seal(message(answer, number, false)))
    assert asked.told((kind, request_id, body))[0] == 0
