"""What came of a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Spread(msgspec.Struct, frozen=True):
    """Of `count` values; null where there are none."""

    count: Count
    median: float | None
    p95: float | None
    max: float | None


class NodesReport(msgspec.Struct, frozen=True):
    """`by_kind`: of those there at the end, and `unlinked` of them had no peer. `came` and `went` (`crashed` of them) in all,
    `came_again` with an identity that had been there before. `first_peer_s`: from the start of a node to its first peer."""

    at_end: Count
    by_kind: dict[str, Count]
    unlinked: Count
    came: Count
    came_again: Count
    went: Count
    crashed: Count
    first_peer_s: Spread
    peers: Spread


class MessagesReport(msgspec.Struct, frozen=True):
    """Of those published more than the settling time before the end. `wanted`: deliveries, to every node that was linked at
    the time of publishing and has been there since; `missing` of them did not come."""

    published: Count
    wanted: Count
    missing: Count
    delay_s: Spread


class ConnectsReport(msgspec.Struct, frozen=True):
    """`direct` and `relayed`: by the path a little later; `gone`: one of the two has left meanwhile. `failed`: by outcome."""

    asked: Count
    direct: Count
    relayed: Count
    gone: Count
    failed: dict[str, Count]
    usable_s: Spread


class ValuesReport(msgspec.Struct, frozen=True):
    """`lost`: put and not found a little later, with the one that was to get it still there."""

    put: Count
    not_put: Count
    got: Count
    lost: Count
    put_s: Spread
    get_s: Spread


class SimReport(msgspec.Struct, frozen=True):
    """`ended`: complete | interrupted | deadline. `faults`: exceptions that tasks or callbacks of nodes have let out: bugs.
    `trace`: a hash over when how much went from where to where; the same scenario and seed give the same one."""

    seed: int
    ended: str
    virtual_s: float
    wall_s: float
    nodes: NodesReport
    messages: MessagesReport
    connects: ConnectsReport
    values: ValuesReport
    faults: list[str]
    trace: str

    @property
    def troubles(self) -> list[str]:
        """What did not come off, in words."""
        found = [
            (self.nodes.unlinked, "nodes without a peer"),
            (self.messages.missing, f"of {self.messages.wanted} deliveries missing"),
            (sum(self.connects.failed.values()), f"of {self.connects.asked} connections failed"),
            (self.values.not_put, "values not stored"),
            (self.values.lost, "values not found again"),
        ]
        return [f"{count} {what}" for count, what in found if count]


def spread_of(values: Sequence[float]) -> Spread:
    """Percentiles by the nearest rank."""
    if not values:
        return Spread(0, None, None, None)
    ordered = sorted(values)
    return Spread(
        len(ordered),
        round(ordered[len(ordered) // 2], 4),
        round(ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)], 4),
        round(ordered[-1], 4),
    )
