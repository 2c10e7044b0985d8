"""What a TURN server's answers say, as far as it can be true (RFC 8656): the client's side of the contract."""

from __future__ import annotations

from ipaddress import IPv6Address

from kodectl.core.turn_events import Allocated
from kodectl.core.turn_requests import Allocate
from kodectl.errors import WireError
from kodectl.wire.addresses import address_text, scope_of
from kodectl.wire.contacts import is_unicast
from kodectl.wire.stun import Attribute, Message
from kodectl.wire.stun_attributes import Address

MIN_LIFETIME_S, MAX_LIFETIME_S = 30, 3_600
"""Below, nothing is left between refreshes; above, a server that dies would be noticed too late."""

_INSIDE = ("loopback", "private", "link_local", "cgnat")


def allocated(message: Message, asked: Allocate) -> Allocated:
    """Raises WireError, as `lifetime_of` does."""
    relayed, mapped = message.get(Attribute.XOR_RELAYED_ADDRESS), message.get(Attribute.XOR_MAPPED_ADDRESS)
    if relayed is None or mapped is None:
        raise WireError("allocation without a relayed or a mapped address")
    relayed = plain(relayed)
    if not is_unicast(relayed[0]) or not relayed[1] or (":" in relayed[0]) != (asked.family == 6):
        raise WireError(f"{address_text(*relayed)} cannot be the relayed address that was asked for")
    return Allocated(relayed, plain(mapped), lifetime_of(message))


def lifetime_of(message: Message) -> int:
    lifetime_s = message.get(Attribute.LIFETIME)
    if lifetime_s is None or lifetime_s < MIN_LIFETIME_S:
        raise WireError(f"allocation for {lifetime_s or 0} s; at least {MIN_LIFETIME_S} are needed")
    return min(int(lifetime_s), MAX_LIFETIME_S)


def plain(address: Address) -> Address:
    """As the runtime shows it: IPv4-mapped as IPv4."""
    if not address[0].startswith("::ffff:"):
        return address
    mapped = IPv6Address(address[0]).ipv4_mapped
    return (str(mapped), address[1]) if mapped else address


def is_acceptable_alternate(server: Address, alternate: Address) -> bool:
    """Whether to follow a redirection: never from outside to somewhere inside, where the server could have us knock on doors
    that it cannot reach itself; never to this machine but from this machine; and never to the other family."""
    if not is_unicast(alternate[0]) or not alternate[1] or (":" in alternate[0]) != (":" in server[0]):
        return False
    here, there = scope_of(server[0]), scope_of(alternate[0])
    return here == there or there not in _INSIDE or (here in _INSIDE and there != "loopback")
