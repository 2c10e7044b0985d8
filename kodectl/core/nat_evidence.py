"""From what a probe has seen to what may be said of the NAT.

The rules of evidence:

1. A test that did not run, or whose outcome can be explained in another way, is None with a reason (`Why`). Nothing is
   guessed, and no class is better than a wrong one.
2. What servers say may be a lie. The outer address is what more than half of the voices name; whether the mapping depends on
   the destination, `nat_votes` decides: so that it holds as long as no more than half of those who answer lie.
3. What arrives is proof, whoever sent it: a datagram from an address that a socket has never sent to has passed the filter.
   So where servers contradict each other on filtering, the more open one is right.
4. Silence is proof only if the datagram was sent and not lost. That it was not lost is a matter of counting (`silence`): plain
   requests run beside the test, on its socket, and measure the loss. That it was sent must be known of the server:
   its other address must answer, and know of it; it must not be caught lying about the mapping; and it must have
   answered the same request through a filter that was open, because the socket had sent to that other address
   (behind a mapping for each destination no filter can be opened so, and the first two have to do; there the class does not
   hang on the filter).
5. Filters are tested on fresh sockets, and before any other address of a server is sent to (RFC 5780, section 4.5).
6. UDP is blocked if it brought no answer from anybody and a server that was silent answers over TCP.

What is left: a server that is the only one with two addresses, and which answers from the other one exactly to those
sockets that have sent there, passes for an honest one behind a stricter filter. And who has one server believes it.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from kodectl.core.nat import Behavior, NatType, Verdict, nat_type_of, verdict_of
from kodectl.core.nat_observations import Address, Alternate, Evidence, FilterTest, ServerEvidence
from kodectl.core.nat_votes import Ballot, Voice, count
from kodectl.core.silence import SENDINGS, is_significant
from kodectl.wire.addresses import scope_of

MIN_PORTS = 3
"""To see a pattern in them: two ports always have a distance."""
SEQUENCE_SPAN = 256
"""Ports given one after the other are as near as this: a probe opens some dozen mappings, and steps are small. Three ports
drawn at random are as near once in 20,000 times."""


class Why(Enum):
    """Why something is not known."""

    NO_SERVER_ANSWERED = "no_server_answered"
    SERVERS_DISAGREE = "servers_disagree"
    SERVER_HAS_ONE_ADDRESS = "server_has_one_address"
    SERVER_ALTERNATE_SILENT = "server_alternate_silent"
    SERVER_INCONSISTENT = "server_inconsistent"
    SERVER_DOES_NOT_CHANGE = "server_does_not_change"
    """It was not seen to answer from its other address even where nothing is in the way."""
    MAPPING_CHANGED = "mapping_changed"
    MAPPING_VARIES = "mapping_varies"
    MAPPING_UNKNOWN = "mapping_unknown"
    PORTS_PREDICTABLE = "ports_predictable"
    PORTS_NOT_COMPARED = "ports_not_compared"
    PACKET_LOSS = "packet_loss"
    NOT_TESTED = "not_tested"
    NO_NAT = "no_nat"
    NO_GATEWAY = "no_gateway"
    GATEWAYS_NOT_ASKED = "gateways_not_asked"
    GATEWAY_NO_ADDRESS = "gateway_no_address"


class PortPattern(Enum):
    SEQUENTIAL = "sequential"
    RANDOM = "random"


class Conclusion(NamedTuple):
    """What follows; None is unknown, and `why` has the reason by the field's name."""

    has_answer: bool
    ip: str | None
    """The outer address. `port`: of the mapping socket, where it is the same towards all."""
    port: int | None
    is_translated: bool | None
    mapping: Behavior | None
    filtering: Behavior | None
    nat_type: NatType | None
    verdict: Verdict | None
    port_preserved: bool | None
    port_pattern: PortPattern | None
    port_step: int | None
    hairpin: bool | None
    cgnat: bool | None
    double_nat: bool | None
    why: dict[str, Why]
    outliers: tuple[ServerEvidence, ...]
    """Servers that say what cannot be, if the rest of this is so."""
    is_contradicted: bool
    """Whether one server's answers got through where another one's did not."""


