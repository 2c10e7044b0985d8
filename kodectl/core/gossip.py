"""Broadcasts, completed: flood, and gossip with announcements, pulls and digests.

A gossiped message goes at once to some peers (`spreading`). The others get its id a moment later (`have`) and ask for
what they lack (`pulls`, `serving`). What both miss, because a link broke in between, shows in the digests that peers
compare (`seen`).

Nothing here waits or calls anybody: methods take what happened, and give back what to do. Peers are node ids.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import chain, islice

from kodectl.core.gossip_effects import Distrust, Effect, Offence, Relay, SendDigest, SendWant, Verdict, in_parts
from kodectl.core.limits import TokenBucket
from kodectl.core.message_cache import MessageCache
from kodectl.core.neighbour import MESSAGE_COST, Neighbour
from kodectl.core.pulls import Pulls
from kodectl.core.seen import SLOT_MS, Seen
from kodectl.core.serving import Serving
from kodectl.core.spreading import Spreading
from kodectl.core.time_window import TimeWindow
from kodectl.errors import PeerFault
from kodectl.wire.messages import DigestSlot

DIGEST_EVERY_S = 5.0
"""A digest goes to one peer in turn: 50 peers have had one within half of the window in which messages live."""
DIGEST_AGAIN_S = 2.0
"""Least time between two digests to one peer, so that two who differ do not talk of nothing else."""
SETTLE_S = 15.0
"""Slots that ended less than this ago still fill up everywhere. They are compared on a fresh link only."""
EDGE_S = 60.0
"""Slots that are that close to being too old are not compared: by the peer's clock they may be."""
MANY_PULLED = 1024
"""After so many pulled from one peer, there may be more than fitted into its announcements: compare again."""
ORIGIN_RATE, ORIGIN_BURST = 8 << 20, 80 << 20
"""New messages of one origin: 2,000 small ones or two blocks a second; 20,000 or twenty at once."""
OWN_SHARE = 0.9
"""Of that, what this node publishes itself: messages that the way has pushed together must not be over the limit."""
MAX_ORIGINS = 4096
"""Origins whose rate is remembered, about 200 bytes each; the one not heard for longest is forgotten."""
UPKEEP_EVERY_S = 2.0
"""Forgetting what is too old, and looking whether a peer has more for us or breaks its promises."""
PENALTY_EVERY_S = 1.0
"""A peer that goes on misbehaving loses trust once in this time, whatever the number of messages."""

_REFUSALS = [verdict for verdict in Verdict if verdict is not Verdict.NEW]


