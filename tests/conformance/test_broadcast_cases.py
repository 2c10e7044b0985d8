"""Conformance of requests and broadcasts over links. The headings are those of docs/protocol.md, a docstring says what is
required there."""

from __future__ import annotations

import os
import time

import pytest
from conformance.client import msgpack
from conformance.client.discovery import (
    BUSY,
    ERROR,
    FIND_VALUE,
    MALFORMED,
    REFUSED,
    RELAY,
    RELAYED,
    SIGNAL,
    SIGNALLED,
    STORE,
    STORED,
    UNKNOWN_KIND,
    VALUES,
)
from conformance.client.keys import Identity, changed, new_key
from conformance.client.links import (
    ANSWER,
    BLOCK,
    DIGEST,
    GOSSIP,
    HAVE,
    PROTOCOL_ERROR,
    REQUEST,
    SYNC,
    TRANSACTION,
    WANT,
    Envelope,
    message,
)
from conformance.client.records import record


def is_alive(link) -> bool:
    return link.until_beat() is not None


# -- Requests over links -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 3, 9, 13, 17, 255])
def test_request_that_links_do_not_serve_is_an_error(link, kind):
    """Error 1."""
    answer_kind, answer = link.ask(kind, [])
    assert (answer_kind, answer[0]) == (ERROR, UNKNOWN_KIND)


@pytest.mark.parametrize("kind", [STORE, FIND_VALUE, SIGNAL])
def test_malformed_request_over_a_link_is_an_error(link, kind):
    """Error 2; the link goes on."""
    answer_kind, answer = link.ask(kind, [1])
    assert (answer_kind, answer[0]) == (ERROR, MALFORMED)


@pytest.mark.parametrize("kind", [REQUEST, ANSWER])
@pytest.mark.parametrize("size", [0, 4, 32_769])
def test_what_is_no_request_is_refused(link, kind, size):
    """Fewer than 5 bytes, or more than 32,768, end the link."""
    link.send(kind, bytes(size))
    assert link.ending() == PROTOCOL_ERROR


def test_answer_that_nobody_asked_for_is_ignored(link):
    """With an id that is not asked with, it means nothing."""
    link.send(ANSWER, b"\x02\xff\xff\xff\xff" + msgpack.pack([0, 0, bytes(4), 0]))
    assert is_alive(link)


def test_requests_above_the_rate_are_told_that_it_is_busy(link):
    """Of 100 at once all are served, of 300 some get error 3; each gets an answer."""
    relay = bytes((RELAY,)) + bytes(4) + msgpack.pack([])
    answers = []
    for _ in range(15):
        # Not so many that their answers are worth compressing.
        link.send_content(message(REQUEST, relay) * 20)
        answers += [link.next(ANSWER) for _ in range(20)]
    assert {answer[0] for answer in answers[:100]} == {RELAYED}
    refused = [msgpack.unpack(answer[5:])[0] for answer in answers if answer[0] == ERROR]
    assert set(refused) == {BUSY}


def test_requests_and_answers_in_masses_are_refused(link):
    """More than 1,000 at once end the link."""
    link.send_content(message(ANSWER, bytes((RELAYED,)) + bytes(4)) * 4000)
    assert link.ending() == PROTOCOL_ERROR


def test_find_value_over_a_link_has_no_token(link):
    """The node looks up for the peer: records, an empty token, and the contact of the key's node or none."""
    kind, answer = link.ask(FIND_VALUE, [new_key(), 0, True])
    assert kind == VALUES
    assert answer[:3] == [0, b"", []]


def test_own_record_is_stored_over_a_link(link):
    """The peer's own record, with an empty token, goes to the nodes closest to its key, and is found."""
    key = new_key()
    packed = record(link.identity, key, 1, int(time.time()) + 3600, b"v")
    assert link.ask(STORE, [b"", packed]) == (STORED, [0])
    assert link.ask(FIND_VALUE, [key, 0, False])[1][2] == [packed]


def test_record_of_another_is_not_stored_over_a_link(link):
    """Another publisher's is error 4."""
    packed = record(Identity(), new_key(), 1, int(time.time()) + 3600, b"v")
    kind, answer = link.ask(STORE, [b"", packed])
    assert (kind, answer[0]) == (ERROR, REFUSED)


def test_relay_is_asked_for_over_a_link(link):
    """It is answered as over UDP."""
    kind, answer = link.ask(RELAY, [])
    assert kind == RELAYED
    assert answer[0] in (0, 1, 2)


def test_signal_to_oneself_comes_back_over_the_link(link):
    """So a rendezvous node is tried: a signal to oneself, with an empty letter, is passed on (rule 2)."""
    asked = msgpack.pack([link.identity.id, link.identity.id, new_key()[:8], 0, b"", b""])
    link.send(REQUEST, bytes((SIGNAL,)) + bytes(4) + asked)
    came: dict[int, bytes] = {}
    while not {REQUEST, ANSWER} <= came.keys():
        kind, body = link.receive()
        came[kind] = body
    assert msgpack.unpack(came[REQUEST][5:])[3:] == [1, b"", b""]
    assert (came[ANSWER][0], msgpack.unpack(came[ANSWER][5:])) == (SIGNALLED, [0])


