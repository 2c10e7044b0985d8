"""Who is not let in, and for how long."""

from __future__ import annotations

MAX_BANS = 1000
"""More than an operator will ever write; past it the ban that ends first makes room."""


class Bans:
    """By node id. Times are those of the caller's clock; infinity is for ever."""

    def __init__(self) -> None:
        self.changed = False
        """Since somebody has set it to false: for saving."""
        self._until: dict[bytes, float] = {}

    def add(self, node_id: bytes, until: float) -> None:
        if node_id not in self._until and len(self._until) >= MAX_BANS:
            del self._until[min(self._until, key=lambda banned: self._until[banned])]
        self._until[node_id] = until
        self.changed = True

    def lift(self, node_id: bytes) -> None:
        if self._until.pop(node_id, None) is not None:
            self.changed = True

    def until(self, node_id: bytes, now: float) -> float | None:
        """None: not banned."""
        until = self._until.get(node_id)
        if until is not None and until <= now:
            self.lift(node_id)
            return None
        return until

    def all(self, now: float) -> dict[bytes, float]:
        return {node_id: until for node_id, until in self._until.items() if until > now}
