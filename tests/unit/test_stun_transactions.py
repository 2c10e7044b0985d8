"""Which datagram answers which question, and what an answer says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.stun_transactions import (
    MAX_TRANSACTIONS,
    BindingAnswer,
    Received,
    StunRefused,
    Transaction,
    Transactions,
)
from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.stun import Address, Attribute, Change, Message, MessageClass, Method, StunError, decode, encode

SERVER, ELSEWHERE, MAPPED = ("20.1.0.1", 3478), ("20.1.0.2", 3479), ("20.0.0.7", 4000)
STAY, MOVE = Change(False, False), Change(True, True)


def begun(change: Change = STAY, server: Address = SERVER) -> tuple[Transactions, Transaction]:
    numbers = itertools.count()
    transactions = Transactions(lambda size: next(numbers).to_bytes(size))
    transaction = transactions.begin(server, change)
    transaction.sent(10.0)
    return transactions, transaction


def answer(
    transaction: Transaction, *attributes: tuple[int, Any], kind: MessageClass = MessageClass.SUCCESS, method: int = 1
) -> bytes:
    return encode(Message(kind, method, transaction.transaction_id, attributes))


XOR_MAPPED = (Attribute.XOR_MAPPED_ADDRESS, MAPPED)


def received(*attributes: tuple[int, Any], kind: MessageClass = MessageClass.SUCCESS) -> Received:
    transactions, transaction = begun()
    found = transactions.receive(answer(transaction, *attributes, kind=kind), SERVER, 10.5)
    assert found is not None
    return found


def outcome(*attributes: tuple[int, Any]) -> BindingAnswer:
    found = received(*attributes).outcome
    assert isinstance(found, BindingAnswer)
    return found


class TestQuestion:
    def test_asks_for_a_binding_and_nothing_else(self) -> None:
        _, transaction = begun()
        assert decode(transaction.packet) == Message(MessageClass.REQUEST, Method.BINDING, bytes(12))

    def test_asks_for_an_answer_from_elsewhere(self) -> None:
        _, transaction = begun(Change(ip=False, port=True))
        assert decode(transaction.packet).get(Attribute.CHANGE_REQUEST) == Change(ip=False, port=True)

    @pytest.mark.parametrize("server", [("0.0.0.0", 1), ("224.0.0.1", 1), ("20.1.0.1", 0), ("a.name", 1)])
    def test_asks_one_host_only(self, server: Address) -> None:
        with pytest.raises(LocalMisuse, match="no address of a STUN server"):
            begun(server=server)

    def test_asks_so_many_at_once(self) -> None:
        transactions, first = begun()
        for _ in range(MAX_TRANSACTIONS - 1):
            transactions.begin(SERVER, STAY)
        with pytest.raises(LocalMisuse, match="at once"):
            transactions.begin(SERVER, STAY)
        transactions.end(first)
        transactions.begin(SERVER, STAY)


class TestMatching:
    def test_the_server_answers_once(self) -> None:
        transactions, transaction = begun()
        packed = answer(transaction, XOR_MAPPED)
        assert transactions.receive(packed, SERVER, 10.5) == (
            transaction,
            BindingAnswer(MAPPED, SERVER, None, None, 0.5, 1, None),
        )
        assert transactions.receive(packed, SERVER, 10.5) is None
        assert len(transactions) == 0

    def test_nobody_else_does(self) -> None:
        transactions, transaction = begun()
        assert transactions.receive(answer(transaction, XOR_MAPPED), ELSEWHERE, 10.5) is None
        assert transactions.receive(answer(transaction, XOR_MAPPED), (SERVER[0], 3479), 10.5) is None
        assert len(transactions) == 1

    def test_anybody_does_who_knows_the_id_when_the_answer_is_to_come_from_elsewhere(self) -> None:
        transactions, transaction = begun(MOVE)
        found = transactions.receive(answer(transaction, XOR_MAPPED), ELSEWHERE, 10.5)
        assert isinstance(found, Received)
        assert isinstance(found.outcome, BindingAnswer)
        assert found.outcome.source == ELSEWHERE

    def test_the_spelling_of_an_address_does_not_matter(self) -> None:
        transactions, transaction = begun(server=("2001:DB8:0::1", 3478))
        assert transactions.receive(answer(transaction, XOR_MAPPED), ("2001:db8::1", 3478), 10.5)

    def test_another_id_answers_nothing(self) -> None:
        transactions, transaction = begun()
        other = answer(transaction, XOR_MAPPED).replace(transaction.transaction_id, b"x" * 12)
        assert transactions.receive(other, SERVER, 10.5) is None

    @given(data=st.binary(max_size=100), keeps_id=st.booleans())
    def test_no_bytes_end_it_wrongly(self, data: bytes, keeps_id: bool) -> None:
        transactions, transaction = begun()
        if keeps_id:
            data = data[:8].ljust(8, b"\1") + transaction.transaction_id + data[8:]
        found = transactions.receive(data, SERVER, 10.5)
        if found is None or found.outcome is None:
            assert len(transactions) == 1
        else:
            assert decode(data).kind in (MessageClass.SUCCESS, MessageClass.ERROR)


class TestReading:
    def test_everything_that_a_server_tells(self) -> None:
        told = outcome(
            (Attribute.SOFTWARE, "server"),
            (Attribute.MAPPED_ADDRESS, ("20.9.9.9", 1)),
            XOR_MAPPED,
            (Attribute.RESPONSE_ORIGIN, SERVER),
            (Attribute.OTHER_ADDRESS, ELSEWHERE),
        )
        assert told == BindingAnswer(MAPPED, SERVER, SERVER, ELSEWHERE, 0.5, 1, "server")

    def test_a_server_of_rfc_3489_tells_the_same_in_its_words(self) -> None:
        told = outcome(
            (Attribute.MAPPED_ADDRESS, MAPPED),
            (Attribute.SOURCE_ADDRESS, SERVER),
            (Attribute.CHANGED_ADDRESS, ELSEWHERE),
        )
        assert told[:4] == (MAPPED, SERVER, SERVER, ELSEWHERE)

    def test_what_was_xored_comes_before_what_a_nat_could_rewrite(self) -> None:
        rewritten = (Attribute.MAPPED_ADDRESS, ("10.0.0.1", 1))
        assert outcome(rewritten, (Attribute.OLD_XOR_MAPPED_ADDRESS, MAPPED)).mapped == MAPPED

    def test_ipv4_in_the_clothes_of_ipv6_is_ipv4(self) -> None:
        assert outcome((Attribute.XOR_MAPPED_ADDRESS, ("::ffff:20.0.0.7", 4000))).mapped == MAPPED

    def test_the_time_counts_from_the_first_sending(self) -> None:
        transactions, transaction = begun()
        transaction.sent(10.4)
        found = transactions.receive(answer(transaction, XOR_MAPPED), SERVER, 10.5)
        assert found is not None
        assert isinstance(found.outcome, BindingAnswer)
        assert (found.outcome.rtt_s, found.outcome.sendings) == (0.5, 2)

    @pytest.mark.parametrize("number", [300, 400, 420, 500])
    def test_an_error_is_a_refusal_and_no_other_server_is_asked(self, number: int) -> None:
        error = (Attribute.ERROR_CODE, StunError(number, "Why"))
        alternate = (Attribute.ALTERNATE_SERVER, ELSEWHERE)
        refused = received(error, alternate, kind=MessageClass.ERROR).outcome
        assert isinstance(refused, StunRefused)
        assert (refused.number, refused.code) == (number, "stun_refused")
        assert refused.message == f"the STUN server at 20.1.0.1:3478 refused: {number} Why"

    @pytest.mark.parametrize(
        ("kind", "attributes", "complaint"),
        [
            (MessageClass.SUCCESS, [], "STUN answer without the mapped address"),
            (MessageClass.SUCCESS, [XOR_MAPPED, (0x7FFF, b"")], "STUN answer with the unknown attribute 0x7fff"),
            (
                MessageClass.SUCCESS,
                [(Attribute.XOR_MAPPED_ADDRESS, ("0.0.0.0", 1))],
                "0.0.0.0:1 cannot be anybody's mapped address",
            ),
            (
                MessageClass.SUCCESS,
                [(Attribute.XOR_MAPPED_ADDRESS, ("20.0.0.7", 0))],
                "20.0.0.7:0 cannot be anybody's mapped address",
            ),
            (MessageClass.ERROR, [], "STUN error without a number"),
            (MessageClass.REQUEST, [XOR_MAPPED], "STUN request in place of an answer"),
        ],
    )
    def test_what_cannot_be_used_ends_nothing_and_is_kept(
        self, kind: MessageClass, attributes: list[tuple[int, Any]], complaint: str
    ) -> None:
        transactions, transaction = begun()
        assert transactions.receive(answer(transaction, *attributes, kind=kind), SERVER, 10.5) == (transaction, None)
        assert isinstance(transaction.fault, WireError)
        assert transaction.fault.message == complaint
        found = transactions.receive(answer(transaction, XOR_MAPPED), SERVER, 10.6)
        assert found is not None
        assert found.outcome is not None

    def test_another_method_answers_something_else(self) -> None:
        transactions, transaction = begun()
        packed = answer(transaction, XOR_MAPPED, method=Method.ALLOCATE)
        assert transactions.receive(packed, SERVER, 10.5) == (transaction, None)
