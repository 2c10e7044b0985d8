"""What nodes say of others while a network is crawled: who is worth asking, where, and in which order.

Liars are held by what their hearsay comes to. Who names many that do not answer is no longer believed; made-up ids at
somebody's addresses soon cost him no more questions, unless several networks name the same; and lines of hearsay take
turns, so that a thousand ids of one source delay the others by one question each round. What is under way counts as if it
failed: then a source has as much at stake at any time as it has credit, and not as much as fits into the time of a timeout.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from enum import Enum

from kodectl.core.session import Address
from kodectl.core.table import subnet_of
from kodectl.wire.contacts import Contact

MAX_PLACES = 32
"""Addresses kept of one id; where it was sought in vain makes room for another. Liars have named many before the first honest
node names the right one."""
MAX_PLACES_OF_SOURCE = 2
"""Of one id from one source, IPv4 and IPv6: a liar who comes first must leave room for the truth."""
MAX_FAILED_OF_SOURCE = 32
MAX_FAILED_OF_SUBNET = 8
"""Of a /24 or /64. What a whole network of made-up nodes can cost those who really are there."""
MAX_FAILED_OF_HOST = 64
"""Of one private address, where a test network may have all its nodes."""
MAX_FAILED_OF_ENDPOINT = 3
FAILED_PER_ANSWERED = 2
"""Beside those: after a bad day two thirds of what honest nodes name may be dead."""
ENOUGH_VOICES = 4
"""Sources of different networks, all believed, that name a node at one address: it is asked there, whatever else is said of
that place. Who makes up ids at honest addresses must not hide those who are there."""
MAX_OF_SUBNET = 256
"""Nodes asked in one /24 or /64: one for each address of the /24. More is somebody who makes up identities, not machines."""
USER = "user"
"""The voice of those that the user has named: whom he believes."""


class State(Enum):
    WAITING = "waiting"
    SKIPPED = "skipped"
    ASKED = "asked"
    SILENT = "silent"
    DRAWN = "drawn"
    DECIDED = "decided"


class Place:
    """Where an id is said to be. `voices`: who says so, a few of them. `reason`: why it was not found there."""

    __slots__ = ("contact", "creditor", "reason", "voices")

    def __init__(self, contact: Contact, voice: str) -> None:
        self.contact = contact
        self.voices = [voice]
        self.creditor = voice
        """Whose word it was asked on: what comes of it is his."""
        self.reason: str | None = None


class Named:
    """What is known of an id. `place`: where it is asked, or has answered."""

    __slots__ = ("node_id", "place", "places", "sources", "state")

    def __init__(self, node_id: bytes) -> None:
        self.node_id = node_id
        self.places: dict[Address, Place] = {}
        self.place: Place | None = None
        self.state = State.WAITING
        self.sources = 0
        """Nodes that have named it."""

    def here(self) -> Place:
        assert self.place is not None, "it has been asked"
        return self.place

    def untried(self) -> Iterator[Place]:
        return (place for place in self.places.values() if place.reason is None)

    def most_named(self) -> Place:
        return max(self.places.values(), key=lambda place: len(place.voices))

    def voice(self) -> str:
        """As whose word its hearsay counts: that of its /24 or /64; its own in networks where addresses are not scarce."""
        place = self.place or self.most_named()
        return subnet_of(place.contact.ip) or self.node_id.hex()


class Tally:
    """What came of questions to one network, or on the word of one source."""

    __slots__ = ("answered", "asked", "failed", "pending")

    def __init__(self) -> None:
        self.asked = self.answered = self.failed = self.pending = 0

    def is_poor(self, allowance: int) -> bool:
        return self.failed >= allowance + FAILED_PER_ANSWERED * self.answered

    def is_stretched(self, allowance: int) -> bool:
        """Whether it would be poor if those under way failed: then they have to come back first."""
        return self.failed + self.pending >= allowance + FAILED_PER_ANSWERED * self.answered


class Hearsay:
    """All ids that were named, and the lines in which they wait. `next` gives each as often as it has untried places; tell
    every one that it gave by `answered` or `failed`."""

    def __init__(self, most: int) -> None:
        self.nodes: dict[bytes, Named] = {}
        self.silent: set[bytes] = set()
        """Asked wherever they are said to be, and not found."""
        self.skipped: dict[bytes, str] = {}
        """Not asked, and why."""
        self.overflowed = 0
        """How often an id was named that there was no room for."""
        self.asked = 0
        """Ids that were asked at least once."""
        self.is_held = False
        """Whether all that wait must wait for something to come back."""
        self._most = most
        self._waiting: set[bytes] = set()
        self._lines: dict[str, deque[Named]] = {}
        """By source, those that it was the first to name. One that need not be asked any more may still stand there."""
        self._turns: deque[str] = deque()
        self._sources: dict[str, Tally] = {}
        self._networks: dict[str, Tally] = {}
        self._proved: dict[Address, bytes] = {}
        self._failed_at: Counter[Address] = Counter()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # -- what is said ----------------------------------------------------------------------------------------------

    def hear(self, contact: Contact, voice: str, *, is_named: bool = True) -> bool:
        """Whether that is an id, or a place of one, not heard of before. `is_named`: by a node, that is."""
        node = self.nodes.get(contact.node_id)
        if node is None:
            if len(self.nodes) >= self._most:
                self.overflowed += 1
                return False
            node = self.nodes[contact.node_id] = Named(contact.node_id)
        node.sources += is_named
        if not self._note_place(node, contact, voice):
            return False
        if len(node.places) == 1 or node.state in (State.SILENT, State.SKIPPED):
            self._queue(node)
        return True

    def _note_place(self, node: Named, contact: Contact, voice: str) -> bool:
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
        if len(place.voices) <= ENOUGH_VOICES:
            place.voices.append(voice)
            return
        doubted = next((one for one in place.voices[1:] if self._is_doubted(one)), None)
        if doubted is not None:
            place.voices[place.voices.index(doubted)] = voice

    def _queue(self, node: Named) -> None:
        node.state = State.WAITING
        self.silent.discard(node.node_id)
        self.skipped.pop(node.node_id, None)
        self._waiting.add(node.node_id)
        self.is_held = False
        name = next(node.untried()).voices[0]
        line = self._lines.setdefault(name, deque())
        if not line:
            self._turns.append(name)
        line.append(node)

    def forget(self, node: Named) -> None:
        """It need not be asked any more."""
        self._waiting.discard(node.node_id)
        self.silent.discard(node.node_id)
        self.skipped.pop(node.node_id, None)

    # -- whom to ask -----------------------------------------------------------------------------------------------

    def next(self) -> Named | None:
        """Who is to be asked now, at its `place`; the lines take turns."""
        for _ in range(len(self._turns)):
            name = self._turns[0]
            line = self._lines[name]
            node = self._first_of(line)
            self._turns.rotate(-1)
            if not line:
                del self._lines[name]
                self._turns.pop()
            if node is not None:
                self._begin(node)
                return node
        self.is_held = True
        return None

    def _first_of(self, line: deque[Named]) -> Named | None:
        """Takes out the first who may be asked, and those before who may not; None where the first has to wait."""
        while line:
            node = line[0]
            if node.state is State.WAITING:
                reason = self._choose_place(node)
                if reason is None and self._is_stretched(node.here()):
                    return None
                self._waiting.discard(node.node_id)
                if reason is None:
                    return line.popleft()
                node.state = State.SKIPPED
                self.skipped[node.node_id] = reason
            line.popleft()
        return None

    def reconsider(self) -> None:
        """Nobody waits, and nothing is under way: those whose source or network has done well since have another chance."""
        for node_id in list(self.skipped):
            node = self.nodes[node_id]
            reason = self._choose_place(node)
            if reason is None:
                self._queue(node)
            else:
                self.skipped[node_id] = reason

    def _choose_place(self, node: Named) -> str | None:
        """Sets the place that most name, of those that nothing speaks against; without one, what speaks against it."""
        first = None
        for place in sorted(node.untried(), key=lambda place: -len(place.voices)):
            objection = self._objection(node, place)
            if objection is None:
                node.place = place
                return None
            first = first or objection
        return first

    def _objection(self, node: Named, place: Place) -> str | None:
        address = place.contact.address
        if self._proved.get(address, node.node_id) != node.node_id:
            return "endpoint_taken"
        believed = sum(not self._is_doubted(voice) for voice in place.voices)
        if not believed:
            return "doubted_source"
        network = self._network_of(address[0])
        if subnet_of(address[0]) is not None and network.asked >= MAX_OF_SUBNET:
            return "crowded_network"
        if believed >= ENOUGH_VOICES:
            return None
        if self._failed_at[address] >= MAX_FAILED_OF_ENDPOINT:
            return "crowded_endpoint"
        return "silent_network" if network.is_poor(_allowance_of(address[0])) else None

    def _is_stretched(self, place: Place) -> bool:
        ip = place.contact.ip
        if self._free_voice(place) is None:
            return True
        return len(place.voices) < ENOUGH_VOICES and self._network_of(ip).is_stretched(_allowance_of(ip))

    def _free_voice(self, place: Place) -> str | None:
        return next((voice for voice in place.voices if not self._has_much_at_stake(voice)), None)

    def _has_much_at_stake(self, voice: str) -> bool:
        return voice != USER and self._source_of(voice).is_stretched(MAX_FAILED_OF_SOURCE)

    def _is_doubted(self, voice: str) -> bool:
        tally = self._sources.get(voice)
        return tally is not None and voice != USER and tally.is_poor(MAX_FAILED_OF_SOURCE)

    def _network_of(self, ip: str) -> Tally:
        return self._networks.setdefault(subnet_of(ip) or ip, Tally())

    def _source_of(self, voice: str) -> Tally:
        return self._sources.setdefault(voice, Tally())

    # -- what came of it -------------------------------------------------------------------------------------------

    def _begin(self, node: Named) -> None:
        place = node.here()
        place.creditor = self._free_voice(place) or place.voices[0]
        node.state = State.ASKED
        self._count_first(node, place)
        self._count_pending(place, 1)

    def answered(self, node: Named) -> None:
        self._count_pending(node.here(), -1)
        self.found(node)

    def failed(self, node: Named, reason: str) -> None:
        self._count_pending(node.here(), -1)
        self.missed(node, node.here(), reason)

    def found(self, node: Named) -> None:
        place = node.here()
        node.state = State.DRAWN
        self._proved[place.contact.address] = node.node_id
        self._network_of(place.contact.ip).answered += 1
        self._source_of(place.creditor).answered += 1

    def missed(self, node: Named, place: Place, reason: str) -> None:
        place.reason = reason
        self._failed_at[place.contact.address] += 1
        self._network_of(place.contact.ip).failed += 1
        self._source_of(place.creditor).failed += 1
        if any(node.untried()):
            self._queue(node)
        else:
            node.state = State.SILENT
            self.silent.add(node.node_id)

    def count_remembered(self, node: Named, place: Place) -> None:
        """An earlier run has asked it there."""
        self.forget(node)
        self._count_first(node, place)

    def _count_first(self, node: Named, place: Place) -> None:
        if all(other.reason is None for other in node.places.values()):
            self.asked += 1
            self._network_of(place.contact.ip).asked += 1

    def _count_pending(self, place: Place, change: int) -> None:
        self._network_of(place.contact.ip).pending += change
        self._source_of(place.creditor).pending += change
        self.is_held = False


def _allowance_of(ip: str) -> int:
    return MAX_FAILED_OF_HOST if subnet_of(ip) is None else MAX_FAILED_OF_SUBNET
