"""Candidate attribute values: what is written, what is read, and what is met in the wild."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire.candidates import (
    Candidate,
    CandidateType,
    decode_candidate,
    encode_candidate,
    require_credentials,
)

HOST = "candidate:1 1 udp 2130706431 203.0.113.5 5000 typ host"
REFLEXIVE = "candidate:2 1 udp 1694498815 203.0.113.5 8998 typ srflx raddr 10.0.1.1 rport 8998"


def test_the_examples_of_the_rfc() -> None:
    assert decode_candidate(HOST) == Candidate(
        "1", 1, "udp", 2130706431, ("203.0.113.5", 5000), CandidateType.HOST, None
    )
    reflexive = decode_candidate(REFLEXIVE)
    assert (reflexive.type, reflexive.related) == (CandidateType.SERVER_REFLEXIVE, ("10.0.1.1", 8998))
    assert [encode_candidate(decode_candidate(text)) for text in (HOST, REFLEXIVE)] == [HOST, REFLEXIVE]


@pytest.mark.parametrize(
    "text",
    [
        HOST.replace("udp", "UDP"),
        f"a={HOST}",
        HOST.removeprefix("candidate:"),
        f"{HOST} generation 0 ufrag x network-cost 10",
        f"{HOST} odd",
        f" {HOST}\r\n",
    ],
)
def test_what_is_met_in_the_wild_is_the_same_candidate(text: str) -> None:
    assert decode_candidate(text) == decode_candidate(HOST)


def test_an_address_that_is_not_told_is_none() -> None:
    hidden = decode_candidate("candidate:2 1 udp 9 203.0.113.5 8998 typ srflx raddr 0.0.0.0 rport 0")
    assert hidden.related is None
    assert encode_candidate(hidden).endswith("typ srflx raddr 0.0.0.0 rport 9")


def test_foundations_of_32_characters_and_addresses_without_zone() -> None:
    assert decode_candidate(HOST.replace(":1 ", f":{'a' * 32} ")).foundation == "a" * 32
    assert decode_candidate(HOST.replace("203.0.113.5", "fe80::1%eth0")).address[0] == "fe80::1"
    assert decode_candidate(HOST.replace("203.0.113.5", "2001:DB8:0::1")).address[0] == "2001:db8::1"


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (HOST, True),
        (HOST.replace("udp", "tcp") + " tcptype active", False),
        (HOST.replace("203.0.113.5", "4b1ce0a3-7d8c.local"), False),
        (HOST.replace(" 5000 ", " 0 "), False),
        (HOST.replace("203.0.113.5", "224.0.0.1"), False),
        (HOST.replace(":1 1 ", ":1 2 "), False),
    ],
)
def test_what_cannot_be_sent_to_is_read_and_not_usable(text: str, usable: bool) -> None:
    assert decode_candidate(text).is_usable is usable


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "candidate cut short"),
        (HOST.replace(":1 ", f":{'a' * 33} "), "candidate with the foundation"),
        (HOST.replace(":1 ", ":-1 "), "candidate with the foundation '-1'"),
        (HOST.replace("5000", "65536"), "candidate with the port '65536'"),
        (HOST.replace("2130706431", "-1"), "candidate with the priority '-1'"),
        (HOST.replace("typ", "type"), "candidate without a type"),
        (HOST.replace("host", "guest"), "candidate of the type 'guest'"),
        (HOST + "x" * 1024, "candidate of 1078 characters; the limit is 1024"),
    ],
)
def test_what_is_no_candidate(text: str, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode_candidate(text)


@given(st.text(max_size=200) | st.lists(st.sampled_from([*HOST.split(), "typ", "٣", "raddr", "::1"])).map(" ".join))
def test_any_text_is_a_candidate_or_a_wire_error(text: str) -> None:
    try:
        candidate = decode_candidate(text)
    except WireError:
        return
    assert decode_candidate(encode_candidate(candidate)) == candidate


@pytest.mark.parametrize(("ufrag", "password"), [("abc", "x" * 22), ("abcd", "x" * 21), ("ab:d", "x" * 22)])
def test_credentials_that_are_none(ufrag: str, password: str) -> None:
    with pytest.raises(WireError, match="an ICE"):
        require_credentials(ufrag, password)
    require_credentials("aB+/", "x" * 256)
