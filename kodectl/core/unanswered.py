"""Whether somebody who keeps sending hears nothing: the path may be dead.

What a transport sends again tells the same, but only where little is sent: each packet that leaves puts the next repetition
off (RFC 9002, section 6.2.1), so that who writes all the time repeats nothing until his window is full.
"""

from __future__ import annotations

SILENCE_S = 0.5
"""Without a word, while it was sent all the time: longer than nearly all round trips. Where it is too short, the path is
asked in vain, which costs one packet."""
STEADY_S = 0.25
"""Between two sendings, at the most: what was sent before a longer pause may have needed no answer."""


class Unanswered:
    """Of one connection."""

    __slots__ = ("_sent_at", "_since")

    def __init__(self) -> None:
        self._since: float | None = None
        self._sent_at = float("-inf")

    def heard(self) -> None:
        self._since = None

    def sent(self, now: float) -> bool:
        """Whether it is time for a doubt: once in SILENCE_S."""
        is_steady = now - self._sent_at <= STEADY_S
        self._sent_at = now
        if self._since is None or not is_steady:
            self._since = now
            return False
        is_long = now - self._since >= SILENCE_S
        if is_long:
            self._since = now
        return is_long
