"""One session of letters between two nodes: numbered, repeated until heard, taken once and in order.

Letters pass through nodes that may lose, double or delay them, or say that they have passed them on and not do it. So
only the other side's word counts: each letter tells up to which number all of the other's have arrived. What was given up
leaves a gap, which the next letter tells of too.
"""

from __future__ import annotations

from typing import NamedTuple

from kodectl.wire.offers import MAX_NUMBER, Letter, Offer

MAX_UNHEARD = 8
"""Offers that wait to be heard. A connection takes five, and a few more where candidates trickle in."""
MAX_EARLY = 8
"""Offers of the other side that wait for one before them."""
FIRST_REPEAT_S = 0.75
"""Where the round trip is not known: longer than nearly all take through two hops, and short beside a user's patience."""
LEAST_REPEAT_S = 0.4
REPEAT_GROWTH = 2.0
ATTEMPTS = 4
"""The last is 5 s after the first, and 6 s are left for its answer."""
TELL_AGAIN_S = 0.3
"""What arrives again sooner than that is the copy that came by another way, not a repetition: it is not answered."""


class Outgoing(NamedTuple):
    """An offer to be sent now; `attempt` counts from 0."""

    number: int
    offer: Offer
    attempt: int


class _Unheard:
    __slots__ = ("attempt", "due", "first_sent", "number", "offer")

    def __init__(self, number: int, offer: Offer, now: float, due: float) -> None:
        self.number = number
        self.offer = offer
        self.attempt = 0
        self.first_sent = now
        self.due = due


class Correspondence:
    """Nothing raises. `heard` and `oldest` are what every letter has to tell."""

    def __init__(self) -> None:
        self.rtt_s: float | None = None
        """The shortest seen, from an offer to the letter that says it was heard."""
        self.heard = 0
        self._early: dict[int, Offer] = {}
        self._unheard: dict[int, _Unheard] = {}
        self._last_number = 0
        self._owes = False
        self._told_at = float("-inf")

    @property
    def last_number(self) -> int:
        return self._last_number

    @property
    def oldest(self) -> int:
        """The first number that is still repeated, or may come."""
        return min(self._unheard, default=self._last_number + 1)

    @property
    def is_settled(self) -> bool:
        """Everything said has been heard, or given up."""
        return not self._unheard

    # -- out -------------------------------------------------------------------------------------------------------

    def write(self, offer: Offer, now: float) -> Outgoing | None:
        """None when too much is unheard already, or everything has been said that there are numbers for."""
        if len(self._unheard) >= MAX_UNHEARD or self._last_number >= MAX_NUMBER:
            return None
        self._last_number += 1
        self._unheard[self._last_number] = _Unheard(self._last_number, offer, now, now + self._pause_s(0))
        self.told(now)
        return Outgoing(self._last_number, offer, 0)

    def due(self, now: float) -> list[Outgoing]:
        """What is to be sent again now; see `is_exhausted` for when that is over."""
        again = []
        for unheard in self._unheard.values():
            if unheard.due <= now and unheard.attempt + 1 < ATTEMPTS:
                unheard.attempt += 1
                unheard.due = now + self._pause_s(unheard.attempt)
                again.append(Outgoing(unheard.number, unheard.offer, unheard.attempt))
        if again:
            self.told(now)
        return again

    def unheard(self) -> list[Outgoing]:
        """For another way, out of turn: without effect on repetitions."""
        return [Outgoing(one.number, one.offer, one.attempt) for one in self._unheard.values()]

    def is_exhausted(self, now: float) -> bool:
        """The last repetition of something was not heard either."""
        return any(one.due <= now and one.attempt + 1 >= ATTEMPTS for one in self._unheard.values())

    def give_up(self) -> None:
        """What is unheard is not said again."""
        self._unheard.clear()

    def next_deadline(self) -> float | None:
        return min((one.due for one in self._unheard.values()), default=None)

    def _pause_s(self, attempt: int) -> float:
        first = FIRST_REPEAT_S if self.rtt_s is None else min(FIRST_REPEAT_S, max(LEAST_REPEAT_S, 2 * self.rtt_s))
        return first * REPEAT_GROWTH**attempt

    # -- in --------------------------------------------------------------------------------------------------------

    def take(self, letter: Letter, now: float) -> list[Offer]:
        """The offers that are news, in their order."""
        self._take_heard(letter.heard, now)
        news = self._skip_to(letter.oldest)
        number = letter.number
        if letter.offer is None:
            return news
        if number <= self.heard or number in self._early:
            self._owes = self._owes or now - self._told_at >= TELL_AGAIN_S
            return news
        if number > self.heard + MAX_EARLY:
            return news
        self._owes = True
        self._early[number] = letter.offer
        return news + self._in_line()

    def _skip_to(self, oldest: int) -> list[Offer]:
        """What comes before is not waited for any more; what has come of it is news all the same."""
        news = [self._early.pop(number) for number in sorted(self._early) if number < oldest]
        self.heard = max(self.heard, oldest - 1)
        return news + self._in_line()

    def _in_line(self) -> list[Offer]:
        news = []
        while self.heard + 1 in self._early:
            self.heard += 1
            news.append(self._early.pop(self.heard))
        return news

    def owes(self) -> bool:
        """Whether the other side is to be told what was heard: by `told`, or by any letter that leaves."""
        return self._owes

    def told(self, now: float) -> None:
        self._owes = False
        self._told_at = now

    def _take_heard(self, heard: int, now: float) -> None:
        done = [one for number, one in self._unheard.items() if number <= heard]
        for one in done:
            del self._unheard[one.number]
        # Karn's rule: of what was sent twice nobody knows which one was heard.
        if done and not any(one.attempt for one in done):
            rtt_s = now - done[-1].first_sent
            self.rtt_s = rtt_s if self.rtt_s is None else min(self.rtt_s, rtt_s)
