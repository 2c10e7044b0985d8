"""What was seen, which times are acceptable, what can still be handed out."""

import gc
import hashlib
import sys
from operator import xor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodectl.core import message_cache, seen
from kodectl.core.message_cache import MessageCache
from kodectl.core.seen import SLOT_MS, Seen
from kodectl.core.time_window import JUMP_GRACE_S, MAX_AGE_S, MAX_AHEAD_S, TimeWindow

NOON_MS = 1_790_000_000_000


def an_id(number):
    return hashlib.sha256(str(number).encode()).digest()


def test_a_digest_counts_and_xors_the_ids_of_a_slot():
    memory = Seen()
    first, second = an_id(1), an_id(2)
    memory.add(first, NOON_MS)
    memory.add(second, NOON_MS + SLOT_MS - 1)
    memory.add(an_id(3), NOON_MS + SLOT_MS)
    one, other = memory.digest()
    assert (one.slot, one.count, one.xor) == (NOON_MS // SLOT_MS, 2, bytes(map(xor, first, second)))
    assert (other.slot, other.count, other.xor) == (one.slot + 1, 1, an_id(3))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="from CPython 3.14 on dictionaries are always looked through")
def test_the_garbage_collector_has_nothing_to_do_with_the_ids():
    memory = Seen()
    memory.add(an_id(1), NOON_MS)
    gc.collect()
    assert not gc.is_tracked(memory.ids)


def test_slots_differ_where_either_side_has_something_else():
    mine, theirs = Seen(), Seen()
    for memory in (mine, theirs):
        memory.add(an_id("both"), NOON_MS)
    mine.add(an_id("mine"), NOON_MS + SLOT_MS)
    theirs.add(an_id("theirs"), NOON_MS + 2 * SLOT_MS)
    mine.add(an_id("same count"), NOON_MS + 3 * SLOT_MS)
    theirs.add(an_id("other id"), NOON_MS + 3 * SLOT_MS)
    noon = NOON_MS // SLOT_MS
    assert mine.differing(theirs.digest()) == theirs.differing(mine.digest()) == [noon + 1, noon + 2, noon + 3]
    assert mine.differing(mine.digest()) == []


def test_a_forgotten_slot_takes_nothing_more():
    memory = Seen()
    memory.add(an_id(1), NOON_MS)
    memory.add(an_id(2), NOON_MS + SLOT_MS)
    memory.forget_before((NOON_MS + SLOT_MS) / 1000)
    assert list(memory.ids) == [an_id(2)]
    assert not memory.is_open(NOON_MS)
    assert memory.is_open(NOON_MS + SLOT_MS)
    assert memory.is_open(NOON_MS - SLOT_MS), "nothing of that slot was ever delivered"


def test_forgotten_slots_stay_closed_when_there_are_too_many_to_list(monkeypatch):
    monkeypatch.setattr(seen, "MAX_CLOSED", 3)
    memory = Seen()
    for number in range(10):
        memory.add(an_id(number), NOON_MS + number * SLOT_MS)
        memory.forget_before((NOON_MS + (number + 1) * SLOT_MS) / 1000)
    assert not any(memory.is_open(NOON_MS + number * SLOT_MS) for number in range(10))


def a_window():
    """Now is 0, and noon."""
    window = TimeWindow()
    window.observe(0.0, NOON_MS / 1000)
    return window


def test_memory_is_bounded_by_forgetting_the_oldest_and_then_by_refusing():
    window, memory = a_window(), Seen(limit=100)
    for number in range(200):
        time_ms = NOON_MS + number // 10 * SLOT_MS
        assert memory.has_room(time_ms, window, (time_ms - NOON_MS) / 1000)
        memory.add(an_id(number), time_ms)
    assert len(memory.ids) == 100
    assert not memory.is_open(NOON_MS)
    crowded = Seen(limit=100)
    for number in range(100):
        crowded.add(an_id(number), NOON_MS)
    assert not crowded.has_room(NOON_MS, window, 69.0), (
        "the last minute is not forgotten: its messages could come again"
    )
    assert crowded.has_room(NOON_MS, window, 70.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.booleans()), max_size=60))
def test_nothing_is_taken_twice(steps):
    """Ids come in any order, again and again, while slots are forgotten."""
    window, memory, taken = a_window(), Seen(limit=20), []
    for number, slot, forget in steps:
        time_ms = NOON_MS + slot * SLOT_MS
        # An id covers the message's time, so each id has one.
        message_id = an_id((number, slot))
        if forget:
            memory.forget_before(time_ms / 1000)
        elif message_id not in memory.ids and memory.has_room(time_ms, window, 100.0) and memory.is_open(time_ms):
            memory.add(message_id, time_ms)
            taken.append(message_id)
    assert len(taken) == len(set(taken))


def test_the_window_is_ten_minutes_back_and_two_ahead():
    window = TimeWindow()
    window.observe(50.0, 1000.0)
    assert window.lateness(1000.0 - MAX_AGE_S, 50.0) == 0
    assert window.lateness(1000.0 - MAX_AGE_S - 3, 50.0) == 3
    assert window.lateness(1000.0 + MAX_AHEAD_S, 50.0) == 0
    assert window.lateness(1000.0 + MAX_AHEAD_S + 3, 50.0) == -3
    assert window.oldest(50.0) == 1000.0 - MAX_AGE_S


def test_an_age_is_by_the_clock_by_which_it_is_least():
    window = TimeWindow()
    window.observe(50.0, 1000.0)
    assert (window.age(990.0, 50.0), window.age(1030.0, 50.0)) == (10, -30)
    window.observe(60.0, 4010.0)
    assert (window.age(1030.0, 60.0), window.age(4000.0, 60.0)) == (-20, 10)


@pytest.mark.parametrize("jump_s", [-86_400.0, -700.0, 700.0, 86_400.0])
def test_after_a_jump_both_clocks_count_for_a_while(jump_s):
    window = TimeWindow()
    window.observe(0.0, 100_000.0)
    window.observe(10.0, 100_010.0 + jump_s)
    assert window.lateness(100_010.0, 10.0) == 0
    assert window.lateness(100_010.0 + jump_s, 10.0) == 0
    assert window.lateness(100_010.0 + jump_s / 2 + 5 * jump_s, 10.0) != 0
    assert window.oldest(10.0) == 100_010.0 + min(0.0, jump_s) - MAX_AGE_S
    later = 10.0 + JUMP_GRACE_S
    window.observe(later, 100_010.0 + JUMP_GRACE_S + jump_s)
    assert window.lateness(100_000.0 + later, later) != 0


def test_a_clock_that_is_slewed_has_not_jumped():
    window = TimeWindow()
    for second in range(3600):
        window.observe(float(second), 1000.0 + second * 1.0005)
    assert window.lateness(1000.0 + 3599 * 1.0005 - MAX_AGE_S - 1, 3599.0) > 0


def test_a_clock_that_jumps_all_the_time_costs_no_memory():
    window = TimeWindow()
    for step in range(100):
        window.observe(float(step), 1000.0 * (step % 7))
    assert len(window._former) <= 4


def test_the_cache_lets_the_oldest_go():
    cache = MessageCache(max_bytes=1000, max_messages=5)
    for number in range(4):
        cache.add(an_id(number), bytes(300), now=float(number))
    assert cache.get(an_id(0)) is None
    assert cache.size_bytes == 900
    for number in range(10, 20):
        cache.add(an_id(number), b"x", now=10.0)
    assert len(cache) == 5
    assert cache.get(an_id(19)) == b"x"
    cache.expire(10.0 + message_cache.MAX_AGE_S)
    assert len(cache) == cache.size_bytes == 0
