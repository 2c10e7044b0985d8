"""Whether a network has cut off UDP: peers are connected over TCP, and nobody answers over UDP."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.node.kademlia import Kademlia
from kodectl.runtime.base import Runtime
from kodectl.wire.contacts import Contact

ASKED_AT_ONCE = 2
SILENCE_S = 5.0
"""A stranger's first answer over UDP is given up after 4.1 s."""
LOST_S = 90.0
"""After this long without a word UDP is cut off: links to peers that are gone altogether end within 75 s."""


class UdpSilence:
    def __init__(self, runtime: Runtime, kademlia: Kademlia) -> None:
        self.linked: Callable[[], list[Contact]] = list
        """The peers that are connected over TCP."""
        self._runtime = runtime
        self._kademlia = kademlia
        self._since: float | None = None
        """Since when peers over TCP have been asked over UDP, as nobody else is left."""

    def is_proved(self) -> bool:
        """To be called every few seconds; asks, without waiting."""
        linked = self.linked()
        if len(self._kademlia.table) or not linked:
            self._since = None
            return False
        for contact in self._runtime.rng.sample(linked, min(ASKED_AT_ONCE, len(linked))):
            self._kademlia.check(contact)
        now, heard_at = self._runtime.now(), self._kademlia.heard_at
        self._since = now if self._since is None else self._since
        is_lost = heard_at is None or now - heard_at >= LOST_S
        return is_lost and now - self._since >= SILENCE_S
