"""How the outside sees the node, and whether it gets in: NAT, carrier NAT, port mapping, advertised address, dial-back."""

from __future__ import annotations

from typing import Literal

from kodectl.core.diagnosis import Finding, State
from kodectl.core.observers import MIN_GROUPS
from kodectl.errors import KodectlError
from kodectl.node.checks.machine import Machine
from kodectl.node.nat import EVERYWHERE, EXTIP
from kodectl.node.patient import Chart, Patient
from kodectl.node.probe_views import ProbeView
from kodectl.node.probing import MAX_SERVERS, ProbeTerms, probe
from kodectl.node.views import NatView
from kodectl.runtime.base import LocalNetwork
from kodectl.wire.addresses import address_text, scope_of
from kodectl.wire.enode import parse_enode

NAT_LIMIT_S = 12.0
"""A stand-in joins, hears several networks, and has them knock twice where the first silence is a surprise."""
PROBE_AFTER_S = 7.0
PROBE_LIMIT_S = 7.0
"""Where too few nodes are there to say, STUN servers may."""
MAPPING_LIMIT_S = 12.0
SEEN_LIMIT_S = 6.0
HOPS = 4
HOPS_LIMIT_S = 1.5
TOLD_BY_FEW = 2
"""Networks from which on a difference in addresses is more than one liar's word."""

ASK_ROUTER = "kodectl node run --nat auto"
LOOK_AGAIN = "kodectl doctor --check nat_class --check inbound_udp --check inbound_tcp"
"""Where the mending is to be done elsewhere: whether it is done."""

_LOCAL = "it listens on {} only: nobody outside is meant to reach it"
_PER_NAT = {
    "open": "no NAT, and strangers get through",
    "full_cone": "a NAT that lets strangers in through ports in use",
    "restricted": "a NAT that lets in addresses that were sent to",
    "port_restricted": "a NAT that lets in nobody but who was sent to",
    "symmetric": "a NAT with another port towards each destination (symmetric)",
    "firewalled": "no NAT, and a firewall that drops what nobody asked for",
    "blocked": "UDP does not get out",
}


def _skipped(check: str, patient: Patient) -> Finding:
    return Finding(check, State.SKIPPED, _LOCAL.format(patient.settings.listen_host))


def _is_settled(chart: Chart) -> bool:
    """Known, and no router may yet change it."""
    nat = chart.status.nat
    is_waiting = nat.port_mapping.state == "searching" and not (nat.reachable_udp and nat.reachable_tcp)
    return nat.state != "unknown" and not is_waiting


# -- the NAT ---------------------------------------------------------------------------------------------------------------


def check_nat_class(patient: Patient, machine: Machine) -> Finding:
    check = "nat_class"
    if patient.is_local:
        return _skipped(check, patient)
    chart = patient.until(_is_settled, PROBE_AFTER_S)
    if chart.status.nat.state == "unknown":
        return _by_probe(patient) or _unknown_nat(patient.until(_is_settled, NAT_LIMIT_S - PROBE_AFTER_S))
    nat = chart.status.nat
    seen = _PER_NAT.get(nat.nat_type or "", "a NAT of a kind that was not found out" if nat.translated else "no NAT")
    details: dict[str, object] = {
        "nat_type": nat.nat_type,
        "mapping": nat.mapping,
        "filtering": nat.filtering,
        "state": nat.state,
        "observers": nat.observers,
    }
    if nat.state == "direct":
        through = (
            ", and its ports are forwarded" if nat.translated and nat.nat_type not in ("open", "full_cone") else ""
        )
        return Finding(check, State.OK, seen + through, details=details)
    if nat.nat_type == "blocked":
        return Finding(
            check, State.UNKNOWN, "UDP does not get out, so that nothing shows how the NAT treats it", details=details
        )
    return _in_the_way(patient, machine, chart, seen, details)


