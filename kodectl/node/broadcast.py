"""Blocks and transactions to and from everybody: the gossip core on real links.

What arrives is judged, delivered to whoever subscribed, and passed on as the bytes that came. One task does what is
due by time; everything else happens in the tasks that read the links.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from kodectl.core.gossip import Gossip
from kodectl.core.gossip_effects import Distrust, Effect, Relay, SendDigest, SendHave, SendWant, Verdict
from kodectl.core.identity import Identity
from kodectl.errors import DeadlineReached, PeerFault
from kodectl.node.events import Events
from kodectl.node.handshake import LinkClosed
from kodectl.node.link import Link
from kodectl.node.outbox import ROOM_BYTES
from kodectl.node.peering import Peer, Peering
from kodectl.runtime.base import Runtime, Scope, TimedOut
from kodectl.wire.frames import encode_message
from kodectl.wire.messages import (
    ENVELOPE_SIZE,
    BroadcastMode,
    Envelope,
    MessageKind,
    Sync,
    SyncDigest,
    SyncHave,
    SyncWant,
    envelope_is_signed,
    new_envelope,
    pack_envelope,
    pack_sync,
    unpack_envelope,
    unpack_sync,
)
from kodectl.wire.suite import node_id_of

log = logging.getLogger(__name__)

CROWDED_BYTES = 8 << 20
"""A link with more waiting is not handed messages, only ids, and its peer pulls when it can. Two blocks; the link itself
closes at three, so that it is never the broadcast of others that closes it, and a peer that takes nothing is found by the
link's own clock."""
TICK_REST_S = 0.02
"""Between two rounds of what is due by time: so much more gathers in one message."""
IDLE_TICK_S = 2.0
"""The longest sleep, so that the end of the scope is noticed."""
PUBLISH_LIMIT_S = 10.0
"""A publisher waits no longer for its turn; the rate of one origin alone asks for half a second a block."""
LEAST_WAIT_S = 0.001
"""Shorter waits may round to none, and then come round for ever."""
LARGE_BYTES = 256 << 10
"""From here on a copy is recognised by its head, before its payload is hashed. So a block of 4 MiB takes 3 ms of the hub
once and 16 us for each further copy; in a thread it would take longer, and its link's messages would wait for it."""
MAX_LARGE = 256
"""Large messages recognised so: as many as the cache can hold."""


