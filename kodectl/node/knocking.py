"""Knocking for others: showing a node whether strangers reach it (docs/protocol.md, "Dial-back").

    subject   -> observer   PROBE nonce, ports                       the observer knocks from a port that is new to the subject,
    observer  -> helpers    PROBE nonce, ports, the subject's ip     and each helper from an address that is
    helper    -> subject    KNOCK nonce (UDP), nonce (TCP)

Whatever arrives is proof, whoever sent it: what the subject has not opened a filter for has come through.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from kodectl.core.exchange import is_worth_telling, reach_of
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.core.observers import group_of
from kodectl.core.sessions import Session
from kodectl.errors import EnvironmentFault
from kodectl.node.discovery import Discovery
from kodectl.node.handshake import pack_stream_knock
from kodectl.runtime.base import Address, ConnectFailed, DatagramSocket, Runtime, Scope, Stopped, StreamClosed
from kodectl.wire import packets, rpc
from kodectl.wire.contacts import Contact, is_unicast, pack_ip, unpack_ip

log = logging.getLogger(__name__)

HELPERS = 2
"""Asked to knock for one question: one of them may be gone, or a liar."""
MAX_KNOCKS = 64
"""Under way at a time; each holds a socket for a second, or a connection attempt for two."""
KNOCKS_PER_S = 10.0
KNOCK_BURST = 100.0
"""A dozen nodes that start at the same time in a small network ask each other for so many."""
TARGET_KNOCKS_PER_S = 0.5
TARGET_BURST = 12.0
"""At one network, whoever asks: four observers may each send us there, for two ports. An observer can lie about where the
subject is, so this is what one network can be bothered with: three datagrams of 17 bytes and a connection attempt a knock."""
ASKER_KNOCKS_PER_S = 0.5
ASKER_BURST = 12.0
REPEATS_S = (0.0, 0.3, 0.7)
"""A lost datagram must not look like a filter."""
DIAL_LIMIT_S = 2.0


class Knocking:
    """Answers PROBE, and knocks."""

    def __init__(
        self,
        runtime: Runtime,
        discovery: Discovery,
        scope: Scope,
        listen_host: str,
        helpers: Callable[[str, int], list[Contact]],
    ) -> None:
        """`helpers(ip, count)`: that many nodes of other networks than that of `ip`."""
        self._runtime = runtime
        self._discovery = discovery
        self._scope = scope
        self._listen_host = listen_host
        self._helpers = helpers
        self._under_way = 0
        total = TokenBucket(KNOCKS_PER_S, KNOCK_BURST)
        self._targets = SharedBudget(total, TARGET_KNOCKS_PER_S, TARGET_BURST)
        self._askers = SharedBudget(TokenBucket(KNOCKS_PER_S, KNOCK_BURST), ASKER_KNOCKS_PER_S, ASKER_BURST)
        self.counters: Counter[str] = Counter()
        discovery.handlers[rpc.Kind.PROBE] = self._serve

    def _serve(self, session: Session, probe: rpc.Probe) -> rpc.Probed:
        now = self._runtime.now()
        asker_ip = session.address[0]
        target_ip = unpack_ip(probe.ip) if probe.ip else asker_ip
        # Nobody is sent into networks that he could not reach himself: this node's own, above all.
        if not is_unicast(target_ip) or not is_worth_telling(target_ip, reach_of(asker_ip)):
            return rpc.Probed(rpc.ProbeStatus.NOT_THERE)
        is_over = not self._askers.take(group_of(asker_ip), now) or not self._targets.take(group_of(target_ip), now)
        if is_over or self._under_way >= MAX_KNOCKS:
            self.counters["busy"] += 1
            return rpc.Probed(rpc.ProbeStatus.BUSY)
        asked = 0 if probe.ip else self._ask_helpers(probe, target_ip)
        # A connection is proof only from somebody else; who asks is known to reach him.
        tcp_port = probe.tcp_port if probe.ip or not asked else 0
        self._knock(probe.nonce, target_ip, probe.udp_port, tcp_port)
        return rpc.Probed(rpc.ProbeStatus.KNOCKING, asked)

    def _ask_helpers(self, probe: rpc.Probe, target_ip: str) -> int:
        errand = rpc.Probe(probe.nonce, probe.udp_port, probe.tcp_port, pack_ip(target_ip))
        helpers = self._helpers(target_ip, HELPERS)
        for helper in helpers:
            self._discovery.request(helper.node_id, helper.address, errand, _ignore, _ignore)
        return len(helpers)

    def _knock(self, nonce: bytes, ip: str, udp_port: int, tcp_port: int) -> None:
        self.counters["knocks"] += 1
        for name, procedure, port in (("udp", self._knock_udp, udp_port), ("tcp", self._knock_tcp, tcp_port)):
            if port:
                self._under_way += 1
                try:
                    self._scope.spawn(f"knock {name} {ip}", procedure, nonce, (ip, port))
                except Stopped:
                    self._under_way -= 1

    def _knock_udp(self, nonce: bytes, target: Address) -> None:
        """From a port that the target has never seen."""
        socket: DatagramSocket | None = None
        try:
            socket = self._runtime.open_datagram((self._listen_host, 0), _ignore)
            for pause_s in REPEATS_S:
                self._scope.sleep(pause_s)
                socket.send(packets.pack_knock(nonce), target)
        except EnvironmentFault as error:
            log.debug("no socket to knock with: %s", error)
        finally:
            self._under_way -= 1
            if socket is not None:
                socket.close()

    def _knock_tcp(self, nonce: bytes, target: Address) -> None:
        try:
            stream = self._runtime.connect(target, DIAL_LIMIT_S)
            try:
                stream.write(pack_stream_knock(nonce))
            finally:
                stream.close()
        except (ConnectFailed, StreamClosed) as error:
            log.debug("knocking at %s: %s", target, error)
        finally:
            self._under_way -= 1


def _ignore(*_: object) -> None:
    pass
