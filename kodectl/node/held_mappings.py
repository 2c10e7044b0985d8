"""Mappings that a router has given: kept from running out, and made again when it has forgotten them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kodectl.core.mapping import DEFAULT_LEASE_S, Gateway, PortMapping, Transport, Wish
from kodectl.node.mapping_race import claim, release
from kodectl.runtime.base import Address, Runtime

RENEW_FROM, RENEW_TO = 1 / 2, 5 / 8
"""Of the lease, drawn anew each time, so that a house full of nodes does not ask in one moment (RFC 6887, section 11.2.1)."""
VERIFY_EVERY = 4
"""Looks between two readings back. Some routers drop mappings without a restart, as when their firewall is loaded anew."""
RENEW_BLIND_EVERY = 20
"""Looks between two renewals where nothing can be read back, for the same reason. Not more often: routers renew by removing
and adding, and in between a caller is turned away."""
NO_IPS = ("0.0.0.0", "::")


class Lease(NamedTuple):
    mapping: PortMapping
    renew_at: float
    ends_at: float
    """Both infinite for a mapping without end."""


class HeldMappings:
    """What one router gave. Only the task that holds them calls `look` and `release`."""

    def __init__(
        self, runtime: Runtime, gateway: Gateway, mappings: Sequence[PortMapping], lease_s: int = DEFAULT_LEASE_S
    ) -> None:
        """`lease_s`: what is asked for when they are made again."""
        self.gateway = gateway
        self._runtime = runtime
        self._lease_s = lease_s
        self._leases = [self._lease(mapping) for mapping in mappings]
        self._looks = 0

    @property
    def mappings(self) -> list[PortMapping]:
        return [lease.mapping for lease in self._leases]

    @property
    def external_ip(self) -> str | None:
        """None where the router does not tell."""
        known = (lease.mapping.external[0] for lease in self._leases)
        return next((ip for ip in known if ip not in NO_IPS), None)

    def external(self, transport: Transport) -> Address | None:
        for lease in self._leases:
            if lease.mapping.transport is transport and lease.mapping.external[0] not in NO_IPS:
                return lease.mapping.external
        return None

    def expires_s(self) -> float | None:
        """Until the first lease ends; None: never."""
        ends_at = min(lease.ends_at for lease in self._leases)
        return max(0.0, ends_at - self._runtime.now()) if ends_at < float("inf") else None

    def next_renewal(self) -> float:
        return min(lease.renew_at for lease in self._leases)

    def look(self) -> str | None:
        """Asks the router, renews what is due, and makes again what it has forgotten. What has happened to the mappings, in
        words; None when all is as it was.

        Waits; raises as Gateway.add, and then some of them may be gone."""
        self._looks += 1
        before = [lease.mapping.external for lease in self._leases]
        told_ip = self.gateway.external_ip()
        why: str | None
        if self.gateway.has_restarted():
            due, why = list(self._leases), "the router had forgotten them"
        elif told_ip is not None and told_ip != self.external_ip:
            due, why = list(self._leases), "the router's outer address has changed"
        else:
            due, why = self._due()
        for lease in due:
            self._make_again(lease)
        if why is None and before != [lease.mapping.external for lease in self._leases]:
            return "the router has given others"
        return why

    def _due(self) -> tuple[list[Lease], str | None]:
        """What is to be made again at a router that has all its senses, and what that says."""
        now = self._runtime.now()
        due = [lease for lease in self._leases if lease.renew_at <= now]
        if self._looks % VERIFY_EVERY:
            return due, None
        is_there = [self.gateway.verify(lease.mapping) for lease in self._leases]
        if False in is_there:
            return list(self._leases), "the router had dropped them"
        if None in is_there and self._looks % RENEW_BLIND_EVERY == 0:
            return list(self._leases), None
        return due, None

    def _make_again(self, lease: Lease) -> None:
        """Under the same outer port, if that is still to be had."""
        mapping = lease.mapping
        wish = Wish(mapping.transport, mapping.internal[1], mapping.external[1], self._lease_s)
        self._leases[self._leases.index(lease)] = self._lease(claim(self._runtime, self.gateway, wish))

    def _lease(self, mapping: PortMapping) -> Lease:
        now = self._runtime.now()
        if not mapping.lease_s:
            return Lease(mapping, float("inf"), float("inf"))
        renew_after_s = mapping.lease_s * self._runtime.rng.uniform(RENEW_FROM, RENEW_TO)
        return Lease(mapping, now + renew_after_s, now + mapping.lease_s)

    def release(self) -> None:
        """Removes them from the router, as far as it answers. Waits."""
        release(self.gateway, self.mappings)
