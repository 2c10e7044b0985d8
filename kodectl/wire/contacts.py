"""Contacts: how nodes name each other in find_node answers.

family (1: 4 or 6) | ip (4 or 16) | udp port (2) | tcp port (2) | node id (32)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from kodectl.errors import WireError

ID_SIZE = 32
_TAIL = 2 + 2 + ID_SIZE
_SIZES = {4: 1 + 4 + _TAIL, 6: 1 + 16 + _TAIL}
CONTACT_SIZE_V4 = _SIZES[4]
FIRST_GROUP_BYTE = 224
"""Multicast from here on, then reserved addresses, and broadcast at the end (RFC 6890)."""


class Contact:
    """A node that answers discovery at `address`. A value: equal when the packed bytes are."""

    __slots__ = ("address", "node_id", "number", "packed", "tcp_port")

    def __init__(self, node_id: bytes, ip: str, udp_port: int, tcp_port: int, packed: bytes | None = None) -> None:
        self.node_id = node_id
        self.number = int.from_bytes(node_id)
        """The id as a number, for distances."""
        self.address = (ip, udp_port)
        self.tcp_port = tcp_port
        self.packed = packed if packed is not None else _pack(node_id, ip, udp_port, tcp_port)

    @property
    def ip(self) -> str:
        return self.address[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contact) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"Contact({self.node_id.hex()[:16]} at {self.ip}:{self.address[1]} tcp {self.tcp_port})"


@lru_cache(maxsize=4096)  # the same few hundred addresses, for every answer
def pack_ip(ip: str) -> bytes:
    """4 or 16 bytes of a numeric address. Raises WireError; an IPv6 zone has no meaning elsewhere and is dropped."""
    try:
        return ip_address(ip.partition("%")[0]).packed
    except ValueError as error:
        raise WireError(f"not an IP address: {ip!r}") from error


def unpack_ip(packed: bytes) -> str:
    if len(packed) == 4:
        a, b, c, d = packed
        return f"{a}.{b}.{c}.{d}"
    if len(packed) == 16:
        return IPv6Address(packed).compressed
    raise WireError(f"an IP address has 4 or 16 bytes, not {len(packed)}")


@lru_cache(maxsize=4096)
def is_unicast(ip: str) -> bool:
    """Whether a datagram may be sent there at all: one host, not a group, a broadcast, "any", or IPv4 in IPv6's clothes."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        return not (address.is_multicast or address.is_unspecified or address.ipv4_mapped)
    return 0 < address.packed[0] < FIRST_GROUP_BYTE


def _pack(node_id: bytes, ip: str, udp_port: int, tcp_port: int) -> bytes:
    packed_ip = pack_ip(ip)
    family = b"\x04" if len(packed_ip) == 4 else b"\x06"
    return family + packed_ip + udp_port.to_bytes(2) + tcp_port.to_bytes(2) + node_id


def pack_contacts(contacts: Iterable[Contact]) -> bytes:
    return b"".join([contact.packed for contact in contacts])


def unpack_contacts(data: bytes, limit: int, known: dict[bytes, Contact] | None = None) -> list[Contact]:
    """At most `limit` contacts; more are an error, and so is a cut one. A contact that nobody can answer at is skipped:
    without a UDP port, or with a group's address.

    `known`: contacts by their packed form, to be taken instead of made: most of what an answer names was named before."""
    known = known if known is not None else {}
    contacts: list[Contact] = []
    for entry in _entries(data, limit):
        contact = known.get(entry) or _unpack(entry)
        if contact is not None:
            contacts.append(contact)
    return contacts


def _entries(data: bytes, limit: int) -> list[bytes]:
    count, rest = divmod(len(data), CONTACT_SIZE_V4)
    if not rest and count <= limit and data[::CONTACT_SIZE_V4] == b"\x04" * count:
        return [data[start : start + CONTACT_SIZE_V4] for start in range(0, len(data), CONTACT_SIZE_V4)]
    entries: list[bytes] = []
    offset, end = 0, len(data)
    while offset < end:
        if len(entries) >= limit:
            raise WireError(f"more than {limit} contacts")
        size = _SIZES.get(data[offset])
        if size is None:
            raise WireError(f"contact of address family {data[offset]}")
        entry = data[offset : offset + size]
        if len(entry) < size:
            raise WireError("contact cut short")
        offset += size
        entries.append(entry)
    return entries


def _unpack(entry: bytes) -> Contact | None:
    udp_port, tcp_port = entry[-36] << 8 | entry[-35], entry[-34] << 8 | entry[-33]
    ip = unpack_ip(entry[1:-_TAIL])
    if not udp_port or not is_unicast(ip):
        return None
    return Contact(entry[-ID_SIZE:], ip, udp_port, tcp_port, entry)
