"""What is played on virtual time: how many nodes, behind which boxes, on what ways, and how often what happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kodectl.core.nat import Behavior
from kodectl.errors import LocalMisuse
from kodectl.sim.translation import PortRule

OPEN = "open"
BOXES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        OPEN: {},
        "full_cone": {"filtering": Behavior.ENDPOINT_INDEPENDENT},
        "restricted": {"filtering": Behavior.ADDRESS_DEPENDENT},
        "port_restricted": {},
        "symmetric": {"mapping": Behavior.ADDRESS_AND_PORT_DEPENDENT, "ports": PortRule.RANDOM},
        "sequential": {"mapping": Behavior.ADDRESS_AND_PORT_DEPENDENT, "ports": PortRule.SEQUENTIAL},
        "blocked": {"udp_blocked": True},
    }
)
"""By kind, what the box of a node does (RFC 4787); a node that is open has none."""
DEFAULT_MIX = MappingProxyType(
    {
        OPEN: 6.0,
        "full_cone": 1.0,
        "restricted": 2.0,
        "port_restricted": 7.0,
        "symmetric": 2.0,
        "sequential": 1.0,
        "blocked": 1.0,
    }
)
"""Shares. A choice, not a measurement of the field: many open ones, since the others are told through them."""
MIN_NODES = 4
"""The first ones, which everybody begins with, and one."""
MAX_NODES = 2_000
MAX_PER_MINUTE = 6_000.0
MAX_DURATION_S = 7 * 86_400.0
MAX_LATENCY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Raises LocalMisuse (bad_scenario) for what cannot be played. `..._per_min` are counts in the whole network."""

    nodes: int = 20
    seed: int = 1
    duration_s: float = 120.0
    """Between joining and the last look, which take their own time."""
    mix: Mapping[str, float] = field(default_factory=lambda: DEFAULT_MIX)
    """Shares of the kinds in BOXES."""
    latency_s: float = 0.05
    """One way, of a middling path; each has its own."""
    loss: float = 0.01
    """Of datagrams; what is lost of a stream is repeated, and takes longer."""
    duplication: float = 0.0
    reordering: float = 0.0
    churn_per_min: float = 2.0
    """Nodes that go, half of them without a word, while another one comes."""
    messages_per_min: float = 20.0
    """Transactions, of one node to all."""
    connects_per_min: float = 10.0
    """Of one node to another, by id."""
    values_per_min: float = 10.0
    """Put by one node, and got by another a little later."""

    def __post_init__(self) -> None:
        for is_right, what in (
            (MIN_NODES <= self.nodes <= MAX_NODES, f"from {MIN_NODES} to {MAX_NODES} nodes"),
            (0.0 < self.duration_s <= MAX_DURATION_S, f"a duration of up to {MAX_DURATION_S:.0f} s"),
            (0.0 < self.latency_s <= MAX_LATENCY_S, f"a latency of up to {MAX_LATENCY_S:g} s"),
            (
                all(0.0 <= share < 1.0 for share in self._shares),
                "loss, duplication and reordering as parts of 1, like 0.05",
            ),
            (all(0.0 <= rate <= MAX_PER_MINUTE for rate in self._rates), f"rates of 0 to {MAX_PER_MINUTE:g} a minute"),
            (set(self.mix) <= set(BOXES), f"kinds of NAT out of {', '.join(BOXES)}"),
            (all(share >= 0.0 for share in self.mix.values()) and sum(self.mix.values()) > 0.0, "shares above 0"),
        ):
            if not is_right:
                raise LocalMisuse(f"a scenario has {what}", code="bad_scenario")

    @property
    def _shares(self) -> tuple[float, ...]:
        return self.loss, self.duplication, self.reordering

    @property
    def _rates(self) -> tuple[float, ...]:
        return self.churn_per_min, self.messages_per_min, self.connects_per_min, self.values_per_min
