"""The relay that every publicly reachable node is for others: a TURN server on discovery's socket and on the TCP port.

Who wants to use it asks for credentials over a session that proves who it is; quotas are by that. It relays while the
node is reached at an address of its own: a socket behind a NAT would be of no use to anybody.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import ip_network

from kodectl.core.relay_credentials import RelayCredentials
from kodectl.core.stun_answers import BindingResponder, node_budget
from kodectl.core.turn_access import SECRET_SIZE
from kodectl.core.turn_allocations import RelayLimits
from kodectl.core.turn_reach import PRIVATE, Network
from kodectl.errors import WireError
from kodectl.node.stun_framing import read_framed
from kodectl.node.turn_server import RelayPlace, TurnService, TurnSettings, family_of, turn_service
from kodectl.node.views import RelayView
from kodectl.runtime.base import Address, Runtime, Scope, Stream, StreamClosed
from kodectl.wire.addresses import scope_of
from kodectl.wire.rpc import Relayed, RelayStatus

log = logging.getLogger(__name__)

REALM = "kodechain"
NODE_LIMITS = RelayLimits(
    allocations=128,
    user_allocations=8,
    network_allocations=32,
    bytes_per_s=500_000,
    packets_per_s=1_000,
    total_bytes_per_s=4_000_000,
    total_packets_per_s=8_000,
)
"""What a node does beside its own work: a socket and some kB for each allocation, a tenth of a core, and a share of a home
line of which its operator notices little. Blocks and transactions of one peer need a few kB/s."""
MAX_GRANTED = 1024
"""Addresses remembered; a client that is forgotten, or asks from another one, sends a request as long as its answer."""
MAX_BINDING = 512
"""Bytes of attributes of a Binding request over TCP."""
BINDING_LIMIT_S = 5.0
"""For all of it, as for a handshake."""

_SCOPES: dict[str, tuple[Network, ...]] = {
    "private": PRIVATE,
    "cgnat": PRIVATE,
    "benchmark": (ip_network("198.18.0.0/15"), ip_network("2001:2::/48")),
    "documentation": tuple(
        ip_network(one) for one in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
    ),
}
"""Whom a relay may send to beside public addresses, by the scope of its own: a private network relays privately. Loopback is
in none of them, and of the relay's own addresses only relayed ports can be reached."""


