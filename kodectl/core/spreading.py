"""To whom a message goes at once, and who is told its id."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from kodectl.core.gossip_effects import IDS_AT_ONCE, Effect, Relay, SendHave, in_parts
from kodectl.core.message_cache import MessageCache
from kodectl.core.neighbour import Neighbour
from kodectl.core.pulls import Announcer

EAGER_SHARE = 0.3
"""Of all peers: what gossip hands the message itself (docs/protocol.md, envelope)."""
EAGER_LEAST = 6
"""The origin's message goes to so many at once. A relay hands it to its share, and sees to it a little later that six of
its peers have it. Six at once from every relay are 5.7 copies a node at degree 8, this is 3.1; the last node has it
after 0.4 instead of 0.2 seconds (1,000 nodes, latencies of 10 to 80 ms, 5 % of the copies lost)."""
TOP_UP_AFTER_S = 0.6
"""When a relay looks whether six have it: by then announcements and pulls have gone around."""
HAVE_DELAY_S = 0.08
"""Ids gather so long, so that many share a message; with the rest between two ticks it stays within 100 ms."""
HAVES_AT_ONCE = 4
"""`have` messages to one peer at a time, HAVE_DELAY_S apart: 50,000 ids a second, 1.6 MB."""
MAX_TO_ANNOUNCE = 16_384
"""Ids that wait to be announced to one peer. What is passed over shows in the next digest."""


class TopUp:
    """A gossiped message that EAGER_LEAST peers may not have yet."""

    __slots__ = ("candidates", "lacking")

    def __init__(self, candidates: dict[Neighbour, None], lacking: int) -> None:
        self.candidates = candidates
        """Peers that have neither been handed the message nor shown that they have it."""
        self.lacking = lacking


class Spreading:
    """`neighbours` are the connected peers; it is shared with the owner, who changes it."""

    def __init__(self, rng: random.Random, neighbours: Mapping[bytes, Neighbour], cache: MessageCache) -> None:
        self._rng = rng
        self._neighbours = neighbours
        self._cache = cache
        self._top_ups: dict[bytes, TopUp] = {}
        self._top_up_order: deque[tuple[float, bytes]] = deque()
        self._have_at = float("inf")
        self.counts = dict.fromkeys(("eager_copies", "topped_up", "haves", "not_announced"), 0)

    def flood(self, source: bytes | None, message_id: bytes, message: bytes) -> Relay | None:
        """To every peer but the one it came from."""
        others = [neighbour for neighbour in self._neighbours.values() if neighbour.peer_id != source]
        return self._hand(others, message_id, message)

    def gossip_own(self, message_id: bytes, message: bytes, now: float) -> Relay | None:
        """A message of this node: nobody has it."""
        others = list(self._neighbours.values())
        return self._gossip(others, max(EAGER_LEAST, _share(len(others))), message_id, message, now)

    def gossip(
        self, source: bytes, holders: Collection[Announcer], message_id: bytes, message: bytes, now: float
    ) -> Relay | None:
        """A message that `source` sent and `holders` have announced."""
        others = [neighbour for neighbour in self._neighbours.values() if neighbour.peer_id != source]
        if holders:
            others = [neighbour for neighbour in others if neighbour.announcer not in holders]
        return self._gossip(others, _share(len(self._neighbours)), message_id, message, now)

    def announce_later(self, neighbour: Neighbour, message_id: bytes, now: float) -> bool:
        """False: as many wait already as may."""
        waiting = neighbour.to_announce
        if len(waiting) >= MAX_TO_ANNOUNCE:
            self.counts["not_announced"] += 1
            return False
        waiting[message_id] = None
        if self._have_at == float("inf"):
            self._have_at = now + HAVE_DELAY_S
        return True

    def shown(self, neighbour: Neighbour, message_id: bytes) -> None:
        """The peer has the message, or gets it: it needs neither its id nor another copy."""
        neighbour.to_announce.pop(message_id, None)
        top_up = self._top_ups.get(message_id)
        if top_up is not None and neighbour in top_up.candidates:
            del top_up.candidates[neighbour]
            top_up.lacking -= 1

    def due(self, now: float) -> list[Effect]:
        """Announcements and late copies whose time has come."""
        effects: list[Effect] = []
        if now >= self._have_at:
            effects += self._send_haves(now)
        while self._top_up_order and self._top_up_order[0][0] <= now:
            effects += self._top_up(self._top_up_order.popleft()[1])
        return effects

    def next_deadline(self) -> float:
        """When `due` has work; infinity for never."""
        return min(self._have_at, self._top_up_order[0][0]) if self._top_up_order else self._have_at

    def _gossip(
        self, others: list[Neighbour], eager: int, message_id: bytes, message: bytes, now: float
    ) -> Relay | None:
        """Hands the message to `eager` of the `others` and announces it to the rest. All not among `others` have it."""
        known = len(self._neighbours) - len(others)
        eager = min(eager, len(others))
        self._shuffle_front(others, eager)
        rest = others[eager:]
        for neighbour in rest:
            self.announce_later(neighbour, message_id, now)
        lacking = EAGER_LEAST - eager - known
        if rest and lacking > 0:
            self._top_ups[message_id] = TopUp(dict.fromkeys(rest), lacking)
            self._top_up_order.append((now + TOP_UP_AFTER_S, message_id))
        return self._hand(others[:eager], message_id, message)

    def _shuffle_front(self, neighbours: list[Neighbour], count: int) -> None:
        """Moves `count` that chance picks to the front (Fisher and Yates; `sample` costs more)."""
        size, chance = len(neighbours), self._rng.random
        for index in range(count):
            other = index + int(chance() * (size - index))
            neighbours[index], neighbours[other] = neighbours[other], neighbours[index]

    def _hand(self, neighbours: Sequence[Neighbour], message_id: bytes, message: bytes) -> Relay | None:
        if not neighbours:
            return None
        self.counts["eager_copies"] += len(neighbours)
        return Relay([neighbour.peer_id for neighbour in neighbours], message_id, message)

    def _send_haves(self, now: float) -> list[Effect]:
        self._have_at = float("inf")
        effects: list[Effect] = []
        for neighbour in self._neighbours.values():
            ids = list(islice(neighbour.to_announce, HAVES_AT_ONCE * IDS_AT_ONCE))
            if len(ids) == len(neighbour.to_announce):
                neighbour.to_announce.clear()
            else:
                self._have_at = now + HAVE_DELAY_S
                for message_id in ids:
                    del neighbour.to_announce[message_id]
            effects += [SendHave(neighbour.peer_id, part) for part in in_parts(ids)]
        self.counts["haves"] += len(effects)
        return effects

    def _top_up(self, message_id: bytes) -> list[Effect]:
        top_up = self._top_ups.pop(message_id)
        message = self._cache.get(message_id)
        if top_up.lacking <= 0 or message is None:
            return []
        connected = [peer for peer in top_up.candidates if self._neighbours.get(peer.peer_id) is peer]
        relay = self._hand(connected[: top_up.lacking], message_id, message)
        if relay is None:
            return []
        self.counts["topped_up"] += len(relay.peers)
        return [relay]


def _share(peers: int) -> int:
    return math.ceil(EAGER_SHARE * peers)
