"""The address that others see us at, as far as they agree."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

MAX_VOTERS = 64
VOTE_VALIDITY_S = 1800.0


class ObservedAddress:
    """One vote a node; the address named by more than half of the recent voters counts. What neighbours on this very
    machine see is of no use to anybody else."""

    def __init__(self) -> None:
        self._votes: dict[bytes, tuple[str, float]] = {}

    def vote(self, node_id: bytes, ip: str, now: float) -> None:
        self._votes.pop(node_id, None)
        if ip_address(ip.partition("%")[0]).is_loopback:
            return
        if len(self._votes) >= MAX_VOTERS:
            del self._votes[next(iter(self._votes))]
        self._votes[node_id] = (ip, now)

    def address(self, now: float) -> str | None:
        recent = Counter(ip for ip, voted in self._votes.values() if now - voted < VOTE_VALIDITY_S)
        if not recent:
            return None
        ip, votes = recent.most_common(1)[0]
        return ip if votes * 2 > recent.total() else None
