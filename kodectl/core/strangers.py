"""Who has come in over UDP without having been sent anything: that they could is proof that strangers get in here.

A HAIL costs nothing and may bear any sender's address; its HANDSHAKE, which repeats the cookie that went to that address, proves
that it came from there. So a stranger counts from its handshake on, if its hail came before anything had gone out to it."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from kodectl.wire.addresses import scope_of

HAILED_LIMIT_S = 5.0
"""From hail to handshake: a round trip, and once again for what was lost."""
MAX_HAILED = 256
"""Whoever hails under many addresses pushes out those of others, and it takes a little longer to know."""
COLLECTED_S = 600.0
"""Within which they have to come, for the proof to be complete."""
MIN_NETWORKS = 2
"""One could belong to somebody who wants this node to believe so, or be a way in that is open to it alone."""
SITE_BITS = {4: 16, 6: 32}
"""What counts as one network: neighbours behind one border firewall come in without passing it, and are often of other /24
or /64 than this node."""


class Strangers:
    def __init__(self) -> None:
        self._hailed: dict[str, float] = {}
        self._came: dict[Site, float] = {}
        self._is_proved = False

    def hailed(self, ip: str, now: float) -> None:
        """By somebody that nothing has been sent to."""
        self._hailed.pop(ip, None)
        self._hailed[ip] = now
        if len(self._hailed) > MAX_HAILED:
            del self._hailed[next(iter(self._hailed))]

    def proved(self, ip: str, now: float) -> None:
        """The handshake that follows a hail has come from there."""
        hailed_at = self._hailed.pop(ip, None)
        # Neighbours inside a net need no leave to come in.
        if hailed_at is not None and now - hailed_at <= HAILED_LIMIT_S and scope_of(ip) == "public":
            self._came[site_of(ip)] = now
            if len(self._came) > MAX_HAILED:
                del self._came[next(iter(self._came))]

    def get_in(self, own_ip: str, now: float) -> bool:
        """Whether enough of them have come to this address, of its family and out of other networks. Once proved it stays so
        until `forget`: peers that have come are no strangers any more, and need not be followed by others."""
        own = site_of(own_ip)
        came = [site for site, at in self._came.items() if now - at < COLLECTED_S and site != own]
        self._is_proved |= sum(site.version == own.version for site in came) >= MIN_NETWORKS
        return self._is_proved

    def forget(self) -> None:
        """Everything that was proved at another address."""
        self._hailed.clear()
        self._came.clear()
        self._is_proved = False


Site = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=1024)  # asked for every handshake
def site_of(ip: str) -> Site:
    address = ipaddress.ip_address(ip)
    return ipaddress.ip_network((address, SITE_BITS[address.version]), strict=False)