def conclude(evidence: Evidence) -> Conclusion:
    ballot = count(evidence.servers, evidence.local_port)
    why: dict[str, Why] = {}
    if not any(server.claims for server in evidence.servers):
        return _without_answer(evidence, why)
    port = _port(ballot)
    is_translated = _is_translated(ballot, port, evidence)
    mapping = _mapping(ballot, is_translated, why)
    outliers = tuple(
        server for server in evidence.servers if server.claims and _is_outlier(Voice(server), ballot, port)
    )
    filtering, is_contradicted = _filtering(evidence.servers, outliers, ballot, is_translated, why)
    # Whether it depends on the port too makes no difference to the older names.
    named = Behavior.ADDRESS_DEPENDENT if ballot.depends else mapping
    nat_type = nat_type_of(is_translated, named, filtering)
    pattern, step = _pattern(ballot, outliers, is_translated, why)
    if ballot.ip is None:
        why["address"] = Why.SERVERS_DISAGREE if ballot.voices else Why.MAPPING_CHANGED
    elif port is None:
        why["port"] = Why.MAPPING_VARIES if ballot.depends else Why.SERVERS_DISAGREE
    if nat_type is None:
        why["nat_type"] = why.get("mapping") or why.get("filtering") or Why.SERVERS_DISAGREE
    return Conclusion(
        has_answer=True,
        ip=ballot.ip,
        port=port,
        is_translated=is_translated,
        mapping=mapping,
        filtering=filtering,
        nat_type=nat_type,
        verdict=verdict_of(nat_type, mapping),
        port_preserved=_port_preserved(ballot, port, evidence.local_port, why),
        port_pattern=pattern,
        port_step=step,
        hairpin=_hairpin(evidence, ballot, is_translated, why),
        cgnat=_cgnat(evidence, ballot.ip, is_translated, why),
        double_nat=_double_nat(evidence, ballot.ip, is_translated, why),
        why=why,
        outliers=outliers,
        is_contradicted=is_contradicted,
    )


def _without_answer(evidence: Evidence, why: dict[str, Why]) -> Conclusion:
    nat_type = NatType.BLOCKED if evidence.tcp_answers else None
    unknown = ["address", "port", "translated", "mapping", "filtering", "port_preserved", "port_pattern", "hairpin"]
    why.update(dict.fromkeys(unknown if nat_type else [*unknown, "nat_type"], Why.NO_SERVER_ANSWERED))
    return Conclusion(
        has_answer=False,
        ip=None,
        port=None,
        is_translated=None,
        mapping=None,
        filtering=None,
        nat_type=nat_type,
        verdict=verdict_of(nat_type, None),
        port_preserved=None,
        port_pattern=None,
        port_step=None,
        hairpin=None,
        cgnat=_cgnat(evidence, None, None, why),
        double_nat=_double_nat(evidence, None, None, why),
        why=why,
        outliers=(),
        is_contradicted=False,
    )


# --- the mapping ---------------------------------------------------------------------------------------------------------


def _port(ballot: Ballot) -> int | None:
    """That of the one mapping; where nobody can say whether there is one, the one that more than half name."""
    if ballot.said is not None:
        return ballot.said[1]
    if ballot.depends or ballot.ip is None:
        return None
    steady = [voice.said for voice in ballot.voices if len(voice.said) == 1]
    for said in steady:
        (mapped,) = said
        if mapped[0] == ballot.ip and steady.count(said) * 2 > len(ballot.voices):
            return mapped[1]
    return None


def _is_translated(ballot: Ballot, port: int | None, evidence: Evidence) -> bool | None:
    if ballot.depends:
        return True
    if ballot.ip is None or (port is None and ballot.ip in evidence.own_ips):
        return None
    return ballot.ip not in evidence.own_ips or port != evidence.local_port


def _mapping(ballot: Ballot, is_translated: bool | None, why: dict[str, Why]) -> Behavior | None:
    if ballot.depends is None:
        if is_translated is False:
            return Behavior.ENDPOINT_INDEPENDENT
        why["mapping"] = _why_no_mapping(ballot)
        return None
    if not ballot.depends:
        return Behavior.ENDPOINT_INDEPENDENT
    compared = [voice.depends_on_port for voice in ballot.voices if voice.depends_on_port is not None]
    for answer, behavior in ((True, Behavior.ADDRESS_AND_PORT_DEPENDENT), (False, Behavior.ADDRESS_DEPENDENT)):
        if compared.count(answer) * 2 > len(compared):
            return behavior
    why["mapping"] = Why.SERVERS_DISAGREE if compared else Why.PORTS_NOT_COMPARED
    return None


def _why_no_mapping(ballot: Ballot) -> Why:
    if not ballot.voices or not all(voice.is_steady for voice in ballot.voices):
        return Why.MAPPING_CHANGED
    if len(ballot.voices) == 1:
        return _WHY_NO_ALTERNATE.get(ballot.voices[0].servers[0].alternate, Why.SERVERS_DISAGREE)
    said = {mapped for voice in ballot.voices for mapped in voice.said}
    return Why.PORTS_PREDICTABLE if len(said) < len(ballot.voices) and ballot.is_predictable else Why.SERVERS_DISAGREE


