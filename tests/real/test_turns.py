"""Turns of the hub: tasks that never wait for anything, beside timers and beside each other."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from kodectl.runtime.green import GreenRuntime
from kodectl.runtime.turns import TURN_S


@pytest.fixture
def runtime() -> Iterator[GreenRuntime]:
    made = GreenRuntime()
    yield made
    made.close()


def work(seconds: float) -> None:
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


def test_who_has_to_wait_goes_on_in_order_and_timers_run_in_between(runtime: GreenRuntime) -> None:
    done: list[str] = []
    scope = runtime.scope("test")

    def busy(name: str) -> None:
        for _ in range(5):
            runtime.take_turn()
            done.append(name)
            work(1.1 * TURN_S)

    def tick() -> None:
        while len(done) - done.count(".") < 15:
            done.append(".")
            scope.sleep(0)

    for name in "abc":
        scope.spawn(name, busy, name)
    scope.spawn("tick", tick)
    assert scope.join(30) == []
    worked = [name for name in done if name != "."]
    # The first ends its own turn before the others have asked for one.
    assert "".join(worked) == "a" + "abcabcabcabc" + "bc"
    assert not any("." not in two for two in itertools.pairwise(done))


def test_who_does_little_never_waits(runtime: GreenRuntime) -> None:
    scope = runtime.scope("test")
    turns = 0

    def count() -> None:
        nonlocal turns
        while not scope.closed:
            turns += 1
            scope.sleep(0.0001)

    scope.spawn("count", count)
    scope.sleep(0)
    before = turns
    for _ in range(1000):
        runtime.take_turn()
    assert turns == before
    scope.close()
    assert scope.join(10) == []
