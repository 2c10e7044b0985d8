"""What a probe of the NAT has seen. Values only; `nat_evidence` says what follows from them, and by which rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from kodectl.core.mapping import Method
from kodectl.core.silence import NOTHING_MEASURED, Tally
from kodectl.wire.addresses import scope_of
from kodectl.wire.contacts import is_unicast

Address = tuple[str, int]


class Claim(NamedTuple):
    """What a server said to the mapping socket: asked at `endpoint`, it saw the request come from `mapped`."""

    endpoint: Address
    mapped: Address


class Aside(NamedTuple):
    """What a server said to a socket that nobody else was asked from."""

    local_port: int
    mapped: Address


class Alternate(Enum):
    """What came of a server's other address."""

    NONE = "none"
    """It names none, or refuses to answer from there."""
    UNFIT = "unfit"
    """It names one that cannot be its other address: its own, or one that is none of its business. Not asked."""
    NOT_ASKED = "not_asked"
    SILENT = "silent"
    INCONSISTENT = "inconsistent"
    """Somebody answers there who does not know of the server."""
    VERIFIED = "verified"


@dataclass(frozen=True)
class FilterTest:
    """Requests, from a socket that has sent to nobody but the server, for an answer from elsewhere."""

    sources: frozenset[Address] = frozenset()
    """Where answers came from."""
    unanswered: int = 0
    """Requests whose answer is overdue."""
    is_kept: bool | None = None
    """Whether the server does answer so through a filter that is known to be open (None: not tried)."""


@dataclass(frozen=True)
class ServerEvidence:
    """All that one server said and did."""

    name: str
    """As the user gave it."""
    address: Address
    claims: tuple[Claim, ...] = ()
    """In the order in which the endpoints were asked first."""
    aside: Aside | None = None
    alternate: Alternate = Alternate.NONE
    other: Address | None = None
    control: Tally = NOTHING_MEASURED
    """Plain requests beside the filter tests, from the same socket."""
    changed_both: FilterTest | None = None
    """Asked for an answer from the other address and port; None: not tested. The same below, for the port alone."""
    changed_port: FilterTest | None = None

    @property
    def mapped(self) -> Address | None:
        """What it said first."""
        return self.claims[0].mapped if self.claims else None


class HairpinTest(NamedTuple):
    """Two sockets of this host, each sending to the outer address of the other."""

    has_arrived: bool
    unanswered: int


class GatewayEvidence(NamedTuple):
    """A router that answers a protocol for mapping ports."""

    method: Method
    address: str
    name: str
    external_ip: str | None


class Evidence(NamedTuple):
    own_ips: frozenset[str]
    source_ip: str | None
    """The address that the default route leaves by."""
    servers: tuple[ServerEvidence, ...]
    local_port: int = 0
    """Of the mapping socket."""
    tcp_answers: frozenset[str] = frozenset()
    """Names of servers that answered over TCP; asked only where UDP brought nothing."""
    hairpin: HairpinTest | None = None
    gateways: tuple[GatewayEvidence, ...] = ()
    gateways_asked: bool = False


def fits(other: Address, server: Address, own_ips: frozenset[str]) -> bool:
    """Whether `other`, which `server` names as its other address (RFC 5780, section 7.4), may be asked. A server that
    names anything else would have this host knock at doors of its choice: in the network here, or on this machine."""
    return (
        is_unicast(other[0])
        and other[1] > 0
        and (":" in other[0]) == (":" in server[0])
        and other[0] != server[0]
        and other[1] != server[1]
        and scope_of(other[0]) == scope_of(server[0])
        and (other[0] not in own_ips or server[0] in own_ips)
    )


def is_kin(address: Address, origin: Address | None, other: Address | None, server: Address) -> bool:
    """Whether who answers at `address`, the other address of `server`, and says to be at `origin` with the other address
    `other`, knows of the server. RFC 5780 has it name the server; coturn names there another port of its own, the one
    that the server has."""
    return origin in (None, address) and other in (server, (address[0], server[1]))