def _in_the_way(patient: Patient, machine: Machine, chart: Chart, seen: str, details: dict[str, object]) -> Finding:
    nat = chart.status.nat
    tcp, udp = _ports(chart)
    if nat.nat_type == "firewalled":
        return Finding(
            "nat_class",
            State.WARNING,
            seen,
            "firewalled",
            "peers that dial this node do not get through; it can only dial itself",
            *_open_both(machine, tcp, udp),
            details,
        )
    mend, command = _forward(patient, chart, f"UDP {udp} and TCP {tcp}", LOOK_AGAIN)
    if nat.nat_type == "symmetric":
        return Finding(
            "nat_class",
            State.WARNING,
            seen,
            "nat_symmetric",
            "peers reach this node through relays only, slower and with less to spare",
            mend,
            command,
            details,
        )
    return Finding(
        "nat_class",
        State.WARNING,
        f"{seen}, and nothing forwards the node's ports",
        "nat_not_forwarded",
        "peers reach this node by hole punching: it works, and takes longer; it serves nobody as DHT server or relay",
        mend,
        command,
        details,
    )


def _open_both(machine: Machine, tcp: int, udp: int) -> tuple[str, str]:
    """What to do, and the command."""
    ports = f"let UDP port {udp} and TCP port {tcp} in"
    commands = [machine.let_in("udp", udp), machine.let_in("tcp", tcp)]
    if None in commands:
        return (
            f"{ports}, in the firewall before this machine (provider, cloud, router): its own drops nothing",
            LOOK_AGAIN,
        )
    return f"{ports}, on this machine and in the firewall before it", "; ".join(filter(None, commands))


def _forward(patient: Patient, chart: Chart, ports: str, look_again: str) -> tuple[str, str]:
    """Of ports behind a router: what to do, and the command. By hand, unless the router was not asked yet."""
    network, mapping = patient.runtime.local_network(), chart.status.nat.port_mapping
    page = f" (most have a page at http://{network.gateway}/)" if network.gateway else ""
    by_hand = f"forward {ports} to {network.source or 'this machine'} on the router{page}"
    if mapping.state == "off":
        return f"let the node ask the router to forward its ports; where that does not do it, {by_hand}", ASK_ROUTER
    return f"{by_hand}, or turn on UPnP, NAT-PMP or PCP there; then look again", look_again


def _by_probe(patient: Patient) -> Finding | None:
    """What STUN servers say, where too few nodes are there; every node answers STUN."""
    chart = patient.until(lambda chart: True, 0.0)
    nodes = [parse_enode(node.enode) for node in chart.bootstrap.bootstrap if node.state == "answered"]
    servers = (*patient.settings.stun, *((node.host, node.udp) for node in nodes))[:MAX_SERVERS]
    if not servers:
        return None
    try:
        view = probe(patient.runtime, ProbeTerms(servers, deadline_s=PROBE_LIMIT_S), {})
    except KodectlError:
        return None
    return None if view.verdict is None else _of_probe(view, chart)


def _of_probe(view: ProbeView, chart: Chart) -> Finding:
    """It tells the class; whether a forward lets strangers in nevertheless is for dial-back to say, which has not."""
    details = {"nat_type": view.nat_type, "mapping": view.mapping, "filtering": view.filtering, "state": view.verdict}
    seen = f"{_PER_NAT.get(view.nat_type or '', 'a NAT')}, by STUN"
    if view.verdict == "direct":
        return Finding("nat_class", State.OK, seen, details=details)
    if view.nat_type is None:
        seen = "no NAT, and nothing shows whether a firewall keeps strangers out" if view.translated is False else seen
        why = "whether others can reach this node depends on it"
        return Finding("nat_class", State.UNKNOWN, seen, "nat_unknown", why, view.advice, view.next_command, details)
    tcp, udp = _ports(chart)
    code = {"symmetric": "nat_symmetric", "firewalled": "firewalled"}.get(view.nat_type or "", "nat_not_forwarded")
    return Finding(
        "nat_class",
        State.WARNING,
        seen,
        code,
        "strangers do not get in, unless somebody forwards the ports",
        view.advice,
        f"kodectl nat map {tcp}/tcp {udp}/udp" if view.translated else view.next_command,
        details,
    )


