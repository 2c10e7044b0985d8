"""Ports mapped at the router for the time of one command, or until its end, without a running node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import msgspec

from kodectl.core.mapping import MappingRefused, Wish
from kodectl.errors import DeadlineReached, EnvironmentFault, KodectlError, NegativeAnswer, PeerFault
from kodectl.node.held_mappings import HeldMappings
from kodectl.node.mapping_race import OTHER_PORTS, Finders, MappingRace
from kodectl.node.mapping_views import FailureView, KeptEvent, MappingView, MapView, failure_view, views_of
from kodectl.node.port_mapping import LOOK_EVERY_S, LOOK_LEAST_S, SILENCES, nesting_of
from kodectl.runtime.base import Mailbox, Runtime, Stopped

ABANDON_LIMIT_S = 6.0
"""For the one request that may be under way: those of UPnP end within five seconds."""
END_LIMIT_S = 0.1
"""For finders whose routers are no longer needed; they end by themselves."""


class MappingTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a router. `lease_s` 0: without an end. `timeout_s`: for finding it and for all the ports."""

    lease_s: int
    timeout_s: float
    other_ports: int = OTHER_PORTS
    """Outer ports tried besides the one wanted, where that is another's."""


def require_network(runtime: Runtime) -> None:
    """Raises EnvironmentFault (no_network)."""
    if runtime.local_network().source is None:
        raise EnvironmentFault(
            "no IPv4 default route: this machine has no network with a router to ask", code="no_network"
        )


@contextmanager
def mapping_errand(runtime: Runtime, finders: Finders, terms: MappingTerms) -> Iterator[MappingErrand]:
    """When the block ends with an exception, nothing stays mapped; otherwise what is mapped stays."""
    errand = MappingErrand(runtime, finders, terms)
    try:
        yield errand
    except BaseException:
        errand.abandon()
        raise
    finally:
        errand.close()


