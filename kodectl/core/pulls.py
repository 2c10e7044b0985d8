"""Announced messages that have not come yet: whom to ask for them, when, and what to think of those who do not deliver."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from itertools import islice

WANT_DELAY_S = 0.1
"""Between an announcement and the question for it: most announced messages are on their way already, and come unasked."""
FIRST_PATIENCE_S = 2.0
"""For an answer of a peer that has not delivered anything yet."""
MIN_PATIENCE_S = 0.5
"""Answers queue behind what else the peer sends us, so a round trip alone is too short a wait."""
MAX_PATIENCE_S = 5.0
LONGEST_WAIT_S = 15.0
"""For a peer that delivers other things meanwhile; a full queue of blocks on a slow line takes that long."""
MAX_MISSING = 65_536
"""Announced ids waited for, about 500 bytes each. What is announced past that is announced again after the next digest."""
MAX_MISSING_PER_PEER = 8192
"""An eighth of all: no peer's inventions push out what the others announce."""
MAX_ANNOUNCERS = 16
"""Remembered per id. Each is asked at most once, so this is also the number of attempts."""
FIRST_ASKED, LEAST_ASKED, MAX_ASKED = 64, 4, 512
"""Ids asked of one peer at a time. One more after each answer, half after a wait in vain: small messages come at 5,000 a
second over a round trip of 100 ms, and blocks over a slow line come in time."""
CREDIT = 64
"""Broken promises that a peer has to spare; a kept one gives one back, a broken one costs two."""
CREDIT_REGAIN_S = 2.0
"""One credit comes back in this time by itself: an honest peer whose link was stuck is heard again after a minute or two."""
_GAIN, _VARIATION_GAIN = 1 / 8, 1 / 4
"""Of the patience estimate (RFC 6298)."""


class Announcer:
    """What the pulls know of one peer."""

    __slots__ = (
        "_credit",
        "_credit_time",
        "_delay_s",
        "_variation_s",
        "asked",
        "backlog",
        "broken",
        "delivered_at",
        "gone",
        "introduced",
        "may_ask",
        "overflowed",
        "peer_id",
        "pulled",
    )

    def __init__(self, peer_id: bytes) -> None:
        self.peer_id = peer_id
        self.asked: dict[bytes, None] = {}
        self.backlog: dict[bytes, None] = {}
        """Ids to ask for as soon as fewer than `may_ask` are asked."""
        self.may_ask = FIRST_ASKED
        self.introduced = 0
        """Missing ids that this peer announced first."""
        self.overflowed = False
        """Announcements of this peer were passed over because there was no room."""
        self.pulled = 0
        self.broken = 0
        self.delivered_at = float("-inf")
        self.gone = False
        self._credit = float(CREDIT)
        self._credit_time = float("-inf")
        self._delay_s: float | None = None
        self._variation_s = 0.0

    def patience_s(self) -> float:
        if self._delay_s is None:
            return FIRST_PATIENCE_S
        return min(MAX_PATIENCE_S, max(MIN_PATIENCE_S, self._delay_s + 4 * self._variation_s))

    def kept(self, waited_s: float, now: float) -> None:
        """The peer delivered what it was asked for."""
        self.pulled += 1
        self.may_ask = min(MAX_ASKED, self.may_ask + 1)
        self.delivered_at = now
        self._credit = min(CREDIT, self._credit + 1)
        if self._delay_s is None:
            self._delay_s, self._variation_s = waited_s, waited_s / 2
            return
        self._variation_s += _VARIATION_GAIN * (abs(waited_s - self._delay_s) - self._variation_s)
        self._delay_s += _GAIN * (waited_s - self._delay_s)

    def broke(self, now: float) -> None:
        """The peer did not deliver what it had announced."""
        self.broken += 1
        self._credit = max(0.0, self.credit(now) - 2)
        self._credit_time = now

    def credit(self, now: float) -> float:
        regained = (now - self._credit_time) / CREDIT_REGAIN_S if self._credit < CREDIT else 0.0
        return min(CREDIT, self._credit + regained)

    def load(self) -> int:
        """Ids that it is asked for, or will be."""
        return len(self.asked) + len(self.backlog)

    def trusted(self, now: float) -> bool:
        """A peer without credit is neither listened to nor asked."""
        return self._credit >= 1 or self.credit(now) >= 1


