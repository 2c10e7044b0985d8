"""The ports of a NAT that hands them out in a row (sequential symmetric), foretold.

Packets leave one after the other, each from a fresh socket: some to observers, who say which port they came from, and between
them those that are to open a way to the peer. Whose port nobody saw lies between those of its neighbours.

    turn        0        1        2        3        4
    to          observer observer PEER     observer ...
    port        40001    40002    ?        40004
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import gcd
from typing import NamedTuple

LOWEST_PORT, HIGHEST_PORT = 1_024, 65_535
MIN_SEEN = 3
"""Two gaps that have a divisor in common are a row; with one gap everything is."""
MAX_JUMP = 256
"""Between ports of neighbouring packets: what other hosts open in the same millisecond is less. Three ports that a NAT draws
are as near to each other and in order once in 50,000 times."""


class Seen(NamedTuple):
    """`turn`: which of the packets, in the order in which they left."""

    turn: int
    port: int


def step_of(seen: Iterable[Seen]) -> int | None:
    """From one port to the next, negative where they count down; None for ports that are no row."""
    pairs = list(pairwise(sorted(seen)))
    jumps = [after.port - before.port for before, after in pairs]
    if len(pairs) < MIN_SEEN - 1 or max(map(abs, jumps)) > MAX_JUMP:
        return None
    is_up = jumps[0] > 0
    if any(jump == 0 or (jump > 0) is not is_up for jump in jumps):
        return None
    of_turns = {abs(jump) / (after.turn - before.turn) for jump, (before, after) in zip(jumps, pairs, strict=True)}
    # As many ports for each packet: nobody else took any. Else what the gaps have in common, which need not all have been seen.
    each = min(of_turns)
    step = int(each) if len(of_turns) == 1 and each.is_integer() else gcd(*jumps)
    return step if is_up else -step


def predicted(seen: Sequence[Seen], turn: int, limit: int) -> list[int]:
    """The ports that the packet of this turn may have got, the likeliest first; other hosts take ports of the row too."""
    step = step_of(seen)
    if step is None:
        return []
    before = max((one for one in seen if one.turn < turn), default=None)
    after = min((one for one in seen if one.turn > turn), default=None)
    if before is None:
        assert after is not None, "a step takes ports of other turns"
        last = after.port - step * (after.turn - turn)
        ports = [last - step * more for more in range(limit)]
    else:
        first = before.port + step * (turn - before.turn)
        ports = [first + step * more for more in range(limit)]
        if after is not None:
            between = range(before.port + step, after.port, step)
            ports = sorted(between, key=lambda port: abs(port - first))[:limit]
    return [port for port in ports if LOWEST_PORT <= port <= HIGHEST_PORT]


def all_predicted(seen: Sequence[Seen], turns: Iterable[int], each: int) -> list[int]:
    """Of several packets, the likeliest of each first."""
    guesses = [predicted(seen, turn, each) for turn in turns]
    ranked = [guess[rank] for rank in range(each) for guess in guesses if rank < len(guess)]
    return list(dict.fromkeys(ranked))