class Broadcast:
    """Registers itself with `peering`, and from `start` on keeps the node's broadcasts going.

    A message that is malformed or whose origin's signature does not hold is its sender's PeerFault, and ends that link
    only. `verify_origin` may be off where all nodes are trusted (simulations, measurements)."""

    def __init__(
        self,
        runtime: Runtime,
        identity: Identity,
        events: Events,
        scope: Scope,
        peering: Peering,
        *,
        verify_origin: bool = True,
    ) -> None:
        self._runtime = runtime
        self._identity = identity
        self._events = events
        self._scope = scope
        self._verify_origin = verify_origin
        self._gossip = Gossip(runtime.rng)
        self._peers: dict[bytes, Peer] = {}
        self._subscribers: list[Callable[[Envelope], None]] = []
        self._large: OrderedDict[bytes, bytes] = OrderedDict()
        self._wake = runtime.event()
        self._asleep_until = float("-inf")
        self._counts = dict.fromkeys(("delivered", "bad_signatures", "crowded", "subscriber_failures"), 0)
        self._peering = peering
        peering.handlers[MessageKind.BLOCK] = partial(self.handle_message, MessageKind.BLOCK)
        peering.handlers[MessageKind.TRANSACTION] = partial(self.handle_message, MessageKind.TRANSACTION)
        peering.handlers[MessageKind.SYNC] = self.handle_sync
        peering.on_connected.append(self.peer_connected)
        peering.on_disconnected.append(self.peer_disconnected)

    def start(self) -> None:
        self._scope.spawn("broadcast", self._tick_for_ever)

    def stop(self) -> None:
        """Lets the task notice that the scope is closed. Does not wait."""
        self._wake.set()

    def subscribe(self, receive: Callable[[Envelope], None]) -> None:
        """`receive` gets every message once, those published here included. It must not wait."""
        self._subscribers.append(receive)

    def counters(self) -> dict[str, int]:
        return {**self._counts, **self._gossip.counters()}

    def publish(self, kind: MessageKind, payload: bytes, mode: BroadcastMode) -> Envelope:
        """Signs a message and sends it out. Waits while most links are congested, or while peers would take no more of
        this origin. Raises LocalMisuse (payload_too_large), DeadlineReached (nothing was published), Stopped."""
        self._wait_turn(len(payload) + ENVELOPE_SIZE)
        envelope = new_envelope(
            kind,
            payload,
            mode,
            origin=self._identity.public_key,
            time_ms=int(self._runtime.unix_time() * 1000),
            nonce=self._runtime.random_bytes(8),
            sign=self._identity.sign,
        )
        message = encode_message(kind, pack_envelope(envelope))
        flood = mode is BroadcastMode.FLOOD
        now = self._runtime.now()
        relay = self._gossip.publish(envelope.id, envelope.time_ms, message, now, flood=flood)
        self._relay(relay)
        self._deliver(envelope, None)
        self._rouse()
        return envelope

    # What links bring

    def peer_connected(self, peer: Peer) -> None:
        self._peers[peer.node_id] = peer
        self._perform(self._gossip.connected(peer.node_id, self._runtime.now()))
        self._rouse()

    def peer_disconnected(self, peer: Peer) -> None:
        if self._peers.get(peer.node_id) is not peer:
            return
        del self._peers[peer.node_id]
        self._gossip.disconnected(peer.node_id, self._runtime.now())
        self._rouse()

    def handle_message(self, kind: MessageKind, peer: Peer, body: bytes) -> None:
        """A block or transaction. Never waits. Raises PeerFault."""
        gossip, now = self._gossip, self._runtime.now()
        if not gossip.allow(peer.node_id, len(body), now):
            return
        if len(body) >= LARGE_BYTES and self._is_large_duplicate(peer, body):
            return
        envelope = unpack_envelope(kind, body)
        message_id, origin, time_ms = envelope.id, envelope.origin, envelope.time_ms
        unix_time = self._runtime.unix_time()
        verdict = gossip.judge(peer.node_id, message_id, origin, time_ms, len(body), now, unix_time)
        if verdict is not Verdict.NEW:
            return
        self._check_signature(envelope)
        message = encode_message(kind, body)
        flood = envelope.mode is BroadcastMode.FLOOD
        self._relay(gossip.accept(peer.node_id, message_id, origin, time_ms, message, now, flood=flood))
        if len(body) >= LARGE_BYTES:
            self._remember_large(body, message_id)
        self._deliver(envelope, peer)
        self._rouse()

    def handle_sync(self, peer: Peer, body: bytes) -> None:
        """Announcements, questions and digests of a peer. Never waits. Raises PeerFault."""
        now = self._runtime.now()
        if not self._gossip.allow(peer.node_id, len(body), now):
            return
        match unpack_sync(body):
            case SyncHave(ids):
                self._gossip.on_have(peer.node_id, ids, now)
            case SyncWant(ids):
                self._perform(self._gossip.on_want(peer.node_id, ids, _room(peer), now))
            case SyncDigest(slots):
                self._perform(self._gossip.on_digest(peer.node_id, slots, now, self._runtime.unix_time()))
        self._rouse()

    def _check_signature(self, envelope: Envelope) -> None:
        if self._verify_origin and not envelope_is_signed(self._identity.suite, envelope):
            self._counts["bad_signatures"] += 1
            raise PeerFault("a message whose origin did not sign it", code="bad_signature")

    def _is_large_duplicate(self, peer: Peer, body: bytes) -> bool:
        """By the head alone: the signature in it covers the payload, so another payload under it could not be valid."""
        message_id = self._large.get(body[:ENVELOPE_SIZE])
        return message_id is not None and self._gossip.is_duplicate(peer.node_id, message_id)

    def _remember_large(self, body: bytes, message_id: bytes) -> None:
        self._large[body[:ENVELOPE_SIZE]] = message_id
        if len(self._large) > MAX_LARGE:
            self._large.popitem(last=False)

    # What goes out

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Relay():
                    self._relay(effect)
                case SendHave(peer_id, ids):
                    self._send_sync(peer_id, SyncHave(ids))
                case SendWant(peer_id, ids):
                    self._send_sync(peer_id, SyncWant(ids))
                case SendDigest(peer_id, slots):
                    self._send_sync(peer_id, SyncDigest(slots))
                case Distrust(peer_id, offence):
                    log.warning("peer %s: %s", peer_id.hex(), offence.value)
                    self._peering.distrust(peer_id)

    def _relay(self, relay: Relay | None) -> None:
        if relay is None:
            return
        for peer_id in relay.peers:
            peer = self._peers.get(peer_id)
            if peer is None:
                continue
            link = peer.link
            if link.queued_bytes > CROWDED_BYTES:
                self._counts["crowded"] += 1
                self._gossip.postpone(peer_id, relay.message_id, self._runtime.now())
            else:
                link.send_encoded(relay.message)

    def _send_sync(self, peer_id: bytes, sync: Sync) -> None:
        peer = self._peers.get(peer_id)
        if peer is not None:
            peer.link.send(MessageKind.SYNC, pack_sync(sync))

    def _deliver(self, envelope: Envelope, received_from: Peer | None) -> None:
        self._counts["delivered"] += 1
        for receive in self._subscribers:
            try:
                receive(envelope)
            except Exception:
                # The boundary of faults: a subscriber's bug is neither the peer's fault nor the others' loss.
                self._counts["subscriber_failures"] += 1
                log.exception("a subscriber failed on %s", envelope.id.hex())
        kind = "block" if envelope.kind is MessageKind.BLOCK else "transaction"
        self._events.emit(
            kind,
            id=envelope.id.hex(),
            type=kind,
            origin=node_id_of(envelope.origin).hex(),
            received_from=received_from.node_id.hex() if received_from is not None else None,
            mode=envelope.mode.name.lower(),
            size=len(envelope.payload),
            payload=envelope.payload,
        )

    # Time

    def _tick_for_ever(self) -> None:
        while True:
            self._sleep_until_due()
            indebted = (self._peers.get(peer_id) for peer_id in self._gossip.indebted())
            rooms = {peer.node_id: _room(peer) for peer in indebted if peer is not None}
            self._perform(self._gossip.tick(self._runtime.now(), self._runtime.unix_time(), rooms))
            self._scope.sleep(TICK_REST_S)

    def _sleep_until_due(self) -> None:
        self._wake.clear()
        self._asleep_until = self._gossip.next_deadline()
        wait_s = self._asleep_until - self._runtime.now()
        if wait_s > 0 and not self._scope.closed:
            self._wake.wait(min(wait_s, IDLE_TICK_S))
        self._asleep_until = float("-inf")

    def _rouse(self) -> None:
        """Something happened: the tick task may be needed earlier than it thought."""
        if self._gossip.next_deadline() < self._asleep_until:
            self._wake.set()

    def _wait_turn(self, size: int) -> None:
        """Until the network takes one more message of this node."""
        deadline = self._runtime.now() + PUBLISH_LIMIT_S
        while True:
            now = self._runtime.now()
            wait_s = self._gossip.publish_wait_s(size, now, self._runtime.unix_time())
            link = self._middle_link()
            if wait_s <= 0 and (link is None or link.queued_bytes <= ROOM_BYTES):
                return
            if now + wait_s >= deadline:
                raise DeadlineReached("peers take no more messages of this node now", hint="publish more slowly")
            if wait_s > 0:
                self._scope.sleep(max(wait_s, LEAST_WAIT_S))
            elif link is not None:
                _wait_room(link, deadline - now)

    def _middle_link(self) -> Link | None:
        """Half of the links have less to send. A publisher goes at their pace; the others get ids, and pull."""
        links = sorted((peer.link for peer in self._peers.values()), key=lambda link: link.queued_bytes)
        return links[(len(links) - 1) // 2] if links else None


def _wait_room(link: Link, timeout_s: float) -> None:
    try:
        link.wait_room(timeout_s)
    except (TimedOut, LinkClosed):
        # Whoever waits looks at links and time again.
        return


def _room(peer: Peer) -> int:
    return max(0, CROWDED_BYTES - peer.link.queued_bytes)
