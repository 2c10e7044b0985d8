"""Work that comes again and again, without a task that waits for it."""

from __future__ import annotations

import pytest

from kodectl.runtime.base import Stopped
from kodectl.runtime.rounds import Rounds
from kodectl.sim.world import World

PAUSE_S = 5.0


def test_a_round_begins_a_pause_after_the_last_one_has_ended():
    begun = []
    with World(1) as world:
        runtime = world.host("20.0.0.1")
        scope = runtime.scope("node")

        def work() -> None:
            begun.append(world.now)
            scope.sleep(2.0)

        Rounds(runtime, scope, "work", lambda: PAUSE_S, work)
        assert runtime.task_count() == 0
        world.run_for(20.0)
        assert begun == [5.0, 12.0, 19.0]
        scope.close()
        world.run_for(20.0)
        assert len(begun) == 3
        assert runtime.task_count() == 0


def test_a_closed_scope_has_no_rounds_and_a_failure_ends_them():
    with World(1) as world:
        runtime = world.host("20.0.0.1")
        scope = runtime.scope("node")

        def fail() -> None:
            raise ValueError("broken")

        Rounds(runtime, scope, "work", lambda: PAUSE_S, fail)
        world.run_for(20.0)
        assert [failure.task for failure in world.failures] == ["node/work"]
        with pytest.raises(Stopped):
            Rounds(runtime, scope, "work", lambda: PAUSE_S, fail)
        world.failures.clear()
