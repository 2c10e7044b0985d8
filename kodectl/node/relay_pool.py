"""Relays that this node may use: those of linked peers, with credentials fetched before they are needed, and configured
TURN servers.

A relay that is full, off or silent is asked again some minutes later; until then others serve.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kodectl.errors import KodectlError, NegativeAnswer
from kodectl.node.ice import Allocate, Relay
from kodectl.node.lasting_relay import LastingRelay
from kodectl.node.peer import Peer
from kodectl.node.relay_race import first_of
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.runtime.base import Runtime, Scope
from kodectl.wire.rpc import Body, Relayed, RelayStatus
from kodectl.wire.rpc import Relay as RelayQuestion

log = logging.getLogger(__name__)

KEPT = 3
"""Peers whose credentials are at hand."""
USED = 2
"""Of them for one connection: the second is for when the first does not answer."""
RACING = 2
"""Peers that are asked for one relay, where the first is slow."""
LOOK_EVERY_S = 1.0
ASK_LIMIT_S = 3.0
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
"""After a refusal, doubling: a node that has just started does not know yet whether it can relay."""
MIN_LIFETIME_S = 60
"""Renewed at half life, credentials for less would be asked for all the time."""
MAX_LIFETIME_S = 3600.0
"""Of what is said; the relay may have been restarted since, which makes credentials worthless."""
IPV4 = 4


class Grant(NamedTuple):
    """Credentials at hand. They outlive the link by which they came."""

    peer: Peer
    relayed: Relayed
    renew_at: float
    ends_at: float


def is_usable(answer: Relayed) -> bool:
    """Whether it lets this node relay for as long as it takes to make a connection."""
    is_granted = answer.status == RelayStatus.GRANTED and answer.username and answer.password
    return bool(is_granted) and answer.lifetime_s >= MIN_LIFETIME_S


def _server_of(grant: Grant, over_tcp: bool) -> TurnServer:
    relayed, host = grant.relayed, grant.peer.remote[0]
    if over_tcp:
        return TurnServer(host, relayed.tcp_port, "tcp", relayed.username, relayed.password)
    return TurnServer(host, relayed.udp_port, "udp", relayed.username, relayed.password)


class RelayPool:
    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        peers: Callable[[], Sequence[Peer]],
        ask: Callable[[Peer, Body, float], Any],
        turn: tuple[TurnServer, ...] = (),
        is_needed: Callable[[], bool] = lambda: True,
    ) -> None:
        """`peers`: those to ask, best first; `ask` waits for a peer's answer. `is_needed`: whether to have credentials at
        hand. A node that strangers reach needs none, until it has lost UDP in the middle of a connection."""
        self._runtime = runtime
        self._scope = scope
        self._peers = peers
        self._ask = ask
        self._turn = turn
        self._is_needed = is_needed
        self._grants: dict[bytes, Grant] = {}
        self._asking: set[bytes] = set()
        self._answered = runtime.event()
        """By one of those that were asked: look again."""
        self._refused: dict[bytes, tuple[float, float]] = {}
        """Until when it is not asked, and how long that was."""

    def replace_servers(self, turn: tuple[TurnServer, ...]) -> None:
        """For allocations to come."""
        self._turn = turn

    def start(self) -> None:
        self._scope.spawn("relays at hand", self._keep)

    @property
    def at_hand(self) -> int:
        """Relays of peers that would be used now."""
        return len(self._usable())

    def allocators(self, *, over_tcp: bool, is_urgent: bool = False) -> tuple[Allocate, ...]:
        """For `IceTerms.relays`: two peers', and every configured server. Where it is urgent, peers whose credentials are not
        at hand too: it takes a round trip more."""
        count = USED if is_urgent else min(len(self._servers(over_tcp)), USED)
        hosts: list[str | None] = [None] * count
        peers = [self._of_peer(hosts, place, over_tcp) for place in range(count)]
        return (*peers, *(self._of_server(server) for server in self._turn))

    def _of_peer(self, hosts: list[str | None], place: int, over_tcp: bool) -> Allocate:
        """Which peer it is turns out when it is asked: with credentials of then, not with what has been lost, and not with
        what stands in another place of `hosts`, as long as there are others."""

        def next_one() -> Allocation:
            servers = self._attempts(hosts, place, over_tcp)
            if not servers:
                self._ask_now()
                servers = self._attempts(hosts, place, over_tcp)
            if not servers:
                raise NegativeAnswer("no peer relays at the moment", code="no_answer")
            one = first_of(self._runtime, self._scope, [self._allocation(server) for server in servers])
            hosts[place] = one.host
            return one

        def allocated(family: int) -> Relay:
            if family != IPV4:
                raise NegativeAnswer("peers relay IPv4", code="turn_family")
            return LastingRelay(self._runtime, self._scope, next_one)

        return allocated

    def _attempts(self, hosts: list[str | None], place: int, over_tcp: bool) -> list[TurnServer]:
        """One after the other; over UDP first, and over TCP in case that UDP does not get through any more."""
        transports = (True,) if over_tcp else (False, True)
        attempts = []
        for is_tcp in transports:
            # Those unused, then those used for something else, then the one that is to be replaced.
            servers = sorted(self._servers(is_tcp), key=lambda one: (one.host in hosts, one.host == hosts[place]))
            attempts += servers[:RACING]
        hosts[place] = attempts[0].host if attempts else None
        return attempts

    def _allocation(self, server: TurnServer) -> Allocation:
        return Allocation(self._runtime, self._scope, server, family=IPV4)

    def _servers(self, over_tcp: bool) -> list[TurnServer]:
        """Of peers; those last whose link is gone. A box that has forgotten everything takes all links, while the relays
        behind it are as good as ever."""
        grants = sorted(self._valid(), key=lambda grant: grant.peer.link.closed)
        servers = [_server_of(grant, over_tcp) for grant in grants]
        return [server for server in servers if server.port]

    def _of_server(self, server: TurnServer) -> Allocate:
        return lambda family: allocate(self._runtime, self._scope, server, family=family)

    def _usable(self) -> list[Grant]:
        return [grant for grant in self._valid() if not grant.peer.link.closed]

    def _valid(self) -> list[Grant]:
        now = self._runtime.now()
        return [grant for grant in self._grants.values() if grant.ends_at > now]

    def _remembered(self) -> list[Grant]:
        """As many of those without a link as are kept with one, the ones got last."""
        unlinked = [grant for grant in self._valid() if grant.peer.link.closed]
        return [*self._usable(), *sorted(unlinked, key=lambda grant: grant.ends_at)[-KEPT:]]

    # -- keeping them at hand --------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while True:
            now = self._runtime.now()
            self._grants = {grant.peer.node_id: grant for grant in self._remembered()}
            linked = {peer.node_id for peer in self._peers()}
            self._refused = {who: pause for who, pause in self._refused.items() if who in linked}
            if self._is_needed():
                self._ask_wanted(now)
            self._scope.sleep(LOOK_EVERY_S)

    def _ask_now(self) -> None:
        """Waits for the first that grants something, or the last that does not."""
        ends = self._runtime.now() + ASK_LIMIT_S
        self._ask_wanted(self._runtime.now())
        while self._asking and not self._valid() and (left_s := ends - self._runtime.now()) > 0:
            self._answered.clear()
            self._answered.wait(left_s)

    def _ask_wanted(self, now: float) -> None:
        for peer in self._wanted(now):
            self._asking.add(peer.node_id)
            self._scope.spawn(f"relay of {peer.node_id.hex()[:8]}", self._fetch, peer)

    def _wanted(self, now: float) -> list[Peer]:
        peers = [peer for peer in self._peers() if self._refused.get(peer.node_id, (0.0, 0.0))[0] <= now]
        return [peer for peer in peers[:KEPT] if peer.node_id not in self._asking and self._is_due(peer, now)]

    def _is_due(self, peer: Peer, now: float) -> bool:
        grant = self._grants.get(peer.node_id)
        return grant is None or grant.peer is not peer or now >= grant.renew_at

    def _fetch(self, peer: Peer) -> None:
        now = self._runtime.now()
        answer = None
        try:
            answer = self._ask(peer, RelayQuestion(), ASK_LIMIT_S)
        except KodectlError as error:
            log.debug("relay of %s: %s", peer.node_id.hex(), error)
        finally:
            self._asking.discard(peer.node_id)
        if answer is not None and is_usable(answer):
            lifetime_s = min(answer.lifetime_s, MAX_LIFETIME_S)
            self._grants[peer.node_id] = Grant(peer, answer, now + lifetime_s / 2, now + lifetime_s)
            self._refused.pop(peer.node_id, None)
        else:
            _, before_s = self._refused.get(peer.node_id, (0.0, FIRST_PAUSE_S / 2))
            pause_s = min(2 * before_s, LONGEST_PAUSE_S)
            self._refused[peer.node_id] = (now + pause_s, pause_s)
        self._answered.set()
