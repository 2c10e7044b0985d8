"""Whether the network is there: UDP, bootstrap nodes, the routing table, dials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kodectl.core.diagnosis import Finding, State
from kodectl.errors import KodectlError
from kodectl.node.bootstrap import FEW_NODES
from kodectl.node.checks.asking import who_answers
from kodectl.node.checks.machine import Machine
from kodectl.node.patient import ASKING, CALM_S, Chart, Patient, is_heard_over_udp
from kodectl.node.stun_client import ask_over_tcp
from kodectl.node.stun_query import ask_any
from kodectl.node.views import BootstrapEntry
from kodectl.runtime.base import Address, ConnectFailed
from kodectl.wire.addresses import address_text, scope_of
from kodectl.wire.enode import Enode, parse_enode

UDP_LIMIT_S = 6.0
"""A bootstrap node's silence is known after 4.1 s, and some for its name."""
TCP_LIMIT_S = 3.0
RESOLVE_LIMIT_S = 3.0
WHO_LIMIT_S = 2.0
"""For a second question, to who was silent when asked for by name."""
BOOTSTRAP_LIMIT_S = 10.0
"""A name that hangs for five seconds, and a silence."""
TABLE_LIMIT_S = 7.0
DIALS_LIMIT_S = 9.0
MANY_DIALS = 3
"""Before their failures say something."""
MAX_ASKED = 6
"""Over TCP, of bootstrap nodes and STUN servers each."""
WITHOUT_UDP = "without UDP the node neither looks anybody up nor gets through NATs; what is left are links over TCP"
FEW_CONNECT = 0.2
"""Of dials. Addresses are hearsay, peers behind NATs are many, and full ones say no: to fail often is usual."""
NOT_OURS = {
    "wrong_network": (
        "use the network's name on all of its nodes, or begin with a node of this one",
        "kodectl config show --origin",
    ),
    "incompatible_version": ("update kodectl, or the other nodes", "kodectl --version"),
}
"""Outcomes of which one is enough: what mends them, and the command."""
OUR_DOING = frozenset({"connected", "stopped", "already_connected", "duplicate_connection", "recently_dialed"})
"""Outcomes of dials that are nothing to worry about."""


def check_udp_egress(patient: Patient, machine: Machine) -> Finding:
    """An answer over UDP settles it. Else TCP to the same places tells a network without UDP from one where nobody is."""
    chart = patient.until(lambda chart: True, UDP_LIMIT_S)
    bootstrap = [parse_enode(node.enode) for node in chart.bootstrap.bootstrap]
    servers = patient.settings.stun[:MAX_ASKED]
    seeking = _Seeking(patient, bootstrap[:MAX_ASKED], servers)
    chart = patient.until(lambda chart: is_heard_over_udp(chart) or seeking.over_udp, UDP_LIMIT_S)
    if not is_heard_over_udp(chart) and not seeking.over_udp:
        seeking.finish()
    seeking.close()
    if is_heard_over_udp(chart):
        return Finding("udp_egress", State.OK, "answers come in over UDP", details={"answered": True})
    if seeking.over_udp:
        seen = f"{seeking.over_udp[0]} answers over UDP"
        return Finding("udp_egress", State.OK, seen, details={"answered": True})
    asked = [*((enode.host, enode.udp) for enode in bootstrap), *servers]
    own = _own_firewall(asked, machine)
    return own or _without_udp(patient, chart, sorted(seeking.over_tcp), asked)


def _own_firewall(asked: list[Address], machine: Machine) -> Finding | None:
    """What this machine drops itself it says at once."""
    refused = next((one for one in asked if scope_of(one[0]) != "name" and not machine.may_send(*one)), None)
    if refused is None:
        return None
    return Finding(
        "udp_egress",
        State.FAILED,
        f"this machine's own firewall lets no UDP out, as to {address_text(*refused)}",
        "udp_blocked",
        WITHOUT_UDP,
        "let UDP out, to any address and port",
        machine.let_out("udp"),
        {"answered": False, "over_tcp": []},
    )


