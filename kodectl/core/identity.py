"""Who a node is: an Ed25519 key, and the id that is its hash."""

from __future__ import annotations

from kodectl.wire.suite import Suite, node_id_of


class Identity:
    """Signs for one node. The seed stays inside; `repr` shows the id only."""

    __slots__ = ("_seed", "node_id", "public_key", "suite")

    def __init__(self, suite: Suite, seed: bytes) -> None:
        self.suite = suite
        self._seed = seed
        self.public_key = suite.public_key(seed)
        self.node_id = node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        return self.suite.sign(self._seed, message)

    def __repr__(self) -> str:
        return f"Identity({self.node_id.hex()})"