def _is_outlier(voice: Voice, ballot: Ballot, port: int | None) -> bool:
    """What it says and what is believed cannot both be."""
    if not voice.is_steady:
        return True
    if ballot.depends:
        return voice.is_uniform or voice.ip != ballot.ip
    if ballot.ip is not None and port is not None:
        return voice.said != {(ballot.ip, port)}
    return ballot.ip is not None and voice.ip != ballot.ip


def _port_preserved(ballot: Ballot, port: int | None, local_port: int, why: dict[str, Why]) -> bool | None:
    if port is not None:
        return port == local_port
    if ballot.depends:
        return all(mapped[1] == local_port for voice in ballot.voices for mapped in voice.said)
    why["port_preserved"] = Why.MAPPING_UNKNOWN
    return None


def _pattern(
    ballot: Ballot, outliers: tuple[ServerEvidence, ...], is_translated: bool | None, why: dict[str, Why]
) -> tuple[PortPattern | None, int | None]:
    """How the ports of one mapping after the other are chosen."""
    if not ballot.depends:
        unknown = Why.MAPPING_UNKNOWN if ballot.depends is None else Why.NOT_TESTED
        why["port_pattern"] = Why.NO_NAT if is_translated is False else unknown
        return None, None
    series = [voice.ports() for voice in ballot.voices if not any(server in outliers for server in voice.servers)]
    # The ports of one server, where it has enough: no other can spoil them.
    long = [ports for ports in series if len(set(ports)) >= MIN_PORTS]
    together = [port for ports in series for port in ports]
    steps = [_step(ports) for ports in long or [together]]
    if len(set(together)) < MIN_PORTS:
        why["port_pattern"] = Why.NOT_TESTED
        return None, None
    near = [step for step in steps if step is not None]
    if len(near) * 2 > len(steps):
        return PortPattern.SEQUENTIAL, min(near, key=abs)
    return PortPattern.RANDOM, None


def _step(ports: list[int]) -> int | None:
    """None for ports that are not near each other. Other sockets of the probe, and other hosts, take some of the sequence:
    what is seen are multiples of the step."""
    ordered = sorted(set(ports))
    if len(ordered) < MIN_PORTS or ordered[-1] - ordered[0] > SEQUENCE_SPAN:
        return None
    step = gcd(*(after - before for before, after in pairwise(ordered)))
    return step if ports[-1] > ports[0] else -step


# --- the filter ----------------------------------------------------------------------------------------------------------

_WHY_NO_ALTERNATE = {
    Alternate.NONE: Why.SERVER_HAS_ONE_ADDRESS,
    Alternate.UNFIT: Why.SERVER_INCONSISTENT,
    Alternate.NOT_ASKED: Why.NOT_TESTED,
    Alternate.SILENT: Why.SERVER_ALTERNATE_SILENT,
    Alternate.INCONSISTENT: Why.SERVER_INCONSISTENT,
}
_WHY_NO_FILTERING = (
    # What comes nearest to an answer first.
    Why.PACKET_LOSS,
    Why.SERVER_DOES_NOT_CHANGE,
    Why.SERVERS_DISAGREE,
    Why.MAPPING_UNKNOWN,
    Why.SERVER_ALTERNATE_SILENT,
    Why.SERVER_INCONSISTENT,
    Why.NOT_TESTED,
    Why.SERVER_HAS_ONE_ADDRESS,
)


class _Silence(NamedTuple):
    """Whether answers that are asked for from elsewhere stay away; None: not known, for the reason."""

    both: bool | None
    port: bool | None
    why: Why | None


def _filtering(
    servers: tuple[ServerEvidence, ...],
    outliers: tuple[ServerEvidence, ...],
    ballot: Ballot,
    is_translated: bool | None,
    why: dict[str, Why],
) -> tuple[Behavior | None, bool]:
    """The behaviour, and whether servers contradict each other."""
    answered = [server for server in servers if server.claims or server.aside]
    silences = [
        _silence(server, is_outlier=server in outliers, depends=ballot.depends, is_translated=is_translated)
        for server in answered
    ]
    is_any_let_in = any(_sources(server, is_elsewhere=True) for server in answered)
    is_port_let_in = any(_sources(server, is_elsewhere=False) for server in answered)
    is_both_silent = any(silence.both for silence in silences)
    is_port_silent = any(silence.port for silence in silences)
    if is_any_let_in:
        return Behavior.ENDPOINT_INDEPENDENT, is_both_silent
    if is_both_silent and is_port_let_in:
        return Behavior.ADDRESS_DEPENDENT, is_port_silent
    if is_both_silent and is_port_silent:
        return Behavior.ADDRESS_AND_PORT_DEPENDENT, False
    reasons = {silence.why for silence in silences}
    why["filtering"] = next((reason for reason in _WHY_NO_FILTERING if reason in reasons), Why.NOT_TESTED)
    return None, False


