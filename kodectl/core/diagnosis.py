"""From what checks have found to what is wrong first.

A check that fails often fails because another one did: without an address there is no DNS, without an answer of a bootstrap node
nobody can knock. `FOLLOWS_FROM` says which trouble brings which others with it; what is left over when those are taken away are
the causes, and the first of them is the one to mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """By gravity. SKIPPED: there is nothing to check here, as with a port mapping that is switched off. UNKNOWN: it could not be
    found out."""

    OK = 0
    SKIPPED = 1
    UNKNOWN = 2
    WARNING = 3
    FAILED = 4

    @property
    def is_trouble(self) -> bool:
        return self >= State.UNKNOWN


class Finding(NamedTuple):
    """What a check has found. `code` is what `kodectl explain` knows; None where all is well or nothing is known."""

    check: str
    state: State
    seen: str
    """What was seen, in one sentence."""
    code: str | None = None
    why: str | None = None
    """Why it matters."""
    mend: str | None = None
    command: str | None = None
    """What to type."""
    details: Mapping[str, object] = {}  # a NamedTuple's default, never changed


ORDER = (
    "config",
    "disk",
    "key_file",
    "fd_limit",
    "ports",
    "api_exposure",
    "node",
    "addresses",
    "dns",
    "clock",
    "udp_egress",
    "bootstrap",
    "advertised_address",
    "cgnat",
    "port_mapping",
    "nat_class",
    "inbound_udp",
    "inbound_tcp",
    "table",
    "dials",
)
"""Every check; of two causes that weigh the same, the one that comes first here is to be mended first."""

_INBOUND = frozenset({"inbound_udp", "inbound_tcp"})
_SEEN_BY_OTHERS = _INBOUND | {"clock", "advertised_address", "cgnat", "nat_class"}
_OF_THE_NETWORK = _SEEN_BY_OTHERS | {"dns", "udp_egress", "bootstrap", "port_mapping", "table", "dials"}
_JOINING = _SEEN_BY_OTHERS | {"bootstrap", "udp_egress", "table", "dials"}
_NOBODY_TO_ASK = _SEEN_BY_OTHERS | {"udp_egress", "table", "dials"}
_BEHIND_IT = _INBOUND | {"nat_class"}
_NOT_FORWARDED = _INBOUND | {"advertised_address"}

FOLLOWS_FROM: dict[str, frozenset[str]] = {
    "disk_full": frozenset({"node", "key_file"}),
    "path_unwritable": frozenset({"node", "key_file"}),
    "store": frozenset({"node"}),
    "too_many_open_files": _OF_THE_NETWORK | {"ports", "node"},
    "port_in_use": _INBOUND,
    "permission": _INBOUND,
    "address_not_available": _INBOUND | {"addresses"},
    "api_token_required": frozenset({"node"}),
    "node_not_answering": _OF_THE_NETWORK,
    "not_authorised": _OF_THE_NETWORK,
    "socket_not_yours": _OF_THE_NETWORK,
    "no_network": _OF_THE_NETWORK,
    "name_not_resolved": _JOINING,
    "clock_skew": _JOINING - {"udp_egress", "clock"},
    "udp_blocked": _JOINING - {"udp_egress"} | {"cgnat"},
    "no_bootstrap_answered": _NOBODY_TO_ASK,
    "identity_mismatch": _NOBODY_TO_ASK,
    "cgnat": _BEHIND_IT | {"port_mapping"},
    "double_nat": _BEHIND_IT | {"port_mapping", "cgnat"},
    "mapping_refused": _BEHIND_IT,
    "mapping_conflict": _BEHIND_IT,
    "mapping_not_authorised": _BEHIND_IT,
    "mapping_permanent_only": _BEHIND_IT,
    "mapping_unsupported": _BEHIND_IT,
    "gateway_full": _BEHIND_IT,
    "nat_symmetric": _NOT_FORWARDED,
    "nat_not_forwarded": _NOT_FORWARDED,
    "firewalled": _INBOUND,
    "table_empty": _SEEN_BY_OTHERS | {"dials"},
}
"""By the code of a trouble: the checks whose trouble comes of it."""


class Diagnosis(NamedTuple):
    root: Finding | None
    """What to mend first; None where nothing is wrong."""
    causes: dict[str, str]
    """Of each check whose trouble comes of another one's: that other check, itself a cause."""
    others: list[Finding]
    """Causes beside the root, the gravest first."""
    worst: State

    def consequences_of(self, check: str) -> list[str]:
        return [one for one, cause in self.causes.items() if cause == check]


def diagnose(findings: Iterable[Finding]) -> Diagnosis:
    """At most one finding for each check; in any order."""
    troubles = sorted((one for one in findings if one.state.is_trouble), key=_place)
    direct = {one.check: cause for one in troubles if (cause := _cause_of(one, troubles)) is not None}
    causes = {check: _first_of(check, direct) for check in direct}
    weight = {one.check: one.state for one in troubles}
    for check, cause in causes.items():
        # What brings something graver with it is as grave.
        weight[cause] = max(weight[cause], weight[check])
    roots = [one for one in troubles if one.check not in causes]
    roots.sort(key=lambda one: (-weight[one.check], _place(one)))
    worst = max(weight.values(), default=State.OK)
    return Diagnosis(roots[0] if roots else None, causes, roots[1:], worst)


def _place(finding: Finding) -> int:
    return ORDER.index(finding.check)


def _cause_of(finding: Finding, troubles: list[Finding]) -> str | None:
    """The first trouble that brings this one with it. What brings others with it comes only of what stands before it in ORDER:
    so there are no circles. Of what is unknown for one reason, the first speaks for all."""
    is_last = not _consequences(finding)
    for other in troubles:
        is_earlier = _place(other) < _place(finding)
        if finding.check in _consequences(other) and (is_last or is_earlier):
            return other.check
    alike = (one for one in troubles if (one.state, one.code) == (State.UNKNOWN, finding.code) and one.code is not None)
    first = next(alike, finding) if finding.state is State.UNKNOWN else finding
    return None if first is finding else first.check


def _consequences(finding: Finding) -> frozenset[str]:
    """Unknown itself, a trouble explains nothing."""
    if finding.state is State.UNKNOWN:
        return frozenset()
    return FOLLOWS_FROM.get(finding.code or "", frozenset()) - {finding.check}


def _first_of(check: str, direct: Mapping[str, str]) -> str:
    """Where the chain of causes begins."""
    while check in direct:
        check = direct[check]
    return check