def test_signal_over_udp_is_passed_on_over_a_link(link, peer):
    """One `hops` higher, with `via` empty (0 forwarded); the answer goes back by the way it has come from (rule 3)."""
    session, target = new_key()[:8], link.identity.id
    assert is_alive(link)
    assert peer.ask(SIGNAL, [target, peer.identity.id, session, 0, b"", b"letter"]) == (SIGNALLED, [0])
    handed = link.next(REQUEST)
    assert handed[0] == SIGNAL
    assert msgpack.unpack(handed[5:]) == [target, peer.identity.id, session, 1, b"", b"letter"]
    assert link.ask(SIGNAL, [peer.identity.id, target, session, 0, b"", b"back"]) == (SIGNALLED, [0])
    assert peer.next_signal() == [peer.identity.id, target, session, 1, b"", b"back"]


# -- Envelope of block and transaction ---------------------------------------------------------------------------------


@pytest.fixture
def pair(make_link):
    """Two links that the node has given their places."""
    links = make_link(), make_link()
    assert all(is_alive(one) for one in links)
    return links


def bodies(came, kind) -> list[bytes]:
    return [body for received, body in came if received == kind]


@pytest.mark.parametrize("kind", [BLOCK, TRANSACTION])
def test_flood_goes_to_every_other_peer_as_it_came(pair, kind):
    """Byte for byte; and not back."""
    sender, other = pair
    envelope = Envelope(kind)
    sender.send(kind, envelope.packed)
    assert other.next(kind) == envelope.packed
    assert bodies(sender.until_beat(), kind) == []


def test_gossip_reaches_every_peer(pair):
    """The message itself comes, or its id, and then the message for a `want`."""
    sender, other = pair
    envelope = Envelope(mode=GOSSIP)
    sender.send(TRANSACTION, envelope.packed)
    while True:
        kind, body = other.receive()
        if kind == TRANSACTION:
            break
        if kind == SYNC and msgpack.unpack(body)[:2] == [HAVE, envelope.id]:
            other.send(SYNC, [WANT, envelope.id])
    assert body == envelope.packed


def test_message_is_forwarded_once(pair):
    """However often it comes, and from whom."""
    sender, other = pair
    envelope = Envelope()
    sender.send(TRANSACTION, envelope.packed)
    assert other.next(TRANSACTION) == envelope.packed
    sender.send_content(message(TRANSACTION, envelope.packed) * 2)
    assert is_alive(sender)
    other.send(TRANSACTION, envelope.packed)
    assert bodies(other.until_beat() + sender.until_beat(), TRANSACTION) == []


def test_empty_payload_is_forwarded(pair):
    """A payload may have no bytes."""
    sender, other = pair
    envelope = Envelope(payload=b"")
    sender.send(TRANSACTION, envelope.packed)
    assert other.next(TRANSACTION) == envelope.packed


def test_payload_of_64_kib_is_forwarded(pair):
    """The largest transaction."""
    sender, other = pair
    envelope = Envelope(payload=os.urandom(65_536))
    sender.send(TRANSACTION, envelope.packed)
    assert other.next(TRANSACTION) == envelope.packed


@pytest.mark.parametrize(("kind", "size"), [(TRANSACTION, 65_537), (BLOCK, (4 << 20) + 1)])
def test_payload_over_its_limit_is_refused(link, kind, size):
    """A larger one ends the link of who sends it."""
    link.send(kind, Envelope(kind, payload=bytes(size)).packed)
    assert link.ending() == PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("field", "offset"), [("origin", 0), ("time", 39), ("nonce", 40), ("mode", 48), ("signature", 49), ("payload", -1)]
)
def test_forged_envelope_is_refused(pair, field, offset):
    """What its origin has not signed ends the link of who sends it, and reaches nobody."""
    sender, other = pair
    sender.send(TRANSACTION, changed(Envelope().packed, offset))
    assert sender.ending() == PROTOCOL_ERROR
    assert bodies(other.until_beat(), TRANSACTION) == []


def test_block_cannot_be_sent_as_a_transaction(link):
    """The type is part of the id, which the origin has signed."""
    link.send(TRANSACTION, Envelope(BLOCK).packed)
    assert link.ending() == PROTOCOL_ERROR


@pytest.mark.parametrize("size", [0, 112])
def test_envelope_cut_short_is_refused(link, size):
    """Fewer than 113 bytes end the link."""
    link.send(TRANSACTION, Envelope().packed[:size])
    assert link.ending() == PROTOCOL_ERROR


def test_unknown_mode_is_refused(link):
    """A mode other than flood and gossip ends the link."""
    link.send(TRANSACTION, Envelope(mode=2).packed)
    assert link.ending() == PROTOCOL_ERROR


