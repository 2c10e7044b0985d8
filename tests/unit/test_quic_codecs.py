"""What is read of QUIC packets without keys, the credit rules, and the paths: any input, any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kodectl.core.quic_credit import GRANT_STEP, ReceiveCredit, SendCredit
from kodectl.core.quic_paths import ALIVE_S, MAX_PATHS, Path, Paths
from kodectl.errors import WireError
from kodectl.wire.quic import (
    CREDIT_WINDOW,
    MIN_INITIAL,
    Initial,
    destination_id,
    is_initial,
    pack_limit,
    pack_version_negotiation,
    unpack_initial,
    unpack_limits,
    unpack_varint,
)

RFC_9001_A2 = bytes.fromhex("c300000001088394c8f03e5157080000449e7b9aec34") + bytes(1178)
"""The header of the client's Initial in RFC 9001, A.2 (protected; the payload is not looked at)."""


def initial(destination: bytes = b"d" * 8, source: bytes = b"s" * 8, token: bytes = b"", version: int = 1) -> bytes:
    ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
    head = b"\xc0" + version.to_bytes(4) + ids + (0x4000 | len(token)).to_bytes(2) + token
    return head.ljust(MIN_INITIAL, b"\0")


class TestPackets:
    def test_the_rfcs_initial_is_read(self) -> None:
        assert unpack_initial(RFC_9001_A2) == Initial(1, bytes.fromhex("8394c8f03e515708"), b"", b"")
        assert destination_id(RFC_9001_A2) == bytes.fromhex("8394c8f03e515708")

    def test_a_token_is_read(self) -> None:
        assert unpack_initial(initial(token=b"t" * 300)) == Initial(1, b"d" * 8, b"s" * 8, b"t" * 300)

    def test_short_packets_name_whom_they_are_for(self) -> None:
        assert destination_id(b"\x41" + b"12345678" + b"rest") == b"12345678"
        assert destination_id(b"\x41" + b"1234567") is None
        assert destination_id(b"\x01" + b"12345678") is None

    def test_another_version_is_answered_with_ours(self) -> None:
        question = unpack_initial(initial(version=0x6B3343CF, source=b"s" * 20))
        answer = pack_version_negotiation(question)
        assert answer[1:5] == bytes(4)
        assert destination_id(answer) == question.source
        assert answer.endswith(b"\x08" + b"d" * 8 + b"\0\0\0\1")

    @pytest.mark.parametrize(
        ("packet", "words"),
        [
            (initial()[:1199], "not an Initial"),
            (b"\x40" + initial()[1:], "not an Initial"),
            (b"\xe0" + initial()[1:], "not an Initial's"),
            (initial(destination=b"d" * 7), "connection id"),
            (initial(destination=b"d" * 21), "connection id"),
            (initial(source=b"s" * 21), "connection id"),
            (initial(b"d" * 8, b"s" * 8, b"t" * 5)[:23] + b"\x7f\xff" + bytes(1175), "token"),
        ],
    )
    def test_what_is_no_initial_is_refused(self, packet: bytes, words: str) -> None:
        with pytest.raises(WireError, match=words):
            unpack_initial(packet)

    @given(
        st.binary(max_size=80),
        st.sampled_from([b"", b"\xc0\0\0\0\1", b"\xcf\0\0\0\1\x08", b"\xff\1\2\3\4\xff"]),
        st.booleans(),
    )
    def test_any_bytes_are_read_or_refused(self, data: bytes, head: bytes, padded: bool) -> None:
        packet = (head + data).ljust(MIN_INITIAL if padded else 0, b"\xff")
        found = destination_id(packet)
        assert found is None or len(found) <= 20
        try:
            question = unpack_initial(packet)
        except WireError:
            return
        assert is_initial(packet)
        assert question.destination == packet[6 : 6 + packet[5]]

    @given(st.binary(max_size=10), st.integers(0, 12))
    def test_any_integer_is_read_or_refused(self, data: bytes, offset: int) -> None:
        try:
            value, end = unpack_varint(data, offset)
        except WireError:
            return
        assert 0 <= value < 1 << 62
        assert offset < end <= len(data)

    def test_the_rfcs_integers_are_read(self) -> None:
        """RFC 9000, A.1."""
        texts = {
            "c2197c5eff14e88c": 151_288_809_941_952_652,
            "9d7f3e7d": 494_878_333,
            "7bbd": 15_293,
            "25": 37,
            "4025": 37,
        }
        for text, value in texts.items():
            assert unpack_varint(bytes.fromhex(text), 0) == (value, len(text) // 2)

    @given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.integers(0, 7))
    def test_of_several_limits_the_last_one_counts(self, limits: list[int], cut: int) -> None:
        data = b"".join(map(pack_limit, limits)) + bytes(cut)
        assert unpack_limits(data) == (limits[-1] if limits else None, bytes(cut))