def _without_udp(patient: Patient, chart: Chart, over_tcp: list[str], asked: list[Address]) -> Finding:
    details = {"answered": False, "over_tcp": over_tcp}
    if over_tcp or chart.status.nat.nat_type == "blocked":
        where = f"{', '.join(over_tcp)} can be reached over TCP" if over_tcp else "peers are connected over TCP"
        port = patient.settings.udp_port
        mend = f"let UDP out of this network, from port {port or 'any'} to any address and port, and the answers in"
        return Finding(
            "udp_egress",
            State.FAILED,
            f"{where}, and nobody answers over UDP",
            "udp_blocked",
            WITHOUT_UDP,
            mend if len(over_tcp) != 1 else f"{mend}; or its UDP port is another one than in the enode",
            f"kodectl nat probe --server {address_text(*asked[0]) if asked else 'HOST:PORT'}",
            details,
        )
    if not asked:
        seen = "there is nobody to ask: no bootstrap node and no STUN server"
        return Finding("udp_egress", State.UNKNOWN, seen, details=details)
    return Finding("udp_egress", State.UNKNOWN, "nobody answers, neither over UDP nor over TCP", details=details)


class _Seeking:
    """Asks bootstrap nodes, whoever they are, and STUN servers, over both transports, side by side."""

    def __init__(self, patient: Patient, bootstrap: list[Enode], servers: Sequence[tuple[str, int]]) -> None:
        self._runtime = patient.runtime
        self._scope = patient.runtime.scope("seek")
        self.over_udp: list[str] = []
        self.over_tcp: list[str] = []
        self._scope.spawn("nodes", self._ask_nodes, bootstrap)
        if servers:
            self._scope.spawn("stun", self._ask_stun, servers)
        for enode in bootstrap:
            if enode.tcp:
                self._scope.spawn(f"tcp {enode.host}", self._dial, enode.host, enode.tcp, self._connect)
        for host, port in servers:
            self._scope.spawn(f"stun over tcp {host}", self._dial, host, port, self._ask_stun_over_tcp)

    def finish(self) -> None:
        self._scope.join(UDP_LIMIT_S)

    def close(self) -> None:
        self._scope.close()

    def _ask_nodes(self, bootstrap: list[Enode]) -> None:
        answered = who_answers(self._runtime, bootstrap, UDP_LIMIT_S)
        self.over_udp += [address_text(enode.host, enode.udp) for enode in answered]

    def _ask_stun(self, servers: Sequence[tuple[str, int]]) -> None:
        found = ask_any(self._runtime, servers, UDP_LIMIT_S)
        if found is not None:
            self.over_udp.append(found[0])

    def _dial(self, host: str, port: int, ask: Callable[[Address], object]) -> None:
        try:
            addresses = self._runtime.resolve(host, RESOLVE_LIMIT_S, self._scope)
            ask((next((ip for ip in addresses if ":" not in ip), addresses[0]), port))
        except (KodectlError, ConnectFailed):
            return
        self.over_tcp.append(address_text(host, port))

    def _connect(self, address: Address) -> None:
        self._runtime.connect(address, TCP_LIMIT_S).close()

    def _ask_stun_over_tcp(self, address: Address) -> None:
        ask_over_tcp(self._runtime, address, TCP_LIMIT_S)


