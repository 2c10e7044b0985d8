"""What a stranger's first packet gets: a connection, a Retry, or nothing.

A connection costs some milliseconds of public-key work and memory for the time of its handshake, and the sender of a
datagram may be forged. So while few handshakes are under way each gets one (QUIC then sends no more than three times
what came in); from RETRY_ABOVE on only who has shown that he receives at his address (RFC 9000, section 8.1.2), by a
token that leaves no state here; and never more than MAX_HALF_OPEN. Rates hold for each network and altogether.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from typing import NamedTuple

from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.quic_paths import Path
from kodectl.core.table import subnet_of
from kodectl.errors import WireError
from kodectl.wire.quic import CONNECTION_ID_SIZE, VERSION_1, Initial, pack_version_negotiation, unpack_initial

RETRY_ABOVE = 16
"""Handshakes under way: as many as a node's dialling peers have at a busy start."""
MAX_HALF_OPEN = 64
"""Handshakes under way that have all shown their address."""
MAX_CONNECTIONS = 1024
"""In all: many times a node's peers, and about 200 MB at worst if all of them stand still with full windows."""

CONNECTIONS_PER_S, CONNECTION_BURST = 50.0, 100.0
"""Of all strangers: 2 ms each, a tenth of a core."""
NETWORK_CONNECTIONS_PER_S, NETWORK_CONNECTION_BURST = 5.0, 20.0
"""Of one /24 or /64: who floods from a rented network leaves nine tenths to all others."""
ANSWERS_PER_S, ANSWER_BURST = 1_000.0, 1_000.0
"""Retry and version negotiation: 30 us each."""
NETWORK_ANSWERS_PER_S, NETWORK_ANSWER_BURST = 50.0, 100.0

TOKEN_LIFE_MS = 10_000
"""A client comes back within a round trip; its repetitions end with its own limit."""
_TIME_SIZE, _TAG_SIZE = 8, 16


class Admit(NamedTuple):
    """Begin a connection. `retried_as`: the id that the Retry gave, None where there was none; `original` is the one
    that the client chose first."""

    original: bytes
    retried_as: bytes | None


class Retry(NamedTuple):
    """Answer `question` with a Retry that has this token and names the server `new_id`."""

    question: Initial
    new_id: bytes
    token: bytes


class Refer(NamedTuple):
    """Answer with this packet: another version is spoken here."""

    data: bytes


Decision = Admit | Retry | Refer | None


class Admission:
    """`counters`: admitted, retried, referred, over_rate, full, malformed."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: 32 random bytes, of this endpoint alone."""
        self._secret = secret
        self._connections = SharedBudget(
            TokenBucket(CONNECTIONS_PER_S, CONNECTION_BURST), NETWORK_CONNECTIONS_PER_S, NETWORK_CONNECTION_BURST
        )
        self._answers = SharedBudget(
            TokenBucket(ANSWERS_PER_S, ANSWER_BURST), NETWORK_ANSWERS_PER_S, NETWORK_ANSWER_BURST
        )
        self.counters: Counter[str] = Counter()

    def decide(self, data: bytes, path: Path, now: float, *, half_open: int, connections: int) -> Decision:
        """`half_open`, `connections`: how many there are at the moment."""
        try:
            question = unpack_initial(data)
        except WireError:
            return self._count("malformed", None)
        network = subnet_of(path.remote[0])
        if question.version != VERSION_1:
            return self._answer(Refer(pack_version_negotiation(question)), "referred", network, now)
        if half_open >= MAX_HALF_OPEN or connections >= MAX_CONNECTIONS:
            return self._count("full", None)
        original = self._open_token(question, path, now)
        if original is None and half_open >= RETRY_ABOVE:
            return self._answer(self._retry(question, path, now), "retried", network, now)
        if not self._connections.take(network, now):
            return self._count("over_rate", None)
        if original is None:
            return self._count("admitted", Admit(question.destination, None))
        return self._count("admitted", Admit(original, question.destination))

    def _answer(self, answer: Retry | Refer, name: str, network: str | None, now: float) -> Decision:
        if self._answers.take(network, now):
            return self._count(name, answer)
        return self._count("over_rate", None)

    def _count(self, name: str, decision: Decision) -> Decision:
        self.counters[name] += 1
        return decision

    # The token is time || tag || the id that the client chose first. The tag binds all of that, the path, and the id
    # that the Retry gives, which is computed too: the same question has the same answer.

    def _retry(self, question: Initial, path: Path, now: float) -> Retry:
        time = int(now * 1000).to_bytes(_TIME_SIZE)
        new_id = self._digest(b"id", path, time, question.destination)[:CONNECTION_ID_SIZE]
        tag = self._digest(b"token", path, time, question.destination, new_id)[:_TAG_SIZE]
        return Retry(question, new_id, time + tag + question.destination)

    def _open_token(self, question: Initial, path: Path, now: float) -> bytes | None:
        """The id that the client chose first; None without a token that was given to this path just now."""
        token = question.token
        time, tag, original = token[:_TIME_SIZE], token[_TIME_SIZE:][:_TAG_SIZE], token[_TIME_SIZE + _TAG_SIZE :]
        wanted = self._digest(b"token", path, time, original, question.destination)[:_TAG_SIZE]
        if not hmac.compare_digest(tag, wanted) or int(now * 1000) - int.from_bytes(time) > TOKEN_LIFE_MS:
            return None
        return original

    def _digest(self, purpose: bytes, path: Path, time: bytes, *ids: bytes) -> bytes:
        ip, port = path.remote
        parts = (purpose, time, f"{ip} {port} {path.via}".encode(), *ids)
        text = b"".join(len(part).to_bytes(2) + part for part in parts)
        return hmac.digest(self._secret, text, hashlib.sha256)
