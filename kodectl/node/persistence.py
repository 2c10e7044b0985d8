"""What a node keeps across restarts, as an interface, and the store that keeps it for the life of the process only.

All times in a store are Unix seconds: a monotonic clock means nothing after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from kodectl.wire.record import unpack_record


class StoredPeer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer that was met: where to dial it, what is thought of it, when to dial it again."""

    node_id: bytes
    host: str
    """Numeric address; with `tcp` 0 it cannot be dialled."""
    tcp: int
    udp: int
    static: bool = False
    """Asked for by the operator: redialled always, exempt from limits."""
    linked: bool = False
    """Was connected at the time of saving: dialled first after a restart."""
    reached: bool = False
    """This node has dialled it with success."""
    last_seen: float = 0.0
    linked_s: float = 0.0
    """This and the next five: the sums behind the trust score (`kodectl.core.trust`), as of `trust_time`."""
    observed_s: float = 0.0
    response_ms: float | None = None
    succeeded: float = 0.0
    asked: float = 0.0
    trust_time: float = 0.0
    failures: int = 0
    """Dials failed in a row."""
    retry_at: float = 0.0


class StoredBan(msgspec.Struct, frozen=True):
    node_id: bytes
    until: float | None
    """None: until it is lifted."""


class StoredSeed(msgspec.Struct, frozen=True):
    """A DHT contact that has answered: where a restarted node begins to look."""

    enode: str
    last_seen: float


class Store(Protocol):
    """Every call blocks (the caller goes through `runtime.in_thread`), is whole or not at all, and raises
    EnvironmentFault when the disk stands in the way; the node then goes on and tries again later."""

    @property
    def warnings(self) -> Sequence[str]:
        """What was wrong when the store was opened, for the operator."""
        ...

    def load_peers(self) -> list[StoredPeer]: ...
    def save_peers(self, changed: Sequence[StoredPeer], removed: Sequence[bytes] = ()) -> None:
        """Inserts or replaces by node id; `removed` are node ids."""
        ...

    def load_bans(self) -> list[StoredBan]: ...
    def save_bans(self, bans: Sequence[StoredBan]) -> None:
        """Replaces all."""
        ...

    def load_records(self) -> list[bytes]:
        """Signed records (docs/protocol.md, "Values"), as they were saved."""
        ...

    def save_records(self, changed: Sequence[bytes], removed: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Inserts or replaces by (publisher's public key, key); `removed` are such pairs."""
        ...

    def load_seeds(self) -> list[StoredSeed]: ...
    def save_seeds(self, seeds: Sequence[StoredSeed]) -> None:
        """Replaces all."""
        ...

    def load_meta(self, name: str) -> bytes | None: ...
    def save_meta(self, name: str, value: bytes) -> None: ...
    def close(self) -> None:
        """May be called twice; nothing may be called after it."""
        ...


class MemoryStore:
    """For ephemeral nodes and the simulator, where a restarted node is given the store of its former life."""

    def __init__(self) -> None:
        self.warnings: tuple[str, ...] = ()
        self._peers: dict[bytes, StoredPeer] = {}
        self._bans: list[StoredBan] = []
        self._records: dict[tuple[bytes, bytes], bytes] = {}
        self._seeds: list[StoredSeed] = []
        self._meta: dict[str, bytes] = {}

    def load_peers(self) -> list[StoredPeer]:
        return list(self._peers.values())

    def save_peers(self, changed: Sequence[StoredPeer], removed: Sequence[bytes] = ()) -> None:
        for node_id in removed:
            self._peers.pop(node_id, None)
        self._peers.update((peer.node_id, peer) for peer in changed)

    def load_bans(self) -> list[StoredBan]:
        return list(self._bans)

    def save_bans(self, bans: Sequence[StoredBan]) -> None:
        self._bans = list(bans)

    def load_records(self) -> list[bytes]:
        return list(self._records.values())

    def save_records(self, changed: Sequence[bytes], removed: Sequence[tuple[bytes, bytes]] = ()) -> None:
        for owner in removed:
            self._records.pop(owner, None)
        self._records.update((record_owner(raw), raw) for raw in changed)

    def load_seeds(self) -> list[StoredSeed]:
        return list(self._seeds)

    def save_seeds(self, seeds: Sequence[StoredSeed]) -> None:
        self._seeds = list(seeds)

    def load_meta(self, name: str) -> bytes | None:
        return self._meta.get(name)

    def save_meta(self, name: str, value: bytes) -> None:
        self._meta[name] = value

    def close(self) -> None:
        pass


def record_owner(raw: bytes) -> tuple[bytes, bytes]:
    """(publisher's public key, key) of a record: at most one record of a pair is kept."""
    record = unpack_record(raw)
    return record.publisher, record.key