@pytest.mark.parametrize("late_s", [660, -180], ids=["11 minutes old", "3 minutes ahead"])
def test_message_out_of_its_time_is_dropped(pair, late_s):
    """It reaches nobody; the link goes on."""
    sender, other = pair
    sender.send(TRANSACTION, Envelope(late_s=late_s).packed)
    assert is_alive(sender)
    assert bodies(other.until_beat(), TRANSACTION) == []


@pytest.mark.parametrize("late_s", [540, -60], ids=["9 minutes old", "1 minute ahead"])
def test_message_within_its_time_is_forwarded(pair, late_s):
    """Up to 10 minutes old, and up to 2 ahead."""
    sender, other = pair
    envelope = Envelope(late_s=late_s)
    sender.send(TRANSACTION, envelope.packed)
    assert other.next(TRANSACTION) == envelope.packed


# -- sync --------------------------------------------------------------------------------------------------------------


def next_sync(link, what: int) -> list:
    while True:
        said = msgpack.unpack(link.next(SYNC))
        if said[0] == what:
            return said


def test_have_is_answered_by_want(link):
    """Of ids that the node lacks."""
    first, second = Envelope(), Envelope()
    link.send(SYNC, [HAVE, first.id + second.id])
    wanted = b""
    while len(wanted) < 64:
        wanted += next_sync(link, WANT)[1]
    assert {wanted[:32], wanted[32:]} == {first.id, second.id}


def test_wanted_message_is_forwarded(pair):
    """What is delivered for a `want` goes on like any other."""
    sender, other = pair
    envelope = Envelope()
    sender.send(SYNC, [HAVE, envelope.id])
    assert next_sync(sender, WANT) == [WANT, envelope.id]
    sender.send(TRANSACTION, envelope.packed)
    assert other.next(TRANSACTION) == envelope.packed


def test_want_is_answered_by_the_messages(link):
    """The answer is the messages themselves, of their types; ids that nobody knows get nothing."""
    block, transaction = Envelope(BLOCK), Envelope()
    link.send(BLOCK, block.packed)
    link.send(TRANSACTION, transaction.packed)
    link.send(SYNC, [WANT, block.id + new_key() + transaction.id])
    came = [link.next(BLOCK), link.next(TRANSACTION)]
    assert came == [block.packed, transaction.packed]


def test_digest_comes_with_a_new_link(make_link):
    """It has number and XOR of the ids in each slot of ten seconds."""
    sender = make_link()
    first, second = Envelope(late_s=300), Envelope(late_s=300)
    if first.slot != second.slot:
        first = Envelope(late_s=300)
    origin = Envelope(late_s=480)
    for envelope in (first, second, origin):
        sender.send(TRANSACTION, envelope.packed)
    assert is_alive(sender)
    slots = {slot: (count, xor) for slot, count, xor in next_sync(make_link(), DIGEST)[1]}
    assert slots[origin.slot][0] >= 1
    assert slots[first.slot][0] >= 2
    assert all(len(xor) == 32 for _, xor in slots.values())


def test_digest_that_differs_is_answered_by_have(make_link):
    """With all ids of the slot, and on a new link of every slot."""
    sender = make_link()
    envelope = Envelope(late_s=200)
    sender.send(TRANSACTION, envelope.packed)
    assert is_alive(sender)
    newcomer = make_link()
    assert is_alive(newcomer)
    newcomer.send(SYNC, [DIGEST, []])
    told = b""
    while envelope.id not in [told[at : at + 32] for at in range(0, len(told), 32)]:
        told += next_sync(newcomer, HAVE)[1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        [3, b""],
        [HAVE],
        [HAVE, bytes(31)],
        [HAVE, bytes(33)],
        [HAVE, bytes(4097 * 32)],
        [WANT, "00"],
        [DIGEST, [[1, 1]]],
    ],
    ids=["empty", "another kind", "no ids", "31 bytes", "33 bytes", "4,097 ids", "text", "slot without xor"],
)
def test_malformed_sync_is_refused(link, body):
    """What does not decode, is no whole number of ids, or is over its limits ends the link."""
    link.send(SYNC, body)
    assert link.ending() == PROTOCOL_ERROR


@pytest.mark.parametrize("slot", [[1, 1, bytes(31)], [1 << 63, 1, bytes(32)]], ids=["short xor", "number of 2^63"])
def test_malformed_digest_is_refused(link, slot):
    """Slots have a number, a count and 32 bytes."""
    link.send(SYNC, [DIGEST, [slot]])
    assert link.ending() == PROTOCOL_ERROR


def test_digest_of_257_slots_is_refused(link):
    """A digest has at most 256."""
    link.send(SYNC, [DIGEST, [[number, 1, bytes(32)] for number in range(257)]])
    assert link.ending() == PROTOCOL_ERROR


def test_empty_have_and_want_are_taken(link):
    """Nothing is asked for, and nothing comes."""
    link.send(SYNC, [HAVE, b""])
    link.send(SYNC, [WANT, b""])
    assert is_alive(link)
