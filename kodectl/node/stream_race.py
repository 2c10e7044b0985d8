"""Two ways to one node, the second begun a moment after the first: the stream that is there first is used.

Where a node is said to be may be the outside of its NAT, and a connection there takes seconds to be given up; another way is
looked for meanwhile (as in RFC 8305, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kodectl.errors import KodectlError
from kodectl.runtime.base import ConnectFailed, Mailbox, Runtime, Scope, Stopped, Stream, TimedOut
from kodectl.wire.enode import Enode

HEAD_START_S = 0.5
"""Of the port that a node is said to listen on: a round trip of this length, and less than the first repetition of a SYN."""


class Reached(NamedTuple):
    """A stream to a node that was looked for by its id. `enode`: where it was found; `tcp` 0 if by traversing its NAT."""

    stream: Stream
    enode: Enode


Way = Callable[[], Reached]
Outcome = tuple[int, Reached | Exception]


class NoWay(Exception):
    """None got there. `failures`: what became of each, in their order: ConnectFailed, TimedOut, or what KodectlError is."""

    def __init__(self, failures: list[Exception]) -> None:
        super().__init__(*failures)
        self.failures = failures


def first_of(runtime: Runtime, scope: Scope, name: str, ways: Sequence[Way]) -> Reached:
    """Goes them side by side, in tasks called `name`; waits. Where one fails, the next one's turn has come. Streams that come
    too late are closed. Raises NoWay, or Stopped."""
    outcomes: Mailbox[Outcome] = runtime.mailbox(len(ways))
    failures: dict[int, Exception] = {}
    begun = 0
    closer = scope.on_close(outcomes.close)
    try:
        while len(failures) < len(ways):
            if begun < len(ways):
                scope.spawn(name, _go, ways[begun], begun, outcomes)
                begun += 1
            try:
                number, outcome = outcomes.get(HEAD_START_S if begun < len(ways) else None)
            except TimedOut:
                continue
            if isinstance(outcome, Reached):
                return outcome
            if not isinstance(outcome, ConnectFailed | TimedOut | KodectlError):
                raise outcome
            failures[number] = outcome
        raise NoWay([failures[number] for number in range(len(ways))])
    finally:
        closer.cancel()
        outcomes.close()


def _go(way: Way, number: int, outcomes: Mailbox[Any]) -> None:
    try:
        reached = way()
    except Stopped:
        outcomes.close()
        raise
    except Exception as error:
        outcomes.put((number, error))
    else:
        if not outcomes.put((number, reached)):
            reached.stream.close()