def check_bootstrap(patient: Patient) -> Finding:
    chart = patient.until(
        lambda chart: all(node.state not in ASKING for node in chart.bootstrap.bootstrap), BOOTSTRAP_LIMIT_S
    )
    nodes = chart.bootstrap.bootstrap
    if not nodes:
        return _without_bootstrap(chart)
    troubles = [node for node in nodes if node.state != "answered"]
    others = _somebody_else(patient, troubles)
    details = {"nodes": [{"enode": node.enode, "state": node.state, "error": node.last_error} for node in nodes]}
    if not troubles:
        quickest = min(node.rtt_ms for node in nodes if node.rtt_ms is not None)
        seen = f"{_count(len(nodes))} answered, the first in {quickest:.0f} ms"
        return Finding("bootstrap", State.OK, seen, details=details)
    answered = len(nodes) - len(troubles)
    is_joined = bool(answered or chart.status.table_size)
    seen = "; ".join(_told(node, others) for node in troubles)
    code = "identity_mismatch" if others else "no_bootstrap_answered"
    return Finding(
        "bootstrap",
        State.WARNING if is_joined else State.FAILED,
        f"{seen}; {_count(answered)} answered" if answered else seen,
        "bootstrap_silent" if answered else code,
        "it is joined through others; the next start may not be" if is_joined else "nobody else is known to begin with",
        "take the enode that the other node prints (kodectl enode gen), or name another node"
        if others
        else "see that the node runs and its UDP port is open, or name another one: --bootstrap ENODE",
        f"kodectl peer ping '{next(iter(others), troubles[0].enode)}'",
        details,
    )


def _somebody_else(patient: Patient, silent: list[BootstrapEntry]) -> dict[str, str]:
    """By the enode of a silent node: the id of who is there instead."""
    enodes = {parse_enode(node.enode): node.enode for node in silent if node.state in ("silent", "wrong_identity")}
    answered = who_answers(patient.runtime, list(enodes), WHO_LIMIT_S)
    return {
        enodes[enode]: found.hex() for enode, found in answered.items() if found != enode.node_id and enode.id_known
    }


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


def _told(node: BootstrapEntry, others: dict[str, str]) -> str:
    enode = parse_enode(node.enode)
    where = address_text(enode.host, enode.udp)
    if node.enode in others:
        return f"{where}: {others[node.enode]} is there, and not {enode.node_id.hex()}"
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
    chart = patient.until(lambda chart: chart.status.table_size >= FEW_NODES, TABLE_LIMIT_S, calm_s=CALM_S)
    size = chart.status.table_size
    details = {"nodes": size, "peers": chart.status.peers}
    if size:
        return Finding("table", State.OK, f"{size} node{'s' * (size != 1)} known", details=details)
    if not chart.bootstrap.bootstrap:
        return Finding("table", State.SKIPPED, "there is nobody to begin with", details=details)
    has_answered = any(node.state == "answered" for node in chart.bootstrap.bootstrap)
    again = "kodectl node rediscover" if patient.is_running else "kodectl doctor --check bootstrap --check table"
    return Finding(
        "table",
        State.FAILED,
        "the bootstrap nodes answer, and neither serve the hash table nor name anybody who does"
        if has_answered
        else "no other node is known",
        "table_empty",
        "nothing can be looked up, and nobody finds this node",
        "begin with a node that strangers reach, which serves the table; or wait until one has joined, and look again"
        if has_answered
        else "mend what keeps the bootstrap nodes from answering, then look again",
        again,
        details,
    )


def check_dials(patient: Patient) -> Finding:
    chart = patient.until(lambda chart: sum(_outgoing(chart).values()) >= MANY_DIALS, DIALS_LIMIT_S, calm_s=CALM_S)
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
    told = f"{connected} of {total} dial{'s' * (total != 1)} connected"
    if not failed or connected >= FEW_CONNECT * sum(failed.values()):
        return Finding("dials", State.OK, f"{told} (not: {reasons})" if failed else told, details=details)
    worst = max(failed, key=lambda outcome: failed[outcome])
    if worst in NOT_OURS and not chart.status.peers and len(failed) == 1:
        why = "without a peer there are no messages"
        return Finding("dials", State.FAILED, f"{told}: {reasons}", worst, why, *NOT_OURS[worst], details)
    return Finding(
        "dials",
        State.WARNING if connected or chart.status.peers or total < MANY_DIALS else State.FAILED,
        f"{told}: {reasons}",
        "dials_fail",
        "without links there are no messages, and nobody brings word of those behind NATs",
        f"see what {worst} means, and whether a firewall keeps TCP in",
        f"kodectl explain {worst}",
        details,
    )


def _outgoing(chart: Chart) -> dict[str, int]:
    return {name: count for name, count in chart.stats.dials.items() if not name.startswith("inbound_") and count}
