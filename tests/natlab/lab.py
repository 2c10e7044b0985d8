"""An internet in a box: hosts with public addresses on one segment, and routers of every kind with hosts behind them.

The internet is a bridge in a namespace of its own without a way out: nothing that runs in a lab reaches the machine's real
network, and each lab has its own internet. Addresses: 20.N.0.1 with another N for each host and router, because what tells
networks apart by /24 has to see different ones, and the range counts as public. Whatever is outside 20.0.0.0/8 is
a black hole: packets go there and nothing comes back, not even an error. There is no IPv6."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import IPv4Network
from typing import Any

from . import servers
from .kinds import DEFAULT_UDP_TIMEOUT_S, Kind, Options
from .machines import Host, Router
from .needs import missing
from .netns import LabError, Namespace, sweep

_INTERNET = "20.0.0.1"
_FIRST_PORT = 1000
"""The kernel notices at once that a cable is plugged in, unless both of its ends have one number in their namespaces: then
it takes up to a second. Cards are numbered from 2."""
# A new namespace begins with some settings of the machine that it is on.
_SETTINGS = {
    "ipv4/ip_forward": 0,
    "ipv6/conf/all/disable_ipv6": 1,
    "ipv6/conf/default/disable_ipv6": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
}
_LOSS = "table bridge loss\ndelete table bridge loss\n"
_LOSE = """
table bridge loss {{
  chain crossing {{
    type filter hook forward priority filter
    ether type ip {condition} drop
  }}
}}
"""


class Lab:
    """`with Lab() as lab:`. Everything is gone when the block ends or the process does, in whatever way."""

    def __init__(self) -> None:
        if (reason := missing()) is not None:
            raise LabError(reason)
        self._undo = ExitStack()
        self._addresses = 0
        self._networks = 0
        self._ports = 0

    def __enter__(self) -> Lab:
        sweep()
        with self._undo as undo:
            self._internet = self._namespace("internet")
            self._bridge(self._internet, f"{_INTERNET}/8")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    # --- building ---

    def public(self, name: str = "host", addresses: int = 1) -> Host:
        """A host on the internet itself, each address in a /24 of its own."""
        namespace = self._namespace(name)
        host = Host(namespace, [self._public_address() for _ in range(addresses)])
        self._undo.callback(host.close_sockets)
        self._plug(self._internet, namespace, "eth0", [f"{address}/8" for address in host.addresses], _INTERNET)
        return host

    def behind(self, kind: Kind | None = None, *, router: Router | None = None, **options: Any) -> Host:
        """A host behind a new router of this kind (options: see `router`), or behind one that is there."""
        if router is None and kind is not None:
            router = self.router(kind, **options)
        elif router is None or kind is not None or options:
            raise LabError("give a kind, with options for its router, or a router that is there")
        namespace = self._namespace(f"behind {router.namespace.label}")
        host = Host(namespace, [router.next_guest_ip()], router)
        self._undo.callback(host.close_sockets)
        prefix = router.inner_network.prefixlen
        self._plug(router.namespace, namespace, "eth0", [f"{host.ip}/{prefix}"], router.inner_ip)
        router.hosts.append(host)
        return host

    def router(
        self,
        kind: Kind,
        *,
        hairpin: bool = False,
        udp_timeout_s: int | None = None,
        preserve_ports: bool = True,
        is_silent: bool = False,
        step: int = 1,
        igd: Iterable[str] = servers.IGD_PROTOCOLS,
        igd_settings: Iterable[str] = (),
        carrier: Kind = Kind.CARRIER,
        upstream: Router | None = None,
    ) -> Router:
        """`step`: of sequential ports. `igd`: what a router of kind IGD speaks (protocols left out it does not hear),
        `igd_settings`: further lines for miniupnpd.conf. `carrier`: what stands before one of kind CGNAT. `upstream`: the router
        that this one is behind, instead of the internet."""
        options = Options(hairpin, udp_timeout_s or DEFAULT_UDP_TIMEOUT_S, preserve_ports, step, is_silent)
        if kind is Kind.CGNAT:
            upstream = self._router(carrier, options, None, inner="100.64.{}.0/24")
            return self._router(Kind.PORT_RESTRICTED, options, upstream)
        router = self._router(kind, options, upstream)
        if kind is Kind.IGD:
            router.serve_igd(igd, igd_settings)
        return router

    def _router(self, kind: Kind, options: Options, upstream: Router | None, inner: str = "192.168.{}.0/24") -> Router:
        namespace = self._namespace(f"{kind.value} router")
        self._networks += 1
        network = IPv4Network(inner.format(self._networks % 256))
        if not kind.translates:
            network = IPv4Network((self._public_address(), 24), strict=False)
        if upstream is None:
            outer, prefix, gateway, onto = self._public_address(), 8, _INTERNET, self._internet
        else:
            outer, prefix = upstream.next_guest_ip(), 24
            gateway, onto = upstream.inner_ip, upstream.namespace
        router = Router(self, kind, options, namespace, outer, network)
        router.upstream = upstream
        self._bridge(namespace, f"{router.inner_ip}/24")
        self._plug(onto, namespace, "outer", [f"{outer}/{prefix}"], gateway)
        namespace.sysctl("ipv4/ip_forward", 1)
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            namespace.sysctl(f"netfilter/{name}", options.udp_timeout_s)
        if not kind.translates:
            # It answers on the internet's segment for the addresses behind it, and at once.
            namespace.sysctl("ipv4/conf/outer/proxy_arp", 1)
            namespace.sysctl("ipv4/neigh/outer/proxy_delay", 0)
        router.load()
        return router

    # --- disturbing ---

    def lose(self, share: float) -> None:
        """Drops this share of what crosses the internet, in each direction; 0 ends it."""
        per_10000 = round(share * 10_000)
        condition = f"numgen random mod 10000 < {per_10000}" if per_10000 < 10_000 else ""
        rules = _LOSE.format(condition=condition) if per_10000 else ""
        self._internet.configure(["nft", "-f", "-"], _LOSS + rules)

    def renumber(self, router: Router) -> None:
        """Gives it another outer address; `Router.change_address` is what tests call."""
        before, router.outer_ip = router.outer_ip, self._public_address()
        router.namespace.configure(
            ["ip", "-batch", "-"],
            f"addr del {before}/8 dev outer\naddr add {router.outer_ip}/8 dev outer\nroute add default via {_INTERNET}\n",
        )

    def forward(self, router: Router, transport: str, outer_port: int, host: Host, inner_port: int) -> None:
        """A port forward made by hand; transport is "udp" or "tcp"."""
        router.forward(transport, outer_port, host, inner_port)

    def coturn(self, host: Host, port: int = 3478) -> servers.Server:
        """A STUN server there, answering when this returns; RFC 5780 when the host has two addresses."""
        return servers.coturn(host.namespace, host.addresses, port)

    # --- wiring ---

    def _namespace(self, label: str) -> Namespace:
        namespace = Namespace(label)
        self._undo.callback(namespace.close)
        for name, value in _SETTINGS.items():
            namespace.sysctl(name, value)
        return namespace

    def _bridge(self, namespace: Namespace, address: str) -> None:
        # Where a kernel shows bridged packets to the rules for IP, it translates and sends on while still bridging, and
        # a bridge sends nothing back through the port that it came by: hairpins would vanish.
        if namespace.has_sysctl("bridge/bridge-nf-call-iptables"):
            namespace.sysctl("bridge/bridge-nf-call-iptables", 0)
        namespace.configure(
            ["ip", "-batch", "-"],
            f"link add inner type bridge mcast_snooping 0\naddr add {address} dev inner\nlink set inner up\n",
        )

    def _plug(self, onto: Namespace, namespace: Namespace, card: str, addresses: list[str], gateway: str) -> None:
        """A cable from a bridge to a network card, and the card's addresses."""
        self._ports += 1
        port = f"port{self._ports}"
        onto.configure(
            ["ip", "-batch", "-"],
            f"link add {port} index {_FIRST_PORT + self._ports} type veth peer name {card} netns {namespace.path}\n"
            f"link set {port} master inner up\n",
        )
        lines = [f"addr add {address} dev {card}\n" for address in addresses]
        namespace.configure(
            ["ip", "-batch", "-"],
            f"link set lo up\n{''.join(lines)}link set {card} up\nroute add default via {gateway}\n",
        )
        onto.wait_for_card(port)
        namespace.wait_for_card(card)

    def _public_address(self) -> str:
        self._addresses += 1
        third, second = divmod(self._addresses, 250)
        return f"20.{second + 1}.{third}.1"
