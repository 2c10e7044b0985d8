"""The records this node keeps for others: who may write, what wins, what goes when room is short.

A key holds one record of each publisher, so nobody overwrites another's; the higher sequence wins.  A write needs a token,
bound to the writer's address and id and to the key, so that whoever writes can be held to an address.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from kodectl.core.sessions import Address
from kodectl.core.table import subnet_of
from kodectl.errors import WireError
from kodectl.wire.record import Record, unpack_record
from kodectl.wire.rpc import StoreStatus
from kodectl.wire.suite import Suite, node_id_of

MAX_RECORDS = 8192
"""About 10 MB when all are of full size."""
MAX_PER_PUBLISHER = MAX_RECORDS // 20
MAX_PER_SUBNET = MAX_RECORDS // 20
"""One flooder, by identity or by network, fills 5 % of a store."""
MAX_PER_KEY = 32
MAX_PER_KEY_OF_SUBNET = MAX_PER_KEY // 4
"""Ids cost nothing: thirty-two of one network would keep all others from a key for two days."""
MAX_EXPIRY_S = 48 * 3600
TOKEN_ROTATION_S = 600.0
TOKEN_SIZE = 16

RecordName = tuple[bytes, bytes]
"""Key and publisher."""


class Kept(NamedTuple):
    record: Record
    subnet: str | None
    """Of the writer."""
    received: float
    """Monotonic seconds of the last write or refresh."""


class Tokens:
    """Write tokens: valid in the period they were made in and in the next (10 to 20 minutes)."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random = random_bytes
        self._secrets = [random_bytes(32), random_bytes(32)]
        self._rotated = float("-inf")

    def make(self, node_id: bytes, address: Address, key: bytes, now: float) -> bytes:
        self._rotate(now)
        return self._token(self._secrets[0], node_id, address, key)

    def check(self, token: bytes, node_id: bytes, address: Address, key: bytes, now: float) -> bool:
        self._rotate(now)
        return any(token == self._token(secret, node_id, address, key) for secret in self._secrets)

    def _rotate(self, now: float) -> None:
        if now - self._rotated >= TOKEN_ROTATION_S:
            # After a long pause both secrets are old, and so is every token made with them.
            kept = self._secrets[0] if now - self._rotated < 2 * TOKEN_ROTATION_S else self._random(32)
            self._secrets = [self._random(32), kept]
            self._rotated = now

    @staticmethod
    def _token(secret: bytes, node_id: bytes, address: Address, key: bytes) -> bytes:
        bound = node_id + key + f"{address[0]} {address[1]}".encode()
        return hashlib.blake2b(bound, key=secret, digest_size=TOKEN_SIZE).digest()


