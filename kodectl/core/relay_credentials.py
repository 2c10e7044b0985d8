"""Credentials of a node's relay: who they were given to and until when stands in the name, and the password follows from it.

So nothing is kept of anybody, and what was given is good on this node alone, until it has expired or the node restarts.
What was allocated in time may be kept for longer: who talks through a relay must not fall silent because the peer that
would give him a new name is not linked any more.

name        expiry in seconds of the relay's clock, ":", the first half of the node id, in hex
password    HMAC-SHA256 of the name, by a secret of the relay, in base64
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import NamedTuple

from kodectl.wire.stun_credentials import long_term_key

SLOT_S = 1800
"""What is given to one node within a slot is the same name, so that asking again does not double a quota by name."""
HELD_S = 12 * 3600
"""After the expiry. Then the relay is somebody else's turn: nobody keeps a port for good."""
ID_SIZE = 16
"""Bytes of the node id: quotas are by it, and 2^128 of them are enough."""
_EXPIRY = re.compile(r"[0-9]{1,12}")
_NODE = re.compile(rf"[0-9a-f]{{{2 * ID_SIZE}}}")


class RelayCredential(NamedTuple):
    username: str
    password: str
    lifetime_s: int


class RelayCredentials:
    """`secret`: 32 random bytes that nobody else has."""

    def __init__(self, realm: str, secret: bytes) -> None:
        self._realm = realm
        self._secret = secret

    def issue(self, node_id: bytes, now: float) -> RelayCredential:
        """Good for one slot at least, and for less than two."""
        expiry = (int(now) // SLOT_S + 2) * SLOT_S
        username = f"{expiry}:{node_id[:ID_SIZE].hex()}"
        return RelayCredential(username, self._password(username), expiry - int(now))

    def key_of(self, username: str, algorithm: int, now: float) -> bytes | None:
        """The long-term key (RFC 8489, section 9.2.2); None for a name that is none of ours, or has expired."""
        expiry, separator, node = username.partition(":")
        # Whoever asks has written the name: one that `issue` never gives has no key, nor may it be one that STUN forbids.
        is_ours = separator and _EXPIRY.fullmatch(expiry) and _NODE.fullmatch(node)
        if not is_ours or int(expiry) <= now:
            return None
        return long_term_key(username, self._realm, self._password(username), algorithm)

    def held_key_of(self, username: str, algorithm: int, now: float) -> bytes | None:
        """As `key_of`, for what was allocated by that name."""
        return self.key_of(username, algorithm, now - HELD_S)

    @staticmethod
    def account_of(username: str) -> str:
        """The node, whatever the expiry."""
        return username.partition(":")[2]

    def _password(self, username: str) -> str:
        return base64.b64encode(hmac.digest(self._secret, username.encode(), "sha256")).decode()
