"""Several ways to a relayed address, each begun a moment after the one before: what is there first is used.

A relay that is silent is given up after 40 s, and one over UDP is as silent where that is blocked: neither is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kodectl.errors import KodectlError
from kodectl.node.turn_client import Allocation
from kodectl.runtime.base import Mailbox, Runtime, Scope, Stopped, TimedOut

log = logging.getLogger(__name__)

HEAD_START_S = 0.5
"""Of each over the next one: two round trips, which is what an allocation takes over UDP, on nearly all paths. Where it is
too short, there is an allocation for nothing, which is let go at once."""

Outcome = tuple[Allocation, KodectlError | None]


def first_of(runtime: Runtime, scope: Scope, allocations: Sequence[Allocation]) -> Allocation:
    """Establishes them; waits for the first that is there, and lets go of the others. Where one fails, the next one's turn has
    come. Raises what became of the first that failed, or Stopped."""
    outcomes: Mailbox[Outcome] = runtime.mailbox(len(allocations))
    failures: list[KodectlError] = []
    won: Allocation | None = None
    waiting = list(allocations)
    try:
        while len(failures) < len(allocations):
            if waiting:
                one = waiting.pop(0)
                scope.spawn(f"allocate at {one.host}", _establish, one, outcomes)
            try:
                one, failure = outcomes.get(HEAD_START_S if waiting else None)
            except TimedOut:
                continue
            if failure is None:
                won = one
                return one
            failures.append(failure)
        raise failures[0]
    finally:
        outcomes.close()
        for one in allocations:
            if one is not won:
                one.close()


def _establish(allocation: Allocation, outcomes: Mailbox[Outcome]) -> None:
    try:
        allocation.establish()
    except KodectlError as error:
        log.debug("no relay at %s: %s", allocation.host, error)
        outcomes.put((allocation, error))
    except Stopped:
        outcomes.close()  # the scope's end, or the race's
        raise
    else:
        if not outcomes.put((allocation, None)):
            allocation.close()
