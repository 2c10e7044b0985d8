"""Questions asked once, without a running node.

Every errand minds its `Terms`: it ends by `deadline_s` with what it has, and leaves no task or socket behind.
`report` callbacks are called as things happen, from the task that called the errand; they may write to a slow terminal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NoReturn

import msgspec

from kodectl.errors import DeadlineReached, LocalMisuse, NegativeAnswer
from kodectl.node.errand import Errand, Stage, Terms, errand, milliseconds
from kodectl.node.handshake import LinkClosed
from kodectl.node.kademlia import Hop
from kodectl.node.lookups import hop_view, lookup_view, value_view
from kodectl.node.views import HopView, LookupView, PutView, ValueView
from kodectl.runtime.base import ConnectFailed, Runtime, Stopped, TimedOut
from kodectl.wire.addresses import address_text
from kodectl.wire.enode import Enode


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


def find_node(runtime: Runtime, terms: Terms, target: bytes, *, report: Callable[[HopView], None]) -> LookupView:
    """The iterative lookup, hop by hop. Raises NodeUnreachable (no_bootstrap_answered)."""
    with errand(runtime, terms) as this:
        this.join()
        hops = []

        def trace(hop: Hop) -> None:
            hops.append(hop)
            report(hop_view(hop, target))

        return lookup_view(this.kademlia.find(target, trace=trace), hops)


def put_value(runtime: Runtime, terms: Terms, seed: bytes, *, key: bytes, value: bytes, ttl_s: float) -> PutView:
    """Signs the record with the identity of `seed` and stores it with the closest nodes.

    `key` is what the user named (it is hashed). The sequence is above the one this publisher's record has there.
    Raises NodeUnreachable (no_bootstrap_answered), NegativeAnswer (not_stored), LocalMisuse (value_too_large)."""
    place = hashlib.sha256(key).digest()
    with errand(runtime, terms, seed) as this:
        this.join()
        mine = [r.sequence for r in this.values.get(place) if r.publisher == this.identity.public_key]
        sequence, stored, asked = this.values.put(place, value, ttl_s, above=max(mine, default=0))
        return PutView(place.hex(), sequence, stored, asked)


def get_value(runtime: Runtime, terms: Terms, *, key: bytes) -> ValueView:
    """All records found, highest sequence of each publisher.

    Raises NodeUnreachable, NegativeAnswer (value_not_found)."""
    place = hashlib.sha256(key).digest()
    with errand(runtime, terms) as this:
        this.join()
        found = this.values.get(place)
        if not found:
            _nothing_found(this)
        return value_view(place, found)


def _nothing_found(this: Errand) -> NoReturn:
    if this.late:
        raise DeadlineReached(f"no value was found within {this.terms.deadline_s:g} s", code="deadline")
    raise NegativeAnswer("no node has a value under this key", code="value_not_found")


def verify_enode(runtime: Runtime, terms: Terms, enode: Enode) -> VerifyView:
    """Dials the enode's TCP port and has it prove its identity.

    Raises NegativeAnswer (unreachable; the message names stage and reason) and PeerFault (identity_mismatch, ...)."""
    if not enode.tcp:
        raise LocalMisuse("the enode has no TCP port to dial", code="bad_target")
    if not enode.id_known:
        raise LocalMisuse("the enode has no id (all zeros): there is nothing to verify", code="bad_target")
    with errand(runtime, terms) as this:
        try:
            address = (this.resolve(enode.host), enode.tcp)
            hello, reason, took_s = this.handshake(enode, address)
        except (ConnectFailed, TimedOut, LinkClosed) as error:
            if this.is_over:
                raise Stopped from error
            raise _unreachable(enode, error) from error
        except NegativeAnswer as error:
            raise unreachable(enode, "resolve", "not_resolved") from error
    client, network = (hello.client, hello.network) if hello is not None else (None, None)
    return VerifyView(
        str(enode), enode.node_id.hex(), address_text(*address), True, client, network, milliseconds(took_s), reason
    )


def _unreachable(enode: Enode, error: ConnectFailed | TimedOut | LinkClosed) -> NegativeAnswer:
    match error:
        case ConnectFailed():
            return unreachable(enode, "tcp", error.reason)
        case LinkClosed():
            return unreachable(enode, "handshake", error.code)
        case _:
            return unreachable(enode, "handshake", "timeout")


def unreachable(enode: Enode, stage: Stage, reason: str) -> NegativeAnswer:
    return NegativeAnswer(
        f"{enode.host}:{enode.tcp} cannot be reached: {reason} at stage {stage}",
        code="unreachable",
        hint=f"kodectl peer ping '{enode}'",
    )
