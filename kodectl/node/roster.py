"""Who has a place: links that stand, those about to, and what happens when one comes or goes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator

from kodectl.core.admission import Held, LinkOrigin, Newcomer, admit, newer_stays, slots_of, surplus
from kodectl.core.peerbook import PeerBook
from kodectl.node.events import Events
from kodectl.node.link import Handler
from kodectl.node.peer import Peer
from kodectl.node.traffic import Totals, Traffic
from kodectl.runtime.base import Runtime
from kodectl.wire.addresses import address_text
from kodectl.wire.messages import DisconnectReason

log = logging.getLogger(__name__)

PeerCallback = Callable[[Peer], None]

NO_SENSE_S = 3600.0
"""Another network or version: that does not change in minutes."""
ASKED_TO_GO_S = 600.0
"""An operator, here or there, ended the link: the keeper does not undo that at once."""
PAUSE_AFTER_S = {
    DisconnectReason.WRONG_NETWORK: NO_SENSE_S,
    DisconnectReason.INCOMPATIBLE_VERSION: NO_SENSE_S,
    DisconnectReason.SELF: NO_SENSE_S,
    DisconnectReason.BANNED: NO_SENSE_S,
    DisconnectReason.REQUESTED: ASKED_TO_GO_S,
    DisconnectReason.USELESS: ASKED_TO_GO_S,
}
_LOST_HERE = (DisconnectReason.TIMEOUT, DisconnectReason.SLOW, DisconnectReason.PROTOCOL_ERROR)
_LOST_THERE = (DisconnectReason.UNSPECIFIED, DisconnectReason.SHUTTING_DOWN)


class Roster:
    """At most one link a node. Nothing waits, except `serve`, which lives as long as its link.

    A link that this node dialled is `unconfirmed` until the other side has given it a place too: only then it is a peer
    for the rest of the node. It holds a slot, and takes part in the rule for crossed dials, from the start."""

    def __init__(self, runtime: Runtime, own_id: bytes, max_peers: int, book: PeerBook, events: Events) -> None:
        self.links: dict[bytes, Peer] = {}
        self.unconfirmed: dict[bytes, Peer] = {}
        self.slots = slots_of(max_peers)
        self.disconnects: Counter[str] = Counter()
        self.on_connected: list[PeerCallback] = []
        self.on_disconnected: list[PeerCallback] = []
        self._runtime = runtime
        self._own_id = own_id
        self._book = book
        self._events = events
        self._traffic = Traffic(runtime.now())
        self._closing = False

    def __iter__(self) -> Iterator[Peer]:
        """All that hold a place, as they are now."""
        return iter([*self.links.values(), *self.unconfirmed.values()])

    def __len__(self) -> int:
        return len(self.links) + len(self.unconfirmed)

    def get(self, node_id: bytes) -> Peer | None:
        return self.links.get(node_id) or self.unconfirmed.get(node_id)

    def outbound(self) -> int:
        """Confirmed ones."""
        return sum(peer.outbound for peer in self.links.values())

    def resize(self, max_peers: int) -> None:
        """Peers for whom there is no slot any more are told so, and go."""
        self.slots = slots_of(max_peers)
        held = self._held_beside(self._own_id, self._runtime.now())
        for node_id in surplus(held, self.slots):
            peer = self.get(node_id)
            if peer is not None:
                self.end(peer, DisconnectReason.TOO_MANY_PEERS, "there are fewer slots now")

    # -- coming ----------------------------------------------------------------------------------------------------

    def enter(self, peer: Peer, *, wanted: bool) -> DisconnectReason | None:
        """Gives the peer a place, or says why not. `wanted`: this node is dialling it at this moment.

        An older link to the same node, or a peer of lower rank, may have to go."""
        now = self._runtime.now()
        if self._closing:
            return DisconnectReason.SHUTTING_DOWN
        if self._book.bans.until(peer.node_id, now) is not None:
            return DisconnectReason.BANNED
        older = self.get(peer.node_id)
        if older is not None and not older.link.closed and not self._replaces(peer, older):
            return DisconnectReason.DUPLICATE_CONNECTION
        rank = self._book.rank(peer.node_id, now)
        newcomer = Newcomer(peer.node_id, peer.remote[0], peer.outbound or wanted, peer.static, rank)
        verdict = admit(newcomer, self._held_beside(peer.node_id, now), self.slots)
        if verdict.refused is not None:
            return verdict.refused
        if older is not None:
            self.end(older, DisconnectReason.DUPLICATE_CONNECTION, "a newer link took its place")
        victim = self.get(verdict.evicted) if verdict.evicted is not None else None
        if victim is not None:
            self.end(victim, DisconnectReason.TOO_MANY_PEERS, "a better peer took the slot")
        if peer.confirmed:
            self._add(peer)
        else:
            self.unconfirmed[peer.node_id] = peer
        return None

    def confirm(self, peer: Peer) -> None:
        """The other side has given its place to a link that this node dialled."""
        peer.confirmed = True
        if self.unconfirmed.get(peer.node_id) is peer:
            del self.unconfirmed[peer.node_id]
            self._add(peer)

    def _add(self, peer: Peer) -> None:
        self.links[peer.node_id] = peer
        self._book.link_up(peer.enode, self._runtime.now(), dialled=peer.outbound)
        self._events.emit("peer_connected", **_described(peer), enode=str(peer.enode), client=peer.hello.client)
        log.info("peer %s %s connected", peer.node_id.hex(), _described(peer)["addr"])
        self._tell(self.on_connected, peer)

    def _replaces(self, newer: Peer, older: Peer) -> bool:
        return newer_stays(
            self._own_id,
            newer.node_id,
            LinkOrigin(older.outbound, older.link.opened_at),
            LinkOrigin(newer.outbound, newer.link.opened_at),
        )

    def _held_beside(self, node_id: bytes, now: float) -> list[Held]:
        return [
            Held(
                peer.node_id,
                peer.remote[0],
                peer.outbound,
                peer.static,
                self._book.rank(peer.node_id, now),
                self._book.score(peer.node_id, now),
            )
            for peer in self
            if peer.node_id != node_id
        ]

    # -- being there -----------------------------------------------------------------------------------------------

    def serve(self, peer: Peer, handle: Handler) -> DisconnectReason:
        """Reads the link to its end and takes its place away."""
        try:
            return peer.link.run(handle)
        finally:
            self._leave(peer)

    # -- going -----------------------------------------------------------------------------------------------------

    def end(self, peer: Peer, reason: DisconnectReason, text: str = "") -> None:
        """Closes with this reason; the place is free at once, the stream a moment later."""
        peer.disconnect(reason, text)
        self._leave(peer)

    def close(self) -> None:
        """Ends all links; from now on nobody enters."""
        self._closing = True
        for peer in self:
            self.end(peer, DisconnectReason.SHUTTING_DOWN)

    def _leave(self, peer: Peer) -> None:
        """Once for each peer that entered, however often it is called."""
        if self.unconfirmed.get(peer.node_id) is peer:
            del self.unconfirmed[peer.node_id]
            self._traffic.add_ended(peer.link)
        if self.links.get(peer.node_id) is not peer:
            return
        del self.links[peer.node_id]
        self._traffic.add_ended(peer.link)
        reason = peer.link.close_reason or DisconnectReason.UNSPECIFIED
        lasted_s = self._runtime.now() - peer.link.opened_at
        self._note_end(peer, reason, lasted_s)
        name = reason.name.lower()
        self.disconnects[name] += 1
        by = "peer" if peer.link.closed_by_peer else "this_node"
        self._events.emit(
            "peer_disconnected",
            **_described(peer),
            reason=name,
            by=by,
            text=peer.link.close_text or None,
            lasted_s=round(lasted_s, 3),
        )
        text = f" ({peer.link.close_text})" if peer.link.close_text else ""
        log.info("peer %s disconnected by %s: %s%s", peer.node_id.hex(), by.replace("_", " "), name, text)
        self._tell(self.on_disconnected, peer)

    def _note_end(self, peer: Peer, reason: DisconnectReason, lasted_s: float) -> None:
        """What the end of a link means for trust and for the next dial."""
        now = self._runtime.now()
        lost = reason in (_LOST_THERE if peer.link.closed_by_peer else _LOST_HERE)
        self._book.link_down(peer.node_id, lasted_s, now, lost=lost)
        if reason is DisconnectReason.PROTOCOL_ERROR and not peer.link.closed_by_peer:
            self._book.broke_protocol(peer.node_id, now)
        if reason in PAUSE_AFTER_S:
            self._book.pause(peer.node_id, now, PAUSE_AFTER_S[reason])

    def _tell(self, callbacks: list[PeerCallback], peer: Peer) -> None:
        for callback in callbacks:
            try:
                callback(peer)
            except Exception:
                # A fault of another part of the node must not leave this one half done.
                log.exception("telling of %r failed", peer)

    # -- figures ---------------------------------------------------------------------------------------------------

    def totals(self) -> Totals:
        return self._traffic.totals(peer.link for peer in self)

    def sample_traffic(self) -> None:
        self._traffic.sample(self.totals(), self._runtime.now())

    def messages_per_second(self) -> float:
        return self._traffic.messages_per_second(self.totals(), self._runtime.now())


def _described(peer: Peer) -> dict[str, str]:
    addr = address_text(*peer.remote)
    return {"id": peer.node_id.hex(), "addr": addr, "direction": "outbound" if peer.outbound else "inbound"}
