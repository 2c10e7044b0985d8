"""The node that is examined: one that runs, read through its API, or a stand-in that does what a node would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import inf

import msgspec

from kodectl.core.identity import Identity
from kodectl.errors import EnvironmentFault, KodectlError
from kodectl.node.nat import EVERYWHERE, Finders
from kodectl.node.node import Node
from kodectl.node.views import BootstrapView, StatsView, StatusView
from kodectl.runtime.base import Runtime, Scope
from kodectl.settings import NodeSettings
from kodectl.wire.addresses import scope_of

SETTLED_S = 60.0
"""What a node that runs for so long does not know, it will not find out within seconds."""
CALM_S = 2.0
"""Joining has some news in every round trip, and peers are dialled every second."""
ASKING = ("unknown", "resolving")
ANSWERED = ("answered", "wrong_identity", "clock_skew")
GIVEN_UP = ("silent", "not_resolved", "wrong_identity", "clock_skew")
STAND_IN_PEERS = 8
"""Enough to see whether peers take it; it leaves their places again within seconds."""


class Chart(msgspec.Struct, frozen=True):
    """What the node tells about itself at one moment."""

    status: StatusView
    bootstrap: BootstrapView
    stats: StatsView


class Patient:
    """`read` answers the chart of this moment, and may wait; raises KodectlError when there is none to be had.

    `settings` are those that the node has, or would have. `is_running`: false of a stand-in."""

    def __init__(
        self,
        runtime: Runtime,
        settings: NodeSettings,
        read: Callable[[], Chart],
        look_every_s: float,
        *,
        is_running: bool,
    ) -> None:
        self.runtime = runtime
        self.settings = settings
        self.is_running = is_running
        self._read = read
        self._look_every_s = look_every_s
        self._chart: Chart | None = None
        self._trouble: KodectlError | None = None
        self._news_at = runtime.now()
        self._waiting: list[Callable[[], None]] = []

    def run(self, scope: Scope) -> None:
        """Keeps the chart up to date until the scope is closed."""
        while True:
            try:
                self._take(self._read())
            except KodectlError as error:
                self._trouble = error
            waiting, self._waiting = self._waiting, []
            for wake in waiting:
                wake()
            scope.sleep(self._look_every_s)

    def until(
        self, holds: Callable[[Chart], object], limit_s: float, *, calm_s: float = inf, is_of_others: bool = True
    ) -> Chart:
        """The first chart of which that is true, or the last one within the limit, or after nobody new was heard of for
        `calm_s`; where it is for others to make it true, until nobody is left who might. Waits. Raises KodectlError when there is
        none at all."""
        ends = self.runtime.now() + limit_s
        while True:
            chart, now = self._chart, self.runtime.now()
            if chart is not None and (holds(chart) or chart.status.uptime_s >= SETTLED_S):
                return chart
            if chart is not None and is_of_others and (is_alone(chart) or self._is_calm(chart, now, calm_s)):
                return chart
            if now >= ends or (chart is None and self._trouble is not None):
                break
            again = self.runtime.event()
            self._waiting.append(again.set)
            again.wait(ends - now)
        if self._chart is None:
            raise self._trouble or KodectlError("the node has not said how it is", code="node_not_answering")
        return self._chart

    def _is_calm(self, chart: Chart, now: float, calm_s: float) -> bool:
        return now - self._news_at >= calm_s and all(node.state not in ASKING for node in chart.bootstrap.bootstrap)

    def _take(self, chart: Chart) -> None:
        if self._chart is None or _company(chart) != _company(self._chart):
            self._news_at = self.runtime.now()
        self._chart, self._trouble = chart, None

    @property
    def is_local(self) -> bool:
        """Nobody outside this machine is meant to reach it."""
        return scope_of(self.settings.listen_host) == "loopback"


def is_alone(chart: Chart) -> bool:
    """Nobody is there, and nobody is left who might still answer: there is nothing to wait for."""
    status = chart.status
    is_asked = all(node.state in GIVEN_UP for node in chart.bootstrap.bootstrap)
    return is_asked and not (status.table_size or status.peers or status.nat.observers)


def is_heard_over_udp(chart: Chart) -> bool:
    """Somebody, whoever that is."""
    answered = any(node.state in ANSWERED for node in chart.bootstrap.bootstrap)
    return answered or chart.status.table_size > 0 or chart.status.nat.observers > 0


def _company(chart: Chart) -> tuple[int, ...]:
    status = chart.status
    dials = sum(chart.stats.dials.values())
    return status.table_size, status.peers, status.clock_voices, status.nat.observers, dials


def chart_of(node: Node) -> Chart:
    return Chart(node.status(), node.bootstrap(), node.stats())


def stand_in(runtime: Runtime, settings: NodeSettings, identity: Identity, finders: Finders) -> Node:
    """A node that keeps nothing, relays nothing and is nobody's DHT server, started on the ports of `settings`; where one of
    them is taken, which is another check's business, on any. The caller stops it. Raises EnvironmentFault."""
    quiet = replace(
        settings,
        datadir=None,
        dht_client=True,
        lan=False,
        relay=None,
        max_peers=min(settings.max_peers, STAND_IN_PEERS),
    )
    fault: EnvironmentFault | None = None
    for host, tcp_port, udp_port in _places(settings):
        node = Node(
            runtime, replace(quiet, listen_host=host, tcp_port=tcp_port, udp_port=udp_port), identity, None, finders
        )
        try:
            node.start()
        except EnvironmentFault as error:
            fault = fault or error
        else:
            return node
    assert fault is not None
    raise fault


def _places(settings: NodeSettings) -> list[tuple[str, int, int]]:
    """As configured, then with other ports, then on another address too."""
    hosts = dict.fromkeys((settings.listen_host, EVERYWHERE[0]))
    tcp_ports, udp_ports = dict.fromkeys((settings.tcp_port, 0)), dict.fromkeys((settings.udp_port, 0))
    return list(product(hosts, tcp_ports, udp_ports))