class Relaying:
    """Nothing waits but `serve_stream` and `stop`. `place`: where relayed sockets can be had at the moment; None while there
    is none to be had."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        limits: RelayLimits | None,
        place: Callable[[], RelayPlace | None],
        ports: Callable[[], tuple[int, int]],
    ) -> None:
        """`limits` None: it relays for nobody. `ports`: UDP and TCP, as others are to use them."""
        self.counters: Counter[str] = Counter()
        self._runtime = runtime
        self._scope = scope
        self._limits = limits
        self._place_now = place
        self._ports = ports
        self._credentials = RelayCredentials(REALM, runtime.random_bytes(SECRET_SIZE))
        self._binding = BindingResponder()
        self._granted_ips: OrderedDict[str, None] = OrderedDict()
        """Of those who got credentials last: they have shown that they are there."""
        self._place: RelayPlace | None = None
        self._service: TurnService | None = None
        self._send: Callable[[bytes, Address], None] = lambda data, address: None

    def start(self, send: Callable[[bytes, Address], None]) -> None:
        """`send`: of discovery's socket."""
        self._send = send
        self.follow()

    def follow(self) -> None:
        """The node's place may have changed. What was relayed at the former one ends."""
        place = self._place_now() if self._limits is not None else None
        if place == self._place:
            return
        before, self._service, self._place = self._service, None, place
        if before is not None:
            self._scope.spawn("end of a relay", before.stop)
        if place is not None and self._limits is not None:
            settings = TurnSettings(
                REALM,
                self._key_of,
                self._limits,
                neighbours=_SCOPES.get(scope_of(place.external_ip), ()),
                to_relays=True,
                budget=node_budget,
                may_grow=self._granted_ips.__contains__,  # senders can be forged
                held_key_of=self._held_key_of,
                account_of=self._credentials.account_of,
            )
            self._service = turn_service(self._runtime, settings, {family_of(place.external_ip): place})
            self._service.start(self._send)
            log.info("relays for others at %s", place.external_ip)

    def reconfigure(self, limits: RelayLimits | None) -> None:
        """Other limits, or None. What is relayed at the moment ends, and those who use it ask again."""
        if limits == self._limits:
            return
        self._limits = limits
        before, self._service, self._place = self._service, None, None
        if before is not None:
            self._scope.spawn("end of a relay", before.stop)
        self.follow()

    def stop(self) -> None:
        """Waits a moment, for connections to end."""
        service, self._service, self._limits = self._service, None, None
        if service is not None:
            service.stop()

    # -- what others ask for ---------------------------------------------------------------------------------------

    def grant(self, node_id: bytes, ip: str | None = None) -> Relayed:
        """Credentials, for who has proved to be this node; `ip`: and to be there."""
        if self._service is None or self._limits is None:
            self.counters["not_granted"] += 1
            return Relayed(RelayStatus.OFF)
        if self._service.allocations >= self._limits.allocations:
            self.counters["full"] += 1
            return Relayed(RelayStatus.FULL)
        self.counters["granted"] += 1
        if ip is not None:
            self._note(ip)
        name, password, lifetime_s = self._credentials.issue(node_id, self._runtime.now())
        udp, tcp = self._ports()
        return Relayed(RelayStatus.GRANTED, name, password, lifetime_s, udp, tcp)

    def _note(self, ip: str) -> None:
        self._granted_ips[ip] = None
        self._granted_ips.move_to_end(ip)
        if len(self._granted_ips) > MAX_GRANTED:
            self._granted_ips.popitem(last=False)

    def received(self, data: bytes, sender: Address) -> bool:
        """A datagram of discovery's socket; false for what is not TURN's."""
        return self._service is not None and self._service.received(data, sender)

    def serve_stream(self, stream: Stream) -> None:
        """A TCP connection that began as STUN's; waits until it ends."""
        service = self._service
        try:
            if service is not None:
                service.serve(stream, self._binding.answer)
            else:
                self._answer_once(stream)
        except (StreamClosed, WireError) as error:
            log.debug("STUN over TCP from %s: %s", stream.remote[0], error)
        finally:
            stream.close()

    def _answer_once(self, stream: Stream) -> None:
        """Binding requests are answered by every node."""
        limit = self._runtime.call_later(BINDING_LIMIT_S, stream.close)
        try:
            reply = self._binding.answer(read_framed(stream, MAX_BINDING), stream.remote, self._runtime.now())
            if reply is not None:
                stream.write(reply)
        finally:
            limit.cancel()

    def _key_of(self, username: str, algorithm: int) -> bytes | None:
        return self._credentials.key_of(username, algorithm, self._runtime.now())

    def _held_key_of(self, username: str, algorithm: int) -> bytes | None:
        return self._credentials.held_key_of(username, algorithm, self._runtime.now())

    # -- what can be asked -----------------------------------------------------------------------------------------

    def view(self) -> RelayView:
        counters = self._service.counters if self._service is not None else {}
        return RelayView(
            state="off" if self._limits is None else "on" if self._service is not None else "unreachable",
            address=self._place.external_ip if self._place is not None else None,
            allocations=self._service.allocations if self._service is not None else 0,
            max_allocations=self._limits.allocations if self._limits is not None else 0,
            relayed_bytes=counters.get("relayed_bytes", 0),
            relayed_packets=counters.get("relayed_packets", 0),
            granted=self.counters["granted"],
            refused=counters.get("refused", 0) + self.counters["full"],
        )
