"""Who may have one of the few slots for peers, and which of two links to the same node stays."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kodectl.core.table import subnet_of
from kodectl.core.trust import Rank
from kodectl.wire.messages import DisconnectReason

RESERVED_OUTBOUND = 16
"""Slots that inbound peers cannot take: whoever surrounds this node with connections does not cut it off."""
MAX_PER_SUBNET = 3
"""Of one /24 (IPv6: /64); addresses in one are cheap. Private and loopback ranges are exempt."""
MAX_PENDING_DIALS = 16
"""As many as the outbound target: all of it can be dialled at once after a start."""
CROSSED_WINDOW_S = 10.0
"""Two dials between the same nodes within this time crossed (docs/protocol.md): connecting and handshake have 5 s each."""


class Slots(NamedTuple):
    total: int
    inbound: int
    """The most that may come from outside."""
    outbound_target: int
    """What this node dials for."""


def slots_of(max_peers: int) -> Slots:
    """How `max_peers` divide. Below 32 half of the slots are kept for outbound."""
    reserved = min(RESERVED_OUTBOUND, max_peers // 2)
    return Slots(max_peers, max_peers - reserved, max(1, reserved))


class Held(NamedTuple):
    """One peer that has a slot."""

    node_id: bytes
    ip: str
    outbound: bool
    static: bool
    rank: Rank
    score: float


class Newcomer(NamedTuple):
    node_id: bytes
    ip: str
    outbound: bool
    """Dialled by this node, or being dialled by it while its own dial comes in."""
    static: bool
    rank: Rank


class Verdict(NamedTuple):
    refused: DisconnectReason | None = None
    evicted: bytes | None = None
    """Who has to go to make room."""


def admit(newcomer: Newcomer, held: Collection[Held], slots: Slots) -> Verdict:
    """Whether a peer with a finished handshake may stay. `held` has no link to the same node.

    Static peers come in always, as long as somebody else can go. An inbound peer that finds no slot takes that of an inbound
    one of lower rank; among equals, who is there stays, so that nobody is pushed out by numbers."""
    others = [peer.ip for peer in held if not peer.static]
    if not newcomer.static and not has_subnet_room(newcomer.ip, others):
        return Verdict(refused=DisconnectReason.SUBNET_LIMIT)
    inbound = [peer for peer in held if not peer.outbound]
    if len(held) < slots.total and (newcomer.static or newcomer.outbound or len(inbound) < slots.inbound):
        return Verdict()
    replaceable = held if newcomer.static else inbound
    victim = min(
        (peer for peer in replaceable if not peer.static and (newcomer.static or peer.rank < newcomer.rank)),
        key=lambda peer: (peer.rank, peer.score, peer.node_id),
        default=None,
    )
    if victim is None:
        return Verdict(refused=DisconnectReason.TOO_MANY_PEERS)
    return Verdict(evicted=victim.node_id)


def surplus(held: Collection[Held], slots: Slots) -> list[bytes]:
    """Who has to go when there are fewer slots than there were: the lowest in rank and score, static peers last, and no
    more from outside than may come from there."""
    by_worth = sorted(held, key=lambda peer: (peer.static, peer.rank, peer.score, peer.node_id))
    inbound = [peer for peer in by_worth if not peer.outbound and not peer.static]
    going = inbound[: max(0, len(inbound) - slots.inbound)]
    staying = [peer for peer in by_worth if peer not in going]
    going += staying[: max(0, len(staying) - slots.total)]
    return [peer.node_id for peer in going]


def has_subnet_room(host: str, held: Collection[str]) -> bool:
    """Whether one more of the subnet of `host` fits beside these; always where addresses are not scarce."""
    subnet = scarce_subnet(host)
    return subnet is None or sum(scarce_subnet(other) == subnet for other in held) < MAX_PER_SUBNET


def scarce_subnet(host: str) -> str | None:
    """As `subnet_of`; None for a name too: nobody knows where it leads before it is resolved."""
    try:
        return subnet_of(host)
    except ValueError:
        return None


class LinkOrigin(NamedTuple):
    """Who dialled a link, and when its handshake was finished here."""

    outbound: bool
    opened_at: float


def newer_stays(own_id: bytes, peer_id: bytes, older: LinkOrigin, newer: LinkOrigin) -> bool:
    """Which of two links between the same two nodes stays; both ends come to the same answer.

    Crossed dials: that of the smaller id. Otherwise the newer replaces the older, which the other side has lost."""
    crossed = older.outbound != newer.outbound and newer.opened_at - older.opened_at < CROSSED_WINDOW_S
    return newer.outbound == (own_id < peer_id) if crossed else True
