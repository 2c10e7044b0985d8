"""Who this node is connected to (surface; the procedures follow)."""

from __future__ import annotations

from collections.abc import Callable

from kodectl.core.identity import Identity
from kodectl.node.events import Events
from kodectl.node.peer import Peer
from kodectl.node.persistence import Store
from kodectl.node.views import BanView, ConnectView, LatencyView, PeerView
from kodectl.runtime.base import Runtime, Scope
from kodectl.settings import NodeSettings
from kodectl.wire.enode import Enode
from kodectl.wire.messages import DisconnectReason, Hello

__all__ = ["Peer", "Peering"]


class Peering:
    """Links to peers: dialling, accepting, limits, crossed dials, heartbeats, trust, bans.

    Raises nothing on account of a peer; a fault of a peer or of a message handler ends that peer's link."""

    def __init__(
        self,
        runtime: Runtime,
        settings: NodeSettings,
        identity: Identity,
        hello_of: Callable[[], Hello],
        scope: Scope,
        events: Events,
        store: Store,
        handlers: dict[int, Callable[[Peer, bytes], None]],
        candidates: Callable[[int], list[Enode]] = lambda count: [],
    ) -> None:
        """`handlers` take the messages that are not peering's own, by message kind; they must not wait.
        `candidates` gives up to so many enodes to dial when peering knows too few itself."""
        self.links: dict[bytes, Peer] = {}
        """Connected peers by node id."""
        self.on_connected: list[Callable[[Peer], None]] = []
        self.on_disconnected: list[Callable[[Peer], None]] = []

    def start(self) -> None:
        """Loads what is stored, listens, and begins to dial. Waits. Raises EnvironmentFault when it cannot listen."""

    def stop(self) -> None:
        """Says goodbye to every peer and saves. Waits."""

    @property
    def tcp_port(self) -> int:
        """Where it listens; 0 before `start`."""
        raise NotImplementedError

    def connect(self, target: Enode, timeout_s: float) -> ConnectView:
        """Connects now, whatever the back-off says, and waits for the outcome. The peer becomes static."""
        raise NotImplementedError

    def disconnect(self, node_id: bytes, reason: DisconnectReason = DisconnectReason.REQUESTED) -> bool:
        """Ends the link, and does not redial for some minutes; false when there is none."""
        raise NotImplementedError

    def ban(self, node_id: bytes, seconds: float | None) -> BanView:
        """Ends the link, and accepts and dials none until the time has passed (None: until `unban`)."""
        raise NotImplementedError

    def unban(self, node_id: bytes) -> BanView:
        raise NotImplementedError

    def add_candidate(self, enode: Enode, source: str) -> None:
        """Somebody to dial when there is room. `source` (lan, dht, exchange, bootstrap) is for the log."""
        raise NotImplementedError

    def peers(self) -> list[PeerView]:
        raise NotImplementedError

    def latency(self) -> LatencyView:
        raise NotImplementedError

    def totals(self) -> dict[str, int]:
        """bytes_sent, bytes_received, messages_sent, messages_received, of all links since the start."""
        raise NotImplementedError

    def messages_per_second(self) -> float:
        """Messages in and out, over the last minute."""
        raise NotImplementedError

    @property
    def dials(self) -> dict[str, int]:
        """Dials by outcome, since the start."""
        raise NotImplementedError

    @property
    def disconnects(self) -> dict[str, int]:
        """Ended links by reason, since the start."""
        raise NotImplementedError
