"""Candidates as text: the value of SDP's `candidate` attribute (RFC 8839, section 5.1).

candidate:FOUNDATION COMPONENT TRANSPORT PRIORITY ADDRESS PORT typ TYPE [raddr ADDRESS rport PORT] [NAME VALUE]...

Reading takes what is met in the wild: the transport in capitals, `a=` before it or no `candidate:` at all, unknown
extensions. What cannot be used here (TCP, a host name in place of an address) is read all the same, and passed over by
who pairs: `is_usable`.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from kodectl.errors import WireError
from kodectl.wire.contacts import is_unicast

Address = tuple[str, int]

MAX_TEXT = 1_024
"""Characters; a candidate with two IPv6 addresses and some extensions has two hundred."""
MAX_FOUNDATION = 32
"""RFC 8839, section 5.1."""
MAX_PRIORITY = 2**32 - 1
"""RFC 8445 ends at 2**31 - 1, but PRIORITY has 32 bits, and a peer that uses them all hurts nobody."""
MAX_COMPONENT = 256
MAX_HOST = 255

PREFIX = "candidate:"
UDP, TCP = "udp", "tcp"
_ICE_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_MIN_FIELDS = 8
_NO_ADDRESS = ("0.0.0.0", "::")
"""In `raddr`: an agent that does not tell (RFC 8839, section 5.1)."""

MIN_UFRAG, MIN_PASSWORD = 4, 22
MAX_CREDENTIAL = 256
"""RFC 8839, section 5.4: ufrag of 4 to 256 characters, password of 22 to 256."""


class CandidateType(Enum):
    HOST = "host"
    SERVER_REFLEXIVE = "srflx"
    PEER_REFLEXIVE = "prflx"
    RELAYED = "relay"


class Candidate(NamedTuple):
    """`related`: the base of a reflexive candidate, the mapped address of a relayed one; None where it is not told."""

    foundation: str
    component: int
    transport: str
    priority: int
    address: Address
    type: CandidateType
    related: Address | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a datagram can be sent there."""
        return self.transport == UDP and self.component == 1 and self.address[1] > 0 and is_unicast(self.address[0])


def encode_candidate(candidate: Candidate) -> str:
    fields = [
        f"{PREFIX}{candidate.foundation} {candidate.component} {candidate.transport} {candidate.priority}",
        f"{candidate.address[0]} {candidate.address[1]} typ {candidate.type.value}",
    ]
    if candidate.related is not None:
        fields.append(f"raddr {candidate.related[0]} rport {candidate.related[1]}")
    elif candidate.type is not CandidateType.HOST:
        # Section 5.1 wants both for every type but host, and names these for an agent that does not tell.
        fields.append(f"raddr {_NO_ADDRESS[':' in candidate.address[0]]} rport 9")
    return " ".join(fields)


def decode_candidate(text: str) -> Candidate:
    if len(text) > MAX_TEXT:
        raise WireError(f"candidate of {len(text)} characters; the limit is {MAX_TEXT}")
    fields = text.strip().removeprefix("a=").removeprefix(PREFIX).split()
    if len(fields) < _MIN_FIELDS:
        raise WireError("candidate cut short")
    foundation, component, transport, priority, host, port, typ, kind = fields[:_MIN_FIELDS]
    if len(foundation) > MAX_FOUNDATION or not _ICE_CHARACTERS.issuperset(foundation):
        raise WireError(f"candidate with the foundation {foundation[:40]!r}")
    if typ.lower() != "typ":
        raise WireError("candidate without a type")
    return Candidate(
        foundation,
        _number(component, MAX_COMPONENT, "component"),
        transport.lower(),
        _number(priority, MAX_PRIORITY, "priority"),
        (_host(host), _number(port, 0xFFFF, "port")),
        _type(kind),
        _related(fields[_MIN_FIELDS:]),
    )


def require_credentials(ufrag: str, password: str) -> None:
    """Raises WireError for what RFC 8839, section 5.4, does not allow."""
    for name, text, least in (("ufrag", ufrag, MIN_UFRAG), ("pwd", password, MIN_PASSWORD)):
        if not least <= len(text) <= MAX_CREDENTIAL or not _ICE_CHARACTERS.issuperset(text):
            raise WireError(f"an ICE {name} has {least} to {MAX_CREDENTIAL} letters, digits, + and /")


def _type(text: str) -> CandidateType:
    try:
        return CandidateType(text.lower())
    except ValueError as error:
        raise WireError(f"candidate of the type {text[:40]!r}") from error


def _related(extensions: list[str]) -> Address | None:
    """Only told to people, so that what is odd there costs nothing but itself."""
    named = dict(zip(extensions[::2], extensions[1::2], strict=False))
    host, port = named.get("raddr", ""), named.get("rport", "")
    if not is_unicast(host) or not _is_number(port, 0xFFFF):
        return None
    return _host(host), int(port)


def _host(text: str) -> str:
    """A numeric address in its normal form, without a zone, which means nothing elsewhere; a name as it is."""
    if len(text) > MAX_HOST:
        raise WireError("candidate with an address that is too long")
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return text


def _number(text: str, limit: int, name: str) -> int:
    if not _is_number(text, limit):
        raise WireError(f"candidate with the {name} {text[:40]!r}")
    return int(text)


def _is_number(text: str, limit: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= limit
