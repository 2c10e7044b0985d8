"""Questions asked once, without a running node: a short-lived discovery socket with an identity of its own.

Every errand minds its `Terms`: it ends by `deadline_s` with what it has, and leaves no task or socket behind.
`report` callbacks are called as things happen, from the task that called the errand; they may write to a slow terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from kodectl.node.views import HopView, LookupView, PutView, ValueView
from kodectl.runtime.base import Runtime
from kodectl.wire.enode import Enode

PingMode = Literal["auto", "udp", "tcp", "handshake"]
Stage = Literal["resolve", "udp", "tcp", "handshake", "identity"]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What all errands are told."""

    bootstrap: tuple[Enode, ...]
    network: str
    timeout_s: float
    """One question, one dial."""
    deadline_s: float
    """The whole errand."""


class PongView(msgspec.Struct, frozen=True):
    """One ping. `rtt_ms` null: no answer, and then `stage` and `reason` say how far it came."""

    seq: int
    id: str | None
    addr: str | None
    mode: Literal["udp", "tcp", "handshake"]
    path: Literal["direct", "relay"] | None
    rtt_ms: float | None
    stage: Stage | None
    reason: str | None
    """not_resolved | refused | timeout | unreachable | wrong_network | ... ; lower_snake"""


class PingView(msgspec.Struct, frozen=True):
    """The summary. `stage` and `reason` are those of the last ping that failed, null when none did."""

    target: str
    id: str | None
    addr: str | None
    sent: int
    received: int
    relayed: int
    loss: float | None
    """0 to 1; null when nothing was sent."""
    min_ms: float | None
    average_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    stage: Stage | None
    reason: str | None


class VerifyView(msgspec.Struct, frozen=True):
    """`verified`: the node at `addr` holds the key whose hash is `id`. `client` null: it proved that, but did not want
    the connection for `reason` (a disconnect reason, as too_many_peers)."""

    enode: str
    id: str
    addr: str
    verified: bool
    client: str | None
    network: str | None
    rtt_ms: float
    reason: str | None


def ping_target(
    runtime: Runtime,
    terms: Terms,
    target: Enode,
    *,
    mode: PingMode,
    count: int,
    interval_s: float,
    report: Callable[[PongView], None],
) -> PingView:
    """Pings `count` times; a target of `node.targets.parse_target` that is only an id (host empty) is looked up first.

    auto: udp, and where that does not answer, handshake. tcp: connects and closes. handshake: Noise and the proof of
    the identity. Without any answer the view says so (received 0, stage, reason). Raises PeerFault (identity_mismatch),
    NodeUnreachable (no_bootstrap_answered) and NegativeAnswer (not_found) for an id that must be looked up."""
    raise NotImplementedError


def find_node(
    runtime: Runtime,
    terms: Terms,
    target: bytes,
    *,
    report: Callable[[HopView], None],
) -> LookupView:
    """The iterative lookup, hop by hop. Raises NodeUnreachable (no_bootstrap_answered)."""
    raise NotImplementedError


def put_value(runtime: Runtime, terms: Terms, seed: bytes, *, key: bytes, value: bytes, ttl_s: float) -> PutView:
    """Signs the record with the identity of `seed` and stores it with the closest nodes.

    `key` is what the user named (it is hashed). The sequence is above the one this publisher's record has there.
    Raises NodeUnreachable (no_bootstrap_answered), NegativeAnswer (not_stored), LocalMisuse (value_too_large)."""
    raise NotImplementedError


def get_value(runtime: Runtime, terms: Terms, *, key: bytes) -> ValueView:
    """All records found, highest sequence of each publisher. Raises NodeUnreachable, NegativeAnswer (not_found)."""
    raise NotImplementedError


def verify_enode(runtime: Runtime, terms: Terms, enode: Enode) -> VerifyView:
    """Dials the enode's TCP port and has it prove its identity.

    Raises NegativeAnswer (unreachable; the message names stage and reason) and PeerFault (identity_mismatch, ...)."""
    raise NotImplementedError
