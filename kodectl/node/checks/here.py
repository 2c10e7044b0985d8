"""This machine's place in the network: addresses, names, clock."""

from __future__ import annotations

from kodectl.core.diagnosis import Finding, State
from kodectl.core.peer_clocks import MIN_VOICES, WRONG_S
from kodectl.errors import KodectlError
from kodectl.node.checks.machine import Machine
from kodectl.node.nat import EVERYWHERE
from kodectl.node.patient import CALM_S, Chart, Patient, is_heard_over_udp
from kodectl.settings import DEFAULT_BOOTSTRAP
from kodectl.wire.addresses import scope_of
from kodectl.wire.enode import parse_enode
from kodectl.wire.turn_server import parse_turn

RESOLVE_LIMIT_S = 5.0
NO_ANSWER = "no answer within"
HEARD_LIMIT_S = 6.0
VOICES_LIMIT_S = 8.0
"""A stand-in has met the nodes around it by then."""
DIFFERENT_S = 10.0
"""Clocks that anybody keeps right are not so far apart; a pong that was sent twice explains less."""


def check_addresses(patient: Patient) -> Finding:
    network = patient.runtime.local_network()
    host = patient.settings.listen_host
    source = network.source or network.source6
    if patient.is_local:
        return Finding("addresses", State.SKIPPED, f"it listens on {host} only: no network is needed")
    details = {"ipv4": network.source, "ipv6": network.source6, "gateway": network.gateway or network.gateway6}
    if source is None:
        own = [ip for ip in network.addresses if scope_of(ip) != "loopback"]
        if own and is_heard_over_udp(patient.until(is_heard_over_udp, HEARD_LIMIT_S)):
            seen = f"{', '.join(own)}; no default route, and none is needed to reach the nodes that answer"
            return Finding("addresses", State.OK, seen, details=details)
        return Finding(
            "addresses",
            State.FAILED,
            f"no default route: {', '.join(own)} reaches its own network only"
            if own
            else "no address and no route: this machine has no network",
            "no_network",
            "without a route out nobody can be reached",
            "bring up an interface with an address and a default route",
            "ip addr; ip route",
            details,
        )
    if host not in EVERYWHERE and host not in network.addresses:
        return Finding(
            "addresses",
            State.FAILED,
            f"it is to listen on {host}, which is no address of this machine ({', '.join(network.addresses)})",
            "address_not_available",
            "a node cannot start on somebody else's address",
            "listen on all addresses, or on one of this machine's",
            f"kodectl node run --listen 0.0.0.0:{patient.settings.tcp_port}",
            details,
        )
    if scope_of(source) == "link_local":
        return Finding(
            "addresses",
            State.FAILED,
            f"the only address, {source}, is one that the machine gave itself: no DHCP server has answered",
            "no_network",
            "such an address reaches nobody beyond this cable",
            "mend the network's DHCP, or set an address by hand",
            "ip addr; ip route",
            details,
        )
    through = f" through {network.gateway or network.gateway6}" if network.gateway or network.gateway6 else ""
    also = f"; IPv6 {network.source6}" if network.source and network.source6 else ""
    return Finding("addresses", State.OK, f"{source} ({scope_of(source)}){through}{also}", details=details)


def names_asked(patient: Patient) -> list[str]:
    """The host names that the node needs, each once."""
    hosts = [parse_enode(text).host for text in patient.settings.bootstrap]
    hosts += [host for host, _ in patient.settings.stun]
    hosts += [parse_turn(text).host for text in patient.settings.turn]
    return [host for host in dict.fromkeys(hosts) if scope_of(host) == "name"]