def _unknown_nat(chart: Chart) -> Finding:
    observers = chart.status.nat.observers
    few = f"{observers} network{'s' * (observers != 1)} so far" if observers else "nobody so far"
    return Finding(
        "nat_class",
        State.UNKNOWN,
        f"not known: it takes nodes in several networks, or a STUN server, to tell ({few})",
        "nat_unknown",
        "whether others can reach this node depends on it",
        "name more nodes to begin with, or STUN servers",
        "kodectl doctor --stun HOST:PORT --stun HOST:PORT",
        {"observers": observers},
    )


def check_cgnat(patient: Patient, machine: Machine) -> Finding:
    """Three witnesses: the router's outer address, this machine's own, and the second router on the way out."""
    check = "cgnat"
    if patient.is_local:
        return _skipped(check, patient)
    chart = patient.until(_is_settled, NAT_LIMIT_S)
    nat, network = chart.status.nat, patient.runtime.local_network()
    hops = _hops(patient, machine, chart)
    outer = nat.port_mapping.external_ip
    details = {"router_ip": outer, "own_ip": network.source, "hops": hops, "observed_ip": nat.observed_address}
    is_reached = bool(nat.reachable_udp and nat.reachable_tcp)
    shared = [ip for ip in (outer, network.source, *hops[1:2]) if ip is not None and scope_of(ip) == "cgnat"]
    if shared or nat.cgnat:
        where = shared[0] if shared else "the router's outer address"
        return Finding(
            check,
            State.OK if is_reached else State.WARNING,
            f"the provider shares one public address among customers: {where} is of 100.64.0.0/10",
            None if is_reached else "cgnat",
            "no setting of the router here lets strangers in, as another NAT stands beyond it",
            *_without_address(patient, network, is_reached=is_reached),
            details,
        )
    private = [ip for ip in hops[1:2] if ip is not None and scope_of(ip) == "private" and network.source != ip]
    if nat.double_nat or (nat.port_mapping.double_nat and outer is not None) or (private and nat.translated):
        first, second = hops[0] if hops else network.gateway, outer or (private[0] if private else None)
        tcp, udp = _ports(chart)
        return Finding(
            check,
            State.OK if is_reached else State.WARNING,
            f"two NATs, one behind the other: {first or 'the router'}, and beyond it {second or 'another'}",
            None if is_reached else "double_nat",
            "a port that the first router forwards still ends at the second",
            f"set one of the two to bridge mode; or forward UDP {udp} and TCP {tcp} on the outer one to the inner, and there to "
            f"{network.source or 'this machine'}; then look again",
            None if is_reached else LOOK_AGAIN,
            details,
        )
    if nat.translated is False:
        return Finding(check, State.SKIPPED, "no NAT", details=details)
    if outer is None and (len(hops) < 2 or hops[1] is None):
        return Finding(check, State.SKIPPED, "no sign of it: neither a router nor the way out tells", details=details)
    return Finding(check, State.OK, "no NAT beyond the router here", details=details)


def _without_address(patient: Patient, network: LocalNetwork, *, is_reached: bool) -> tuple[str, str | None]:
    """What to do where the provider gives no public IPv4 address, and the command."""
    if is_reached:
        return "nothing: strangers reach the node all the same", None
    if network.source6 is not None and scope_of(network.source6) == "public" and patient.settings.listen_host != "::":
        mend = f"listen on IPv6 as well, which this machine has ({network.source6}), and no NAT stands before that"
        return mend, f"kodectl node run --listen '[::]:{patient.settings.tcp_port}' --nat {EXTIP}{network.source6}"
    mend = "ask the provider for a public IPv4 address, or for IPv6; until then hole punching and relays do it, your own first"
    return mend, "kodectl node run --turn turn:USER:PASS@HOST:3478"


