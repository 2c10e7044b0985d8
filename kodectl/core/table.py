"""The routing table: 20 buckets by shared leading bits, k = 16 (Maymounkov and Mazieres 2002, sections 2.2 and 2.4).

The bucket of an id is the number of leading bits that it shares with ours; the last bucket takes every id that shares
19 or more. Only nodes that proved id and address enter: they answered, or brought back our cookie. Deadness is found by
asking, never assumed: a newcomer to a full bucket waits among the replacements while the node heard longest ago is
asked (test before evict).
"""

from __future__ import annotations

import random
from collections import Counter
from enum import Enum
from functools import lru_cache
from heapq import nsmallest
from ipaddress import ip_address
from typing import NamedTuple

from kodectl.core.distance import ID_BITS
from kodectl.wire.contacts import Contact

BUCKETS = 20
K = 16
REPLACEMENTS = 10
MAX_PER_SUBNET_IN_BUCKET = 2
MAX_PER_SUBNET_AMONG_CLOSEST = 2
"""Of one network among the closest to anything, while there are others: ids next to a key can be ground, networks have to be
rented."""
MAX_PER_SUBNET = 10
"""Of one /24 (IPv6: /64) in the whole table: two rented networks hold at most 20 of up to 320 places."""
FAILURES_TO_EVICT = 2
"""One lost exchange (of three attempts) happens; two in a row is a dead node."""


class Change(Enum):
    ADDED = "added"
    REFRESHED = "refreshed"
    ELSEWHERE = "elsewhere"
    """In the table, at another address, which is to be asked: if that one is dead, the node has moved."""
    WAITING = "waiting"
    """Among the replacements: ask `RoutingTable.oldest_in(bucket)`."""
    REFUSED = "refused"


class Entry:
    """A node of the table. `heard` is when it last answered us; `failures` in a row since then."""

    __slots__ = ("contact", "elsewhere", "failures", "heard", "subnet")

    def __init__(self, contact: Contact, now: float) -> None:
        self.contact = contact
        self.subnet = subnet_of(contact.ip)
        self.heard = now
        self.failures = 0
        self.elsewhere: Contact | None = None
        """Where the same node was heard since: if it has moved, or if somebody between us hands its packets on."""

    def alive(self, now: float) -> None:
        self.heard, self.failures, self.elsewhere = now, 0, None


class Bucket:
    __slots__ = ("_live", "entries", "replacements", "updated")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.replacements: dict[bytes, Entry] = {}
        """Oldest first."""
        self.updated: float | None = None
        self._live: list[Contact] | None = []

    def live(self) -> list[Contact]:
        """Whoever answered when last asked; not to be changed."""
        if self._live is None:
            self._live = [entry.contact for entry in self.entries.values() if not entry.failures]
        return self._live

    def wait(self, newcomer: Entry) -> None:
        """Among the replacements, in the place of the oldest; of a network that has its share there, of the oldest of it."""
        waiting = self.replacements
        waiting.pop(newcomer.contact.node_id, None)
        alike = [
            node_id
            for node_id, entry in waiting.items()
            if entry.subnet is not None and entry.subnet == newcomer.subnet
        ]
        if len(alike) >= MAX_PER_SUBNET_IN_BUCKET:
            del waiting[alike[0]]
        elif len(waiting) >= REPLACEMENTS:
            del waiting[next(iter(waiting))]
        waiting[newcomer.contact.node_id] = newcomer

    def changed(self) -> None:
        """To be called when other entries, or others of them, are alive."""
        self._live = None


class BucketState(NamedTuple):
    number: int
    size: int
    replacements: int
    updated: float | None
    nodes: list[bytes]


@lru_cache(maxsize=4096)
def subnet_of(ip: str) -> str | None:
    """The /24 or /64 that an address belongs to; None where there is no scarcity (private, loopback, link-local)."""
    address = ip_address(ip.partition("%")[0])
    if address.is_private or address.is_loopback or address.is_link_local:
        return None
    size = 3 if address.version == 4 else 8
    return address.packed[:size].hex()


