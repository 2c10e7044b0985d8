"""The virtual network: which way a packet goes, how long it takes, and whether it arrives.

A datagram travels in three steps: `SimDatagramSocket.send` names source and destination, `Network.path` answers which
host the destination is, from where the source stands, and how the way there behaves; `Host.deliver` looks for the
socket. A box that translates addresses belongs between the first two: it is a path whose target is the box, and which
hands on with another sender.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.runtime.base import Address
from kodectl.sim.schedule import Schedule
from kodectl.sim.tasks import SimTasks
from kodectl.sim.trace import NO_HOST, Kind, Trace

if TYPE_CHECKING:
    from kodectl.sim.streams import Lane, SimListener

MAX_DATAGRAM = 65_507
"""What fits into an IPv4 packet; more is lost, as a kernel would refuse it."""

FIRST_EPHEMERAL, LAST_EPHEMERAL = 49_152, 65_535
"""Ports for sockets that ask for any (RFC 6335, section 6)."""

LAN_LATENCY_S = 0.0003
OWN_LATENCY_S = 0.00002
"""From a host to itself."""

NEVER = -1.0

WILDCARDS = ("0.0.0.0", "::")
LOOPBACKS = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PathModel:
    """How the ways between hosts behave. Each pair of hosts has a base latency of its own, the same in every run of a
    seed: `latency_s` give or take up to `spread_s`."""

    latency_s: float = 0.05
    """One way."""
    spread_s: float = 0.03
    jitter_s: float = 0.002
    """Up to so much more for each packet."""
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """The part of the datagrams that take twice as long, and are overtaken."""
    bandwidth: float | None = None
    """Bytes per second of each direction of a stream; None: any amount at once."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.spread_s <= self.latency_s:
            raise LocalMisuse("the spread of a path's latency goes from 0 to the latency")
        if not all(0.0 <= part <= 1.0 for part in (self.loss, self.duplication, self.reordering)):
            raise LocalMisuse("loss, duplication and reordering are parts of 1")


OWN_PATH = PathModel(latency_s=OWN_LATENCY_S, spread_s=0.0, jitter_s=0.0)


class Path:
    """The way from one host to another. `steady`: nothing is lost, doubled or overtaken on it."""

    __slots__ = ("jitter_s", "latency_s", "model", "steady", "target")

    def __init__(self, target: Host, latency_s: float, model: PathModel) -> None:
        self.target = target
        self.latency_s = latency_s
        self.jitter_s = model.jitter_s
        self.model = model
        self.steady = not (model.loss or model.duplication or model.reordering)


class Host:
    """One machine from its start to its crash: an address, and what is bound to it.

    A restarted machine is another `Host` with the same address."""

    def __init__(self, network: Network, tasks: SimTasks, ip: str, number: int) -> None:
        self.network = network
        self.tasks = tasks
        self.ip = ip
        self.number = number
        self.alive = True
        self.sockets: dict[int, SimDatagramSocket] = {}
        self.listeners: dict[int, SimListener] = {}
        self.lans: list[SimLan] = []
        self.paths: dict[str, Path] = {}
        self._next_port = FIRST_EPHEMERAL

    def deliver(self, data: bytes, sender: Address, port: int) -> None:
        socket = self.sockets.get(port)
        if socket is None:
            return
        try:
            socket.receive(data, sender)
        except Exception as error:
            self.network.callback_failed(self, "datagram", error)

    def crash(self) -> None:
        """Everything bound vanishes without a word."""
        self.alive = False
        self.tasks.freeze()
        self.sockets.clear()
        self.listeners.clear()
        self.lans.clear()

    def claim(self, local: Address, taken: Iterable[int], protocol: str) -> Address:
        """The address to bind for `local`. Raises EnvironmentFault."""
        ip, port = local
        if ip not in (self.ip, *WILDCARDS, *LOOPBACKS):
            raise EnvironmentFault(f"{ip} is not an address of host {self.ip}", code="address_not_available")
        if port in taken:
            raise EnvironmentFault(f"{protocol} port {port} of host {self.ip} is in use", code="port_in_use")
        return ip, port or self.ephemeral_port(taken)

    def ephemeral_port(self, taken: Iterable[int] = ()) -> int:
        for _ in range(FIRST_EPHEMERAL, LAST_EPHEMERAL + 1):
            port = self._next_port
            self._next_port = FIRST_EPHEMERAL if port == LAST_EPHEMERAL else port + 1
            if port not in taken:
                return port
        raise EnvironmentFault(f"host {self.ip} has no free port", code="port_in_use")


