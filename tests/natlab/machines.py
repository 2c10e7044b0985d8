"""The machines of a lab: hosts, and the routers between them."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable
from ipaddress import IPv4Network
from subprocess import CompletedProcess, Popen
from typing import TYPE_CHECKING, Any

from . import servers
from .kinds import BLACKOUT, Kind, Options, ruleset
from .netns import LabError, Namespace

if TYPE_CHECKING:
    from .lab import Lab

_CHATTER = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as chatter:
    while True:
        for port in range(1024, 65536):
            chatter.sendto(b"", ("198.18.0.1", port))
            time.sleep(1 / int(sys.argv[1]))
"""


class Host:
    """A machine with one network card. `udp`, `listen` and `connect` give sockets of the test's own process that live
    there, on the host's first address unless told another."""

    def __init__(self, namespace: Namespace, addresses: list[str], router: Router | None = None) -> None:
        self.namespace = namespace
        self.addresses = addresses
        self.router = router
        self._sockets: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<{self.namespace.label} {self.ip}>"

    @property
    def ip(self) -> str:
        return self.addresses[0]

    @property
    def external_ip(self) -> str:
        """What the internet sees it as."""
        return self.ip if self.router is None else self.router.external_ip

    def run(self, command: list[str], *, timeout_s: float = 30.0, **options: Any) -> CompletedProcess[str]:
        """Raises `subprocess.TimeoutExpired` when the limit is over. Options are those of `Popen`."""
        return self.namespace.run(command, timeout_s=timeout_s, **options)

    def popen(self, command: list[str], **options: Any) -> Popen[Any]:
        """Ended by the lab, or with the thread that calls."""
        return self.namespace.popen(command, **options)

    def udp(self, port: int = 0, *, ip: str = "", timeout_s: float = 2.0) -> socket.socket:
        return self._bound(socket.SOCK_DGRAM, ip, port, timeout_s)

    def listen(self, port: int = 0, *, ip: str = "", timeout_s: float = 2.0) -> socket.socket:
        listener = self._bound(socket.SOCK_STREAM, ip, port, timeout_s)
        listener.listen()
        return listener

    def connect(self, address: tuple[str, int], *, port: int = 0, timeout_s: float = 2.0) -> socket.socket:
        """Over TCP. Raises as `socket.connect` does."""
        stream = self._bound(socket.SOCK_STREAM, "", port, timeout_s)
        stream.connect(address)
        return stream

    def _bound(self, form: socket.SocketKind, ip: str, port: int, timeout_s: float) -> socket.socket:
        with self.namespace.entered():
            made = socket.socket(socket.AF_INET, form)
        self._sockets.append(made)
        made.settimeout(timeout_s)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, form is socket.SOCK_STREAM)
        made.bind((ip or self.ip, port))
        return made

    def close_sockets(self) -> None:
        for made in self._sockets:
            made.close()


class Router:
    """Interfaces `outer` and `inner`, and the rules of its kind between them."""

    def __init__(
        self, lab: Lab, kind: Kind, options: Options, namespace: Namespace, outer: str, inner: IPv4Network
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.hosts: list[Host] = []
        self.upstream: Router | None = None
        self.outer_ip = outer
        self.inner_network = inner
        self.inner_ip = str(inner[1])
        self._lab = lab
        self._options = options
        self._guests = 0
        self._forwards: dict[tuple[str, int], tuple[str, int]] = {}
        self._igd: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self.igd: servers.Server | None = None

    def __repr__(self) -> str:
        return f"<{self.namespace.label} {self.outer_ip}>"

    @property
    def external_ip(self) -> str:
        """What the internet sees hosts behind it as: the address of the outermost router that translates."""
        if not self.kind.translates:
            return self.hosts[0].ip
        return self.outer_ip if self.upstream is None else self.upstream.external_ip

    def next_guest_ip(self) -> str:
        self._guests += 1
        return str(self.inner_network[1 + self._guests])

    def forget(self) -> None:
        """Loses its state, as in a power failure: connections and mappings. What was configured by hand stays, and so do
        the mappings that a router of kind IGD was asked for: see `restart`."""
        self.namespace.configure(["nft", "-f", "-"], BLACKOUT)
        self.namespace.forget_connections()
        self.load()

    def change_address(self) -> None:
        """Another outer address, and with it the loss of all state, as when a provider assigns a new one."""
        if not self.kind.translates or self.upstream is not None:
            raise LabError(f"the address of {self} is not its own to change")
        self._lab.renumber(self)
        self.forget()

    def narrow(self, bits_per_s: int) -> None:
        """What goes out waits its turn on a line of so many bits a second, after a first packet's worth: the nearest thing to
        a distance, where the kernel has no queue that delays."""
        line = f"root tbf rate {bits_per_s}bit burst 1540 latency 1s"
        self.namespace.configure(["tc", "qdisc", "add", "dev", "outer", *line.split()], "")

    def forward(self, transport: str, outer_port: int, host: Host, inner_port: int) -> None:
        if not self.kind.translates:
            raise LabError(f"{self} translates nothing, so there is nothing to forward")
        self._forwards[transport, outer_port] = (host.ip, inner_port)
        self._load_forwards({(transport, outer_port): (host.ip, inner_port)})

    def serve_igd(self, protocols: Iterable[str], settings: Iterable[str] = ()) -> None:
        """Starts miniupnpd with protocols out of `servers.IGD_PROTOCOLS`, and further lines of its configuration."""
        self._igd = (tuple(protocols), tuple(settings))
        self.igd = servers.miniupnpd(self.namespace, self.inner_ip, *self._igd)

    def restart(self) -> None:
        """Off and on again: `forget`, and every mapping that somebody asked for is lost too."""
        if self.igd is not None:
            self.igd.stop()
        self.forget()
        if self._igd is not None:
            self.serve_igd(*self._igd)

    def make_busy(self, per_second: int) -> Popen[Any]:
        """Another host behind it that opens so many UDP mappings a second, until the process is ended."""
        other = self._lab.behind(router=self)
        return other.popen([sys.executable, "-c", _CHATTER, str(per_second)])

    def udp_mappings(self) -> dict[tuple[str, int], int]:
        """Inner address and port -> outer port, as far as the kind remembers it."""
        shown = self.namespace.run(["nft", "--json", "list", "map", "ip", "router", "outer_ports"]).stdout
        (learnt,) = (entry["map"] for entry in json.loads(shown)["nftables"] if "map" in entry)
        return {tuple(element["elem"]["val"]["concat"]): port for element, port in learnt.get("elem", [])}

    def load(self) -> None:
        """Replaces all rules at once, and what they had learnt."""
        rules = ruleset(self.kind, self.outer_ip, str(self.inner_network), self._options)
        self.namespace.configure(["nft", "-f", "-"], rules)
        self._load_forwards(self._forwards)

    def _load_forwards(self, forwards: dict[tuple[str, int], tuple[str, int]]) -> None:
        lines = [
            f"add element ip router forwards {{ {transport} . {port} : {ip} . {inner_port} }}\n"
            for (transport, port), (ip, inner_port) in forwards.items()
        ]
        if lines:
            self.namespace.configure(["nft", "-f", "-"], "".join(lines))
