"""The shelves of events: what is kept, what a reader gets, and what it is told that it missed."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kodectl
from kodectl.errors import LocalMisuse
from kodectl.node import events as events_module
from kodectl.node.events import BOUNDS, BOUNDS_OF, EVENT_SIZE, Bounds, Events
from kodectl.node.topics import ALL_TYPES, TOPIC_OF, TYPES_OF, types_of
from kodectl.sim.world import World

BLOCKS, TRANSACTIONS = frozenset({"block"}), frozenset({"transaction"})


class Clock:
    """All of a runtime that keeping events takes."""

    def unix_time(self) -> float:
        return 1_700_000_000.0


@pytest.fixture
def events() -> Events:
    return Events(Clock())  # type: ignore[arg-type]


def seqs(page) -> list[int]:
    return [event.seq for event in page.events]


def test_numbers_go_up_across_types_and_a_page_is_in_their_order(events: Events) -> None:
    for type_ in ("block", "joined", "transaction", "joined", "block"):
        events.emit(type_)
    assert [(event.seq, event.type, event.topic) for event in events.since(0).events] == [
        (1, "block", "message"),
        (2, "joined", "dht"),
        (3, "transaction", "message"),
        (4, "joined", "dht"),
        (5, "block", "message"),
    ]
    page = events.since(1, limit=2, types=types_of(["dht", "block"]))
    assert (seqs(page), page.next, page.missed) == ([2, 4], 4, 0)
    assert seqs(events.since(page.next, types=BLOCKS)) == [5]


def test_messages_are_no_news_of_the_node(events: Events) -> None:
    for type_ in TOPIC_OF:
        events.emit(type_)
    assert events.news == len(TOPIC_OF) - len(TYPES_OF["message"])


def test_a_page_without_a_match_moves_the_reader_on(events: Events) -> None:
    events.emit("block")
    page = events.since(0, types=frozenset({"warning"}))
    assert (page.events, page.next) == ([], 1)


def test_a_flood_of_one_type_pushes_out_nothing_of_another(events: Events) -> None:
    events.emit("port_mapped", method="pcp")
    events.emit("block", payload=b"x")
    for _ in range(2 * BOUNDS_OF["transaction"].events):
        events.emit("transaction", payload=b"")
    first, second = events.since(0, limit=2).events
    assert (first.type, second.type) == ("port_mapped", "block")
    assert len(events.since(0, limit=10**6, types=TRANSACTIONS).events) == BOUNDS_OF["transaction"].events


def test_payloads_are_bounded_in_bytes(events: Events) -> None:
    block = bytes(4 << 20)
    for _ in range(20):
        events.emit("block", payload=block)
    kept = events.since(0, max_size=1 << 40).events
    assert len(kept) == BOUNDS_OF["block"].size // (len(block) + EVENT_SIZE)
    assert kept[-1].seq == 20


def test_what_was_pushed_out_is_not_held(events: Events) -> None:
    """Not even by a slot that is waiting to be cleared."""
    shelf = events._shelves["block"]
    for _ in range(BOUNDS_OF["block"].events + 5):
        events.emit("block", payload=b"")
    assert [event is None for event in shelf._kept[:6]] == [True] * 5 + [False]


def test_a_long_life_leaves_no_slots_behind(events: Events) -> None:
    for _ in range(10 * BOUNDS.events):
        events.emit("node_added")
    assert len(events._shelves["node_added"]._kept) <= 2 * BOUNDS.events + 1


def test_an_event_larger_than_its_shelf_is_told_as_missed(events: Events) -> None:
    events.emit("warning", message="x" * BOUNDS.size)
    events.emit("warning", message="y")
    page = events.since(0)
    assert seqs(page) == [2]
    events.emit("warning", message="x" * BOUNDS.size)
    assert events.since(2).missed == 1


def test_a_page_is_bounded_in_bytes_but_holds_one_event(events: Events) -> None:
    for _ in range(3):
        events.emit("block", payload=bytes(1 << 20))
    page = events.since(0, max_size=1000)
    assert (seqs(page), page.next) == ([1], 1)
    assert seqs(events.since(page.next, max_size=3 << 20)) == [2, 3]


def test_bytes_become_base64_only_when_read(events: Events) -> None:
    events.emit("transaction", payload=b"\x00\xff")
    (event,) = events.since(0).events
    assert event.data["payload"] == b"\x00\xff"
    assert msgspec.json.decode(msgspec.json.encode(event))["data"]["payload"] == "AP8="


def test_what_is_kept_is_nothing_to_look_through_for_garbage(events: Events) -> None:
    events.emit("transaction", payload=b"x")
    assert not gc.is_tracked(events.since(0).events[0])


@given(
    st.lists(st.sampled_from(["block", "joined", "warning"]), max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 40),
)
def test_what_came_and_what_was_missed_are_all_that_was(types: list[str], kept: int, limit: int, since: int) -> None:
    """A reader of everything, at any pace: no event twice, none out of order, and the count of the others exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "BOUNDS", Bounds(kept, 1 << 20))
        patch.setattr(events_module, "BOUNDS_OF", {})
        events = Events(Clock())  # type: ignore[arg-type]
    for type_ in types:
        events.emit(type_)
    place, got, missed = min(since, events.last), [], 0
    begun = place
    while place < events.last:
        page = events.since(place, limit)
        assert page.next > place
        got += seqs(page)
        missed += page.missed or 0
        place = page.next
    assert got == sorted(set(got))
    assert len(got) + missed == events.last - begun or begun == 0


