"""A router that speaks NAT-PMP and PCP, on the virtual network: as well behaved, or as badly, as a test wants it."""

from dataclasses import dataclass, field

from kodectl.runtime.base import Address, Runtime
from kodectl.wire import natpmp, pcp

PORT = 5351
TRANSPORTS = {pcp.Protocol.UDP: "udp", pcp.Protocol.TCP: "tcp"}


@dataclass
class Entry:
    """One mapping in the table that both protocols share, as in most routers."""

    client: str
    internal_port: int
    ends_at: float
    nonce: bytes | None


@dataclass
class Manners:
    """What may be wrong with a router; may be changed at any time."""

    protocols: tuple[str, ...] = ("natpmp", "pcp")
    """The others are answered with "unsupported version"."""
    mute: tuple[str, ...] = ()
    """Protocols that are not answered at all."""
    external_ip: str = "20.0.0.1"
    longest_lease_s: int = 7200
    refuses: int = 0
    """The result that every request for a mapping is answered with; removals are not refused."""
    garbage: tuple[bytes, ...] = ()
    """Sent before every answer."""
    garbage_only: bool = False
    from_port: int = PORT
    """Answers leave from here."""
    other_nonce: bool = False
    """PCP answers carry a nonce that nobody asked with."""
    stops_after: int | None = None
    """Falls silent after so many more answers."""


@dataclass
class Router:
    """Restarted by `restart`; `table` is by transport and outer port."""

    runtime: Runtime
    manners: Manners = field(default_factory=Manners)
    table: dict[tuple[str, int], Entry] = field(default_factory=dict)
    asked: list[object] = field(default_factory=list)
    """Every request that was read, in order."""

    def __post_init__(self) -> None:
        self.began = self.runtime.now()
        self.socket = self.runtime.open_datagram((self.runtime.ip, PORT), self.receive)

    def restart(self) -> None:
        """It is back at once, and has forgotten everything."""
        self.table.clear()
        self.began = self.runtime.now()

    def change_address(self, ip: str) -> None:
        """Its provider gives it another; a PCP server begins a new epoch then (RFC 6887, section 8.5)."""
        self.manners.external_ip = ip
        self.began = self.runtime.now()

    def mapped(self, transport: str) -> list[int]:
        """The outer ports that lead somewhere now."""
        now = self.runtime.now()
        return [port for (kind, port), entry in self.table.items() if kind == transport and entry.ends_at > now]

    @property
    def epoch_s(self) -> int:
        return int(self.runtime.now() - self.began)

    def receive(self, data: bytes, sender: Address) -> None:
        if self.manners.stops_after == 0 or self.protocol_of(data) in self.manners.mute:
            return
        if self.manners.stops_after is not None:
            self.manners.stops_after -= 1
        answer = self.answer(data, sender[0])
        for noise in self.manners.garbage:
            self.send(noise, sender)
        if not self.manners.garbage_only:
            self.send(answer, sender)

    def send(self, data: bytes, address: Address) -> None:
        if self.manners.from_port == PORT:
            self.socket.send(data, address)
            return
        other = self.runtime.open_datagram((self.runtime.ip, self.manners.from_port), lambda *_: None)
        other.send(data, address)
        other.close()

    @staticmethod
    def protocol_of(data: bytes) -> str:
        return "natpmp" if data[0] == natpmp.VERSION else "pcp"

    def answer(self, data: bytes, client: str) -> bytes:
        protocol = self.protocol_of(data)
        if protocol in self.manners.protocols:
            return self.natpmp(data, client) if protocol == "natpmp" else self.pcp(data, client)
        if protocol == "natpmp":
            return pcp.pack_answer(pcp.Answer(data[1], pcp.Result.UNSUPP_VERSION, 0, self.epoch_s))
        return natpmp.pack_answer(natpmp.Refusal(data[1], natpmp.Result.UNSUPPORTED_VERSION, self.epoch_s))

    def natpmp(self, data: bytes, client: str) -> bytes:
        request = natpmp.unpack_request(data)
        self.asked.append(request)
        if isinstance(request, natpmp.Opcode):
            return natpmp.pack_answer(natpmp.ExternalAddress(self.epoch_s, self.manners.external_ip))
        if self.manners.refuses and request.lifetime_s:
            return natpmp.pack_answer(natpmp.Refusal(request.opcode, self.manners.refuses, self.epoch_s))
        transport = "udp" if request.opcode is natpmp.Opcode.MAP_UDP else "tcp"
        port, lease_s = self.map(transport, client, request.internal_port, request.external_port, request.lifetime_s)
        return natpmp.pack_answer(natpmp.Mapping(request.opcode, self.epoch_s, request.internal_port, port, lease_s))

    def pcp(self, data: bytes, client: str) -> bytes:
        request = pcp.unpack_request(data)
        self.asked.append(request)
        answer = pcp.Answer(request.opcode, 0, 0, self.epoch_s, request.map)
        if request.map is None:
            return pcp.pack_answer(answer)
        if request.client_ip != client:
            return pcp.pack_answer(answer._replace(result=pcp.Result.ADDRESS_MISMATCH))
        if self.manners.other_nonce:
            answer = answer._replace(map=request.map._replace(nonce=bytes(12)))
        if self.manners.refuses and request.lifetime_s:
            return pcp.pack_answer(answer._replace(result=self.manners.refuses))
        nonce, protocol, internal_port, external_port, _ = request.map
        transport = TRANSPORTS[pcp.Protocol(protocol)]
        holder = self.holder(transport, client, internal_port)
        if holder is not None and self.table[transport, holder].nonce not in (None, nonce):
            return pcp.pack_answer(answer._replace(result=pcp.Result.NOT_AUTHORIZED))
        port, lease_s = self.map(transport, client, internal_port, external_port, request.lifetime_s, nonce)
        assert answer.map is not None
        given = answer.map._replace(external_port=port, external_ip=self.manners.external_ip)
        return pcp.pack_answer(answer._replace(lifetime_s=lease_s, map=given))

    def map(
        self, transport: str, client: str, internal_port: int, wanted: int, lease_s: int, nonce: bytes | None = None
    ) -> tuple[int, int]:
        """The outer port and the lease; lease 0 removes."""
        holder = self.holder(transport, client, internal_port)
        if not lease_s:
            if holder is not None:
                del self.table[transport, holder]
            return 0, 0
        port = holder or wanted or internal_port
        while self.is_taken(transport, port, client):
            port += 1
        lease_s = min(lease_s, self.manners.longest_lease_s)
        self.table[transport, port] = Entry(client, internal_port, self.runtime.now() + lease_s, nonce)
        return port, lease_s

    def holder(self, transport: str, client: str, internal_port: int) -> int | None:
        """The outer port that a client's own port has already."""
        self.table = {key: entry for key, entry in self.table.items() if entry.ends_at > self.runtime.now()}
        for (kind, port), entry in self.table.items():
            if (kind, entry.client, entry.internal_port) == (transport, client, internal_port):
                return port
        return None

    def is_taken(self, transport: str, port: int, client: str) -> bool:
        entry = self.table.get((transport, port))
        return entry is not None and entry.client != client
