"""What routers say when they do not map a port, in words and with advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kodectl.core.mapping import MappingRefused, Method
from kodectl.errors import KodectlError

METHOD_NAMES = {Method.PCP: "PCP", Method.NATPMP: "NAT-PMP", Method.UPNP: "UPnP"}

BY_HAND = "or forward the port to this machine there by hand"

ADVICE = {
    "mapping_not_authorised": f"allow port mapping (UPnP, NAT-PMP, PCP) in the router's settings, {BY_HAND}",
    "gateway_no_address": "bring the router's internet connection up; where another router or the provider's NAT stands "
    "before it, map the ports there, or have that one pass everything on",
    "gateway_full": "remove mappings that nobody needs (kodectl nat mappings), or restart the router",
    "mapping_permanent_only": "ask for a mapping without an end: --lease 0",
    "mapping_conflict": "choose another outer port, or remove the other mapping in the router",
    "mapping_refused": f"look into the router's log and settings, {BY_HAND}",
    "mapping_unsupported": "use another protocol: --proto auto",
}
"""What an operator can do about each code of a refusal. The order is that of what tells him most."""


class Refusal(NamedTuple):
    code: str
    words: str
    """Completes "the router ..."."""


NO_ADDRESS = "has no outer address to map: its line is down, or it is behind another NAT"
"""miniupnpd says the same of both."""

UNKNOWN = Refusal("mapping_refused", "gives a result that no specification has")

NATPMP = {
    1: Refusal("mapping_unsupported", "does not speak this version of NAT-PMP"),
    2: Refusal("mapping_not_authorised", "does not allow it: port mapping is switched off, or not for this machine"),
    3: Refusal("gateway_no_address", NO_ADDRESS),
    4: Refusal("gateway_full", "has no room for another mapping"),
    5: Refusal("mapping_unsupported", "does not know this request of NAT-PMP"),
}
"""RFC 6886, section 3.5."""

PCP = {
    1: Refusal("mapping_unsupported", "does not speak this version of PCP"),
    2: Refusal(
        "mapping_not_authorised",
        "does not allow it: port mapping is switched off, or another program holds this mapping",
    ),
    3: Refusal("mapping_unsupported", "cannot read the request"),
    4: Refusal("mapping_unsupported", "does not know this request of PCP"),
    5: Refusal("mapping_unsupported", "does not know an option of the request"),
    6: Refusal("mapping_unsupported", "cannot read an option of the request"),
    7: Refusal("gateway_no_address", NO_ADDRESS),
    8: Refusal("gateway_full", "has no room for another mapping"),
    9: Refusal("mapping_unsupported", "maps no ports of this transport"),
    10: Refusal("gateway_full", "gives this machine no more mappings"),
    11: Refusal("mapping_conflict", "cannot give this outer port: it belongs to another host, or to the router"),
    12: Refusal("mapping_refused", "sees this machine at another address: there is a NAT between the two"),
    13: Refusal("gateway_full", "has no room for so many peers in one mapping"),
}
"""RFC 6887, section 7.4."""

UPNP = {
    401: Refusal("mapping_unsupported", "does not know this action of UPnP"),
    402: Refusal("mapping_refused", "does not take the arguments"),
    501: Refusal("mapping_refused", "has failed, and does not say why"),
    600: Refusal("mapping_refused", "does not take a value"),
    601: Refusal("mapping_refused", "finds a value out of its range"),
    602: Refusal("mapping_unsupported", "does not have this action of UPnP"),
    603: Refusal("gateway_full", "is out of memory"),
    604: Refusal("mapping_refused", "wants somebody to look at its own pages"),
    605: Refusal("mapping_refused", "finds a text too long"),
    606: Refusal("mapping_not_authorised", "does not allow it"),
    715: Refusal("mapping_unsupported", "maps for one outside host only"),
    716: Refusal("mapping_refused", "wants one outer port"),
    718: Refusal("mapping_conflict", "has mapped this outer port already, to another host or program"),
    724: Refusal("mapping_refused", "wants outer and inner port to be the same"),
    725: Refusal("mapping_permanent_only", "makes only mappings without an end"),
    726: Refusal("mapping_unsupported", "wants no outside host named"),
    727: Refusal("mapping_unsupported", "maps all outer ports or none"),
    728: Refusal("gateway_full", "has no free ports left"),
    729: Refusal("mapping_conflict", "uses this outer port itself, or for a fixed rule"),
    731: Refusal("mapping_not_authorised", "does not let its mappings be changed"),
    732: Refusal("mapping_refused", "wants one inner port"),
    733: Refusal("mapping_refused", "finds the arguments inconsistent"),
}
"""UPnP Device Architecture 1.1, table 3-3; WANIPConnection:2, sections 2.5.16 to 2.5.21."""

_TABLES: dict[Method, dict[int, Refusal]] = {Method.NATPMP: NATPMP, Method.PCP: PCP, Method.UPNP: UPNP}


def refused(method: Method, number: int | None, what: str) -> MappingRefused:
    """The refusal of `what` ("30303/tcp") with this result code, to be raised; None: one that the library has no number for."""
    code, words = UNKNOWN if number is None else _TABLES[method].get(number, UNKNOWN)
    result = "" if number is None else f" {number}"
    message = f"{what}: the router {words} ({METHOD_NAMES[method]} result{result})"
    return MappingRefused(message, method=method, number=number, code=code, hint=ADVICE[code])


def most_telling(troubles: Sequence[KodectlError]) -> MappingRefused | None:
    """Of several routers' or protocols' refusals the one to show; None where nobody refused."""
    refusals = [trouble for trouble in troubles if isinstance(trouble, MappingRefused)]
    ranks = {code: rank for rank, code in enumerate(ADVICE)}
    return min(refusals, key=lambda refusal: ranks.get(refusal.code, len(ranks)), default=None)
