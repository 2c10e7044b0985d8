"""A crawl of the whole network: whom to ask what next, and when it is over.

A table holds the nodes of one bucket after the other, and an answer names at most 16. So each node is asked for ids that fall
into its own buckets, from the first on, until an answer reaches back into a bucket that was drawn before: then nothing
deeper is left. What nodes name is hearsay until it has answered with its identity proved; only that is counted as reached.

Liars are held by what their hearsay comes to. Who names many that do not answer is no longer believed; made-up ids at
somebody's addresses soon cost him no more questions, unless several networks name the same; and lines of hearsay take
turns, so that a thousand ids of one source delay the others by one question each round.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from kodectl.core.distance import shared_bits
from kodectl.core.limits import TokenBucket
from kodectl.core.session import Address
from kodectl.core.table import BUCKETS, K, id_in_bucket, subnet_of
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
MAX_PLACES = 32
"""Addresses kept of one id; where it was sought in vain makes room for another. Liars have named many before the first honest
node names the right one."""
MAX_TOLD_PLACES = 8
MAX_PLACES_OF_SOURCE = 2
"""Of one id from one source, IPv4 and IPv6: a liar who comes first must leave room for the truth."""
MAX_FAILED_OF_SOURCE = 32
MAX_FAILED_OF_SUBNET = 8
"""Of a /24 or /64. What a whole network of made-up nodes can cost those who really are there."""
MAX_FAILED_OF_HOST = 64
"""Of one private address, where a test network may have all its nodes."""
MAX_FAILED_OF_ENDPOINT = 3
ENOUGH_VOICES = 4
"""Sources of different networks, all believed, that name a node at one address: it is asked there, whatever else is said of
that place. Who makes up ids at honest addresses must not hide those who are there."""
FAILED_PER_ANSWERED = 2
"""Beside those: after a bad day two thirds of what honest nodes name may be dead."""
MAX_OF_SUBNET = 256
"""Nodes asked in one /24 or /64: one for each address of the /24. More is somebody who makes up identities, not machines."""


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


class State(Enum):
    WAITING = "waiting"
    ASKED = "asked"
    SILENT = "silent"
    SKIPPED = "skipped"
    DRAWN = "drawn"
    DECIDED = "decided"


class Place:
    """Where an id is said to be. `voices`: who says so, a few of them; what comes of it is credited to the first."""

    __slots__ = ("contact", "reason", "voices")

    def __init__(self, contact: Contact, voice: str) -> None:
        self.contact = contact
        self.voices = [voice]
        self.reason: str | None = None
        """Why it was not found there."""


class Node:
    """What is known of an id."""

    __slots__ = ("bucket", "dial", "named", "node_id", "place", "places", "rtt_s", "sources", "state", "told")

    def __init__(self, node_id: bytes) -> None:
        self.node_id = node_id
        self.places: dict[Address, Place] = {}
        self.place: Place | None = None
        """Where it is asked, or has answered."""
        self.state = State.WAITING
        self.sources = 0
        self.bucket = 0
        """The next to be drawn."""
        self.named: set[bytes] = set()
        self.told: int | None = None
        self.rtt_s: float | None = None
        self.dial: tuple[str | None, str | None, str | None] = (None, None, None)


class Tally:
    """What came of questions to one network, or about the hearsay of one source."""

    __slots__ = ("answered", "asked", "failed")

    def __init__(self) -> None:
        self.asked = self.answered = self.failed = 0

    def is_poor(self, allowance: int) -> bool:
        return self.failed >= allowance + FAILED_PER_ANSWERED * self.answered


class Crawl:
    """Call `questions(now)` after every report, and at `next_deadline(now)`; ask each, and report each exactly once:
    `pinged`, `told` or `dialled`, else `failed`. `news()` is what has happened since it was last called, in order.

    A crawl that goes on after an interruption is first told what was noted: `remember_*`, in the order of the news."""

    def __init__(self, own_id: bytes, terms: CrawlTerms, rng: random.Random) -> None:
        self.reached = 0
        """Nodes that have proved their identity."""
        self.asked = 0
        """Ids that were asked at least once."""
        self.questions_asked = 0
        self.overflowed = 0
        """How often an id was named that there was no room for."""
        self._own_id = own_id
        self._terms = terms
        self._rng = rng
        self._bucket = TokenBucket(terms.rate, max(1.0, terms.rate * BURST_S))
        self._nodes: dict[bytes, Node] = {}
        self._lines: dict[str, deque[Node]] = {}
        """By source, those that it was the first to name; a node that need not be asked any more may still stand there."""
        self._turns: deque[str] = deque()
        self._ready: deque[Node] = deque()
        """Being drawn, and not under way."""
        self._to_dial: deque[Node] = deque()
        self._waiting: set[bytes] = set()
        self._skipped: dict[bytes, str] = {}
        self._silent: set[bytes] = set()
        self._sources: dict[str, Tally] = {}
        self._networks: dict[str, Tally] = {}
        self._proved: dict[Address, bytes] = {}
        self._failed_at: Counter[Address] = Counter()
        self._news: list[News] = []
        self._pings = self._finds = self._dials = 0

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return not self._under_way and self._has_nothing_to_ask()

    @property
    def is_full(self) -> bool:
        """Whether `max_nodes` are reached, or more than belongs to so many was asked."""
        return self.reached >= self._terms.max_nodes or self.asked >= self._max_asked

    @property
    def waiting(self) -> int:
        """Ids still to be asked."""
        return len(self._waiting) + self._pings

    @property
    def silent(self) -> int:
        return len(self._silent)

    def unasked(self) -> Counter[str]:
        """Ids that were not asked, by reason."""
        reasons = Counter(self._skipped.values())
        if self.overflowed:
            reasons["no_room"] += self.overflowed
        return reasons

    def reasons(self) -> Counter[str]:
        """Ids that were asked and not found, by reason."""
        return Counter(self._reason(self._nodes[node_id]) for node_id in self._silent)

    def conflicts(self) -> int:
        """Nodes that were named at more than one address."""
        return sum(len(node.places) > 1 for node in self._nodes.values() if node.state is not State.SKIPPED)

    def questions(self, now: float) -> list[Question]:
        asked: list[Question] = []
        while self._under_way < AT_ONCE and not self._bucket.wait_s(now):
            question = self._next_question()
            if question is None:
                break
            self._bucket.take(now)
            asked.append(question)
        self.questions_asked += len(asked)
        return asked

    def next_deadline(self, now: float) -> float | None:
        """When the rate lets the next question pass; None when one must come back first."""
        if self._under_way >= AT_ONCE or self._has_nothing_to_ask():
            return None
        return now + self._bucket.wait_s(now)

    @property
    def _under_way(self) -> int:
        return self._pings + self._finds + self._dials

    @property
    def _max_asked(self) -> int:
        return max(MIN_ASKED, ASKED_PER_NODE * self._terms.max_nodes)

    @property
    def _may_ask_more(self) -> bool:
        return self.reached + self._pings < self._terms.max_nodes and self.asked < self._max_asked

    def _has_nothing_to_ask(self) -> bool:
        if self._ready or (self._to_dial and self._dials < MAX_DIALS):
            return False
        if not self._may_ask_more:
            return True
        if not self._waiting and not self._under_way:
            self._reconsider()
        return not self._waiting

    def _next_question(self) -> Question | None:
        """What has begun is finished first: little is lost when the crawl is interrupted."""
        if self._ready:
            return self._draw(self._ready.popleft())
        if self._to_dial and self._dials < MAX_DIALS:
            self._dials += 1
            return Question(Ask.DIAL, _place_of(self._to_dial.popleft()).contact)
        if self._has_nothing_to_ask():
            return None
        node = self._next_in_line()
        return None if node is None else self._ping(node)

    def _draw(self, node: Node) -> Question:
        self._finds += 1
        return Question(Ask.FIND, _place_of(node).contact, id_in_bucket(node.node_id, node.bucket, self._rng))

    def _ping(self, node: Node) -> Question:
        place = _place_of(node)
        self._count_first_question(node, place)
        node.state = State.ASKED
        self._pings += 1
        return Question(Ask.PING, place.contact)

    def _count_first_question(self, node: Node, place: Place) -> None:
        if not any(other.reason for other in node.places.values()):
            self.asked += 1
            self._network_of(place.contact.ip).asked += 1

    # -- lines of hearsay ------------------------------------------------------------------------------------------

    def _queue(self, node: Node) -> None:
        node.state = State.WAITING
        self._silent.discard(node.node_id)
        self._skipped.pop(node.node_id, None)
        self._waiting.add(node.node_id)
        name = next(_untried(node)).voices[0]
        line = self._lines.setdefault(name, deque())
        if not line:
            self._turns.append(name)
        line.append(node)

    def _next_in_line(self) -> Node | None:
        """The next that may be asked; its `place` is where."""
        while self._turns:
            name = self._turns.popleft()
            line = self._lines[name]
            node = line.popleft()
            if line:
                self._turns.append(name)
            else:
                del self._lines[name]
            if node.state is not State.WAITING:
                continue
            self._waiting.discard(node.node_id)
            if self._choose_place(node):
                return node
            node.state = State.SKIPPED
        return None

    def _reconsider(self) -> None:
        """Nobody is left in the lines: those whose source or network has answered well meanwhile have another chance."""
        for node_id in list(self._skipped):
            node = self._nodes[node_id]
            if self._choose_place(node):
                self._queue(node)

    def _choose_place(self, node: Node) -> bool:
        """Where to ask a node: at the place that most name, of those that nothing speaks against. Without one the reason is
        noted."""
        reason = ""
        for place in sorted(_untried(node), key=lambda place: -len(place.voices)):
            objection = self._objection(node, place)
            if objection is None:
                node.place = place
                return True
            reason = reason or objection
        self._skipped[node.node_id] = reason
        return False

    def _objection(self, node: Node, place: Place) -> str | None:
        """Why a node is not to be asked where it is said to be."""
        address = place.contact.address
        if self._proved.get(address, node.node_id) != node.node_id:
            return "endpoint_taken"
        believed = sum(not self._is_doubted(voice) for voice in place.voices)
        if not believed:
            return "doubted_source"
        subnet = subnet_of(address[0])
        network = self._network_of(address[0])
        if subnet is not None and network.asked >= MAX_OF_SUBNET:
            return "crowded_network"
        if believed >= ENOUGH_VOICES:
            return None
        if self._failed_at[address] >= MAX_FAILED_OF_ENDPOINT:
            return "crowded_endpoint"
        allowance = MAX_FAILED_OF_HOST if subnet is None else MAX_FAILED_OF_SUBNET
        return "silent_network" if network.is_poor(allowance) else None

    def _is_doubted(self, voice: str) -> bool:
        tally = self._sources.get(voice)
        return tally is not None and voice != BOOTSTRAP and tally.is_poor(MAX_FAILED_OF_SOURCE)

    def _network_of(self, ip: str) -> Tally:
        return self._networks.setdefault(subnet_of(ip) or ip, Tally())

    def _source_of(self, place: Place) -> Tally:
        return self._sources.setdefault(place.voices[0], Tally())

    # -- reports ---------------------------------------------------------------------------------------------------

    def begin_with(self, contact: Contact) -> None:
        """A bootstrap node that has answered: it is asked as any other, and nobody's hearsay."""
        self._learn(contact, None, BOOTSTRAP)

    def pinged(self, node_id: bytes, tcp_port: int, rtt_s: float) -> None:
        node = self._nodes[node_id]
        self._pings -= 1
        node.rtt_s = rtt_s
        self._reach(node, tcp_port)
        self._ready.append(node)

    def _reach(self, node: Node, tcp_port: int) -> None:
        place = _place_of(node)
        ip, udp_port = place.contact.address
        if place.contact.tcp_port != tcp_port:
            place.contact = Contact(node.node_id, ip, udp_port, tcp_port)
        node.state = State.DRAWN
        node.told = 0
        self.reached += 1
        self._proved[place.contact.address] = node.node_id
        self._network_of(ip).answered += 1
        self._source_of(place).answered += 1

    def told(self, node_id: bytes, contacts: Sequence[Contact], worth: Sequence[Contact], rtt_s: float) -> None:
        """An answer to FIND: all its contacts, and those that are worth asking."""
        node = self._nodes[node_id]
        self._finds -= 1
        node.rtt_s = rtt_s if node.rtt_s is None else min(node.rtt_s, rtt_s)
        for contact in worth:
            self._hear(node, contact)
        drawn = len(contacts) < K or any(shared_bits(one.node_id, node_id) < node.bucket for one in contacts)
        node.bucket += 1
        if drawn or node.bucket == BUCKETS:
            node.bucket = BUCKETS
            self._drawn(node)
        else:
            self._ready.append(node)

    def _hear(self, node: Node, contact: Contact) -> None:
        if contact.node_id in node.named:
            return
        node.named.add(contact.node_id)
        self._learn(contact, node.node_id, _voice_of(node))

    def _drawn(self, node: Node) -> None:
        node.told = len(node.named)
        node.named = set()
        if not self._terms.handshake:
            self._decide(node)
        elif _place_of(node).contact.tcp_port:
            self._to_dial.append(node)
        else:
            node.dial = (None, None, "not_listening")
            self._decide(node)

    def dialled(self, node_id: bytes, client: str | None, network: str | None, reason: str | None) -> None:
        """`reason`: why there is no hello; null when there is."""
        self._dials -= 1
        node = self._nodes[node_id]
        node.dial = (client, network, reason)
        self._decide(node)

    def _decide(self, node: Node) -> None:
        node.state = State.DECIDED
        here = _place_of(node)
        client, network, reason = node.dial
        self._news.append(
            Verdict(
                here.contact,
                reachable=True,
                reason=None,
                rtt_s=node.rtt_s,
                sources=node.sources,
                told=node.told,
                drawn=node.bucket == BUCKETS,
                client=client,
                network=network,
                dial=reason,
                elsewhere=_elsewhere(node, here),
            )
        )

    def failed(self, ask: Ask, node_id: bytes, reason: str) -> None:
        """PING or FIND got no answer, or a wrong one."""
        node = self._nodes[node_id]
        if ask is Ask.FIND:
            # It did answer before: it counts, and what is left of its table others may have.
            self._finds -= 1
            self._drawn(node)
            return
        self._pings -= 1
        self._miss(node, _place_of(node), reason)
        self._news.append(Silent(node_id, _place_of(node).contact.address, reason))

    def _miss(self, node: Node, place: Place, reason: str) -> None:
        place.reason = reason
        self._failed_at[place.contact.address] += 1
        self._network_of(place.contact.ip).failed += 1
        self._source_of(place).failed += 1
        if any(_untried(node)):
            self._queue(node)
        else:
            node.state = State.SILENT
            self._silent.add(node.node_id)

    def _learn(self, contact: Contact, source: bytes | None, voice: str) -> None:
        if contact.node_id == self._own_id:
            return
        node = self._nodes.get(contact.node_id)
        if node is None:
            if len(self._nodes) >= max(MIN_HEARSAY, HEARSAY_PER_NODE * self._terms.max_nodes):
                self.overflowed += 1
                return
            node = self._nodes[contact.node_id] = Node(contact.node_id)
        node.sources += source is not None
        if self._note_place(node, contact, voice):
            self._news.append(Seen(contact, source))
            if len(node.places) == 1 or node.state in (State.SILENT, State.SKIPPED):
                self._queue(node)

    def _note_place(self, node: Node, contact: Contact, voice: str) -> bool:
        """Whether that is a place not heard of before, and worth keeping."""
        place = node.places.get(contact.address)
        if place is not None:
            self._note_voice(place, voice)
            return False
        if sum(place.voices[0] == voice for place in node.places.values()) >= MAX_PLACES_OF_SOURCE:
            return False
        if len(node.places) >= MAX_PLACES:
            in_vain = next((address for address, place in node.places.items() if place.reason is not None), None)
            if in_vain is None:
                return False
            del node.places[in_vain]
        node.places[contact.address] = Place(contact, voice)
        return True

    def _note_voice(self, place: Place, voice: str) -> None:
        if voice in place.voices:
            return
        doubted = next((one for one in place.voices[1:] if self._is_doubted(one)), None)
        if len(place.voices) <= ENOUGH_VOICES:
            place.voices.append(voice)
        elif doubted is not None:
            place.voices[place.voices.index(doubted)] = voice

    # -- the end ---------------------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """The crawl is over: nobody can name another address of the silent any more, and that is their verdict."""
        for node_id in sorted(self._silent):
            node = self._nodes[node_id]
            place = _most_named(node)
            reason = place.reason or "timeout"
            elsewhere = _elsewhere(node, place)
            self._news.append(Verdict(place.contact, False, reason, sources=node.sources, elsewhere=elsewhere))
            node.state = State.DECIDED

    def _reason(self, node: Node) -> str:
        return _most_named(node).reason or "timeout"

    def news(self) -> list[News]:
        news, self._news = self._news, []
        return news

    # -- what an earlier run noted ---------------------------------------------------------------------------------

    def remember_seen(self, contact: Contact, source: bytes | None) -> None:
        teller = self._nodes.get(source) if source is not None else None
        self._learn(
            contact, source, BOOTSTRAP if source is None else source.hex() if teller is None else _voice_of(teller)
        )
        self._news.clear()

    def remember_silent(self, node_id: bytes, address: Address, reason: str) -> None:
        node = self._nodes.get(node_id)
        place = None if node is None else node.places.get(address)
        if node is None or place is None or place.reason is not None or node.state is State.DECIDED:
            return
        self._count_first_question(node, place)
        self._forget_wish(node)
        self._miss(node, place, reason)

    def remember_verdict(self, contact: Contact, reachable: bool) -> None:
        """The node is not asked again, and not told of again."""
        node = self._nodes.setdefault(contact.node_id, Node(contact.node_id))
        if node.state is State.DECIDED:
            return
        place = node.places.setdefault(contact.address, Place(contact, BOOTSTRAP))
        self._forget_wish(node)
        if reachable:
            self._count_first_question(node, place)
            node.place = place
            self._reach(node, contact.tcp_port)
        node.state = State.DECIDED

    def _forget_wish(self, node: Node) -> None:
        for asked_for in (self._silent, self._waiting):
            asked_for.discard(node.node_id)
        self._skipped.pop(node.node_id, None)


BOOTSTRAP = "bootstrap"
"""The voice of those that the user has named: whom he believes."""


def _place_of(node: Node) -> Place:
    assert node.place is not None, "it has been asked"
    return node.place


def _untried(node: Node) -> Iterator[Place]:
    return (place for place in node.places.values() if place.reason is None)


def _most_named(node: Node) -> Place:
    return max(node.places.values(), key=lambda place: len(place.voices))


def _elsewhere(node: Node, here: Place) -> tuple[Address, ...]:
    others = (place for place in node.places.values() if place is not here)
    return tuple(place.contact.address for place, _ in zip(others, range(MAX_TOLD_PLACES), strict=False))


def _voice_of(node: Node) -> str:
    """As whose word its hearsay counts: that of its /24 or /64; its own in networks where addresses are not scarce."""
    place = node.place or _most_named(node)
    return subnet_of(place.contact.ip) or node.node_id.hex()
