"""Requests waiting for answers: matching, retransmission, adaptive timeouts."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from kodectl.core.sessions import ANY_ID, Address, Session
from kodectl.errors import PeerFault

ATTEMPTS = 4
"""With 2 % loss and four packets to a stranger's first answer, one request in 25,000 fails; with three, one in 2,000."""
FIRST_TIMEOUT_S = 0.5
"""Before any round trip is known: a handshake and an answer are two round trips."""
MIN_TIMEOUT_S = 0.25
MAX_TIMEOUT_S = 2.0
BACKOFF = 1.5
MAX_REQUESTS = 8192
"""Lookups of a busy node have some hundred under way; past this the caller is told at once."""
MAX_ESTIMATES = 4096
_ESTIMATE_GAIN, _VARIATION_GAIN = 1 / 8, 1 / 4


class Notice(Enum):
    """What the asker hears besides an answer. SLOW comes at most once, and another call follows it."""

    SLOW = "slow"
    TIMEOUT = "timeout"
    REFUSED = "refused"


class Request:
    """One question under way. `tell(session, kind, body, rtt_s)` hears the answer, `tell_notice` a Notice
    or the fault of a peer."""

    __slots__ = (
        "address",
        "attempts_left",
        "attempts_made",
        "expected_kind",
        "first_sent",
        "message",
        "node_id",
        "request_id",
        "tell",
        "tell_notice",
        "timeout_s",
    )

    def __init__(
        self,
        request_id: int,
        node_id: bytes,
        address: Address,
        expected_kind: int,
        message: bytes,
        tell: Callable[[Session, int, bytes, float], object],
        tell_notice: Callable[[Notice | PeerFault], object],
    ) -> None:
        self.request_id = request_id
        self.node_id = node_id
        self.address = address
        self.expected_kind = expected_kind
        self.message = message
        self.tell = tell
        self.tell_notice = tell_notice
        self.attempts_left = ATTEMPTS
        self.attempts_made = 0
        self.first_sent = 0.0
        self.timeout_s = FIRST_TIMEOUT_S


class Due(NamedTuple):
    """What `due` found: requests to send once more, and those that are given up."""

    again: list[Request]
    given_up: list[Request]


class Requests:
    """The table of requests under way; ids are unique among them."""

    def __init__(self, first_id: int) -> None:
        self._next_id = first_id & 0xFFFFFFFF
        self._waiting: dict[int, Request] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._round_trips: dict[Address, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def new_id(self) -> int:
        while True:
            self._next_id = self._next_id + 1 & 0xFFFFFFFF
            if self._next_id not in self._waiting:
                return self._next_id

    def begin(self, request: Request, now: float, attempts: int = ATTEMPTS) -> bool:
        """Starts to wait; false when too many are under way."""
        if len(self._waiting) >= MAX_REQUESTS:
            return False
        request.first_sent = now
        request.attempts_left = attempts - 1
        request.attempts_made = 1
        request.timeout_s = self.timeout_for(request.address)
        self._waiting[request.request_id] = request
        heapq.heappush(self._deadlines, (now + request.timeout_s, request.request_id))
        return True

    def match(self, node_id: bytes, address: Address, request_id: int, kind: int, now: float) -> Request | None:
        """The request that this answers, which then no longer waits; None for what nobody asked."""
        request = self._waiting.get(request_id)
        if request is None or request.address != address or kind not in (request.expected_kind, 0):
            return None
        if request.node_id not in (node_id, ANY_ID):
            return None
        del self._waiting[request_id]
        return request

    def under_way_to(self, node_id: bytes, address: Address) -> list[Request]:
        return [r for r in self._waiting.values() if r.address == address and r.node_id in (node_id, ANY_ID)]

    def give_up(self, requests: list[Request]) -> None:
        for request in requests:
            self._waiting.pop(request.request_id, None)

    def all(self) -> list[Request]:
        return list(self._waiting.values())

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def due(self, now: float) -> Due:
        again: list[Request] = []
        given_up: list[Request] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = self._waiting.get(heapq.heappop(self._deadlines)[1])
            if request is None:
                continue
            if request.attempts_left == 0:
                del self._waiting[request.request_id]
                given_up.append(request)
                continue
            request.attempts_left -= 1
            request.attempts_made += 1
            request.timeout_s *= BACKOFF
            heapq.heappush(self._deadlines, (now + request.timeout_s, request.request_id))
            again.append(request)
        return Due(again, given_up)

    def timeout_for(self, address: Address) -> float:
        """Smoothed round trip + 4 variations (RFC 6298), within limits."""
        known = self._round_trips.get(address)
        if known is None:
            return FIRST_TIMEOUT_S
        return min(MAX_TIMEOUT_S, max(MIN_TIMEOUT_S, known[0] + 4 * known[1]))

    def measured(self, address: Address, rtt_s: float) -> None:
        """Takes in a round trip; only of requests that were sent once (Karn's rule)."""
        known = self._round_trips.pop(address, None)
        if known is None:
            known = (rtt_s, rtt_s / 2)
        else:
            smoothed, variation = known
            variation += _VARIATION_GAIN * (abs(rtt_s - smoothed) - variation)
            known = (smoothed + _ESTIMATE_GAIN * (rtt_s - smoothed), variation)
        if len(self._round_trips) >= MAX_ESTIMATES:
            del self._round_trips[next(iter(self._round_trips))]
        self._round_trips[address] = known
