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
"""RFC 8445, section 5.1.2.2. Over TCP half of it (RFC 6544, section 4.2, leaves that to us): any way over UDP is better than
the same one over TCP, and any direct one better than a relay."""
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


def priority_of(kind: CandidateType, local_preference: int, transport: str = UDP) -> int:
    """RFC 8445, section 5.1.2.1."""
    preference = TYPE_PREFERENCES[kind] if transport == UDP else TYPE_PREFERENCES[kind] // 2
    return preference << 24 | local_preference << 8 | 256 - COMPONENT


def local_preference_of(candidate: Candidate) -> int:
    return candidate.priority >> 8 & 0xFFFF


def foundation_of(kind: CandidateType, base_ip: str, server_ip: str = "", transport: str = UDP) -> str:
    """The same for candidates of one type, base, server and transport (section 5.1.1.3), and in every run."""
    named = f"{kind.value} {base_ip} {server_ip}" + ("" if transport == UDP else f" {transport}")
    digest = hashlib.sha256(named.encode()).digest()
    return base64.b64encode(digest[:FOUNDATION_SIZE]).decode()


def host(base: Base, local_preference: int, address: Address | None = None) -> LocalCandidate:
    """`address`: of a base that has several, such as a socket on all interfaces."""
    return _candidate(CandidateType.HOST, base, address or base.address, None, local_preference, "")


def server_reflexive(base: Base, mapped: Address, server_ip: str, local_preference: int) -> LocalCandidate:
    """`server_ip`: who saw the base at `mapped`, a STUN server or a peer."""
    kind = CandidateType.SERVER_REFLEXIVE
    return _candidate(kind, base, mapped, base.address, local_preference, server_ip)


def relayed(base: Base, mapped: Address, server_ip: str, local_preference: int) -> LocalCandidate:
    """`base` is the relayed address itself; `mapped` is where the server sees us."""
    return _candidate(CandidateType.RELAYED, base, base.address, mapped, local_preference, server_ip)


def found_otherwise(kind: CandidateType, base: Base, local_preference: int, transport: str = UDP) -> LocalCandidate:
    """At the base's own address: a socket or a connection that somebody made because it gets through."""
    related = None if kind is CandidateType.HOST else base.address
    return _candidate(kind, base, base.address, related, local_preference, "", transport)


def _candidate(
    kind: CandidateType,
    base: Base,
    address: Address,
    related: Address | None,
    local_preference: int,
    server_ip: str,
    transport: str = UDP,
) -> LocalCandidate:
    foundation = foundation_of(
        kind, address[0] if kind is CandidateType.HOST else base.address[0], server_ip, transport
    )
    priority = priority_of(kind, local_preference, transport)
    return LocalCandidate(Candidate(foundation, COMPONENT, transport, priority, address, kind, related), base)


def may_pair(local: Candidate, remote: Candidate) -> bool:
    """Of one transport and family, and link-local IPv6 addresses with their like alone (section 6.1.2.2); so too those of
    loopback, which no peer on another machine can mean (section 5.1.1.1)."""
    if local.transport != remote.transport:
        return False
    here, there = ip_address(local.address[0]), ip_address(remote.address[0])
    if here.version != there.version or here.is_loopback != there.is_loopback:
        return False
    return here.version == 4 or here.is_link_local == there.is_link_local
