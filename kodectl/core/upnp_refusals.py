"""What a UPnP router's errors mean for who wants a port mapped.

Numbers and names: UPnP Device Architecture 1.1, table 3-3; WANIPConnection:2, section 2.5.16 and those before.
"""

from __future__ import annotations

from typing import NamedTuple

from kodectl.core.mapping import MappingRefused, Method


class _Meaning(NamedTuple):
    code: str
    says: str
    hint: str | None = None


_ALLOW = "allow UPnP in the router's settings, also for this machine and ports above 1023"
_BY_HAND = "try --proto natpmp or --proto pcp, or forward the port by hand in the router"
_OTHER_PORT = "ask for another outer port, as in 30303/tcp:30304; kodectl nat mappings lists those taken"
_ROOM = "remove mappings that nobody needs (kodectl nat mappings lists them), or restart the router"

_MEANINGS = {
    401: _Meaning("mapping_unsupported", "it does not know the action", _BY_HAND),
    402: _Meaning("mapping_refused", "it does not take the arguments", _BY_HAND),
    501: _Meaning("mapping_refused", "the action failed, and it does not say why", _BY_HAND),
    600: _Meaning("mapping_refused", "it does not take a value", _BY_HAND),
    601: _Meaning("mapping_refused", "a value is out of its range", _BY_HAND),
    602: _Meaning("mapping_unsupported", "it does not have the action", _BY_HAND),
    603: _Meaning("gateway_full", "it is out of memory", _ROOM),
    604: _Meaning("mapping_refused", "it wants somebody to look at it", "open the router's own pages"),
    605: _Meaning("mapping_refused", "a text is too long for it", _BY_HAND),
    606: _Meaning("mapping_not_authorised", "it does not allow it", _ALLOW),
    715: _Meaning("mapping_unsupported", "it maps for one outside host only", _BY_HAND),
    716: _Meaning("mapping_refused", "it wants one outer port", _OTHER_PORT),
    718: _Meaning("mapping_conflict", "the outer port is mapped to another host or program", _OTHER_PORT),
    724: _Meaning("mapping_refused", "outer and inner port must be the same", "ask for the port without :EXT"),
    725: _Meaning("mapping_permanent_only", "it makes only mappings without an end", "ask for one with --lease 0"),
    726: _Meaning("mapping_unsupported", "it wants no outside host named", _BY_HAND),
    727: _Meaning("mapping_unsupported", "it maps all outer ports or none", _BY_HAND),
    728: _Meaning("gateway_full", "it has no free ports left", _ROOM),
    729: _Meaning("mapping_conflict", "the outer port is in use by the router itself or by a fixed rule", _OTHER_PORT),
    731: _Meaning("mapping_not_authorised", "its mappings cannot be changed", _ALLOW),
    732: _Meaning("mapping_refused", "it wants one inner port", "name the port"),
    733: _Meaning("mapping_refused", "it finds the arguments inconsistent", _BY_HAND),
}
_UNKNOWN = _Meaning("mapping_refused", "it gives an error that is not known", _BY_HAND)

NO_SUCH_ENTRY = 714

WITHOUT_END = frozenset({402, 501, 725})
"""725 says that a lease must be endless; others of that kind say only that they do not take the arguments, or fail."""
TAKEN = frozenset({718, 729})
"""Another outer port may be free."""


def refused(number: int | None, what: str) -> MappingRefused:
    """`what` the router does not do; `number` None: an error that has no number here."""
    meaning = _UNKNOWN if number is None else _MEANINGS.get(number, _UNKNOWN)
    error = "" if number is None else f" (UPnP error {number})"
    return MappingRefused(
        f"the router does not {what}: {meaning.says}{error}",
        method=Method.UPNP,
        number=number,
        code=meaning.code,
        hint=meaning.hint,
    )
