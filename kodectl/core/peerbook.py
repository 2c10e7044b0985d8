"""Everybody this node has met or heard of: where they are, what they are worth, when to dial them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from math import inf
from operator import attrgetter

from kodectl.core.admission import scarce_subnet
from kodectl.core.backoff import CAP_S, Backoff
from kodectl.core.bans import Bans
from kodectl.core.exchange import Reach, is_worth_telling, reach_of
from kodectl.core.trust import FAULT_COST, Presence, Rank, Trust
from kodectl.wire.enode import Enode

MAX_KNOWN = 1000
"""Twenty times the peers one node has; about 600 kB, and milliseconds to sort."""
MAX_STRANGERS_PER_SUBNET = 8
"""Never linked and of one /24 (IPv6: /64): invented ids of one network do not crowd out the rest."""
FORGET_S = 14 * 24 * 3600.0
"""Two weeks unseen: gone, not on holiday."""
STRANGER_FAILURES = 6
"""About two minutes of failed dials: what was told of this one was wrong."""
PRIVILEGED_CAP_S = 60.0
"""The longest back-off of who is named by the configuration while there is no link at all: without UDP there may be nobody else
to get in by. With links, dead ones would take the dials from all others."""
NEWCOMER_SHARE = 4
"""Every fourth dial goes to somebody never linked, while there are such, or the old guard would stay among itself."""
FAULT_BAN_S = 300.0
"""For a broken protocol: long enough that reconnecting gains nothing, short enough to survive a bad version."""


class Known:
    """One peer by its node id. `tcp` 0: nobody gets through to it. Times are those of the book's clock."""

    __slots__ = (
        "anchor",
        "backoff",
        "host",
        "last_seen",
        "linked",
        "node_id",
        "proved",
        "reached",
        "static",
        "subnet",
        "tcp",
        "trust",
        "udp",
    )

    def __init__(self, enode: Enode, now: float) -> None:
        self.node_id = enode.node_id
        self.proved: Enode | None = None
        """Where it was reached, while another address is tried that somebody told."""
        self.move(enode)
        self.static = False
        self.linked = False
        self.reached = False
        """A dial of ours to it has worked."""
        self.anchor = False
        """Was linked when this node last stopped: dialled first."""
        self.last_seen = -inf
        self.trust = Trust(now)
        self.backoff = Backoff()

    def move(self, enode: Enode) -> None:
        self.host, self.tcp, self.udp = enode.host, enode.tcp, enode.udp
        self.subnet = scarce_subnet(enode.host)

    def is_said_to_be_at(self, enode: Enode) -> None:
        """Hearsay: tried once. Whoever told it may lie, so the address that has worked is kept."""
        if self.reached and self.proved is None:
            self.proved = self.enode
        self.move(enode)

    def is_not_there(self) -> bool:
        """A dial has failed. True where it says something about the peer; false where it was but told that it would be there,
        and then it is sought where it was before."""
        if self.proved is None:
            return True
        self.move(self.proved)
        self.proved = None
        return False

    @property
    def kept(self) -> Enode:
        """The address for after a restart."""
        return self.proved or self.enode

    @property
    def enode(self) -> Enode:
        return Enode(self.node_id, self.host, self.tcp, self.udp)

    @property
    def is_dialable(self) -> bool:
        """At its port, or, where an operator wants it, by whatever way there is to its id."""
        return bool(self.tcp) or self.static

    @property
    def is_stranger(self) -> bool:
        """Only heard of, never linked."""
        return self.last_seen == -inf and not self.static


