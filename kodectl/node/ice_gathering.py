"""Gathering candidates for one session: sockets of this machine's addresses, how servers see them, relays.

A server that does not answer holds nothing up: each is asked in a task of its own, and what it gives is used whenever it
comes. Interfaces that come and go are followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from kodectl.core.ice import local as candidates
from kodectl.core.ice.local import MAX_LOCAL_PREFERENCE, LocalCandidate
from kodectl.errors import EnvironmentFault, KodectlError
from kodectl.node.ice_bases import (
    FAMILIES,
    Allocate,
    Relay,
    RelayBase,
    SendingBase,
    SocketBase,
    family_of,
    host_addresses,
    is_link_local6,
)
from kodectl.node.ice_watch import InterfaceWatch
from kodectl.runtime.base import Address, LocalNetwork, Runtime, Scope
from kodectl.wire.addresses import scope_of
from kodectl.wire.candidates import Candidate, CandidateType

PACE_S = 0.005
"""Between the first requests to servers: the least Ta (RFC 8445, section 14.2)."""
RESOLVE_TIMEOUT_S = 5.0


class IceTerms(NamedTuple):
    is_controlling: bool
    stun_servers: tuple[Address, ...] = ()
    """Hosts may be names."""
    relays: tuple[Allocate, ...] = ()
    families: tuple[int, ...] = FAMILIES
    is_relay_only: bool = False
    shared: SendingBase | None = None
    """A socket that others use too, bound to all addresses of its family: no other one is opened for that. Whoever has it
    hands to `received` what `hears` says is this session's."""
    keeps_paths: bool = True
    """The other side keeps all its paths alive too. False for one that may be any agent, and does as the RFCs have it."""
    interfaces: InterfaceWatch | None = None
    """Tells when this machine's addresses change: new ones become candidates, and what has no address any more is closed."""
    may_check: Callable[[str, float], bool] = lambda ip, now: True
    """See `core.ice.agent.Agent`."""


class Gatherer(Protocol):
    """Whose candidates they are."""

    @property
    def local_candidates(self) -> tuple[LocalCandidate, ...]: ...
    @property
    def remote_candidates(self) -> tuple[Candidate, ...]: ...
    def add_local(self, candidate: LocalCandidate) -> None: ...
    def received(self, base: SendingBase, data: bytes, sender: Address) -> None: ...
    def dismiss(self, base: SendingBase) -> None: ...
    def forget_address(self, base: SendingBase, address: Address) -> None: ...
    def carries(self, base: SendingBase) -> bool: ...
    def doubt(self) -> None: ...
    def gathered_all(self) -> None: ...


RENEWAL_PAUSE_S = 10.0
"""From a relay that was got anew to the next one in its place: as long as a connection takes to find a path over it, at the
most."""

Errand = tuple[str, Callable[[], None]]
"""A name, and what waits for a server."""

Place = tuple[int, int]
"""Of a relay: the number of its allocator, and the family."""


