"""One iterative lookup (Maymounkov and Mazieres 2002, section 2.3): whom to ask next, and when it is over.

Loose rounds: a question that is slow no longer counts against the alpha under way, so corpses cost messages but not time.

Answers may lie. Where a node is said to be is one of several places until it answers at one of them; no network has more
than its share of the closest; and before a lookup ends, disjoint paths have had their say (Baumgart and Mies 2007, S/Kademlia,
section 4.4): what one liar leads to does not count against what others know.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from enum import Enum, IntEnum

from kodectl.core.sessions import Address
from kodectl.core.table import MAX_PER_SUBNET_AMONG_CLOSEST, K, subnet_of
from kodectl.wire.contacts import Contact

ALPHA = 3
MAX_ALPHA = 12
"""Each question that is slow lets one more be under way, up to so many: among corpses, real or made up, three at a time would
wait for a patience each."""
MAX_QUESTIONS = 200
"""An honest network of millions needs a tenth of it; liars who always name somebody closer get no more."""
MAX_BEFORE_PATHS = 120
"""Of these for whoever is closest. The rest is for the paths, so that a farm of ever closer nodes does not use up all."""
PATHS = 4
PATH_VIEW = 2
"""The closest of each path that are asked before the end, wherever they stand among all."""
MAX_CANDIDATES = 128
"""Of one path: whoever names ever closer nodes pushes out none that others know."""
MAX_PLACES = 8
"""Where one node is said to be. Each answer names one; of the twenty nodes asked, so many may lie."""
MAX_FAILED_OF_SUBNET = 4
"""After so many without an answer in one /24 or /64, no more of it are asked: made-up nodes at somebody's addresses
are questions to him."""

Place = tuple[bytes, Address]
"""A node id, and where it is said to be."""


class State(Enum):
    NEW = "new"
    ASKED = "asked"
    SLOW = "slow"
    ANSWERED = "answered"
    FAILED = "failed"


class Hope(IntEnum):
    """What is still to come of some who were asked."""

    NONE = 0
    LATE = 1
    """Of such as are slow, if anything."""
    SOON = 2


class Candidate:
    __slots__ = ("contact", "distance", "hop", "node_id", "path", "state", "subnet")

    def __init__(self, contact: Contact, distance: int, hop: int, path: int) -> None:
        self.contact = contact
        self.node_id = contact.node_id
        self.subnet = subnet_of(contact.ip)
        self.distance = distance
        self.hop = hop
        """How many questions deep it was found; those known at the start are asked in round 1."""
        self.path = path
        """That of whoever named it first."""
        self.state = State.NEW

    def __lt__(self, other: Candidate) -> bool:
        return self.distance < other.distance


class Lookup:
    """Ends when the `k` closest known, leaving out the failed, have all answered, and the closest of each path; with
    `stop_at_target`, as soon as the target itself has answered.

    `paths`: 1 for a look around, whose end nothing depends on.

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
        paths: int = PATHS,
    ) -> None:
        self.target = target
        self.k = k
        self.questions_asked = 0
        self.rounds = 0
        self._may_be_under_way = alpha
        self._wanted = MAX_QUESTIONS
        self._paths = paths
        self._number = int.from_bytes(target)
        self._own_id = own_id
        self._stop_at_target = stop_at_target
        self._candidates: list[Candidate] = []
        """Closest first, without those that have failed or have answered at another place."""
        self._known: set[bytes] = set()
        """Packed contacts: what most answers name has been named before."""
        self._by_place: dict[Place, Candidate] = {}
        self._places: Counter[bytes] = Counter()
        self._of_path: Counter[int] = Counter()
        self._answered: set[bytes] = set()
        self._failed_of: Counter[str | None] = Counter()
        self._under_way = 0
        self._over = False
        for number, seed in enumerate(seeds):
            self._learn(seed, 1, number % paths)

    @property
    def over(self) -> bool:
        return self._over

    def want(self, answers: int) -> None:
        """The caller lacks so many, at least one; no more than those are asked at once."""
        self._wanted = answers

    def questions(self) -> list[Contact]:
        """The contacts to ask now; sets `over` when nothing more is to come."""
        if self._over:
            return []
        asked: list[Contact] = []
        hope = self._ask_of(self._view(self.k), MAX_BEFORE_PATHS, asked)
        if hope is not Hope.SOON and self._paths > 1:
            # Those who are slow may be made up: what others know is asked for before they have been given up.
            for path in range(self._paths):
                hope = max(hope, self._ask_of(self._view(PATH_VIEW, path), MAX_QUESTIONS, asked))
        self._over = hope is Hope.NONE
        return asked

    def _ask_of(self, view: list[Candidate], limit: int, asked: list[Contact]) -> Hope:
        """Asks who is new, and adds it to `asked`; returns what in `view` is still to come."""
        hope = Hope.NONE
        may_be_under_way = min(self._may_be_under_way, self._wanted)
        for candidate in view:
            if candidate.state is State.NEW:
                if self._under_way >= may_be_under_way or self.questions_asked >= limit:
                    if self._under_way > 0:
                        hope = Hope.SOON
                    continue
                self._ask(candidate)
                asked.append(candidate.contact)
            if candidate.state is State.ASKED:
                hope = Hope.SOON
            elif candidate.state is State.SLOW:
                hope = max(hope, Hope.LATE)
        return hope

    def _view(self, count: int, path: int | None = None) -> list[Candidate]:
        """The places of the `count` closest nodes (of a path) that have not failed."""
        if path is None:
            return self._spread(self._candidates, count)
        return self._spread([candidate for candidate in self._candidates if candidate.path == path], count)

    def _spread(self, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
        """The first `count` nodes of `candidates`; whoever is one too many of its network comes behind all others."""
        chosen: list[Candidate] = []
        surplus: list[Candidate] = []
        ids: set[bytes] = set()
        of_subnet: dict[str, int] = {}
        for candidate in candidates:
            node_id, subnet = candidate.node_id, candidate.subnet
            if node_id not in ids:
                if len(ids) >= count:
                    return chosen
                if subnet is not None and node_id != self.target:
                    so_far = of_subnet.get(subnet, 0)
                    if so_far >= MAX_PER_SUBNET_AMONG_CLOSEST:
                        surplus.append(candidate)
                        continue
                    of_subnet[subnet] = so_far + 1
                ids.add(node_id)
            chosen.append(candidate)
        return chosen + surplus[: count - len(ids)]

    def _ask(self, candidate: Candidate) -> None:
        candidate.state = State.ASKED
        self._under_way += 1
        self.questions_asked += 1
        self.rounds = max(self.rounds, candidate.hop)

    def answered(self, asked: Contact, contacts: Iterable[Contact]) -> int:
        """Takes in an answer; returns how many of its contacts are news."""
        candidate = self._finish(asked, State.ANSWERED)
        if candidate is None:
            return 0
        if asked.node_id in self._answered:
            candidate.state = State.FAILED  # it was there at another of its places, and is not to be counted twice
        else:
            self._answered.add(asked.node_id)
            self._leave_out_other_places(candidate)
        if self._stop_at_target and asked.node_id == self.target:
            self._over = True
        hop, path, known = candidate.hop + 1, candidate.path, self._known
        return sum(self._learn(contact, hop, path) for contact in contacts if contact.packed not in known)

    def _leave_out_other_places(self, found: Candidate) -> None:
        """Who has answered at one place is not looked for at others."""
        if self._places[found.node_id] > 1:
            self._candidates = [c for c in self._candidates if c is found or c.node_id != found.node_id]

    def failed(self, asked: Contact) -> None:
        candidate = self._finish(asked, State.FAILED)
        if candidate is None:
            return
        if candidate in self._candidates:
            self._candidates.remove(candidate)
        self._suspect(candidate)

    def _suspect(self, candidate: Candidate) -> None:
        """Nothing has come from there, so far or at all."""
        self._failed_of[candidate.subnet] += 1
        if self._failed_of[candidate.subnet] >= MAX_FAILED_OF_SUBNET:
            self._candidates = [c for c in self._candidates if c.state is not State.NEW or not self._is_suspect(c)]

    def _is_suspect(self, candidate: Candidate) -> bool:
        """Not the target, nor whom we know ourselves: or corpses made up beside them would hide them."""
        if not self._failed_of or candidate.subnet is None:
            return False
        if candidate.hop == 1 or candidate.node_id == self.target:
            return False
        return self._failed_of[candidate.subnet] >= MAX_FAILED_OF_SUBNET

    def slow(self, asked: Contact) -> None:
        candidate = self._by_place.get((asked.node_id, asked.address))
        if candidate is None or candidate.state is not State.ASKED:
            return
        candidate.state = State.SLOW
        self._under_way -= 1
        self._may_be_under_way = min(MAX_ALPHA, self._may_be_under_way + 1)
        self._suspect(candidate)

    def _finish(self, asked: Contact, state: State) -> Candidate | None:
        candidate = self._by_place.get((asked.node_id, asked.address))
        if candidate is None or candidate.state not in (State.ASKED, State.SLOW):
            return None
        if candidate.state is State.ASKED:
            self._under_way -= 1
        else:
            self._failed_of[candidate.subnet] -= 1
        candidate.state = state
        return candidate

    def _learn(self, contact: Contact, hop: int, path: int) -> bool:
        node_id = contact.node_id
        place = node_id, contact.address
        if place in self._by_place or node_id == self._own_id or node_id in self._answered:
            return False
        if self._places[node_id] >= MAX_PLACES:
            return False
        candidate = Candidate(contact, contact.number ^ self._number, hop, path)
        if self._is_suspect(candidate):
            return False
        if self._of_path[path] >= MAX_CANDIDATES and not self._drop_farthest(candidate):
            return False
        self._of_path[path] += 1
        self._by_place[place] = candidate
        self._known.add(contact.packed)
        self._places[node_id] += 1
        insort(self._candidates, candidate)
        return True

    def _drop_farthest(self, newcomer: Candidate) -> bool:
        """Makes room on the path of a newcomer that is closer than somebody there who has not been asked yet."""
        for index in reversed(range(len(self._candidates))):
            dropped = self._candidates[index]
            if dropped.distance <= newcomer.distance:
                return False
            if dropped.path == newcomer.path and dropped.state is State.NEW:
                break
        else:
            return False
        del self._candidates[index]
        del self._by_place[dropped.node_id, dropped.contact.address]
        self._known.discard(dropped.contact.packed)
        self._places[dropped.node_id] -= 1
        self._of_path[dropped.path] -= 1
        return True

    def closest(self) -> list[Contact]:
        """The up to `k` closest that answered, closest first; no more of a network than its share while there are others."""
        answered = (candidate for candidate in self._candidates if candidate.state is State.ANSWERED)
        return [candidate.contact for candidate in sorted(self._spread(answered, self.k))]

    @property
    def found(self) -> bool:
        """Whether the target itself has answered."""
        return self.target in self._answered
