"""That strangers get in, from who has come in."""

from __future__ import annotations

import pytest

from kodectl.core.strangers import COLLECTED_S, HAILED_LIMIT_S, MAX_HAILED, Strangers

OWN = "20.0.0.1"
ONE, OTHER, SAME_NETWORK = "21.1.0.1", "21.2.0.1", "21.1.7.99"


def came(strangers: Strangers, ip: str, now: float) -> None:
    strangers.hailed(ip, now)
    strangers.proved(ip, now + 0.1)


def test_two_networks_prove_it_and_one_does_not() -> None:
    strangers = Strangers()
    came(strangers, ONE, 0.0)
    came(strangers, SAME_NETWORK, 0.0)
    assert not strangers.get_in(OWN, 1.0)
    came(strangers, OTHER, 0.0)
    assert strangers.get_in(OWN, 1.0)


def test_a_hail_alone_proves_nothing_nor_does_a_handshake_of_one_that_was_sent_something_before() -> None:
    strangers = Strangers()
    for ip in (ONE, OTHER):
        strangers.hailed(ip, 0.0)
    assert not strangers.get_in(OWN, 1.0)
    strangers.proved(ONE, 1.0)
    strangers.proved("21.3.0.1", 1.0)
    assert not strangers.get_in(OWN, 1.0)
    strangers.proved(OTHER, HAILED_LIMIT_S + 1.0)
    assert not strangers.get_in(OWN, 1.0)


def test_neighbours_prove_nothing() -> None:
    strangers = Strangers()
    for ip in ("192.168.1.7", "10.0.0.1", "127.0.0.1", "100.64.0.1"):
        came(strangers, ip, 0.0)
    assert not strangers.get_in(OWN, 1.0)


def test_they_have_to_come_within_some_minutes() -> None:
    strangers = Strangers()
    came(strangers, ONE, 0.0)
    came(strangers, OTHER, COLLECTED_S + 1.0)
    assert not strangers.get_in(OWN, COLLECTED_S + 2.0)


def test_what_is_proved_stays_so_until_the_address_changes() -> None:
    strangers = Strangers()
    came(strangers, ONE, 0.0)
    came(strangers, OTHER, 0.0)
    assert strangers.get_in(OWN, 1.0)
    assert strangers.get_in(OWN, 1e6)
    strangers.forget()
    assert not strangers.get_in(OWN, 1.0)


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ("21.1.0.9", (ONE, OTHER)),
        (OWN, (ONE, "2001:db9::1")),
        ("2a02:1::1", (ONE, OTHER)),
        ("2a02:1::1", ("2a02:8071:1:1::5", "2a02:8071:9:2::5")),
        ("2a02:1::1", ("2a02:1:1::5", "2a03:1::5")),
    ],
)
def test_neighbours_of_a_site_and_the_other_family_do_not_count(own: str, others: tuple[str, str]) -> None:
    strangers = Strangers()
    for ip in others:
        came(strangers, ip, 0.0)
    assert not strangers.get_in(own, 1.0)


def test_ipv6_proves_ipv6() -> None:
    strangers = Strangers()
    came(strangers, "2a02:1::1", 0.0)
    came(strangers, "2a03:1::1", 0.0)
    assert strangers.get_in("2a04:1::1", 1.0)


def test_what_is_kept_is_bounded() -> None:
    strangers = Strangers()
    for number in range(2 * MAX_HAILED):
        strangers.hailed(f"21.{number // 250}.{number % 250}.1", 0.0)
    assert len(strangers._hailed) == MAX_HAILED
    for number in range(2 * MAX_HAILED):
        came(strangers, f"{22 + number // 250}.{number % 250}.0.1", 0.0)
    assert len(strangers._came) == MAX_HAILED
