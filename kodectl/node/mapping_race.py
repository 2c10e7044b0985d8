"""Mapping ports by whatever protocol the router speaks: all are looked for side by side, the first success counts.

Looking for a router changes nothing in it, so that is done side by side. Mapping is done by one protocol after the
other, in the order of their answers: most routers keep one table for all of them, and the second protocol's mapping
would replace the first's, its removal remove it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from kodectl.core.mapping import Gateway, MappingRefused, Method, PortMapping, Wish
from kodectl.core.refusals import ADVICE, METHOD_NAMES, most_telling
from kodectl.errors import EnvironmentFault, KodectlError, NegativeAnswer, PeerFault
from kodectl.runtime.base import Runtime, Scope, Stopped, TimedOut

log = logging.getLogger(__name__)

FIND_LIMIT_S = 8.0
"""For the finders; each has a shorter limit of its own."""
GRACE_S = 0.1
"""So long the first answer waits for a better protocol's: a router on the same wire answers all of its own in a few
milliseconds."""
OTHER_PORTS = 3
"""Outer ports tried besides the wanted one, where that belongs to another host."""
FIRST_OTHER_PORT, LAST_OTHER_PORT = 49152, 65535
"""The dynamic ports (RFC 6335, section 6): nobody's in particular."""

PREFERENCE = list(Method)

TROUBLES = (NegativeAnswer, PeerFault, EnvironmentFault)
"""What a router, or the way to it, may do to a request."""

Finders = Mapping[Method, Callable[[], Gateway]]


def race(
    runtime: Runtime, scope: Scope, finders: Finders, wishes: Sequence[Wish], other_ports: int = OTHER_PORTS
) -> tuple[Gateway, list[PortMapping]]:
    """Maps every wish at the first router and by the first protocol that gives all of them, verified by reading back
    where the protocol can. Waits; the finders run as tasks of `scope`, and those not needed come to nothing.

    Raises MappingRefused (the most telling one), or NegativeAnswer (code no_gateway); nothing is mapped then."""
    return MappingRace(runtime, scope, finders).run(wishes, other_ports)


class MappingRace:
    """One race, which can be given up."""

    def __init__(self, runtime: Runtime, scope: Scope, finders: Finders) -> None:
        self._runtime = runtime
        self._scope = scope
        self._finders = finders
        self._outcomes = runtime.mailbox(len(finders))
        self._awaited = set(finders)
        self._found: list[Gateway] = []
        self._troubles: dict[Method, KodectlError] = {}
        self._given_up = False

    def give_up(self) -> None:
        """Makes `run` end with Stopped as soon as the request under way has, with nothing left mapped. Does not wait."""
        self._given_up = True
        self._outcomes.close()

    def run(self, wishes: Sequence[Wish], other_ports: int = OTHER_PORTS) -> tuple[Gateway, list[PortMapping]]:
        """See `race`. Raises Stopped too."""
        for method, find in self._finders.items():
            self._scope.spawn(f"find {method.value}", self._find, method, find)
        ends = self._runtime.now() + FIND_LIMIT_S
        while (gateway := self._next(ends)) is not None:
            try:
                return gateway, self._map(gateway, wishes, other_ports)
            except TROUBLES as trouble:
                log.debug("%s at %s: %s", METHOD_NAMES[gateway.method], gateway.address, trouble)
                self._troubles[gateway.method] = trouble
        self._outcomes.close()
        raise most_telling(list(self._troubles.values())) or self._nobody()

    # -- looking for routers ---------------------------------------------------------------------------------------

    def _find(self, method: Method, find: Callable[[], Gateway]) -> None:
        try:
            outcome: Gateway | KodectlError = find()
        except KodectlError as trouble:
            outcome = trouble
        self._outcomes.put((method, outcome))

    def _next(self, ends: float) -> Gateway | None:
        """The best router that has answered and was not tried; waits while there is none and some may yet answer."""
        while self._awaited and not self._has_best():
            left = max(0.0, ends - self._runtime.now())
            try:
                method, outcome = self._outcomes.get(min(GRACE_S, left) if self._found else left)
            except TimedOut:
                break
            self._awaited.discard(method)
            if isinstance(outcome, KodectlError):
                self._troubles[method] = outcome
            else:
                self._found.append(outcome)
        if self._given_up:
            raise Stopped
        self._found.sort(key=lambda gateway: PREFERENCE.index(gateway.method))
        return self._found.pop(0) if self._found else None

    def _has_best(self) -> bool:
        """Whether none that is still awaited would be preferred to one that has answered."""
        best = min((PREFERENCE.index(gateway.method) for gateway in self._found), default=len(PREFERENCE))
        return all(PREFERENCE.index(method) > best for method in self._awaited)

    def _nobody(self) -> NegativeAnswer:
        names = ", ".join(METHOD_NAMES[method] for method in self._finders)
        why = "; ".join(f"{METHOD_NAMES[method]}: {trouble.message}" for method, trouble in self._troubles.items())
        return NegativeAnswer(
            f"no router answers {names}" + (f" ({why})" if why else ""),
            code="no_gateway",
            hint="switch on UPnP, NAT-PMP or PCP in the router, or forward the ports there by hand",
        )

    # -- mapping ---------------------------------------------------------------------------------------------------

    def _map(self, gateway: Gateway, wishes: Sequence[Wish], other_ports: int) -> list[PortMapping]:
        made: list[PortMapping] = []
        try:
            for wish in wishes:
                made.append(claim(self._runtime, gateway, wish, other_ports))
                if self._given_up:
                    raise Stopped
        except (*TROUBLES, Stopped):
            release(gateway, made)
            raise
        return made


def claim(runtime: Runtime, gateway: Gateway, wish: Wish, other_ports: int = OTHER_PORTS) -> PortMapping:
    """Maps one port, under another outer one where the wanted one is somebody else's, and reads it back.

    Waits; raises as Gateway.add."""
    wanted = wish.external_port or wish.internal_port
    others = (runtime.rng.randint(FIRST_OTHER_PORT, LAST_OTHER_PORT) for _ in range(other_ports))
    conflict: MappingRefused | None = None
    for port in (wanted, *others):
        try:
            return _read_back(gateway, gateway.add(replace(wish, external_port=port)))
        except MappingRefused as refusal:
            if refusal.code != "mapping_conflict":
                raise
            conflict = conflict or refusal
    assert conflict is not None
    raise conflict


def _read_back(gateway: Gateway, mapping: PortMapping) -> PortMapping:
    if gateway.verify(mapping) is not False:
        return mapping
    release(gateway, [mapping])
    raise MappingRefused(
        f"{mapping.internal[1]}/{mapping.transport.value}: the router says that it is mapped, and does not have it",
        method=gateway.method,
        number=None,
        code="mapping_refused",
        hint=ADVICE["mapping_refused"],
    )


def release(gateway: Gateway, mappings: Sequence[PortMapping]) -> None:
    """Removes as much as the router lets go; what it does not ends with its lease. Stops at a router that is silent."""
    with suppress(*TROUBLES):
        for mapping in mappings:
            with suppress(MappingRefused):
                gateway.remove(mapping)
