"""Which messages have been delivered: the memory that makes "exactly once" hold, and the digests over it.

Ids are kept by slots of ten seconds of message time. A slot is forgotten as a whole, and from then on takes nothing
more: what can no longer be recognised as a duplicate is refused as too old.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kodectl.core.time_window import TimeWindow
from kodectl.wire.messages import ID_SIZE, MAX_DIGEST_SLOTS, DigestSlot

SLOT_MS = 10_000
"""Message time per slot (docs/protocol.md, sync)."""
MAX_SEEN = 1_000_000
"""About 170 MB, 1,500 messages a second over the whole window. At higher rates the oldest slots are forgotten earlier."""
LEAST_S = 60.0
"""The window never shrinks below that; past it, new messages are refused instead."""
EARLY_S = 10.0
"""A slot that begins later than that is filled by wrong clocks, or by somebody who wants the memory full of a time to come, so
that the present is the oldest to be forgotten, and nobody's messages of it are taken any more."""
EARLY_SHARE = 8
"""One id in so many of the memory may be early."""
MAX_CLOSED = 8640
"""Forgotten slots that are remembered one by one: a day, for clocks that are set back by less."""


class Slot:
    """The ids delivered with a message time in one slot."""

    __slots__ = ("ids", "number", "xor")

    def __init__(self, number: int) -> None:
        self.number = number
        self.ids: list[bytes] = []
        self.xor = 0

    def digest(self) -> DigestSlot:
        return DigestSlot(self.number, len(self.ids), self.xor.to_bytes(ID_SIZE, "big"))


class Seen:
    """`id in seen.ids` is the duplicate check. `add` wants an id that is new, of a slot that is open.

    A dict rather than a set: of bytes and None alone, the garbage collector does not walk through it."""

    __slots__ = ("_closed", "_floor", "_limit", "_slots", "ids")

    def __init__(self, limit: int = MAX_SEEN) -> None:
        self.ids: dict[bytes, None] = {}
        self._slots: dict[int, Slot] = {}
        self._closed: set[int] = set()
        self._floor = -1
        self._limit = limit

    def is_open(self, time_ms: int) -> bool:
        """Whether messages of that time can still be told from duplicates."""
        number = time_ms // SLOT_MS
        return number > self._floor and number not in self._closed

    def has_room(self, time_ms: int, window: TimeWindow, now: float) -> bool:
        """Whether one id more, of a message of that time, can be remembered. Makes room by forgetting the oldest slots, but
        none of the last minute; so ask `is_open` afterwards."""
        if _is_early(time_ms // SLOT_MS, window, now) and self._early(window, now) >= self._limit // EARLY_SHARE:
            return False
        while len(self.ids) >= self._limit:
            oldest = min(self._slots)
            if window.age((oldest + 1) * SLOT_MS / 1000, now) < LEAST_S:
                return False
            self._close(oldest)
        return True

    def add(self, message_id: bytes, time_ms: int) -> None:
        number = time_ms // SLOT_MS
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = Slot(number)
        slot.ids.append(message_id)
        slot.xor ^= int.from_bytes(message_id, "big")
        self.ids[message_id] = None

    def forget_before(self, unix_time: float) -> None:
        """Forgets the slots that ended before `unix_time`."""
        first = int(unix_time * 1000) // SLOT_MS
        for number in [number for number in self._slots if number < first]:
            self._close(number)

    def digest(self) -> list[DigestSlot]:
        """What was delivered, by slots; the newest when there are more than a message may hold."""
        return [self._slots[number].digest() for number in sorted(self._slots)[-MAX_DIGEST_SLOTS:]]

    def differing(self, theirs: Iterable[DigestSlot]) -> list[int]:
        """The slots, oldest first, in which the other side has delivered something else than this one."""
        other = {entry.slot: entry for entry in theirs if entry.count}
        numbers = sorted(self._slots.keys() | other.keys())
        return [number for number in numbers if self._differs(number, other.get(number))]

    def ids_of(self, number: int) -> Sequence[bytes]:
        slot = self._slots.get(number)
        return slot.ids if slot else ()

    def _early(self, window: TimeWindow, now: float) -> int:
        return sum(len(slot.ids) for slot in self._slots.values() if _is_early(slot.number, window, now))

    def _differs(self, number: int, other: DigestSlot | None) -> bool:
        mine = self._slots.get(number)
        return (mine.digest() if mine else None) != other

    def _close(self, number: int) -> None:
        for message_id in self._slots.pop(number).ids:
            del self.ids[message_id]
        self._closed.add(number)
        if len(self._closed) > MAX_CLOSED:
            self._floor = max(self._floor, min(self._closed))
            self._closed.discard(self._floor)


def _is_early(number: int, window: TimeWindow, now: float) -> bool:
    return window.age(number * SLOT_MS / 1000, now) < -EARLY_S
