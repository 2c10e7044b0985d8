"""How this node is seen from outside, and whether strangers reach it: kept up to date while the node runs.

    gather   ask nodes of several networks at which address they see us          (core/observers.py)
    try      have some of them, and others through them, knock at our ports     (node/dial_back.py)
    conclude from what arrived                                                   (core/reachability.py)
    follow   be a DHT server or a DHT client, advertise what is true

Then a look every few seconds: at the machine's own addresses, and by a ping at what observers say. What differs from
before starts the whole anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from kodectl.core.nat import Behavior
from kodectl.core.observers import MIN_GROUPS, NOBODY, Belief, Observers, group_of
from kodectl.core.reachability import (
    BLOCKED,
    NOTHING_KNOWN,
    Evidence,
    Reach,
    Trial,
    conclude,
    is_less_than,
    is_thin,
    with_what_was_known,
)
from kodectl.errors import KodectlError
from kodectl.node.dial_back import DialBack, OwnPorts
from kodectl.node.discovery import Discovery
from kodectl.node.kademlia import Kademlia
from kodectl.node.stun_client import StunClient
from kodectl.node.udp_silence import UdpSilence
from kodectl.runtime.base import Address, LocalNetwork, Runtime, Scope, Stopped
from kodectl.wire import packets
from kodectl.wire.addresses import scope_of
from kodectl.wire.contacts import Contact

log = logging.getLogger(__name__)

JOIN_GRACE_S = 0.7
"""After the first node is known: joining finds the others within a few round trips."""
MAX_ASKED = 12
"""Observers asked for our address in one round; a minority of liars among eight stays one."""
GATHER_LIMIT_S = 1.5
GATHER_STEP_S = 0.05
MAX_TRIALS = 4
"""Observers that knock: three liars leave an honest one."""
LOOK_EVERY_S = 8.0
"""Also what keeps a NAT's mapping alive: the shortest that are met last 30 s."""
PINGS_A_LOOK = 2
SILENCE_STEP_S = 1.0
TRY_AGAIN_FIRST_S = 4.0
TRY_AGAIN_MOST_S = 300.0
"""While something is unknown, ever more rarely; and always so often when nothing is."""
RECHECK_GAP_S = 5.0
"""Between two rounds that observers have caused: one who says something else each time must not keep the node busy."""
DISTRUST_S = 300.0
"""How long an observer whose news turned out to be none causes nothing any more."""
MAX_TOLD = 64
"""Contacts that are told at once that this node is now a client, or a server; others learn it with the next packet."""
STUN_LIMIT_SCHEDULE = (0.3, 0.5, 0.8)
RESOLVE_LIMIT_S = 3.0