def _sources(server: ServerEvidence, *, is_elsewhere: bool) -> set[Address]:
    """From where answers came in that nobody was sent to: from another address, or from another port of the server."""
    tests = [test for test in (server.changed_both, server.changed_port) if test is not None]
    sources = {source for test in tests for source in test.sources if source != server.address}
    return {source for source in sources if (source[0] != server.address[0]) == is_elsewhere}


def _silence(server: ServerEvidence, *, is_outlier: bool, depends: bool | None, is_translated: bool | None) -> _Silence:
    if server.alternate is not Alternate.VERIFIED:
        return _Silence(None, None, _WHY_NO_ALTERNATE[server.alternate])
    if is_outlier:
        return _Silence(None, None, Why.SERVERS_DISAGREE)
    if server.changed_both is None or server.changed_port is None:
        return _Silence(None, None, Why.NOT_TESTED)
    both, why_both = _is_silent(server, server.changed_both, depends)
    port, why_port = _is_silent(server, server.changed_port, depends)
    return _Silence(both, port, why_both or why_port)


def _is_silent(server: ServerEvidence, test: FilterTest, depends: bool | None) -> tuple[bool | None, Why | None]:
    if test.sources:
        return False, None
    if not is_significant(server.control, test.unanswered):
        return None, Why.PACKET_LOSS
    if test.is_kept or (depends and test.is_kept is None):
        return True, None
    return None, Why.MAPPING_UNKNOWN if depends is None and test.is_kept is None else Why.SERVER_DOES_NOT_CHANGE


# --- what else there is -------------------------------------------------------------------------------------------------


def _hairpin(evidence: Evidence, ballot: Ballot, is_translated: bool | None, why: dict[str, Why]) -> bool | None:
    test = evidence.hairpin
    if is_translated is False:
        why["hairpin"] = Why.NO_NAT
    elif test is not None and test.has_arrived:
        return True
    elif ballot.depends:
        # The mapping towards the server need not be the one towards the host itself.
        why["hairpin"] = Why.MAPPING_VARIES
    elif ballot.depends is None:
        why["hairpin"] = Why.MAPPING_UNKNOWN
    elif test is None or test.unanswered < SENDINGS:
        why["hairpin"] = Why.NOT_TESTED
    else:
        return False
    return None


def _cgnat(evidence: Evidence, ip: str | None, is_translated: bool | None, why: dict[str, Why]) -> bool | None:
    """100.64.0.0/10 (RFC 6598) counts only where the default route leaves by it: some VPNs number their own interfaces
    from that range."""
    outer_ips = _outer_ips(evidence)
    if any(scope_of(own) == "cgnat" for own in (*outer_ips, evidence.source_ip or "")):
        return True
    if is_translated is False or (ip is not None and ip in outer_ips):
        return False
    why["cgnat"] = _why_no_gateway(evidence, ip)
    return None


def _double_nat(evidence: Evidence, ip: str | None, is_translated: bool | None, why: dict[str, Why]) -> bool | None:
    """Whether the router's outer address is not the one that servers see."""
    if is_translated is False:
        return False
    outer_ips = _outer_ips(evidence)
    if any(scope_of(outer) in ("private", "cgnat") for outer in outer_ips):
        return True
    if outer_ips and ip is not None:
        return ip not in outer_ips
    why["double_nat"] = _why_no_gateway(evidence, ip)
    return None


def _outer_ips(evidence: Evidence) -> list[str]:
    return [gateway.external_ip for gateway in evidence.gateways if gateway.external_ip is not None]


def _why_no_gateway(evidence: Evidence, ip: str | None) -> Why:
    if not evidence.gateways_asked:
        return Why.GATEWAYS_NOT_ASKED
    if not evidence.gateways:
        return Why.NO_GATEWAY
    return Why.GATEWAY_NO_ADDRESS if not _outer_ips(evidence) or ip is not None else Why.NO_SERVER_ANSWERED
