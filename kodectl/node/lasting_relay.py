"""A relayed address that outlives the relay: when one has let it go, another peer's takes its place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from kodectl.errors import KodectlError
from kodectl.node.turn_client import Allocation
from kodectl.runtime.base import Address, Scope, Stopped

log = logging.getLogger(__name__)

PAUSES_S = (0.0, 5.0, 30.0)
"""Before each attempt to have another one: credentials of other peers may be on their way."""


class LastingRelay:
    """An `ice_bases.Relay`. Its address changes with the relay, which `on_moved` tells as for any other."""

    def __init__(self, scope: Scope, allocate: Callable[[], Allocation]) -> None:
        """`allocate`: on one relay, another one each time; waits, and so does this. Raises as it does."""
        self.on_data: Callable[[bytes, Address], None] = lambda data, peer: None
        self.on_lost: Callable[[KodectlError], None] = lambda error: None
        self.on_moved: Callable[[], None] = lambda: None
        self._scope = scope
        self._allocate = allocate
        self._is_closed = False
        self._take(allocate())

    def _take(self, allocation: Allocation) -> None:
        self._allocation = allocation
        self._copy_addresses()
        allocation.on_data = lambda data, peer: self.on_data(data, peer)
        allocation.on_moved = self._moved
        allocation.on_lost = self._lost

    def _copy_addresses(self) -> None:
        one = self._allocation
        self.relayed, self.mapped, self.server = one.relayed, one.mapped, one.server

    def _moved(self) -> None:
        self._copy_addresses()
        self.on_moved()

    def _lost(self, error: KodectlError) -> None:
        if not self._is_closed:
            with suppress(Stopped):
                self._scope.spawn("another relay", self._replace, error)

    def _replace(self, error: KodectlError) -> None:
        log.debug("a relay is gone: %s", error)
        for pause_s in PAUSES_S:
            self._scope.sleep(pause_s)
            if self._is_closed:
                return
            try:
                another = self._allocate()
            except KodectlError as fault:
                log.debug("nor is there another one: %s", fault)
                continue
            if self._is_closed:
                another.close()
                return
            self._take(another)
            self.on_moved()
            return
        self.on_lost(error)

    def permit(self, ips: Iterable[str]) -> None:
        self._allocation.permit(ips)

    def send(self, data: bytes, peer: Address) -> None:
        self._allocation.send(data, peer)

    def close(self) -> None:
        self._is_closed = True
        self._allocation.close()