class Reachability:
    """`belief` and `reach` are the last conclusions, `is_translated` None as long as nobody has said anything.
    `on_changed` hears when one of them has changed."""

    def __init__(
        self,
        runtime: Runtime,
        discovery: Discovery,
        kademlia: Kademlia,
        dial_back: DialBack,
        scope: Scope,
        stun_servers: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self._runtime = runtime
        self._discovery = discovery
        self._kademlia = kademlia
        self._dial_back = dial_back
        self._scope = scope
        self._stun_servers = stun_servers
        self.stun = StunClient(runtime, discovery.send)
        self.silence = UdpSilence(runtime, kademlia)
        self.observers = Observers()
        self.belief = NOBODY
        self.reach: Reach = NOTHING_KNOWN
        self.is_translated: bool | None = None
        self.checked_at: float | None = None
        self.local: LocalNetwork = runtime.local_network()
        self.tcp_port: Callable[[], int] = lambda: 0
        """The TCP port that the outside is told."""
        self.mapped_port: Callable[[], int | None] = lambda: None
        """The outer port from which a router says that it forwards to the discovery port."""
        self.on_changed: Callable[[], None] = lambda: None
        self._again = runtime.event()
        self._is_stopping = False
        self._last_round = float("-inf")
        self._distrusted: dict[bytes, float] = {}
        self._suspects: set[bytes] = set()
        kademlia.on_new.append(self._newcomer)

    def start(self) -> None:
        self._scope.spawn("reachability", self._keep_known)

    def stop(self) -> None:
        self._is_stopping = True
        self.stun.close()
        self._again.set()

    def look_again(self) -> None:
        """Something has changed that may matter: a mapping, an address."""
        self._again.set()

    def replace_servers(self, stun_servers: tuple[tuple[str, int], ...]) -> None:
        """Other STUN servers to ask beside the peers, from now on."""
        if stun_servers != self._stun_servers:
            self._stun_servers = stun_servers
            self._again.set()

    def observed(self, node_id: bytes, observer_ip: str, seen: Address) -> None:
        """An observer's word. What differs from its last one is looked into, if it would matter."""
        now = self._runtime.now()
        before = self.observers.hear(node_id, observer_ip, seen, now)
        if before is None or before == seen or self._distrusted.get(node_id, now) > now:
            return
        # Ports differ from one mapping to the next where mappings depend on the destination; that is no news.
        if before[0] != seen[0] or self.belief.mapping is Behavior.ENDPOINT_INDEPENDENT:
            self._suspects.add(node_id)
            self._again.set()

    # -- the loop --------------------------------------------------------------------------------------------------

    def _keep_known(self) -> None:
        pause_s = TRY_AGAIN_FIRST_S
        while True:
            self._await_nodes()
            changed = self._round()
            known = self.reach.udp is not None and self.belief.ip is not None
            pause_s = TRY_AGAIN_FIRST_S if changed else min(pause_s * 2, TRY_AGAIN_MOST_S)
            self._watch(TRY_AGAIN_MOST_S if known else pause_s)

    def _await_nodes(self) -> None:
        """With nobody to ask, and nothing known that may be over."""
        table = self._kademlia.table
        if len(table) or self.reach not in (NOTHING_KNOWN, BLOCKED):
            return
        while not len(table):
            self._wait_for_news(SILENCE_STEP_S)
            self._look_at_silence()
            self._look_at_strangers()
        self._scope.sleep(JOIN_GRACE_S)

    def _wait_for_news(self, limit_s: float) -> bool:
        is_news = self._again.wait(limit_s)
        self._again.clear()
        if self._is_stopping:
            raise Stopped
        return is_news

    def _watch(self, limit_s: float) -> None:
        """Returns when it is time for another round."""
        ends = self._runtime.now() + limit_s * self._runtime.rng.uniform(0.8, 1.2)
        while (left_s := ends - self._runtime.now()) > 0:
            if self._wait_for_news(min(left_s, LOOK_EVERY_S)):
                # Whatever came during the last round, or right after it, is looked into when its time has come.
                ends = min(ends, self._last_round + RECHECK_GAP_S)
            elif self._runtime.local_network() != self.local or self._look_at_silence() or self._maps_otherwise():
                return
            else:
                long_ago = self._runtime.now() - LOOK_EVERY_S
                self._ask(self._contacts_of_many_networks(PINGS_A_LOOK, not_heard_since=long_ago))

    def _maps_otherwise(self) -> bool:
        """Where each observer sees another port, news of ports are none, until most of them see the same."""
        return self.observers.belief(self._runtime.now()).mapping not in (None, self.belief.mapping)

    def _newcomer(self, contact: Contact) -> None:
        is_wanted = self.belief.groups < MIN_GROUPS or self.observers.is_further(contact.ip, self._runtime.now())
        if self.checked_at is None or is_wanted:
            self._again.set()

    def _look_at_silence(self) -> bool:
        """Whether UDP is found to be blocked, and that is new."""
        if not self.silence.is_proved() or self.reach == BLOCKED:
            return False
        self.observers.forget_before(self._runtime.now())
        self._publish(NOBODY, None, BLOCKED)
        return True

    def _look_at_strangers(self) -> None:
        """With nobody to ask: the first node of a network, say, all others of which are behind NATs. What is a public address
        of the machine's own, and is reached by those that nothing was sent to, needs no observers."""
        self._see_local_network()
        if self.reach.udp is None and self._strangers_get_in():
            self._publish(NOBODY, False, conclude(Evidence(False, None, [Trial(own_udp_stranger=True)])))

    def _strangers_get_in(self) -> bool:
        source = self.local.source or self.local.source6
        return (
            source is not None
            and scope_of(source) == "public"
            and self._discovery.strangers.get_in(source, self._runtime.now())
        )

    def _see_local_network(self) -> bool:
        """Whether it is another one than before; what strangers have proved was proved there."""
        before, self.local = self.local, self._runtime.local_network()
        if before == self.local:
            return False
        self._discovery.strangers.forget()
        return True

    def _round(self) -> bool:
        """Gathers, tries, concludes, follows; whether anything has changed."""
        self._last_round = started = self._runtime.now()
        suspects, self._suspects = self._suspects, set()
        if self._see_local_network() or suspects:
            self.observers.forget_before(started)
        belief = self._gather(started)
        is_translated = self._is_translated(belief)
        reach = self._try(belief, is_translated)
        if self.is_translated == is_translated and self.belief.hint == belief.hint:
            reach = with_what_was_known(reach, self.reach, is_translated)
        changed = self._publish(belief, is_translated, reach)
        if suspects and not changed:
            now = self._runtime.now()
            self._distrusted = {who: until for who, until in self._distrusted.items() if until > now}
            self._distrusted.update((who, now + DISTRUST_S) for who in suspects)
        return changed

    # -- gathering -------------------------------------------------------------------------------------------------

    def _gather(self, started: float) -> Belief:
        """Waits until everybody asked has answered, for a second or two at most: the first few may all be liars."""
        asked = self._contacts_of_many_networks(MAX_ASKED, not_heard_since=started)
        self._ask(asked)
        for server in self._stun_servers:
            self._scope.spawn(f"stun {server[0]}", self._ask_stun, server)
        awaited = {contact.node_id for contact in asked} | {_stun_voice(server) for server in self._stun_servers}
        ends = started + GATHER_LIMIT_S
        while self._runtime.now() < ends and not awaited <= set(self.observers.heard_since(started)):
            self._scope.sleep(GATHER_STEP_S)
        belief = self.observers.belief(self._runtime.now())
        # What enough have said stays believed as long as most of the fewer that still answer say the same.
        return belief._replace(ip=belief.hint) if belief.hint == self.belief.ip else belief

    def _ask(self, contacts: list[Contact]) -> None:
        for contact in contacts:
            self._kademlia.check(contact)

    def _contacts_of_many_networks(
        self, count: int, *, among: list[bytes] | None = None, not_heard_since: float | None = None
    ) -> list[Contact]:
        """At random, one of each network as long as there are such; of those `among` them, or whose word is older."""
        contacts = self._kademlia.table.contacts()
        if among is not None:
            contacts = [contact for contact in contacts if contact.node_id in among]
        if not_heard_since is not None:
            heard = set(self.observers.heard_since(not_heard_since))
            contacts = [contact for contact in contacts if contact.node_id not in heard]
        self._runtime.rng.shuffle(contacts)
        groups: set[str] = set()
        first: list[Contact] = []
        others: list[Contact] = []
        for contact in contacts:
            (others if group_of(contact.ip) in groups else first).append(contact)
            groups.add(group_of(contact.ip))
        return [*first, *others][:count]

    def _ask_stun(self, server: tuple[str, int]) -> None:
        """A configured server is one voice more, of its own network."""
        host, port = server
        try:
            ip = self._runtime.resolve(host, RESOLVE_LIMIT_S, self._scope)[0]
            answer = self.stun.ask((ip, port), schedule=STUN_LIMIT_SCHEDULE)
        except KodectlError as error:
            log.debug("STUN server %s:%d: %s", host, port, error)
            return
        self.observers.hear(_stun_voice(server), ip, answer.mapped, self._runtime.now())

    def _is_translated(self, belief: Belief) -> bool | None:
        if belief.hint is not None:
            return belief.hint not in self.local.addresses
        known = self.is_translated if belief.groups else None
        return False if known is None and self._strangers_get_in() else known

    # -- trying ----------------------------------------------------------------------------------------------------

    def _try(self, belief: Belief, is_translated: bool | None) -> Reach:
        """From all knocks together: an arrival stays proof, whatever was lost before or after it."""
        trials = self._knocks(belief)
        reach = self._concluded(belief, is_translated, trials)
        if is_less_than(reach, self.reach) or is_thin(reach, trials):
            # Rare and grave: tables lose this node, or nobody dials it any more. So it is asked twice.
            trials += self._knocks(belief)
            reach = self._concluded(belief, is_translated, trials)
        return reach

    def _knocks(self, belief: Belief) -> list[Trial]:
        witnesses = self.observers.witnesses_since(self._last_round, belief.hint)
        observers = self._contacts_of_many_networks(MAX_TRIALS, among=witnesses)
        return self._dial_back.try_with(observers, partial(self._own_ports, belief))

    def _concluded(self, belief: Belief, is_translated: bool | None, trials: list[Trial]) -> Reach:
        reach = conclude(Evidence(is_translated, belief.mapping, trials, self.mapped_port() is not None))
        if reach.udp is None and not is_translated and self._strangers_get_in():
            came = Trial(own_udp_stranger=True)
            reach = conclude(Evidence(False, belief.mapping, [*trials, came]))
        return reach

    def _own_ports(self, belief: Belief, observer: Contact) -> OwnPorts:
        """Of the discovery port: the outer one that a router forwards. Without such the one that the observer sees, if
        that is of any use to others: else somebody may have forwarded the very port."""
        seen = self.observers.seen_by(observer.node_id)
        udp = self._discovery.port
        if seen is not None and belief.mapping is not Behavior.ADDRESS_DEPENDENT:
            udp = seen[1]
        return OwnPorts(self.mapped_port() or udp, self.tcp_port())

    # -- following -------------------------------------------------------------------------------------------------

    def _publish(self, belief: Belief, is_translated: bool | None, reach: Reach) -> bool:
        before = (self.belief[:4], self.is_translated, self.reach)
        self.belief, self.is_translated, self.reach = belief, is_translated, reach
        self.checked_at = self._runtime.now()
        changed = before != (belief[:4], is_translated, reach)
        if changed:
            self.on_changed()
        return changed

    @property
    def is_reached(self) -> bool:
        """Whether to be a DHT server: proved, or nothing speaks against it."""
        return self.reach.udp if self.reach.udp is not None else self.is_translated is not True

    def tell(self, is_server: bool) -> None:
        """From now on a DHT server, or a client; neighbours hear it at once."""
        sessions = self._discovery.sessions
        flags = sessions.flags & ~packets.FLAG_CLIENT | (0 if is_server else packets.FLAG_CLIENT)
        if flags != sessions.flags:
            sessions.flags = flags
            self._ask(self._kademlia.table.closest(self._kademlia.table.own_id, MAX_TOLD))


def _stun_voice(server: tuple[str, int]) -> bytes:
    return f"stun {server[0]} {server[1]}".encode()