def check_dns(patient: Patient) -> Finding:
    names = names_asked(patient)
    if not names:
        return Finding(
            "dns", State.SKIPPED, "no host name is configured: every server and node is given by its address"
        )
    runtime = patient.runtime
    scope = runtime.scope("dns")
    outcomes = runtime.mailbox(len(names))

    def ask(name: str) -> None:
        try:
            addresses = runtime.resolve(name, RESOLVE_LIMIT_S, scope)
        except KodectlError as error:
            outcomes.put((name, None, error.message))
        else:
            outcomes.put((name, addresses, None))

    for name in names:
        scope.spawn(f"resolve {name}", ask, name)
    found = [outcomes.get() for _ in names]
    failed = {name: message for name, addresses, message in found if addresses is None}
    details = {"resolved": sorted(set(names) - set(failed)), "failed": sorted(failed)}
    if not failed:
        return Finding("dns", State.OK, f"{len(names)} host names resolve", details=details)
    first = next(iter(sorted(failed)))
    if all(text in DEFAULT_BOOTSTRAP for text in patient.settings.bootstrap) and len(failed) == len(names):
        mend = "name a bootstrap node of your network: the default ones are the documented placeholders"
        command = "kodectl doctor --bootstrap enode://ID@HOST:30303?discport=30301"
    elif all(NO_ANSWER in (message or "") for message in failed.values()):
        # Where names are asked for in vain, the line may be to blame as well as the name server.
        gateway = runtime.local_network().gateway
        mend = "see that the line out of here is up, then that the name server of this machine answers"
        command = f"{f'ping -c 3 {gateway}; ' if gateway else ''}cat /etc/resolv.conf; getent hosts {first}"
    else:
        mend = "correct the name, or mend this machine's name server"
        command = f"getent hosts {first}; cat /etc/resolv.conf"
    return Finding(
        "dns",
        State.FAILED if len(failed) == len(names) else State.WARNING,
        _unresolved(failed),
        "name_not_resolved",
        "nodes and servers that are given by name cannot be found",
        mend,
        command,
        details,
    )


def _unresolved(failed: dict[str, str | None]) -> str:
    """The names by the reason, which mostly is one for all."""
    reasons: dict[str, list[str]] = {}
    for name in sorted(failed):
        reasons.setdefault((failed[name] or "").rpartition(": ")[2], []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def check_clock(patient: Patient, machine: Machine) -> Finding:
    chart = patient.until(
        lambda chart: chart.status.clock_voices >= MIN_VOICES or _is_refused(chart), VOICES_LIMIT_S, calm_s=CALM_S
    )
    ahead_s, voices = chart.status.clock_ahead_s, chart.status.clock_voices
    details: dict[str, object] = {"ahead_s": ahead_s, "voices": voices, "synchronised": machine.clock_synchronised}
    if ahead_s is None and _is_refused(chart):
        return _wrong_clock(
            machine, State.FAILED, "by this clock the keys of bootstrap nodes, good for days, have expired", details
        )
    if ahead_s is not None and abs(ahead_s) >= DIFFERENT_S:
        way = "ahead" if ahead_s > 0 else "behind"
        seen = (
            f"this clock is {abs(ahead_s):.0f} s {way} of {'those' if voices > 1 else 'that'} of {voices} other network"
        )
        seen += "s" if voices > 1 else ""
        # One or two others may be wrong themselves, unless the kernel says that nobody keeps this clock.
        is_ours = voices >= MIN_VOICES or machine.clock_synchronised is False
        return _wrong_clock(
            machine, State.FAILED if is_ours and abs(ahead_s) >= WRONG_S else State.WARNING, seen, details
        )
    if ahead_s is not None:
        others = "another network" if voices == 1 else f"{voices} networks"
        return Finding("clock", State.OK, f"within {max(1.0, abs(ahead_s)):.0f} s of {others}", details=details)
    if machine.clock_synchronised is False:
        return Finding(
            "clock",
            State.UNKNOWN,
            "nobody keeps this clock right, and no other node was there to compare it with",
            "clock_unsynchronised",
            "a clock that is a minute off has announcements and messages refused",
            "let an NTP client keep the clock",
            machine.set_clock,
            details,
        )
    if machine.clock_synchronised:
        return Finding(
            "clock", State.OK, "kept by the kernel's time discipline; no other node to compare with", details=details
        )
    return Finding("clock", State.UNKNOWN, "no other node to compare it with", details=details)


def _is_refused(chart: Chart) -> bool:
    return any(node.state == "clock_skew" for node in chart.bootstrap.bootstrap)


def _wrong_clock(machine: Machine, state: State, seen: str, details: dict[str, object]) -> Finding:
    return Finding(
        "clock",
        state,
        seen,
        "clock_skew",
        "announcements are refused from one minute on, messages from two, connections through NATs from ten",
        "set the clock, and let an NTP client keep it",
        machine.set_clock,
        details,
    )