class MappingErrand:
    """Maps ports at the first router that gives them, and keeps them mapped if it is told to.

    Races run in a task of their own: a signal that ends the waiting command does not tear a request in two, of which
    nobody would know whether the router has done it."""

    def __init__(self, runtime: Runtime, finders: Finders, terms: MappingTerms) -> None:
        self._runtime = runtime
        self._finders = finders
        self._terms = terms
        self._scope = runtime.scope("mapping errand")
        self._race: MappingRace | None = None
        self._idle = runtime.event()
        self._idle.set()
        self._held: list[HeldMappings] = []
        self._lost: list[Wish] = []
        self._silences = 0
        self._route = runtime.local_network()[1:]

    def map(self, wishes: Sequence[Wish]) -> MapView:
        """All of them at one router if that gives all, else each wherever it is to be had; waits.

        Raises MappingRefused or NegativeAnswer (no_gateway) when none of them is mapped; DeadlineReached."""
        failed: list[FailureView] = []
        trouble: NegativeAnswer | None = None
        try:
            self._map(wishes)
        except MappingRefused as refusal:
            trouble = refusal
            if len(wishes) > 1:
                failed = self._map_singly(wishes)
        if not self._held:
            assert trouble is not None
            raise trouble
        return self._view(failed)

    def keep(self, begun: Callable[[], None], report: Callable[[KeptEvent], None]) -> NoReturn:
        """Renews, and maps again what the router has lost, until something interrupts the waiting; then removes them.

        `begun` tells that they are mapped: whoever reads that may interrupt at once, and is told that they are removed."""
        try:
            begun()
            while True:
                self._scope.sleep(self._pause_s())
                self._mind_route(report)
                for held in list(self._held):
                    self._look(held, report)
                if self._lost:
                    self._map_again(report)
        except BaseException:
            mappings = self.mappings()
            left = self.abandon()
            why = f"not {', '.join(left)}: the router keeps them until their leases end" if left else None
            report(KeptEvent(event="removed", reason=why, mappings=mappings))
            raise

    def abandon(self) -> list[str]:
        """Removes what is mapped. Answers what the router does not let go. Waits."""
        if self._race is not None:
            self._race.give_up()
        self._idle.wait(ABANDON_LIMIT_S)
        left = []
        while self._held:
            left += _remove_all(self._held.pop())
        return left

    def close(self) -> None:
        self._scope.close()
        self._scope.join(END_LIMIT_S)

    def mappings(self) -> list[MappingView]:
        return [view for held in self._held for view in views_of(held)]

    # -- one race --------------------------------------------------------------------------------------------------

    def _map_singly(self, wishes: Sequence[Wish]) -> list[FailureView]:
        failed = []
        for wish in wishes:
            try:
                self._map([wish])
            except NegativeAnswer as trouble:
                failed.append(failure_view(wish, trouble))
        return failed

    def _map(self, wishes: Sequence[Wish]) -> None:
        outcomes: Mailbox[Exception | None] = self._runtime.mailbox(1)
        self._race = race = MappingRace(self._runtime, self._scope, self._finders)
        self._idle.clear()
        self._scope.spawn("map ports", self._run, race, wishes, outcomes)
        timer = self._runtime.call_later(self._terms.timeout_s, race.give_up)
        try:
            trouble = outcomes.get()
        finally:
            timer.cancel()
        if isinstance(trouble, Stopped):
            raise DeadlineReached(f"no router has mapped the ports within {self._terms.timeout_s:g} s")
        if trouble is not None:
            raise trouble

    def _run(self, race: MappingRace, wishes: Sequence[Wish], outcomes: Mailbox[Exception | None]) -> None:
        try:
            gateway, mappings = race.run(wishes, self._terms.other_ports)
        except (KodectlError, Stopped) as trouble:
            outcomes.put(trouble)
        else:
            self._held.append(HeldMappings(self._runtime, gateway, mappings, self._terms.lease_s))
            outcomes.put(None)
        finally:
            self._race = None
            self._idle.set()
            outcomes.close()

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _pause_s(self) -> float:
        renewals = [held.next_renewal() - self._runtime.now() for held in self._held]
        return min(LOOK_EVERY_S, max(LOOK_LEAST_S, min(renewals, default=LOOK_EVERY_S)))

    def _mind_route(self, report: Callable[[KeptEvent], None]) -> None:
        route = self._runtime.local_network()[1:]
        if route != self._route:
            self._route = route
            for held in list(self._held):
                self._lose(held, "this machine's address or router has changed", report)

    def _look(self, held: HeldMappings, report: Callable[[KeptEvent], None]) -> None:
        before_s = held.expires_s()
        try:
            change = held.look()
        except MappingRefused as refusal:
            held.release()
            self._lose(held, refusal.message, report)
        except (NegativeAnswer, PeerFault) as trouble:
            self._silences += 1
            if self._silences >= SILENCES:
                self._lose(held, trouble.message, report)
        else:
            self._silences = 0
            after_s = held.expires_s()
            if change is not None:
                report(KeptEvent(event="changed", reason=change, mappings=views_of(held)))
            elif before_s is not None and after_s is not None and after_s > before_s:
                report(KeptEvent(event="renewed", reason=None, mappings=views_of(held)))

    def _lose(self, held: HeldMappings, why: str, report: Callable[[KeptEvent], None]) -> None:
        self._held.remove(held)
        self._silences = 0
        self._lost += [
            Wish(mapping.transport, mapping.internal[1], mapping.external[1], self._terms.lease_s)
            for mapping in held.mappings
        ]
        report(KeptEvent(event="lost", reason=why, mappings=views_of(held)))

    def _map_again(self, report: Callable[[KeptEvent], None]) -> None:
        known = len(self._held)
        try:
            self._map(self._lost)
        except (NegativeAnswer, DeadlineReached) as trouble:
            report(KeptEvent(event="failed", reason=trouble.message, mappings=[]))
        else:
            self._lost = []
            report(KeptEvent(event="mapped", reason=None, mappings=views_of(self._held[known])))

    def _view(self, failed: list[FailureView]) -> MapView:
        first = self._held[0]
        external_ip = next((held.external_ip for held in self._held if held.external_ip), None)
        return MapView(
            gateway=first.gateway.address,
            gateway_name=first.gateway.name,
            method=first.gateway.method.value,
            external_ip=external_ip,
            double_nat=None if external_ip is None else nesting_of(external_ip) is not None,
            mappings=self.mappings(),
            failed=failed,
        )


def _remove_all(held: HeldMappings) -> list[str]:
    """Answers what is left: refused, or not asked for any more because the router has fallen silent."""
    left: list[str] = []
    is_silent = False
    for mapping in held.mappings:
        try:
            if not is_silent:
                held.gateway.remove(mapping)
                continue
        except MappingRefused:
            pass
        except (NegativeAnswer, PeerFault):
            is_silent = True
        left.append(f"{mapping.internal[1]}/{mapping.transport.value}")
    return left
