"""What a peer can flood a node with over its link: the part of bench/flood.py that has proved who it is."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any, NamedTuple

from kodectl.core.identity import Identity
from kodectl.node.handshake import LocalEnd
from kodectl.node.link import Link, dial
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import parse_enode
from kodectl.wire.frames import encode_message
from kodectl.wire.messages import (
    BroadcastMode,
    DigestSlot,
    DisconnectReason,
    Heartbeat,
    Hello,
    MessageKind,
    SyncDigest,
    SyncHave,
    SyncWant,
    new_envelope,
    pack_envelope,
    pack_heartbeat,
    pack_sync,
    unpack_heartbeat,
)
from kodectl.wire.suite import RealSuite

SIZE = 200
ORIGINS = 64
"""Keys that the spam is signed with; more cost nobody anything else."""
PACING_S = 0.002
AT_ONCE = 64
QUEUED_BYTES = 4 << 20
"""In the spammer's own link; more would end it there."""
MOST_IDS = 4096
SLOTS = 256
SLOT_MS = 10_000


class Spam:
    """Makes messages; `now_ms` is read when a slice is prepared."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._origins = [Identity(RealSuite(), os.urandom(32)) for _ in range(ORIGINS)]

    def fresh(self) -> Iterator[bytes]:
        """New ones, each with a signature that holds."""
        for origin in cycle(self._origins):
            yield self._transaction(origin, self._now_ms)

    def repeated(self) -> Iterator[bytes]:
        return cycle(list(islice(self.fresh(), ORIGINS)))

    def old(self) -> Iterator[bytes]:
        return cycle([self._transaction(origin, self._now_ms - 3_600_000) for origin in self._origins])

    def haves(self) -> Iterator[bytes]:
        while True:
            yield encode_message(MessageKind.SYNC, pack_sync(SyncHave(_made_up(MOST_IDS))))

    def wants(self) -> Iterator[bytes]:
        while True:
            yield encode_message(MessageKind.SYNC, pack_sync(SyncWant(_made_up(MOST_IDS))))

    def digests(self) -> Iterator[bytes]:
        newest = self._now_ms // SLOT_MS
        while True:
            slots = tuple(DigestSlot(newest - age, 7, os.urandom(32)) for age in range(SLOTS))
            yield encode_message(MessageKind.SYNC, pack_sync(SyncDigest(slots)))

    def _transaction(self, origin: Identity, time_ms: int) -> bytes:
        envelope = new_envelope(
            MessageKind.TRANSACTION,
            os.urandom(SIZE),
            BroadcastMode.GOSSIP,
            origin=origin.public_key,
            time_ms=time_ms,
            nonce=os.urandom(8),
            sign=origin.sign,
        )
        return encode_message(MessageKind.TRANSACTION, pack_envelope(envelope))


def _made_up(count: int) -> tuple[bytes, ...]:
    start = os.urandom(16)
    return tuple(hashlib.sha256(start + number.to_bytes(4)).digest() for number in range(count))


class Flood(NamedTuple):
    make: Callable[[Spam], Iterator[bytes]]
    share: int
    """One where --rate says so many: what a message costs the allowance of a peer differs that much."""


PEER_FLOODS = {
    "spam": Flood(Spam.fresh, 1),
    "repeats": Flood(Spam.repeated, 1),
    "old": Flood(Spam.old, 1),
    "haves": Flood(Spam.haves, 40),
    "wants": Flood(Spam.wants, 40),
    "digests": Flood(Spam.digests, 10),
}


class Spammer:
    """Takes orders from stdin, one a line, as the flooder does. Each flood has a link of its own."""

    def __init__(self, enode_text: str, network: str) -> None:
        self._runtime = GreenRuntime()
        self._scope = self._runtime.scope("spammer")
        self._enode = parse_enode(enode_text)
        self._hello = Hello((1,), "kodectl/bench", network, ("gossip", "sync"), Ports(0, 0))

    def answer(self) -> None:
        made: list[bytes] = []
        while True:
            order = json.loads(self._runtime.in_thread(sys.stdin.readline))
            rate = (order["rate"] or 10_000) // PEER_FLOODS[order["kind"]].share
            if "prepare" in order:
                spam = Spam(int(self._runtime.unix_time() * 1000))
                made = list(islice(PEER_FLOODS[order["kind"]].make(spam), int(rate * order["seconds"])))
                print("{}", flush=True)
            else:
                print(json.dumps(self._flood(order, rate, made)), flush=True)

    def _flood(self, order: dict[str, Any], rate: int, made: list[bytes]) -> dict[str, float]:
        """Where the node is not hit, nothing is sent."""
        links = [self._dialled() for _ in range(order["links"])] if order["hits"] else []
        began, sent = self._runtime.now(), 0
        while (elapsed_s := self._runtime.now() - began) < order["seconds"]:
            for message in made[sent : min(int(elapsed_s * rate), sent + AT_ONCE)]:
                link = links[sent % len(links)] if links else None
                if link is not None and link.queued_bytes > QUEUED_BYTES:
                    break
                sent += 1
                if link is not None and not link.closed:
                    link.send_encoded(message)
            self._scope.sleep(PACING_S)
        ended = [link for link in links if link.closed]
        for link in links:
            link.disconnect(DisconnectReason.REQUESTED)
        return {"sent": sent, "elapsed_s": elapsed_s, "links_ended": len(ended)}

    def _dialled(self) -> Link:
        stream = self._runtime.connect((str(self._enode.host), self._enode.tcp), 5.0)
        end = LocalEnd(Identity(RealSuite(), os.urandom(32)), os.urandom(32))
        link = dial(self._runtime, end, stream, self._enode.node_id, self._hello)
        self._scope.spawn("link", link.run, _ignored)
        return link


def _ignored(link: Link, kind: int, body: bytes) -> None:
    if kind == MessageKind.HEARTBEAT:
        heartbeat = unpack_heartbeat(body)
        if not heartbeat.is_answer:
            link.send(MessageKind.HEARTBEAT, pack_heartbeat(Heartbeat(1, heartbeat.id)))
