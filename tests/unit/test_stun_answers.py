"""The answers to Binding requests: what each kind of client gets, and how little can be made of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.stun_answers import (
    ANSWER_BURST,
    FIRST,
    NETWORK_ANSWERS_PER_S,
    NETWORK_BURST,
    BindingResponder,
    Grid,
    Place,
    Reply,
)
from kodectl.wire.stun import (
    COOKIE,
    Address,
    Attribute,
    Change,
    Message,
    MessageClass,
    Method,
    StunError,
    decode,
    encode,
)

ID, CLASSIC_ID = bytes(range(12)), bytes(range(16))
SOURCE = ("20.0.0.7", 4000)
GRID = Grid(("20.1.0.1", "20.1.0.2"), (3478, 3479))
UDP_HEADERS = {4: 28, 6: 48}
MAX_GROWTH = 1.5


def request(*attributes: tuple[int, Any], transaction_id: bytes = ID, fingerprint: bool = False) -> bytes:
    asked = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes)
    return encode(asked, fingerprint=fingerprint)


def unlimited() -> SharedBudget:
    return SharedBudget(TokenBucket(1e9, 1e9), 1e9, 1e9)


def answered(data: bytes, source: Address = SOURCE) -> Message:
    answer = BindingResponder().answer(data, source, 0.0)
    assert answer is not None
    return decode(answer)


class TestOneAddress:
    @pytest.mark.parametrize("source", [SOURCE, ("2001:db8::7", 4000)])
    def test_a_request_is_answered_with_where_it_came_from_and_nothing_else(self, source: Address) -> None:
        mapped = ((Attribute.XOR_MAPPED_ADDRESS, source),)
        assert answered(request(), source) == Message(MessageClass.SUCCESS, Method.BINDING, ID, mapped)

    def test_a_classic_client_gets_the_address_as_it_knows_it(self) -> None:
        data = request((Attribute.CHANGE_REQUEST, Change(False, False)), transaction_id=CLASSIC_ID)
        mapped = ((Attribute.MAPPED_ADDRESS, SOURCE),)
        assert answered(data) == Message(MessageClass.SUCCESS, Method.BINDING, CLASSIC_ID, mapped)

    def test_a_fingerprint_is_answered_with_one(self) -> None:
        assert answered(request(fingerprint=True)).get(Attribute.FINGERPRINT) is not None

    def test_what_must_be_understood_and_is_not_is_refused_by_name(self) -> None:
        unknown = ((0x7FFF, b""), (0xC0DE, b""), (Attribute.PRIORITY, 1), (Attribute.RESPONSE_ADDRESS, SOURCE))
        answer = answered(request(*unknown))
        assert answer.kind is MessageClass.ERROR
        assert answer.get(Attribute.ERROR_CODE) == StunError(420, "Unknown")
        assert answer.get(Attribute.UNKNOWN_ATTRIBUTES) == (
            0x7FFF,
            Attribute.PRIORITY,
            Attribute.RESPONSE_ADDRESS,
        )

    def test_a_classic_client_is_refused_with_an_even_number_of_types(self) -> None:
        answer = answered(request((Attribute.RESPONSE_ADDRESS, SOURCE), transaction_id=CLASSIC_ID))
        assert answer.get(Attribute.UNKNOWN_ATTRIBUTES) == (2, 2)

    def test_credentials_and_what_need_not_be_understood_are_passed_over(self) -> None:
        asked = Message(MessageClass.REQUEST, Method.BINDING, ID, ((Attribute.USERNAME, "u"), (0xC0DE, b"x")))
        assert answered(encode(asked, key=b"key")).kind is MessageClass.SUCCESS

    def test_there_is_no_other_address_to_answer_from(self) -> None:
        """RFC 5780 wants an error, and a client of RFC 3489 silence."""
        change = (Attribute.CHANGE_REQUEST, Change(ip=False, port=True))
        answer = answered(request(change))
        assert answer.get(Attribute.ERROR_CODE).code == 420
        assert answer.get(Attribute.UNKNOWN_ATTRIBUTES) == (Attribute.CHANGE_REQUEST,)
        assert BindingResponder().answer(request(change, transaction_id=CLASSIC_ID), SOURCE, 0.0) is None

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\0\1",
            encode(Message(MessageClass.INDICATION, Method.BINDING, ID)),
            encode(Message(MessageClass.SUCCESS, Method.BINDING, ID)),
            encode(Message(MessageClass.ERROR, Method.BINDING, ID)),
            encode(Message(MessageClass.REQUEST, Method.ALLOCATE, ID)),
            encode(Message(MessageClass.REQUEST, Method.SHARED_SECRET, CLASSIC_ID)),
            b"\0\1\0\4" + COOKIE + ID,
            request(fingerprint=True)[:-1] + b"\xff",
        ],
    )
    def test_nothing_else_is_answered(self, data: bytes) -> None:
        """An answer to an answer could go round for ever."""
        assert BindingResponder().answer(data, SOURCE, 0.0) is None


class TestLimits:
    def test_one_network_gets_so_much_and_others_still_get_theirs(self) -> None:
        responder = BindingResponder()
        from_one_network = [
            responder.answer(request(), (f"20.0.0.{n % 250}", n + 1), 0.0) for n in range(int(NETWORK_BURST) + 5)
        ]
        assert sum(answer is not None for answer in from_one_network) == NETWORK_BURST
        assert responder.answer(request(), ("20.0.1.1", 1), 0.0)
        assert responder.counters == {"answered": NETWORK_BURST + 1, "over_rate": 5}
        later = [responder.answer(request(), SOURCE, 1.0) for _ in range(int(NETWORK_ANSWERS_PER_S) + 5)]
        assert sum(answer is not None for answer in later) == NETWORK_ANSWERS_PER_S

    def test_all_networks_together_get_so_much(self) -> None:
        responder = BindingResponder()
        sources = [(f"20.{n >> 8}.{n & 255}.1", 1) for n in range(int(ANSWER_BURST) + 5)]
        answers = [responder.answer(request(), source, 0.0) for source in sources]
        assert sum(answer is not None for answer in answers) == ANSWER_BURST

    def test_what_is_no_request_costs_nobody_anything(self) -> None:
        responder = BindingResponder()
        for _ in range(int(ANSWER_BURST)):
            responder.answer(encode(Message(MessageClass.INDICATION, Method.BINDING, ID)), SOURCE, 0.0)
        assert responder.answer(request(), SOURCE, 0.0)


class TestTwoAddresses:
    """RFC 5780, section 6.1, table 1."""

    @pytest.mark.parametrize("place", [FIRST, Place(0, 1), Place(1, 0), Place(1, 1)])
    @pytest.mark.parametrize(
        "change", [Change(False, False), Change(True, False), Change(False, True), Change(True, True)]
    )
    @pytest.mark.parametrize("transaction_id", [ID, CLASSIC_ID])
    def test_the_answer_leaves_from_where_it_should_and_says_so(
        self, place: Place, change: Change, transaction_id: bytes
    ) -> None:
        asked = request((Attribute.CHANGE_REQUEST, change), transaction_id=transaction_id)
        reply = BindingResponder(grid=GRID).reply(asked, SOURCE, 0.0, place)
        assert reply is not None
        assert reply[1:] == (Place(place.ip ^ change.ip, place.port ^ change.port), SOURCE)
        answer = decode(reply.data)
        origin, other = (
            (Attribute.SOURCE_ADDRESS, Attribute.CHANGED_ADDRESS)
            if answer.is_classic
            else (Attribute.RESPONSE_ORIGIN, Attribute.OTHER_ADDRESS)
        )
        assert answer.get(origin) == (GRID.ips[reply.place.ip], GRID.ports[reply.place.port])
        assert answer.get(other) == (GRID.ips[1 - place.ip], GRID.ports[1 - place.port])
        assert answer.get(Attribute.MAPPED_ADDRESS) == SOURCE
        assert answer.get(Attribute.XOR_MAPPED_ADDRESS) == (None if answer.is_classic else SOURCE)

    def test_the_answer_goes_to_the_port_that_was_named(self) -> None:
        reply = self.reply((Attribute.RESPONSE_PORT, 5000))
        assert reply.target == (SOURCE[0], 5000)

    @pytest.mark.parametrize("size", [0, 7, 1500])
    def test_padding_is_answered_with_as_much(self, size: int) -> None:
        asked = request((Attribute.PADDING, bytes(size)))
        answer = BindingResponder(grid=GRID).answer(asked, SOURCE, 0.0)
        assert answer is not None
        assert len(decode(answer).get(Attribute.PADDING)) == size

    def test_padding_to_another_port_is_refused(self) -> None:
        reply = self.reply((Attribute.RESPONSE_PORT, 5000), (Attribute.PADDING, b"x"))
        assert decode(reply.data).get(Attribute.ERROR_CODE) == StunError(400, "Bad Request")
        assert reply.target == SOURCE

    def test_a_refusal_leaves_from_where_the_request_came(self) -> None:
        reply = self.reply((Attribute.CHANGE_REQUEST, Change(True, True)), (0x7FFF, b""), place=Place(1, 0))
        assert (reply.place, reply.target) == (Place(1, 0), SOURCE)

    def reply(self, *attributes: tuple[int, Any], place: Place = FIRST) -> Reply:
        reply = BindingResponder(grid=GRID).reply(request(*attributes), SOURCE, 0.0, place)
        assert reply is not None
        return reply


raw_attributes = st.lists(
    st.tuples(
        st.sampled_from([*map(int, Attribute), 0x7FFF, 0x7FFE]),
        st.sampled_from([0, 1, 2, 4, 8, 20, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    ),
    max_size=20,
)


@given(raw_attributes, st.sampled_from([COOKIE + ID, CLASSIC_ID]), st.booleans(), st.booleans())
def test_no_answer_of_one_address_is_larger_than_half_as_much_again(
    framed: list[tuple[int, bytes]], block: bytes, over_ipv6: bool, fingerprint: bool
) -> None:
    packed = b"".join(n.to_bytes(2) + len(v).to_bytes(2) + v + bytes(-len(v) % 4) for n, v in framed)
    data = b"\0\1" + len(packed).to_bytes(2) + block + packed
    if fingerprint:
        asked = Message(MessageClass.REQUEST, Method.BINDING, block[4:] if block[:4] == COOKIE else block)
        data = encode(asked._replace(attributes=tuple((0x7000 + n, v) for n, v in framed)), fingerprint=True)
    source = ("2001:db8::1", 1) if over_ipv6 else SOURCE
    headers = UDP_HEADERS[6 if over_ipv6 else 4]
    answer = BindingResponder(unlimited()).answer(data, source, 0.0)
    if answer is not None:
        assert len(answer) + headers <= MAX_GROWTH * (len(data) + headers)
        decode(answer)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_are_too_much_for_it(data: bytes, has_two: bool) -> None:
    responder = BindingResponder(unlimited(), GRID if has_two else None)
    for begun in (data, b"\0\1" + data):
        responder.answer(begun, SOURCE, 0.0)
