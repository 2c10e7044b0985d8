"""Whether strangers reach this node: what was seen, and what follows.

Two experiments, each by several observers:

* A fresh port, from which nothing has been sent but to one observer. What else arrives there tells how the NAT (or
  firewall) filters, for every mapping that it makes.
* The node's own ports. What arrives there shows that these can be reached, be it by a forward that an operator or a router
  made, or because nothing is in the way.

An arrival is proof, whoever caused it; silence counts only where several have been asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kodectl.core.nat import Behavior, NatType, Verdict, nat_type_of, verdict_of

MIN_SILENT = 2
"""Observers that must have knocked, or had others knock, before their silence counts."""
SURE_SILENT = 3
"""Of more that were asked: of two, both may have taken liars for helpers (1 in 50 with three of eight)."""


@dataclass
class Trial:
    """One observer's part. `helpers`: how many others it asked to knock; None when it did not take part."""

    helpers: int | None = None
    arrived_from_observer: bool = False
    """At the fresh port, from another port of the observer."""
    arrived_from_helper: bool = False
    """At the fresh port, from another address."""
    own_helpers: int | None = None
    """As `helpers`, for the knocks at the node's own ports."""
    own_udp_contacted: bool = False
    """A knock came to the discovery port, from an address that the node had sent something to."""
    own_udp_stranger: bool = False
    own_tcp: bool = False


class Evidence(NamedTuple):
    """`is_translated`: the address seen outside is not one of the machine's own. `is_mapped`: the router has said, and
    has been asked again, that the discovery port is forwarded."""

    is_translated: bool | None
    mapping: Behavior | None
    trials: list[Trial]
    is_mapped: bool = False


class Reach(NamedTuple):
    """What is known; None is unknown."""

    mapping: Behavior | None = None
    filtering: Behavior | None = None
    nat_type: NatType | None = None
    udp: bool | None = None
    tcp: bool | None = None
    verdict: Verdict | None = None


NOTHING_KNOWN = Reach()
BLOCKED = Reach(None, None, NatType.BLOCKED, False, None, Verdict.TURN_RELAY)
"""Peers are connected over TCP, and none of them answers over UDP."""


def conclude(evidence: Evidence) -> Reach:
    filtering = _filtering(evidence.trials)
    # Where nothing is translated, what others see is the port itself.
    mapping = Behavior.ENDPOINT_INDEPENDENT if evidence.is_translated is False else evidence.mapping
    udp = _udp(evidence, filtering)
    return _named(evidence.is_translated, Reach(mapping, filtering, None, udp, _tcp(evidence.trials)))


def is_thin(reach: Reach, trials: list[Trial]) -> bool:
    """Whether a filter was concluded from the silence of few, because with the others the trial came to nothing."""
    took_part = sum(bool(trial.helpers) for trial in trials)
    is_silence = reach.filtering not in (None, Behavior.ENDPOINT_INDEPENDENT)
    return is_silence and took_part < min(SURE_SILENT, len(trials))


def is_less_than(new: Reach, old: Reach) -> bool:
    """Whether something that was reached is now said not to be; unknown is not less."""
    return (old.udp is True and new.udp is False) or (old.tcp is True and new.tcp is False)


def with_what_was_known(new: Reach, old: Reach, is_translated: bool | None) -> Reach:
    """What a round could not measure is as before; what follows is from both together. Nothing was measured where all was
    silent (BLOCKED)."""
    if old == BLOCKED:
        return new
    measured = {name: value for name, value in new._asdict().items() if value is not None}
    return _named(is_translated, old._replace(**measured))


def _named(is_translated: bool | None, measured: Reach) -> Reach:
    """With what follows."""
    mapping, filtering, _, udp, tcp, _ = measured
    if filtering is Behavior.ENDPOINT_INDEPENDENT and mapping is Behavior.ENDPOINT_INDEPENDENT:
        udp = True
    nat_type = nat_type_of(is_translated, mapping, filtering)
    verdict = Verdict.DIRECT if udp or tcp else verdict_of(nat_type, mapping)
    return Reach(mapping, filtering, nat_type, udp, tcp, verdict)


def _filtering(trials: list[Trial]) -> Behavior | None:
    if any(trial.arrived_from_helper for trial in trials):
        return Behavior.ENDPOINT_INDEPENDENT
    asked = [trial for trial in trials if trial.helpers]
    if len(asked) < MIN_SILENT:
        return None
    if any(trial.arrived_from_observer for trial in trials):
        return Behavior.ADDRESS_DEPENDENT
    return Behavior.ADDRESS_AND_PORT_DEPENDENT


def _udp(evidence: Evidence, filtering: Behavior | None) -> bool | None:
    trials = evidence.trials
    if any(trial.own_udp_stranger for trial in trials):
        return True
    came = any(trial.own_udp_contacted for trial in trials)
    # From a new port of a contacted address: only a forward lets that through where ports are filtered as well.
    if came and (evidence.is_mapped or filtering is Behavior.ADDRESS_AND_PORT_DEPENDENT):
        return True
    asked = [trial for trial in trials if trial.own_helpers]
    return False if len(asked) >= MIN_SILENT and filtering is not None else None


def _tcp(trials: list[Trial]) -> bool | None:
    if any(trial.own_tcp for trial in trials):
        return True
    asked = [trial for trial in trials if trial.own_helpers is not None]
    return False if len(asked) >= MIN_SILENT else None