class PeerBook:
    """Bounded; decides, and does nothing. What has changed since the last `take_changes` is remembered for saving."""

    def __init__(self, own_id: bytes, privileged: Iterable[bytes], rng: random.Random) -> None:
        self._own_id = own_id
        self._privileged = set(privileged)
        self._rng = rng
        self._known: dict[bytes, Known] = {}
        self.bans = Bans()
        # Dictionaries for their order: with sets, what a restarted node loads first would differ from run to run.
        self._changed: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Known]:
        return iter(self._known.values())

    def get(self, node_id: bytes) -> Known | None:
        return self._known.get(node_id)

    def restore(self, known: Known) -> None:
        """As it was saved by a former life."""
        if known.node_id != self._own_id and len(self._known) < MAX_KNOWN:
            self._known[known.node_id] = known

    def set_privileged(self, node_ids: Iterable[bytes]) -> None:
        """Instead of those that were: the configuration has changed."""
        self._privileged = set(node_ids)

    def privilege(self, node_id: bytes) -> None:
        """A bootstrap node whose id was not known when the book was made."""
        self._privileged.add(node_id)

    def rank(self, node_id: bytes, now: float) -> Rank:
        privileged = node_id in self._privileged
        known = self._known.get(node_id)
        if known is None:
            return Rank.HIGH if privileged else Rank.LOW
        return known.trust.rank(now, privileged=privileged)

    def score(self, node_id: bytes, now: float) -> float:
        known = self._known.get(node_id)
        return known.trust.score(now) if known else 0.0

    # -- who there is ----------------------------------------------------------------------------------------------

    def hear_of(self, enode: Enode, now: float) -> bool:
        """Somebody says that this node is there. True if it is somebody to dial that was not known before.

        An address that works is not overwritten by hearsay; one that has failed is, for one dial."""
        if not enode.id_known or enode.node_id == self._own_id or not enode.tcp:
            return False
        known = self._known.get(enode.node_id)
        if known is None:
            return self._has_room_for_stranger(enode) and bool(self._add(enode, now))
        works = known.linked or (known.reached and not known.backoff.failures)
        # Who was reached by its id alone is found by that wherever it is, and where nobody gets to its port too.
        works |= known.reached and not known.tcp
        if not works and (known.host, known.tcp) != (enode.host, enode.tcp):
            known.is_said_to_be_at(enode)
            self._changed[known.node_id] = None
        return False

    def link_up(self, enode: Enode, now: float, *, dialled: bool) -> Known:
        """A link to it stands. `enode` with `tcp` 0 (it does not listen) does not overwrite an address that worked."""
        known = self._known.get(enode.node_id) or self._add(enode, now)
        if dialled or not known.reached:
            known.move(enode)
        if dialled:
            known.proved = None
        known.reached |= dialled
        known.linked = True
        known.anchor = False
        known.last_seen = now
        known.trust.observe(Presence.LINKED, now)
        if dialled:
            known.trust.answered(now)
        self._changed[enode.node_id] = None
        return known

    def link_down(self, node_id: bytes, lasted_s: float, now: float, *, lost: bool) -> None:
        """`lost`: the other side is to blame, or nobody; not a decision of this node."""
        if (known := self._known.get(node_id)) is None:
            return
        known.linked = False
        known.last_seen = now
        known.trust.observe(Presence.OUT_OF_REACH if lost else Presence.UNOBSERVED, now)
        known.backoff = known.backoff.after_link(lasted_s, now, self._rng, self._cap_s(node_id))
        self._changed[node_id] = None

    def dial_failed(self, node_id: bytes, now: float, *, blame: bool) -> None:
        """`blame`: it was not there, or not itself; a peer that is full has done nothing wrong."""
        if (known := self._known.get(node_id)) is None or known.linked:
            return
        known.anchor = False
        self._changed[node_id] = None
        if not known.is_not_there():
            return
        known.backoff = known.backoff.after_failure(now, self._rng, self._cap_s(node_id))
        if blame:
            known.trust.observe(Presence.OUT_OF_REACH, now)
            known.trust.failed(now)
        if known.is_stranger and known.backoff.failures >= STRANGER_FAILURES and node_id not in self._privileged:
            self.forget(node_id)

    def _cap_s(self, node_id: bytes) -> float:
        is_alone = node_id in self._privileged and not any(known.linked for known in self._known.values())
        return PRIVILEGED_CAP_S if is_alone else CAP_S

    def pause(self, node_id: bytes, now: float, seconds: float) -> None:
        """No dial to it for so long."""
        if known := self._known.get(node_id):
            known.backoff = known.backoff.paused(now, seconds)
            self._changed[node_id] = None

    def end_pause(self, node_id: bytes) -> None:
        """It may be dialled again, as if it had never failed."""
        if known := self._known.get(node_id):
            known.backoff = Backoff()
            self._changed[node_id] = None

    def answered(self, node_id: bytes, now: float, response_s: float) -> None:
        if known := self._known.get(node_id):
            known.trust.answered(now, response_s)
            self._changed[node_id] = None

    def missed(self, node_id: bytes, now: float) -> None:
        """A heartbeat got no answer."""
        if known := self._known.get(node_id):
            known.trust.failed(now)
            self._changed[node_id] = None

    def broke_protocol(self, node_id: bytes, now: float) -> None:
        """Costs trust, and some minutes; a longer ban stays."""
        if known := self._known.get(node_id):
            known.trust.failed(now, FAULT_COST)
            self._changed[node_id] = None
        self.bans.add(node_id, max(self.bans.until(node_id, now) or -inf, now + FAULT_BAN_S))

    def set_static(self, node_id: bytes, static: bool) -> None:
        if known := self._known.get(node_id):
            known.static = static
            self._changed[node_id] = None

    def is_static(self, node_id: bytes) -> bool:
        known = self._known.get(node_id)
        return known is not None and known.static

    def forget(self, node_id: bytes) -> None:
        if self._known.pop(node_id, None) is not None:
            self._changed.pop(node_id, None)
            self._removed[node_id] = None

    def forget_unseen(self, now: float) -> None:
        for known in list(self._known.values()):
            stale = not known.is_stranger and now - known.last_seen > FORGET_S
            if stale and not known.static and not known.linked and known.node_id not in self._privileged:
                self.forget(known.node_id)

    def _add(self, enode: Enode, now: float) -> Known:
        if len(self._known) >= MAX_KNOWN and (victim := self._least(now)) is not None:
            self.forget(victim.node_id)
        known = self._known[enode.node_id] = Known(enode, now)
        self._changed[enode.node_id] = None
        self._removed.pop(enode.node_id, None)
        return known

    def _has_room_for_stranger(self, enode: Enode) -> bool:
        """A stranger may take the place of another stranger only."""
        strangers = self._strangers()
        subnet = scarce_subnet(enode.host)
        if subnet is not None and [known.subnet for known in strangers].count(subnet) >= MAX_STRANGERS_PER_SUBNET:
            return False
        return len(self._known) < MAX_KNOWN or any(known.node_id not in self._privileged for known in strangers)

    def _strangers(self) -> list[Known]:
        # As `is_stranger`, without a call for each of a thousand: one answer names twenty newcomers.
        return [known for known in self._known.values() if known.last_seen == -inf and not known.static]

    def _least(self, now: float) -> Known | None:
        """Who is missed least: a stranger, then the lowest score."""
        strangers = [known for known in self._strangers() if not known.linked and known.node_id not in self._privileged]
        if strangers:
            # By chance: ids can be ground, so that they would stay and all others go.
            most = max(known.backoff.failures for known in strangers)
            return self._rng.choice([known for known in strangers if known.backoff.failures == most])
        return min(
            (
                known
                for known in self._known.values()
                if not known.static and not known.linked and known.node_id not in self._privileged
            ),
            key=lambda known: (known.trust.score(now), -known.backoff.failures, known.node_id),
            default=None,
        )

    # -- choices ---------------------------------------------------------------------------------------------------

    def to_dial(self, count: int, busy: Collection[bytes], now: float) -> list[Known]:
        """Up to `count` peers to dial now, best first: static ones, those of the former life, then by rank and score;
        every fourth is a newcomer. `busy` are linked or being dialled."""
        ready = [
            known
            for known in self._known.values()
            if known.is_dialable
            and known.node_id not in busy
            and known.backoff.is_over(now)
            and self.bans.until(known.node_id, now) is None
        ]
        self._rng.shuffle(ready)
        ready.sort(key=lambda known: self._dial_order(known, now), reverse=True)
        newcomers = [known for known in ready if known.is_stranger]
        chosen: list[Known] = []
        taken: set[bytes] = set()
        ranked = iter(ready)
        while len(chosen) < min(count, len(ready)):
            newcomers_turn = len(chosen) % NEWCOMER_SHARE == NEWCOMER_SHARE - 1 and newcomers
            known = newcomers.pop() if newcomers_turn else next(ranked)
            if known.node_id not in taken:  # else it had its turn already, as a newcomer
                taken.add(known.node_id)
                chosen.append(known)
        return chosen

    def _dial_order(self, known: Known, now: float) -> tuple[bool, bool, Rank, float]:
        return known.static, known.anchor, self.rank(known.node_id, now), known.trust.score(now)

    def untried(self, busy: Collection[bytes]) -> Known | None:
        """Somebody heard of and never dialled, by chance."""
        strangers = [
            known
            for known in self._known.values()
            if known.is_stranger and known.tcp and not known.backoff.failures and known.node_id not in busy
        ]
        return self._rng.choice(sorted(strangers, key=attrgetter("node_id"))) if strangers else None

    def next_retry(self, busy: Collection[bytes], now: float) -> float:
        """When the next back-off ends; infinity when nobody is left to dial."""
        return min(
            (
                known.backoff.retry_at
                for known in self._known.values()
                if known.is_dialable and known.node_id not in busy and self.bans.until(known.node_id, now) is None
            ),
            default=inf,
        )

    def to_share(self, asker_id: bytes, asker_ip: str, count: int, now: float) -> list[Enode]:
        """Peers to name to `asker`: connected ones, and those that were reached and have not failed since; by rank."""
        reach = reach_of(asker_ip)
        good = [known for known in self._known.values() if self._is_good(known, asker_id, reach, now)]
        self._rng.shuffle(good)
        good.sort(key=lambda known: (self.rank(known.node_id, now), known.linked), reverse=True)
        return [known.enode for known in good[: max(0, count)]]

    def _is_good(self, known: Known, asker_id: bytes, reach: Reach, now: float) -> bool:
        proven = known.linked or (known.reached and not known.backoff.failures)
        if not proven or not known.tcp or known.node_id == asker_id:
            return False
        return is_worth_telling(known.host, reach) and self.bans.until(known.node_id, now) is None

    # -- saving ----------------------------------------------------------------------------------------------------

    def take_changes(self) -> tuple[list[Known], list[bytes]]:
        """What has changed, and which node ids are gone, since the last call."""
        changed = [self._known[node_id] for node_id in self._changed if node_id in self._known]
        removed = list(self._removed)
        self._changed.clear()
        self._removed.clear()
        return changed, removed

    def put_back_changes(self, changed: Iterable[Known], removed: Iterable[bytes]) -> None:
        """They could not be saved; they come again with the next `take_changes`."""
        self._changed.update((known.node_id, None) for known in changed if known.node_id in self._known)
        self._removed.update((node_id, None) for node_id in removed if node_id not in self._known)