@given(st.lists(st.sampled_from(["block", "joined", "warning"]), max_size=60), st.integers(1, 5), st.integers(1, 40))
def test_what_was_missed_of_some_types_is_never_understated(types: list[str], kept: int, since: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "BOUNDS", Bounds(kept, 1 << 20))
        patch.setattr(events_module, "BOUNDS_OF", {})
        events = Events(Clock())  # type: ignore[arg-type]
    for type_ in types:
        events.emit(type_)
    since = min(since, events.last)
    page = events.since(since, types=frozenset({"block", "joined"}))
    were = sum(type_ != "warning" for type_ in types[since:])
    assert since == 0 or (page.missed or 0) >= were - len(page.events)
    assert (page.missed or 0) <= events.last - since - len(page.events)


def test_a_number_that_was_never_given_starts_over(events: Events) -> None:
    events.emit("ready")
    page = events.since(70)
    assert (seqs(page), page.next, page.missed) == ([1], 1, None)


def test_a_number_of_another_run_starts_over(events: Events) -> None:
    for _ in range(5):
        events.emit("joined")
    assert seqs(events.since(3, run=events.run)) == [4, 5]
    page = events.since(3, run="2001-01-01T00:00:00.000Z")
    assert (seqs(page), page.missed, page.run) == ([1, 2, 3, 4, 5], None, events.run)


def waited(*emitted: tuple[float, str]) -> tuple[list[int], int, float]:
    """What a poll for blocks of 5 s finds, where it goes on, and how long it took."""
    with World(seed=1) as world:
        runtime = world.host("10.0.0.1")
        events = Events(runtime)
        for at_s, type_ in emitted:
            runtime.call_later(at_s, lambda type_=type_: events.emit(type_))
        page = world.call(runtime, events.wait, 0, 5.0, 10, BLOCKS)
        assert not events._waiters
        return seqs(page), page.next, world.now


def test_waiting_ends_with_the_first_event_of_the_types() -> None:
    assert waited((1.0, "transaction"), (2.0, "block"), (3.0, "block")) == ([2], 2, 2.0)


def test_waiting_ends_with_its_time() -> None:
    assert waited((1.0, "transaction")) == ([], 1, 5.0)


def test_names_are_topics_or_types(events: Events) -> None:
    assert types_of([]) == frozenset()
    assert types_of(["message", "joined"]) == {"block", "transaction", "joined"}
    assert types_of(TYPES_OF) == ALL_TYPES
    with pytest.raises(LocalMisuse, match="'blocks'") as caught:
        types_of(["blocks"])
    assert caught.value.code == "unknown_topic"


def test_every_type_that_is_emitted_has_a_topic_and_the_other_way_round() -> None:
    emitted = set()
    for path in Path(kodectl.__path__[0]).rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(func=ast.Attribute(attr="emit"), args=[ast.Constant(str(type_))]):
                    emitted.add(type_)
    assert emitted == ALL_TYPES - {"block", "transaction"}
    assert set(TOPIC_OF) == ALL_TYPES
