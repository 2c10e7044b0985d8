"""The virtual network: which way a packet goes, how long it takes, and whether it arrives.

A datagram travels in three steps: `SimDatagramSocket.send` names source and destination, `Network.path` answers which
host the destination is, from where the source stands, and how the way there behaves; `Host.deliver` looks for the
socket. A box that translates addresses (`sim.nat`) comes between the first two: the path leads to a side of the box, a
`Passage`, which hands on with another sender, as a datagram of its own. The pieces of a stream do not stop there:
`Network.way` goes through all boxes at once.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kodectl.core.mapping import Transport
from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.runtime.base import Address
from kodectl.sim.realm import Realm, Station, realm_name
from kodectl.sim.schedule import Schedule
from kodectl.sim.tasks import SimTasks
from kodectl.sim.trace import NO_HOST, Kind, Trace

if TYPE_CHECKING:
    from kodectl.sim.nat import OuterSide
    from kodectl.sim.streams import Dial, Lane, SimListener

MAX_DATAGRAM = 65_507
"""What fits into an IPv4 packet; more is lost, as a kernel would refuse it."""

FIRST_EPHEMERAL, LAST_EPHEMERAL = 49_152, 65_535
"""Ports for sockets that ask for any (RFC 6335, section 6)."""

LAN_LATENCY_S = 0.0003
OWN_LATENCY_S = 0.00002
"""From a host to itself."""

MAX_PATHS = 16_384
"""Ways that a station keeps at hand. On the internet there are no more than hosts, but to a host behind a box every
address leads somewhere."""

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
LAN_PATH = PathModel(latency_s=LAN_LATENCY_S, spread_s=0.0, jitter_s=0.0)


class Step(NamedTuple):
    """How something leaves a box: from which of its sides, and between which addresses from there on."""

    station: Station
    sender: Address
    target: Address


class Passage(Protocol):
    """A side of a box, where what arrives goes on under other addresses."""

    @property
    def number(self) -> int: ...

    def pass_on(self, transport: Transport, sender: Address, port: int) -> Step | None:
        """Translates; `port` is the one that the sender named. None: the box lets it drop."""
        ...

    def deliver(self, data: bytes, sender: Address, port: int) -> None:
        """Takes a datagram."""
        ...


class Path:
    """The way from one station to the next. `steady`: nothing is lost, doubled or overtaken on it."""

    __slots__ = ("jitter_s", "latency_s", "model", "steady", "target")

    def __init__(self, target: Host | Passage, latency_s: float, model: PathModel) -> None:
        self.target = target
        self.latency_s = latency_s
        self.jitter_s = model.jitter_s
        self.model = model
        self.steady = not (model.loss or model.duplication or model.reordering)

    def onward(self, path: Path) -> Path:
        """This way and then that one, as a stream takes them."""
        model = PathModel(
            latency_s=self.latency_s + path.latency_s,
            spread_s=0.0,
            jitter_s=self.jitter_s + path.jitter_s,
            loss=1.0 - (1.0 - self.model.loss) * (1.0 - path.model.loss),
            bandwidth=min((part for part in (self.model.bandwidth, path.model.bandwidth) if part), default=None),
        )
        return Path(path.target, model.latency_s, model)


class Way(NamedTuple):
    """The whole way of a piece of a stream: to which port of which host, and whom that takes for the sender."""

    path: Path
    target: Host
    port: int
    sender: Address


class Host(Station):
    """One machine from its start to its crash: an address, and what is bound to it.

    A restarted machine is another `Host` with the same address."""

    def __init__(self, network: Network, tasks: SimTasks, realm: Realm, ip: str, number: int) -> None:
        super().__init__(realm, ip, realm.name_of(ip), number)
        self.network = network
        self.tasks = tasks
        self.sockets: dict[int, SimDatagramSocket] = {}
        self.listeners: dict[int, SimListener] = {}
        self.dials: dict[tuple[int, Address], Dial] = {}
        """Dials under way, by own port and address dialled: two that meet are one connection."""
        self.lans: list[SimLan] = []
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
        self.dials.clear()
        self.lans.clear()

    def claim(self, local: Address, taken: Iterable[int], protocol: str) -> Address:
        """The address to bind for `local`. Raises EnvironmentFault."""
        ip, port = local
        if ip not in (self.ip, *WILDCARDS, *LOOPBACKS):
            raise EnvironmentFault(f"{ip} is not an address of host {self.name}", code="address_not_available")
        if port in taken:
            raise EnvironmentFault(f"{protocol} port {port} of host {self.name} is in use", code="port_in_use")
        return ip, port or self.ephemeral_port(taken)

    def ephemeral_port(self, taken: Iterable[int] = ()) -> int:
        for _ in range(FIRST_EPHEMERAL, LAST_EPHEMERAL + 1):
            port = self._next_port
            self._next_port = FIRST_EPHEMERAL if port == LAST_EPHEMERAL else port + 1
            if port not in taken:
                return port
        raise EnvironmentFault(f"host {self.name} has no free port", code="port_in_use")


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

    def send_many(self, datagrams: Sequence[bytes], address: Address) -> None:
        for data in datagrams:
            self.send(data, address)

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
    """Stations in their realms, the ways between them, and what is wrong with those at the moment.

    What goes wrong is said of stations by name, between two that see each other without a box between."""

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
        self.internet = Realm("", model)
        self.stations: dict[str, Station] = {}
        """By name."""
        self.waiting_lanes: dict[Lane, None] = {}
        self.random = random.Random(f"{seed} network").random
        self._seed = seed
        self._numbers = 0
        self._models: dict[tuple[str, str], PathModel] = {}
        self._islands: dict[str, int] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._segments: dict[str, list[str]] = {}

    def next_number(self) -> int:
        """For the trace: of a station that is about to be placed."""
        self._numbers += 1
        return self._numbers

    def place(self, station: Host | OuterSide) -> None:
        """Puts a station into its realm, in the place of a former one of its name."""
        former = self.stations.get(station.name)
        self.stations[station.name] = station
        if former is not None:
            del former.realm.stations[former.ip]
        station.realm.stations[station.ip] = station
        if former is not None:
            self.ways_changed()

    # Ways

    def path(self, source: Station, ip: str) -> Path | None:
        """The way to `ip` from where `source` stands, or to the box on the way; None where there is none."""
        return source.paths.get(ip) or self._find_path(source, ip)

    def _find_path(self, source: Station, ip: str) -> Path | None:
        path = self._own_path(source, ip) or self._path_to_other(source, ip)
        if path is not None:
            if len(source.paths) >= MAX_PATHS:
                source.paths.clear()
            source.paths[ip] = path
        return path

    def _own_path(self, source: Station, ip: str) -> Path | None:
        if isinstance(source, Host) and (ip == source.ip or ip in LOOPBACKS):
            return Path(source, OWN_LATENCY_S, OWN_PATH)
        return None

    def _path_to_other(self, source: Station, ip: str) -> Path | None:
        realm = source.realm
        resident = realm.stations.get(ip)
        if resident is not None:
            return self._path_between(source, resident, resident)
        if realm.gateway is not None:
            return self._path_between(source, realm.gateway.inner, realm.gateway.exit(ip))
        return None

    def _path_between(self, source: Station, neighbour: Station, target: Host | Passage) -> Path | None:
        if self._severed(source.name, neighbour.name):
            return None
        model = self._models.get((source.name, neighbour.name), source.realm.model)
        return Path(target, self._base_latency(source.name, neighbour.name, model), model)

    def way(self, source: Host, port: int, remote: Address) -> Way | None:
        """The way of a piece of a stream from a port of `source` to `remote`, through all boxes between."""
        sender, target_port = (source.ip, port), remote[1]
        path = self.path(source, remote[0])
        while path is not None:
            target = path.target
            if isinstance(target, Host):
                return Way(path, target, target_port, sender)
            step = target.pass_on(Transport.TCP, sender, target_port)
            if step is None:
                return None
            sender, (ip, target_port) = step.sender, step.target
            onward = self.path(step.station, ip)
            path = None if onward is None else path.onward(onward)
        return None

    def _base_latency(self, name: str, other_name: str, model: PathModel) -> float:
        pair = " ".join(sorted((name, other_name)))
        digest = hashlib.blake2b(f"{self._seed} {pair}".encode(), digest_size=8).digest()
        return model.latency_s + model.spread_s * (int.from_bytes(digest, "big") / 2**63 - 1.0)

    def _severed(self, name: str, other_name: str) -> bool:
        if not self._islands and not self._cuts:
            return False
        return self._islands.get(name) != self._islands.get(other_name) or (name, other_name) in self._cuts

    # What goes wrong with them

    def set_model(self, name: str, other_name: str, model: PathModel) -> None:
        self._models[name, other_name] = self._models[other_name, name] = model
        self.ways_changed()

    def partition(self, islands: Iterable[Iterable[str]]) -> None:
        """Only hosts of one island reach each other; the hosts of none are one more island."""
        self._islands = {name: number for number, island in enumerate(islands) for name in island}
        self.ways_changed()

    def cut(self, name: str, other_name: str, *, one_way: bool) -> None:
        self._cuts.add((name, other_name))
        if not one_way:
            self._cuts.add((other_name, name))
        self.ways_changed()

    def mend(self, name: str, other_name: str) -> None:
        self._cuts -= {(name, other_name), (other_name, name)}
        self.ways_changed()

    def heal(self) -> None:
        self._islands.clear()
        self._cuts.clear()
        self.ways_changed()

    def ways_changed(self) -> None:
        """Forgets the ways found so far, and lets streams try again what could not get through."""
        for station in self.stations.values():
            station.paths.clear()
        lanes, self.waiting_lanes = self.waiting_lanes, {}
        for lane in lanes:
            lane.try_again()

    def set_segment(self, name: str, members: Iterable[str]) -> None:
        names = list(dict.fromkeys(members))
        if len({realm_name(member) for member in names}) > 1:
            raise LocalMisuse(f"segment {name!r} goes through a box that translates")
        self._segments[name] = names

    # Packets

    def send_datagram(self, source: Station, sender: Address, data: bytes, address: Address) -> None:
        ip, port = address
        path = source.paths.get(ip) or self._find_path(source, ip)
        now = self.schedule.now
        if path is None or len(data) > MAX_DATAGRAM:
            self.trace.record(Kind.DATAGRAM, now, NEVER, source.number, sender[1], NO_HOST, port, data)
            return
        arrival = now + path.latency_s + path.jitter_s * self.random()
        if not path.steady:
            arrival = self._mishap(path, arrival, data, sender, port)
        target = path.target
        self.trace.record(Kind.DATAGRAM, now, arrival, source.number, sender[1], target.number, port, data)
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
        for target in self._neighbours(host):
            if self._severed(host.name, target.name):
                continue
            self.trace.record(
                Kind.ANNOUNCEMENT, self.schedule.now, arrival, host.number, sender[1], target.number, port, data
            )
            for lan in target.lans:
                if lan.port == port:
                    self.schedule.at(arrival, lan.hear, data, sender)

    def _neighbours(self, host: Host) -> list[Host]:
        """The hosts on the segments of a host, and itself: a machine hears its own announcements."""
        heard = [name for names in self._segments.values() if host.name in names for name in names]
        stations = [self.stations.get(name) for name in dict.fromkeys([host.name, *heard])]
        return [station for station in stations if isinstance(station, Host)]
