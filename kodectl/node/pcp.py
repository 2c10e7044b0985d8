"""PCP: asking the default gateway for ports (RFC 6887)."""

from __future__ import annotations

from contextlib import suppress

from kodectl.core.gateway_epoch import PCP_DRIFT, EpochWatch
from kodectl.core.mapping import LONGEST_LEASE_S, Method, PortMapping, Transport, Wish
from kodectl.core.refusals import refused
from kodectl.errors import NegativeAnswer, WireError
from kodectl.node.gateway_line import GatewayLine, default_route
from kodectl.runtime.base import Runtime
from kodectl.wire import pcp
from kodectl.wire.contacts import is_unicast
from kodectl.wire.pcp import ANY_IP, NONCE_SIZE, Answer, Map, Opcode, Protocol, Request, Result

PROTOCOLS = {Transport.UDP: Protocol.UDP, Transport.TCP: Protocol.TCP}


def find_pcp(runtime: Runtime, nonce: bytes | None = None) -> PcpGateway:
    """The default gateway, if it speaks PCP. Waits 3 s at most; raises NegativeAnswer (no_gateway) or WireError.

    `nonce`: 12 bytes that only this node knows. A router lets nobody change a mapping without the nonce that it was made
    with, so a node that was killed gets its ports back only with the same."""
    local_ip, gateway_ip = default_route(runtime)
    gateway = PcpGateway(runtime, local_ip, gateway_ip, nonce or runtime.random_bytes(NONCE_SIZE))
    gateway.announce()
    return gateway


class PcpGateway:
    """See `core.mapping.Gateway`. The protocol tells the outer address only together with a mapping."""

    method = Method.PCP

    def __init__(self, runtime: Runtime, local_ip: str, gateway_ip: str, nonce: bytes) -> None:
        self.address = gateway_ip
        self.name = gateway_ip
        self._runtime = runtime
        self._line: GatewayLine[Answer] = GatewayLine(runtime, local_ip, gateway_ip, "PCP")
        self._epoch = EpochWatch(PCP_DRIFT)
        self._nonce = nonce
        self._external_ip: str | None = None

    def external_ip(self) -> str | None:
        return self._external_ip

    def add(self, wish: Wish) -> PortMapping:
        """The router may give another outer port. A lease without end is asked for as the longest there is."""
        lease_s = min(wish.lease_s or LONGEST_LEASE_S, LONGEST_LEASE_S)
        external = (self._external_ip or ANY_IP, wish.external_port)
        answer, given = self._map(wish.transport, wish.internal_port, external, lease_s)
        # An address that none can be reached at is not worth a mapping, and a mapping of no time is none.
        if not (given.external_port and answer.lifetime_s and is_unicast(given.external_ip)):
            where = f"{given.external_ip}:{given.external_port}"
            with suppress(NegativeAnswer, WireError):
                self._unmap(wish.transport, wish.internal_port)
            raise WireError(f"router {self.address} maps {wish.internal_port} to {where} for {answer.lifetime_s} s")
        self._external_ip = given.external_ip
        return PortMapping(
            self.method,
            wish.transport,
            (self._line.local_ip, wish.internal_port),
            (given.external_ip, given.external_port),
            answer.lifetime_s,
            self.address,
        )

    def verify(self, mapping: PortMapping) -> bool | None:
        """There is no question for it. Asking for the mapping once more would make it, and so say nothing."""
        return None

    def remove(self, mapping: PortMapping) -> None:
        self._unmap(mapping.transport, mapping.internal[1])

    def mappings(self) -> list[PortMapping] | None:
        return None

    def has_restarted(self) -> bool:
        self.announce()
        return self._epoch.take_reset()

    def announce(self) -> None:
        """The cheapest question there is: its answer has an epoch, whether the router grants anything or not.

        Raises NegativeAnswer (no_gateway) too for a router of another version."""

        def take(data: bytes) -> Answer | None:
            answer = pcp.unpack_answer(data)
            return answer if answer.opcode == Opcode.ANNOUNCE else None

        request = Request(Opcode.ANNOUNCE, 0, self._line.local_ip)
        answer = self._line.ask(pcp.pack_request(request), take)
        if answer.result == Result.UNSUPP_VERSION:
            speaks = "NAT-PMP alone" if answer.version == 0 else f"version {answer.version} of PCP, not {pcp.VERSION}"
            raise NegativeAnswer(f"router {self.address} speaks {speaks}", code="no_gateway")
        self._epoch.observe(answer.epoch_s, self._runtime.now())

    def _unmap(self, transport: Transport, internal_port: int) -> None:
        self._map(transport, internal_port, (ANY_IP, 0), 0)

    def _map(
        self, transport: Transport, internal_port: int, external: tuple[str, int], lifetime_s: int
    ) -> tuple[Answer, Map]:
        wanted = Map(self._nonce, PROTOCOLS[transport], internal_port, external[1], external[0])

        def take(data: bytes) -> Answer | None:
            answer = pcp.unpack_answer(data)
            if answer.opcode != Opcode.MAP:
                return None
            # Only a refusal may come without the body: from a server that could not read so far.
            return answer if answer.map is None or answer.map[:3] == wanted[:3] else None

        request = Request(Opcode.MAP, lifetime_s, self._line.local_ip, wanted)
        answer = self._line.ask(pcp.pack_request(request), take)
        if answer.version == pcp.VERSION:
            self._epoch.observe(answer.epoch_s, self._runtime.now())
        if answer.result or answer.map is None:
            raise refused(self.method, answer.result, f"{internal_port}/{transport.value}")
        return answer, answer.map
