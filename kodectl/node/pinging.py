"""Pinging a node, by the socket of discovery or by its TCP port, and saying how far one came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from kodectl.errors import NegativeAnswer, PeerFault
from kodectl.node.errand import Errand, Stage, Terms, errand, milliseconds
from kodectl.node.handshake import LinkClosed
from kodectl.runtime.base import Address, ConnectFailed, Runtime, Stopped, TimedOut
from kodectl.wire.addresses import address_text
from kodectl.wire.enode import Enode

PingMode = Literal["auto", "udp", "tcp", "handshake"]


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


class WrongIdentity(PeerFault):
    """Another node answers at the address; `pong` is the ping that showed it, at stage identity."""

    def __init__(self, fault: PeerFault, pong: PongView) -> None:
        super().__init__(fault.message, code=fault.code, hint=fault.hint)
        self.pong = pong


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
    the identity. Without any answer the view says so (received 0, stage, reason). Raises WrongIdentity, when that has
    been reported, NodeUnreachable (no_bootstrap_answered) and NegativeAnswer (not_found) for an id that must be looked
    up."""
    asked = target
    with errand(runtime, terms) as this:
        pongs: list[PongView] = []
        if not target.host:
            target = this.locate(target.node_id)
        for seq in range(1, count + 1):
            if seq > 1:
                runtime.event().wait(min(interval_s, this.left_s()))
            if this.left_s() <= 0:
                break
            try:
                pong = _ping_once(this, target, mode, seq)
                if pong.rtt_ms is None and this.is_over:
                    raise Stopped
            except WrongIdentity as fault:
                report(fault.pong)
                raise
            except Stopped:
                # The deadline came while this one was under way; what was heard before it is an answer.
                if not pongs:
                    raise
                break
            pongs.append(pong)
            report(pong)
            if pong.rtt_ms is not None and mode == "auto":
                mode = "udp" if pong.mode == "udp" else "handshake"
    return summary_of(asked, pongs)


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
    where = address_text(*address)
    sessions = this.discovery.sessions
    try:
        # The first answer takes a handshake as well; only what follows is a round trip.
        if sessions.session_with(target.node_id, address) is None:
            this.discovery.ask(target.node_id, address, this.kademlia.ping_body(), this.limit_s())
        answer = this.discovery.ask(target.node_id, address, this.kademlia.ping_body(), this.limit_s())
    except NegativeAnswer:
        return PongView(seq, None, where, "udp", None, None, "udp", "timeout")
    except PeerFault as fault:
        return _of_fault(fault, PongView(seq, None, where, "udp", None, None, "handshake", fault.code))
    return PongView(seq, answer.session.node_id.hex(), where, "udp", "direct", milliseconds(answer.rtt_s), None, None)


def _ping_tcp(this: Errand, address: Address, seq: int) -> PongView:
    where = address_text(*address)
    started = this.runtime.now()
    try:
        stream = this.runtime.connect(address, this.limit_s())
    except ConnectFailed as error:
        return PongView(seq, None, where, "tcp", None, None, "tcp", error.reason)
    took_s = this.runtime.now() - started
    stream.close()
    return PongView(seq, None, where, "tcp", "direct", milliseconds(took_s), None, None)


def _ping_handshake(this: Errand, target: Enode, address: Address, seq: int) -> PongView:
    where = address_text(*address)

    def failed(stage: Stage, reason: str) -> PongView:
        return PongView(seq, None, where, "handshake", None, None, stage, reason)

    try:
        _, _, took_s = this.handshake(target, address)
    except ConnectFailed as error:
        return failed("tcp", error.reason)
    except TimedOut:
        return failed("handshake", "timeout")
    except PeerFault as fault:
        return _of_fault(fault, failed("handshake", fault.code))
    except LinkClosed as closed:
        return failed("handshake", closed.code)
    known = target.node_id.hex() if target.id_known else None
    return PongView(seq, known, where, "handshake", "direct", milliseconds(took_s), None, None)


def _of_fault(fault: PeerFault, pong: PongView) -> PongView:
    """Raises WrongIdentity: to go on would be to ping somebody else."""
    if fault.code == "identity_mismatch":
        raise WrongIdentity(fault, msgspec.structs.replace(pong, stage="identity")) from fault
    return pong


def summary_of(target: Enode, pongs: list[PongView]) -> PingView:
    """What these pings say together; also for a command that is interrupted between them."""
    times = sorted(pong.rtt_ms for pong in pongs if pong.rtt_ms is not None)
    failed = [pong for pong in pongs if pong.rtt_ms is None]
    answered = next((pong for pong in pongs if pong.id is not None), None)
    last = pongs[-1] if pongs else None
    return PingView(
        target=_shown(target),
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


def _shown(target: Enode) -> str:
    if not target.id_known:
        return f"{target.host}:{target.tcp}"
    return str(target) if target.host else target.node_id.hex()
