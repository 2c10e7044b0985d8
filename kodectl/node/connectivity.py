"""The parts by which nodes behind NATs are found and reached, and by which this node helps others, put together."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from kodectl.core.nat import Behavior
from kodectl.core.reachability import BLOCKED
from kodectl.core.turn_allocations import RelayLimits
from kodectl.node.discovery import Discovery
from kodectl.node.events import Events
from kodectl.node.kademlia import Kademlia
from kodectl.node.link_requests import LinkRequests
from kodectl.node.multiplexer import Multiplexer
from kodectl.node.nat import EVERYWHERE, NatTraversal
from kodectl.node.outer_port import OuterTcpPort
from kodectl.node.peer import Peer
from kodectl.node.peering import Peering
from kodectl.node.port_step import PortStep
from kodectl.node.relay_pool import RelayPool
from kodectl.node.relaying import NODE_LIMITS, Relaying
from kodectl.node.rendezvous import Rendezvous
from kodectl.node.signalling import Signalling
from kodectl.node.situation import Situation
from kodectl.node.traversal import Traversal
from kodectl.node.turn_server import RelayPlace
from kodectl.node.values import Values
from kodectl.node.views import NatView
from kodectl.runtime.base import Address, Runtime, Scope
from kodectl.settings import NodeSettings
from kodectl.wire import rpc
from kodectl.wire.addresses import address_text
from kodectl.wire.turn_server import TurnServer, parse_turn

MAX_OBSERVERS = 4
"""Whom ports are measured with: a measurement has five questions."""
_SYMMETRIC = (Behavior.ADDRESS_DEPENDENT, Behavior.ADDRESS_AND_PORT_DEPENDENT)


class Connectivity:
    """Raises WireError for a broken TURN server. Nothing waits but `stop`."""

    def __init__(
        self,
        runtime: Runtime,
        settings: NodeSettings,
        scope: Scope,
        events: Events,
        discovery: Discovery,
        multiplexer: Multiplexer,
        kademlia: Kademlia,
        values: Values,
        peering: Peering,
        nat: NatTraversal,
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._discovery = discovery
        self._kademlia = kademlia
        self._peering = peering
        self._nat = nat
        self.situation = situation = Situation(runtime, nat)
        self.link_requests = LinkRequests(runtime, scope, peering)
        self.rendezvous = Rendezvous(
            runtime, scope, peering, values, self.link_requests, self._needs_rendezvous, self._has_udp
        )
        self.signalling = Signalling(
            runtime,
            scope,
            discovery,
            kademlia,
            values,
            peering,
            self.link_requests,
            self.rendezvous,
            self._has_udp,
        )
        self.relaying = Relaying(runtime, scope, _limits_of(settings), self._relay_place, self._ports)
        self.relays = RelayPool(
            runtime,
            scope,
            self._relay_peers,
            self.link_requests.ask,
            _turn_of(settings),
            is_needed=lambda: not situation.is_open,
        )
        self._outer_port = OuterTcpPort(runtime, scope, lambda: peering.tcp_port, self.rendezvous.nodes)
        self._port_step = PortStep(runtime, scope, situation.source, self._measured_with)
        self.traversal = Traversal(
            runtime, scope, events, discovery, multiplexer, self.signalling, self.relays, situation, peering
        )
        situation.tcp_seen = lambda: self._outer_port.seen
        situation.await_tcp_seen = self._outer_port.await_seen
        situation.outer_tcp_port = self._outer_port.of
        situation.port_step = lambda: self._port_step.step
        situation.observers = self._observers
        self._attach(multiplexer)

    def _attach(self, multiplexer: Multiplexer) -> None:
        multiplexer.relay = self.relaying.received
        self._peering.on_stun = self.relaying.serve_stream
        self._peering.claims = self.traversal.claims
        self._peering.reach_by(self.traversal.reach)
        self._nat.on_changed = self.relaying.follow
        kind = rpc.Kind.RELAY
        self._discovery.handlers[kind] = lambda session, question: self.relaying.grant(
            session.node_id, session.address[0]
        )
        self.link_requests.quick_handlers[kind] = lambda peer, question: self.relaying.grant(
            peer.node_id, peer.remote[0]
        )

    def start(self) -> None:
        """After discovery and peering are bound."""
        self.traversal.start()
        self.relaying.start(self._discovery.send)
        self.rendezvous.start()
        self.relays.start()
        self._outer_port.start()
        self._port_step.start()

    def reconfigure(self, settings: NodeSettings) -> None:
        """Takes over STUN and TURN servers, and what is relayed for others. Raises WireError for a broken TURN server."""
        self.relays.replace_servers(_turn_of(settings))
        self._nat.reachability.replace_servers(settings.stun)
        self.relaying.reconfigure(_limits_of(settings))

    def stop(self) -> None:
        """Waits a moment, for connections to the relay to end."""
        self.relaying.stop()

    def view(self, nat: NatView) -> NatView:
        """What is known of the NAT, and what is done about it."""
        rendezvous = [peer.node_id.hex() for peer in self.rendezvous.nodes()] if self.rendezvous.is_told else None
        seen = self._outer_port.seen
        return msgspec.structs.replace(
            nat,
            observed_tcp=address_text(*seen) if seen is not None else None,
            rendezvous=rendezvous,
            relays=self.relays.at_hand,
            relay=self.relaying.view(),
        )

    # -- what the parts ask each other -----------------------------------------------------------------------------

    def _needs_rendezvous(self) -> bool:
        """Strangers are known not to get through over TCP. A node that knows nothing yet may be open."""
        reachability = self._nat.reachability
        if self._nat.is_reached_over_tcp:
            return False
        return reachability.reach.tcp is False or reachability.is_translated is True or reachability.reach == BLOCKED

    def _has_udp(self) -> bool:
        return not self.situation.is_udp_blocked

    def _ports(self) -> tuple[int, int]:
        ports = self._nat.ports()
        return ports.udp, ports.tcp

    def _relay_place(self) -> RelayPlace | None:
        """Only where relayed sockets, each with a port of its own, are as reachable as this node."""
        if not self._nat.is_reached_over_udp or self._nat.is_behind_nat:
            return None
        host = self._settings.listen_host
        own = self._nat.reachability.local.source or host if host in EVERYWHERE else host
        return RelayPlace(own, self._nat.address())

    def _relay_peers(self) -> list[Peer]:
        chosen = self.rendezvous.nodes()
        links = self._peering.links.values()
        others = [peer for peer in links if peer.outbound and peer.enode.tcp and peer.route.transport == "tcp"]
        return [*chosen, *(peer for peer in others if peer not in chosen)]

    def _measured_with(self) -> list[Address]:
        is_symmetric = self._nat.reachability.reach.mapping in _SYMMETRIC
        return self._observers() if is_symmetric else []

    def _observers(self) -> list[Address]:
        """Nodes that answer Binding requests, at random."""
        contacts = self._kademlia.table.contacts()
        chosen = self._runtime.rng.sample(contacts, min(MAX_OBSERVERS, len(contacts)))
        return [contact.address for contact in chosen]


def _limits_of(settings: NodeSettings) -> RelayLimits | None:
    return None if settings.relay is None else replace(NODE_LIMITS, **dict(settings.relay))


def _turn_of(settings: NodeSettings) -> tuple[TurnServer, ...]:
    return tuple(parse_turn(text) for text in settings.turn)