class RoutingTable:
    """Decides who stays; asks nobody. `own_id` never enters."""

    def __init__(self, own_id: bytes) -> None:
        self.own_id = own_id
        self._own_number = int.from_bytes(own_id)
        self._buckets = [Bucket() for _ in range(BUCKETS)]
        self._subnets: Counter[str] = Counter()
        self._crowded = 0
        """Networks with more nodes than may be among the closest."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._bucket_of(node_id).entries

    def bucket_index(self, node_id: bytes) -> int:
        return self._index(int.from_bytes(node_id))

    def _index(self, number: int) -> int:
        return min(ID_BITS - (number ^ self._own_number).bit_length(), BUCKETS - 1)

    def _bucket_of(self, node_id: bytes) -> Bucket:
        return self._buckets[self._index(int.from_bytes(node_id))]

    # -- what was learned ------------------------------------------------------------------------------------------

    def heard(self, contact: Contact, now: float) -> Change:
        """`contact` is at its address: it has answered us, or brought back our cookie, with its identity proved."""
        node_id = contact.node_id
        bucket = self._buckets[self._index(contact.number)]
        entry = bucket.entries.get(node_id)
        if entry is not None and entry.contact.address == contact.address:
            entry.contact = contact  # the TCP port may be another
            entry.alive(now)
            bucket.changed()
            bucket.updated = now
            return Change.REFRESHED
        if node_id == self.own_id:
            return Change.REFUSED
        if entry is not None:
            entry.elsewhere = contact
            return Change.ELSEWHERE
        newcomer = Entry(contact, now)
        if not self._subnet_has_room(bucket, newcomer):
            return Change.REFUSED
        if len(bucket.entries) < K:
            self._insert(bucket, newcomer)
            bucket.updated = now
            return Change.ADDED
        bucket.wait(newcomer)
        return Change.WAITING

    def refresh(self, node_id: bytes, address: tuple[str, int], tcp_port: int, now: float) -> bool:
        """`heard` for the common case, a known node at its known place; false when it is not that."""
        bucket = self._buckets[self._index(int.from_bytes(node_id))]
        entry = bucket.entries.get(node_id)
        if entry is None or entry.contact.address != address or entry.contact.tcp_port != tcp_port:
            return False
        if entry.failures:
            bucket.changed()
        entry.alive(now)
        bucket.updated = now
        return True

    def failed(self, node_id: bytes, address: tuple[str, int]) -> Contact | None:
        """A question to a node at an address got no answer in all attempts. Returns a replacement to be asked, if one
        takes the place. Where somebody says that a node is, and it is not, says nothing about the node."""
        bucket = self._bucket_of(node_id)
        waiting = bucket.replacements.get(node_id)
        if waiting is not None and waiting.contact.address == address:
            del bucket.replacements[node_id]
        entry = bucket.entries.get(node_id)
        if entry is None or entry.contact.address != address:
            return None
        entry.failures += 1
        bucket.changed()
        heirs = [Entry(entry.elsewhere, entry.heard)] if entry.elsewhere is not None else []
        # With nobody to take the place, a node that may be back in a minute is worth more than a hole.
        if entry.failures < FAILURES_TO_EVICT and not heirs and not bucket.replacements:
            return None
        self._remove(bucket, entry)
        return self._promote(bucket, heirs)

    def remove(self, node_id: bytes) -> Contact | None:
        """Takes a node out at once (banned, turned client); returns a replacement to be asked."""
        bucket = self._bucket_of(node_id)
        bucket.replacements.pop(node_id, None)
        entry = bucket.entries.get(node_id)
        if entry is None:
            return None
        self._remove(bucket, entry)
        return self._promote(bucket, [])

    def _promote(self, bucket: Bucket, heirs: list[Entry]) -> Contact | None:
        """Gives a free place to the first of `heirs`, or else to the replacement heard last, whom the limits allow."""
        while heirs or bucket.replacements:
            entry = heirs.pop() if heirs else bucket.replacements.popitem()[1]
            if self._subnet_has_room(bucket, entry):
                # It answered once, but that may be long ago: not told to others until it answers again.
                entry.failures = 1
                self._insert(bucket, entry)
                return entry.contact
        return None

    def _insert(self, bucket: Bucket, entry: Entry) -> None:
        bucket.entries[entry.contact.node_id] = entry
        bucket.changed()
        bucket.replacements.pop(entry.contact.node_id, None)
        self._size += 1
        if entry.subnet is not None:
            self._subnets[entry.subnet] += 1
            self._crowded += self._subnets[entry.subnet] == MAX_PER_SUBNET_AMONG_CLOSEST + 1

    def _remove(self, bucket: Bucket, entry: Entry) -> None:
        del bucket.entries[entry.contact.node_id]
        bucket.changed()
        self._size -= 1
        if entry.subnet is not None:
            self._crowded -= self._subnets[entry.subnet] == MAX_PER_SUBNET_AMONG_CLOSEST + 1
            self._subnets[entry.subnet] -= 1
            if not self._subnets[entry.subnet]:
                del self._subnets[entry.subnet]

    def _subnet_has_room(self, bucket: Bucket, entry: Entry) -> bool:
        if entry.subnet is None or entry.subnet not in self._subnets:
            return True
        in_bucket = sum(other.subnet == entry.subnet for other in bucket.entries.values())
        return in_bucket < MAX_PER_SUBNET_IN_BUCKET and self._subnets[entry.subnet] < MAX_PER_SUBNET

    # -- questions -------------------------------------------------------------------------------------------------

    def closest(self, target: bytes, count: int = K) -> list[Contact]:
        """Up to `count` nodes of the whole table, the closest to `target` first; only such as answered when last asked, and two
        of a network while there are others.

        Buckets are taken in the order of their distance from the target, so that few ids are compared: with s bits shared
        by us and the target, bucket s shares more than s bits with it, the deeper buckets exactly s, and bucket i < s
        exactly i."""
        number = int.from_bytes(target)
        shared = self._index(number)
        buckets = self._buckets
        found = [*buckets[shared].live()]
        if len(found) < count:
            for bucket in buckets[shared + 1 :]:
                found += bucket.live()
        index = shared - 1
        while len(found) < count and index >= 0:
            found += buckets[index].live()
            index -= 1
        found.sort(key=lambda contact: contact.number ^ number)
        del found[count:]
        if self._crowded and self._are_crowded(found):
            return self._closest_of_networks(number, count)
        return found

    def _are_crowded(self, contacts: list[Contact]) -> bool:
        """Whether more of them than may are of one network."""
        subnets = [self._buckets[self._index(contact.number)].entries[contact.node_id].subnet for contact in contacts]
        return any(
            subnets.count(subnet) > MAX_PER_SUBNET_AMONG_CLOSEST
            for subnet in subnets
            if subnet is not None and self._subnets[subnet] > MAX_PER_SUBNET_AMONG_CLOSEST
        )

    def _closest_of_networks(self, number: int, count: int) -> list[Contact]:
        """`closest` where somebody has many ids in one network: with all his places in each answer, nobody would hear of those
        who are next in distance."""
        entries = [entry for bucket in self._buckets for entry in bucket.entries.values() if not entry.failures]
        entries.sort(key=lambda entry: entry.contact.number ^ number)
        found: list[Contact] = []
        surplus: list[Contact] = []
        of_subnet: Counter[str] = Counter()
        for entry in entries:
            if len(found) >= count:
                return found
            if entry.subnet is not None:
                of_subnet[entry.subnet] += 1
                if of_subnet[entry.subnet] > MAX_PER_SUBNET_AMONG_CLOSEST:
                    surplus.append(entry.contact)
                    continue
            found.append(entry.contact)
        found += surplus[: count - len(found)]
        return sorted(found, key=lambda contact: contact.number ^ number)

    def contact(self, node_id: bytes) -> Contact | None:
        entry = self._bucket_of(node_id).entries.get(node_id)
        return entry.contact if entry is not None else None

    def contacts(self) -> list[Contact]:
        return [entry.contact for bucket in self._buckets for entry in bucket.entries.values()]

    def oldest_in(self, index: int, heard_before: float) -> Contact | None:
        """The node of a bucket heard longest ago, if that was before the given time."""
        entries = self._buckets[index].entries.values()
        oldest = min(entries, key=lambda entry: entry.heard, default=None)
        return oldest.contact if oldest is not None and oldest.heard < heard_before else None

    def to_revalidate(self, now: float, older_than_s: float, limit: int) -> list[Contact]:
        """The nodes not heard for `older_than_s`, longest ago first; nodes that failed before all others."""
        stale = [
            entry
            for bucket in self._buckets
            for entry in bucket.entries.values()
            if entry.failures or now - entry.heard > older_than_s
        ]
        return [entry.contact for entry in nsmallest(limit, stale, key=lambda entry: (not entry.failures, entry.heard))]

    def thin_buckets(self) -> list[int]:
        """Buckets not half full, down to where our neighbours begin: those hold whatever a lookup of ourselves found."""
        neighbours = self.closest(self.own_id)
        depth = self.bucket_index(neighbours[-1].node_id) if neighbours else 0
        return [index for index in range(depth) if len(self._buckets[index].entries) < K // 2]

    def stale_buckets(self, now: float, older_than_s: float) -> list[int]:
        """Buckets in which nothing was heard for so long, down to the deepest that holds a node, and one more."""
        deepest = max((index for index, bucket in enumerate(self._buckets) if bucket.entries), default=-1)
        return [
            index
            for index, bucket in enumerate(self._buckets[: deepest + 2])
            if bucket.updated is None or now - bucket.updated > older_than_s
        ]

    def refreshed(self, index: int, now: float) -> None:
        """A lookup into the bucket was made; that it found nobody is news too."""
        self._buckets[index].updated = now

    def random_id_in(self, index: int, rng: random.Random) -> bytes:
        return id_in_bucket(self.own_id, index, rng)

    def states(self) -> list[BucketState]:
        return [
            BucketState(index, len(bucket.entries), len(bucket.replacements), bucket.updated, list(bucket.entries))
            for index, bucket in enumerate(self._buckets)
        ]


def id_in_bucket(own_id: bytes, index: int, rng: random.Random) -> bytes:
    """A random id that belongs into a bucket of a node's table: the same leading bits as its id, then the other bit."""
    own_number = int.from_bytes(own_id)
    if index == BUCKETS - 1:
        mask = (1 << ID_BITS - index) - 1
        return (own_number & ~mask | rng.getrandbits(ID_BITS - index)).to_bytes(32)
    rest = ID_BITS - index - 1
    prefix = own_number >> rest ^ 1
    return (prefix << rest | rng.getrandbits(rest)).to_bytes(32)
