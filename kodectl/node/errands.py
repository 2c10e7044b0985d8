"""Questions asked once, without a running node: a short-lived discovery socket with an identity of its own.

Every errand minds its `Terms`: it ends by `deadline_s` with what it has, and leaves no task or socket behind.
`report` callbacks are called as things happen, from the task that called the errand; they may write to a slow terminal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NoReturn

import msgspec

from kodectl.core.identity import Identity
from kodectl.errors import DeadlineReached, KodectlError, LocalMisuse, NegativeAnswer, NodeUnreachable, PeerFault
from kodectl.node.discovery import Discovery
from kodectl.node.handshake import LinkClosed, LocalEnd
from kodectl.node.kademlia import Hop, Kademlia
from kodectl.node.link import dial
from kodectl.node.lookups import enode_of, hop_view, lookup_view, value_view
from kodectl.node.node import CLIENT
from kodectl.node.values import Values
from kodectl.node.views import HopView, LookupView, PutView, ValueView
from kodectl.runtime.base import Address, ConnectFailed, Runtime, Stopped, TimedOut
from kodectl.wire import packets
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import Enode
from kodectl.wire.messages import PROTOCOL_VERSIONS, DisconnectReason, Hello
from kodectl.wire.suite import RealSuite

PingMode = Literal["auto", "udp", "tcp", "handshake"]
Stage = Literal["resolve", "udp", "tcp", "handshake", "identity"]

GOODBYE_LIMIT_S = 2.0
"""For the farewell of a link to reach the other side."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What all errands are told."""

    bootstrap: tuple[Enode, ...]
    network: str
    timeout_s: float
    """One question, one dial."""
    deadline_s: float
    """The whole errand."""


class PongView(msgspec.Struct, frozen=True):
    """One ping. `rtt_ms` null: no answer, and then `stage` and `reason` say how far it came."""

    seq: int
    id: str | None
    addr: str | None
    mode: Literal["udp", "tcp", "handshake"]
    path: Literal["direct", "relay"] | None
    rtt_ms: float | None
    stage: Stage | None
    reason: str | None
    """not_resolved | refused | timeout | unreachable | wrong_network | ... ; lower_snake"""


class PingView(msgspec.Struct, frozen=True):
    """The summary. `stage` and `reason` are those of the last ping that failed, null when none did."""

    target: str
    id: str | None
    addr: str | None
    sent: int
    received: int
    relayed: int
    loss: float | None
    """0 to 1; null when nothing was sent."""
    min_ms: float | None
    average_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    stage: Stage | None
    reason: str | None


class VerifyView(msgspec.Struct, frozen=True):
    """`verified`: the node at `addr` holds the key whose hash is `id`. `client` null: it proved that, but did not want
    the connection for `reason` (a disconnect reason, as too_many_peers)."""

    enode: str
    id: str
    addr: str
    verified: bool
    client: str | None
    network: str | None
    rtt_ms: float
    reason: str | None