def _hops(patient: Patient, machine: Machine, chart: Chart) -> list[str | None]:
    """The first routers on the way to a node that has answered, or else any."""
    hosts = [parse_enode(node.enode).host for node in chart.bootstrap.bootstrap]
    targets = [host for host in hosts if scope_of(host) == "public" and ":" not in host]
    if not targets:
        return []
    try:
        return patient.runtime.in_thread(machine.first_hops, targets[0], HOPS, HOPS_LIMIT_S)
    except OSError:
        return []


def check_port_mapping(patient: Patient) -> Finding:
    check = "port_mapping"
    if patient.is_local:
        return _skipped(check, patient)
    chart = patient.until(
        lambda chart: chart.status.nat.port_mapping.state != "searching", MAPPING_LIMIT_S, is_of_others=False
    )
    mapping = chart.status.nat.port_mapping
    details = {
        "state": mapping.state,
        "method": mapping.method,
        "gateway": mapping.gateway,
        "tcp": mapping.tcp,
        "udp": mapping.udp,
    }
    error = mapping.error
    if mapping.state == "mapped":
        return Finding(
            check,
            State.OK,
            f"by {_METHODS[mapping.method or 'upnp']} at {mapping.gateway}: TCP {mapping.tcp}, UDP {mapping.udp}",
            details=details,
        )
    if mapping.state in ("degraded", "refused") and error is not None:
        return Finding(
            check,
            State.WARNING,
            error.message,
            error.code,
            "strangers get in through a port that the router forwards",
            error.hint or "look into the router's settings for UPnP, NAT-PMP or PCP",
            "kodectl nat mappings",
            details,
        )
    if mapping.state == "off":
        return Finding(check, State.SKIPPED, f"switched off{_by_setting(patient)}", details=details)
    if mapping.state == "searching":
        return Finding(check, State.UNKNOWN, "no router has answered yet", details=details)
    return Finding(check, State.SKIPPED, "no router here answers UPnP, NAT-PMP or PCP", details=details)


def _by_setting(patient: Patient) -> str:
    """As far as the setting is known, of a node that runs."""
    nat = patient.settings.nat
    return f" (--nat {nat})" if nat == "none" or nat.startswith(EXTIP) else ""


_METHODS = {"pcp": "PCP", "natpmp": "NAT-PMP", "upnp": "UPnP"}


# -- who gets in -----------------------------------------------------------------------------------------------------------


def check_advertised_address(patient: Patient) -> Finding:
    """What others are told against what others see."""
    check = "advertised_address"
    if patient.is_local:
        return _skipped(check, patient)
    settings = patient.settings
    is_fixed = settings.nat.startswith(EXTIP) or settings.listen_host not in EVERYWHERE
    chart = patient.until(_is_told_for_good if is_fixed else _is_told_as_seen, SEEN_LIMIT_S)
    nat, told, seen = chart.status.nat, _told(chart), chart.status.nat.observed_address
    details = {"advertised": told, "observed": seen, "observers": nat.observers}
    if seen is not None and (told == seen or (":" in told) != (":" in seen)):
        return Finding(check, State.OK, f"{told}, as seen by {_networks(nat)}", details=details)
    if nat.observers < (TOLD_BY_FEW if is_fixed else MIN_GROUPS):
        by = f"{nat.observers} network{'s see' if nat.observers != 1 else ' sees'} it at {seen}"
        return Finding(
            check,
            State.UNKNOWN,
            f"it tells others {told}; {by if seen else 'nobody has said where it is seen'}",
            "nat_unknown",
            f"what is seen is believed when {MIN_GROUPS} networks have said so, or strangers get in there",
            "name more nodes to begin with",
            "kodectl doctor --bootstrap ENODE --bootstrap ENODE",
            details,
        )
    by_setting = f"--nat {settings.nat}" if settings.nat.startswith(EXTIP) else f"--listen {settings.listen_host}"
    return Finding(
        check,
        State.FAILED,
        f"it tells others {told}{f' ({by_setting})' if is_fixed else ''}, and {_networks(nat)} see it at {seen}",
        "advertised_address_wrong",
        "peers dial an address at which they do not find this node",
        f"leave the address to be found out (--nat auto, --listen 0.0.0.0:{settings.tcp_port}), or name the right one",
        f"kodectl node run --nat {EXTIP}{seen}",
        details,
    )


