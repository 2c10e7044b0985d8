"""The last minutes of the node, in samples: for plots, on whichever screen, that are full when they are opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kodectl.node.history_views import HistoryView, SampleView
from kodectl.node.peering import Peering
from kodectl.runtime.base import Runtime, Scope

INTERVAL_S = 2.0
"""As fine as an eye follows a plot of ten minutes; a sample takes less than 0.1 ms with fifty peers."""
SPAN_S = 600.0
MAX_SAMPLES = int(SPAN_S / INTERVAL_S)
"""About 60 kB."""


class History:
    """`hub_delay_s` comes from whoever measures it: the worst since it was asked last."""

    def __init__(self, runtime: Runtime, peering: Peering, scope: Scope, run: str) -> None:
        self.hub_delay_s: Callable[[], float | None] = lambda: None
        self._runtime = runtime
        self._peering = peering
        self._scope = scope
        self._run = run
        self._started = runtime.now()
        self._samples: deque[SampleView] = deque(maxlen=MAX_SAMPLES)

    def start(self) -> None:
        self._scope.spawn("history", self._keep)

    def _keep(self) -> None:
        """Until the scope closes."""
        while True:
            self._samples.append(self._sample())
            self._scope.sleep(INTERVAL_S)

    def _sample(self) -> SampleView:
        peers = list(self._peering.links.values())
        outbound = sum(peer.outbound for peer in peers)
        round_trips = [peer.last_rtt_s for peer in peers if peer.last_rtt_s is not None]
        totals = self._peering.totals()
        return SampleView(
            at_s=self._uptime_s(),
            inbound=len(peers) - outbound,
            outbound=outbound,
            relayed=sum(peer.route.path == "relay" for peer in peers),
            bytes_sent=totals["bytes_sent"],
            bytes_received=totals["bytes_received"],
            messages_sent=totals["messages_sent"],
            messages_received=totals["messages_received"],
            latency_ms=_ms(sum(round_trips) / len(round_trips)) if round_trips else None,
            hub_delay_ms=_ms(self.hub_delay_s()),
        )

    def _uptime_s(self) -> float:
        return round(self._runtime.now() - self._started, 3)

    def view(self, since_s: float = 0.0) -> HistoryView:
        """Samples later than `since_s` of uptime; with 0 all that are kept."""
        samples = [sample for sample in self._samples if not since_s or sample.at_s > since_s]
        return HistoryView(self._run, INTERVAL_S, self._uptime_s(), samples)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
