"""Asking others to knock at this node's ports, and noting what arrives (docs/protocol.md, "Dial-back")."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from kodectl.core.reachability import Trial
from kodectl.errors import EnvironmentFault, KodectlError, WireError
from kodectl.node.discovery import Discovery
from kodectl.node.stun_client import StunClient
from kodectl.runtime.base import Address, Event, Runtime, Scope, Stopped
from kodectl.wire import packets, rpc
from kodectl.wire.contacts import Contact

log = logging.getLogger(__name__)

STUN_SCHEDULE = (0.2, 0.3, 0.5, 0.8)
"""Pauses after each Binding request to an observer, who answered discovery a moment ago: a shorter round than to
strangers, and four of them, since a lost one must not cost the experiment."""
KNOCK_WAIT_S = 2.5
"""After the observer has agreed: its helpers may need a handshake with it (two round trips) and knock three times within
0.7 s; a connection attempt takes up to 2 s."""


class OwnPorts(NamedTuple):
    """What is to be knocked at: the discovery port as the observer sees it, and the TCP port as it is told to others."""

    udp: int
    tcp: int


class DialBack:
    """Runs trials; the nonces of those under way are known here, and no other knock counts."""

    def __init__(self, runtime: Runtime, discovery: Discovery, scope: Scope, listen_host: str) -> None:
        self._runtime = runtime
        self._discovery = discovery
        self._scope = scope
        self._listen_host = listen_host
        self._waiting: dict[bytes, Callable[[Address | None, bool], None]] = {}
        discovery.on_knock = self._knocked

    def try_with(self, observers: list[Contact], ports_for: Callable[[Contact], OwnPorts]) -> list[Trial]:
        """One trial with each, side by side; waits a few seconds."""
        over = self._runtime.mailbox(max(1, len(observers)))
        for observer in observers:
            self._scope.spawn(f"dial-back by {observer.ip}", self._try, observer, ports_for(observer), over.put)
        return [over.get() for _ in observers]

    def knocked_over_tcp(self, nonce: bytes, ip: str) -> None:
        told = self._waiting.get(nonce)
        if told is not None:
            told(None, False)

    def _knocked(self, nonce: bytes, source: Address, is_contacted: bool) -> None:
        told = self._waiting.get(nonce)
        if told is not None:
            told(source, is_contacted)

    def _try(self, observer: Contact, ports: OwnPorts, tell: Callable[[Trial], bool]) -> None:
        trial = Trial()
        try:
            fresh = FreshPort(self._runtime, self._listen_host, observer, trial)
        except EnvironmentFault as error:
            log.debug("no socket for a dial-back: %s", error)
            tell(trial)
            return
        own_nonce = self._runtime.random_bytes(packets.NONCE_SIZE)
        try:
            self._waiting[own_nonce] = _noting(trial, fresh.news)
            trial.own_helpers = self._ask(observer, rpc.Probe(own_nonce, ports.udp, ports.tcp))
            mapped = fresh.mapped_port()
            if mapped is not None:
                trial.helpers = self._ask(observer, rpc.Probe(fresh.nonce, mapped, 0))
            self._await(trial, fresh.news, bool(ports.tcp))
        finally:
            del self._waiting[own_nonce]
            fresh.close()
            tell(trial)

    def _ask(self, observer: Contact, probe: rpc.Probe) -> int | None:
        """How many others the observer asks to knock; None when it does nothing."""
        try:
            answer = self._discovery.ask(observer.node_id, observer.address, probe)
        except KodectlError as error:
            log.debug("%s does not knock: %s", observer, error)
            return None
        probed: rpc.Probed = answer.body
        return probed.knocking if probed.status == rpc.ProbeStatus.KNOCKING else None

    def _await(self, trial: Trial, news: Event, with_tcp: bool) -> None:
        ends = self._runtime.now() + KNOCK_WAIT_S
        while not _is_complete(trial, with_tcp) and (left_s := ends - self._runtime.now()) > 0:
            news.wait(left_s)
            news.clear()
            if self._scope.closed:
                raise Stopped


class FreshPort:
    """A port from which nothing has gone out but to one observer."""

    def __init__(self, runtime: Runtime, listen_host: str, observer: Contact, trial: Trial) -> None:
        self.nonce = runtime.random_bytes(packets.NONCE_SIZE)
        self.news = runtime.event()
        self._observer = observer
        self._trial = trial
        self._socket = runtime.open_datagram((listen_host, 0), self._datagram)
        self._stun = StunClient(runtime, self._socket.send)

    def mapped_port(self) -> int | None:
        """As the observer sees it; None when it does not answer."""
        try:
            return self._stun.ask(self._observer.address, schedule=STUN_SCHEDULE).mapped[1]
        except KodectlError as error:
            log.debug("no Binding answer from %s: %s", self._observer, error)
            return None

    def close(self) -> None:
        self._stun.close()
        self._socket.close()

    def _datagram(self, data: bytes, source: Address) -> None:
        if self._stun.received(data, source) or not data or data[0] != packets.KNOCK:
            return
        try:
            if packets.unpack_knock(data) != self.nonce:
                return
        except WireError:
            return
        if source[0] != self._observer.ip:
            self._trial.arrived_from_helper = True
        elif source != self._observer.address:
            self._trial.arrived_from_observer = True
        self.news.set()


def _noting(trial: Trial, news: Event) -> Callable[[Address | None, bool], None]:
    """`source` None: over TCP."""

    def note(source: Address | None, is_contacted: bool) -> None:
        if source is None:
            trial.own_tcp = True
        elif is_contacted:
            trial.own_udp_contacted = True
        else:
            trial.own_udp_stranger = True
        news.set()

    return note


def _is_complete(trial: Trial, with_tcp: bool) -> bool:
    """Nothing more can be learnt. A contacted helper's knock may still be followed by a stranger's."""
    return trial.arrived_from_helper and (trial.own_tcp or not with_tcp)
