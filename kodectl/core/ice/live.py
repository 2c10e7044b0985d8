"""Paths that are kept alive side by side, so that there is always a next one: a relayed pair beside a direct one.

RFC 8445 keeps the selected pair alone. Two agents that both keep all of theirs can move to another in the middle of a
connection, and back. Every request here is one of consent too (RFC 7675), so data goes on any path that is alive.

    alive     asked every 4 s or so; the best of these is the path
    doubted   a request has not been answered in time, or who uses the path hears nothing: asked quickly
    dead      nothing for 1.5 s, or for some round trips where those are long: asked every second, until it answers
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from kodectl.core.ice.checks import Peer, Role, pack_request
from kodectl.core.ice.consent import LIFETIME_S
from kodectl.core.ice.effects import Transmit
from kodectl.core.ice.local import Base
from kodectl.core.ice.pairs import Pair
from kodectl.wire.candidates import Address
from kodectl.wire.stun import ID_SIZE

INTERVAL_S = 4.0
"""Between requests on a path that answers, each time varied by a fifth, as RFC 7675, section 5.1, allows."""
SPREAD = 0.2
QUICK_S = 0.25
"""Between requests on one that is doubted: six get the chance to be answered before it is dead, so that at a loss of a
fifth each way one doubt in 500 is wrong."""
DEAD_AFTER_S = 1.5
"""Without an answer. A datagram of QUIC that got lost just before is then repeated for the second or third time."""
DEAD_ROUND_TRIPS = 4
"""Or so many of them, where they are long."""
DEAD_INTERVAL_S = 1.0
DEAD_INTERVALS = 60
"""Then it is asked as rarely as one that is alive: a minute is longer than most outages that end by themselves."""
MAX_DIRECT, MAX_RELAYED = 4, 2
"""Kept at a time: two interfaces of each family, and two relays."""
MAX_ASKED = 8
"""Requests of one path whose answers still count: more than fit into `DEAD_AFTER_S`."""


class LivePath:
    """One pair, with the key that its answers are proved by: after a restart, those of before have another."""

    __slots__ = ("asked", "dead_asked", "heard_at", "is_alive", "next_at", "pair", "peer", "rtt_s", "waiting_since")

    def __init__(self, pair: Pair, peer: Peer, now: float, rtt_s: float) -> None:
        self.pair = pair
        self.peer = peer
        self.asked: dict[bytes, float] = {}
        self.waiting_since: float | None = None
        """The first request since the last answer."""
        self.heard_at = now
        self.next_at = now
        self.is_alive = True
        self.dead_asked = 0
        self.rtt_s = rtt_s

    @property
    def dies_at(self) -> float | None:
        if self.waiting_since is None or not self.is_alive:
            return None
        return self.waiting_since + max(DEAD_AFTER_S, DEAD_ROUND_TRIPS * self.rtt_s)

    @property
    def due_at(self) -> float:
        dies_at = self.dies_at
        return self.next_at if dies_at is None else min(self.next_at, dies_at)

    def answered(self, transaction_id: bytes, now: float) -> None:
        self.rtt_s = now - self.asked.pop(transaction_id)
        self.heard_at = now
        self.waiting_since = None
        self.is_alive = True
        self.dead_asked = 0

    def asks(self, transaction_id: bytes, now: float) -> None:
        while len(self.asked) >= MAX_ASKED:
            del self.asked[next(iter(self.asked))]
        self.asked[transaction_id] = now
        if self.waiting_since is None:
            self.waiting_since = now
        if self.is_alive:
            self.next_at = now + max(QUICK_S, self.rtt_s * 1.5)
        else:
            self.dead_asked += 1
            self.next_at = now + (DEAD_INTERVAL_S if self.dead_asked < DEAD_INTERVALS else INTERVAL_S)


class LivePaths:
    """Of one session, over its restarts. Nothing raises."""

    def __init__(self, rng: random.Random, random_bytes: Callable[[int], bytes]) -> None:
        self._rng = rng
        self._random_bytes = random_bytes
        self._paths: dict[tuple[Base, Address], LivePath] = {}
        self._heard_at: float | None = None
        """The last answer on any, those too that are forgotten."""

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, pair: Pair) -> bool:
        path = self._paths.get(pair.key)
        return path is not None and path.pair is pair

    @property
    def path(self) -> Pair | None:
        """The best one that is alive."""
        alive = [path.pair for path in self._paths.values() if path.is_alive]
        return max(alive, key=lambda pair: pair.priority, default=None)

    def find(self, base: Base, remote: Address) -> Pair | None:
        path = self._paths.get((base, remote))
        return None if path is None else path.pair

    def is_alive(self, pair: Pair) -> bool:
        path = self._paths.get(pair.key)
        return path is not None and path.is_alive

    def carries(self, base: Base) -> bool:
        """Whether any path from there is alive."""
        return any(path.is_alive and path.pair.local.base is base for path in self._paths.values())

    # What is kept

    def add(self, pair: Pair, peer: Peer, rtt_s: float, now: float) -> None:
        """One that has just answered a check; it takes the place of one of before a restart between the same ends."""
        path = LivePath(pair, peer, now, rtt_s)
        self._heard_at = now
        path.next_at = now + self._pause_s()
        self._paths[pair.key] = path
        rivals = [other for other in self._paths.values() if other.pair.is_relayed == pair.is_relayed]
        if len(rivals) > (MAX_RELAYED if pair.is_relayed else MAX_DIRECT):
            worst = min(rivals, key=lambda other: (other.is_alive, other.pair.priority, other.heard_at))
            del self._paths[worst.pair.key]

    def forget(self, base: Base) -> None:
        self._paths = {key: path for key, path in self._paths.items() if key[0] is not base}

    def retire(self, peer: Peer) -> None:
        """Those of before a restart that do not answer: the peer has forgotten them."""
        self._paths = {key: path for key, path in self._paths.items() if path.is_alive or path.peer == peer}

    def doubt(self, now: float) -> None:
        """All of them: one takes the place of the other only if it is no worse. What has just answered is asked a moment
        later, so that doubts cost no more than a bad path does."""
        for path in self._paths.values():
            if path.is_alive and path.waiting_since is None:
                path.next_at = min(path.next_at, max(now, path.heard_at + QUICK_S))

    # Answers

    def key_of(self, transaction_id: bytes) -> bytes | None:
        """What proves an answer to one of the requests; None for any other."""
        path = self._asked(transaction_id)
        return None if path is None else path.peer.key

    def answered(self, transaction_id: bytes, base: Base, sender: Address, now: float) -> None:
        """By an answer whose integrity has been found right."""
        path = self._asked(transaction_id)
        if path is not None and path.pair.key == (base, sender):
            path.answered(transaction_id, now)
            path.next_at = now + self._pause_s()
            self._heard_at = now

    def _asked(self, transaction_id: bytes) -> LivePath | None:
        return next((path for path in self._paths.values() if transaction_id in path.asked), None)

    # Time

    def requests(self, role: Role, now: float) -> list[Transmit]:
        """Those that are due; what is not answered dies."""
        due = []
        for path in self._paths.values():
            dies_at = path.dies_at
            if dies_at is not None and now >= dies_at:
                path.is_alive = False
                path.next_at = now
            if now >= path.next_at:
                due.append(self._request(path, role, now))
        return due

    def has_expired(self, now: float) -> bool:
        """Whether the peer consents to nothing any more (RFC 7675)."""
        return self._heard_at is not None and now >= self._heard_at + LIFETIME_S

    def clear(self) -> None:
        self._paths.clear()
        self._heard_at = None

    def next_deadline(self) -> float | None:
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterator[float]:
        if self._heard_at is not None:
            yield self._heard_at + LIFETIME_S
        for path in self._paths.values():
            yield path.due_at

    def _request(self, path: LivePath, role: Role, now: float) -> Transmit:
        transaction_id = self._random_bytes(ID_SIZE)
        path.asks(transaction_id, now)
        local = path.pair.local
        packet = pack_request(transaction_id, path.peer, role, local.candidate.priority, False)
        return Transmit(local.base, packet, path.pair.remote.address)

    def _pause_s(self) -> float:
        return INTERVAL_S * self._rng.uniform(1 - SPREAD, 1 + SPREAD)
