"""Tickets: both forms read the same, and anything else is an error that says so."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire.candidates import decode_candidate
from kodectl.wire.tickets import MAX_CANDIDATES, Ticket, decode_ticket, encode_ticket, ticket_object

LINE = "candidate:1 1 udp 2130706431 203.0.113.5 5000 typ host"
TICKET = Ticket("abcd", "x" * 22, (decode_candidate(LINE),))


def test_both_forms_read_the_same() -> None:
    line = encode_ticket(*TICKET)
    assert line.isascii()
    assert line.isprintable()
    assert decode_ticket(line) == decode_ticket(json.dumps(ticket_object(*TICKET))) == TICKET
    assert ticket_object(*TICKET) == {"ufrag": "abcd", "pwd": "x" * 22, "candidates": [LINE]}


def test_candidates_that_do_not_read_are_passed_over_and_too_many_left_off() -> None:
    told = {"ufrag": "abcd", "pwd": "x" * 22, "candidates": ["", None, 7, "x", LINE, *[LINE] * 200], "more": 1}
    ticket = decode_ticket(json.dumps(told))
    assert ticket.candidates == TICKET.candidates * (MAX_CANDIDATES - 4)


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "{}", "e30", '{"ufrag":"a:b","pwd":"","candidates":[]}', "[" * 60_000, "{" + "x" * 70_000]
)
def test_what_is_no_ticket(text: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_ticket(text)
    assert caught.value.code == "ticket_malformed"


@given(
    st.text(max_size=100) | st.dictionaries(st.sampled_from(["ufrag", "pwd", "candidates"]), st.text()).map(json.dumps)
)
def test_any_text_is_a_ticket_or_a_wire_error(text: str) -> None:
    with suppress(WireError):
        assert isinstance(decode_ticket(text), Ticket)
