"""Finding nodes on the same network without asking anybody: signed announcements by broadcast and multicast."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from kodectl.core.identity import Identity
from kodectl.core.limits import TokenBucket
from kodectl.errors import EnvironmentFault, WireError
from kodectl.runtime.base import Address, LanSocket, Runtime, Scope
from kodectl.wire.announcement import (
    Announcement,
    EnodeData,
    Ports,
    announcement_statement,
    pack_announcement,
    unpack_announcement,
)
from kodectl.wire.contacts import is_unicast, pack_ip, unpack_ip
from kodectl.wire.enode import Enode
from kodectl.wire.suite import node_id_of

log = logging.getLogger(__name__)

LAN_PORT = 30301
ANNOUNCE_EVERY_S = 30.0
FIRST_ANNOUNCEMENTS_S = (0.0, 1.0, 3.0)
"""The first may be lost, or reach nodes that are about to start."""
ANSWER_GAP_S = 1.0
"""A newcomer is answered by an announcement out of turn, at most once in this time."""
WINDOW_S = 60.0
"""Clocks on one network may differ by so much."""
CHECKS_PER_S, CHECKS_BURST = 50.0, 200.0
"""Signatures checked: a flooder on the network takes 1 % of a core."""
MAX_KNOWN = 1024
ANY_IPS = ("0.0.0.0", "::")


class Lan:
    """`on_found(enode)` hears of every announcement that holds, also of nodes known already."""

    def __init__(
        self, runtime: Runtime, identity: Identity, network: str, scope: Scope, on_found: Callable[[Enode], None]
    ) -> None:
        self._runtime = runtime
        self._identity = identity
        self._network = network
        self._scope = scope
        self._on_found = on_found
        self._latest: dict[bytes, int] = {}
        """Timestamp of the last announcement of each id, oldest id first."""
        self._budget = TokenBucket(CHECKS_PER_S, CHECKS_BURST)
        self._socket: LanSocket | None = None
        self._ports = Ports(0, 0)
        self._announced = float("-inf")
        self._last_timestamp = 0
        self.dropped: Counter[str] = Counter()

    def start(self, ports: Ports) -> None:
        """Raises EnvironmentFault where the network allows no multicast."""
        self._ports = ports
        self._socket = self._runtime.open_lan(LAN_PORT, self._datagram)
        self._scope.spawn("lan announcements", self._announce_for_ever)

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _announce_for_ever(self) -> None:
        passed = 0.0
        for at in FIRST_ANNOUNCEMENTS_S:
            self._scope.sleep(at - passed)
            passed = at
            self.announce()
        while True:
            self._scope.sleep(ANNOUNCE_EVERY_S * self._runtime.rng.uniform(0.8, 1.2))
            self.announce()

    def announce(self) -> None:
        if self._socket is None:
            return
        # Receivers take only what is newer than the last, so two in one second, or a clock set back a little, still
        # count up. Set back by more, counting on would leave everybody's time window.
        timestamp = int(self._runtime.unix_time())
        if self._last_timestamp - timestamp < WINDOW_S / 2:
            timestamp = max(timestamp, self._last_timestamp + 1)
        self._last_timestamp = timestamp
        identity = self._identity
        data = EnodeData(identity.node_id.hex(), ANY_IPS[0], self._ports, self._network, identity.public_key.hex())
        signature = identity.sign(announcement_statement(data, timestamp))
        self._announced = self._runtime.now()
        self._socket.announce(pack_announcement(data, timestamp, signature))

    def _datagram(self, packed: bytes, sender: Address) -> None:
        try:
            announcement = unpack_announcement(packed)
        except WireError:
            self.dropped["malformed"] += 1
            return
        try:
            enode = self._check(announcement, sender)
        except WireError as error:
            self.dropped[error.message] += 1
            return
        if enode is None:
            return
        is_new = enode.node_id not in self._latest
        self._remember(enode.node_id, announcement.timestamp)
        if is_new and self._runtime.now() - self._announced > ANSWER_GAP_S:
            self.announce()
        self._on_found(enode)

    def _check(self, announcement: Announcement, sender: Address) -> Enode | None:
        """The enode to be reached, None for our own and for repeated ones. Raises WireError for what does not hold."""
        data = announcement.data
        node_id, public_key = bytes.fromhex(data.id), bytes.fromhex(data.public_key)
        if node_id == self._identity.node_id:
            return None
        if data.network != self._network:
            raise WireError("another network's")
        unix_time = self._runtime.unix_time()
        if abs(announcement.timestamp - unix_time) > WINDOW_S:
            raise WireError("outside the time window")
        latest = self._latest.get(node_id, -1)
        # One from beyond the window was taken before this machine's clock was set back, and would shut its node out.
        if announcement.timestamp <= latest <= unix_time + WINDOW_S:
            return None
        if node_id_of(public_key) != node_id:
            raise WireError("id and public key do not match")
        # Believing any other would let one node on the LAN send all of them to somebody else's door.
        if data.ip not in ANY_IPS and _numeric(data.ip) != sender[0]:
            raise WireError("another's address")
        if not self._budget.take(self._runtime.now()):
            raise WireError("over the budget of signature checks")
        if not self._identity.suite.verify(public_key, announcement.statement, announcement.signature):
            raise WireError("wrong signature")
        return Enode(node_id, sender[0], data.ports.tcp, data.ports.udp)

    def _remember(self, node_id: bytes, timestamp: int) -> None:
        self._latest.pop(node_id, None)
        if len(self._latest) >= MAX_KNOWN:
            del self._latest[next(iter(self._latest))]
        self._latest[node_id] = timestamp


def _numeric(ip: str) -> str:
    """The address as sockets write it; answers are matched by that."""
    try:
        ip = unpack_ip(pack_ip(ip))
    except WireError as error:
        raise WireError("no IP address") from error
    if not is_unicast(ip):
        raise WireError("no address of one host")
    return ip


def start_or_warn(lan: Lan, ports: Ports) -> str | None:
    """Starts, or says why it cannot: a node without LAN announcements is still a node."""
    try:
        lan.start(ports)
    except EnvironmentFault as error:
        log.warning("no LAN announcements: %s", error)
        return f"no LAN announcements: {error.message}"
    return None
