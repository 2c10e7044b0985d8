"""Who gets credentials of a relay, and how long they are good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core.relay_credentials import HELD_S, SLOT_S, RelayCredentials
from kodectl.wire.stun_credentials import MD5, SHA256, long_term_key

REALM, SECRET, NODE = "kodechain", b"s" * 32, b"n" * 32


@pytest.fixture
def credentials() -> RelayCredentials:
    return RelayCredentials(REALM, SECRET)


@pytest.mark.parametrize("algorithm", [MD5, SHA256])
@given(now=st.floats(0, 1e9), age_s=st.floats(0, 3 * SLOT_S))
def test_what_is_given_is_good_for_as_long_as_was_said(algorithm: int, now: float, age_s: float) -> None:
    credentials = RelayCredentials(REALM, SECRET)
    name, password, lifetime_s = credentials.issue(NODE, now)
    assert SLOT_S < lifetime_s <= 2 * SLOT_S
    expected = long_term_key(name, REALM, password, algorithm) if int(now) + lifetime_s > now + age_s else None
    assert credentials.key_of(name, algorithm, now + age_s) == expected


def test_asking_again_gives_no_second_name(credentials: RelayCredentials) -> None:
    names = {credentials.issue(NODE, now).username for now in range(0, SLOT_S, 60)}
    assert len(names) == 1
    assert credentials.issue(NODE, SLOT_S).username not in names
    assert credentials.issue(b"m" * 32, 0).username not in names


def test_what_was_allocated_may_be_kept_for_longer_but_not_for_good(credentials: RelayCredentials) -> None:
    name, password, lifetime_s = credentials.issue(NODE, 0.0)
    key = long_term_key(name, REALM, password, SHA256)
    assert credentials.key_of(name, SHA256, lifetime_s) is None
    assert credentials.held_key_of(name, SHA256, lifetime_s) == key
    assert credentials.held_key_of(name, SHA256, lifetime_s + HELD_S - 1) == key
    assert credentials.held_key_of(name, SHA256, lifetime_s + HELD_S) is None


def test_all_names_of_a_node_are_one_account(credentials: RelayCredentials) -> None:
    first, later = (credentials.issue(NODE, now).username for now in (0, SLOT_S))
    assert first != later
    assert credentials.account_of(first) == credentials.account_of(later)
    assert credentials.account_of(credentials.issue(b"m" * 32, 0).username) != credentials.account_of(first)


def test_nobody_makes_a_password_for_another_name(credentials: RelayCredentials) -> None:
    name, password, _ = credentials.issue(NODE, 0.0)
    later = "9" + name[1:]
    assert credentials.key_of(later, SHA256, 0.0) != long_term_key(later, REALM, password, SHA256)
    assert RelayCredentials(REALM, b"t" * 32).key_of(name, SHA256, 0.0) != credentials.key_of(name, SHA256, 0.0)


@pytest.mark.parametrize("node", ["\x01" * 32, "z" * 32, "AB" * 16, "0" * 31 + "\n"])
def test_a_name_that_was_never_given_has_no_key(credentials: RelayCredentials, node: str) -> None:
    assert credentials.key_of(f"999999999999:{node}", MD5, 0.0) is None


@given(name=st.text(max_size=80), now=st.floats(0, 1e9))
def test_any_name_is_nobody(name: str, now: float) -> None:
    assert RelayCredentials(REALM, SECRET).key_of(name, MD5, now) is None


@pytest.mark.parametrize(
    "name", ["", ":", "99:", "99:" + "ab" * 15, "٩٩:" + "ab" * 16, "-9:" + "ab" * 16, "9" * 13 + ":" + "ab" * 16]
)
def test_names_of_another_form_are_nobody(credentials: RelayCredentials, name: str) -> None:
    assert credentials.key_of(name, MD5, 0.0) is None
