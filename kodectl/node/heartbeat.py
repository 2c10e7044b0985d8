"""Heartbeats of all links, from one task."""

from __future__ import annotations

from kodectl.core.histogram import Histogram
from kodectl.core.peerbook import PeerBook
from kodectl.core.pulse import Beat
from kodectl.node.peer import Peer
from kodectl.node.roster import Roster
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.messages import DisconnectReason, Heartbeat, MessageKind, pack_heartbeat, unpack_heartbeat

SWEEP_S = 5.0
"""Half of the time an answer has: a silent peer is found within 75 s, and fifty links cost next to nothing."""
CONFIRM_LIMIT_S = 5.0
"""For the other side to give a dialled link its place; it needs one round trip."""

ROUND_TRIP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From one room to the other side of the world by a bad line."""


class Heartbeats:
    """Asks, answers and measures; a link whose other side is gone ends with `timeout`."""

    def __init__(self, runtime: Runtime, roster: Roster, book: PeerBook, scope: Scope) -> None:
        self._runtime = runtime
        self._roster = roster
        self._book = book
        self._scope = scope
        self._asked = 0
        self.round_trips_s = Histogram(ROUND_TRIP_BOUNDS_S)
        """Of all peers since the start."""

    def ask(self, peer: Peer) -> None:
        """At once when a link is new: it confirms the link to the side that dialled, and measures the round trip."""
        self._asked += 1
        peer.pulse.asked(self._asked, self._runtime.now(), peer.link.bytes_received)
        peer.send(MessageKind.HEARTBEAT, pack_heartbeat(Heartbeat(0, self._asked)))

    def handle(self, peer: Peer, body: bytes) -> None:
        heartbeat = unpack_heartbeat(body)
        if not heartbeat.is_answer:
            peer.send(MessageKind.HEARTBEAT, pack_heartbeat(Heartbeat(1, heartbeat.id)))
            return
        now = self._runtime.now()
        round_trip_s = peer.pulse.answered(heartbeat.id, now)
        if round_trip_s is not None:
            self.round_trips_s.observe(round_trip_s)
            self._book.answered(peer.node_id, now, round_trip_s)

    def sweep(self) -> None:
        """Until the scope closes."""
        # Nodes that were started together do not sweep together.
        self._scope.sleep(self._runtime.rng.uniform(0, SWEEP_S))
        while True:
            for peer in self._roster:
                self._look_at(peer)
            self._roster.sample_traffic()
            self._scope.sleep(SWEEP_S)

    def _look_at(self, peer: Peer) -> None:
        now = self._runtime.now()
        if not peer.confirmed and now - peer.link.opened_at > CONFIRM_LIMIT_S:
            self._roster.end(peer, DisconnectReason.TIMEOUT, "no sign of life after the handshake")
            return
        beat = peer.pulse.check(now, peer.link.bytes_received)
        if beat in (Beat.ASK_AGAIN, Beat.GONE):
            self._book.missed(peer.node_id, now)
        if beat is Beat.GONE:
            self._roster.end(peer, DisconnectReason.TIMEOUT, f"{peer.pulse.missed} heartbeats without an answer")
        elif beat is not Beat.QUIET:
            self.ask(peer)
