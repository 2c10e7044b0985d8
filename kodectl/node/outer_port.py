"""Where others see the TCP port that this node listens on, by asking peers from that very port.

Who wants to come through a NAT by TCP simultaneous open has to know it (draft-ietf-behave-p2p-tcp; RFC 5128, section
3.4). NATs that keep a port's mapping for every destination, and those that keep its number, show all of them the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.errors import KodectlError
from kodectl.node.peer import Peer
from kodectl.node.stun_client import ask_over_tcp
from kodectl.runtime.base import Address, Runtime, Scope

log = logging.getLogger(__name__)

ASK_LIMIT_S = 3.0
LOOK_EVERY_S = 1.0
OTHER_LIMIT_S = 1.5
OTHER_ASKED = 2
"""The other side of a punch waits for the answer: peers that do not answer are not waited for long."""
AGAIN_AFTER_S = 120.0
"""A connection between the same two ports cannot be made again for a minute (TIME-WAIT; RFC 9293, section 3.6.1)."""


class OuterTcpPort:
    """`seen` is the last answer; None before one, and when it is not needed."""

    def __init__(
        self, runtime: Runtime, scope: Scope, port: Callable[[], int], peers: Callable[[], list[Peer]]
    ) -> None:
        """`port`: the one that is listened on. `peers`: whom to ask; nobody where nobody needs to know."""
        self.seen: Address | None = None
        self._runtime = runtime
        self._scope = scope
        self._port = port
        self._peers = peers
        self._asked = runtime.event()
        """Somebody has answered, or has not."""
        self._asked_at: dict[bytes, float] = {}

    def start(self) -> None:
        self._scope.spawn("outer TCP port", self._keep_known)

    def await_seen(self, limit_s: float) -> None:
        """Waits for the first answer, unless there is nobody to ask: who connects in the first moments needs it as much."""
        if self._peers():
            self._asked.wait(limit_s)

    def of(self, port: int) -> Address | None:
        """Waits. Where others see a port from which nobody has been asked yet, at the same address as the listening one; None
        if two peers do not tell."""
        known = self.seen
        peers = [peer for peer in self._peers() if peer.enode.tcp]
        for peer in self._runtime.rng.sample(peers, min(OTHER_ASKED, len(peers))):
            try:
                seen = ask_over_tcp(self._runtime, (peer.remote[0], peer.enode.tcp), OTHER_LIMIT_S, port).mapped
            except KodectlError as error:
                log.debug("outer TCP port of %d: %s", port, error)
                continue
            return seen if known is not None and seen[0] == known[0] else None
        return None

    def _keep_known(self) -> None:
        ends = float("-inf")
        while True:
            peers = self._peers()
            if not peers:
                self.seen = None
                self._asked.clear()
            elif self.seen is None or self._runtime.now() >= ends:
                self._ask(peers)
                ends = self._runtime.now() + AGAIN_AFTER_S
            self._scope.sleep(LOOK_EVERY_S)

    def _ask(self, peers: list[Peer]) -> None:
        """One of them that has not been asked lately; the next look asks another if that failed."""
        now = self._runtime.now()
        self._asked_at = {who: at for who, at in self._asked_at.items() if now - at < AGAIN_AFTER_S}
        fresh = [peer for peer in peers if peer.node_id not in self._asked_at and peer.enode.tcp]
        if not fresh:
            return
        peer = self._runtime.rng.choice(fresh)
        self._asked_at[peer.node_id] = now
        server = (peer.remote[0], peer.enode.tcp)
        try:
            self.seen = ask_over_tcp(self._runtime, server, ASK_LIMIT_S, self._port()).mapped
        except KodectlError as error:
            log.debug("outer TCP port: %s", error)
        finally:
            self._asked.set()
