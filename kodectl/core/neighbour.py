"""What the gossip core keeps about one connected peer."""

from __future__ import annotations

from collections import deque

from kodectl.core.limits import TokenBucket
from kodectl.core.pulls import Announcer

MESSAGE_COST = 4096
"""Bytes that a message counts beside its own: handling one takes the time of moving that many."""
PEER_RATE, PEER_BURST = 40 << 20, 160 << 20
"""Bytes a second from one peer, duplicates included: 10,000 small messages or ten blocks; 40,000 or forty at once."""
PATIENCE = 4 * PEER_BURST
"""So much over the rate is only dropped, and forgiven at PEER_RATE: twice the rate for ever, three times for 16 seconds.
Dropping is work too, and a kilobyte on the wire, compressed, can hold thousands of messages: without an end, one peer would
take half of a core."""
SERVE_RATE, SERVE_BURST = 16 << 20, 16 << 20
"""Answers to one peer's wants: 4,000 small messages or four blocks a second."""
DIGESTS_PER_S, DIGEST_BURST = 0.5, 4.0
"""Digests of one peer that are looked at; each may make us announce thousands of ids."""


class Neighbour:
    """Made when a link is, gone with it."""

    __slots__ = (
        "allowance",
        "announcer",
        "compared_at",
        "digests",
        "distrusted_at",
        "owed",
        "patience",
        "peer_id",
        "pulled_before",
        "serving",
        "since",
        "to_announce",
    )

    def __init__(self, peer_id: bytes, now: float) -> None:
        self.peer_id = peer_id
        self.since = now
        self.announcer = Announcer(peer_id)
        self.to_announce: dict[bytes, None] = {}
        """Ids to tell it, in this order."""
        self.owed: deque[bytes] = deque()
        """Ids it asked for and has not been sent yet."""
        self.allowance = TokenBucket(PEER_RATE, PEER_BURST)
        self.patience = TokenBucket(PEER_RATE, PATIENCE)
        self.serving = TokenBucket(SERVE_RATE, SERVE_BURST)
        self.digests = TokenBucket(DIGESTS_PER_S, DIGEST_BURST)
        self.compared_at = float("-inf")
        """When it was last sent a digest, and how much had been pulled from it then."""
        self.pulled_before = 0
        self.distrusted_at = float("-inf")