class Gossip:
    """The broadcasts of one node.

    For each message that comes: `allow`, then (its id computed) `judge`, then (its signature checked) `accept`, with no
    wait in between. `now` is monotonic; the wall clock only decides which message times are acceptable. `allow` is
    False for a peer that is not connected; the other methods about what a peer sent want one that is."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._neighbours: dict[bytes, Neighbour] = {}
        self._seen = Seen()
        self._cache = MessageCache()
        self._window = TimeWindow()
        self._pulls = Pulls()
        self._spreading = Spreading(rng, self._neighbours, self._cache)
        self._serving = Serving(self._neighbours, self._cache, self._spreading)
        self._origins: OrderedDict[bytes, TokenBucket] = OrderedDict()
        self._own = TokenBucket(OWN_SHARE * ORIGIN_RATE, OWN_SHARE * ORIGIN_BURST)
        self._offences: list[Effect] = []
        self._turn = 0
        self._digest_at = self._upkeep_at = float("inf")
        self._refused = dict.fromkeys(_REFUSALS, 0)
        self._counts = dict.fromkeys(
            ("accepted", "published", "over_peer_rate", "digests", "digests_ignored", "distrusted"), 0
        )

    # Peers

    def connected(self, peer_id: bytes, now: float) -> list[Effect]:
        """A link was made; both sides say what they have."""
        self.disconnected(peer_id, now)
        if not self._neighbours:
            # By chance, so that nodes started together do not all compare at the same time.
            self._digest_at = now + DIGEST_EVERY_S * (1 + self._rng.random())
        self._upkeep_at = min(self._upkeep_at, now + UPKEEP_EVERY_S)
        neighbour = self._neighbours[peer_id] = Neighbour(peer_id, now)
        return [self._send_digest(neighbour, now)]

    def disconnected(self, peer_id: bytes, now: float) -> None:
        neighbour = self._neighbours.pop(peer_id, None)
        if neighbour is None:
            return
        self._pulls.forget_peer(neighbour.announcer, now)
        if not self._neighbours:
            self._digest_at = float("inf")

    # Messages

    def allow(self, peer_id: bytes, size: int, now: float) -> bool:
        """Whether a broadcast or sync message of `size` bytes from this peer may be looked at; False: drop it.

        Raises PeerFault (code flooding) when so much was dropped that the peer cannot mean well."""
        neighbour = self._neighbours.get(peer_id)
        if neighbour is None:
            return False
        if neighbour.allowance.take(now, size + MESSAGE_COST):
            return True
        if not neighbour.patience.take(now, size + MESSAGE_COST):
            raise PeerFault("too many broadcasts", code="flooding")
        self._counts["over_peer_rate"] += 1
        self._note_offence(neighbour, Offence.FLOODING, now)
        return False

    def is_duplicate(self, peer_id: bytes, message_id: bytes) -> bool:
        """Whether the message was seen before. If so, it is noted that the peer has it."""
        if message_id not in self._seen.ids:
            return False
        self._refused[Verdict.DUPLICATE] += 1
        self._spreading.shown(self._neighbours[peer_id], message_id)
        return True

    def judge(
        self, peer_id: bytes, message_id: bytes, origin: bytes, time_ms: int, size: int, now: float, unix_time: float
    ) -> Verdict:
        """What the message is. Costs next to nothing, so that duplicates and rubbish do not reach the signature check."""
        if self.is_duplicate(peer_id, message_id):
            return Verdict.DUPLICATE
        verdict = self._judge_new(origin, time_ms, size, now, unix_time)
        if verdict is not Verdict.NEW:
            self._refused[verdict] += 1
        return verdict

    def accept(
        self, peer_id: bytes, message_id: bytes, origin: bytes, time_ms: int, message: bytes, now: float, *, flood: bool
    ) -> Relay | None:
        """A NEW message whose signature holds: it is to be delivered, and passed on as the value says."""
        self._counts["accepted"] += 1
        holders = self._pulls.arrived(message_id, peer_id, now)
        self._origin(origin).spend(now, len(message) + MESSAGE_COST)
        self._keep(message_id, time_ms, message, now)
        if flood:
            return self._spreading.flood(peer_id, message_id, message)
        return self._spreading.gossip(peer_id, holders, message_id, message, now)

    def publish_wait_s(self, size: int, now: float, unix_time: float) -> float:
        """How long to wait before peers accept a message of `size` from this node; infinity when so much was seen in
        the last minute that no more can be remembered."""
        self._window.observe(now, unix_time)
        has_room = self._seen.has_room(int(unix_time * 1000), self._window, now)
        return self._own.wait_s(now, size + MESSAGE_COST) if has_room else float("inf")

    def publish(self, message_id: bytes, time_ms: int, message: bytes, now: float, *, flood: bool) -> Relay | None:
        """A message of this node."""
        self._counts["published"] += 1
        self._own.spend(now, len(message) + MESSAGE_COST)
        self._keep(message_id, time_ms, message, now)
        if flood:
            return self._spreading.flood(None, message_id, message)
        return self._spreading.gossip_own(message_id, message, now)

    def postpone(self, peer_id: bytes, message_id: bytes, now: float) -> None:
        """The peer's link has no room for the message: it gets the id, and pulls when it can."""
        neighbour = self._neighbours.get(peer_id)
        if neighbour is not None:
            self._spreading.announce_later(neighbour, message_id, now)

    # Sync

    def on_have(self, peer_id: bytes, ids: Iterable[bytes], now: float) -> None:
        neighbour = self._neighbours[peer_id]
        seen, shown = self._seen.ids, self._spreading.shown
        unseen = []
        for message_id in ids:
            if message_id in seen:
                shown(neighbour, message_id)
            else:
                unseen.append(message_id)
        if unseen:
            self._pulls.announced(neighbour.announcer, unseen, now)

    def on_want(self, peer_id: bytes, ids: Iterable[bytes], room: int, now: float) -> list[Effect]:
        """The answers that fit into `room` bytes of the peer's queue; the rest follows in ticks."""
        return self._serving.wanted(self._neighbours[peer_id], ids, room, now)

    def on_digest(self, peer_id: bytes, slots: Iterable[DigestSlot], now: float, unix_time: float) -> list[Effect]:
        neighbour = self._neighbours[peer_id]
        if not neighbour.digests.take(now):
            self._counts["digests_ignored"] += 1
            return []
        self._window.observe(now, unix_time)
        differing = self._comparable(self._seen.differing(slots), neighbour, now, unix_time)
        for message_id in chain.from_iterable(self._held_of(number) for number in differing):
            if not self._spreading.announce_later(neighbour, message_id, now):
                break
        if differing and now - neighbour.compared_at >= DIGEST_AGAIN_S:
            # It may hold what we lack, and learns from our digest where.
            return [self._send_digest(neighbour, now)]
        return []

    # Time

    def indebted(self) -> list[bytes]:
        """Peers that wait for answers to their wants; `tick` wants to know the room in their queues."""
        return self._serving.indebted()

    def tick(self, now: float, unix_time: float, rooms: Mapping[bytes, int]) -> list[Effect]:
        """What has become due. `rooms`: free bytes in the queues of the `indebted` peers."""
        effects = self._spreading.due(now)
        for peer_id, ids in self._pulls.due(now).items():
            effects += [SendWant(peer_id, part) for part in in_parts(ids)]
        effects += self._serving.due(rooms, now)
        if now >= self._digest_at:
            effects += self._send_digest_in_turn(now)
        if now >= self._upkeep_at:
            effects += self._upkeep(now, unix_time)
        effects += self._offences
        self._offences = []
        return effects

    def next_deadline(self) -> float:
        """When `tick` is next needed; infinity for never."""
        if self._offences:
            return float("-inf")
        sending = min(self._spreading.next_deadline(), self._pulls.next_deadline(), self._serving.next_deadline())
        return min(sending, self._digest_at, self._upkeep_at)

    def counters(self) -> dict[str, int]:
        refused = {verdict.value: count for verdict, count in self._refused.items()}
        sizes = {"missing": len(self._pulls), "cached": len(self._cache), "cached_bytes": self._cache.size_bytes}
        return self._counts | refused | self._spreading.counts | self._serving.counts | self._pulls.counts | sizes

    # New messages

    def _judge_new(self, origin: bytes, time_ms: int, size: int, now: float, unix_time: float) -> Verdict:
        self._window.observe(now, unix_time)
        lateness = self._window.lateness(time_ms / 1000, now)
        if lateness < 0:
            return Verdict.AHEAD
        if lateness > 0:
            return Verdict.TOO_OLD
        if not self._seen.has_room(time_ms, self._window, now):
            return Verdict.FULL
        if not self._seen.is_open(time_ms):
            return Verdict.TOO_OLD
        if self._origin(origin).wait_s(now, size + MESSAGE_COST) > 0:
            return Verdict.OVER_RATE
        return Verdict.NEW

    def _keep(self, message_id: bytes, time_ms: int, message: bytes, now: float) -> None:
        self._seen.add(message_id, time_ms)
        self._cache.add(message_id, message, now)
        self._upkeep_at = min(self._upkeep_at, now + UPKEEP_EVERY_S)

    def _origin(self, origin: bytes) -> TokenBucket:
        bucket = self._origins.get(origin)
        if bucket is not None:
            self._origins.move_to_end(origin)
            return bucket
        if len(self._origins) >= MAX_ORIGINS:
            self._origins.popitem(last=False)
        bucket = self._origins[origin] = TokenBucket(ORIGIN_RATE, ORIGIN_BURST)
        return bucket

    # Comparing

    def _send_digest(self, neighbour: Neighbour, now: float) -> SendDigest:
        neighbour.compared_at = now
        neighbour.pulled_before = neighbour.announcer.pulled
        neighbour.announcer.overflowed = False
        self._counts["digests"] += 1
        return SendDigest(neighbour.peer_id, tuple(self._seen.digest()))

    def _send_digest_in_turn(self, now: float) -> list[Effect]:
        self._digest_at = now + DIGEST_EVERY_S
        self._turn = (self._turn + 1) % len(self._neighbours)
        neighbour = list(self._neighbours.values())[self._turn]
        return [self._send_digest(neighbour, now)] if now - neighbour.compared_at >= DIGEST_AGAIN_S else []

    def _comparable(self, slots: Iterable[int], neighbour: Neighbour, now: float, unix_time: float) -> list[int]:
        """Those slots in which a difference means that something is missing, and not that it is on its way."""
        fresh = now - neighbour.since < SETTLE_S
        oldest = (self._window.oldest(now) + EDGE_S) * 1000 // SLOT_MS
        newest = float("inf") if fresh else (unix_time - SETTLE_S) * 1000 // SLOT_MS
        return [number for number in slots if oldest <= number < newest]

    def _held_of(self, number: int) -> Iterable[bytes]:
        """The ids of a slot that can still be handed out. Slot and cache have them in the order of their arrival, and what
        came first leaves the cache first: it is the rest of the slot from some place on."""
        ids = self._seen.ids_of(number)
        return islice(ids, bisect_left(ids, True, key=self._cache.__contains__), None)

    def _may_have_more(self, neighbour: Neighbour, now: float) -> bool:
        """Much of what the peer announced has come, and its announcements may not have held all."""
        announcer = neighbour.announcer
        much = announcer.overflowed or announcer.pulled - neighbour.pulled_before >= MANY_PULLED
        return much and announcer.introduced < MANY_PULLED and now - neighbour.compared_at >= DIGEST_AGAIN_S

    # Upkeep

    def _upkeep(self, now: float, unix_time: float) -> list[Effect]:
        self._window.observe(now, unix_time)
        self._seen.forget_before(self._window.oldest(now))
        self._cache.expire(now)
        self._upkeep_at = now + UPKEEP_EVERY_S if self._neighbours or self._seen.ids else float("inf")
        for neighbour in self._neighbours.values():
            if not neighbour.announcer.trusted(now):
                self._note_offence(neighbour, Offence.BROKEN_PROMISE, now)
        with_more = [peer for peer in self._neighbours.values() if self._may_have_more(peer, now)]
        return [self._send_digest(neighbour, now) for neighbour in with_more]

    def _note_offence(self, neighbour: Neighbour, offence: Offence, now: float) -> None:
        if now - neighbour.distrusted_at >= PENALTY_EVERY_S:
            neighbour.distrusted_at = now
            self._counts["distrusted"] += 1
            self._offences.append(Distrust(neighbour.peer_id, offence))
