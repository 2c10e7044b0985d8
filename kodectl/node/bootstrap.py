"""Getting into the network: bootstrap nodes, nodes remembered from before, and staying in."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.core.sessions import ANY_ID
from kodectl.errors import KodectlError, NegativeAnswer, PeerFault
from kodectl.node.discovery import Discovery
from kodectl.node.events import Events
from kodectl.node.kademlia import Kademlia, contact_of
from kodectl.node.views import BootstrapEntry
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.addresses import address_text
from kodectl.wire.contacts import Contact
from kodectl.wire.enode import Enode, parse_enode

log = logging.getLogger(__name__)

RESOLVE_LIMIT_S = 5.0
RETRY_FIRST_S = 5.0
RETRY_MOST_S = 300.0
"""Bootstrap nodes are asked again while the table is nearly empty, ever more rarely."""
FEW_NODES = 4
LOOK_EVERY_S = 5.0
"""Nobody tells of nodes that leave the table."""
SEEDS_AT_ONCE = 32
SEEDS_EVERY_S = 3.0
"""A dead seed is given up after four seconds: so they never wait for each other."""
JOIN_WAIT_S = 0.1
MAX_BOOTSTRAP = 64
MAX_ADDRESSES = 4
"""Asked of one bootstrap node, one after the other."""


class BootstrapNode:
    """What is known of one; `state` as in views.BootstrapEntry."""

    def __init__(self, enode: Enode) -> None:
        self.enode = enode
        self.state = "unknown"
        self.last_error: str | None = None
        self.rtt_s: float | None = None
        self.node_id: bytes | None = enode.node_id if enode.id_known else None
        self.asking = False

    def view(self) -> BootstrapEntry:
        rtt_ms = None if self.rtt_s is None else round(self.rtt_s * 1000, 3)
        return BootstrapEntry(str(self.enode), self.state, self.last_error, rtt_ms)  # type: ignore[arg-type]


def _state_of(trouble: KodectlError) -> str:
    if isinstance(trouble, NegativeAnswer):
        return "silent"
    return "clock_skew" if trouble.code == "clock_skew" else "wrong_identity"


class Bootstrap:
    """Asks each bootstrap node in a task of its own, so that dead ones delay nobody."""

    def __init__(
        self, runtime: Runtime, discovery: Discovery, kademlia: Kademlia, scope: Scope, events: Events
    ) -> None:
        self._runtime = runtime
        self._discovery = discovery
        self._kademlia = kademlia
        self._scope = scope
        self._events = events
        self._look = runtime.event()
        self.nodes: list[BootstrapNode] = []
        self.on_answer: Callable[[Enode], None] = lambda enode: None
        """Hears where a bootstrap node answered, as an enode with its id and a numeric host."""
        self.joined = False
        kademlia.on_new.append(lambda _contact: self._look.set())

    def start(self, enodes: tuple[str, ...], seeds: list[Contact]) -> None:
        """`seeds`: contacts that answered in an earlier run. Raises WireError for a broken enode."""
        self.nodes = [BootstrapNode(parse_enode(text)) for text in enodes[:MAX_BOOTSTRAP]]
        self._scope.spawn("join", self._stay_joined)
        if seeds:
            self._scope.spawn("seeds", self._ask_seeds, seeds)

    def replace(self, enodes: tuple[str, ...]) -> None:
        """Another list: what is known of those that stay is kept, new ones are asked at once. Raises WireError."""
        known = {str(node.enode): node for node in self.nodes}
        wanted = [parse_enode(text) for text in enodes[:MAX_BOOTSTRAP]]
        self.nodes = [known.get(str(enode)) or BootstrapNode(enode) for enode in wanted]
        self._ask_these([node for node in self.nodes if str(node.enode) not in known])

    def stop(self) -> None:
        self._look.set()

    def _ask_seeds(self, seeds: list[Contact]) -> None:
        for start in range(0, len(seeds), SEEDS_AT_ONCE):
            for seed in seeds[start : start + SEEDS_AT_ONCE]:
                self._kademlia.check(seed)
            self._scope.sleep(SEEDS_EVERY_S)

    def ask_all(self) -> int:
        """Asks every bootstrap node now, without waiting."""
        self._ask_these(self.nodes)
        return len(self.nodes)

    def _ask_these(self, nodes: list[BootstrapNode]) -> None:
        for node in nodes:
            if not node.asking:
                node.asking = True
                self._scope.spawn(f"bootstrap {node.enode.host}", self._ask, node)

    def _ask(self, node: BootstrapNode) -> None:
        try:
            self._ask_once(node)
        finally:
            node.asking = False

    def _ask_once(self, node: BootstrapNode) -> None:
        before = node.state
        try:
            node.state = "resolving" if before == "unknown" else before
            addresses = self._runtime.resolve(node.enode.host, RESOLVE_LIMIT_S, self._scope)
        except KodectlError as error:
            self._trouble(node, before, "not_resolved", error)
            return
        trouble: KodectlError | None = None
        # IPv4 first: every socket reaches that, and an answer that cannot come takes four seconds.
        for ip in sorted(addresses, key=lambda ip: ":" in ip)[:MAX_ADDRESSES]:
            try:
                self._ask_at(node, ip)
                return
            except (NegativeAnswer, PeerFault) as error:
                trouble = error
        trouble = trouble or NegativeAnswer("no address")
        self._trouble(node, before, _state_of(trouble), trouble)

    def _ask_at(self, node: BootstrapNode, ip: str) -> None:
        node_id = node.enode.node_id if node.enode.id_known else ANY_ID
        answer = self._discovery.ask(node_id, (ip, node.enode.udp), self._kademlia.ping_body())
        before = node.state
        node.state, node.last_error, node.rtt_s = "answered", None, answer.rtt_s
        node.node_id = answer.session.node_id
        self._kademlia.take_pong(answer.session, answer.body)
        contact = contact_of(answer.session)
        if before != "answered":
            self._events.emit(
                "bootstrap_answered",
                enode=str(node.enode),
                id=contact.node_id.hex(),
                addr=address_text(ip, node.enode.udp),
                rtt_ms=node.view().rtt_ms,
            )
        self.on_answer(Enode(contact.node_id, ip, contact.tcp_port, node.enode.udp))

    def _trouble(self, node: BootstrapNode, before: str, state: str, error: KodectlError) -> None:
        node.state, node.last_error = state, error.message
        if before != state:
            log.warning("bootstrap node %s:%d: %s (%s)", node.enode.host, node.enode.udp, error.message, state)
            self._events.emit("bootstrap_failed", enode=str(node.enode), state=state, error=error.message)

    def _stay_joined(self) -> None:
        """Joins as soon as anybody is known, from wherever; asks the bootstrap nodes again while there are few."""
        pause = RETRY_FIRST_S
        next_round = self._runtime.now()
        while True:
            now = self._runtime.now()
            if len(self._kademlia.table) >= FEW_NODES:
                pause, next_round = RETRY_FIRST_S, min(next_round, now + RETRY_FIRST_S)
            elif now >= next_round:
                self.ask_all()
                next_round = now + pause * self._runtime.rng.uniform(0.8, 1.2)
                pause = min(pause * 2, RETRY_MOST_S)
            self._look.wait(LOOK_EVERY_S)
            self._look.clear()
            self._scope.sleep(0)
            self._follow_table()

    def _follow_table(self) -> None:
        size = len(self._kademlia.table)
        if size and not self.joined:
            # A moment for other seeds to answer makes the first lookup a better one.
            self._scope.sleep(JOIN_WAIT_S)
            self._kademlia.join()
            self.joined = True
            size = len(self._kademlia.table)
            log.info("joined: %d nodes in the table", size)
            self._events.emit("joined", table_size=size)
        elif not size and self.joined:
            self.joined = False
            log.warning("no node of the table is left")
            self._events.emit("isolated")
