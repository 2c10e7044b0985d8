"""The node and its NAT: reachability, port mappings, and what both mean for what the node says of itself."""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.core.mapping import Gateway, Method, Transport
from kodectl.core.nat import NatType, Verdict
from kodectl.core.observers import group_of
from kodectl.node.dial_back import DialBack
from kodectl.node.discovery import Discovery
from kodectl.node.events import Events
from kodectl.node.kademlia import Kademlia
from kodectl.node.knocking import Knocking
from kodectl.node.multiplexer import Multiplexer
from kodectl.node.peering import Peering
from kodectl.node.port_mapping import PortMappings
from kodectl.node.reachability import Reachability
from kodectl.node.views import NatView
from kodectl.runtime.base import Runtime, Scope
from kodectl.settings import NodeSettings
from kodectl.wire.addresses import address_text, scope_of
from kodectl.wire.announcement import Ports
from kodectl.wire.contacts import Contact

log = logging.getLogger(__name__)

Finders = dict[Method, Callable[[], Gateway]]

EXTIP = "extip:"
EVERYWHERE = ("0.0.0.0", "::")

_ADVICE = {
    NatType.RESTRICTED: "peers reach this node by hole punching; forward its ports on the router, or turn on UPnP, NAT-PMP "
    "or PCP there, to be reached directly",
    NatType.SYMMETRIC: "peers reach this node through a relay only; forward its ports on the router, or turn on UPnP, "
    "NAT-PMP or PCP there",
    NatType.FIREWALLED: "no NAT, but a firewall drops what nobody asked for: allow the node's TCP and UDP ports in",
    NatType.BLOCKED: "UDP does not get out of this network: allow it, at least to the discovery ports of peers",
}
_ADVICE[NatType.PORT_RESTRICTED] = _ADVICE[NatType.RESTRICTED]


