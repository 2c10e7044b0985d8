"""The book of peers across restarts: loaded at the start, saved a few seconds after something has changed."""

from __future__ import annotations

import logging
from math import inf

from kodectl.core.backoff import Backoff
from kodectl.core.peerbook import Known, PeerBook
from kodectl.errors import EnvironmentFault
from kodectl.node.events import Events
from kodectl.node.one_at_a_time import OneAtATime
from kodectl.node.persistence import Store, StoredBan, StoredPeer
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.enode import Enode

log = logging.getLogger(__name__)

SAVE_S = 2.0
"""What a killed node loses at most of what it has noted itself. What an operator orders is saved before it is answered."""
RETRY_S = 30.0
"""After a fault of the disk; nothing is lost meanwhile, it stays in memory."""
FORGET_EVERY_S = 3600.0
LONGEST_PAUSE_S = 3600.0
"""No pause is longer; what seems so after a restart comes from a clock that has been set back."""


class PeerMemory:
    """The store speaks Unix time, the book monotonic time; this is where one becomes the other."""

    def __init__(self, runtime: Runtime, book: PeerBook, store: Store, events: Events, scope: Scope) -> None:
        self._runtime = runtime
        self._book = book
        self._store = store
        self._events = events
        self._scope = scope
        self._saving = OneAtATime(runtime)
        self.trouble: str | None = None
        """Why what has changed is not on the disk."""

    def load(self) -> None:
        """Waits. Raises EnvironmentFault."""
        peers = self._runtime.in_thread(self._store.load_peers)
        bans = self._runtime.in_thread(self._store.load_bans)
        ahead = self._unix_ahead()
        now = self._runtime.now()
        for stored in peers:
            self._book.restore(known_of(stored, now, ahead))
        for ban in bans:
            self._book.bans.add(ban.node_id, inf if ban.until is None else ban.until - ahead)
        self._book.bans.changed = False

    def save(self) -> None:
        """Waits, for another save under way as well: what has changed by now is on the disk when it returns.

        Raises EnvironmentFault when the disk did not take it: it is kept for the next time, and told once."""
        with self._saving:
            self._save()
        if self.trouble is not None:
            self.trouble = None
            log.info("peers are saved again")
            self._events.emit("warning_over", subject="peers")

    def try_to_save(self) -> bool:
        """As `save`, for who can do no more about a fault than to try again later."""
        try:
            self.save()
        except EnvironmentFault:
            return False
        return True

    def _save(self) -> None:
        changed, removed = self._book.take_changes()
        bans_changed, self._book.bans.changed = self._book.bans.changed, False
        ahead = self._unix_ahead()
        try:
            if changed or removed:
                peers = [stored_of(known, ahead) for known in changed]
                self._runtime.in_thread(self._store.save_peers, peers, removed)
            if bans_changed:
                self._runtime.in_thread(self._store.save_bans, self._stored_bans(ahead))
        except EnvironmentFault as error:
            self._book.put_back_changes(changed, removed)
            self._book.bans.changed |= bans_changed
            self._tell(error)
            raise

    def keep_saved(self) -> None:
        """Until the scope closes."""
        forgotten_at = self._runtime.now()
        saved = True
        while True:
            self._scope.sleep(SAVE_S if saved else RETRY_S)
            if self._runtime.now() - forgotten_at > FORGET_EVERY_S:
                forgotten_at = self._runtime.now()
                self._book.forget_unseen(forgotten_at)
            saved = self.try_to_save()

    def _stored_bans(self, ahead: float) -> list[StoredBan]:
        bans = self._book.bans.all(self._runtime.now())
        return [StoredBan(node_id, None if until == inf else until + ahead) for node_id, until in bans.items()]

    def _unix_ahead(self) -> float:
        return self._runtime.unix_time() - self._runtime.now()

    def _tell(self, error: EnvironmentFault) -> None:
        if self.trouble is None:
            log.warning("peers are not saved: %s", error.message)
            self._events.emit("warning", subject="peers", code=error.code, message=error.message)
        self.trouble = error.message


def stored_of(known: Known, ahead: float) -> StoredPeer:
    """`ahead`: Unix time minus the book's clock."""
    trust, place = known.trust, known.kept
    return StoredPeer(
        node_id=known.node_id,
        host=str(place.host),
        tcp=place.tcp,
        udp=place.udp,
        static=known.static,
        linked=known.linked,
        reached=known.reached,
        last_seen=max(0.0, known.last_seen + ahead),
        linked_s=trust.linked_s,
        observed_s=trust.observed_s,
        response_ms=None if trust.response_s is None else trust.response_s * 1000,
        succeeded=trust.succeeded,
        asked=trust.asked,
        trust_time=trust.time + ahead,
        failures=known.backoff.failures,
        retry_at=max(0.0, known.backoff.retry_at + ahead),
    )


def known_of(stored: StoredPeer, now: float, ahead: float) -> Known:
    """As it was. A time in the future (the clock has been set back) counts as now, or it would hold for years."""
    known = Known(Enode(stored.node_id, stored.host, stored.tcp, stored.udp), now)
    known.static = stored.static
    known.reached = stored.reached
    known.anchor = stored.linked
    known.last_seen = min(now, stored.last_seen - ahead) if stored.last_seen else -inf
    known.trust.linked_s = stored.linked_s
    known.trust.observed_s = stored.observed_s
    known.trust.response_s = None if stored.response_ms is None else stored.response_ms / 1000
    known.trust.succeeded = stored.succeeded
    known.trust.asked = stored.asked
    known.trust.time = min(now, stored.trust_time - ahead)
    # A peer of the moment when this node stopped is dialled at once, whatever went before.
    known.backoff = Backoff() if stored.linked else Backoff(stored.failures, _retry_at(stored, now, ahead))
    return known


def _retry_at(stored: StoredPeer, now: float, ahead: float) -> float:
    from_now = stored.retry_at - ahead - now
    return now + min(from_now, LONGEST_PAUSE_S)
