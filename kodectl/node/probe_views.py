"""What a probe tells: the document of `nat probe`, and what to do next."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from kodectl.core.mapping import Method
from kodectl.core.nat import NatType, Verdict
from kodectl.core.nat_evidence import Conclusion, PortPattern, Why
from kodectl.core.nat_observations import Address, Alternate, Evidence, ServerEvidence
from kodectl.core.nat_votes import Voice, voices_of
from kodectl.node.classic import ClassicAnswer
from kodectl.node.errand import milliseconds
from kodectl.node.routers import RouterAnswer
from kodectl.node.subject import Subject
from kodectl.wire.addresses import address_text

BehaviorName = Literal["endpoint_independent", "address_dependent", "address_and_port_dependent"]
Difficulty = Literal["easy", "moderate", "hard"]


class ProbeServerView(msgspec.Struct, frozen=True, kw_only=True):
    """`alternate`: what came of its other address: none | unfit (it may not be asked) | not_asked | silent | inconsistent (it
    does not point back) | verified. `counted`: whether its word counts; servers of one network are one voice. `outlier`:
    it says what cannot be if the rest is so."""

    server: str
    address: str
    ip: str
    port: int
    answered: bool
    mapped: str | None
    mapped_ip: str | None
    mapped_port: int | None
    rtt_ms: float | None
    loss: float | None
    """Of plain requests beside the filter test, 0 to 1; null where there was none."""
    alternate: str | None
    other_address: str | None
    software: str | None
    counted: bool
    outlier: bool | None


class GatewayView(msgspec.Struct, frozen=True):
    """`speaks`: whether a router answered the protocol. `error`: the code of the reason why not."""

    method: Literal["pcp", "natpmp", "upnp"]
    speaks: bool
    address: str | None
    name: str | None
    external_ip: str | None
    error: str | None


class Ipv6View(msgspec.Struct, frozen=True):
    address: str | None
    """A global one of this machine."""
    works: bool | None
    """Whether a server answered over it; null where no server has IPv6."""
    mapped: str | None


class ClassicView(msgspec.Struct, frozen=True):
    """What pystun3 says (RFC 3489). It decides nothing. `agrees` null: one of the two has no answer."""

    server: str
    words: str | None
    nat_type: str | None
    mapped: str | None
    agrees: bool | None
    error: str | None


class WarningView(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None


class ProbeView(msgspec.Struct, frozen=True, kw_only=True):
    """How this host is seen from outside. Null is unknown, and `why` says the reason, by the field's name."""

    answered: bool
    """Whether any server answered over UDP."""
    nat_type: Literal["open", "full_cone", "restricted", "port_restricted", "symmetric", "firewalled", "blocked"] | None
    mapping: BehaviorName | None
    """RFC 4787, section 4.1."""
    filtering: BehaviorName | None
    """RFC 4787, section 5."""
    translated: bool | None
    address: str | None
    """As it is seen from outside; null too where the port is another one for each destination."""
    ip: str | None
    port: int | None
    local_address: str | None
    local_ip: str | None
    local_port: int | None
    port_preserved: bool | None
    port_pattern: Literal["sequential", "random"] | None
    """Of the ports that one socket gets for different destinations."""
    port_step: int | None
    hairpin: bool | None
    cgnat: bool | None
    double_nat: bool | None
    gateways: list[GatewayView]
    ipv6: Ipv6View
    servers: list[ProbeServerView]
    classic: ClassicView | None
    verdict: Literal["direct", "hole_punching", "turn_relay"] | None
    difficulty: Difficulty | None
    advice: str
    next_command: str
    why: dict[str, str]
    findings: list[WarningView]
    complete: bool
    """False: the deadline cut the probe short."""
    took_ms: float


class Ipv6Answer(NamedTuple):
    address: str | None
    works: bool | None
    mapped: Address | None


class Sighting(NamedTuple):
    """What a probe has seen, as far as it is told."""

    evidence: Evidence
    subjects: list[Subject]
    unresolved: list[str]
    routers: tuple[RouterAnswer, ...]
    ipv6: Ipv6Answer
    classic: ClassicAnswer | None
    is_late: bool
    took_s: float


