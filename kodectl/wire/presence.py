"""Where a node behind a NAT can be asked for: the value of the record that it publishes under its own id
(docs/protocol.md, "Presence").

version (1) | packed contacts of its rendezvous nodes, at most four
"""

from __future__ import annotations

from collections.abc import Sequence

from kodectl.errors import WireError
from kodectl.wire.contacts import Contact, pack_contacts, unpack_contacts
from kodectl.wire.record import Record
from kodectl.wire.suite import node_id_of

VERSION = 1
MAX_RENDEZVOUS = 4


def pack_presence(rendezvous: Sequence[Contact]) -> bytes:
    """None: it is not to be asked for anywhere any more."""
    return bytes((VERSION,)) + pack_contacts(rendezvous[:MAX_RENDEZVOUS])


def unpack_presence(value: bytes) -> tuple[Contact, ...]:
    if not value:
        raise WireError("presence cut short")
    if value[0] != VERSION:
        raise WireError(f"presence of version {value[0]}")
    return tuple(unpack_contacts(value[1:], MAX_RENDEZVOUS))


def is_presence_of(node_id: bytes, record: Record) -> bool:
    """Whether the node itself has published it, under its own id; what others put there is not its presence."""
    return record.key == node_id == node_id_of(record.publisher)
