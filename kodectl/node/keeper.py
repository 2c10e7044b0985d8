"""The keeper: holds as many outbound peers as there are slots for."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.admission import MAX_PENDING_DIALS, has_subnet_room
from kodectl.core.peerbook import Known, PeerBook
from kodectl.node.dialling import Dialler, Place, place_of
from kodectl.node.roster import Roster
from kodectl.runtime.base import Runtime
from kodectl.wire.enode import Enode

MAX_UNNAMED = 16
"""Configured addresses without an id."""
LOOK_MIN_S = 1.0
LOOK_MAX_S = 15.0
"""Between two looks; it is woken too by news, and by the end of the next back-off."""
FEELER_S = 120.0
"""With all outbound slots taken, so often one stranger is dialled and let go, to know who is really there."""


class Keeper:
    """Dials out of the book, and out of what the rest of the node knows when the book has too few."""

    def __init__(
        self,
        runtime: Runtime,
        roster: Roster,
        book: PeerBook,
        dialler: Dialler,
        candidates: Callable[[int], list[Enode]],
    ) -> None:
        self.unnamed: dict[Place, Enode] = {}
        """Addresses whose node id is not known: dialled when there is nobody else."""
        self._runtime = runtime
        self._roster = roster
        self._book = book
        self._dialler = dialler
        self._candidates = candidates
        self._news = runtime.event()
        self._stopping = False
        self._next_feeler = runtime.now() + FEELER_S

    def wake(self) -> None:
        """There is news: a slot, or somebody to dial."""
        self._news.set()

    def stop(self) -> None:
        self._stopping = True
        self.wake()

    def add_unnamed(self, enode: Enode) -> None:
        if len(self.unnamed) < MAX_UNNAMED:
            self.unnamed[place_of(enode)] = enode

    def keep(self) -> None:
        """Until `stop`."""
        while not self._stopping:
            self._news.clear()
            self._fill()
            self._news.wait(self._pause_s())

    def _pause_s(self) -> float:
        if not self._wanted():
            return LOOK_MAX_S
        now = self._runtime.now()
        return min(LOOK_MAX_S, max(LOOK_MIN_S, self._book.next_retry(self._busy(), now) - now))

    def _wanted(self) -> int:
        """Dials to begin now."""
        slots = self._roster.slots
        pending = len(self._dialler.pending)
        missing = slots.outbound_target - self._roster.outbound() - pending
        room = slots.total - len(self._roster.links) - pending
        return max(0, min(missing, room, MAX_PENDING_DIALS - pending))

    def _busy(self) -> set[bytes]:
        linked = {peer.node_id for peer in self._roster}
        return linked | {dial.node_id for dial in self._dialler.pending.values() if dial.node_id is not None}

    def _fill(self) -> None:
        wanted = self._wanted()
        if not wanted:
            self._feel()
            return
        chosen = self._choose(wanted)
        if len(chosen) < wanted:
            now = self._runtime.now()
            for enode in self._candidates(wanted - len(chosen)):
                self._book.hear_of(enode, now)
            chosen = self._choose(wanted)
        for known in chosen:
            self._dialler.dial(known.enode, static=known.static)
        if not chosen and not len(self._roster):
            self._dial_unnamed()

    def _choose(self, wanted: int) -> list[Known]:
        """The best to dial that the limit per subnet leaves."""
        now = self._runtime.now()
        ips = [peer.remote[0] for peer in self._roster.links.values()]
        ips += [dial.target.host for dial in self._dialler.pending.values()]
        chosen: list[Known] = []
        for known in self._book.to_dial(wanted + len(ips), self._busy(), now):
            if len(chosen) == wanted:
                break
            if known.static or has_subnet_room(known.host, ips):
                ips.append(known.host)
                chosen.append(known)
        return chosen

    def _dial_unnamed(self) -> None:
        now = self._runtime.now()
        for place, enode in self.unnamed.items():
            last = self._dialler.recent.get(place)
            if last is None or (last.outcome != "self" and now - last.settled_at >= LOOK_MAX_S):
                self._dialler.dial(enode)

    def _feel(self) -> None:
        now = self._runtime.now()
        if now < self._next_feeler or len(self._roster) >= self._roster.slots.total:
            return
        self._next_feeler = now + FEELER_S * self._runtime.rng.uniform(0.75, 1.25)
        stranger = self._book.untried(self._busy())
        if stranger is not None:
            self._dialler.dial(stranger.enode, feeler=True)
