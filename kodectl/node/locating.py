"""Finding a node by its id: itself, where it can be asked, and the record in which it names its rendezvous nodes.

One lookup for both: the nodes closest to an id hold the record, and know the node if it is a DHT server.
"""

from __future__ import annotations

from typing import NamedTuple

from kodectl.node.kademlia import Kademlia
from kodectl.node.values import Values
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact
from kodectl.wire.record import Record

ENOUGH_HOLDERS = 2
"""Answers with records that are waited for: one may have missed the newest, and a third costs time."""


class Sought(NamedTuple):
    """`contact`: the node with this id, if it has answered; `records` under it, of anybody, each with the newest sequence
    that was met."""

    contact: Contact | None
    records: list[Record]


def seek(kademlia: Kademlia, values: Values, key: bytes) -> Sought:
    """Waits."""
    found: dict[bytes, Record] = {record.publisher: record for record in values.held(key)}
    answered: list[Contact] = []
    holders = 0

    def take(contact: Contact, answer: rpc.Values) -> bool:
        nonlocal holders
        holders += values.merge(found, key, answer.records) > 0
        if contact.node_id == key:
            answered.append(contact)
        return bool(answered) or holders >= ENOUGH_HOLDERS

    kademlia.iterate(key, rpc.FindValue(key, 0, True), take=take, stop_at_target=True)
    return Sought(answered[0] if answered else None, list(found.values()))
