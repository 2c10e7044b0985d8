"""NAT-PMP: asking the default gateway for ports (RFC 6886)."""

from __future__ import annotations

from kodectl.core.gateway_epoch import NATPMP_DRIFT, EpochWatch
from kodectl.core.mapping import LONGEST_LEASE_S, Method, PortMapping, Transport, Wish
from kodectl.core.refusals import refused
from kodectl.errors import NegativeAnswer, WireError
from kodectl.node.gateway_line import GatewayLine, default_route
from kodectl.runtime.base import Runtime
from kodectl.wire import natpmp
from kodectl.wire.contacts import is_unicast
from kodectl.wire.natpmp import Answer, ExternalAddress, Mapping, MappingRequest, Opcode, Refusal, Result

OPCODES = {Transport.UDP: Opcode.MAP_UDP, Transport.TCP: Opcode.MAP_TCP}
NO_IP = "0.0.0.0"


def find_natpmp(runtime: Runtime) -> NatPmpGateway:
    """The default gateway, if it speaks NAT-PMP. Waits 3 s at most; raises NegativeAnswer (no_gateway) or WireError."""
    local_ip, gateway_ip = default_route(runtime)
    gateway = NatPmpGateway(runtime, local_ip, gateway_ip)
    if gateway.ask_external_address() == Result.UNSUPPORTED_VERSION:
        raise NegativeAnswer(f"router {gateway_ip} does not speak NAT-PMP", code="no_gateway")
    return gateway


class NatPmpGateway:
    """See `core.mapping.Gateway`."""

    method = Method.NATPMP

    def __init__(self, runtime: Runtime, local_ip: str, gateway_ip: str) -> None:
        self.address = gateway_ip
        self.name = gateway_ip
        self._runtime = runtime
        self._line: GatewayLine[Answer] = GatewayLine(runtime, local_ip, gateway_ip, "NAT-PMP")
        self._epoch = EpochWatch(NATPMP_DRIFT)

    def external_ip(self) -> str | None:
        answer = self.ask_external_address()
        if isinstance(answer, str):
            return answer
        if answer == Result.NETWORK_FAILURE:
            return None
        raise refused(self.method, answer, "the outer address")

    def ask_external_address(self) -> str | int:
        """The router's outer address, or the result with which it does not tell; one that it has not got is a network
        failure, whichever way it says so."""
        answer = self._ask(natpmp.pack_external_address_request(), Opcode.EXTERNAL_ADDRESS)
        if isinstance(answer, Refusal):
            return answer.result
        assert isinstance(answer, ExternalAddress)
        if answer.ip == NO_IP:
            return Result.NETWORK_FAILURE
        if not is_unicast(answer.ip):
            raise WireError(f"router {self.address} names {answer.ip} as its outer address")
        return answer.ip

    def add(self, wish: Wish) -> PortMapping:
        """The router may give another outer port. A lease without end is asked for as the longest there is."""
        what = f"{wish.internal_port}/{wish.transport.value}"
        external_ip = self.external_ip()
        if external_ip is None:
            raise refused(self.method, Result.NETWORK_FAILURE, what)
        lease_s = min(wish.lease_s or LONGEST_LEASE_S, LONGEST_LEASE_S)
        given = self._map(wish.transport, wish.internal_port, wish.external_port, lease_s)
        if not given.external_port or not given.lifetime_s:
            raise WireError(f"router {self.address} maps {what} to port {given.external_port} for {given.lifetime_s} s")
        return PortMapping(
            self.method,
            wish.transport,
            (self._line.local_ip, wish.internal_port),
            (external_ip, given.external_port),
            given.lifetime_s,
            self.address,
        )

    def verify(self, mapping: PortMapping) -> bool | None:
        """There is no question for it. Asking for the mapping once more would make it, and so say nothing."""
        return None

    def remove(self, mapping: PortMapping) -> None:
        self._map(mapping.transport, mapping.internal[1], 0, 0)

    def mappings(self) -> list[PortMapping] | None:
        return None

    def has_restarted(self) -> bool:
        self.ask_external_address()
        return self._epoch.take_reset()

    def _map(self, transport: Transport, internal_port: int, external_port: int, lifetime_s: int) -> Mapping:
        request = MappingRequest(OPCODES[transport], internal_port, external_port, lifetime_s)
        answer = self._ask(natpmp.pack_mapping_request(request), request.opcode, internal_port)
        if isinstance(answer, Refusal):
            raise refused(self.method, answer.result, f"{internal_port}/{transport.value}")
        assert isinstance(answer, Mapping)
        return answer

    def _ask(self, request: bytes, opcode: Opcode, internal_port: int = 0) -> Answer:
        def take(data: bytes) -> Answer | None:
            answer = natpmp.unpack_answer(data)
            if not _is_answer(answer, opcode, internal_port):
                return None
            self._epoch.observe(answer.epoch_s, self._runtime.now())
            return answer

        return self._line.ask(request, take)


def _is_answer(answer: Answer, opcode: Opcode, internal_port: int) -> bool:
    """The protocol has no number for a question: what was asked is all that an answer can be told by."""
    match answer:
        case Mapping():
            return (answer.opcode, answer.internal_port) == (opcode, internal_port)
        case Refusal():
            return answer.opcode == opcode
        case ExternalAddress():
            return opcode is Opcode.EXTERNAL_ADDRESS
