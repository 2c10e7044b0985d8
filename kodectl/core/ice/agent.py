"""The agent: which candidate pair is checked when, which one is used, and what the peer's checks make of that.

    effects = agent.set_remote(credentials, candidates, now)     # and so on: every call returns what is to be done
    ...                                                          # datagrams into `receive`, time into `tick`

It follows RFC 8445 with regular nomination, takes a peer that nominates aggressively as it is, and uses every path as
soon as it is valid. What it does of its own where the RFC leaves room:

* The first few checks follow each other quickly (`FIRST_CHECKS`); Ta holds from then on.
* A check that follows from a packet of the peer (a triggered one, or a nomination) leaves at once, as long as a bucket
  has room: it adds nothing that the peer has not paid for. Others wait in the queue for their turn.
* A direct pair is nominated as soon as it is valid, a relayed one when no better one is to be hoped for, or after
  `RELAY_PATIENCE_S`.
* Failure is only told after the time of RFC 8863, since the peer's checks may still make new pairs.
* With `keeps_paths`, between two agents that both do so, checks go on after a pair is selected, every valid pair is kept
  alive (see `live`), and data goes on the best of those that are. Without it, on the selected pair, as the RFCs have it.

Nothing that arrives raises anything: what is malformed, forged or of no use is dropped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from kodectl.core.ice.answering import Answering
from kodectl.core.ice.book import CandidateBook
from kodectl.core.ice.checks import RTO_S, Check, Checks, Credentials, Peer, Role
from kodectl.core.ice.consent import Consent
from kodectl.core.ice.effects import Effect, Failed, Lost, Received, Selected, Transmit, Usable
from kodectl.core.ice.live import LivePaths
from kodectl.core.ice.local import Base, LocalCandidate, local_preference_of, priority_of
from kodectl.core.ice.pairs import CheckList, Pair, PairState
from kodectl.core.ice.requests import ROLE_CONFLICT, Requested, mapped_in, named_ufrag
from kodectl.core.limits import TokenBucket
from kodectl.errors import WireError
from kodectl.wire.candidates import Address, Candidate, CandidateType
from kodectl.wire.stun import (
    HEADER_SIZE,
    ID_SIZE,
    Attribute,
    Message,
    MessageClass,
    Method,
    decode,
    looks_like_stun,
    verifies,
)

PACING_S = 0.05
"""Ta (RFC 8445, section 14.2)."""
FIRST_CHECKS = 8
FIRST_PACING_S = 0.005
"""The least that section 14.2 allows. Eight checks are 1,200 bytes, less than any path takes at once, and as many mappings
as a browser makes for one page; two hosts with two addresses each are through in 20 ms instead of 200."""
TRIGGERED_BURST = 16
"""Checks that may answer the peer's at once, beside the pacing."""
RELAY_PATIENCE_S = 0.5
"""After the first valid pair. Data flows meanwhile; a direct path takes a lost packet and its repetition to show up."""
FAILURE_PATIENCE_S = 39.5
"""RFC 8863, section 4: as long as one check takes to fail, from the peer's description on."""
RETRY_S = 30.0
"""Between the failure of direct pairs and the next try, with `keeps_paths`: routers and their mappings change."""
MAX_RETRIED = 4
"""The best of them: a peer that names others' addresses has two packets in ten seconds sent to each of these, no more."""
MAX_EARLY = 32
"""Requests kept that came before the peer's description; one for each pair."""


