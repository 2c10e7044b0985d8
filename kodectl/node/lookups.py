"""Lookups and records as the API shows them."""

from __future__ import annotations

import base64

from kodectl.core.distance import ID_BITS, shared_bits
from kodectl.node.events import rfc3339
from kodectl.node.kademlia import Found, Hop
from kodectl.node.views import ContactView, HopView, LookupView, RecordView, ValueView
from kodectl.wire.contacts import Contact
from kodectl.wire.enode import Enode
from kodectl.wire.record import Record


def enode_of(contact: Contact) -> Enode:
    return Enode(contact.node_id, contact.ip, contact.tcp_port, contact.address[1])


def distance_bits(contact: Contact, target: bytes) -> int:
    return ID_BITS - shared_bits(contact.node_id, target)


def contact_view(contact: Contact, target: bytes) -> ContactView:
    return ContactView(contact.node_id.hex(), str(enode_of(contact)), distance_bits(contact, target))


def hop_view(hop: Hop, target: bytes) -> HopView:
    ip, port = hop.contact.address
    return HopView(
        round=hop.round,
        id=hop.contact.node_id.hex(),
        addr=f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}",
        distance_bits=distance_bits(hop.contact, target),
        outcome=hop.outcome,  # type: ignore[arg-type]
        rtt_ms=None if hop.rtt_s is None else round(hop.rtt_s * 1000, 3),
        contacts=hop.contacts,
        new_contacts=hop.new_contacts,
    )


def lookup_view(found: Found, hops: list[Hop]) -> LookupView:
    return LookupView(
        target=found.target.hex(),
        found=found.found,
        closest=[contact_view(contact, found.target) for contact in found.closest],
        messages=found.messages,
        rounds=found.rounds,
        elapsed_ms=round(found.elapsed_s * 1000, 3),
        trace=[hop_view(hop, found.target) for hop in hops],
    )


def value_view(key: bytes, records: list[Record]) -> ValueView:
    views = [
        RecordView(
            publisher=record.publisher.hex(),
            sequence=record.sequence,
            expires=rfc3339(record.expiry),
            value=base64.b64encode(record.value).decode(),
        )
        for record in records
    ]
    return ValueView(key.hex(), views)
