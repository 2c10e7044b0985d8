"""Candidate pairs, and the list of them that is checked (RFC 8445, sections 6.1.2 and 6.1.4.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from kodectl.core.ice.local import Base, LocalCandidate, may_pair
from kodectl.wire.candidates import Address, Candidate, CandidateType

if TYPE_CHECKING:
    from kodectl.core.ice.checks import Check

MAX_PAIRS = 100
"""RFC 8445, section 6.1.2.5. What a peer can have us send is this many checks, seven times each."""


HOLDS_SENDINGS = 2
"""Of a check, for which other pairs of its foundation are kept waiting for it where they may not wait for its end."""


class PairState(Enum):
    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


PENDING = (PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS)


class Pair:
    """A way to the peer. It is valid in the state SUCCEEDED.

    `local` is what was paired, whose base the checks leave from; `seen_as` is how the peer saw that base, which is what
    the valid pair consists of (section 7.2.5.3.2)."""

    __slots__ = ("check", "is_heard", "is_nominated", "local", "priority", "remote", "seen_as", "state")

    def __init__(self, local: LocalCandidate, remote: Candidate, is_controlling: bool) -> None:
        self.local = local
        self.remote = remote
        self.seen_as = local
        self.state = PairState.FROZEN
        self.priority = pair_priority(local.candidate, remote, is_controlling)
        self.check: Check | None = None
        """The one under way."""
        self.is_heard = False
        """Whether the peer has proved itself here, by a request or an answer: its data is taken from then on."""
        self.is_nominated = False
        """By a controlling peer, for as soon as the pair is valid."""

    @property
    def foundation(self) -> tuple[str, str]:
        return self.local.candidate.foundation, self.remote.foundation

    @property
    def key(self) -> tuple[Base, Address]:
        return self.local.base, self.remote.address

    @property
    def is_relayed(self) -> bool:
        return CandidateType.RELAYED in (self.local.candidate.type, self.remote.type)

    @property
    def is_pending(self) -> bool:
        return self.state in PENDING

    def holds_up(self, is_hurried: bool) -> bool:
        """The others of its foundation."""
        if self.state is PairState.IN_PROGRESS and is_hurried and self.check is not None:
            return self.check.sendings <= HOLDS_SENDINGS
        return self.state in (PairState.WAITING, PairState.IN_PROGRESS)

    def __repr__(self) -> str:
        return f"Pair({self.local.candidate.address} {self.remote.address} {self.state.value})"


def pair_priority(local: Candidate, remote: Candidate, is_controlling: bool) -> int:
    """Section 6.1.2.3: the same on both sides."""
    controlling, controlled = local.priority, remote.priority
    if not is_controlling:
        controlling, controlled = controlled, controlling
    return (min(controlling, controlled) << 32) + 2 * max(controlling, controlled) + (controlling > controlled)


class CheckList:
    """Best first. Every pair of a base with a remote address is there once: reflexive candidates leave from their base,
    so a pair of theirs is a pair of the base's (section 6.1.2.4)."""

    def __init__(self, is_controlling: bool) -> None:
        self._is_controlling = is_controlling
        self._pairs: dict[tuple[Base, Address], Pair] = {}
        self._order: list[Pair] = []
        self._triggered: deque[Pair] = deque()

    def __len__(self) -> int:
        return len(self._order)

    @property
    def pairs(self) -> Iterable[Pair]:
        return self._order

    def find(self, base: Base, remote: Address) -> Pair | None:
        return self._pairs.get((base, remote))

    def form(self, locals_: Iterable[LocalCandidate], remotes: Iterable[Candidate]) -> None:
        """Pairs what can be paired and is not yet; what is new is frozen until `thaw`."""
        remotes = list(remotes)
        for local in locals_:
            for remote in remotes:
                if may_pair(local.candidate, remote):
                    self.add(local, remote)

    def add(self, local: LocalCandidate, remote: Candidate) -> Pair | None:
        """The pair of this base and remote address, new or not; None when the list is full of better or busy ones."""
        pair = Pair(local, remote, self._is_controlling)
        known = self._pairs.get(pair.key)
        if known is not None:
            if pair.priority > known.priority:
                self._name_better(known, local)
            return known
        if len(self._order) >= MAX_PAIRS and not self._make_room(pair.priority):
            return None
        self._pairs[pair.key] = pair
        self._order.append(pair)
        self._sort()
        return pair

    def _name_better(self, pair: Pair, local: LocalCandidate) -> None:
        """A reflexive candidate was there before that of its base."""
        if pair.seen_as is pair.local and pair.state is not PairState.SUCCEEDED:
            pair.seen_as = local
        pair.local = local
        self.turn(self._is_controlling)

    def told(self, remote: Candidate) -> None:
        """A candidate that was only known from a check is now known from its owner (RFC 8838, section 11)."""
        for pair in self._order:
            if (pair.remote.transport, pair.remote.address) == (remote.transport, remote.address):
                pair.remote = remote
        self.turn(self._is_controlling)

    def forget(self, base: Base) -> None:
        """Nothing can be sent from it any more."""
        self._order = [pair for pair in self._order if pair.local.base is not base]
        self._pairs = {pair.key: pair for pair in self._order}

    def turn(self, is_controlling: bool) -> None:
        """Priorities depend on the role."""
        self._is_controlling = is_controlling
        for pair in self._order:
            pair.priority = pair_priority(pair.local.candidate, pair.remote, is_controlling)
        self._sort()

    def trigger(self, pair: Pair) -> None:
        """It is checked before all that wait in their order."""
        pair.state = PairState.WAITING
        if pair not in self._triggered:
            self._triggered.append(pair)

    def next(self) -> Pair | None:
        """The pair to be checked now (section 6.1.4.2); once it is, it waits no longer."""
        while self._triggered:
            pair = self._triggered.popleft()
            if pair.state is PairState.WAITING and self._pairs.get(pair.key) is pair:
                return pair
        return next((pair for pair in self._order if pair.state is PairState.WAITING), None)

    @property
    def is_waiting(self) -> bool:
        return any(pair.state is PairState.WAITING for pair in self._order)

    def thaw(self, *, is_hurried: bool = False) -> None:
        """The best frozen pair of each foundation that has none waiting or in progress, and every one of a foundation that
        is known to work (sections 6.1.2.6 and 7.2.5.3.3). Hurried: a check that has been repeated in vain holds nobody up. The
        relay or mapping that was got in place of one that is gone has the same foundation."""
        busy = {pair.foundation for pair in self._order if pair.holds_up(is_hurried)}
        works = {pair.foundation for pair in self._order if pair.state is PairState.SUCCEEDED}
        for pair in self._order:
            if pair.state is PairState.FROZEN and (pair.foundation in works or pair.foundation not in busy):
                pair.state = PairState.WAITING
                busy.add(pair.foundation)

    @property
    def best_valid(self) -> Pair | None:
        return next((pair for pair in self._order if pair.state is PairState.SUCCEEDED), None)

    @property
    def busy(self) -> int:
        """How many wait or are in progress, which is what the RTO goes by (section 14.3)."""
        return sum(pair.state in (PairState.WAITING, PairState.IN_PROGRESS) for pair in self._order)

    def _sort(self) -> None:
        self._order.sort(key=lambda pair: pair.priority, reverse=True)

    def _make_room(self, priority: int) -> bool:
        """Forgets the worst pair that nothing has come of, if it is worse than one of `priority`."""
        for pair in reversed(self._order):
            if pair.priority >= priority:
                return False
            if pair.state in (PairState.FROZEN, PairState.WAITING, PairState.FAILED) and not pair.is_heard:
                self._order.remove(pair)
                del self._pairs[pair.key]
                return True
        return False
