"""Our own candidates: where they are based, and what they are worth (RFC 8445, section 5.1)."""

from __future__ import annotations

import base64
import hashlib
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from kodectl.wire.candidates import UDP, Address, Candidate, CandidateType

COMPONENT = 1
TYPE_PREFERENCES = {
    CandidateType.HOST: 126,
    CandidateType.PEER_REFLEXIVE: 110,
    CandidateType.SERVER_REFLEXIVE: 100,
    CandidateType.RELAYED: 0,
}
"""RFC 8445, section 5.1.2.2."""
MAX_LOCAL_PREFERENCE = 65_535
FOUNDATION_SIZE = 6
"""Bytes of the hash that are kept: 8 characters of text."""


class Base(Protocol):
    """What datagrams leave from: a socket, or an allocation on a relay. Two are the same if they are the same object."""

    @property
    def address(self) -> Address: ...


class LocalCandidate(NamedTuple):
    candidate: Candidate
    base: Base


def priority_of(kind: CandidateType, local_preference: int) -> int:
    """RFC 8445, section 5.1.2.1."""
    return TYPE_PREFERENCES[kind] << 24 | local_preference << 8 | 256 - COMPONENT


def foundation_of(kind: CandidateType, base_ip: str, server_ip: str = "") -> str:
    """The same for candidates of one type, base and server (section 5.1.1.3), and in every run."""
    digest = hashlib.sha256(f"{kind.value} {base_ip} {server_ip}".encode()).digest()
    return base64.b64encode(digest[:FOUNDATION_SIZE]).decode()


def host(base: Base, local_preference: int) -> LocalCandidate:
    return _candidate(CandidateType.HOST, base, base.address, None, local_preference, "")


def server_reflexive(base: Base, mapped: Address, server_ip: str, local_preference: int) -> LocalCandidate:
    """`server_ip`: who saw the base at `mapped`, a STUN server or a peer."""
    kind = CandidateType.SERVER_REFLEXIVE
    return _candidate(kind, base, mapped, base.address, local_preference, server_ip)


def relayed(base: Base, mapped: Address, server_ip: str, local_preference: int) -> LocalCandidate:
    """`base` is the relayed address itself; `mapped` is where the server sees us."""
    return _candidate(CandidateType.RELAYED, base, base.address, mapped, local_preference, server_ip)


def _candidate(
    kind: CandidateType, base: Base, address: Address, related: Address | None, local_preference: int, server_ip: str
) -> LocalCandidate:
    foundation = foundation_of(kind, base.address[0], server_ip)
    priority = priority_of(kind, local_preference)
    return LocalCandidate(Candidate(foundation, COMPONENT, UDP, priority, address, kind, related), base)


def may_pair(local: Candidate, remote: Candidate) -> bool:
    """Of one family, and link-local IPv6 addresses with their like alone (section 6.1.2.2)."""
    here, there = ip_address(local.address[0]), ip_address(remote.address[0])
    if here.version != there.version:
        return False
    return here.version == 4 or here.is_link_local == there.is_link_local