class Agent:
    """One side of one session. `tie_breaker` is 64 random bits. `may_check(ip, now)`: whether a check may be sent to an address
    that has not answered any; if not, it counts as sent and lost (see `allowance`).

    Candidates may be added at any time, before or after the peer is known; `local_done` and `remote_done` tell that no
    more will come."""

    def __init__(
        self,
        *,
        is_controlling: bool,
        credentials: Credentials,
        tie_breaker: int,
        random_bytes: Callable[[int], bytes],
        rng: random.Random,
        keeps_paths: bool = False,
        may_check: Callable[[str, float], bool] = lambda ip, now: True,
    ) -> None:
        self._answering = Answering(Role(is_controlling, tie_breaker), credentials, random_bytes)
        self._random_bytes = random_bytes
        self._rng = rng
        self._book = CandidateBook()
        self._list = CheckList(is_controlling)
        self._checks = Checks(random_bytes)
        self._early: dict[tuple[Base, Address], Requested] = {}
        self._peer: Peer | None = None
        self._local_done = self._remote_done = False
        self._keeps_paths = keeps_paths
        self._may_check = may_check
        self._upkeep: Consent | LivePaths | None = LivePaths(rng, random_bytes) if keeps_paths else None
        """Of what data goes on."""
        self._selected: Pair | None = None
        self._nominating: Check | None = None
        self._started_at: float | None = None
        self._valid_since: float | None = None
        self._has_failed = False
        self._retry_at: float | None = None
        self._begun = 0
        self._next_check_at = float("-inf")
        self._triggered = TokenBucket(1 / PACING_S, TRIGGERED_BURST)
        self._effects: list[Effect] = []

    # What is known

    @property
    def role(self) -> Role:
        return self._answering.role

    @property
    def credentials(self) -> Credentials:
        return self._answering.credentials

    @property
    def selected(self) -> Pair | None:
        return self._selected

    @property
    def path(self) -> Pair | None:
        """Where data goes: the selected pair, before there is one the best valid one; after a restart, the former pair
        until the new one is there. With `keeps_paths`, the best that is alive. None where nothing may be sent."""
        return self._upkeep.path if self._upkeep is not None else self._list.best_valid

    def has_heard(self, base: Base, remote: Address) -> bool:
        """Whether the peer has proved itself there, by a request or an answer."""
        pair = self._list.find(base, remote)
        return pair is not None and pair.is_heard

    def carries(self, base: Base) -> bool:
        """Whether a path from there is known to work."""
        if isinstance(self._upkeep, LivePaths):
            return self._upkeep.carries(base)
        return self.path is not None and self.path.local.base is base

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(self._list.pairs)

    @property
    def local_candidates(self) -> tuple[LocalCandidate, ...]:
        return tuple(self._book.locals)

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        return self._book.remotes

    def hears(self, data: bytes) -> bool:
        """Whether a STUN message is for this agent, where many share a socket: a request that names it, or an answer to
        one of its own."""
        if not looks_like_stun(data) or len(data) < HEADER_SIZE:
            return False
        try:
            ufrag = named_ufrag(data)
        except WireError:
            return False
        if ufrag is None:
            return self.expects(data[HEADER_SIZE - ID_SIZE : HEADER_SIZE])
        return self._answering.is_named(ufrag)

    def expects(self, transaction_id: bytes) -> bool:
        """Whether an answer with this id is to a request of ours."""
        is_upkeep = self._upkeep is not None and self._upkeep.key_of(transaction_id) is not None
        return is_upkeep or self._checks.find(transaction_id) is not None

    # What comes from this side

    def add_local(self, local: LocalCandidate, now: float) -> list[Effect]:
        """One that is there already, by its base and address, changes nothing (RFC 8445, section 5.1.3)."""
        if self._book.add_local(local):
            self._list.form([local], self._book.remotes)
        return self._go_on(now)

    def add_connection(self, local: LocalCandidate, remote: Candidate, now: float) -> list[Effect]:
        """A base that reaches only `remote`, such as a TCP connection; both ends add theirs, and neither tells of it."""
        self._book.connect(local, remote)
        if self._peer is not None:
            self._list.add(local, remote)
        return self._go_on(now)

    def forget(self, base: Base, now: float) -> list[Effect]:
        """It is gone: a restart does without its candidates. A pair that is selected is ended by consent; a path that is
        kept alive is no path any more."""
        self._book.forget(base)
        if isinstance(self._upkeep, LivePaths):
            self._upkeep.forget(base)
            self._checks.forget(base)
            if self._nominating is not None and self._nominating.base is base:
                self._nominating = None
            self._list.forget(base)
        return self._go_on(now)

    def forget_address(self, base: Base, address: Address) -> None:
        """Of a base that has others too."""
        self._book.forget(base, address)

    def doubt(self, now: float) -> list[Effect]:
        """Who uses the path hears nothing."""
        if isinstance(self._upkeep, LivePaths):
            self._upkeep.doubt(now)
        return self.tick(now)

    def local_done(self, now: float) -> list[Effect]:
        self._local_done = True
        return self._go_on(now)

    def restart(self, credentials: Credentials, now: float) -> list[Effect]:
        """Begins anew (RFC 8445, section 9), with the candidates there are. The path in use stays until a new pair is
        selected, as long as the peer consents."""
        self._answering.restart(credentials, is_used=self._valid_since is not None)
        self._peer = None
        self._book.forget_remotes()
        self._early.clear()
        self._list = CheckList(self.role.is_controlling)
        self._checks.clear()
        self._selected = self._nominating = None
        self._started_at = self._valid_since = None
        self._remote_done = self._has_failed = False
        self._retry_at = None
        self._begun = 0
        return self._go_on(now)

    # What the peer tells through signalling

    def set_remote(self, remote: Credentials, candidates: Iterable[Candidate], now: float) -> list[Effect]:
        """The peer's description; the requests that came before it take effect now."""
        self._peer = Peer.of(remote, self.credentials)
        self._started_at = now
        for candidate in candidates:
            self._book.learn(candidate, self._list)
        for local, other_end in self._book.connections:
            self._list.add(local, other_end)
        early, self._early = self._early, {}
        for (base, source), requested in early.items():
            self._checked_by_peer(requested, base, source, now)
        return self._go_on(now)

    def add_remote(self, candidate: Candidate, now: float) -> list[Effect]:
        self._book.learn(candidate, self._list)
        return self._go_on(now)

    def remote_done(self, now: float) -> list[Effect]:
        """The peer's end-of-candidates (RFC 8838, section 13)."""
        self._remote_done = True
        return self._go_on(now)

    # What arrives, and time

    def receive(self, base: Base, data: bytes, sender: Address, now: float) -> list[Effect]:
        if not looks_like_stun(data):
            return self._data(base, data, sender)
        try:
            self._stun(base, data, sender, now)
        except WireError:
            return []
        return self._go_on(now)

    def tick(self, now: float) -> list[Effect]:
        for check in self._checks.due(now):
            self._repeat(check, now)
        self._look_after_paths(now)
        return self._go_on(now)

    def next_deadline(self) -> float | None:
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> Iterable[float]:
        checks = self._checks.next_deadline()
        if checks is not None:
            yield checks
        upkeep = self._upkeep.next_deadline() if self._upkeep is not None else None
        if upkeep is not None:
            yield upkeep
        if self._is_checking and self._list.is_waiting:
            yield self._next_check_at
        if self._is_checking and self._retry_at is not None:
            yield self._retry_at
        if self._peer is None or self._selected is not None:
            return
        if self._valid_since is not None and self._nominating is None and self.role.is_controlling:
            yield self._valid_since + RELAY_PATIENCE_S
        if self._started_at is not None and not self._has_failed and not self._hopes():
            yield self._started_at + FAILURE_PATIENCE_S

    @property
    def _is_checking(self) -> bool:
        return self._peer is not None and (self._selected is None or self._keeps_paths)

    def _go_on(self, now: float) -> list[Effect]:
        """What follows whatever has happened: nomination, the next check in order, the end of hope."""
        if self._is_checking:
            self._try_again(now)
            self._list.thaw(is_hurried=self._keeps_paths)
            if self._selected is None:
                self._nominate(now)
                self._give_up(now)
            self._check_next(now)
        effects, self._effects = self._effects, []
        return effects

    # Checks

    def _check_next(self, now: float) -> None:
        if now < self._next_check_at:
            return
        pair = self._list.next()
        if pair is not None:
            self._check(pair, now)

    def _check_at_once(self, pair: Pair, now: float) -> None:
        """Of a triggered check; where too many have been, it waits in the queue."""
        self._list.trigger(pair)
        if self._triggered.take(now):
            self._check(pair, now)

    def _check(self, pair: Pair, now: float, *, nominates: bool = False) -> Check:
        assert self._peer is not None, "nobody is checked before its credentials are known"
        local = pair.local.candidate
        priority = priority_of(CandidateType.PEER_REFLEXIVE, local_preference_of(local), local.transport)
        rto_s = max(RTO_S, PACING_S * self._list.busy)
        check = self._checks.begin(pair, self._peer, self.role, priority, nominates, rto_s)
        if not nominates:
            pair.state = PairState.IN_PROGRESS
        pair.check = check
        self._begun += 1
        self._next_check_at = now + (FIRST_PACING_S if self._begun < FIRST_CHECKS else PACING_S)
        self._send(check, now)
        return check

    def _send(self, check: Check, now: float) -> None:
        check.sent(now)
        is_verified = check.pair.state is PairState.SUCCEEDED
        if is_verified or self._may_check(check.address[0], now):
            self._effects.append(Transmit(check.base, check.packet, check.address))

    def _repeat(self, check: Check, now: float) -> None:
        if now < check.ends_at:
            self._send(check, now)
            return
        self._checks.end(check)
        if not check.is_given_up:
            self._failed(check)

    def _failed(self, check: Check) -> None:
        if check.nominates or check.pair.state is not PairState.SUCCEEDED:
            check.pair.state = PairState.FAILED
        if check is self._nominating:
            self._nominating = None
        if self._keeps_paths and self._retry_at is None:
            self._retry_at = check.sent_at + RETRY_S

    def _try_again(self, now: float) -> None:
        """Direct pairs that have failed, as long as there is no direct path."""
        if self._retry_at is None or now < self._retry_at:
            return
        self._retry_at = None
        path = self.path
        if path is None or path.is_relayed:
            failed = [pair for pair in self._list.pairs if pair.state is PairState.FAILED and not pair.is_relayed]
            for pair in failed[:MAX_RETRIED]:
                pair.state = PairState.FROZEN

    # Answers

    def _stun(self, base: Base, data: bytes, sender: Address, now: float) -> None:
        """Raises WireError."""
        message = decode(data)
        if message.method != Method.BINDING or message.get(Attribute.FINGERPRINT) is None:
            return
        if message.kind is MessageClass.REQUEST:
            self._requested(base, data, message, sender, now)
        elif message.kind is not MessageClass.INDICATION:
            self._answered(base, data, message, sender, now)

    def _answered(self, base: Base, data: bytes, message: Message, sender: Address, now: float) -> None:
        upkeep = self._upkeep
        key = upkeep.key_of(message.transaction_id) if upkeep is not None else None
        if upkeep is not None and key is not None:
            if message.kind is MessageClass.SUCCESS and verifies(data, key):
                upkeep.answered(message.transaction_id, base, sender, now)
            return
        check = self._checks.find(message.transaction_id)
        if check is None or not verifies(data, check.key):
            return
        if base is not check.base or sender != check.address:
            # Section 7.2.5.2.1: what is asked there must answer from there. The check fails by the clock and not at once, since
            # anybody who sees an answer could send a copy of it from elsewhere, and sooner.
            return
        self._checks.end(check)
        if message.kind is MessageClass.SUCCESS:
            self._succeeded(check, message, now)
        else:
            self._refused(check, message, now)

    def _refused(self, check: Check, message: Message, now: float) -> None:
        error = message.get(Attribute.ERROR_CODE)
        if error is None or error.code != ROLE_CONFLICT:
            self._failed(check)
            return
        # Section 7.2.5.1. The check may be from before the last turn.
        if check.role.is_controlling == self.role.is_controlling:
            self._answering.turn(not check.role.is_controlling, new_tie_breaker=True)
            self._turned()
        if check is self._nominating:
            self._nominating = None
        if check.pair.state is not PairState.SUCCEEDED:
            self._check_at_once(check.pair, now)

    def _succeeded(self, check: Check, message: Message, now: float) -> None:
        mapped = mapped_in(message)
        if mapped is None:
            self._failed(check)
            return
        pair = check.pair
        pair.state = PairState.SUCCEEDED
        pair.is_heard = True
        pair.seen_as = self._book.seen_as(check, mapped)
        if pair.check is not None and not pair.check.nominates:
            pair.check.is_given_up = True
        if isinstance(self._upkeep, LivePaths) and pair not in self._upkeep and self._peer is not None:
            self._upkeep.add(pair, self._peer, now - check.sent_at, now)
        if self._valid_since is None:
            self._valid_since = now
            self._effects.append(Usable(pair))
        if check.nominates or (pair.is_nominated and not self.role.is_controlling):
            self._select(pair, now)

    # Requests

    def _requested(self, base: Base, data: bytes, message: Message, sender: Address, now: float) -> None:
        before = self.role
        reply, requested = self._answering.take(data, message, sender)
        if self.role != before:
            self._turned()
        if reply is not None:
            self._effects.append(Transmit(base, reply, sender))
        if requested is None:
            return
        if self._peer is not None:
            self._checked_by_peer(requested, base, sender, now)
        elif (base, sender) in self._early or len(self._early) < MAX_EARLY:
            early = self._early.get((base, sender))
            nominates = requested.nominates or (early is not None and early.nominates)
            self._early[base, sender] = requested._replace(nominates=nominates)

    def _turned(self) -> None:
        self._nominating = None
        self._list.turn(self.role.is_controlling)

    def _checked_by_peer(self, requested: Requested, base: Base, sender: Address, now: float) -> None:
        """Sections 7.3.1.3 to 7.3.1.5: the pair it came on is heard of, checked from this side, and maybe nominated."""
        pair = self._list.find(base, sender) or self._found(requested, base, sender)
        if pair is None:
            return
        pair.is_heard = True
        is_nominated = requested.nominates and not self.role.is_controlling
        pair.is_nominated |= is_nominated
        if pair.state is PairState.SUCCEEDED:
            if is_nominated:
                self._select(pair, now)
        elif self._is_checking or is_nominated:
            if pair.check is not None:
                pair.check.is_given_up = True
            self._check_at_once(pair, now)

    def _found(self, requested: Requested, base: Base, sender: Address) -> Pair | None:
        """A pair for a request that came on none; its sender may be a candidate that nobody has told of."""
        local = self._book.based_at(base)
        remote = self._book.sender_of(requested, local, sender) if local is not None else None
        return self._list.add(local, remote) if local is not None and remote is not None else None

    # Nomination, selection, and the end

    def _nominate(self, now: float) -> None:
        """Regular nomination (section 8.1.1), by the controlling side."""
        if not self.role.is_controlling or self._nominating is not None or self._valid_since is None:
            return
        best = self._list.best_valid
        if best is None:
            self._valid_since = None
        elif not best.is_relayed or now >= self._valid_since + RELAY_PATIENCE_S or not self._hopes(best):
            self._triggered.spend(now)
            self._nominating = self._check(best, now, nominates=True)

    def _hopes(self, than: Pair | None = None) -> bool:
        """Whether a pair may still become valid, better `than` that one."""
        if not (self._local_done and self._remote_done):
            return True
        least = than.priority if than is not None else -1
        return any(
            pair.is_pending or (than is None and pair.state is PairState.SUCCEEDED) for pair in self._above(least)
        )

    def _above(self, priority: int) -> Iterable[Pair]:
        return (pair for pair in self._list.pairs if pair.priority > priority)

    def _select(self, pair: Pair, now: float) -> None:
        """Of several that a peer nominates, the best (RFC 5245, section 8.1.1.2)."""
        assert self._peer is not None
        if self._selected is not None and self._selected.priority >= pair.priority:
            return
        self._selected = pair
        self._nominating = None
        if not self._keeps_paths:
            self._answering.forget_former()
            self._checks.give_up_all()
            self._upkeep = Consent(pair, self._peer, now, self._rng, self._random_bytes)
        self._effects.append(Selected(pair))

    def _look_after_paths(self, now: float) -> None:
        upkeep = self._upkeep
        if upkeep is None:
            return
        if upkeep.has_expired(now):
            self._lose()
            return
        was = upkeep.path
        self._effects += upkeep.requests(self.role, now)
        if isinstance(upkeep, LivePaths):
            if self._peer is not None and self._selected is not None:
                upkeep.retire(self._peer)
            if upkeep.path is not was:
                self._check_spares(upkeep)

    def _check_spares(self, live: LivePaths) -> None:
        """A path has died: those that worked once, and were too many to be kept alive, may take its place."""
        for pair in self._list.pairs:
            if pair.state is PairState.SUCCEEDED and pair not in live:
                self._list.trigger(pair)

    def _lose(self) -> None:
        """The peer consents to nothing any more; unless a restart is under way, that is the end."""
        if isinstance(self._upkeep, LivePaths):
            self._upkeep.clear()
        else:
            self._upkeep = None
        if self._selected is not None:
            self._selected = None
            self._list = CheckList(self.role.is_controlling)
            self._checks.clear()
            self._peer = self._retry_at = None
        self._effects.append(Lost())

    def _give_up(self, now: float) -> None:
        if self._has_failed or self._started_at is None or self._hopes():
            return
        if now >= self._started_at + FAILURE_PATIENCE_S:
            self._has_failed = True
            self._effects.append(Failed())

    # Data

    def _data(self, base: Base, data: bytes, sender: Address) -> list[Effect]:
        """Changes nothing, and no deadline: it is by far the most that arrives."""
        pair = self._list.find(base, sender)
        if self._upkeep is not None and (pair is None or not pair.is_heard):
            # After a restart the former path goes on, while the new pair of its ends has still to prove itself.
            pair = self._upkeep.find(base, sender)
        return [Received(data, pair)] if pair is not None and pair.is_heard else []