class CreditMachine(RuleBasedStateMachine):
    """A writer and a reader with messages under way between them."""

    def __init__(self) -> None:
        super().__init__()
        self.writer, self.reader = SendCredit(), ReceiveCredit()
        self.under_way: list[int] = []
        self.grants: list[int] = []
        self.unread = 0

    @rule(size=st.integers(1, 2 * CREDIT_WINDOW))
    def write(self, size: int) -> None:
        taken = min(size, self.writer.room)
        self.writer.spend(taken)
        self.under_way.append(taken)

    @precondition(lambda self: self.under_way)
    @rule()
    def arrive(self) -> None:
        self.unread += self.under_way[0]
        self.reader.arrive(self.under_way.pop(0))

    @rule(part=st.floats(0, 1))
    def read(self, part: float) -> None:
        size = int(self.unread * part)
        self.unread -= size
        limit = self.reader.read(size)
        if limit is not None:
            self.grants.append(limit)

    @precondition(lambda self: self.grants)
    @rule()
    def grant(self) -> None:
        self.writer.grant(self.grants.pop(0))

    @invariant()
    def holds(self) -> None:
        assert 0 <= self.writer.room <= CREDIT_WINDOW
        assert self.unread + sum(self.under_way) <= CREDIT_WINDOW

    def teardown(self) -> None:
        """When all is read, there is room again."""
        while self.under_way:
            self.arrive()
        self.read(1.0)
        while self.grants:
            self.grant()
        assert self.writer.room > CREDIT_WINDOW - GRANT_STEP


TestCredit = CreditMachine.TestCase


class TestCreditRules:
    def test_over_the_credit_is_a_fault(self) -> None:
        reader = ReceiveCredit()
        reader.arrive(CREDIT_WINDOW)
        with pytest.raises(WireError, match="1 bytes over"):
            reader.arrive(1)

    @pytest.mark.parametrize("limit", [0, CREDIT_WINDOW - 1, CREDIT_WINDOW + 11, 2**64 - 1])
    def test_a_limit_that_cannot_be_is_a_fault(self, limit: int) -> None:
        """Given by somebody who wants this side to queue without end, or to stand still."""
        writer = SendCredit()
        writer.spend(10)
        with pytest.raises(WireError, match="credit"):
            writer.grant(limit)


def path(number: int, via: str = "") -> Path:
    return Path(("10.0.0.1", 1), ("10.0.0.2", number), via)


class TestPaths:
    def test_a_new_path_has_an_address_of_its_own(self) -> None:
        paths = Paths(path(1))
        first, second = paths.stand_in(path(1)), paths.stand_in(path(2))
        assert first != second
        assert (paths.behind(first), paths.behind(second)) == (path(1), path(2))
        assert paths.stand_in(path(2)) == second

    def test_a_move_takes_the_place_of_what_was_there(self) -> None:
        paths = Paths(path(1))
        first = paths.stand_in(path(1))
        paths.move(path(1, "relay"))
        assert paths.behind(first) == path(1, "relay")
        assert paths.stand_in(path(1)) == paths.stand_in(path(1, "relay")) == first
        paths.move(path(1))
        assert paths.behind(first) == path(1)

    def test_what_a_path_was_known_as_before_it_was_moved_to_leads_there_still(self) -> None:
        """The library has gone there by itself, and does not know of the move."""
        paths = Paths(path(1))
        second = paths.heard(path(2), ALIVE_S)
        for sent_to in (second, paths.stand_in(path(1))):
            paths.behind(sent_to)
        paths.move(path(2))
        assert paths.behind(second) == path(2)
        paths.move(path(3))
        assert paths.behind(second) == path(3)
        for number in range(4, 500):
            paths.stand_in(path(number))
        assert paths.behind(second) == path(3)

    def test_another_path_has_none_while_the_current_one_is_alive(self) -> None:
        paths = Paths(path(1))
        first = paths.heard(path(1), 10.0)
        assert paths.heard(path(2), 10.0 + ALIVE_S / 2) == first
        assert path(2) not in paths
        assert paths.heard(path(2), 10.0 + ALIVE_S) != first

    def test_forged_senders_push_out_only_each_other(self) -> None:
        paths = Paths(path(1))
        first = paths.stand_in(path(1))
        paths.behind(first)
        for number in range(2, 500):
            paths.stand_in(path(number))
        assert paths.stand_in(path(1)) == first
        assert paths.behind(first) == path(1)

    @given(st.lists(st.tuples(st.sampled_from(["stand_in", "behind", "move"]), st.integers(1, 20)), max_size=60))
    def test_whatever_happens_it_stays_small_and_knows_where_to_send(self, steps: list[tuple[str, int]]) -> None:
        paths = Paths(path(1))
        address = paths.stand_in(path(1))
        for step, number in steps:
            if step == "move":
                paths.move(path(number))
                assert paths.behind(paths.stand_in(path(number))) == path(number)
            elif step == "behind":
                paths.behind(address)
            else:
                address = paths.stand_in(path(number))
                assert paths.behind(address) is not None
            assert 1 <= len(paths) <= MAX_PATHS
            assert paths.behind(paths.stand_in(paths.path)) == paths.path