class Missing:
    """One announced id."""

    __slots__ = ("announcers", "asked", "asked_at", "deadline", "first", "next", "queued")

    def __init__(self, first: Announcer) -> None:
        self.first = first
        self.announcers = [first]
        self.next = 0
        """How many of the announcers have been asked: the first ones."""
        self.asked: Announcer | None = None
        self.asked_at = 0.0
        self.deadline = 0.0
        self.queued: Announcer | None = None
        """In whose backlog the id is."""

    def take_best(self, now: float) -> Announcer | None:
        """Whom to ask next, of those who were not yet: who has kept its promises, and of equals who is asked for least. So liars
        are found out with a part of the ids, and do not have each id in turn."""
        announcers, first = self.announcers, self.next
        best, best_rank = -1, (0, 0)
        for index in range(first, len(announcers)):
            announcer = announcers[index]
            rank = int(announcer.credit(now)), -announcer.load()
            if rank[0] >= 1 and not announcer.gone and (best < 0 or rank > best_rank):
                best, best_rank = index, rank
        if best < 0:
            return None
        announcers[first], announcers[best] = announcers[best], announcers[first]
        self.next += 1
        return announcers[first]


class Pulls:
    """At any time an id is in one of three places: waiting for its first question, in a backlog, or asked.

    An id whose announcers all failed is forgotten; the next announcement of it starts afresh.
    """

    def __init__(self) -> None:
        self._missing: dict[bytes, Missing] = {}
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._deadlines: list[tuple[float, bytes]] = []
        self._wants: dict[bytes, list[bytes]] = {}
        self._refill: dict[bytes, Announcer] = {}
        self.counts = {"wants": 0, "wants_unanswered": 0, "pulled": 0, "announcements_passed_over": 0, "given_up": 0}

    def __len__(self) -> int:
        return len(self._missing)

    def announced(self, announcer: Announcer, message_ids: Sequence[bytes], now: float) -> None:
        """`announcer` has these messages, which have not been seen here."""
        if not announcer.trusted(now):
            self.counts["announcements_passed_over"] += len(message_ids)
            return
        for message_id in message_ids:
            entry = self._missing.get(message_id)
            if entry is None:
                self._introduce(announcer, message_id, now)
            elif len(entry.announcers) < MAX_ANNOUNCERS and announcer not in entry.announcers:
                entry.announcers.append(announcer)

    def arrived(self, message_id: bytes, source: bytes | None, now: float) -> Sequence[Announcer]:
        """The message is here; the value is who else is known to have it."""
        entry = self._missing.get(message_id)
        if entry is None:
            return ()
        asked = entry.asked
        self._forget(message_id, entry)
        if asked is not None and asked.peer_id == source:
            asked.kept(now - entry.asked_at, now)
            self.counts["pulled"] += 1
        return entry.announcers

    def forget_peer(self, announcer: Announcer, now: float) -> None:
        """The peer is gone: what it was to deliver is asked of others at once."""
        announcer.gone = True
        self._refill.pop(announcer.peer_id, None)
        for message_id in [*announcer.asked, *announcer.backlog]:
            entry = self._missing[message_id]
            entry.asked = entry.queued = None
            self._waiting.appendleft((now, message_id))
        announcer.asked.clear()
        announcer.backlog.clear()

    def due(self, now: float) -> dict[bytes, list[bytes]]:
        """What to ask now: ids by peer."""
        self._wants = {}
        while self._waiting and self._waiting[0][0] <= now:
            self._first_question(self._waiting.popleft()[1], now)
        while self._deadlines and self._deadlines[0][0] <= now:
            self._deadline_passed(*heapq.heappop(self._deadlines), now)
        while self._refill:
            self._ask_from_backlog(self._refill.popitem()[1], now)
        wants, self._wants = self._wants, {}
        return wants

    def next_deadline(self) -> float:
        """When `due` has work; infinity for never."""
        if self._refill:
            return float("-inf")
        deadline = self._waiting[0][0] if self._waiting else float("inf")
        if self._deadlines and self._deadlines[0][0] < deadline:
            return self._deadlines[0][0]
        return deadline

    def _introduce(self, announcer: Announcer, message_id: bytes, now: float) -> None:
        if len(self._missing) >= MAX_MISSING or announcer.introduced >= MAX_MISSING_PER_PEER:
            announcer.overflowed = True
            self.counts["announcements_passed_over"] += 1
            return
        self._missing[message_id] = Missing(announcer)
        announcer.introduced += 1
        self._waiting.append((now + WANT_DELAY_S, message_id))

    def _first_question(self, message_id: bytes, now: float) -> None:
        entry = self._missing.get(message_id)
        if entry is not None and entry.asked is None and entry.queued is None:
            self._ask_next(message_id, entry, now)

    def _deadline_passed(self, deadline: float, message_id: bytes, now: float) -> None:
        entry = self._missing.get(message_id)
        if entry is None or entry.asked is None or entry.deadline != deadline:
            return
        asked = entry.asked
        is_delivering = asked.delivered_at > entry.asked_at
        if is_delivering and now - entry.asked_at < LONGEST_WAIT_S:
            self._wait(message_id, entry, now + asked.patience_s())
            return
        asked.may_ask = max(LEAST_ASKED, asked.may_ask // 2)
        if not is_delivering:
            # Who delivers, only slowly, was asked for too much and is not to blame.
            asked.broke(now)
        self.counts["wants_unanswered"] += 1
        self._release(message_id, entry)
        self._ask_next(message_id, entry, now)

    def _ask_next(self, message_id: bytes, entry: Missing, now: float) -> None:
        announcer = entry.take_best(now)
        if announcer is None:
            self.counts["given_up"] += 1
            self._forget(message_id, entry)
        elif len(announcer.asked) < announcer.may_ask:
            self._ask(announcer, message_id, entry, now)
        else:
            entry.queued = announcer
            announcer.backlog[message_id] = None

    def _ask_from_backlog(self, announcer: Announcer, now: float) -> None:
        is_trusted = announcer.trusted(now)
        room = max(0, announcer.may_ask - len(announcer.asked))
        for message_id in list(islice(announcer.backlog, room if is_trusted else None)):
            del announcer.backlog[message_id]
            entry = self._missing[message_id]
            entry.queued = None
            if is_trusted:
                self._ask(announcer, message_id, entry, now)
            else:
                self._ask_next(message_id, entry, now)

    def _ask(self, announcer: Announcer, message_id: bytes, entry: Missing, now: float) -> None:
        entry.asked = announcer
        entry.asked_at = now
        announcer.asked[message_id] = None
        self._wait(message_id, entry, now + announcer.patience_s())
        self._wants.setdefault(announcer.peer_id, []).append(message_id)
        self.counts["wants"] += 1

    def _wait(self, message_id: bytes, entry: Missing, deadline: float) -> None:
        entry.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, message_id))

    def _release(self, message_id: bytes, entry: Missing) -> None:
        asked = entry.asked
        if asked is not None:
            del asked.asked[message_id]
            entry.asked = None
            if asked.backlog and len(asked.asked) <= asked.may_ask // 2:
                self._refill[asked.peer_id] = asked
        elif entry.queued is not None:
            del entry.queued.backlog[message_id]
            entry.queued = None

    def _forget(self, message_id: bytes, entry: Missing) -> None:
        self._release(message_id, entry)
        del self._missing[message_id]
        entry.first.introduced -= 1
