"""Connecting because an operator says so: whatever the back-off thinks, with an answer that says what came of it."""

from __future__ import annotations

from kodectl.core.peerbook import PeerBook
from kodectl.node.dialling import CONNECTED, Dial, Dialler, place_of
from kodectl.node.peer import Peer
from kodectl.node.peer_views import connect_outcome, peer_view
from kodectl.node.roster import Roster
from kodectl.node.views import ConnectView
from kodectl.runtime.base import Runtime, Stopped
from kodectl.wire.enode import Enode

MAX_ASKED_DIALS = 16
"""Under way for operators, beside the keeper's."""
REDIAL_SPACING_S = 1.0
"""Between two dials of an operator to the same place, so that a loop in a script does not hammer it."""


class Connector:
    """A peer that was connected this way is static: exempt from limits and redialled."""

    def __init__(self, runtime: Runtime, own_id: bytes, roster: Roster, book: PeerBook, dialler: Dialler) -> None:
        self._runtime = runtime
        self._own_id = own_id
        self._roster = roster
        self._book = book
        self._dialler = dialler

    def connect(self, target: Enode, timeout_s: float) -> ConnectView:
        """Waits for the outcome, for `timeout_s` at most; the dial then goes on in the background."""
        answer = self._answer_at_once(target)
        if answer is not None:
            return answer
        try:
            dial = self._dialler.dial(target, static=True)
        except Stopped:
            return self._connect_view("no_route", target.node_id, "this node is stopping")
        if not dial.done.wait(timeout_s):
            return self._connect_view("timeout", target.node_id, f"no answer within {timeout_s:g} s", dial.stage)
        return self._outcome_view(dial, target)

    def _answer_at_once(self, target: Enode) -> ConnectView | None:
        """The outcome where there is nothing to dial."""
        now = self._runtime.now()
        node_id = target.node_id
        peer = self._roster.links.get(node_id) if target.id_known else self._linked_at(target)
        if node_id == self._own_id:
            return self._connect_view("self", node_id, "that is this node itself")
        if target.id_known and self._book.bans.until(node_id, now) is not None:
            return self._connect_view("banned", node_id, "by this node")
        if peer is not None and not peer.link.closed:
            self._make_static(peer)
            return self._connect_view("already_connected", peer.node_id)
        if not target.tcp and not target.id_known:
            return self._connect_view("no_route", node_id, "neither its id nor its TCP port is known")
        return self._too_soon(target, now)

    def _too_soon(self, target: Enode, now: float) -> ConnectView | None:
        last = self._dialler.recent.get(place_of(target))
        if last is not None and last.static and last.outcome != CONNECTED and now - last.settled_at < REDIAL_SPACING_S:
            detail = f"dialled {now - last.settled_at:.1f} s ago: {last.outcome}; wait {REDIAL_SPACING_S:g} s"
            return self._connect_view("recently_dialed", target.node_id, detail)
        under_way = self._dialler.pending.get(place_of(target))
        if under_way is not None and target.id_known and under_way.node_id not in (None, target.node_id):
            return self._connect_view(
                "recently_dialed", target.node_id, "another node is being dialled at this address"
            )
        if under_way is None and sum(dial.static for dial in self._dialler.pending.values()) >= MAX_ASKED_DIALS:
            return self._connect_view("too_many_peers", target.node_id, f"{MAX_ASKED_DIALS} such dials are under way")
        return None

    def _linked_at(self, target: Enode) -> Peer | None:
        place = place_of(target)
        return next((peer for peer in self._roster.links.values() if place_of(peer.enode) == place), None)

    def _outcome_view(self, dial: Dial, target: Enode) -> ConnectView:
        node_id = dial.node_id or target.node_id
        peer = self._roster.links.get(node_id)
        if peer is not None and not peer.link.closed:
            # Whatever came of the dial: the other side may have been quicker, and the link stands.
            self._make_static(peer)
            return self._connect_view("connected", node_id)
        outcome = dial.outcome or "timeout"
        shown = connect_outcome(outcome)
        detail = dial.detail if shown == outcome else f"{outcome}: {dial.detail}"
        return self._connect_view(shown, node_id, detail, dial.stage)

    def _connect_view(
        self, outcome: str, node_id: bytes, detail: str | None = None, stage: str | None = None
    ) -> ConnectView:
        peer = self._roster.links.get(node_id)
        view = peer_view(peer, self._book, self._runtime) if peer is not None else None
        return ConnectView(outcome, node_id.hex() if any(node_id) else None, view, detail or None, stage)

    def _make_static(self, peer: Peer) -> None:
        peer.static = True
        self._book.set_static(peer.node_id, True)
