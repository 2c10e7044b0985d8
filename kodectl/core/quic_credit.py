"""Back-pressure on a QUIC stream: how much may be sent before the other side's application has read.

QUIC libraries take what arrives and open their windows at once, whether anybody reads or not. So each side tells the
other up to which byte of the stream it may write, and tells more only when bytes have been read: at most CREDIT_WINDOW
are ever under way, unread, or waiting at the sender.
"""

from __future__ import annotations

from kodectl.errors import WireError
from kodectl.wire.quic import CREDIT_WINDOW

GRANT_STEP = CREDIT_WINDOW // 4
"""Bytes read before the other side is told: four small messages per window, and the writer need not stand still."""


class SendCredit:
    """The writer's end."""

    __slots__ = ("_limit", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self._limit = CREDIT_WINDOW

    @property
    def room(self) -> int:
        return self._limit - self.sent

    def spend(self, size: int) -> None:
        self.sent += size

    def grant(self, limit: int) -> None:
        """Raises WireError for a limit that nobody who has read what was sent can give."""
        if not self._limit <= limit <= self.sent + CREDIT_WINDOW:
            raise WireError(f"credit up to {limit} after {self.sent} bytes and a credit up to {self._limit}")
        self._limit = limit


class ReceiveCredit:
    """The reader's end."""

    __slots__ = ("_limit", "_read", "_received")

    def __init__(self) -> None:
        self._received = 0
        self._read = 0
        self._limit = CREDIT_WINDOW

    def arrive(self, size: int) -> None:
        """Raises WireError when the sender goes over its credit."""
        self._received += size
        if self._received > self._limit:
            raise WireError(f"{self._received - self._limit} bytes over the credit")

    def read(self, size: int) -> int | None:
        """The limit to be told, if it is time to."""
        self._read += size
        limit = self._read + CREDIT_WINDOW
        if limit - self._limit < GRANT_STEP:
            return None
        self._limit = limit
        return limit
