"""Whole networks as `kodectl sim` plays them."""

from __future__ import annotations

from typing import Any

import pytest

from kodectl.errors import LocalMisuse
from kodectl.sim.course import SETTLE_S, Course
from kodectl.sim.population import FIRST, Member
from kodectl.sim.report import MessagesReport, SimReport, spread_of
from kodectl.sim.scenario import Scenario

SMALL: dict[str, Any] = {"nodes": 8, "duration_s": 60.0, "connects_per_min": 60.0, "mix": {"open": 1, "symmetric": 2}}


def played(**changes: Any) -> SimReport:
    with Course(Scenario(**(SMALL | changes))) as course:
        course.advance(course.length_s)
        assert course.is_over
        return course.report(1.0)


def test_a_calm_network_does_all_it_is_asked_for() -> None:
    report = played(churn_per_min=0.0, seed=4)
    assert (report.troubles, report.faults, report.ended) == ([], [], "complete")
    assert report.nodes.at_end == report.nodes.came == 8
    assert report.nodes.by_kind == {"open": 4, "symmetric": 4}
    assert report.messages.published > 5
    assert report.messages.wanted == report.messages.delay_s.count == 7 * report.messages.published
    assert report.values.put == report.values.got > 3
    connects = report.connects
    assert connects.asked == connects.direct + connects.relayed > 0
    assert connects.relayed  # of two behind symmetric NATs


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    first, again, other = (played(seed=seed, churn_per_min=20.0, duration_s=30.0) for seed in (3, 3, 4))
    assert first == again
    assert first.trace != other.trace


def test_nodes_go_and_come_again() -> None:
    report = played(churn_per_min=40.0, seed=2)
    nodes = report.nodes
    assert nodes.went > 20
    assert 0 < nodes.crashed < nodes.went
    assert nodes.came_again > 0
    assert nodes.came == 8 + nodes.went
    assert nodes.at_end == 8
    assert report.faults == []
    assert report.messages.missing == 0
    assert report.connects.gone > 0
    connects = report.connects
    assert connects.asked == connects.direct + connects.relayed + connects.gone + sum(connects.failed.values())


def test_who_comes_again_is_who_it_was() -> None:
    with Course(
        Scenario(**(SMALL | {"churn_per_min": 20.0, "seed": 2, "messages_per_min": 0.0, "connects_per_min": 0.0}))
    ) as course:
        course.advance(course.length_s)
        members = course.population.members
        again = [member for member in members if member.lives > 1]
        assert again
        assert all(_remembers_peers(member) for member in again if member.node is not None)
        assert all(member.lives == 1 for member in members[:FIRST])


def _remembers_peers(member: Member) -> bool:
    return member.node is not None and bool(member.node.peering.links)


def test_what_is_lost_on_the_way_is_told() -> None:
    """Who is cut off gets nothing, and is a node without a peer."""
    with Course(Scenario(**(SMALL | {"churn_per_min": 0.0}))) as course:
        course.advance(course.length_s - 2 * SETTLE_S - 30.0)
        alone = course.population.members[3]
        course.world.partition([alone.runtime.name if alone.kind == "open" else f"box{alone.number}"])
        course.advance(course.length_s)
        report = course.report(1.0)
    assert report.messages.missing > 0
    assert any("deliveries missing" in trouble for trouble in report.troubles)


def test_an_exception_of_a_node_is_a_fault() -> None:
    with Course(Scenario(**SMALL)) as course:
        course.advance(10.0)
        node = course.population.members[0].node
        assert node is not None
        node.scope.spawn("broken", lambda: 1 // 0)
        course.advance(1.0)
        faults = course.report(1.0).faults
    assert len(faults) == 1
    assert "broken" in faults[0]
    assert "ZeroDivisionError" in faults[0]


def test_a_run_that_was_cut_short_is_told_as_far_as_it_went() -> None:
    with Course(Scenario(**SMALL)) as course:
        course.advance(2.0)
        report = course.report(1.0, "interrupted")
    assert (report.ended, report.virtual_s) == ("interrupted", 2.0)
    assert report.nodes.at_end == 5
    assert report.messages == MessagesReport(0, 0, 0, spread_of([]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 3},
        {"nodes": 5_000},
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"latency_s": 0.0},
        {"loss": 1.0},
        {"loss": -0.1},
        {"reordering": 2.0},
        {"churn_per_min": float("inf")},
        {"mix": {"cone": 1.0}},
        {"mix": {"open": 0.0}},
        {"mix": {"open": -1.0, "symmetric": 2.0}},
    ],
)
def test_what_cannot_be_played_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LocalMisuse) as refused:
        Scenario(**(SMALL | wrong))
    assert refused.value.code == "bad_scenario"


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    spread = spread_of([float(value) for value in range(100, 0, -1)])
    assert (spread.count, spread.median, spread.p95, spread.max) == (100, 51.0, 96.0, 100.0)
    assert spread_of([]).median is None
