"""A crawl of the whole network: whom to ask what next, and when it is over.

A table holds the nodes of one bucket after the other, and an answer names at most 16. So each node is asked for ids that fall
into its own buckets, from the first on, until an answer reaches back into a bucket that was drawn before: then nothing
deeper is left. What nodes name is hearsay (`core.hearsay`) until it has answered with its identity proved; only that is
counted as reached.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from kodectl.core.distance import shared_bits
from kodectl.core.hearsay import USER, Hearsay, Named, Place, State
from kodectl.core.limits import TokenBucket
from kodectl.core.session import Address
from kodectl.core.table import BUCKETS, K, id_in_bucket
from kodectl.wire.contacts import Contact

AT_ONCE = 128
"""Questions under way. A third of a network may be dead, each costs 4 s: that is 100 questions a second."""
MAX_DIALS = 16
"""Handshakes over TCP under way: a descriptor and a task each."""
BURST_S = 0.1
"""How much of the rate may leave at once after a pause."""
HEARSAY_PER_NODE = 8
"""Ids kept for each node that may be reached: an honest network names each node many times, and few that are gone."""
MIN_HEARSAY = 4096
ASKED_PER_NODE = 4
MIN_ASKED = 1024
"""Ids asked in all, by the same measure."""
MAX_TOLD_PLACES = 8


class Ask(Enum):
    PING = "ping"
    FIND = "find"
    DIAL = "dial"


class Question(NamedTuple):
    ask: Ask
    contact: Contact
    target: bytes = b""


class Seen(NamedTuple):
    """An id was named for the first time, or at another address. `source`: who named it; None for a bootstrap node."""

    contact: Contact
    source: bytes | None


class Silent(NamedTuple):
    """An id was not found at an address."""

    node_id: bytes
    address: Address
    reason: str


class Verdict(NamedTuple):
    """What the crawl came to about one node. `told`: how many others its table named; `drawn`: whether that was all of it.
    `elsewhere`: where else it was said to be. Client and network are null without a handshake, `dial` says why."""

    contact: Contact
    reachable: bool
    reason: str | None
    rtt_s: float | None = None
    sources: int = 0
    told: int | None = None
    drawn: bool = False
    client: str | None = None
    network: str | None = None
    dial: str | None = None
    elsewhere: tuple[Address, ...] = ()


News = Seen | Silent | Verdict


class CrawlTerms(NamedTuple):
    max_nodes: int
    rate: float
    """Questions a second, dials among them."""
    handshake: bool
    """Whether nodes are dialled for what their hello tells."""


class Drawing:
    """A node whose table is being drawn out. `bucket`: the next."""

    __slots__ = ("bucket", "named", "node", "rtt_s")

    def __init__(self, node: Named, rtt_s: float) -> None:
        self.node = node
        self.rtt_s = rtt_s
        self.bucket = 0
        self.named: set[bytes] = set()

    @property
    def contact(self) -> Contact:
        return self.node.here().contact


class Crawl:
    """Call `questions(now)` after every report, and at `next_deadline(now)`; ask each, and report each exactly once:
    `pinged`, `told` or `dialled`, else `failed`. `news()` is what has happened since it was last called, in order.

    A crawl that goes on after an interruption is first told what was noted: `remember_*`, in the order of the news."""

    def __init__(self, own_id: bytes, terms: CrawlTerms, rng: random.Random) -> None:
        self.reached = 0
        """Nodes that have proved their identity."""
        self.questions_asked = 0
        self._own_id = own_id
        self._terms = terms
        self._rng = rng
        self._rate = TokenBucket(terms.rate, max(1.0, terms.rate * BURST_S))
        self._hearsay = Hearsay(max(MIN_HEARSAY, HEARSAY_PER_NODE * terms.max_nodes))
        self._drawings: dict[bytes, Drawing] = {}
        self._ready: deque[Drawing] = deque()
        """Being drawn, and not under way."""
        self._to_dial: deque[Drawing] = deque()
        self._news: list[News] = []
        self._pings = self._finds = self._dials = 0

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return not self._under_way and self._has_nothing_to_ask()

    @property
    def is_full(self) -> bool:
        """Whether `max_nodes` are reached, or more than belongs to so many was asked."""
        return self.reached >= self._terms.max_nodes or self._hearsay.asked >= self._max_asked

    def questions(self, now: float) -> list[Question]:
        asked: list[Question] = []
        while self._under_way < AT_ONCE and not self._rate.wait_s(now):
            question = self._next_question()
            if question is None:
                break
            self._rate.take(now)
            asked.append(question)
        self.questions_asked += len(asked)
        return asked

    def next_deadline(self, now: float) -> float | None:
        """When the rate lets the next question pass; None when one must come back first."""
        if self._under_way >= AT_ONCE or self._has_nothing_to_ask():
            return None
        if self._hearsay.is_held and not self._ready and not self._to_dial:
            return None
        return now + self._rate.wait_s(now)

    @property
    def _under_way(self) -> int:
        return self._pings + self._finds + self._dials

    @property
    def _max_asked(self) -> int:
        return max(MIN_ASKED, ASKED_PER_NODE * self._terms.max_nodes)

    @property
    def _may_ask_more(self) -> bool:
        return self.reached + self._pings < self._terms.max_nodes and self._hearsay.asked < self._max_asked

    def _has_nothing_to_ask(self) -> bool:
        if self._ready or (self._to_dial and self._dials < MAX_DIALS):
            return False
        if not self._may_ask_more:
            return True
        if not self._hearsay.waiting and not self._under_way:
            self._hearsay.reconsider()
        return not self._hearsay.waiting

    def _next_question(self) -> Question | None:
        """What has begun is finished first: little is lost when the crawl is interrupted."""
        if self._ready:
            self._finds += 1
            drawing = self._ready.popleft()
            target = id_in_bucket(drawing.node.node_id, drawing.bucket, self._rng)
            return Question(Ask.FIND, drawing.contact, target)
        if self._to_dial and self._dials < MAX_DIALS:
            self._dials += 1
            return Question(Ask.DIAL, self._to_dial.popleft().contact)
        node = None if self._has_nothing_to_ask() else self._hearsay.next()
        if node is None:
            return None
        self._pings += 1
        return Question(Ask.PING, node.here().contact)

    # -- reports ---------------------------------------------------------------------------------------------------

    def begin_with(self, contact: Contact) -> None:
        """A bootstrap node that has answered: it is asked as any other, and nobody's hearsay."""
        self._learn(contact, None, USER)

    def pinged(self, node_id: bytes, tcp_port: int, rtt_s: float) -> None:
        node = self._hearsay.nodes[node_id]
        self._pings -= 1
        self._hearsay.answered(node)
        self._reach(node, tcp_port)
        drawing = self._drawings[node_id] = Drawing(node, rtt_s)
        self._ready.append(drawing)

    def _reach(self, node: Named, tcp_port: int) -> None:
        self.reached += 1
        place = node.here()
        if place.contact.tcp_port != tcp_port:
            place.contact = Contact(node.node_id, *place.contact.address, tcp_port)

    def told(self, node_id: bytes, contacts: Sequence[Contact], worth: Sequence[Contact], rtt_s: float) -> None:
        """An answer to FIND: all its contacts, and those that are worth asking."""
        drawing = self._drawings[node_id]
        self._finds -= 1
        drawing.rtt_s = min(drawing.rtt_s, rtt_s)  # the first took a handshake as well
        for contact in worth:
            if contact.node_id not in drawing.named:
                drawing.named.add(contact.node_id)
                self._learn(contact, node_id, drawing.node.voice())
        reaches_back = any(shared_bits(one.node_id, node_id) < drawing.bucket for one in contacts)
        drawing.bucket += 1
        if len(contacts) < K or reaches_back or drawing.bucket == BUCKETS:
            drawing.bucket = BUCKETS
            self._drawn(drawing)
        else:
            self._ready.append(drawing)

    def _learn(self, contact: Contact, source: bytes | None, voice: str) -> None:
        if contact.node_id == self._own_id:
            return
        if self._hearsay.hear(contact, voice, is_named=source is not None):
            self._news.append(Seen(contact, source))

    def _drawn(self, drawing: Drawing) -> None:
        if not self._terms.handshake:
            self._decide(drawing)
        elif drawing.contact.tcp_port:
            self._to_dial.append(drawing)
        else:
            self._decide(drawing, dial="not_listening")

    def dialled(self, node_id: bytes, client: str | None, network: str | None, reason: str | None) -> None:
        """`reason`: why there is no hello; null when there is."""
        self._dials -= 1
        self._decide(self._drawings[node_id], client, network, reason)

    def failed(self, ask: Ask, node_id: bytes, reason: str) -> None:
        """PING or FIND got no answer, or a wrong one."""
        if ask is Ask.FIND:
            # It did answer before: it counts, and what is left of its table others may have.
            self._finds -= 1
            self._drawn(self._drawings[node_id])
            return
        self._pings -= 1
        node = self._hearsay.nodes[node_id]
        address = node.here().contact.address
        self._hearsay.failed(node, reason)
        self._news.append(Silent(node_id, address, reason))

    def _decide(
        self, drawing: Drawing, client: str | None = None, network: str | None = None, dial: str | None = None
    ) -> None:
        node = drawing.node
        node.state = State.DECIDED
        del self._drawings[node.node_id]
        self._news.append(
            Verdict(
                drawing.contact,
                reachable=True,
                reason=None,
                rtt_s=drawing.rtt_s,
                sources=node.sources,
                told=len(drawing.named),
                drawn=drawing.bucket == BUCKETS,
                client=client,
                network=network,
                dial=dial,
                elsewhere=_elsewhere(node, node.here()),
            )
        )

    # -- what has come of it ---------------------------------------------------------------------------------------

    def news(self) -> list[News]:
        news, self._news = self._news, []
        return news

    def conclude(self) -> None:
        """The crawl is over: nobody can name another address of the silent any more, and that is their verdict."""
        for node_id in sorted(self._hearsay.silent):
            node = self._hearsay.nodes[node_id]
            place = node.most_named()
            node.state = State.DECIDED
            elsewhere = _elsewhere(node, place)
            self._news.append(Verdict(place.contact, False, place.reason, sources=node.sources, elsewhere=elsewhere))
        self._hearsay.silent.clear()

    @property
    def waiting(self) -> int:
        """Ids still to be asked."""
        return self._hearsay.waiting + self._pings

    @property
    def unfinished(self) -> int:
        """Nodes that have answered, and are not judged yet: there is more to ask them."""
        return len(self._drawings)

    @property
    def silent(self) -> int:
        return len(self._hearsay.silent)

    def reasons(self) -> Counter[str]:
        """Ids that were asked, not found, and not judged yet, by reason."""
        silent = (self._hearsay.nodes[node_id] for node_id in self._hearsay.silent)
        return Counter(node.most_named().reason or "timeout" for node in silent)

    def unasked(self) -> Counter[str]:
        """Ids that were not asked, by reason."""
        reasons = Counter(self._hearsay.skipped.values())
        if self._hearsay.overflowed:
            reasons["no_room"] += self._hearsay.overflowed
        return reasons

    def conflicts(self) -> int:
        """Nodes that were named at more than one address, and asked."""
        nodes = self._hearsay.nodes.values()
        return sum(len(node.places) > 1 for node in nodes if node.state is not State.SKIPPED)

    # -- what an earlier run noted ---------------------------------------------------------------------------------

    def remember_seen(self, contact: Contact, source: bytes | None) -> None:
        teller = None if source is None else self._hearsay.nodes.get(source)
        voice = USER if source is None else source.hex() if teller is None else teller.voice()
        self._learn(contact, source, voice)
        self._news.clear()

    def remember_silent(self, node_id: bytes, address: Address, reason: str) -> None:
        node = self._hearsay.nodes.get(node_id)
        place = None if node is None else node.places.get(address)
        if node is None or place is None or place.reason is not None or node.state is State.DECIDED:
            return
        self._hearsay.count_remembered(node, place)
        self._hearsay.missed(node, place, reason)

    def remember_verdict(self, contact: Contact, reachable: bool) -> None:
        """The node is not asked again, and not told of again."""
        node = self._hearsay.nodes.setdefault(contact.node_id, Named(contact.node_id))
        if node.state is State.DECIDED:
            return
        node.place = node.places.setdefault(contact.address, Place(contact, USER))
        if reachable:
            self._hearsay.count_remembered(node, node.place)
            self._hearsay.found(node)
            self._reach(node, contact.tcp_port)
        else:
            self._hearsay.forget(node)
        node.state = State.DECIDED


def _elsewhere(node: Named, here: Place) -> tuple[Address, ...]:
    others = (place for place in node.places.values() if place is not here)
    return tuple(place.contact.address for place, _ in zip(others, range(MAX_TOLD_PLACES), strict=False))