class Gathering:
    """`faults` tells what went wrong; none of it ends anything. Nothing waits but the errands."""

    def __init__(self, runtime: Runtime, scope: Scope, terms: IceTerms, gatherer: Gatherer) -> None:
        self.faults: list[KodectlError] = []
        self._runtime = runtime
        self._scope = scope
        self._terms = terms
        self._gatherer = gatherer
        self._sockets: list[SocketBase] = []
        self._relays: list[RelayBase] = []
        self._errands = 0
        self._renewing: set[Place] = set()
        self._renewed_at: dict[Place, float] = {}
        self._unwatch: Callable[[], None] = lambda: None
        self._is_closed = False

    @property
    def is_complete(self) -> bool:
        return not self._errands

    @property
    def bases(self) -> tuple[SendingBase, ...]:
        return (*self._sockets, *self._relays)

    def start(self) -> None:
        if self._terms.interfaces is not None:
            self._unwatch = self._terms.interfaces.subscribe(self._interfaces_changed)
        network = self._runtime.local_network()
        errands = self._reflexive_errands(self._open_sockets(network, self._host_addresses(network)))
        errands += [
            (f"relayed {number} ipv{family}", self._relayed_errand(allocate, family))
            for number, allocate in enumerate(self._terms.relays)
            for family in self._terms.families
        ]
        self._start_errands(errands)
        if not errands:
            self._gatherer.gathered_all()

    def permit(self, remotes: Iterable[Candidate]) -> None:
        """Before the first check: what arrives at a relay unpermitted is lost, and repeated half a second later."""
        ips = dict.fromkeys(candidate.address[0] for candidate in remotes if candidate.is_usable)
        for base in self._relays:
            base.relay.permit([ip for ip in ips if family_of(ip) == family_of(base.address[0])])

    def remove(self, base: SendingBase) -> bool:
        """Whether it was one of these."""
        known = len(self.bases)
        self._sockets = [socket for socket in self._sockets if socket is not base]
        self._relays = [relay for relay in self._relays if relay is not base]
        return len(self.bases) < known

    def close(self) -> None:
        self._is_closed = True
        self._unwatch()
        for base in self.bases:
            base.close()

    # Sockets

    def _host_addresses(self, network: LocalNetwork) -> list[str]:
        return [] if self._terms.is_relay_only else host_addresses(network, self._terms.families)

    def _open_sockets(self, network: LocalNetwork, ips: Iterable[str]) -> list[SocketBase]:
        """For each of the addresses that has none yet."""
        opened = []
        shared = self._terms.shared
        served = {base.address[0] for base in self._sockets}
        zones = dict(network.zones)
        for number, ip in enumerate(ips):
            preference = MAX_LOCAL_PREFERENCE - number
            if ip in served:
                continue
            if shared is not None and family_of(ip) == family_of(shared.address[0]):
                if not is_link_local6(ip):  # to send from that, a socket has to be bound to it
                    self._gatherer.add_local(candidates.host(shared, preference, (ip, shared.address[1])))
                continue
            try:
                base = SocketBase(self._runtime, ip, zones.get(ip), preference, self._gatherer.received)
            except EnvironmentFault as fault:
                self.faults.append(fault)
                continue
            opened.append(base)
            self._sockets.append(base)
            self._gatherer.add_local(candidates.host(base, preference))
        return opened

    def _interfaces_changed(self) -> None:
        """What has gone may have taken the path along, or only a way that nobody used; what has come may be better."""
        network = self._runtime.local_network()
        for base in tuple(self._sockets):
            if base.address[0] not in network.addresses:
                base.close()
                self._gatherer.dismiss(base)
        self._forget_of_shared(network)
        # A machine that has lost its last address is not to offer its loopback ones.
        usable = [ip for ip in self._host_addresses(network) if scope_of(ip) != "loopback"]
        self._start_errands(self._reflexive_errands(self._open_sockets(network, usable)))
        self._gatherer.doubt()

    def _forget_of_shared(self, network: LocalNetwork) -> None:
        shared = self._terms.shared
        if shared is None:
            return
        for candidate, base in self._gatherer.local_candidates:
            is_gone = candidate.type is CandidateType.HOST and candidate.address[0] not in network.addresses
            if base is shared and is_gone:
                self._gatherer.forget_address(shared, candidate.address)

    # Servers

    def _start_errands(self, errands: list[Errand]) -> None:
        self._errands += len(errands)
        for number, (name, errand) in enumerate(errands):
            self._scope.spawn(f"ice {name}", self._run_errand, errand, number * PACE_S)

    def _run_errand(self, errand: Callable[[], None], delay_s: float) -> None:
        try:
            if delay_s:
                self._scope.sleep(delay_s)
            errand()
        except KodectlError as fault:
            self.faults.append(fault)
        finally:
            self._errands -= 1
            if not self._errands:
                self._gatherer.gathered_all()

    def _reflexive_errands(self, sockets: Iterable[SocketBase]) -> list[Errand]:
        return [
            (f"reflexive {server[0]} {base.address[0]}", self._reflexive_errand(base, server))
            for server in self._terms.stun_servers
            for base in sockets
            if not is_link_local6(base.address[0])
        ]

    def _reflexive_errand(self, base: SocketBase, server: Address) -> Callable[[], None]:
        def errand() -> None:
            for ip in self._runtime.resolve(server[0], RESOLVE_TIMEOUT_S, self._scope):
                if family_of(ip) == base.family:
                    mapped = base.stun.ask((ip, server[1])).mapped
                    if mapped != base.address:
                        self._gatherer.add_local(candidates.server_reflexive(base, mapped, ip, base.preference))
                    return

        return errand

    def _relayed_errand(self, allocate: Allocate, family: int) -> Callable[[], None]:
        def errand() -> None:
            relay = allocate(family)
            if self._is_closed:
                relay.close()
                return
            self._take_relay(relay)

        return errand

    # Relays again

    def renew_relays(self, allocators: Sequence[Allocate]) -> None:
        """In place of those that carry nothing; each of those goes when another is there. One renewal of each place at a time:
        a server that is silent for long keeps nobody from asking the others again."""
        if self._is_closed:
            return
        self.faults.clear()
        used = sum(self._gatherer.carries(base) for base in self._relays)
        count, fresh = len(allocators), list[RelayBase]()
        places = [(number, family) for number in range(max(0, count - used)) for family in self._terms.families]
        due = [place for place in places if self._is_due(place)]
        self._start_errands([self._renewing_errand(allocators[place[0]], place, fresh, count) for place in due])

    def _is_due(self, place: Place) -> bool:
        renewed_at = self._renewed_at.get(place)
        is_new = renewed_at is not None and self._runtime.now() < renewed_at + RENEWAL_PAUSE_S
        return place not in self._renewing and not is_new

    def _renewing_errand(self, allocate: Allocate, place: Place, fresh: list[RelayBase], count: int) -> Errand:
        number, family = place
        self._renewing.add(place)

        def errand() -> None:
            try:
                relay = allocate(family)
            finally:
                self._renewing.discard(place)
            if self._is_closed:
                relay.close()
                return
            self._renewed_at[place] = self._runtime.now()
            fresh.append(self._take_relay(relay))
            self._drop_idle(family, fresh, count)

        return f"relayed again {number} ipv{family}", errand

    def _drop_idle(self, family: int, fresh: list[RelayBase], count: int) -> None:
        """Meanwhile one of the former ones may have come back to life."""
        alike = [base for base in self._relays if family_of(base.address[0]) == family]
        idle = [base for base in alike if base not in fresh and not self._gatherer.carries(base)]
        for base in idle[: max(0, len(alike) - count)]:
            self._gatherer.dismiss(base)
            base.close()

    def _take_relay(self, relay: Relay) -> RelayBase:
        base = RelayBase(relay, self._gatherer.received)
        self._relays.append(base)

        def moved() -> None:
            self._gatherer.dismiss(base)
            if not self._is_closed:
                self._take_relay(relay)

        def lost(error: KodectlError) -> None:
            self._gatherer.dismiss(base)
            self.faults.append(error)

        relay.on_moved, relay.on_lost = moved, lost
        self.permit(self._gatherer.remote_candidates)
        preference = MAX_LOCAL_PREFERENCE - len(self._relays)
        self._gatherer.add_local(candidates.relayed(base, relay.mapped, relay.server[0], preference))
        return base
