"""That strangers get in, from who has come in."""

from __future__ import annotations

from kodectl.core.strangers import HAILED_LIMIT_S, MAX_HAILED, REMEMBERED_S, Strangers

ONE, OTHER, SAME_NETWORK = "21.1.0.1", "21.2.0.1", "21.1.0.99"


def came(strangers: Strangers, ip: str, now: float) -> None:
    strangers.hailed(ip, now)
    strangers.proved(ip, now + 0.1)


def test_two_networks_prove_it_and_one_does_not() -> None:
    strangers = Strangers()
    came(strangers, ONE, 0.0)
    came(strangers, SAME_NETWORK, 0.0)
    assert not strangers.get_in(1.0)
    came(strangers, OTHER, 0.0)
    assert strangers.get_in(1.0)


def test_a_hail_alone_proves_nothing_nor_does_a_handshake_of_one_that_was_sent_something_before() -> None:
    strangers = Strangers()
    for ip in (ONE, OTHER):
        strangers.hailed(ip, 0.0)
    assert not strangers.get_in(1.0)
    strangers.proved(ONE, 1.0)
    strangers.proved("21.3.0.1", 1.0)
    assert not strangers.get_in(1.0)
    strangers.proved(OTHER, HAILED_LIMIT_S + 1.0)
    assert not strangers.get_in(1.0)


def test_neighbours_prove_nothing() -> None:
    strangers = Strangers()
    for ip in ("192.168.1.7", "10.0.0.1", "127.0.0.1", "100.64.0.1"):
        came(strangers, ip, 0.0)
    assert not strangers.get_in(1.0)


def test_it_is_forgotten() -> None:
    strangers = Strangers()
    came(strangers, ONE, 0.0)
    came(strangers, OTHER, 100.0)
    assert strangers.get_in(REMEMBERED_S)
    assert not strangers.get_in(REMEMBERED_S + 1.0)
    came(strangers, ONE, REMEMBERED_S)
    assert strangers.get_in(REMEMBERED_S + 1.0)
    strangers.forget()
    assert not strangers.get_in(REMEMBERED_S + 1.0)


def test_what_is_kept_is_bounded() -> None:
    strangers = Strangers()
    for number in range(2 * MAX_HAILED):
        strangers.hailed(f"21.{number // 250}.{number % 250}.1", 0.0)
    assert len(strangers._hailed) == MAX_HAILED
    for number in range(2 * MAX_HAILED):
        came(strangers, f"22.{number // 250}.{number % 250}.1", 0.0)
    assert len(strangers._networks) == MAX_HAILED
