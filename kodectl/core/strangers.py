"""Who has come in over UDP without having been sent anything: that they could is proof that strangers get in here.

A HAIL costs nothing and may bear any sender's address; its HANDSHAKE, which repeats the cookie that went to that address, proves
that it came from there. So a stranger counts from its handshake on, if its hail came before anything had gone out to it."""

from __future__ import annotations

from kodectl.core.observers import group_of
from kodectl.wire.addresses import scope_of

HAILED_LIMIT_S = 20.0
"""From hail to handshake: as long as a cookie is good for."""
MAX_HAILED = 256
"""Whoever hails under many addresses pushes out those of others, and it takes a little longer to know."""
REMEMBERED_S = 600.0
"""A firewall may have been put up since."""
MIN_NETWORKS = 2
"""One network could be this node's own, seen from outside."""


class Strangers:
    def __init__(self) -> None:
        self._hailed: dict[str, float] = {}
        self._networks: dict[str, float] = {}

    def hailed(self, ip: str, now: float) -> None:
        self._hailed.pop(ip, None)
        self._hailed[ip] = now
        if len(self._hailed) > MAX_HAILED:
            del self._hailed[next(iter(self._hailed))]

    def proved(self, ip: str, now: float) -> None:
        hailed_at = self._hailed.pop(ip, None)
        # Neighbours inside a net need no leave to come in.
        if hailed_at is not None and now - hailed_at <= HAILED_LIMIT_S and scope_of(ip) == "public":
            self._networks[group_of(ip)] = now
            if len(self._networks) > MAX_HAILED:
                del self._networks[next(iter(self._networks))]

    def get_in(self, now: float) -> bool:
        """Whether it is proved by enough of them, of late."""
        return sum(now - at < REMEMBERED_S for at in self._networks.values()) >= MIN_NETWORKS

    def forget(self) -> None:
        """Everything that was proved at another address."""
        self._hailed.clear()
        self._networks.clear()
