"""What travels in requests: contacts, records, letters (docs/protocol.md, "Messages", "Values", "Letters")."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from conformance.client.keys import Identity, is_signed, node_id


@dataclass(frozen=True)
class Contact:
    ip: str
    udp: int
    tcp: int
    id: bytes


def read_contacts(packed: bytes) -> list[Contact]:
    contacts = []
    while packed:
        family, size = {4: (socket.AF_INET, 4), 6: (socket.AF_INET6, 16)}[packed[0]]
        ip, rest = packed[1 : 1 + size], packed[1 + size :]
        assert len(rest) >= 36
        udp, tcp = int.from_bytes(rest[0:2], "big"), int.from_bytes(rest[2:4], "big")
        contacts.append(Contact(socket.inet_ntop(family, ip), udp, tcp, rest[4:36]))
        packed = rest[36:]
    return contacts


def record(publisher: Identity, key: bytes, sequence: int, expiry: int, value: bytes) -> bytes:
    head = b"\1" + publisher.public + key + sequence.to_bytes(8, "big") + expiry.to_bytes(8, "big")
    head += len(value).to_bytes(2, "big") + value
    return head + publisher.sign(b"kodechain record v1" + head)


OFFER, REFUSAL = 1, 5


def letter(sender: Identity, target: bytes, session: bytes, time_ms: int, kind: int = OFFER, number: int = 1) -> bytes:
    """Without candidates; ICE's name and password are there."""
    content = bytes((kind, 1, 0, 0, 0)) + number.to_bytes(2, "big") * 2 + bytes(2) + time_ms.to_bytes(8, "big")
    content += b"\x04ufrg" + b"\x16password-of-22-letters" + b"\0" + b"\0" + b"\0" + b"\0"
    statement = b"kodechain offer v1" + target + sender.id + session + content
    return sender.sign(statement) + sender.public + content


@dataclass(frozen=True)
class Letter:
    kind: int
    number: int
    heard: int


def read_letter(packed: bytes, target: bytes, sender: bytes, session: bytes) -> Letter:
    """Checks who has written it, and for what."""
    signature, public, content = packed[:64], packed[64:96], packed[96:]
    assert node_id(public) == sender
    assert is_signed(public, signature, b"kodechain offer v1" + target + sender + session + content)
    number, heard = int.from_bytes(content[5:7], "big"), int.from_bytes(content[9:11], "big")
    return Letter(content[0], number, heard)
