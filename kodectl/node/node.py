"""The node: its parts, put together, and what can be asked of it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import Literal

from kodectl import __version__
from kodectl.core.identity import Identity
from kodectl.core.sessions import Session
from kodectl.errors import EnvironmentFault, LocalMisuse, NegativeAnswer
from kodectl.node import reports
from kodectl.node.bootstrap import Bootstrap
from kodectl.node.broadcast import Broadcast
from kodectl.node.connectivity import Connectivity
from kodectl.node.discovery import Discovery
from kodectl.node.events import Events
from kodectl.node.history import History
from kodectl.node.history_views import HistoryView
from kodectl.node.hub_delay import HubDelay
from kodectl.node.kademlia import Found, Hop, Kademlia
from kodectl.node.lan import Lan, start_or_warn
from kodectl.node.lookups import enode_of, lookup_view, value_view
from kodectl.node.multiplexer import Multiplexer
from kodectl.node.nat import Finders, NatTraversal
from kodectl.node.peer_exchange import serve_peer_request
from kodectl.node.peering import Peering
from kodectl.node.persistence import MemoryStore, Store
from kodectl.node.saving import Saving
from kodectl.node.targets import parse_node_id, parse_target
from kodectl.node.values import Values
from kodectl.node.views import (
    BanView,
    BootstrapView,
    BroadcastView,
    ConnectView,
    DisconnectView,
    HealthView,
    LatencyView,
    LookupView,
    NatView,
    PeersView,
    PutView,
    RediscoverView,
    StatsView,
    StatusView,
    TableView,
    ValueView,
)
from kodectl.runtime.base import Runtime, Scope
from kodectl.settings import NodeSettings
from kodectl.wire import packets, rpc
from kodectl.wire.addresses import address_text
from kodectl.wire.announcement import Ports
from kodectl.wire.contacts import Contact
from kodectl.wire.enode import Enode, parse_enode
from kodectl.wire.messages import PROTOCOL_VERSIONS, BroadcastMode, Hello, MessageKind

log = logging.getLogger(__name__)

CLIENT = f"kodectl/{__version__}"
CAPABILITIES = ("gossip", "sync")
RELOADABLE = ("bootstrap", "max_peers", "stun", "turn", "relay", "validators")
"""Settings that a running node takes over; the others are bound into sockets and tasks at the start."""
STOP_LIMIT_S = 5.0


class Node:
    """One node of the network. `start` binds and returns; from then on it keeps itself going until `stop`.

    Everything is safe to call from any task. Methods that wait say so. Raises WireError for a broken bootstrap enode."""

    def __init__(
        self,
        runtime: Runtime,
        settings: NodeSettings,
        identity: Identity,
        store: Store | None = None,
        finders: Finders | None = None,
    ) -> None:
        """`finders`: how to find a router that maps ports, by protocol; without any, none is looked for."""
        self.client = CLIENT
        self.runtime = runtime
        self.settings = settings
        self.identity = identity
        self.events = Events(runtime)
        self.scope: Scope = runtime.scope(f"node {identity.node_id.hex()[:8]}")
        self.api_addresses: list[str] = []
        """Told by whoever serves the API, for `status`."""
        self._store: Store = store if store is not None else MemoryStore()
        self.warnings: dict[str, str] = {}
        """What is wrong at the moment, by subject."""
        self.state: Literal["starting", "ready", "stopping"] = "starting"
        self.started = runtime.now()
        self.started_unix = runtime.unix_time()
        flags = packets.FLAG_CLIENT if settings.dht_client else 0
        self.discovery = Discovery(runtime, identity, flags)
        self.multiplexer = Multiplexer(runtime, self.discovery)
        self.kademlia = Kademlia(runtime, self.discovery, self.scope)
        self.values = Values(runtime, self.discovery, self.kademlia, self.scope)
        self.bootstrapping = Bootstrap(runtime, self.discovery, self.kademlia, self.scope, self.events)
        self.peering = Peering(
            runtime, settings, identity, self._hello, self.scope, self.events, self._store, {}, self._candidates
        )
        self.broadcasting = Broadcast(runtime, identity, self.events, self.scope, self.peering)
        self.history = History(runtime, self.peering, self.scope, self.events.run)
        self.hub_delay = HubDelay(runtime)
        self.history.hub_delay_s = self.hub_delay.worst
        self.lan = Lan(runtime, identity, settings.network, self.scope, self._found_on_lan)
        self.nat_traversal = NatTraversal(
            runtime,
            settings,
            self.discovery,
            self.multiplexer,
            self.kademlia,
            self.peering,
            self.scope,
            self.events,
            finders or {},
        )
        self.connectivity = Connectivity(
            runtime,
            settings,
            self.scope,
            self.events,
            self.discovery,
            self.multiplexer,
            self.kademlia,
            self.values,
            self.peering,
            self.nat_traversal,
        )
        self._saving = Saving(runtime, self._store, self.values, self.kademlia.table, self.scope, self._warn)
        self.udp_port = 0
        self.tcp_port = 0
        self._wire()

    def _wire(self) -> None:
        self.discovery.handlers[rpc.Kind.PEER_REQUEST] = self._serve_peer_request
        self.bootstrapping.on_answer = lambda enode: self.peering.add_candidate(enode, "bootstrap")
        self.peering.exchange.is_heard_over_udp = self.discovery.sessions.is_heard
        self.peering.on_disconnected.append(lambda peer: self.kademlia.check_known(peer.node_id))
        self.kademlia.on_change = self._table_changed

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Loads what is kept, binds, begins. Waits for the disk only. Raises EnvironmentFault (a port is taken, the
        store is unreadable); nothing is left behind then."""
        try:
            for warning in self._store.warnings:
                # Told for as long as the node runs; "store" is what ails the disk now, and what `health ready` looks at.
                self._warn("store at start", warning)
            seeds = self._saving.load()
            host = self.settings.listen_host
            self.udp_port = self.discovery.open((host, self.settings.udp_port))[1]
            self.peering.start()
            self.tcp_port = self.peering.tcp_port
            self.connectivity.start()
            self.nat_traversal.start()
            self.kademlia.start()
            self.values.start()
            self.broadcasting.start()
            self.bootstrapping.start(self.settings.bootstrap, seeds)
            self._start_lan()
            self.history.start()
            self.scope.spawn("save", self._saving.keep_saved)
        except BaseException:
            self.stop()
            raise
        self.state = "ready"
        self.events.emit("ready", enode=self.enode)

    def reconfigure(self, settings: NodeSettings) -> None:
        """Takes over what can change while it runs: `RELOADABLE`; all else of `settings` is left aside. Raises WireError
        for a broken enode or TURN server, and then nothing has changed."""
        changed = replace(self.settings, **{name: getattr(settings, name) for name in RELOADABLE})
        for text in changed.bootstrap:
            parse_enode(text)
        self.connectivity.reconfigure(changed)
        self.bootstrapping.replace(changed.bootstrap)
        self.settings = changed
        answered = {node.node_id for node in self.bootstrapping.nodes if node.node_id is not None}
        self.peering.reconfigure(changed, answered)

    def _start_lan(self) -> None:
        if not self.settings.lan:
            return
        warning = start_or_warn(self.lan, Ports(self.tcp_port, self.udp_port))
        if warning is not None:
            self._warn("lan", warning)

    def stop(self) -> None:
        """Says goodbye, saves, ends every task; waits up to a few seconds. Raises the first failure of a task, if any
        was. May be called twice."""
        if self.state == "stopping":
            return
        self.state = "stopping"
        self.events.emit("stopping")
        self.lan.stop()
        self.nat_traversal.stop()
        self.peering.stop()
        self.connectivity.stop()
        self.broadcasting.stop()
        self._saving.save()
        self.scope.close()
        self.bootstrapping.stop()
        self.discovery.close()
        for name in self.scope.join(STOP_LIMIT_S):
            log.error("still running after %s s: %s", STOP_LIMIT_S, name)

    def _warn(self, subject: str, text: str | None) -> None:
        """`text` None: it is over."""
        if text is None:
            if (warning := self.warnings.pop(subject, None)) is not None:
                log.info("over: %s", warning)
                self.events.emit("warning_over", subject=subject)
        elif self.warnings.get(subject) != text:
            log.warning("%s", text)
            self.warnings[subject] = text
            self.events.emit("warning", subject=subject, message=text)

    # -- between the parts -----------------------------------------------------------------------------------------

    def _table_changed(self, contact: Contact, why: str | None) -> None:
        place = {"id": contact.node_id.hex(), "addr": address_text(*contact.address)}
        if why is None:
            self.events.emit("node_added", **place, table_size=len(self.kademlia.table))
        else:
            self.events.emit("node_removed", **place, reason=why, table_size=len(self.kademlia.table))

    def _hello(self) -> Hello:
        ports = self.nat_traversal.hello_ports()
        return Hello(PROTOCOL_VERSIONS, CLIENT, self.settings.network, CAPABILITIES, ports)

    def _candidates(self, count: int) -> list[Enode]:
        """Nodes of the table that listen, at random: for peering to dial."""
        contacts = [contact for contact in self.kademlia.table.contacts() if contact.tcp_port]
        chosen = self.runtime.rng.sample(contacts, min(count, len(contacts)))
        return [enode_of(contact) for contact in chosen]

    def _found_on_lan(self, enode: Enode) -> None:
        if enode.udp and enode.node_id not in self.kademlia.table:
            self.kademlia.check(Contact(enode.node_id, enode.host, enode.udp, enode.tcp))
        if enode.tcp:
            self.peering.add_candidate(enode, "lan")

    def _serve_peer_request(self, session: Session, question: rpc.PeerRequest) -> rpc.PeerResponse:
        return serve_peer_request(self.peering.shareable(session.node_id, session.address[0]), question)

    # -- questions -------------------------------------------------------------------------------------------------

    @property
    def enode(self) -> str:
        """As the outside is to use it, as far as that is known; else with the address of the default route."""
        nat = self.nat_traversal
        ports = nat.ports()
        return str(Enode(self.identity.node_id, nat.address(), ports.tcp, ports.udp))

    def status(self) -> StatusView:
        return reports.status(self)

    def nat(self) -> NatView:
        return self.connectivity.view(self.nat_traversal.view())

    def peers(self, sort: str | None = None, direction: str | None = None) -> PeersView:
        """Raises LocalMisuse for a sort key or direction that does not exist."""
        return reports.peers(self, sort, direction)

    def stats(self) -> StatsView:
        return reports.stats(self)

    def recent(self, since_s: float = 0.0) -> HistoryView:
        """The last ten minutes, or what came after `since_s` of uptime."""
        return self.history.view(since_s)

    def latency(self) -> LatencyView:
        return self.peering.latency()

    def bootstrap(self) -> BootstrapView:
        return BootstrapView([node.view() for node in self.bootstrapping.nodes])

    def table(self) -> TableView:
        return reports.table(self)

    def health(self, probe: Literal["live", "ready", "startup"]) -> HealthView:
        """live: tasks run; startup and ready: bound and begun; ready also: the disk takes what is to be kept."""
        return reports.health(self, probe)

    # -- orders ----------------------------------------------------------------------------------------------------

    def rediscover(self) -> RediscoverView:
        """Asks the bootstrap nodes, announces on the LAN and looks into the table's stale parts, in the background."""
        asked = self.bootstrapping.ask_all()
        self.lan.announce()
        if len(self.kademlia.table):
            self.scope.spawn("rediscover", self.kademlia.join)
        return RediscoverView(True, asked, len(self.kademlia.table))

    def connect(self, target: str, timeout_s: float) -> ConnectView:
        """Connects to an enode, `ip:port` or node id; waits. That it is to be redialled is on the disk by then, if the disk
        takes it. Raises LocalMisuse for a target that is none of these."""
        view = self._connect(target, timeout_s)
        self.peering.try_to_save()
        return view

    def _connect(self, target: str, timeout_s: float) -> ConnectView:
        enode = parse_target(target)
        if enode.node_id == self.identity.node_id:
            return ConnectView("self", enode.node_id.hex(), None, "that is this node itself")
        return self.peering.connect(enode if enode.host else self._as_known(enode.node_id), timeout_s)

    def _as_known(self, node_id: bytes) -> Enode:
        """Where the table has it; else the id alone, for which a way is looked for."""
        contact = self.kademlia.table.contact(node_id)
        return enode_of(contact) if contact is not None and contact.tcp_port else Enode(node_id, "", 0, 0)

    def disconnect(self, node_id_hex: str) -> DisconnectView:
        """Waits for the disk, if it takes that the peer is not to be redialled."""
        node_id = parse_node_id(node_id_hex)
        view = DisconnectView(node_id.hex(), self.peering.disconnect(node_id))
        self.peering.try_to_save()
        return view

    def ban(self, node_id_hex: str, seconds: float | None) -> BanView:
        """Waits for the disk. Raises EnvironmentFault when it did not take it: the ban holds until the node ends."""
        node_id = parse_node_id(node_id_hex)
        if node_id == self.identity.node_id:
            raise LocalMisuse("a node cannot ban itself", code="self")
        self.kademlia.remove(node_id, "banned")
        view = self.peering.ban(node_id, seconds)
        log.info("node %s banned until %s", view.id, view.until or "it is unbanned")
        self.events.emit("peer_banned", id=view.id, until=view.until)
        self._save_order("it is banned until this node ends")
        return view

    def unban(self, node_id_hex: str) -> BanView:
        """As `ban`."""
        view = self.peering.unban(parse_node_id(node_id_hex))
        log.info("node %s is banned no more", view.id)
        self.events.emit("peer_unbanned", id=view.id)
        self._save_order("it is banned no more until this node ends")
        return view

    def _save_order(self, meanwhile: str) -> None:
        """What was acknowledged outlives the process, however that ends."""
        try:
            self.peering.save()
        except EnvironmentFault as error:
            raise EnvironmentFault(
                f"{meanwhile}, and not saved: {error.message}", code=error.code, hint=error.hint
            ) from error

    def broadcast(
        self, kind: Literal["block", "transaction"], payload: bytes, mode: Literal["flood", "gossip"]
    ) -> BroadcastView:
        """Signs and sends to the network; waits while links are congested. Raises LocalMisuse for a payload over the
        limit of its kind."""
        message_kind = MessageKind.BLOCK if kind == "block" else MessageKind.TRANSACTION
        envelope = self.broadcasting.publish(message_kind, payload, BroadcastMode[mode.upper()])
        return BroadcastView(envelope.id.hex(), kind, mode, len(self.peering.links))

    def dht_put(self, key: bytes, value: bytes, ttl_s: float) -> PutView:
        """Waits. `key` is what the user names; its SHA-256 is the place. What this node has taken itself counts when it is on
        the disk. Raises as Values.put, and EnvironmentFault when nobody else took it and the disk did not either."""
        place = hashlib.sha256(key).digest()
        sequence, stored, asked = self.values.put(place, value, ttl_s)
        try:
            self._saving.save_records()
        except EnvironmentFault as error:
            stored -= self.values.holds(place, sequence)
            if not stored:
                message = f"only this node took the value, and it is not saved: {error.message}"
                raise EnvironmentFault(message, code=error.code, hint=error.hint) from error
        return PutView(place.hex(), sequence, stored, asked)

    def dht_get(self, key: bytes) -> ValueView:
        """Waits. Raises NegativeAnswer (code value_not_found)."""
        place = hashlib.sha256(key).digest()
        found = self.values.get(place)
        if not found:
            raise NegativeAnswer("no node has a value under this key", code="value_not_found")
        return value_view(place, found)

    def dht_find_node(self, node_id_hex: str) -> LookupView:
        """Waits."""
        target = parse_node_id(node_id_hex)
        hops: list[Hop] = []
        found: Found = self.kademlia.find(target, trace=hops.append)
        return lookup_view(found, hops)
