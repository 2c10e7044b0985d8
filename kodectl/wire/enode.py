"""Enode URLs: who a node is and where it listens.

    enode://ID@HOST:TCP?discport=UDP

ID is 64 hex digits, the node id, or 128 hex digits, whose 64 bytes are hashed into it. HOST is an IPv4 address, an
IPv6 address in brackets, or a host name (RFC 1123, section 2.1). Without `discport` UDP = TCP; a port of 0 says that
the node does not listen there.

Frozen dataclass rather than a msgspec struct: `kodectl enode parse` starts in the time of click, and msgspec alone
would take half of what is left.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from kodectl.errors import WireError

SCHEME = "enode://"
ID_SIZE = 32
LONG_ID_SIZE = 64
ZERO_ID = bytes(ID_SIZE)
"""Stands for an id that is not known: "whoever answers there"."""

MAX_ENODE_LENGTH = 512
"""The longest that means anything has 423 characters: long id, a host name of 253, two ports."""
MAX_NAME_LENGTH = 253
"""RFC 1035, section 2.3.4: 255 octets on the wire, 253 as text."""
MAX_PORT = 65_535

_HEX = re.compile(r"[0-9a-fA-F]*\Z")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_NUMERIC_LABEL = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class Enode:
    """`host` is a canonical numeric address (IPv6 without brackets) or a lower-case name.

    Equality looks at what is reached, not at how it was written."""

    node_id: bytes
    host: str
    tcp: int
    udp: int
    long_id: bytes | None = field(default=None, compare=False)
    """The 64 bytes that the URL carried instead of the id."""
    udp_given: bool = field(default=True, compare=False)
    """False: the URL had no `discport`, `udp` is a copy of `tcp`."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """Names of query parameters that this version does not know."""

    @property
    def id_known(self) -> bool:
        return self.node_id != ZERO_ID

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{self.node_id.hex()}@{host}:{self.tcp}?discport={self.udp}"


def parse_enode(text: str) -> Enode:
    """The enode that `text` spells. Raises WireError with what is wrong."""
    _check_text(text)
    if text[: len(SCHEME)].lower() != SCHEME:
        raise WireError(f"enode: must begin with {SCHEME}")
    rest, mark, query = text[len(SCHEME) :].partition("?")
    id_text, at, location = rest.rpartition("@")
    if not at:
        raise WireError("enode: no @ between node id and host")
    node_id, long_id = _parse_id(id_text)
    host_text, tcp_text = _split_location(location)
    host = parse_host(host_text)
    tcp = _parse_port(tcp_text, "TCP port")
    udp, ignored = _parse_query(query) if mark else (None, ())
    if tcp == 0 and not udp:
        raise WireError("enode: neither a TCP nor a UDP port")
    return Enode(node_id, host, tcp, tcp if udp is None else udp, long_id, udp is not None, ignored)


def parse_host(text: str) -> str:
    """The canonical form of an IPv4 address, an IPv6 address in brackets, or a host name. Raises WireError."""
    if not text:
        raise WireError("enode: no host")
    if text.startswith("["):
        return _parse_ipv6(text)
    if ":" in text:
        raise WireError(f"enode: host {text!r}: an IPv6 address stands in brackets")
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    # A name whose last label is a number is read as an IPv4 address by every resolver, in more or less odd ways.
    if _NUMERIC_LABEL.match(labels[-1]):
        return _parse_ipv4(text)
    if len(name) > MAX_NAME_LENGTH:
        raise WireError(f"enode: host name has {len(name)} characters, at most {MAX_NAME_LENGTH}")
    for label in labels:
        _check_label(label, text)
    return name


def _check_text(text: str) -> None:
    if len(text) > MAX_ENODE_LENGTH:
        raise WireError(f"enode: {len(text)} characters, at most {MAX_ENODE_LENGTH}")
    if not text:
        raise WireError("enode: empty")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise WireError("enode: white space or control characters inside")


def _parse_id(text: str) -> tuple[bytes, bytes | None]:
    if not text:
        raise WireError("enode: no node id")
    if len(text) not in (2 * ID_SIZE, 2 * LONG_ID_SIZE):
        raise WireError(f"enode: node id has {len(text)} characters, not 64 (or 128) hex digits")
    if not _HEX.match(text):
        raise WireError("enode: node id has other characters than hex digits")
    raw = bytes.fromhex(text)
    if len(raw) == ID_SIZE:
        return raw, None
    import hashlib  # OpenSSL: 3 ms that the usual form does not need

    return hashlib.sha256(raw).digest(), raw


def _split_location(location: str) -> tuple[str, str]:
    """`host:port`, where the colons of an IPv6 address stand in brackets."""
    if "#" in location or "/" in location:
        raise WireError("enode: a path or fragment after the host; nothing but ?discport= follows the TCP port")
    if location.startswith("[") and "]" not in location:
        raise WireError("enode: [ without ]")
    if location.startswith("[") and location.endswith("]"):
        raise WireError("enode: no TCP port")
    host, colon, port = location.rpartition(":")
    if not colon:
        raise WireError("enode: no TCP port")
    return host, port


def _parse_port(text: str, name: str) -> int:
    if not text:
        raise WireError(f"enode: no {name}")
    if not _PORT.match(text):
        raise WireError(f"enode: {name} {text!r} is not a number from 0 to {MAX_PORT}")
    if int(text) > MAX_PORT:
        raise WireError(f"enode: {name} {text} is above {MAX_PORT}")
    return int(text)


def _parse_query(query: str) -> tuple[int | None, tuple[str, ...]]:
    """The UDP port, and the parameters that are not known: later versions may add some."""
    udp: int | None = None
    ignored = []
    for parameter in query.split("&") if query else []:
        name, equals, value = parameter.partition("=")
        if name != "discport":
            ignored.append(name)
        elif not equals:
            raise WireError("enode: discport without a value")
        elif udp is not None:
            raise WireError("enode: discport stands twice")
        else:
            udp = _parse_port(value, "discport")
    return udp, tuple(ignored)


def _parse_ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise WireError(f"enode: host {text!r} is not an IPv4 address") from error


def _parse_ipv6(text: str) -> str:
    if not text.endswith("]"):
        raise WireError(f"enode: host {text!r}: something stands between ] and the port")
    if "%" in text:
        raise WireError(f"enode: host {text!r}: a zone means something on one machine only")
    try:
        address = ipaddress.IPv6Address(text[1:-1])
    except ValueError as error:
        raise WireError(f"enode: host {text!r} is not an IPv6 address") from error
    return str(address.ipv4_mapped or address)


def _check_label(label: str, name: str) -> None:
    if not name.isascii():
        raise WireError(f"enode: host name {name!r} is not ASCII; write its xn-- form")
    if not label:
        raise WireError(f"enode: host name {name!r} has an empty label")
    if not _LABEL.match(label):
        raise WireError(
            f"enode: host name {name!r}: label {label!r} is not 1 to 63 letters, digits and inner hyphens (RFC 1123)"
        )