class SimDatagramSocket:
    """See `runtime.base.DatagramSocket`."""

    __slots__ = ("_host", "_port", "_seen_as", "_send", "local", "receive")

    def __init__(self, host: Host, local: Address, receive: Callable[[bytes, Address], None]) -> None:
        self.local = host.claim(local, host.sockets, "UDP")
        self.receive = receive
        self._host = host
        self._port = self.local[1]
        self._seen_as: Address = (host.ip, self._port)
        self._send = host.network.send_datagram
        host.sockets[self._port] = self

    def send(self, data: bytes, address: Address) -> None:
        if self._host.sockets.get(self._port) is self:
            self._send(self._host, self._seen_as, bytes(data), address)

    def close(self) -> None:
        if self._host.sockets.get(self._port) is self:
            del self._host.sockets[self._port]


class SimLan:
    """See `runtime.base.LanSocket`."""

    def __init__(self, host: Host, port: int, receive: Callable[[bytes, Address], None]) -> None:
        self.port = port
        self._receive = receive
        self._host = host
        self._seen_as: Address = (host.ip, host.ephemeral_port())
        host.lans.append(self)

    def announce(self, data: bytes) -> None:
        if self in self._host.lans:
            self._host.network.send_announcement(self._host, self._seen_as, bytes(data), self.port)

    def hear(self, data: bytes, sender: Address) -> None:
        if self not in self._host.lans:
            return
        try:
            self._receive(data, sender)
        except Exception as error:
            self._host.network.callback_failed(self._host, "announcement", error)

    def close(self) -> None:
        if self in self._host.lans:
            self._host.lans.remove(self)


