"""Does an answer come in from where nothing was sent to? (RFC 5780, section 4.4, with the loss measured beside it.)"""

from __future__ import annotations

from typing import NamedTuple

from kodectl.core.nat_observations import FilterTest
from kodectl.core.silence import Tally, is_significant
from kodectl.node.inquiry import UNCHANGED, Inquiry, Question
from kodectl.runtime.base import Address, Runtime
from kodectl.wire.stun import Change

ROUND_PAUSE_S = 0.06
"""Between two rounds of up to three requests: 13 rounds, which are enough where nothing is lost, take less than a second."""
ROUND_TRIPS_A_PAUSE = 0.4
"""Of the server, where it is far away: no more than about ten requests are then under way (RFC 8489, section 6.2.1)."""
MAX_ROUNDS = 40
"""Enough where half of the exchanges fail; where more do, nothing is concluded."""
PATIENCE_S = 0.1
"""An answer is overdue after the longest round trip twice, and this."""

BOTH = Change(True, True)
PORT = Change(False, True)


class FilterResult(NamedTuple):
    control: Tally
    both: FilterTest
    port: FilterTest


class FilterTrial:
    """From one socket, which has sent to nobody but the server."""

    def __init__(self, runtime: Runtime, inquiry: Inquiry, server: Address) -> None:
        self._runtime = runtime
        self._inquiry = inquiry
        self._server = server
        self._asked: dict[Change, list[Question]] = {UNCHANGED: [], BOTH: [], PORT: []}

    def run(self, ends: float) -> FilterResult | None:
        """Asks until it is known, or too much is lost; at most until the time `ends`. None: the server does not answer
        from elsewhere, and says so, or ignores the wish."""
        try:
            for _ in range(MAX_ROUNDS):
                for change in self._undecided():
                    self._asked[change].append(self._inquiry.ask(self._server, change))
                self._wait_round(ends)
                if self._is_declined():
                    return None
                if not self._undecided() or self._runtime.now() >= ends:
                    break
            return FilterResult(self._tally(), self._test(BOTH), self._test(PORT))
        finally:
            for questions in self._asked.values():
                self._inquiry.forget(questions)

    def _wait_round(self, ends: float) -> None:
        """In equal steps, whatever arrives: the controls are to meet the same loss as the tests."""
        pause_s = max(ROUND_PAUSE_S, ROUND_TRIPS_A_PAUSE * self._inquiry.longest_rtt_s)
        self._runtime.event().wait(min(pause_s, max(0.0, ends - self._runtime.now())))

    def _undecided(self) -> list[Change]:
        """What is still to be asked. An answer from another address settles both."""
        if self._sources(BOTH):
            return []
        open_tests = [change for change in (BOTH, PORT) if not self._is_decided(change)]
        return [UNCHANGED, *open_tests] if open_tests else []

    def _is_decided(self, change: Change) -> bool:
        return bool(self._sources(change)) or is_significant(self._tally(), self._overdue(change))

    def _is_declined(self) -> bool:
        asked = [*self._asked[BOTH], *self._asked[PORT]]
        return any(
            question.refusal is not None or (question.answer is not None and question.answer.source == self._server)
            for question in asked
        )

    def _sources(self, change: Change) -> frozenset[Address]:
        return frozenset(question.answer.source for question in self._asked[change] if question.answer is not None)

    def _test(self, change: Change) -> FilterTest:
        return FilterTest(self._sources(change), self._overdue(change))

    def _tally(self) -> Tally:
        controls = self._asked[UNCHANGED]
        return Tally(sum(question.answer is not None for question in controls), self._overdue(UNCHANGED))

    def _overdue(self, change: Change) -> int:
        before = self._runtime.now() - PATIENCE_S - 2 * self._inquiry.longest_rtt_s
        return sum(question.answer is None and question.sent_at <= before for question in self._asked[change])
