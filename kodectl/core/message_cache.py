"""Messages that can still be handed to peers who ask for them."""

from __future__ import annotations

from collections import deque

MAX_BYTES = 64 << 20
"""Sixteen blocks of full size, or the small messages of some minutes."""
MAX_MESSAGES = 131_072
"""Bounds the bookkeeping where messages are tiny (about 200 bytes each)."""
MAX_AGE_S = 600.0
"""Nobody accepts a message older than that (docs/protocol.md, envelope)."""


class MessageCache:
    """Encoded messages by id, the oldest leave first. Bounded in bytes, number and age."""

    __slots__ = ("_max_bytes", "_max_messages", "_messages", "_order", "size_bytes")

    def __init__(self, max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES) -> None:
        self._messages: dict[bytes, bytes] = {}
        # A queue beside the dict: the first key of a dict that is emptied from its front takes ever longer to find.
        self._order: deque[tuple[float, bytes]] = deque()
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self.size_bytes = 0

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._messages

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, message_id: bytes) -> bytes | None:
        return self._messages.get(message_id)

    def add(self, message_id: bytes, message: bytes, now: float) -> None:
        """Adds a message that is not in it."""
        self._messages[message_id] = message
        self._order.append((now, message_id))
        self.size_bytes += len(message)
        while self.size_bytes > self._max_bytes or len(self._messages) > self._max_messages:
            self._drop_oldest()

    def expire(self, now: float) -> None:
        while self._order and self._order[0][0] <= now - MAX_AGE_S:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _time, message_id = self._order.popleft()
        self.size_bytes -= len(self._messages.pop(message_id))
