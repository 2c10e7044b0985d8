"""Whom a socket has sent something lately, or has heard ever since: their datagrams pass a NAT's filter, and prove nothing
about it."""

from __future__ import annotations

GENERATION_S = 300.0
"""No NAT in the field keeps a filter open for longer after the last datagram (RFC 4787, REQ-5, asks for 2 minutes at
least and recommends 5). Addresses are kept for one to two of these."""
MAX_ADDRESSES = 16_384
"""Of one generation, about 1 MB. With more, everybody counts as contacted: that errs on the careful side."""


class Contacted:
    """`note` is on the path of every datagram: it adds to a set, and `age` throws whole sets away."""

    __slots__ = ("_all", "_before", "_begun", "_now")

    def __init__(self) -> None:
        self._now: set[str] = set()
        self._before: set[str] = set()
        self._begun = 0.0
        self._all = False

    def note(self, ip: str) -> None:
        if len(self._now) < MAX_ADDRESSES:
            self._now.add(ip)
        else:
            self._all = True

    def renew(self, ip: str) -> None:
        """A datagram has come from there. Many filters stay open by that alone (RFC 4787, REQ-6), so whoever was sent something
        once and goes on sending is not a stranger later on, however long he is left without an answer."""
        if ip in self._before:
            self.note(ip)

    def age(self, now: float) -> None:
        """To be called now and then."""
        if now - self._begun >= GENERATION_S:
            self._begun = now
            self._all = len(self._now) >= MAX_ADDRESSES
            self._before, self._now = self._now, set()

    def __contains__(self, ip: str) -> bool:
        return self._all or ip in self._now or ip in self._before