def _told(chart: Chart) -> str:
    return parse_enode(chart.status.enode).host


def _is_told_for_good(chart: Chart) -> bool:
    return chart.status.nat.observers >= TOLD_BY_FEW


def _is_told_as_seen(chart: Chart) -> bool:
    return chart.status.nat.observed_address == _told(chart)


def check_inbound_udp(patient: Patient, machine: Machine) -> Finding:
    return _check_inbound(patient, machine, "udp")


def check_inbound_tcp(patient: Patient, machine: Machine) -> Finding:
    return _check_inbound(patient, machine, "tcp")


def _check_inbound(patient: Patient, machine: Machine, transport: Literal["udp", "tcp"]) -> Finding:
    check = f"inbound_{transport}"
    if patient.is_local:
        return _skipped(check, patient)
    chart = patient.until(_is_settled, NAT_LIMIT_S)
    nat = chart.status.nat
    is_reached = nat.reachable_udp if transport == "udp" else nat.reachable_tcp
    tcp, udp = _ports(chart)
    port = udp if transport == "udp" else tcp
    configured = patient.settings.udp_port if transport == "udp" else patient.settings.tcp_port
    where = _knocked_at(nat, transport, port)
    details = {"reachable": is_reached, "address": where, "port": port}
    elsewhere = f" (tried on {port}, as {configured} is taken)" if configured not in (0, port) else ""
    if is_reached:
        return Finding(
            check,
            State.OK,
            f"strangers reach {where or f'port {port}'}{elsewhere}",
            details=details,
        )
    if is_reached is None:
        return Finding(
            check,
            State.UNKNOWN,
            "nobody has tried: it takes at least two nodes of other networks to knock",
            "nat_unknown",
            "peers can dial this node only if they get in",
            "name more nodes to begin with",
            "kodectl doctor --bootstrap ENODE --bootstrap ENODE",
            details,
        )
    return Finding(
        check,
        State.WARNING,
        f"what others sent to {transport.upper()} port {port} has not come through{elsewhere}",
        "inbound_blocked",
        "peers that dial this node do not get through"
        if transport == "tcp"
        else "others reach it only after it has sent to them",
        *_let_one_in(patient, machine, chart, transport, port),
        details,
    )


def _let_one_in(
    patient: Patient, machine: Machine, chart: Chart, transport: Literal["udp", "tcp"], port: int
) -> tuple[str, str]:
    """What to do, and the command: here, if this machine drops anything, else on the router or before it."""
    look_again = f"kodectl doctor --check inbound_{transport}"
    command = machine.let_in(transport, port)
    if command is not None:
        return f"let {transport.upper()} port {port} in, on this machine and in whatever stands before it", command
    if chart.status.nat.translated:
        return _forward(patient, chart, f"{transport.upper()} {port}", look_again)
    mend = f"let {transport.upper()} port {port} in, in the firewall before this machine: its own drops nothing"
    return f"{mend}; then look again", look_again


def _knocked_at(nat: NatView, transport: Literal["udp", "tcp"], port: int) -> str | None:
    """Where others see the node, which may not be where it says that it is."""
    told = nat.external_udp if transport == "udp" else nat.external_tcp
    outer = int(told.rpartition(":")[2]) if told is not None else port
    return address_text(nat.observed_address, outer) if nat.observed_address is not None else told


def _ports(chart: Chart) -> tuple[int, int]:
    """TCP and UDP, where the node listens."""
    listeners = chart.status.listeners
    return int(listeners.tcp.rpartition(":")[2]), int(listeners.udp.rpartition(":")[2])


def _networks(nat: NatView) -> str:
    return f"{nat.observers} networks" if nat.observers != 1 else "the only network that has spoken"
