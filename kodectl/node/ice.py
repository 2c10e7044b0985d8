"""ICE over real or simulated sockets: gathers candidates, runs the agent, and carries the data of one session.

    session = IceSession(runtime, scope, IceTerms(is_controlling=True, stun_servers=(("203.0.113.5", 3478),)))
    ours = session.gather(PATIENCE_S)             # to the peer, by whatever signalling there is
    session.set_remote(theirs)                    # and the peer's
    pair = session.wait_connected(15.0)
    session.send(b"...")

Both sides keep every path that works alive, and data goes on the best: `on_path` tells which that is. A socket may be shared
by many sessions (`IceTerms.shared`, `hears`), and bases may come from elsewhere (`adopt`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kodectl.core.ice import local as candidates
from kodectl.core.ice.agent import Agent
from kodectl.core.ice.checks import Credentials
from kodectl.core.ice.effects import Effect, Failed, Lost, Received, Selected, Transmit
from kodectl.core.ice.local import MAX_LOCAL_PREFERENCE
from kodectl.core.ice.pairs import Pair
from kodectl.errors import KodectlError, NegativeAnswer
from kodectl.node.ice_bases import FAMILIES, Allocate, Relay, SendingBase
from kodectl.node.ice_gathering import Gathering, IceTerms
from kodectl.runtime.base import Address, Runtime, Scope, Timer
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
PATIENCE_S = 0.8
"""For servers, before the description goes out without them: a lost request and its repetition, and a round trip."""


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
        self.on_base_gone: Callable[[SendingBase], None] = lambda base: None
        """One of `bases` is none any more: an address went away, a relay moved, a connection ended. After `on_path`."""
        self.on_lost: Callable[[], None] = lambda: None
        """The peer has not answered for half a minute, and nothing may be sent: `restart` finds another path."""
        self.gathering = Gathering(runtime, scope, terms, self)
        self.agent = Agent(
            is_controlling=terms.is_controlling,
            credentials=new_credentials(runtime),
            tie_breaker=int.from_bytes(runtime.random_bytes(8)),
            random_bytes=runtime.random_bytes,
            rng=runtime.rng,
            keeps_paths=terms.keeps_paths,
            may_check=terms.may_check,
        )
        self._adopted: list[SendingBase] = []
        self.gathered = runtime.event()
        """All candidates are there, or will never be."""
        self._has_any = runtime.event()
        """A candidate, or the certainty that there will be none."""
        self._settled = runtime.event()
        """Connected, failed or closed: look again."""
        self._has_failed = False
        self._path: Pair | None = None
        """As `on_path` was told."""
        self._timer: Timer | None = None
        self._due_at: float | None = None
        self._closed = False
        self._closer: Timer | None = None
        """Takes `close` back from the scope, which outlives this session."""

    # Gathering

    def gather(self, patience_s: float = PATIENCE_S, limit_s: float = PATIENCE_S) -> Description:
        """Waits until all candidates are there, at most `patience_s`; without any, until the first one, at most `limit_s`.
        Those that come later are used all the same."""
        self._closer = self._scope.on_close(self.close)
        self.gathering.start()
        self.gathered.wait(patience_s)
        if limit_s > patience_s:
            self._has_any.wait(limit_s - patience_s)
        return self.description

    @property
    def description(self) -> Description:
        """As far as it is known."""
        told = (local.candidate for local in self.agent.local_candidates if local.base not in self._adopted)
        return Description(*self.agent.credentials, tuple(told), is_complete=self.gathering.is_complete)

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
        if self._closed or not (self._renounce(base) or self.gathering.remove(base)):
            return
        self._do(self.agent.forget(base, self._runtime.now()))
        self.on_base_gone(base)

    def _renounce(self, base: SendingBase) -> bool:
        known = len(self._adopted)
        self._adopted = [adopted for adopted in self._adopted if adopted is not base]
        return len(self._adopted) < known

    def renew_relays(self, relays: Sequence[Allocate]) -> None:
        """Allocates anew, in place of those that carry nothing: nobody knows whether they still work. Does not wait."""
        if not self._closed:
            self.gathering.renew_relays(relays)

    @property
    def bases(self) -> tuple[SendingBase, ...]:
        """Those that are closed with this session."""
        return (*self.gathering.bases, *self._adopted)

    @property
    def faults(self) -> list[KodectlError]:
        """What went wrong while gathering."""
        return self.gathering.faults

    # For gathering

    @property
    def local_candidates(self) -> tuple[candidates.LocalCandidate, ...]:
        return self.agent.local_candidates

    @property
    def remote_candidates(self) -> tuple[Candidate, ...]:
        return self.agent.remote_candidates

    def forget_address(self, base: SendingBase, address: Address) -> None:
        self.agent.forget_address(base, address)

    def carries(self, base: SendingBase) -> bool:
        return self.agent.carries(base)

    def gathered_all(self) -> None:
        self.gathered.set()
        self._has_any.set()
        if not self._closed:
            self._do(self.agent.local_done(self._runtime.now()))

    def _preference_of(self, base: SendingBase) -> int:
        known = [local.candidate for local in self.agent.local_candidates if local.base is base]
        return candidates.local_preference_of(known[0]) if known else MAX_LOCAL_PREFERENCE

    # The peer

    def set_remote(self, remote: Description) -> None:
        """Raises WireError for credentials that are none."""
        require_credentials(remote.ufrag, remote.password)
        self.gathering.permit(remote.candidates)
        credentials = Credentials(remote.ufrag, remote.password)
        self._do(self.agent.set_remote(credentials, remote.candidates, self._runtime.now()))
        if remote.is_complete:
            self.remote_done()

    def add_remote(self, candidate: Candidate) -> None:
        """One that trickled in."""
        self.gathering.permit([candidate])
        self._do(self.agent.add_remote(candidate, self._runtime.now()))

    def remote_done(self) -> None:
        self._do(self.agent.remote_done(self._runtime.now()))

    def restart(self) -> Description:
        """Begins anew with other credentials; the path in use stays until there is a new one."""
        self._has_failed = False
        self._settled.clear()
        self._do(self.agent.restart(new_credentials(self._runtime), self._runtime.now()))
        return self.description

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
        if self._closer is not None:
            self._closer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self.gathering.close()
        for base in self._adopted:
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