class Network:
    """Hosts, the ways between them, and what is wrong with those at the moment."""

    def __init__(
        self,
        seed: str,
        model: PathModel,
        schedule: Schedule,
        trace: Trace,
        callback_failed: Callable[[Host, str, Exception], None],
    ) -> None:
        self.schedule = schedule
        self.trace = trace
        self.callback_failed = callback_failed
        self.hosts: dict[str, Host] = {}
        self.waiting_lanes: dict[Lane, None] = {}
        self.random = random.Random(f"{seed} network").random
        self._seed = seed
        self._model = model
        self._models: dict[tuple[str, str], PathModel] = {}
        self._islands: dict[str, int] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._segments: dict[str, list[str]] = {}

    def add(self, host: Host) -> None:
        """Puts a host on the network, in the place of a crashed one with its address."""
        is_restarted = host.ip in self.hosts
        self.hosts[host.ip] = host
        if is_restarted:
            self.ways_changed()

    # Ways

    def path(self, source: Host, ip: str) -> Path | None:
        """The way to `ip` from where `source` stands; None where there is none."""
        return source.paths.get(ip) or self._find_path(source, ip)

    def _find_path(self, source: Host, ip: str) -> Path | None:
        if ip == source.ip or ip in LOOPBACKS:
            path = Path(source, OWN_LATENCY_S, OWN_PATH)
        else:
            target = self.hosts.get(ip)
            if target is None or self._severed(source.ip, ip):
                return None
            model = self._models.get((source.ip, ip), self._model)
            path = Path(target, self._base_latency(source.ip, ip, model), model)
        source.paths[ip] = path
        return path

    def _base_latency(self, ip: str, other_ip: str, model: PathModel) -> float:
        pair = " ".join(sorted((ip, other_ip)))
        digest = hashlib.blake2b(f"{self._seed} {pair}".encode(), digest_size=8).digest()
        return model.latency_s + model.spread_s * (int.from_bytes(digest, "big") / 2**63 - 1.0)

    def _severed(self, ip: str, other_ip: str) -> bool:
        if not self._islands and not self._cuts:
            return False
        return self._islands.get(ip) != self._islands.get(other_ip) or (ip, other_ip) in self._cuts

    # What goes wrong with them

    def set_model(self, ip: str, other_ip: str, model: PathModel) -> None:
        self._models[ip, other_ip] = self._models[other_ip, ip] = model
        self.ways_changed()

    def partition(self, islands: Iterable[Iterable[str]]) -> None:
        """Only hosts of one island reach each other; the hosts of none are one more island."""
        self._islands = {ip: number for number, island in enumerate(islands) for ip in island}
        self.ways_changed()

    def cut(self, ip: str, other_ip: str, *, one_way: bool) -> None:
        self._cuts.add((ip, other_ip))
        if not one_way:
            self._cuts.add((other_ip, ip))
        self.ways_changed()

    def mend(self, ip: str, other_ip: str) -> None:
        self._cuts -= {(ip, other_ip), (other_ip, ip)}
        self.ways_changed()

    def heal(self) -> None:
        self._islands.clear()
        self._cuts.clear()
        self.ways_changed()

    def ways_changed(self) -> None:
        """Forgets the ways found so far, and lets streams try again what could not get through."""
        for host in self.hosts.values():
            host.paths.clear()
        lanes, self.waiting_lanes = self.waiting_lanes, {}
        for lane in lanes:
            lane.try_again()

    def set_segment(self, name: str, ips: Iterable[str]) -> None:
        self._segments[name] = list(dict.fromkeys(ips))

    # Packets

    def send_datagram(self, host: Host, sender: Address, data: bytes, address: Address) -> None:
        ip, port = address
        path = host.paths.get(ip) or self._find_path(host, ip)
        now = self.schedule.now
        if path is None or len(data) > MAX_DATAGRAM:
            self.trace.record(Kind.DATAGRAM, now, NEVER, host.number, sender[1], NO_HOST, port, data)
            return
        arrival = now + path.latency_s + path.jitter_s * self.random()
        if not path.steady:
            arrival = self._mishap(path, arrival, data, sender, port)
        target = path.target
        self.trace.record(Kind.DATAGRAM, now, arrival, host.number, sender[1], target.number, port, data)
        if arrival > NEVER:
            self.schedule.at(arrival, target.deliver, data, sender, port)

    def _mishap(self, path: Path, arrival: float, data: bytes, sender: Address, port: int) -> float:
        """Loses, delays or doubles a datagram; answers when it arrives now."""
        model = path.model
        if self.random() < model.loss:
            return NEVER
        if self.random() < model.reordering:
            arrival += path.latency_s
        if self.random() < model.duplication:
            copy = arrival + path.latency_s * self.random()
            self.schedule.at(copy, path.target.deliver, data, sender, port)
        return arrival

    def send_announcement(self, host: Host, sender: Address, data: bytes, port: int) -> None:
        arrival = self.schedule.now + LAN_LATENCY_S
        for ip in self._neighbours(host.ip):
            target = self.hosts[ip]
            if self._severed(host.ip, ip):
                continue
            self.trace.record(
                Kind.ANNOUNCEMENT, self.schedule.now, arrival, host.number, sender[1], target.number, port, data
            )
            for lan in target.lans:
                if lan.port == port:
                    self.schedule.at(arrival, lan.hear, data, sender)

    def _neighbours(self, ip: str) -> list[str]:
        """The hosts on the segments of a host, and itself: a machine hears its own announcements."""
        heard = [other for ips in self._segments.values() if ip in ips for other in ips if other in self.hosts]
        return list(dict.fromkeys([ip, *heard]))
