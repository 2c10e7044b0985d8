"""What a NAT does, in the words of RFC 4787, the older names beside them, and what follows for who wants to connect."""

from __future__ import annotations

from enum import Enum

from kodectl.wire.nat import Behavior

__all__ = ["Behavior", "NatType", "Verdict", "nat_type_of", "verdict_of"]


class NatType(Enum):
    """The names of RFC 3489, section 5, which the field still uses."""

    OPEN = "open"
    """No translation, no filter."""
    FULL_CONE = "full_cone"
    RESTRICTED = "restricted"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"
    FIREWALLED = "firewalled"
    """No translation, but what nobody asked for is dropped (RFC 3489: symmetric UDP firewall)."""
    BLOCKED = "blocked"
    """No UDP at all."""


class Verdict(Enum):
    """What others can do to reach a host, easiest first."""

    DIRECT = "direct"
    HOLE_PUNCHING = "hole_punching"
    TURN_RELAY = "turn_relay"


_CONES = {
    Behavior.ENDPOINT_INDEPENDENT: NatType.FULL_CONE,
    Behavior.ADDRESS_DEPENDENT: NatType.RESTRICTED,
    Behavior.ADDRESS_AND_PORT_DEPENDENT: NatType.PORT_RESTRICTED,
}

_VERDICTS = {
    NatType.OPEN: Verdict.DIRECT,
    NatType.FULL_CONE: Verdict.DIRECT,
    NatType.RESTRICTED: Verdict.HOLE_PUNCHING,
    NatType.PORT_RESTRICTED: Verdict.HOLE_PUNCHING,
    NatType.FIREWALLED: Verdict.HOLE_PUNCHING,
    NatType.SYMMETRIC: Verdict.TURN_RELAY,
    NatType.BLOCKED: Verdict.TURN_RELAY,
}


def nat_type_of(is_translated: bool | None, mapping: Behavior | None, filtering: Behavior | None) -> NatType | None:
    """The older name of what was measured; None where a measurement that decides is missing.

    `is_translated`: the address seen outside is not the host's own."""
    if is_translated is None:
        return None
    if not is_translated:
        if filtering is None:
            return None
        return NatType.OPEN if filtering is Behavior.ENDPOINT_INDEPENDENT else NatType.FIREWALLED
    if mapping in (Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT):
        return NatType.SYMMETRIC
    if mapping is None or filtering is None:
        return None
    return _CONES[filtering]


def verdict_of(nat_type: NatType | None, mapping: Behavior | None) -> Verdict | None:
    """By the documented table. An endpoint-independent mapping can be punched whatever its filter turns out to be."""
    if nat_type is not None:
        return _VERDICTS[nat_type]
    return Verdict.HOLE_PUNCHING if mapping is Behavior.ENDPOINT_INDEPENDENT else None