class ValueStore:
    """Records by key and publisher, within quotas. Signatures are checked here; tokens by the caller."""

    def __init__(self, own_id: bytes, suite: Suite, capacity: int = MAX_RECORDS) -> None:
        self._own_number = int.from_bytes(own_id)
        self._suite = suite
        self._capacity = capacity
        self._by_key: dict[bytes, dict[bytes, Kept]] = {}
        self._distances: list[int] = []
        """Of the keys, in order: a full store asks for the farthest at each write."""
        self._size = 0
        self._publishers: Counter[bytes] = Counter()
        self._subnets: Counter[str] = Counter()
        self._expiries: list[tuple[int, RecordName]] = []
        self._changed: dict[RecordName, bytes | None] = {}

    def __len__(self) -> int:
        return self._size

    def put(self, packed: bytes, writer_ip: str | None, now: float, unix_time: float) -> StoreStatus:
        """Takes a record in, by the write rules. `writer_ip` None: our own, or from our own disk."""
        try:
            record = unpack_record(packed)
        except WireError:
            return StoreStatus.MALFORMED
        if not unix_time < record.expiry <= unix_time + MAX_EXPIRY_S + 60:
            return StoreStatus.EXPIRED
        subnet = subnet_of(writer_ip) if writer_ip is not None else None
        known = self._by_key.get(record.key, {}).get(record.publisher)
        if known is not None:
            if record.packed == known.record.packed:
                self._by_key[record.key][record.publisher] = known._replace(received=now)
                return StoreStatus.STORED
            if record.sequence <= known.record.sequence:
                return StoreStatus.OLD_SEQUENCE
        elif not self._within_quotas(record, subnet) or not self._has_room_for(record.key):
            return StoreStatus.QUOTA
        if not self._suite.verify(record.publisher, record.statement(), record.signature):
            return StoreStatus.BAD_SIGNATURE
        if known is not None:
            self._remove((record.key, record.publisher))
        elif self._size >= self._capacity:
            self._give_up_farthest()
        self._insert(Kept(record, subnet, now))
        return StoreStatus.STORED

    def _within_quotas(self, record: Record, subnet: str | None) -> bool:
        share = max(1, self._capacity // 20)
        return (
            (self._key_has_room(record.key, subnet) or _is_owners(record))
            and self._publishers[record.publisher] < min(MAX_PER_PUBLISHER, share)
            and (subnet is None or self._subnets[subnet] < min(MAX_PER_SUBNET, share))
        )

    def _key_has_room(self, key: bytes, subnet: str | None) -> bool:
        kept = self._by_key.get(key, {}).values()
        of_subnet = sum(subnet is not None and one.subnet == subnet for one in kept)
        return len(kept) < MAX_PER_KEY and of_subnet < MAX_PER_KEY_OF_SUBNET

    def _has_room_for(self, key: bytes) -> bool:
        """A full store has it for what is closer to our id than something else there: that is whose neighbours we are."""
        return self._size < self._capacity or self._distance(key) < self._distances[-1]

    def _give_up_farthest(self) -> None:
        key = (self._distances[-1] ^ self._own_number).to_bytes(32)
        self._remove((key, next(iter(self._by_key[key]))))

    def _distance(self, key: bytes) -> int:
        return int.from_bytes(key) ^ self._own_number

    def _insert(self, kept: Kept) -> None:
        record = kept.record
        of_key = self._by_key.get(record.key)
        if of_key is None:
            of_key = self._by_key[record.key] = {}
            insort(self._distances, self._distance(record.key))
        of_key[record.publisher] = kept
        self._size += 1
        self._publishers[record.publisher] += 1
        if kept.subnet is not None:
            self._subnets[kept.subnet] += 1
        heapq.heappush(self._expiries, (record.expiry, (record.key, record.publisher)))
        if len(self._expiries) > 2 * self._size + 64:
            # Entries of replaced records stay until their time; not more of them than of live ones.
            self._expiries = [(k.record.expiry, (key, p)) for key, of in self._by_key.items() for p, k in of.items()]
            heapq.heapify(self._expiries)
        self._changed[(record.key, record.publisher)] = record.packed

    def _remove(self, name: RecordName) -> None:
        key, publisher = name
        kept = self._by_key[key].pop(publisher)
        if not self._by_key[key]:
            del self._by_key[key]
            del self._distances[bisect_left(self._distances, self._distance(key))]
        self._size -= 1
        self._publishers[publisher] -= 1
        if not self._publishers[publisher]:
            del self._publishers[publisher]
        if kept.subnet is not None:
            self._subnets[kept.subnet] -= 1
            if not self._subnets[kept.subnet]:
                del self._subnets[kept.subnet]
        self._changed[name] = None

    def get(self, key: bytes) -> list[Record]:
        """The records of a key: that of the node whose id it is, then the newest sequence first."""
        kept = self._by_key.get(key, {}).values()
        return sorted(
            (k.record for k in kept), key=lambda record: (not _is_owners(record), -record.sequence, record.publisher)
        )

    def expire(self, unix_time: float) -> None:
        while self._expiries and self._expiries[0][0] <= unix_time:
            expiry, (key, publisher) = heapq.heappop(self._expiries)
            kept = self._by_key.get(key, {}).get(publisher)
            if kept is not None and kept.record.expiry == expiry:
                self._remove((key, publisher))

    def not_written_since(self, time: float, limit: int) -> list[Record]:
        """Records that nobody wrote or refreshed since `time`: they are ours to republish."""
        due = [kept.record for of_key in self._by_key.values() for kept in of_key.values() if kept.received < time]
        return due[:limit]

    def republished(self, record: Record, now: float) -> None:
        kept = self._by_key.get(record.key, {}).get(record.publisher)
        if kept is not None:
            self._by_key[record.key][record.publisher] = kept._replace(received=now)

    def keys(self) -> list[bytes]:
        return list(self._by_key)

    def put_back(self, saved: list[bytes], removed: list[tuple[bytes, bytes]]) -> None:
        """The disk did not take these: they count as changed again, unless they have changed since."""
        for packed in saved:
            record = unpack_record(packed)
            self._changed.setdefault((record.key, record.publisher), packed)
        for publisher, key in removed:
            self._changed.setdefault((key, publisher), None)

    def load(self, saved: list[bytes], now: float, unix_time: float) -> None:
        """Takes in what the disk kept; what has no place any more goes from there as well."""
        for packed in saved:
            if self.put(packed, None, now, unix_time) is StoreStatus.STORED:
                continue
            try:
                record = unpack_record(packed)
            except WireError:
                continue
            self._changed.setdefault((record.key, record.publisher), None)
        self._changed = {name: packed for name, packed in self._changed.items() if packed is None}

    def take_changes(self) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """What changed since the last call, for the disk: packed records, and (publisher, key) of removed ones."""
        changes, self._changed = self._changed, {}
        saved = [packed for packed in changes.values() if packed is not None]
        return saved, [(publisher, key) for (key, publisher), packed in changes.items() if packed is None]


def _is_owners(record: Record) -> bool:
    """Whether the key is the publisher's node id: then others, however many, must not hide what it says of itself."""
    return node_id_of(record.publisher) == record.key
