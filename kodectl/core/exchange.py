"""Peer exchange: which addresses are worth telling whom, and which of those told are worth keeping.

An address means something only where it can be reached: a loopback address on this machine, a private one in this
network. What came from further away than it reaches is useless at best, and at worst makes this node dial into
its own network for somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_address

from kodectl.errors import WireError
from kodectl.wire.enode import Enode, parse_enode

MAX_SHARED = 20
"""Enodes in one answer; the documented request."""


class Reach(IntEnum):
    LOOPBACK = 0
    PRIVATE = 1
    GLOBAL = 2


@lru_cache(maxsize=4096)  # asked for every contact of every answer
def reach_of(ip: str) -> Reach:
    """From how far away a numeric address can be reached."""
    address = ip_address(ip.partition("%")[0])
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.GLOBAL if address.is_global else Reach.PRIVATE


def is_worth_telling(ip: str, reach: Reach) -> bool:
    """Whether somebody at distance `reach` can reach `ip`."""
    return reach_of(ip) >= reach


def usable_enodes(texts: Iterable[str], teller_ip: str) -> list[Enode]:
    """The first 20 that name a node with its id and a numeric address that the teller may know; the rest is dropped.

    Names are dropped too: resolving what a stranger sends would let him aim this node's name server."""
    reach = reach_of(teller_ip)
    usable = []
    for text in texts:
        try:
            enode = parse_enode(text)
            told = is_worth_telling(enode.host, reach)
        except (WireError, ValueError):
            continue
        if told and enode.id_known and enode.tcp:
            usable.append(enode)
    return usable[:MAX_SHARED]
