"""What two sides can do to reach each other, from what they know of their NATs; both come to the same plan.

Candidates and their checks (ICE) are always tried, where both have UDP or a relay. Beside them:

the initiator can be dialled over TCP, the other side has no UDP   the other side dials
one side has no UDP, neither can be dialled                        TCP simultaneous open, from the listening ports
port-restricted against sequential symmetric                       the next ports are predicted
port-restricted against random symmetric                           spray: many sockets on one side, many ports on the other
symmetric against symmetric                                        nothing: the relay stays
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from kodectl.core.nat import Behavior
from kodectl.wire.offers import NatHint

Address = tuple[str, int]


class Side(NamedTuple):
    """`tcp`: where it can be dialled; `tcp_seen`: the outer address of its TCP listening port, whoever gets through to it."""

    hint: NatHint
    tcp: Address | None
    tcp_seen: Address | None


class SprayRole(Enum):
    MANY_SOCKETS = "symmetric: opens sockets, each with a mapping of its own"
    MANY_PORTS = "port-restricted: tries ports of the other side"


class Plan(NamedTuple):
    """For the side that made it."""

    responder_dials: bool = False
    punches_tcp: bool = False
    predicts: bool = False
    """This side's NAT is the sequential one: it foretells its next ports."""
    spray: SprayRole | None = None


def plan(own: Side, peer: Side, *, is_initiator: bool) -> Plan:
    initiator, responder = (own, peer) if is_initiator else (peer, own)
    if initiator.tcp is not None and responder.hint.is_udp_blocked:
        return Plan(responder_dials=True)
    if own.hint.is_udp_blocked or peer.hint.is_udp_blocked:
        return Plan(punches_tcp=own.tcp_seen is not None and peer.tcp_seen is not None)
    return Plan(predicts=_is_sequential(own.hint) and _filters_ports(peer.hint), spray=_spray(own.hint, peer.hint))


def _spray(own: NatHint, peer: NatHint) -> SprayRole | None:
    if _is_random(own) and _filters_ports(peer):
        return SprayRole.MANY_SOCKETS
    if _is_random(peer) and _filters_ports(own):
        return SprayRole.MANY_PORTS
    return None


def is_symmetric(hint: NatHint) -> bool:
    return hint.mapping in (Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT)


def _is_sequential(hint: NatHint) -> bool:
    return is_symmetric(hint) and bool(hint.port_step)


def _is_random(hint: NatHint) -> bool:
    return is_symmetric(hint) and not hint.port_step


def _filters_ports(hint: NatHint) -> bool:
    """Its one mapping lets only those through that it has sent to: the other side's port has to be known."""
    if hint.mapping is not Behavior.ENDPOINT_INDEPENDENT:
        return False
    return hint.filtering is Behavior.ADDRESS_AND_PORT_DEPENDENT
