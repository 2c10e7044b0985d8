"""A relayed address that outlives the relay: when one has let it go, or is silent, another peer's takes its place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from kodectl.errors import KodectlError, NegativeAnswer
from kodectl.node.turn_client import Allocation
from kodectl.runtime.base import Address, Runtime, Scope, Stopped, Timer

log = logging.getLogger(__name__)

PAUSES_S = (0.0, 5.0, 30.0)
"""Before each attempt to have another one: credentials of other peers may be on their way."""
LOOK_EVERY_S = 4.0
SILENT_LOOKS = (2, 4, 8)
"""So often in a row something was sent and nothing came back, then another relay is tried; no more often until something has
come. A path that lives is checked, and answered, every 4 s; it may as well be the other side that is gone."""


class LastingRelay:
    """An `ice_bases.Relay`. Its address changes with the relay, which `on_moved` tells as for any other."""

    def __init__(self, runtime: Runtime, scope: Scope, allocate: Callable[[], Allocation]) -> None:
        """`allocate`: on one relay, another one each time; waits, and so does this. Raises as it does."""
        self.on_data: Callable[[bytes, Address], None] = lambda data, peer: None
        self.on_lost: Callable[[KodectlError], None] = lambda error: None
        self.on_moved: Callable[[], None] = lambda: None
        self._runtime = runtime
        self._scope = scope
        self._allocate = allocate
        self._is_closed = False
        self._is_replacing = False
        self._has_sent = self._has_heard = False
        """Since the last look."""
        self._silent_looks = 0
        self._moves = 0
        """On account of silence, since something was heard."""
        self._take(allocate())
        self._timer: Timer = runtime.call_later(LOOK_EVERY_S, self._look)

    def _take(self, allocation: Allocation) -> None:
        self._allocation = allocation
        self._silent_looks = 0
        self._copy_addresses()
        allocation.on_data = self._heard
        allocation.on_moved = self._moved
        allocation.on_lost = self._lost

    def _copy_addresses(self) -> None:
        one = self._allocation
        self.relayed, self.mapped, self.server = one.relayed, one.mapped, one.server

    def _heard(self, data: bytes, peer: Address) -> None:
        self._has_heard = True
        self.on_data(data, peer)

    def _look(self) -> None:
        if self._has_heard:
            self._silent_looks = self._moves = 0
        elif self._has_sent:
            self._silent_looks += 1
        self._has_sent = self._has_heard = False
        if self._moves < len(SILENT_LOOKS) and self._silent_looks >= SILENT_LOOKS[self._moves]:
            self._moves += 1
            self._silent_looks = 0
            self._begin_replacing(NegativeAnswer("nothing comes through the relay", code="no_answer"), is_lost=False)
        self._timer = self._runtime.call_later(LOOK_EVERY_S, self._look)

    def _moved(self) -> None:
        self._copy_addresses()
        self.on_moved()

    def _lost(self, error: KodectlError) -> None:
        self._begin_replacing(error, is_lost=True)

    def _begin_replacing(self, error: KodectlError, *, is_lost: bool) -> None:
        if not self._is_closed and not self._is_replacing:
            self._is_replacing = True
            with suppress(Stopped):
                self._scope.spawn("another relay", self._replace, error, is_lost)

    def _replace(self, error: KodectlError, is_lost: bool) -> None:
        log.debug("a relay is gone: %s", error)
        try:
            another = self._another()
        finally:
            self._is_replacing = False
        if self._is_closed:
            if another is not None:
                another.close()
        elif another is not None:
            self._allocation.on_lost = lambda error: None
            self._allocation.close()
            self._take(another)
            self.on_moved()
        elif is_lost:
            self.close()
            self.on_lost(error)

    def _another(self) -> Allocation | None:
        """Waits."""
        for pause_s in PAUSES_S:
            self._scope.sleep(pause_s)
            if self._is_closed:
                return None
            try:
                return self._allocate()
            except KodectlError as fault:
                log.debug("nor is there another one: %s", fault)
        return None

    def permit(self, ips: Iterable[str]) -> None:
        self._allocation.permit(ips)

    def send(self, data: bytes, peer: Address) -> None:
        self._has_sent = True
        self._allocation.send(data, peer)

    def close(self) -> None:
        self._is_closed = True
        self._timer.cancel()
        self._allocation.close()
