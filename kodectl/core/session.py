"""One discovery session: the keys of both directions, and which packets were seen."""

from __future__ import annotations

import hmac

from kodectl.wire import packets
from kodectl.wire.suite import TAG_SIZE, Suite

Address = tuple[str, int]

WINDOW = 64
"""Counters below the highest that are still told apart: what a network reorders."""
_CONTEXT = b"kodechain discovery session v1"
_KEY_MATERIAL = 56
"""Of the 72 bytes that the protocol names: two keys, two ivs, two session ids; nothing is made of the rest."""

RECENT_TAGS = 4
"""Packets of a session that a RESET may still name."""
TAG_PREFIX = 8
"""Bytes kept of each: nobody guesses them who has not seen the packet."""
KEY, IV, SID = slice(0, 16), slice(16, 20), slice(20, 28)
"""Where they are among the secrets of a direction."""


class Session:
    """One proved peer at one address. `confirmed` once a packet of his has been opened.

    A node holds thousands: what belongs together is kept in one piece."""

    __slots__ = (
        "_highest",
        "_into",
        "_out",
        "_recent",
        "_suite",
        "_window",
        "address",
        "by_any_id",
        "confirmed",
        "counter",
        "flags",
        "last_used",
        "made",
        "node_id",
        "public_key",
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
        self.by_any_id = False
        """Whoever answers there was asked for."""
        self._recent = b""
        self._highest = -1
        self._window = 0

    @property
    def is_client(self) -> bool:
        return bool(self.flags & packets.FLAG_CLIENT)

    def set_keys(self, suite: Suite, out: bytes, into: bytes) -> None:
        """`out`, `into`: the secrets of a direction (28), from `derive_keys`."""
        self._suite = suite
        self._out, self._into = out, into

    @property
    def sid_in(self) -> bytes:
        """The session id (8) in the packets that arrive."""
        return self._into[SID]

    def seal(self, counter: bytes, message: bytes, head: bytes) -> bytes:
        """`counter`: 8 bytes, used once; `head`: the associated data."""
        out = self._out
        return self._suite.kept_aead(out[KEY]).encrypt(out[IV] + counter, message, head)

    def seal_next(self, message: bytes) -> bytes:
        """The whole packet of the next message."""
        counter = self.counter
        self.counter = counter + 1
        head = packets.pack_message_head(self._out[SID], counter)
        packet = head + self.seal(head[9:], message, head)
        self._recent = (packet[-TAG_SIZE : TAG_PREFIX - TAG_SIZE] + self._recent)[: RECENT_TAGS * TAG_PREFIX]
        return packet

    def open(self, counter: bytes, sealed: bytes, head: bytes) -> bytes:
        """Raises AeadFailure."""
        into = self._into
        return self._suite.kept_aead(into[KEY]).decrypt(into[IV] + counter, sealed, head)

    def is_named_by(self, tag: bytes) -> bool:
        """Whether a RESET with `tag` is about one of the last packets; true once."""
        recent = [self._recent[at : at + TAG_PREFIX] for at in range(0, len(self._recent), TAG_PREFIX)]
        if tag[:TAG_PREFIX] not in recent:
            return False
        self._recent = b""
        return True

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


def derive_keys(secret: bytes, cookie: bytes, nonce: bytes, id_a: bytes, id_b: bytes) -> tuple[bytes, bytes]:
    """HKDF-SHA256 (RFC 5869); the secrets (28) from A to B, then from B to A: key | iv | session id."""
    pseudo_random_key = hmac.digest(cookie + nonce, secret, "sha256")
    info = _CONTEXT + id_a + id_b
    block, okm = b"", b""
    for number in range(1, -(-_KEY_MATERIAL // 32) + 1):
        block = hmac.digest(pseudo_random_key, block + info + bytes((number,)), "sha256")
        okm += block
    return okm[0:16] + okm[32:36] + okm[40:48], okm[16:32] + okm[36:40] + okm[48:56]
