"""Kademlia's procedures: join, iterative lookups, and the upkeep of the routing table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Any, NamedTuple

from kodectl.core.exchange import is_worth_telling, reach_of
from kodectl.core.lookup import ALPHA, MAX_QUESTIONS, PATHS, Lookup
from kodectl.core.peer_clocks import PeerClocks
from kodectl.core.requests import Notice
from kodectl.core.sessions import Session
from kodectl.core.table import Change, K, RoutingTable
from kodectl.errors import PeerFault, WireError
from kodectl.node.discovery import ANSWER_LIMIT_S, Discovery, read_answer
from kodectl.runtime.base import Address, Runtime, Scope, TimedOut
from kodectl.runtime.rounds import Rounds
from kodectl.wire import rpc
from kodectl.wire.contacts import Contact, is_unicast, pack_contacts, pack_ip, unpack_contacts, unpack_ip

log = logging.getLogger(__name__)

MAX_CONTACTS = K
"""In one answer; more is an offence."""
REVALIDATE_EVERY_S = 5.0
REVALIDATE_AFTER_S = 300.0
REVALIDATE_AT_ONCE = 4
REFRESH_EVERY_S = 60.0
REFRESH_AFTER_S = 1800.0
REFRESH_K = 8
"""A look into a bucket is after nodes for it, not after the very closest to anything."""
SELF_LOOKUP_FIRST_S = 10.0
"""A node that joined through one that knew nobody yet would stay alone: it looks for its neighbours again after 10, 30, 90 s
and so on, up to every half hour."""
CHECK_OLDEST_AFTER_S = 30.0
"""A node heard so recently is taken for alive when a newcomer wants its place."""
MAX_CHECKS = 64
"""Pings under way to nodes whose place is wanted, or that are to be asked again."""


NO_MORE = 0
ALL = MAX_QUESTIONS
"""What the caller of a lookup may want of it."""


class Hop(NamedTuple):
    """One question of a lookup; `outcome` is answered | timeout | error."""

    round: int
    contact: Contact
    outcome: str
    rtt_s: float | None
    contacts: int
    new_contacts: int


class Found(NamedTuple):
    """The end of a lookup: `closest` answered, closest first."""

    target: bytes
    found: bool
    closest: list[Contact]
    messages: int
    rounds: int
    elapsed_s: float


class Kademlia:
    """Owns the table; answers ping and find_node. `on_new(contact)` hears of each node that enters the table."""

    def __init__(self, runtime: Runtime, discovery: Discovery, scope: Scope) -> None:
        self._runtime = runtime
        self._discovery = discovery
        self._scope = scope
        self.table = RoutingTable(discovery.identity.node_id)
        self.lookups = 0
        """Since the start."""
        self.on_new: list[Callable[[Contact], object]] = []
        self.on_change: Callable[[Contact, str | None], object] = _ignore_change
        """Hears of each node that enters the table (None), and why one leaves it: silent, client or banned."""
        self.on_observed: Callable[[bytes, str, Address], object] = _ignore_observation
        """Hears from each pong who (id and IP) saw us at which address; what that means is decided elsewhere."""
        self.clocks = PeerClocks()
        self.heard_at: float | None = None
        """When anybody was last heard over UDP."""
        self._checking: set[Contact] = set()
        self._self_lookup_pause_s = SELF_LOOKUP_FIRST_S
        self._next_self_lookup = self._next_refresh = inf
        discovery.handlers[rpc.Kind.PING] = self._serve_ping
        discovery.handlers[rpc.Kind.FIND_NODE] = self._serve_find_node
        discovery.on_heard = self._heard
        discovery.on_failed = self._failed

    def start(self) -> None:
        now = self._runtime.now()
        self._next_self_lookup, self._next_refresh = now + self._self_lookup_pause_s, now + REFRESH_EVERY_S
        Rounds(self._runtime, self._scope, "table upkeep", self._until_upkeep, self._upkeep)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _serve_ping(self, session: Session, ping: rpc.Ping) -> rpc.Pong:
        session.flags, session.tcp_port = ping.flags, ping.tcp_port
        ip, port = session.address
        sessions = self._discovery.sessions
        time_ms = max(0, int(self._runtime.unix_time() * 1000))
        return rpc.Pong(sessions.flags, sessions.tcp_port, pack_ip(ip), port, time_ms)

    def _serve_find_node(self, session: Session, question: rpc.FindNode) -> rpc.Nodes:
        return rpc.Nodes(self.closest_packed(question.target))

    def closest_packed(self, target: bytes, limit: int = K) -> bytes:
        return pack_contacts(self.table.closest(target, limit))

    # -- what the table learns -------------------------------------------------------------------------------------

    def _heard(self, session: Session) -> None:
        """Whoever brought back a cookie or answers us is at its address, whichever side asked first."""
        now = self.heard_at = self._runtime.now()
        if session.is_client:
            self._leave_out(session)
            return
        if self.table.refresh(session.node_id, session.address, session.tcp_port, now):
            return
        contact = contact_of(session)
        change = self.table.heard(contact, now)
        if change is Change.ADDED:
            self.on_change(contact, None)
            for listener in self.on_new:
                listener(contact)
        elif change is Change.WAITING:
            self._check_oldest(contact)
        elif change is Change.ELSEWHERE:
            self.check_known(contact.node_id)

    def _leave_out(self, client: Session) -> None:
        """A node that has become a client leaves its place. A command that lends its identity from another socket is a
        client too, and says nothing about the node."""
        known = self.table.contact(client.node_id)
        if known is not None and known.address == client.address:
            self.remove(client.node_id, "client")

    def _check_oldest(self, newcomer: Contact) -> None:
        """Test before evict: the newcomer waits while the one heard longest ago is asked."""
        index = self.table.bucket_index(newcomer.node_id)
        oldest = self.table.oldest_in(index, self._runtime.now() - CHECK_OLDEST_AFTER_S)
        if oldest is not None:
            self.check(oldest)

    def remove(self, node_id: bytes, why: str) -> None:
        """Takes a node out of the table at once."""
        known = self.table.contact(node_id)
        self._left(known, self.table.remove(node_id), why)

    def _failed(self, node_id: bytes, address: Address) -> None:
        known = self.table.contact(node_id)
        self._left(known, self.table.failed(node_id, address), "silent")

    def _left(self, known: Contact | None, replacement: Contact | None, why: str) -> None:
        """`known`: who was there before; `replacement`: who has its place now, if anybody, and is to be asked."""
        if known is not None and known.node_id not in self.table:
            self.on_change(known, why)
        if replacement is None:
            return
        if known is None or replacement.node_id != known.node_id:
            self.on_change(replacement, None)
        self.check(replacement)

    def check(self, contact: Contact) -> None:
        """Pings without waiting; what comes of it reaches the table by `_heard` and `_failed`."""
        if contact in self._checking or len(self._checking) >= MAX_CHECKS:
            return
        self._checking.add(contact)

        def over(*_: object) -> None:
            self._checking.discard(contact)

        def notice(what: Notice | PeerFault) -> None:
            if what is not Notice.SLOW:
                over()

        def pong(session: Session, kind: int, packed: bytes, rtt_s: float) -> None:
            over()
            try:
                self.take_pong(session, read_answer(kind, packed))
            except PeerFault as error:
                log.debug("pong of %s: %s", contact, error)

        self._discovery.request(contact.node_id, contact.address, self.ping_body(), pong, notice)

    def ping_body(self) -> rpc.Ping:
        sessions = self._discovery.sessions
        return rpc.Ping(sessions.flags, sessions.tcp_port)

    def take_pong(self, observer: Session, pong: rpc.Pong) -> None:
        """Takes its flags, as from a ping: what has become a client leaves the table. Raises WireError for an observed
        address that is none."""
        ip = unpack_ip(pong.observed_ip)
        if not is_unicast(ip):
            raise WireError(f"nobody is seen at {ip}")
        observer.flags, observer.tcp_port = pong.flags, pong.tcp_port
        self._heard(observer)
        if pong.time_ms:
            self.clocks.hear(observer.address[0], pong.time_ms / 1000, self._runtime.now())
        self.on_observed(observer.node_id, observer.address[0], (ip, pong.observed_port))

    def check_known(self, node_id: bytes) -> None:
        """Asks a node of the table again: its link broke, or it was heard at another address."""
        contact = self.table.contact(node_id)
        if contact is not None:
            self.check(contact)

    # -- lookups ---------------------------------------------------------------------------------------------------

    def find(
        self,
        target: bytes,
        seeds: Iterable[Contact] = (),
        stop_at_target: bool = True,
        trace: Callable[[Hop], None] | None = None,
    ) -> Found:
        """Finds the 16 nodes closest to `target`, or the target itself; waits."""
        return self.iterate(target, rpc.FindNode(target), seeds, stop_at_target, trace)

    def iterate(
        self,
        target: bytes,
        question: rpc.Body,
        seeds: Iterable[Contact] = (),
        stop_at_target: bool = False,
        trace: Callable[[Hop], None] | None = None,
        take: Callable[[Contact, Any], int] | None = None,
        k: int = K,
        paths: int = PATHS,
        alpha: int = ALPHA,
    ) -> Found:
        """Asks ever closer nodes `question`. Each answer has `contacts`; `take(contact, answer)` sees it too, and returns how
        many more are wanted: `NO_MORE` ends the lookup."""
        started = self._runtime.now()
        self.lookups += 1
        seeds = [*self.table.closest(target), *seeds]
        own_id = self._discovery.identity.node_id
        lookup = Lookup(target, own_id, seeds, k, alpha, stop_at_target=stop_at_target, paths=paths)
        reports = self._runtime.mailbox(2 * ANSWERS_WAITING)
        named: dict[bytes, Contact] = {}
        while True:
            for contact in lookup.questions():
                self._discovery.request(
                    contact.node_id,
                    contact.address,
                    question,
                    partial(_report, reports.put, contact, named),
                    partial(_report_notice, reports.put, contact),
                )
            if lookup.over:
                break
            try:
                contact, outcome, rtt_s = reports.get(ANSWER_LIMIT_S)
            except TimedOut:
                break
            if self._take_report(lookup, contact, outcome, rtt_s, trace, take):
                break
        elapsed_s = self._runtime.now() - started
        return Found(target, lookup.found, lookup.closest(), lookup.questions_asked, lookup.rounds, elapsed_s)

    def _take_report(
        self,
        lookup: Lookup,
        contact: Contact,
        outcome: Any,
        rtt_s: float | None,
        trace: Callable[[Hop], None] | None,
        take: Callable[[Contact, Any], int] | None,
    ) -> bool:
        if outcome is Notice.SLOW:
            lookup.slow(contact)
            return False
        if isinstance(outcome, Notice | PeerFault):
            lookup.failed(contact)
            if trace is not None:
                trace(Hop(lookup.rounds, contact, "timeout" if outcome is Notice.TIMEOUT else "error", None, 0, 0))
            return False
        contacts, answer = outcome
        news = lookup.answered(contact, contacts)
        if trace is not None:
            trace(Hop(lookup.rounds, contact, "answered", rtt_s, len(contacts), news))
        if take is None:
            return False
        wanted = take(contact, answer)
        lookup.want(wanted)
        return wanted == NO_MORE

    # -- joining and upkeep ----------------------------------------------------------------------------------------

    def join(self) -> None:
        """With at least one node in the table: looks for ourselves, which tells our neighbours of us, and into every
        bucket with room that is not our neighbourhood. Waits."""
        self.find(self.table.own_id, stop_at_target=False)
        for index in self.table.thin_buckets():
            self._look_into(index)

    def _look_into(self, index: int) -> None:
        self.table.refreshed(index, self._runtime.now())
        target = self.table.random_id_in(index, self._runtime.rng)
        self.iterate(target, rpc.FindNode(target), k=REFRESH_K, paths=1)

    def _until_upkeep(self) -> float:
        return REVALIDATE_EVERY_S * self._runtime.rng.uniform(0.8, 1.2)

    def _upkeep(self) -> None:
        now = self._runtime.now()
        for contact in self.table.to_revalidate(now, REVALIDATE_AFTER_S, REVALIDATE_AT_ONCE):
            self.check(contact)
        if now >= self._next_self_lookup and len(self.table):
            self._self_lookup_pause_s = min(self._self_lookup_pause_s * 3, REFRESH_AFTER_S)
            self._next_self_lookup = now + self._self_lookup_pause_s
            self.find(self.table.own_id, stop_at_target=False)
        elif now > self._next_refresh:
            self._next_refresh = now + REFRESH_EVERY_S
            for index in self.table.stale_buckets(now, REFRESH_AFTER_S):
                self._look_into(index)


ANSWERS_WAITING = 256
"""Reports of one lookup that can wait; more than it ever has under way."""


def contact_of(session: Session) -> Contact:
    return Contact(session.node_id, session.address[0], session.address[1], session.tcp_port)


def _report(
    put: Callable[[Any], bool],
    contact: Contact,
    named: dict[bytes, Contact],
    session: Session,
    kind: int,
    packed: bytes,
    rtt_s: float,
) -> None:
    """`named`: the contacts of earlier answers, by their packed form; those of one lookup overlap for the most part."""
    try:
        answer = read_answer(kind, packed)
        contacts = unpack_contacts(answer.contacts, MAX_CONTACTS, named)
    except PeerFault as error:
        put((contact, error, None))
        return
    # Whoever is far away cannot know this machine's loopback, and must not make it dial into its own network.
    reach = reach_of(session.address[0])
    told: list[Contact] = []
    for one in contacts:
        if one.packed not in named:
            if not is_worth_telling(one.ip, reach):
                continue
            named[one.packed] = one
        told.append(one)
    put((contact, (told, answer), rtt_s))


def _report_notice(put: Callable[[Any], bool], contact: Contact, notice: Notice | PeerFault) -> None:
    put((contact, notice, None))


def _ignore_change(contact: Contact, why: str | None) -> None:
    pass


def _ignore_observation(node_id: bytes, observer_ip: str, seen: Address) -> None:
    pass
