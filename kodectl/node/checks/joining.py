"""Whether the network is there: UDP, bootstrap nodes, the routing table, dials."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.diagnosis import Finding, State
from kodectl.errors import KodectlError
from kodectl.node.bootstrap import FEW_NODES
from kodectl.node.patient import Chart, Patient
from kodectl.node.stun_client import ask_over_tcp
from kodectl.node.stun_query import ask_any
from kodectl.node.views import BootstrapEntry
from kodectl.runtime.base import ConnectFailed
from kodectl.wire.addresses import address_text
from kodectl.wire.enode import parse_enode

UDP_LIMIT_S = 6.0
"""A bootstrap node's silence is known after 4.1 s, and some for its name."""
TCP_LIMIT_S = 3.0
RESOLVE_LIMIT_S = 3.0
BOOTSTRAP_LIMIT_S = 10.0
"""A name that hangs for five seconds, and a silence."""
TABLE_LIMIT_S = 7.0
DIALS_LIMIT_S = 9.0
MANY_DIALS = 3
"""Before their failures say something."""
MAX_ASKED = 6
"""Over TCP, of bootstrap nodes and STUN servers each."""
OUR_DOING = frozenset({"connected", "stopped", "already_connected", "duplicate_connection", "recently_dialed"})
"""Outcomes of dials that are nothing to worry about."""


def check_udp_egress(patient: Patient) -> Finding:
    """An answer over UDP settles it. Else TCP to the same places tells a network without UDP from one where nobody is."""
    name = "udp_egress"
    runtime = patient.runtime
    scope = runtime.scope(name)
    answers: list[str] = []
    servers = patient.settings.stun[:MAX_ASKED]
    begun = patient.until(lambda chart: True, UDP_LIMIT_S)
    bootstrap = [parse_enode(node.enode) for node in begun.bootstrap.bootstrap]
    places = [(enode.host, enode.tcp) for enode in bootstrap if enode.tcp][:MAX_ASKED]
    over_tcp: list[str] = []

    def ask_stun() -> None:
        found = ask_any(runtime, servers, UDP_LIMIT_S)
        if found is not None:
            answers.append(found[0])

    def dial(host: str, port: int, ask: Callable[[tuple[str, int]], object]) -> None:
        try:
            ask((_resolved(patient, host), port))
        except (KodectlError, ConnectFailed):
            return
        over_tcp.append(address_text(host, port))

    def connect(address: tuple[str, int]) -> None:
        runtime.connect(address, TCP_LIMIT_S).close()

    if servers:
        scope.spawn("stun", ask_stun)
    for host, port in places:
        scope.spawn(f"tcp {host}", dial, host, port, connect)
    for host, port in servers:
        scope.spawn(f"stun over tcp {host}", dial, host, port, lambda at: ask_over_tcp(runtime, at, TCP_LIMIT_S))
    chart = patient.until(lambda chart: _heard_over_udp(chart) or answers, UDP_LIMIT_S)
    if not _heard_over_udp(chart):
        scope.join(UDP_LIMIT_S)
    scope.close()
    if _heard_over_udp(chart):
        return Finding(name, State.OK, "answers come in over UDP", details={"answered": True})
    if answers:
        return Finding(name, State.OK, f"{answers[0]} answers over UDP (STUN)", details={"answered": True})
    details = {"answered": False, "over_tcp": sorted(over_tcp)}
    if over_tcp or chart.status.nat.nat_type == "blocked":
        where = f"{', '.join(sorted(over_tcp))} can be reached over TCP" if over_tcp else "peers are connected over TCP"
        port = patient.settings.udp_port
        return Finding(
            name,
            State.FAILED,
            f"{where}, and nobody answers over UDP",
            "udp_blocked",
            "without UDP the node neither looks anybody up nor gets through NATs; what is left are links over TCP",
            f"let UDP out of this network, from port {port or 'any'} to any address and port, and the answers in",
            "kodectl nat probe --server HOST:PORT",
            details,
        )
    if not places and not servers:
        return Finding(
            name, State.UNKNOWN, "there is nobody to ask: no bootstrap node and no STUN server", details=details
        )
    return Finding(name, State.UNKNOWN, "nobody answers, neither over UDP nor over TCP", details=details)


def _heard_over_udp(chart: Chart) -> bool:
    answered = any(node.state in ("answered", "wrong_identity", "clock_skew") for node in chart.bootstrap.bootstrap)
    return answered or chart.status.table_size > 0 or chart.status.nat.observers > 0


def _resolved(patient: Patient, host: str) -> str:
    addresses = patient.runtime.resolve(host, RESOLVE_LIMIT_S)
    return next((ip for ip in addresses if ":" not in ip), addresses[0])


