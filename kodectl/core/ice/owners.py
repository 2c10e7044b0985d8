"""Whose requests have left by a socket that many sessions share: an answer is told apart by its transaction id alone, and asking
each session in turn would let a stranger with made-up answers keep a node busy that has many."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

ANSWERED_WITHIN_S = 40.0
"""Since a request was sent last; RFC 8489, section 6.2.1, waits for eight after the last repetition."""
MAX_OPEN = 16_384
"""2 MB. Fifty peers have a thousand requests open, four sprays at a time eight thousand."""

Owner = TypeVar("Owner")


class Owners(Generic[Owner]):
    def __init__(self) -> None:
        self._open: OrderedDict[bytes, tuple[Owner, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def asked(self, transaction_id: bytes, owner: Owner, now: float) -> None:
        """For the first time, or again."""
        opened = self._open
        opened.pop(transaction_id, None)
        opened[transaction_id] = (owner, now)
        while len(opened) > MAX_OPEN or next(iter(opened.values()))[1] < now - ANSWERED_WITHIN_S:
            opened.popitem(last=False)

    def of(self, transaction_id: bytes) -> Owner | None:
        owned = self._open.get(transaction_id)
        return None if owned is None else owned[0]

    def forget(self, owner: Owner) -> None:
        for transaction_id in [one for one, owned in self._open.items() if owned[0] is owner]:
            del self._open[transaction_id]
