"""Answers to `want`: as fast as a peer may be served, and as far as its link has room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kodectl.core.gossip_effects import Effect, Relay
from kodectl.core.message_cache import MessageCache
from kodectl.core.neighbour import MESSAGE_COST, Neighbour
from kodectl.core.spreading import Spreading

SERVE_AGAIN_S = 0.05
"""When answers had to stop (rate, or a queue without room), they go on after this."""
MAX_OWED = 1024
"""Ids that one peer may be waiting for; an honest one asks for 512 at a time."""


class Serving:
    """`neighbours` is shared with the owner."""

    def __init__(self, neighbours: Mapping[bytes, Neighbour], cache: MessageCache, spreading: Spreading) -> None:
        self._neighbours = neighbours
        self._cache = cache
        self._spreading = spreading
        self._again_at = float("inf")
        self.counts = dict.fromkeys(("served", "want_not_held", "want_over_limit"), 0)

    def wanted(self, neighbour: Neighbour, ids: Iterable[bytes], room: int, now: float) -> list[Effect]:
        for message_id in ids:
            if len(neighbour.owed) < MAX_OWED:
                neighbour.owed.append(message_id)
            else:
                self.counts["want_over_limit"] += 1
        return self._serve(neighbour, room, now)

    def indebted(self) -> list[bytes]:
        return [neighbour.peer_id for neighbour in self._neighbours.values() if neighbour.owed]

    def due(self, rooms: Mapping[bytes, int], now: float) -> list[Effect]:
        """Goes on where answers had to stop."""
        effects: list[Effect] = []
        if now >= self._again_at:
            self._again_at = float("inf")
            for peer_id in self.indebted():
                effects += self._serve(self._neighbours[peer_id], rooms.get(peer_id, 0), now)
        return effects

    def next_deadline(self) -> float:
        """When `due` has work; infinity for never."""
        return self._again_at

    def _serve(self, neighbour: Neighbour, room: int, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while neighbour.owed:
            message_id = neighbour.owed[0]
            message = self._cache.get(message_id)
            if message is None:
                self.counts["want_not_held"] += 1
            else:
                room -= len(message)
                if room < 0 or not neighbour.serving.take(now, len(message) + MESSAGE_COST):
                    self._again_at = min(self._again_at, now + SERVE_AGAIN_S)
                    break
                self._spreading.shown(neighbour, message_id)
                effects.append(Relay((neighbour.peer_id,), message_id, message))
            neighbour.owed.popleft()
        self.counts["served"] += len(effects)
        return effects