def probe_view(seen: Sighting, found: Conclusion) -> ProbeView:
    evidence = seen.evidence
    verdict = found.verdict
    difficulty = _difficulty(found)
    advice, next_command = _advice(seen, found)
    return ProbeView(
        answered=found.has_answer,
        nat_type=found.nat_type and found.nat_type.value,
        mapping=found.mapping and found.mapping.value,
        filtering=found.filtering and found.filtering.value,
        translated=found.is_translated,
        address=_text((found.ip, found.port) if found.ip and found.port else None),
        ip=found.ip,
        port=found.port,
        local_address=_text((evidence.source_ip, evidence.local_port) if evidence.source_ip else None),
        local_ip=evidence.source_ip,
        local_port=evidence.local_port,
        port_preserved=found.port_preserved,
        port_pattern=found.port_pattern and found.port_pattern.value,
        port_step=found.port_step,
        hairpin=found.hairpin,
        cgnat=found.cgnat,
        double_nat=found.double_nat,
        gateways=[_gateway_view(router) for router in seen.routers],
        ipv6=Ipv6View(seen.ipv6.address, seen.ipv6.works, _text(seen.ipv6.mapped)),
        servers=_server_views(seen, found),
        classic=_classic_view(seen.classic, found),
        verdict=verdict and verdict.value,
        difficulty=difficulty,
        advice=advice,
        next_command=next_command,
        why=_why(seen, found),
        findings=_findings(seen, found),
        complete=not seen.is_late,
        took_ms=milliseconds(seen.took_s),
    )


def _why(seen: Sighting, found: Conclusion) -> dict[str, str]:
    reasons = found.why if seen.ipv6.works is not None else found.why | {"ipv6": Why.NOT_TESTED}
    return {field: reason.value for field, reason in sorted(reasons.items())}


def _text(address: Address | None) -> str | None:
    return None if address is None else address_text(*address)


# --- servers and routers --------------------------------------------------------------------------------------------------


def _server_views(seen: Sighting, found: Conclusion) -> list[ProbeServerView]:
    counted = {id(server) for voice in voices_of(seen.evidence.servers) for server in voice.servers}
    return [
        _server_view(subject, server, found, is_counted=id(server) in counted)
        for subject, server in zip(seen.subjects, seen.evidence.servers, strict=True)
    ]


def _server_view(subject: Subject, server: ServerEvidence, found: Conclusion, *, is_counted: bool) -> ProbeServerView:
    control = server.control
    mapped = server.mapped
    return ProbeServerView(
        server=server.name,
        address=address_text(*server.address),
        ip=server.address[0],
        port=server.address[1],
        answered=subject.has_answered,
        mapped=_text(mapped),
        mapped_ip=mapped and mapped[0],
        mapped_port=mapped and mapped[1],
        rtt_ms=None if subject.rtt_s is None else milliseconds(subject.rtt_s),
        loss=round(control.lost / sum(control), 3) if sum(control) else None,
        alternate=server.alternate.value if subject.has_answered else None,
        other_address=_text(server.other),
        software=subject.software,
        counted=is_counted,
        outlier=server in found.outliers if server.claims else None,
    )


def _gateway_view(router: RouterAnswer) -> GatewayView:
    found = router.found
    return GatewayView(
        method=router.method.value,
        speaks=found is not None,
        address=found and found.address,
        name=found and found.name,
        external_ip=found and found.external_ip,
        error=router.trouble,
    )


def _classic_view(classic: ClassicAnswer | None, found: Conclusion) -> ClassicView | None:
    if classic is None:
        return None
    is_compared = classic.nat_type is not None and found.nat_type is not None
    return ClassicView(
        classic.server,
        classic.words,
        classic.nat_type and classic.nat_type.value,
        _text(classic.mapped),
        classic.nat_type is found.nat_type if is_compared else None,
        classic.trouble,
    )


# --- what went wrong ------------------------------------------------------------------------------------------------------

_ALTERNATES = {
    Alternate.UNFIT: ("server_inconsistent", "names {other} as its other address, which cannot be; it was not asked"),
    Alternate.SILENT: ("server_alternate_silent", "names {other} as its other address, and nobody answers there"),
    Alternate.INCONSISTENT: (
        "server_inconsistent",
        "names {other} as its other address, and who answers there knows nothing of it",
    ),
}
ANOTHER_SERVER = "kodectl nat probe --server HOST:PORT --server HOST:PORT --server HOST:PORT"


