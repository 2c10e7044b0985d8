"""One iterative lookup (Maymounkov and Mazieres 2002, section 2.3): whom to ask next, and when it is over.

Loose rounds: a question that is slow no longer counts against the alpha under way, so corpses cost messages but not time.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from enum import Enum

from kodectl.core.table import K, subnet_of
from kodectl.wire.contacts import Contact

ALPHA = 3
MAX_QUESTIONS = 200
"""An honest network of millions needs a tenth of it; liars who always name somebody closer get no more."""
MAX_CANDIDATES = 512
MAX_FAILED_OF_SUBNET = 4
"""After so many without an answer in one /24 or /64, no more of it are asked: made-up nodes at somebody's addresses
are questions to him."""


class State(Enum):
    NEW = "new"
    ASKED = "asked"
    SLOW = "slow"
    ANSWERED = "answered"
    FAILED = "failed"


class Candidate:
    __slots__ = ("contact", "distance", "hop", "state")

    def __init__(self, contact: Contact, distance: int, hop: int) -> None:
        self.contact = contact
        self.distance = distance
        self.hop = hop
        """How many questions deep it was found; those known at the start are asked in round 1."""
        self.state = State.NEW

    def __lt__(self, other: Candidate) -> bool:
        return self.distance < other.distance


class Lookup:
    """Ends when the `k` closest known, leaving out the failed, have all answered; with `stop_at_target`, as soon as
    the target itself has answered.

    Call `questions()` after every report and ask each contact it gives; report each exactly once by `answered` or
    `failed`, after any number of `slow`."""

    def __init__(
        self,
        target: bytes,
        own_id: bytes,
        seeds: Iterable[Contact],
        k: int = K,
        alpha: int = ALPHA,
        stop_at_target: bool = False,
    ) -> None:
        self.target = target
        self.k = k
        self.questions_asked = 0
        self.rounds = 0
        self._alpha = alpha
        self._number = int.from_bytes(target)
        self._own_id = own_id
        self._stop_at_target = stop_at_target
        self._candidates: list[Candidate] = []
        self._by_id: dict[bytes, Candidate] = {}
        self._failed_of: Counter[str | None] = Counter()
        self._under_way = 0
        self._over = False
        for seed in seeds:
            self._learn(seed, 1)

    @property
    def over(self) -> bool:
        return self._over

    def questions(self) -> list[Contact]:
        """The contacts to ask now; sets `over` when nothing more is to come."""
        if self._over:
            return []
        asked: list[Contact] = []
        waiting = False
        in_view = 0
        for candidate in self._candidates:
            if candidate.state is State.FAILED:
                continue
            in_view += 1
            if in_view > self.k:
                break
            if candidate.state is State.NEW and self._is_suspect(candidate.contact):
                candidate.state = State.FAILED
                in_view -= 1
                continue
            if candidate.state is State.NEW:
                if self._under_way >= self._alpha or self.questions_asked >= MAX_QUESTIONS:
                    waiting = waiting or self._under_way > 0
                    continue
                self._ask(candidate)
                asked.append(candidate.contact)
            waiting = waiting or candidate.state in (State.ASKED, State.SLOW)
        self._over = not waiting
        return asked

    def _ask(self, candidate: Candidate) -> None:
        candidate.state = State.ASKED
        self._under_way += 1
        self.questions_asked += 1
        self.rounds = max(self.rounds, candidate.hop)

    def answered(self, node_id: bytes, contacts: Iterable[Contact]) -> int:
        """Takes in an answer; returns how many of its contacts are news."""
        candidate = self._finish(node_id, State.ANSWERED)
        if candidate is None:
            return 0
        if self._stop_at_target and node_id == self.target:
            self._over = True
        return sum(self._learn(contact, candidate.hop + 1) for contact in contacts)

    def failed(self, node_id: bytes) -> None:
        candidate = self._finish(node_id, State.FAILED)
        if candidate is not None:
            self._failed_of[subnet_of(candidate.contact.ip)] += 1

    def _is_suspect(self, contact: Contact) -> bool:
        if not self._failed_of:
            return False
        subnet = subnet_of(contact.ip)
        return subnet is not None and self._failed_of[subnet] >= MAX_FAILED_OF_SUBNET

    def slow(self, node_id: bytes) -> None:
        candidate = self._by_id.get(node_id)
        if candidate is not None and candidate.state is State.ASKED:
            candidate.state = State.SLOW
            self._under_way -= 1

    def _finish(self, node_id: bytes, state: State) -> Candidate | None:
        candidate = self._by_id.get(node_id)
        if candidate is None or candidate.state not in (State.ASKED, State.SLOW):
            return None
        if candidate.state is State.ASKED:
            self._under_way -= 1
        candidate.state = state
        return candidate

    def _learn(self, contact: Contact, hop: int) -> bool:
        if contact.node_id in self._by_id or contact.node_id == self._own_id:
            return False
        if len(self._candidates) >= MAX_CANDIDATES and not self._drop_farthest(contact):
            return False
        candidate = Candidate(contact, contact.number ^ self._number, hop)
        self._by_id[contact.node_id] = candidate
        insort(self._candidates, candidate)
        return True

    def _drop_farthest(self, contact: Contact) -> bool:
        farthest = self._candidates[-1]
        if farthest.state is not State.NEW or farthest.distance <= contact.number ^ self._number:
            return False
        del self._by_id[self._candidates.pop().contact.node_id]
        return True

    def closest(self) -> list[Contact]:
        """The up to `k` closest that answered, closest first."""
        answered = (c.contact for c in self._candidates if c.state is State.ANSWERED)
        return [contact for contact, _ in zip(answered, range(self.k), strict=False)]

    @property
    def found(self) -> bool:
        """Whether the target itself has answered."""
        candidate = self._by_id.get(self.target)
        return candidate is not None and candidate.state is State.ANSWERED
