"""How this node stands in the network, in the words that a peer needs to come to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kodectl.core.reachability import BLOCKED
from kodectl.node.nat import NatTraversal
from kodectl.runtime.base import Address, Runtime
from kodectl.wire.offers import NatHint

OBSERVERS = "observers"
"""Who sees the server-reflexive address: there are many, and its foundation has to be the same for all."""


class Situation:
    """Read anew at every call. `port_step`, `tcp_seen`, `await_tcp_seen` and `outer_tcp_port` come from whoever
    measures them."""

    def __init__(self, runtime: Runtime, nat: NatTraversal) -> None:
        self._runtime = runtime
        self._nat = nat
        self.port_step: Callable[[], int | None] = lambda: None
        self.tcp_seen: Callable[[], Address | None] = lambda: None
        self.await_tcp_seen: Callable[[float], None] = lambda limit_s: None
        self.outer_tcp_port: Callable[[int], Address | None] = lambda port: None
        self.observers: Callable[[], Sequence[Address]] = lambda: ()
        """STUN servers among the peers."""

    @property
    def is_udp_blocked(self) -> bool:
        return self._nat.reachability.reach == BLOCKED

    @property
    def is_open(self) -> bool:
        """Whether strangers get through over UDP: then no relay is needed on its side."""
        return self._nat.is_reached_over_udp

    def hint(self) -> NatHint:
        reach = self._nat.reachability.reach
        return NatHint(reach.mapping, reach.filtering, self.port_step(), self.is_udp_blocked)

    def tcp(self) -> Address | None:
        """Where it can be dialled, as far as that is proved or vouched for."""
        return (self._nat.address(), self._nat.ports().tcp) if self._nat.is_reached_over_tcp else None

    def reflexive(self) -> tuple[Address, str] | None:
        """Where others see discovery's socket."""
        belief = self._nat.reachability.belief
        if belief.hint is None or self.is_udp_blocked:
            return None
        port = self._nat.ports().udp
        return ((belief.hint, port), OBSERVERS) if port else None

    def source(self) -> str:
        """The address that discovery's socket has on this machine, for the most of what it sends."""
        network = self._runtime.local_network()
        return network.source or network.source6 or "127.0.0.1"