class Errand:
    """A discovery socket, a table and an identity, for the time of one command. It is a DHT client: nobody keeps it."""

    def __init__(self, runtime: Runtime, terms: Terms, seed: bytes | None = None) -> None:
        self.runtime = runtime
        self.terms = terms
        self.identity = Identity(RealSuite(), seed or runtime.random_bytes(32))
        self.scope = runtime.scope("errand")
        self.discovery = Discovery(runtime, self.identity, packets.FLAG_CLIENT)
        self.kademlia = Kademlia(runtime, self.discovery, self.scope)
        self.values = Values(runtime, self.discovery, self.kademlia, self.scope)
        self.ends = runtime.now() + terms.deadline_s
        self.late = False

    def left_s(self) -> float:
        return max(0.0, self.ends - self.runtime.now())

    def limit_s(self) -> float:
        """For one question or dial: its own limit, and never past the end of the errand."""
        return min(self.terms.timeout_s, self.left_s())

    def end(self) -> None:
        """The deadline: whatever waits for an answer is told that none will come."""
        self.late = True
        self.discovery.close()

    def join(self) -> None:
        """Asks all bootstrap nodes side by side and goes on with the first answers.

        Raises NodeUnreachable (no_bootstrap_answered) with what went wrong at each."""
        if not self.terms.bootstrap:
            raise NodeUnreachable(
                "no bootstrap node is given", code="no_bootstrap_answered", hint="name one: --bootstrap enode://..."
            )
        outcomes = self.runtime.mailbox(len(self.terms.bootstrap))
        for enode in self.terms.bootstrap:
            self.scope.spawn(f"bootstrap {enode.host}", self._ask_bootstrap, enode, outcomes.put)
        troubles: list[str] = []
        for _ in self.terms.bootstrap:
            try:
                trouble = outcomes.get(self.left_s())
            except TimedOut:
                break
            if trouble is None:
                return
            troubles.append(trouble)
        raise NodeUnreachable(
            f"no bootstrap node answered: {'; '.join(troubles) or 'the deadline passed'}",
            code="no_bootstrap_answered",
            hint="check the addresses, or name another node: --bootstrap enode://...",
        )

    def _ask_bootstrap(self, enode: Enode, tell: Callable[[str | None], bool]) -> None:
        try:
            ip = self.resolve(enode.host)
            self.discovery.ask(enode.node_id, (ip, enode.udp), self.kademlia.ping_body(), self.limit_s())
        except (KodectlError, Stopped) as error:
            tell(f"{enode.host}:{enode.udp}: {error}")
        else:
            tell(None)

    def resolve(self, host: str) -> str:
        addresses = self.runtime.resolve(host, self.limit_s())
        # The socket is an IPv4 one; an IPv6 address is taken when there is nothing else.
        return next((ip for ip in addresses if ":" not in ip), addresses[0])

    def locate(self, node_id: bytes) -> Enode:
        """Raises NegativeAnswer (not_found)."""
        self.join()
        found = self.kademlia.find(node_id)
        for contact in found.closest:
            if contact.node_id == node_id:
                return enode_of(contact)
        raise NegativeAnswer(f"no node of the network knows {node_id.hex()}", code="not_found")

    def handshake(self, enode: Enode, address: Address) -> tuple[Hello | None, str | None, float]:
        """Dials, proves, and says goodbye: the peer's hello, or the reason why it wanted none; and the time it took.

        Raises ConnectFailed, PeerFault, TimedOut."""
        started = self.runtime.now()
        stream = self.runtime.connect(address, self.limit_s())
        local = LocalEnd(self.identity, self.runtime.random_bytes(32))
        hello = Hello(PROTOCOL_VERSIONS, CLIENT, self.terms.network, (), Ports(0, 0))
        try:
            link = dial(self.runtime, local, stream, enode.node_id if enode.id_known else None, hello)
        except LinkClosed as closed:
            if closed.reason is DisconnectReason.UNSPECIFIED:
                raise
            # A reason comes sealed, after the proof: it is who it should be, and has no place for us.
            return None, closed.code, self.runtime.now() - started
        took_s = self.runtime.now() - started
        link.disconnect(DisconnectReason.REQUESTED)
        self.scope.spawn("goodbye", link.run, lambda *_: None)
        return link.hello, None, took_s


@contextmanager
def errand(runtime: Runtime, terms: Terms, seed: bytes | None = None) -> Iterator[Errand]:
    """Opens the errand's socket, keeps its deadline, and leaves nothing behind."""
    this = Errand(runtime, terms, seed)
    hosts = [enode.host for enode in terms.bootstrap]
    this.discovery.open(("::" if hosts and all(":" in host for host in hosts) else "0.0.0.0", 0))
    timer = runtime.call_later(terms.deadline_s, this.end)
    try:
        yield this
    except Stopped as error:
        raise DeadlineReached(f"no answer within {terms.deadline_s:g} s", code="deadline") from error
    finally:
        timer.cancel()
        this.scope.close()
        this.values.stop()
        this.discovery.close()
        this.scope.join(GOODBYE_LIMIT_S)


