"""One discovery session: the keys of both directions, and which packets were seen."""

from __future__ import annotations

import hmac

from kodectl.wire import packets
from kodectl.wire.suite import Suite

Address = tuple[str, int]

WINDOW = 64
"""Counters below the highest that are still told apart: what a network reorders."""
_CONTEXT = b"kodechain discovery session v1"
_KEY_MATERIAL = 72

Direction = tuple[bytes, bytes, bytes]
"""Key, iv and session id."""


class Session:
    """One proved peer at one address. `confirmed` once a packet of his has been opened."""

    __slots__ = (
        "_highest",
        "_iv_in",
        "_iv_out",
        "_key_in",
        "_key_out",
        "_suite",
        "_window",
        "address",
        "confirmed",
        "counter",
        "flags",
        "last_used",
        "made",
        "node_id",
        "public_key",
        "recent_tags",
        "sid_in",
        "sid_out",
        "supersedes",
        "tcp_port",
    )

    def __init__(self, node_id: bytes, public_key: bytes, address: Address, flags: int, tcp_port: int) -> None:
        self.node_id = node_id
        self.public_key = public_key
        self.address = address
        self.flags = flags
        self.tcp_port = tcp_port
        self.confirmed = False
        self.counter = 0
        self.made = self.last_used = 0.0
        self.supersedes: Session | None = None
        """The session that this one takes the place of, once it is confirmed."""
        self.recent_tags: list[bytes] = []
        self._highest = -1
        self._window = 0

    @property
    def is_client(self) -> bool:
        return bool(self.flags & packets.FLAG_CLIENT)

    def set_keys(self, suite: Suite, out: Direction, into: Direction) -> None:
        self._suite = suite
        self._key_out, self._iv_out, self.sid_out = out
        self._key_in, self._iv_in, self.sid_in = into

    def seal(self, counter: bytes, message: bytes, head: bytes) -> bytes:
        """`counter`: 8 bytes, used once; `head`: the associated data."""
        return self._suite.kept_aead(self._key_out).encrypt(self._iv_out + counter, message, head)

    def open(self, counter: bytes, sealed: bytes, head: bytes) -> bytes:
        """Raises AeadFailure."""
        return self._suite.kept_aead(self._key_in).decrypt(self._iv_in + counter, sealed, head)

    def is_new(self, counter: int) -> bool:
        """False for a counter that was seen, or is too old to tell."""
        behind = self._highest - counter
        return behind < 0 or (behind < WINDOW and not self._window >> behind & 1)

    def note(self, counter: int) -> None:
        ahead = counter - self._highest
        if ahead > 0:
            self._window = 1 if ahead >= WINDOW else (self._window << ahead | 1) & (1 << WINDOW) - 1
            self._highest = counter
        else:
            self._window |= 1 << -ahead


def derive_keys(secret: bytes, cookie: bytes, nonce: bytes, id_a: bytes, id_b: bytes) -> tuple[Direction, Direction]:
    """HKDF-SHA256 (RFC 5869); key, iv and session id from A to B, then from B to A."""
    pseudo_random_key = hmac.digest(cookie + nonce, secret, "sha256")
    info = _CONTEXT + id_a + id_b
    block, okm = b"", b""
    for number in range(1, -(-_KEY_MATERIAL // 32) + 1):
        block = hmac.digest(pseudo_random_key, block + info + bytes((number,)), "sha256")
        okm += block
    return (okm[0:16], okm[32:36], okm[40:48]), (okm[16:32], okm[36:40], okm[48:56])
