"""Letters and presence records: vectors, round trips, limits, and any bytes give a value or WireError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.identity import Identity
from kodectl.errors import WireError
from kodectl.wire import rpc
from kodectl.wire.candidates import Candidate, CandidateType
from kodectl.wire.contacts import Contact
from kodectl.wire.nat import Behavior
from kodectl.wire.offers import (
    MAX_CANDIDATES,
    Correspondents,
    Letter,
    NatHint,
    Offer,
    OfferKind,
    letter_is_signed,
    pack_letter,
    unpack_letter,
)
from kodectl.wire.packets import MAX_PACKET, MESSAGE_HEAD, TAG_SIZE
from kodectl.wire.presence import MAX_RENDEZVOUS, is_presence_of, pack_presence, unpack_presence
from kodectl.wire.record import pack_record, record_statement, unpack_record
from kodectl.wire.suite import RealSuite

SUITE = RealSuite()
SENDER, TARGET, OTHER = (Identity(SUITE, bytes((number,)) * 32) for number in (1, 2, 3))
BETWEEN = Correspondents(TARGET.node_id, SENDER.node_id, b"session1")
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signalling.json").read_text())
HEAD = 64 + 32
CONTENT_HEAD = 19


def candidate(number: int = 1, ip: str = "192.0.2.7", **changes: Any) -> Candidate:
    made = Candidate("f1", 1, "udp", 2_130_706_431 - number, (ip, 30_000 + number), CandidateType.HOST)
    return made._replace(**changes)


FULL = Offer(
    OfferKind.OFFER,
    "ufrg",
    "password-of-22-letters",
    (
        candidate(1),
        candidate(2, type=CandidateType.SERVER_REFLEXIVE, related=("10.0.0.1", 5)),
        candidate(3, ip="2001:db8::7", type=CandidateType.PEER_REFLEXIVE, foundation="a" * 32),
        candidate(4, transport="tcp", type=CandidateType.RELAYED, related=("2001:db8::8", 6)),
    ),
    False,
    NatHint(Behavior.ENDPOINT_INDEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT, -2, True),
    ("192.0.2.8", 30303),
    ("2001:db8::9", 40404),
)
LETTERS = {
    "all fields": Letter(1, 1, 0, 1_790_000_000_123, FULL),
    "nothing but what was heard": Letter(3, 4, 2, 1_790_000_000_456),
    "a refusal": Letter(1, 1, 1, 0, Offer.refusal("busy")),
    "go": Letter(65_535, 65_535, 65_535, 2**64 - 1, Offer(OfferKind.GO)),
}


def packed(letter: Letter, between: Correspondents = BETWEEN, identity: Identity = SENDER) -> bytes:
    return pack_letter(letter, between, identity.public_key, identity.sign)


def content(data: bytes) -> bytes:
    """A letter with this content and no good signature."""
    return bytes(HEAD) + data


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
def test_letters_come_back_as_they_were(letter):
    read = unpack_letter(packed(letter))
    assert read.letter == letter
    assert letter_is_signed(SUITE, read, BETWEEN)
    assert unpack_letter(packed(letter) + b"of a later version").letter == letter


@pytest.mark.parametrize("vector", VECTORS["letters"], ids=lambda vector: vector["name"])
def test_letters_are_those_of_the_vectors(vector):
    between = Correspondents(*(bytes.fromhex(vector[name]) for name in ("target", "sender", "session")))
    assert packed(LETTERS[vector["name"]], between).hex() == vector["packed"]
    assert letter_is_signed(SUITE, unpack_letter(bytes.fromhex(vector["packed"])), between)


@pytest.mark.parametrize(
    "between",
    [
        BETWEEN._replace(target=OTHER.node_id),
        BETWEEN._replace(sender=OTHER.node_id),
        BETWEEN._replace(session=b"session2"),
    ],
)
def test_a_letter_is_no_good_elsewhere(between):
    assert not letter_is_signed(SUITE, unpack_letter(packed(LETTERS["go"])), between)


def test_whoever_signs_another_ones_letter_is_found_out():
    forged = pack_letter(LETTERS["go"], BETWEEN, OTHER.public_key, OTHER.sign)
    assert not letter_is_signed(SUITE, unpack_letter(forged), BETWEEN)
    borrowed_name = pack_letter(LETTERS["go"], BETWEEN, SENDER.public_key, OTHER.sign)
    assert not letter_is_signed(SUITE, unpack_letter(borrowed_name), BETWEEN)


def test_any_changed_byte_is_seen():
    good = packed(LETTERS["all fields"])
    for position in range(0, len(good), 7):
        changed = good[:position] + bytes((good[position] ^ 1,)) + good[position + 1 :]
        try:
            assert not letter_is_signed(SUITE, unpack_letter(changed), BETWEEN)
        except WireError:
            continue


def test_a_letter_cut_short_is_none():
    good = packed(LETTERS["all fields"])
    for size in range(len(good)):
        with pytest.raises(WireError):
            unpack_letter(good[:size])


def test_candidates_that_do_not_fit_are_left_out_from_the_end():
    large = tuple(candidate(number, ip="2001:db8::7", foundation="f" * 32) for number in range(MAX_CANDIDATES))
    letter = Letter(1, 1, 0, 0, Offer(OfferKind.OFFER, candidates=large))
    read = unpack_letter(packed(letter)).letter.offer
    assert read is not None
    assert 0 < len(read.candidates) < MAX_CANDIDATES
    assert read.candidates == large[: len(read.candidates)]
    assert 900 - 60 < len(packed(letter)) <= rpc.MAX_LETTER
    small = tuple(candidate(number) for number in range(MAX_CANDIDATES + 4))
    read = unpack_letter(packed(Letter(1, 1, 0, 0, Offer(OfferKind.OFFER, candidates=small)))).letter.offer
    assert read is not None
    assert read.candidates == small[:MAX_CANDIDATES]


def test_the_largest_letter_fits_a_packet():
    signal = rpc.Signal(bytes(32), bytes(32), bytes(8), 255, b"", bytes(rpc.MAX_LETTER))
    assert len(rpc.pack_message(2**32 - 1, signal)) + MESSAGE_HEAD + TAG_SIZE <= MAX_PACKET


@pytest.mark.parametrize("step", [0, None, 40_000])
def test_a_step_that_is_none_is_not_told(step):
    letter = Letter(1, 1, 0, 0, Offer(OfferKind.OFFER, hint=NatHint(port_step=step)))
    read = unpack_letter(packed(letter)).letter.offer
    assert read is not None
    assert read.hint.port_step is None


def test_what_a_later_version_may_say_is_passed_over():
    read = unpack_letter(content(bytes((1, 0xFC, 0xFF)) + bytes(CONTENT_HEAD - 3) + bytes(6))).letter
    assert read.offer is not None
    assert read.offer.hint == NatHint()
    odd = bytes((0x25,)) + bytes(4) + b"\1f" + b"\x04" + bytes(6) + b"\0"
    offer = unpack_letter(content(b"\1" + bytes(CONTENT_HEAD - 1) + bytes(5) + b"\1" + odd)).letter.offer
    assert offer is not None
    assert offer.candidates == ()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\6" + bytes(CONTENT_HEAD - 1) + bytes(6), "kind 6"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + b"\x41" + bytes(0x41) + bytes(5), "text of 65"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + b"\1\n" + bytes(5), "printable"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + b"\1\xff" + bytes(5), "printable"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + b"\0\0\0\5" + bytes(20), "family 5"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + bytes(5) + b"\x11" + bytes(600), "17 candidates"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + bytes(5) + b"\1" + bytes(5) + b"\1f\0\0", "without an address"),
        (b"\1" + bytes(CONTENT_HEAD - 1) + bytes(5) + b"\1" + bytes(5) + b"\1-\4" + bytes(7), "foundation"),
    ],
)
def test_what_makes_no_sense_is_refused(data, why):
    with pytest.raises(WireError, match=why):
        unpack_letter(content(data))


@given(data=st.binary(max_size=1000))
def test_any_bytes_are_a_letter_or_a_wire_error(data):
    for one in (data, content(data), content(b"\1" + bytes(CONTENT_HEAD - 1) + data)):
        try:
            read = unpack_letter(one).letter
        except WireError:
            continue
        assert read.offer is None or len(read.offer.candidates) <= MAX_CANDIDATES


addresses = st.tuples(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda ip: ip.compressed), st.integers(0, 65_535)
)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64)
candidates = st.builds(
    Candidate,
    st.text("abcXYZ019+/", min_size=1, max_size=32),
    st.just(1),
    st.sampled_from(["udp", "tcp"]),
    st.integers(0, 2**32 - 1),
    addresses,
    st.sampled_from(list(CandidateType)),
    st.none() | addresses,
)
behaviors = st.none() | st.sampled_from(list(Behavior))
offers = st.builds(
    Offer,
    st.sampled_from(list(OfferKind)),
    texts,
    texts,
    st.lists(candidates, max_size=6).map(tuple),
    st.booleans(),
    st.builds(NatHint, behaviors, behaviors, st.none() | st.integers(-30_000, 30_000).filter(bool), st.booleans()),
    st.none() | addresses,
    st.none() | addresses,
    texts,
)
numbers = st.integers(0, 65_535)


@given(letter=st.builds(Letter, numbers, numbers, numbers, st.integers(0, 2**64 - 1), st.none() | offers))
def test_any_letter_comes_back_as_it_was(letter):
    read = unpack_letter(pack_letter(letter, BETWEEN, bytes(32), lambda message: bytes(64))).letter
    if letter.offer is not None and read.offer is not None and read.offer.candidates != letter.offer.candidates:
        kept = len(read.offer.candidates)
        letter = letter._replace(offer=letter.offer._replace(candidates=letter.offer.candidates[:kept]))
    assert read == letter


# -- presence ----------------------------------------------------------------------------------------------------------


def contact(number: int) -> Contact:
    return Contact(bytes((number,)) * 32, f"192.0.2.{number}", 30301, 30303)


@pytest.mark.parametrize("count", range(MAX_RENDEZVOUS + 1))
def test_presence_comes_back_as_it_was(count):
    named = tuple(contact(number) for number in range(1, count + 1))
    assert unpack_presence(pack_presence(named)) == named


def test_presence_is_that_of_the_vectors():
    vector = VECTORS["presence"]
    named = [contact(number) for number in vector["numbers"]]
    assert pack_presence(named).hex() == vector["packed"]


def test_presence_names_no_more_than_four():
    assert len(unpack_presence(pack_presence([contact(number) for number in range(1, 9)]))) == MAX_RENDEZVOUS
    with pytest.raises(WireError, match="more than 4"):
        unpack_presence(b"\1" + b"".join(contact(number).packed for number in range(1, 6)))


@pytest.mark.parametrize("value", [b"", b"\0", b"\2", b"\1\4"])
def test_what_is_no_presence_is_refused(value):
    with pytest.raises(WireError):
        unpack_presence(value)


@given(value=st.binary(max_size=300))
def test_any_bytes_are_a_presence_or_a_wire_error(value):
    for one in (value, b"\1" + value):
        try:
            assert len(unpack_presence(one)) <= MAX_RENDEZVOUS
        except WireError:
            continue


def test_only_the_node_itself_tells_of_its_presence():
    def record(publisher: Identity, key: bytes) -> Any:
        return unpack_record(pack_record(record_statement(publisher.public_key, key, 1, 1, b"\1"), bytes(64)))

    assert is_presence_of(SENDER.node_id, record(SENDER, SENDER.node_id))
    assert not is_presence_of(SENDER.node_id, record(OTHER, SENDER.node_id))
    assert not is_presence_of(SENDER.node_id, record(SENDER, OTHER.node_id))


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: str(vector["kind"]))
def test_messages_are_those_of_the_vectors(vector):
    kind, request_id, body = rpc.unpack_message(bytes.fromhex(vector["packed"]))
    assert (kind, request_id) == (vector["kind"], vector["request_id"])
    assert rpc.pack_message(request_id, rpc.unpack_body(kind, body)).hex() == vector["packed"]
