"""Questions to the router over UDP: the procedure that NAT-PMP and PCP share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from kodectl.errors import EnvironmentFault, NegativeAnswer, WireError
from kodectl.runtime.base import Address, Mailbox, Runtime, TimedOut

Answer = TypeVar("Answer")

PORT = 5351
"""Of NAT-PMP and PCP alike."""
SCHEDULE_S = (0.25, 0.5, 0.75, 0.75, 0.75)
"""Pauses after each sending. Begins as RFC 6886, section 3.1, does, also for PCP, whose 3 s before the first repetition
(RFC 6887, section 8.1.1) are made for servers far away; and ends after 3 s instead of a minute, since who asks has
another protocol to try, and asks again later."""
JITTER = 0.1
"""RFC 6887, section 8.1.1."""


class GatewayLine(Generic[Answer]):
    """Asks one router from one address of this machine. Only what comes from the router's own port is looked at."""

    def __init__(self, runtime: Runtime, local_ip: str, gateway_ip: str, protocol: str) -> None:
        self.local_ip = local_ip
        self._runtime = runtime
        self._router: Address = (gateway_ip, PORT)
        self._protocol = protocol

    def ask(self, request: bytes, take: Callable[[bytes], Answer | None]) -> Answer:
        """Sends until `take` has made something of an answer; None from it is an answer to something else, and garbage
        (WireError) does not end the wait either.

        Waits 3 s at most. Raises NegativeAnswer (no_gateway), or WireError where nothing but garbage came."""
        answers: Mailbox[Answer] = self._runtime.mailbox(1)
        garbage: WireError | None = None

        def receive(data: bytes, sender: Address) -> None:
            nonlocal garbage
            if sender != self._router:
                return
            try:
                answer = take(data)
            except WireError as error:
                garbage = error
            else:
                if answer is not None:
                    answers.put(answer)

        try:
            socket = self._runtime.open_datagram((self.local_ip, 0), receive)
        except EnvironmentFault as fault:
            raise self._silence(f"cannot be asked from {self.local_ip}: {fault}") from fault
        try:
            for pause_s in SCHEDULE_S:
                socket.send(request, self._router)
                try:
                    return answers.get(pause_s * self._runtime.rng.uniform(1 - JITTER, 1 + JITTER))
                except TimedOut:
                    continue
        finally:
            socket.close()
        raise garbage or self._silence(f"does not answer {self._protocol}")

    def _silence(self, what: str) -> NegativeAnswer:
        return NegativeAnswer(f"router {self._router[0]} {what}", code="no_gateway")


def default_route(runtime: Runtime) -> tuple[str, str]:
    """This machine's address towards the default gateway, and the gateway's.

    IPv4 alone: the IPv6 one is named by a link-local address without the interface that it holds on. Raises NegativeAnswer
    (no_gateway)."""
    network = runtime.local_network()
    if network.source is None or network.gateway is None:
        raise NegativeAnswer("this machine has no default gateway over IPv4", code="no_gateway")
    return network.source, network.gateway
