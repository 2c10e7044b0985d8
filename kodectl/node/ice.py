"""ICE over real or simulated sockets: gathers candidates, runs the agent, and carries the data of one session.

    session = IceSession(runtime, scope, IceTerms(is_controlling=True, stun_servers=(("203.0.113.5", 3478),)))
    ours = session.gather(PATIENCE_S)             # to the peer, by whatever signalling there is
    session.set_remote(theirs)                    # and the peer's
    pair = session.wait_connected(15.0)
    session.send(b"...")

A server that does not answer holds nothing up: what it would have given is added when it comes, and until then the rest
is used.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import NamedTuple

from kodectl.core.ice import local as candidates
from kodectl.core.ice.agent import Agent
from kodectl.core.ice.checks import Credentials
from kodectl.core.ice.effects import Effect, Failed, Lost, Received, Selected, Transmit
from kodectl.core.ice.local import MAX_LOCAL_PREFERENCE
from kodectl.core.ice.pairs import Pair
from kodectl.errors import EnvironmentFault, KodectlError, NegativeAnswer
from kodectl.node.ice_bases import (
    FAMILIES,
    Allocate,
    Relay,
    RelayBase,
    SendingBase,
    SocketBase,
    family_of,
    host_addresses,
)
from kodectl.node.ice_watch import InterfaceWatch
from kodectl.runtime.base import Address, LocalNetwork, Runtime, Scope, Timer
from kodectl.wire.addresses import scope_of
from kodectl.wire.candidates import TCP, Candidate, CandidateType, require_credentials

__all__ = [
    "FAMILIES",
    "PATIENCE_S",
    "Allocate",
    "Description",
    "IceSession",
    "IceTerms",
    "Relay",
    "SelectedPair",
    "SendingBase",
    "new_credentials",
]

UFRAG_BYTES, PASSWORD_BYTES = 6, 18
"""8 and 24 characters; RFC 8445, section 5.3, wants 24 and 128 bits at least."""
GATHERING_PACE_S = 0.005
"""Between the first requests to servers: the least Ta (RFC 8445, section 14.2)."""
PATIENCE_S = 0.8
"""For servers, before the description goes out without them: a lost request and its repetition, and a round trip."""
RESOLVE_TIMEOUT_S = 5.0


class Description(NamedTuple):
    """What one side tells the other. `is_complete`: no candidates will follow."""

    ufrag: str
    password: str
    candidates: tuple[Candidate, ...]
    is_complete: bool = True


class SelectedPair(NamedTuple):
    """As it is seen from outside: `local` may be a peer-reflexive candidate."""

    local: Candidate
    remote: Candidate
    is_relayed: bool


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


Errand = tuple[str, Callable[[], None]]
"""A name, and what waits for a server."""


class IceSession:
    """One side of one connection. `on_data` and the others run in the hub and must not wait.

    `faults` tells what went wrong while gathering; none of it ends the session."""

    def __init__(self, runtime: Runtime, scope: Scope, terms: IceTerms) -> None:
        self._runtime = runtime
        self._scope = scope
        self._terms = terms
        self.on_data: Callable[[bytes, SendingBase, Address], None] = lambda data, base, sender: None
        """What has arrived, where, and from whom."""
        self.on_path: Callable[[Pair | None], None] = lambda pair: None
        """Data goes another way from now on: the first one that works, a better one, the next best where one dies; None
        where none is left."""
        self.on_candidate: Callable[[Candidate], None] = lambda candidate: None
        """For trickling: a candidate of ours, as soon as there is one."""
        self.on_lost: Callable[[], None] = lambda: None
        """The peer has not answered for half a minute, and nothing may be sent: `restart` finds another path."""
        self.faults: list[KodectlError] = []
        self.agent = Agent(
            is_controlling=terms.is_controlling,
            credentials=new_credentials(runtime),
            tie_breaker=int.from_bytes(runtime.random_bytes(8)),
            random_bytes=runtime.random_bytes,
            rng=runtime.rng,
            keeps_paths=terms.keeps_paths,
        )
        self._bases: list[SendingBase] = []
        self._relays: list[RelayBase] = []
        self._adopted: list[SendingBase] = []
        self._gathering = 0
        self.gathered = runtime.event()
        """All candidates are there, or will never be."""
        self._has_any = runtime.event()
        """A candidate, or the certainty that there will be none."""
        self._settled = runtime.event()
        """Connected, failed or closed: look again."""
        self._has_failed = False
        self._path: Pair | None = None
        """As `on_path` was told."""
        self._unwatch: Callable[[], None] = lambda: None
        self._timer: Timer | None = None
        self._due_at: float | None = None
        self._closed = False

    # Gathering

    def gather(self, patience_s: float = PATIENCE_S, limit_s: float = PATIENCE_S) -> Description:
        """Waits until all candidates are there, at most `patience_s`; without any, until the first one, at most `limit_s`.
        Those that come later are used all the same."""
        self._scope.on_close(self.close)
        if self._terms.interfaces is not None:
            self._unwatch = self._terms.interfaces.subscribe(self._interfaces_changed)
        errands = self._reflexive_errands(self._open_sockets(self._host_addresses(self._runtime.local_network())))
        errands += [
            (f"relayed {number} ipv{family}", self._relayed_errand(allocate, family))
            for number, allocate in enumerate(self._terms.relays)
            for family in self._terms.families
        ]
        self._start_errands(errands)
        if not errands:
            self._errands_done()
        self.gathered.wait(patience_s)
        if limit_s > patience_s:
            self._has_any.wait(limit_s - patience_s)
        return self.description

    @property
    def description(self) -> Description:
        """As far as it is known."""
        told = (local.candidate for local in self.agent.local_candidates if local.base not in self._adopted)
        return Description(*self.agent.credentials, tuple(told), is_complete=not self._gathering)

    def add_local(self, candidate: candidates.LocalCandidate) -> None:
        """One of this session's own, or from elsewhere: on a shared socket, or as peers see one. What arrives at a base
        from elsewhere is handed to `received`."""
        if not self._closed:
            known = len(self.agent.local_candidates)
            self._do(self.agent.add_local(candidate, self._runtime.now()))
            if len(self.agent.local_candidates) > known:
                self._has_any.set()
                self.on_candidate(candidate.candidate)

    def add_reflexive(self, base: SendingBase, mapped: Address, server_ip: str) -> None:
        """Where others see `base`. One of this machine's own addresses adds nothing to it."""
        if mapped[0] not in self._runtime.local_network().addresses:
            self.add_local(candidates.server_reflexive(base, mapped, server_ip, self._preference_of(base)))

    def adopt(self, base: SendingBase, *, kind: CandidateType, preference: int, remote: Address | None = None) -> None:
        """A base that gets through, made by somebody else: it is checked, and closed with this session. The peer is not
        told of it, since it has its own end of it. `remote`: of a TCP connection, which reaches nobody else.

        What arrives there is handed to `received`."""
        if self._closed:
            base.close()
            return
        self._bases.append(base)
        self._adopted.append(base)
        now = self._runtime.now()
        if remote is None:
            self._do(self.agent.add_local(candidates.found_otherwise(kind, base, preference), now))
            return
        local = candidates.found_otherwise(kind, base, preference, TCP)
        # Both ends take their own word for what the connection is worth: neither tells.
        other_end = local.candidate._replace(address=remote, type=CandidateType.PEER_REFLEXIVE, related=None)
        self._do(self.agent.add_connection(local, other_end, now))

    def dismiss(self, base: SendingBase) -> None:
        """It is gone, and all ways over it."""
        if self._closed or base not in self._bases:
            return
        self._bases.remove(base)
        self._relays = [relay for relay in self._relays if relay is not base]
        self._adopted = [adopted for adopted in self._adopted if adopted is not base]
        self._do(self.agent.forget(base, self._runtime.now()))

    @property
    def bases(self) -> tuple[SendingBase, ...]:
        """Those that are closed with this session."""
        return tuple(self._bases)

    def _preference_of(self, base: SendingBase) -> int:
        known = [local.candidate for local in self.agent.local_candidates if local.base is base]
        return candidates.local_preference_of(known[0]) if known else MAX_LOCAL_PREFERENCE

    def _interfaces_changed(self) -> None:
        """What has gone may have taken the path along, or only a way that nobody used; what has come may be better."""
        network = self._runtime.local_network()
        present = network.addresses
        shared = self._terms.shared
        for base in self.bases:
            if isinstance(base, SocketBase) and base.address[0] not in present:
                base.close()
                self.dismiss(base)
        for local in self.agent.local_candidates:
            address = local.candidate.address
            if local.base is shared and local.candidate.type is CandidateType.HOST and address[0] not in present:
                self.agent.forget_address(local.base, address)
        # A machine that has lost its last address is not to offer its loopback ones.
        usable = [ip for ip in self._host_addresses(network) if scope_of(ip) != "loopback"]
        self._start_errands(self._reflexive_errands(self._open_sockets(usable)))
        self.doubt()

    def _host_addresses(self, network: LocalNetwork) -> list[str]:
        return [] if self._terms.is_relay_only else host_addresses(network, self._terms.families)

    def _open_sockets(self, ips: Iterable[str]) -> list[SocketBase]:
        """For each of the addresses that has none yet."""
        sockets = []
        shared = self._terms.shared
        served = {base.address[0] for base in self._bases if isinstance(base, SocketBase)}
        for number, ip in enumerate(ips):
            if ip in served:
                continue
            if shared is not None and family_of(ip) == family_of(shared.address[0]):
                self.add_local(candidates.host(shared, MAX_LOCAL_PREFERENCE - number, (ip, shared.address[1])))
                continue
            try:
                base = SocketBase(self._runtime, ip, zones.get(ip), MAX_LOCAL_PREFERENCE - number, self.received)
            except EnvironmentFault as fault:
                self.faults.append(fault)
                continue
            sockets.append(base)
            self._bases.append(base)
            self.add_local(candidates.host(base, base.preference))
        return sockets

    def _start_errands(self, errands: list[Errand]) -> None:
        self._gathering += len(errands)
        for number, (name, errand) in enumerate(errands):
            self._scope.spawn(f"ice {name}", self._run_errand, errand, number * GATHERING_PACE_S)

    def _run_errand(self, errand: Callable[[], None], delay_s: float) -> None:
        try:
            if delay_s:
                self._scope.sleep(delay_s)
            errand()
        except KodectlError as fault:
            self.faults.append(fault)
        finally:
            self._gathering -= 1
            if not self._gathering:
                self._errands_done()

    def _errands_done(self) -> None:
        self.gathered.set()
        self._has_any.set()
        if not self._closed:
            self._do(self.agent.local_done(self._runtime.now()))

    def _reflexive_errands(self, sockets: Iterable[SocketBase]) -> list[Errand]:
        return [
            (f"reflexive {server[0]} {base.address[0]}", self._reflexive_errand(base, server))
            for server in self._terms.stun_servers
            for base in sockets
        ]

    def _reflexive_errand(self, base: SocketBase, server: Address) -> Callable[[], None]:
        def errand() -> None:
            for ip in self._runtime.resolve(server[0], RESOLVE_TIMEOUT_S, self._scope):
                if family_of(ip) == base.family:
                    mapped = base.stun.ask((ip, server[1])).mapped
                    if mapped != base.address:
                        self.add_local(candidates.server_reflexive(base, mapped, ip, base.preference))
                    return

        return errand

    def _relayed_errand(self, allocate: Allocate, family: int) -> Callable[[], None]:
        def errand() -> None:
            relay = allocate(family)
            if self._closed:
                relay.close()
                return
            self._adopt_relay(relay)

        return errand

    def _adopt_relay(self, relay: Relay) -> None:
        base = RelayBase(relay, self.received)
        self._bases.append(base)
        self._relays.append(base)

        def moved() -> None:
            self.dismiss(base)
            self._adopt_relay(relay)

        def lost(error: KodectlError) -> None:
            self.dismiss(base)
            self.faults.append(error)

        relay.on_moved, relay.on_lost = moved, lost
        # Before the first check: what arrives there unpermitted is lost, and repeated half a second later.
        self._permit([base], self.agent.remote_candidates)
        preference = MAX_LOCAL_PREFERENCE - len(self._relays)
        self.add_local(candidates.relayed(base, relay.mapped, relay.server[0], preference))

    # The peer

    def set_remote(self, remote: Description) -> None:
        """Raises WireError for credentials that are none."""
        require_credentials(remote.ufrag, remote.password)
        self._permit(self._relays, remote.candidates)
        credentials = Credentials(remote.ufrag, remote.password)
        self._do(self.agent.set_remote(credentials, remote.candidates, self._runtime.now()))
        if remote.is_complete:
            self.remote_done()

    def add_remote(self, candidate: Candidate) -> None:
        """One that trickled in."""
        self._permit(self._relays, [candidate])
        self._do(self.agent.add_remote(candidate, self._runtime.now()))

    def remote_done(self) -> None:
        self._do(self.agent.remote_done(self._runtime.now()))

    def restart(self) -> Description:
        """Begins anew with other credentials; the path in use stays until there is a new one."""
        self._has_failed = False
        self._settled.clear()
        self._do(self.agent.restart(new_credentials(self._runtime), self._runtime.now()))
        return self.description

    @staticmethod
    def _permit(bases: Iterable[RelayBase], remotes: Iterable[Candidate]) -> None:
        ips = dict.fromkeys(candidate.address[0] for candidate in remotes if candidate.is_usable)
        for base in bases:
            base.relay.permit([ip for ip in ips if family_of(ip) == family_of(base.address[0])])

    # The connection

    def wait_connected(self, timeout_s: float) -> SelectedPair:
        """Raises NegativeAnswer (ice_failed)."""
        self._settled.wait(timeout_s)
        pair = self.selected
        if pair is not None:
            return pair
        if self._closed:
            raise NegativeAnswer("the session was closed", code="ice_failed")
        raise NegativeAnswer(self.why_not(timeout_s), code="ice_failed", hint="kodectl nat probe")

    @property
    def selected(self) -> SelectedPair | None:
        pair = self.agent.selected
        return None if pair is None else shown(pair)

    def send(self, data: bytes) -> bool:
        """On the path there is. False where there is none: nothing was sent."""
        pair = self.path
        if pair is None:
            return False
        self.send_on(pair, data)
        return True

    @property
    def path(self) -> Pair | None:
        """Where data goes, by the selected pair or before there is one; see `Agent.path`."""
        return None if self._closed else self.agent.path

    def send_on(self, pair: Pair, data: bytes) -> None:
        self._send(Transmit(pair.local.base, data, pair.remote.address))

    def doubt(self) -> None:
        """Who uses the path hears nothing: it is checked now."""
        if not self._closed:
            self._do(self.agent.doubt(self._runtime.now()))

    def hears(self, data: bytes) -> bool:
        """Whether a STUN message that has come to a shared socket is this session's."""
        return not self._closed and self.agent.hears(data)

    def received(self, base: SendingBase, data: bytes, sender: Address) -> None:
        """What has arrived at `base`; does not wait."""
        if self._closed:
            return
        effects = self.agent.receive(base, data, sender, self._runtime.now())
        if effects and isinstance(effects[0], Received):  # nothing else comes of data
            self.on_data(data, base, sender)
        else:
            self._do(effects)

    def close(self) -> None:
        """May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
        for base in self._bases:
            base.close()
        for event in (self.gathered, self._has_any, self._settled):
            event.set()

    def why_not(self, timeout_s: float) -> str:
        """In words: why nothing connects, or has not within `timeout_s`."""
        if not self.agent.local_candidates:
            return "no candidates on this side: no address, or no relay that answers"
        if not self.agent.pairs:
            return "no candidate of the peer fits one of this side"
        tried = f"{len(self.agent.pairs)} candidate pair{'s' * (len(self.agent.pairs) > 1)} tried"
        return f"{tried}, none works" if self._has_failed else f"{tried}, none worked within {timeout_s:g} s"

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Transmit():
                    self._send(effect)
                case Selected():
                    self._settled.set()
                case Lost():
                    self._settled.clear()
                    self.on_lost()
                case Failed():
                    self._has_failed = True
                    self._settled.set()
        self._set_timer()
        self._tell_path()

    def _tell_path(self) -> None:
        path = self.path
        if path is not self._path:
            self._path = path
            self.on_path(path)

    @staticmethod
    def _send(transmit: Transmit) -> None:
        base: SendingBase = transmit.base  # type: ignore[assignment]  # every base that was given to the agent sends
        base.send(transmit.data, transmit.address)

    def _set_timer(self) -> None:
        """One timer; it is left alone where it fires in time anyway."""
        due_at = self.agent.next_deadline()
        if self._closed or due_at is None or (self._due_at is not None and self._due_at <= due_at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = due_at
        self._timer = self._runtime.call_later(max(0.0, due_at - self._runtime.now()), self._tick)

    def _tick(self) -> None:
        self._timer = self._due_at = None
        if not self._closed:
            self._do(self.agent.tick(self._runtime.now()))


def shown(pair: Pair) -> SelectedPair:
    return SelectedPair(pair.seen_as.candidate, pair.remote, pair.is_relayed)


def new_credentials(runtime: Runtime) -> Credentials:
    ufrag, password = (base64.b64encode(runtime.random_bytes(size)).decode() for size in (UFRAG_BYTES, PASSWORD_BYTES))
    return Credentials(ufrag, password)
