"""One question to STUN servers, without a node: how are we seen?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kodectl.errors import EnvironmentFault, KodectlError
from kodectl.node.stun_client import BindingAnswer, StunClient
from kodectl.runtime.base import Address, DatagramSocket, Runtime, Scope, TimedOut
from kodectl.wire.addresses import address_text

JOIN_LIMIT_S = 2.0


def ask_any(runtime: Runtime, servers: Sequence[tuple[str, int]], limit_s: float) -> tuple[str, BindingAnswer] | None:
    """Asks all of them (host, port) side by side; the first that answers, and what it said. None: nobody did in time.

    Raises EnvironmentFault (no socket)."""
    scope = runtime.scope("stun")
    answers = runtime.mailbox(len(servers))

    def received(data: bytes, sender: Address) -> None:
        client.received(data, sender)

    socket = _open(runtime, received)
    client = StunClient(runtime, socket.send)
    for host, port in servers:
        scope.spawn(f"ask {host}", _ask, runtime, scope, client, host, port, limit_s, answers.put)
    try:
        return next((found for _ in servers if (found := answers.get(limit_s)) is not None), None)
    except TimedOut:
        return None
    finally:
        scope.close()
        client.close()
        socket.close()
        scope.join(JOIN_LIMIT_S)


def _ask(
    runtime: Runtime,
    scope: Scope,
    client: StunClient,
    host: str,
    port: int,
    limit_s: float,
    tell: Callable[[tuple[str, BindingAnswer] | None], bool],
) -> None:
    try:
        ip = runtime.resolve(host, limit_s, scope)[0]
        tell((address_text(host, port), client.ask((ip, port))))
    except KodectlError:
        tell(None)


def _open(runtime: Runtime, receive: Callable[[bytes, Address], None]) -> DatagramSocket:
    try:
        return runtime.open_datagram(("::", 0), receive)
    except EnvironmentFault:
        return runtime.open_datagram(("0.0.0.0", 0), receive)