def ping_target(
    runtime: Runtime,
    terms: Terms,
    target: Enode,
    *,
    mode: PingMode,
    count: int,
    interval_s: float,
    report: Callable[[PongView], None],
) -> PingView:
    """Pings `count` times; a target that is only an id (no host) is looked up first.

    auto: udp, and where that does not answer, handshake. tcp: connects and closes. handshake: Noise and the proof of
    the identity. Without any answer the view says so (received 0, stage, reason). Raises PeerFault (identity_mismatch),
    NodeUnreachable (no_bootstrap_answered) and NegativeAnswer (not_found) for an id that must be looked up."""
    shown = str(target) if target.id_known and target.host else target.node_id.hex()
    if not target.id_known:
        shown = f"{target.host}:{target.tcp}"
    with errand(runtime, terms) as this:
        pongs: list[PongView] = []
        if not target.host:
            target = this.locate(target.node_id)
        for seq in range(1, count + 1):
            if seq > 1:
                runtime.event().wait(min(interval_s, this.left_s()))
            if this.left_s() <= 0:
                break
            pong = _ping_once(this, target, mode, seq)
            pongs.append(pong)
            report(pong)
            if pong.rtt_ms is not None and mode == "auto":
                mode = "udp" if pong.mode == "udp" else "handshake"
    return _summary(shown, target, pongs)


def _ping_once(this: Errand, target: Enode, mode: PingMode, seq: int) -> PongView:
    try:
        ip = this.resolve(target.host)
    except NegativeAnswer:
        return PongView(seq, None, None, "udp" if mode == "auto" else mode, None, None, "resolve", "not_resolved")
    if mode == "tcp":
        return _ping_tcp(this, (ip, target.tcp), seq)
    if mode == "handshake":
        return _ping_handshake(this, target, (ip, target.tcp), seq)
    pong = _ping_udp(this, target, (ip, target.udp), seq)
    if pong.rtt_ms is None and mode == "auto" and target.tcp:
        by_tcp = _ping_handshake(this, target, (ip, target.tcp), seq)
        # The farther of the two says more about what is wrong.
        return by_tcp if by_tcp.rtt_ms is not None or by_tcp.stage != "tcp" else pong
    return pong


def _ping_udp(this: Errand, target: Enode, address: Address, seq: int) -> PongView:
    where = show_address(address)
    sessions = this.discovery.sessions
    try:
        # The first answer takes a handshake as well; only what follows is a round trip.
        if sessions.session_with(target.node_id, address) is None:
            this.discovery.ask(target.node_id, address, this.kademlia.ping_body(), this.limit_s())
        answer = this.discovery.ask(target.node_id, address, this.kademlia.ping_body(), this.limit_s())
    except NegativeAnswer:
        return PongView(seq, None, where, "udp", None, None, "udp", "timeout")
    except PeerFault as fault:
        _reraise_identity(fault)
        return PongView(seq, None, where, "udp", None, None, "handshake", fault.code)
    return PongView(seq, answer.session.node_id.hex(), where, "udp", "direct", _ms(answer.rtt_s), None, None)


def _ping_tcp(this: Errand, address: Address, seq: int) -> PongView:
    where = show_address(address)
    started = this.runtime.now()
    try:
        stream = this.runtime.connect(address, this.limit_s())
    except ConnectFailed as error:
        return PongView(seq, None, where, "tcp", None, None, "tcp", error.reason)
    took_s = this.runtime.now() - started
    stream.close()
    return PongView(seq, None, where, "tcp", "direct", _ms(took_s), None, None)


def _ping_handshake(this: Errand, target: Enode, address: Address, seq: int) -> PongView:
    where = show_address(address)

    def failed(stage: Stage, reason: str) -> PongView:
        return PongView(seq, None, where, "handshake", None, None, stage, reason)

    try:
        _, _, took_s = this.handshake(target, address)
    except ConnectFailed as error:
        return failed("tcp", error.reason)
    except TimedOut:
        return failed("handshake", "timeout")
    except PeerFault as fault:
        _reraise_identity(fault)
        return failed("handshake", fault.code)
    except LinkClosed as closed:
        return failed("handshake", closed.code)
    known = target.node_id.hex() if target.id_known else None
    return PongView(seq, known, where, "handshake", "direct", _ms(took_s), None, None)


def _reraise_identity(fault: PeerFault) -> None:
    if fault.code == "identity_mismatch":
        raise fault


