"""Whose answer is whose, where many sessions share a socket."""

from __future__ import annotations

from kodectl.core.ice.owners import ANSWERED_WITHIN_S, MAX_OPEN, Owners


def test_answers_belong_to_who_has_asked() -> None:
    owners: Owners[str] = Owners()
    owners.asked(b"one", "ann", 0.0)
    owners.asked(b"two", "bob", 0.0)
    assert (owners.of(b"one"), owners.of(b"two"), owners.of(b"three")) == ("ann", "bob", None)


def test_a_repetition_is_waited_for_from_then_on() -> None:
    owners: Owners[str] = Owners()
    owners.asked(b"again", "ann", 0.0)
    owners.asked(b"once", "ann", 0.0)
    owners.asked(b"again", "ann", 30.0)
    owners.asked(b"later", "bob", ANSWERED_WITHIN_S + 1.0)
    assert (owners.of(b"once"), owners.of(b"again")) == (None, "ann")
    assert len(owners) == 2


def test_there_are_so_many_and_the_oldest_go() -> None:
    owners: Owners[str] = Owners()
    for number in range(MAX_OPEN + 10):
        owners.asked(b"%d" % number, "ann", 0.0)
    assert len(owners) == MAX_OPEN
    assert (owners.of(b"9"), owners.of(b"10")) == (None, "ann")


def test_who_has_left_is_asked_for_nothing() -> None:
    owners: Owners[str] = Owners()
    for number in range(10):
        owners.asked(b"%d" % number, ("ann", "bob")[number % 2], 0.0)
    owners.forget("ann")
    assert [owners.of(b"%d" % number) for number in range(4)] == [None, "bob", None, "bob"]
    assert len(owners) == 5