def check_bootstrap(patient: Patient) -> Finding:
    chart = patient.until(
        lambda chart: all(node.state not in _OPEN for node in chart.bootstrap.bootstrap), BOOTSTRAP_LIMIT_S
    )
    nodes = chart.bootstrap.bootstrap
    if not nodes:
        return _without_bootstrap(chart)
    answered = [node for node in nodes if node.state == "answered"]
    troubles = [node for node in nodes if node.state != "answered"]
    details = {"nodes": [{"enode": node.enode, "state": node.state, "error": node.last_error} for node in nodes]}
    if not troubles:
        quickest = min(node.rtt_ms for node in nodes if node.rtt_ms is not None)
        return Finding(
            "bootstrap", State.OK, f"{_count(len(nodes))} answered, the first in {quickest:.0f} ms", details=details
        )
    is_joined = bool(answered) or chart.status.table_size > 0
    first = troubles[0]
    impostor = next((node for node in troubles if node.state == "wrong_identity"), None)
    return Finding(
        "bootstrap",
        State.WARNING if is_joined else State.FAILED,
        "; ".join(_told(node) for node in troubles) + (f"; {_count(len(answered))} answered" if answered else ""),
        ("identity_mismatch" if impostor else "no_bootstrap_answered") if not answered else "bootstrap_silent",
        "it is joined through others; the next start may not be" if is_joined else "nobody else is known to begin with",
        "replace the enode by the one that the other node prints (kodectl enode gen), or name another node"
        if impostor
        else "see that the node runs and its UDP port is open, or name another one: --bootstrap ENODE",
        f"kodectl peer ping '{(impostor or first).enode}'",
        details,
    )


_OPEN = ("unknown", "resolving")


def _without_bootstrap(chart: Chart) -> Finding:
    if chart.status.table_size or chart.status.peers:
        return Finding("bootstrap", State.SKIPPED, "none is configured, and others are known without")
    return Finding(
        "bootstrap",
        State.WARNING,
        "none is configured, and nobody else is known",
        "no_bootstrap_answered",
        "unless it is the first of its network, the node stays alone",
        "name a node to begin with",
        "kodectl node run --bootstrap enode://ID@HOST:30303?discport=30301",
    )


def _told(node: BootstrapEntry) -> str:
    enode = parse_enode(node.enode)
    where = address_text(enode.host, enode.udp)
    return f"{where}: {_STATES.get(node.state) or node.last_error or node.state}"


_STATES = {
    "silent": "no answer",
    "not_resolved": "the name does not resolve",
    "unknown": "not asked yet",
    "resolving": "its name is being looked up",
}


def _count(number: int) -> str:
    return f"{number} bootstrap node{'s' * (number != 1)}"


def check_table(patient: Patient) -> Finding:
    chart = patient.until(lambda chart: chart.status.table_size >= FEW_NODES, TABLE_LIMIT_S)
    size = chart.status.table_size
    details = {"nodes": size, "peers": chart.status.peers}
    if size:
        return Finding("table", State.OK, f"{size} node{'s' * (size != 1)} known", details=details)
    if not chart.bootstrap.bootstrap:
        return Finding("table", State.SKIPPED, "there is nobody to begin with", details=details)
    return Finding(
        "table",
        State.FAILED,
        "no other node is known",
        "table_empty",
        "nothing can be looked up, and nobody finds this node",
        "mend what keeps the bootstrap nodes from answering, then look again",
        "kodectl node rediscover" if patient.is_running else "kodectl doctor --check bootstrap",
        details,
    )


def check_dials(patient: Patient) -> Finding:
    chart = patient.until(lambda chart: sum(_outgoing(chart).values()) >= MANY_DIALS, DIALS_LIMIT_S)
    dials = _outgoing(chart)
    total, connected = sum(dials.values()), dials.get("connected", 0)
    failed = {outcome: count for outcome, count in dials.items() if outcome not in OUR_DOING}
    details = {"dials": dials, "peers": chart.status.peers}
    if not total:
        if chart.status.peers:
            return Finding(
                "dials", State.OK, f"{chart.status.peers} peers, all of which came by themselves", details=details
            )
        return Finding("dials", State.SKIPPED, "nobody was dialled yet", details=details)
    reasons = ", ".join(f"{count} {outcome}" for outcome, count in sorted(failed.items(), key=lambda item: -item[1]))
    if not failed or connected >= sum(failed.values()) or (connected and total < 2 * MANY_DIALS):
        also = f" (not: {reasons})" if failed else ""
        return Finding("dials", State.OK, f"{connected} of {total} dials connected{also}", details=details)
    worst = max(failed, key=lambda outcome: failed[outcome])
    return Finding(
        "dials",
        State.WARNING if connected or chart.status.peers or total < MANY_DIALS else State.FAILED,
        f"{connected} of {total} dials connected: {reasons}",
        "dials_fail",
        "without links there are no messages, and nobody brings word of those behind NATs",
        f"see what {worst} means, and whether a firewall keeps TCP in",
        f"kodectl explain {worst}",
        details,
    )


def _outgoing(chart: Chart) -> dict[str, int]:
    return {name: count for name, count in chart.stats.dials.items() if not name.startswith("inbound_") and count}