def _summary(shown: str, target: Enode, pongs: list[PongView]) -> PingView:
    times = sorted(pong.rtt_ms for pong in pongs if pong.rtt_ms is not None)
    failed = [pong for pong in pongs if pong.rtt_ms is None]
    answered = next((pong for pong in pongs if pong.id is not None), None)
    last = pongs[-1] if pongs else None
    return PingView(
        target=shown,
        id=answered.id if answered else (target.node_id.hex() if target.id_known else None),
        addr=last.addr if last else None,
        sent=len(pongs),
        received=len(times),
        relayed=sum(pong.path == "relay" for pong in pongs),
        loss=round(len(failed) / len(pongs), 4) if pongs else None,
        min_ms=times[0] if times else None,
        average_ms=round(sum(times) / len(times), 3) if times else None,
        p95_ms=times[min(len(times) - 1, int(len(times) * 0.95))] if times else None,
        max_ms=times[-1] if times else None,
        stage=failed[-1].stage if failed else None,
        reason=failed[-1].reason if failed else None,
    )


def find_node(runtime: Runtime, terms: Terms, target: bytes, *, report: Callable[[HopView], None]) -> LookupView:
    """The iterative lookup, hop by hop. Raises NodeUnreachable (no_bootstrap_answered)."""
    with errand(runtime, terms) as this:
        this.join()
        hops = []

        def trace(hop: Hop) -> None:
            hops.append(hop)
            report(hop_view(hop, target))

        return lookup_view(this.kademlia.find(target, trace=trace), hops)


def put_value(runtime: Runtime, terms: Terms, seed: bytes, *, key: bytes, value: bytes, ttl_s: float) -> PutView:
    """Signs the record with the identity of `seed` and stores it with the closest nodes.

    `key` is what the user named (it is hashed). The sequence is above the one this publisher's record has there.
    Raises NodeUnreachable (no_bootstrap_answered), NegativeAnswer (not_stored), LocalMisuse (value_too_large)."""
    place = hashlib.sha256(key).digest()
    with errand(runtime, terms, seed) as this:
        this.join()
        mine = [r.sequence for r in this.values.get(place) if r.publisher == this.identity.public_key]
        sequence, stored, asked = this.values.put(place, value, ttl_s, above=max(mine, default=0))
        return PutView(place.hex(), sequence, stored, asked)


def get_value(runtime: Runtime, terms: Terms, *, key: bytes) -> ValueView:
    """All records found, highest sequence of each publisher. Raises NodeUnreachable, NegativeAnswer (not_found)."""
    place = hashlib.sha256(key).digest()
    with errand(runtime, terms) as this:
        this.join()
        found = this.values.get(place)
        if not found:
            _nothing_found(this)
        return value_view(place, found)


def _nothing_found(this: Errand) -> NoReturn:
    if this.late:
        raise DeadlineReached(f"no value was found within {this.terms.deadline_s:g} s", code="deadline")
    raise NegativeAnswer("no node has a value under this key", code="not_found")


def verify_enode(runtime: Runtime, terms: Terms, enode: Enode) -> VerifyView:
    """Dials the enode's TCP port and has it prove its identity.

    Raises NegativeAnswer (unreachable; the message names stage and reason) and PeerFault (identity_mismatch, ...)."""
    if not enode.tcp:
        raise LocalMisuse("the enode has no TCP port to dial", code="bad_target")
    with errand(runtime, terms) as this:
        try:
            address = (this.resolve(enode.host), enode.tcp)
            hello, reason, took_s = this.handshake(enode, address)
        except ConnectFailed as error:
            raise unreachable(enode, "tcp", error.reason) from error
        except TimedOut as error:
            raise unreachable(enode, "handshake", "timeout") from error
        except LinkClosed as closed:
            raise unreachable(enode, "handshake", closed.code) from closed
        except NegativeAnswer as error:
            raise unreachable(enode, "resolve", "not_resolved") from error
    client, network = (hello.client, hello.network) if hello is not None else (None, None)
    return VerifyView(
        str(enode), enode.node_id.hex(), show_address(address), True, client, network, _ms(took_s), reason
    )


def unreachable(enode: Enode, stage: Stage, reason: str) -> NegativeAnswer:
    return NegativeAnswer(
        f"{enode.host}:{enode.tcp} cannot be reached: {reason} at stage {stage}",
        code="unreachable",
        hint=f"kodectl peer ping '{enode}'",
    )


def show_address(address: Address) -> str:
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