class NatTraversal:
    """Composes the parts. Nothing here waits at the start; `address`, `ports` and `view` tell what holds at the moment."""

    def __init__(
        self,
        runtime: Runtime,
        settings: NodeSettings,
        discovery: Discovery,
        multiplexer: Multiplexer,
        kademlia: Kademlia,
        peering: Peering,
        scope: Scope,
        events: Events,
        finders: Finders,
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._discovery = discovery
        self._kademlia = kademlia
        self._peering = peering
        self._scope = scope
        self._events = events
        host = settings.listen_host
        self.knocking = Knocking(runtime, discovery, scope, host, self._helpers)
        dial_back = DialBack(runtime, discovery, scope, host)
        self.reachability = Reachability(runtime, discovery, kademlia, dial_back, scope, settings.stun)
        self.mappings = PortMappings(runtime, scope, events, self._mapping_method(), finders)
        self.mappings.on_changed = self._mapping_changed
        self.reachability.on_changed = self._reachability_changed
        self.reachability.tcp_port = self._outer_tcp_port
        self.reachability.mapped_port = self._mapped_udp_port
        self.reachability.silence.linked = self._linked
        self.on_changed: Callable[[], None] = lambda: None
        """What this node is to others has changed."""
        peering.on_knock = dial_back.knocked_over_tcp
        kademlia.on_observed = self.reachability.observed
        multiplexer.own_questions = self.reachability.stun.received

    def _mapping_method(self) -> str:
        """No router forwards to a loopback address, and none needs to where the operator knows the outer address."""
        is_loopback = scope_of(self._settings.listen_host) == "loopback"
        return "none" if is_loopback or self._is_fixed() else self._settings.nat

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """After discovery and peering are bound. Does not wait."""
        self._follow()
        self.reachability.start()
        self.mappings.start(self._peering.tcp_port, self._discovery.port)

    def stop(self) -> None:
        """Takes the mappings back; waits for a second or two at most."""
        self.reachability.stop()
        self.mappings.stop()

    # -- what others are told --------------------------------------------------------------------------------------

    def address(self) -> str:
        """Where the outside finds this node, as far as that is known; else the address of the default route."""
        local = self.reachability.local
        return self._told_address() or local.source or local.source6 or "127.0.0.1"

    def _told_address(self) -> str | None:
        """What the operator says, else the address it listens on, else what peers agree on."""
        if self._is_fixed():
            return self._settings.nat.removeprefix(EXTIP)
        if self._settings.listen_host not in EVERYWHERE:
            return self._settings.listen_host
        return self._believed_ip()

    def ports(self) -> Ports:
        """As the outside is to use them."""
        return Ports(self._outer_tcp_port(), self._outer_udp_port())

    def hello_ports(self) -> Ports:
        """TCP 0 where it is known that nobody gets through: it keeps peers from dialling in vain."""
        tcp, udp = self._outer_tcp_port(), self._outer_udp_port()
        return Ports(tcp if self.reachability.reach.tcp is not False or self._is_fixed() else 0, udp)

    @property
    def is_server(self) -> bool:
        """Whether this node is a DHT server."""
        return not self._settings.dht_client and (self._is_fixed() or self.reachability.is_reached)

    @property
    def is_reached_over_tcp(self) -> bool:
        return self._is_fixed() or self.reachability.reach.tcp is True

    @property
    def is_reached_over_udp(self) -> bool:
        return self._is_fixed() or self.reachability.reach.udp is True

    @property
    def is_behind_nat(self) -> bool:
        """Or may be. The operator who names the address says that all ports are there."""
        return not self._is_fixed() and self.reachability.is_translated is not False

    def _is_fixed(self) -> bool:
        """The operator vouches for the address."""
        return self._settings.nat.startswith(EXTIP)

    def _believed_ip(self) -> str | None:
        """Believed by enough observers, or by fewer and proved by a knock that arrived."""
        belief, reach = self.reachability.belief, self.reachability.reach
        return belief.ip or (belief.hint if reach.udp or reach.tcp else None)

    def _outer_tcp_port(self) -> int:
        mapped = self.mappings.external(Transport.TCP)
        return mapped[1] if mapped is not None else self._peering.tcp_port

    def _outer_udp_port(self) -> int:
        belief = self.reachability.belief
        seen = belief.port if self.reachability.is_translated else None
        return self._mapped_udp_port() or seen or self._discovery.port

    def _mapped_udp_port(self) -> int | None:
        mapped = self.mappings.external(Transport.UDP)
        return mapped[1] if mapped is not None else None

    # -- what changes ----------------------------------------------------------------------------------------------

    def _mapping_changed(self) -> None:
        self._follow()
        self.reachability.look_again()

    def _reachability_changed(self) -> None:
        self._follow()
        view = self.view()
        log.info(
            "reachability: %s (NAT %s, seen at %s, UDP %s, TCP %s)",
            view.state,
            view.nat_type or "unknown",
            view.observed_address or "unknown",
            _words(view.reachable_udp),
            _words(view.reachable_tcp),
        )
        self._events.emit(
            "nat_changed",
            state=view.state,
            nat_type=view.nat_type,
            observed_address=view.observed_address,
            observed_port=view.observed_port,
            reachable_udp=view.reachable_udp,
            reachable_tcp=view.reachable_tcp,
            dht_mode="server" if self.is_server else "client",
        )

    def _follow(self) -> None:
        self._discovery.sessions.tcp_port = self.hello_ports().tcp
        self.reachability.tell(self.is_server)
        self.on_changed()

    # -- who can help ----------------------------------------------------------------------------------------------

    def _helpers(self, target_ip: str, count: int) -> list[Contact]:
        """Nodes that are in another network than the one to be knocked at."""
        group = group_of(target_ip)
        contacts = [contact for contact in self._kademlia.table.contacts() if group_of(contact.ip) != group]
        return self._runtime.rng.sample(contacts, min(count, len(contacts)))

    def _linked(self) -> list[Contact]:
        """Where peers that are connected over TCP say that they are to be found over UDP."""
        peers = self._peering.links.values()
        return [
            Contact(peer.node_id, peer.remote[0], peer.hello.ports.udp, peer.hello.ports.tcp)
            for peer in peers
            if peer.hello.ports.udp
        ]

    # -- what can be asked -----------------------------------------------------------------------------------------

    def view(self) -> NatView:
        belief, reach, now = self.reachability.belief, self.reachability.reach, self._runtime.now()
        mapping = self.mappings.view()
        checked = self.reachability.checked_at
        ip = self._told_address()
        return NatView(
            state=reach.verdict.value if reach.verdict is not None else "unknown",
            nat_type=reach.nat_type.value if reach.nat_type is not None else None,
            mapping=reach.mapping.value if reach.mapping is not None else None,
            filtering=reach.filtering.value if reach.filtering is not None else None,
            translated=self.reachability.is_translated,
            observed_address=belief.hint,
            observed_port=belief.port,
            observers=belief.groups,
            reachable_udp=reach.udp,
            reachable_tcp=reach.tcp,
            external_udp=address_text(ip, self._outer_udp_port()) if ip and reach.udp else None,
            external_tcp=address_text(ip, self._outer_tcp_port()) if ip and reach.tcp else None,
            cgnat=self._is_cgnat(mapping.external_ip),
            double_nat=_is_double_nat(mapping.external_ip, belief.ip),
            port_mapping=mapping,
            checked_s=round(now - checked, 3) if checked is not None else None,
            advice=None
            if reach.verdict in (None, Verdict.DIRECT) or reach.nat_type is None
            else _ADVICE[reach.nat_type],
        )

    def _is_cgnat(self, router_ip: str | None) -> bool | None:
        own = self.reachability.local.source
        if any(ip is not None and scope_of(ip) == "cgnat" for ip in (router_ip, own)):
            return True
        return None if router_ip is None else False


def _is_double_nat(router_ip: str | None, seen: str | None) -> bool | None:
    if router_ip is None or seen is None:
        return None
    return router_ip != seen


def _words(reachable: bool | None) -> str:
    return {None: "unknown", True: "reachable", False: "not reachable"}[reachable]