def _findings(seen: Sighting, found: Conclusion) -> list[WarningView]:
    findings = [
        WarningView("name_not_resolved", f"the STUN server {name} does not resolve", None) for name in seen.unresolved
    ]
    for subject, server in zip(seen.subjects, seen.evidence.servers, strict=True):
        if not subject.has_answered and found.has_answer:
            findings.append(WarningView("server_silent", f"the STUN server {server.name} does not answer", None))
        elif server.alternate in _ALTERNATES:
            code, words = _ALTERNATES[server.alternate]
            text = words.format(other="several" if subject.names_several else _text(server.other))
            findings.append(WarningView(code, f"the STUN server {server.name} {text}", None))
    disagreeing = found.outliers or (seen.evidence.servers if Why.SERVERS_DISAGREE in found.why.values() else ())
    if disagreeing:
        text = "; ".join(_testimony(server) for server in seen.evidence.servers if server.claims)
        findings.append(WarningView("servers_disagree", f"servers see different things: {text}", ANOTHER_SERVER))
    if found.is_contradicted:
        text = "answers of one server get in and those of another do not; the former is proof"
        findings.append(WarningView("servers_disagree", text, None))
    if not found.has_answer and not seen.evidence.tcp_answers and seen.subjects:
        return [finding for finding in findings if finding.code == "name_not_resolved"]
    return findings


def _testimony(server: ServerEvidence) -> str:
    """Who says what. The endpoints of one server may see different things: then the ports."""
    said = sorted(Voice(server).said)
    return f"{server.name} sees {', '.join(address_text(*mapped) for mapped in said)}"


# --- what to do -----------------------------------------------------------------------------------------------------------

RUN = "kodectl node run"
MAP = "kodectl nat map 30303/tcp 30301/udp"

_METHOD_NAMES = {Method.PCP: "PCP", Method.NATPMP: "NAT-PMP", Method.UPNP: "UPnP"}


def _difficulty(found: Conclusion) -> Difficulty | None:
    match found.verdict:
        case Verdict.DIRECT:
            return "easy"
        case Verdict.HOLE_PUNCHING:
            return "moderate"
        case Verdict.TURN_RELAY:
            return "hard"
    return None


def _advice(seen: Sighting, found: Conclusion) -> tuple[str, str]:
    """A sentence and a command."""
    speaking = [_METHOD_NAMES[router.method] for router in seen.routers if router.found is not None]
    if found.nat_type is NatType.BLOCKED:
        return "UDP does not get out of this network: allow it, at least to the discovery ports of peers", RUN
    if not found.has_answer:
        return "check the network and the addresses of the servers", ANOTHER_SERVER
    if found.nat_type is NatType.FIREWALLED:
        return "no NAT, but a firewall drops what nobody asked for: allow the node's TCP and UDP ports in", RUN
    if found.nat_type is NatType.FULL_CONE:
        return "who knows its outer address can reach this host, as long as its own traffic keeps the mapping", RUN
    if found.verdict is Verdict.DIRECT:
        return "anybody can reach this host", RUN
    if found.is_translated is False:
        return (
            "no NAT; whether a firewall keeps strangers out would show by a server with two addresses",
            ANOTHER_SERVER,
        )
    if found.verdict is None:
        return "name more servers, in different networks, so that a majority can decide", ANOTHER_SERVER
    how = "by hole punching" if found.verdict is Verdict.HOLE_PUNCHING else "through a relay only"
    if found.port_pattern is PortPattern.SEQUENTIAL:
        how = "through a relay, or by guessing the next port"
    reached = f"peers reach this host {how}"
    if speaking and not found.double_nat:
        return f"{reached}; the router maps ports ({', '.join(speaking)}), and then they reach it directly", MAP
    if found.double_nat:
        return f"{reached}; a port mapping at the router here does not help, as there is another NAT beyond it", RUN
    return (
        f"{reached}; forward its ports on the router, or turn on UPnP, NAT-PMP or PCP there, to be reached directly",
        RUN,
    )
