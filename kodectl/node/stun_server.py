"""A STUN server of its own: UDP on one address, or on four sockets (RFC 5780); TCP on the first of them. It may be a TURN
server as well (`node.turn_server`), on the first address."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from kodectl.core.stun_answers import FIRST, BindingResponder, Grid, Place, server_budget
from kodectl.core.table import subnet_of
from kodectl.errors import EnvironmentFault, WireError
from kodectl.node.stun_framing import read_framed
from kodectl.node.turn_server import TurnService
from kodectl.runtime.base import Address, DatagramSocket, Listener, Runtime, Stopped, Stream, StreamClosed
from kodectl.wire.addresses import address_text

log = logging.getLogger(__name__)

PORT_ATTEMPTS = 16
"""To find a port that is free for UDP and TCP, and the next one too."""
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_OF_NETWORK = 16
"""One network (/24, /64) cannot take all connections; private ones, of which there is no scarcity, are not counted."""
IDLE_LIMIT_S = 40.0
"""For a request to come and its answer to go. A client may wait 39.5 s for its answer (RFC 8489, section 6.2.2)."""
MAX_TCP_REQUEST = 2048
"""Bytes of attributes."""
STOP_LIMIT_S = 2.0
MAX_PORT = 65_535

_PLACES = (FIRST, Place(0, 1), Place(1, 0), Place(1, 1))


class StunServer:
    """Serves from `start` to `stop`. `udp` and `tcp` are the addresses it listens on. With `turn` the first of them are a
    TURN server's too."""

    def __init__(self, runtime: Runtime, turn: TurnService | None = None) -> None:
        self._runtime = runtime
        self._turn = turn
        budget = server_budget()
        self._responder = BindingResponder(budget)
        # A connection has two ends and no others: who wants the answer from elsewhere is refused.
        self._stream_responder = BindingResponder(budget)
        self._budget = budget
        self._connections = Connections(runtime, self._serve)
        self._sockets: dict[Place, DatagramSocket] = {}
        self.udp: list[Address] = []
        self.tcp: list[Address] = []
        self.other: Address | None = None
        """What clients are told as the other address and port; None with one address."""

    def start(self, listen: Address, alt_ip: str | None = None, external: tuple[str, str] | None = None) -> None:
        """`alt_ip`: the second address; the second port is the next one. `external`: how the two addresses are seen from
        outside, behind a NAT that translates them one to one. Raises EnvironmentFault (port_in_use, ...)."""
        for attempt in range(PORT_ATTEMPTS):
            try:
                self._bind(listen, alt_ip)
                break
            except EnvironmentFault as fault:
                if listen[1] or fault.code != "port_in_use" or attempt == PORT_ATTEMPTS - 1:
                    raise
        self.udp = [socket.local for socket in self._sockets.values()]
        if alt_ip is not None:
            ips, ports = (listen[0], alt_ip), (self.udp[0][1], self.udp[1][1])
            grid = Grid(external or ips, ports)
            self.other = grid.address(_PLACES[-1])
            self._responder = BindingResponder(self._budget, grid)

    def _bind(self, listen: Address, alt_ip: str | None) -> None:
        """All sockets, or none."""
        with ExitStack() as opened:
            first = self._open(FIRST, listen, opened)
            sockets = {FIRST: first}
            ip, port = listen[0], first.local[1]
            if alt_ip is not None:
                for place in _PLACES[1:]:
                    sockets[place] = self._open(place, ((ip, alt_ip)[place.ip], port + place.port), opened)
            self.tcp = [self._connections.listen((ip, port))]
            opened.pop_all()
        self._sockets = sockets
        if self._turn is not None:
            self._turn.start(first.send)

    def _open(self, place: Place, local: Address, opened: ExitStack) -> DatagramSocket:
        if local[1] > MAX_PORT:
            raise EnvironmentFault(f"there is no port {local[1]}", code="port_in_use")

        turn = self._turn if place == FIRST else None

        def receive(data: bytes, sender: Address) -> None:
            if turn is None or not turn.received(data, sender):
                self._datagram(place, data, sender)

        socket = self._runtime.open_datagram(local, receive)
        opened.callback(socket.close)
        return socket

    def _datagram(self, place: Place, data: bytes, sender: Address) -> None:
        reply = self._responder.reply(data, sender, self._runtime.now(), place)
        if reply is not None:
            self._sockets[reply.place].send(reply.data, reply.target)

    def _serve(self, stream: Stream) -> None:
        if self._turn is not None:
            self._turn.serve(stream, self._stream_responder.answer)
            return
        while self._answer_next(stream):
            pass

    def _answer_next(self, stream: Stream) -> bool:
        """False for what is not answered: an end is all that a client of TCP would notice."""
        limit = self._runtime.call_later(IDLE_LIMIT_S, stream.close)
        try:
            request = read_framed(stream, MAX_TCP_REQUEST)
            answer = self._stream_responder.answer(request, stream.remote, self._runtime.now())
            if answer is not None:
                stream.write(answer)
            return answer is not None
        finally:
            limit.cancel()

    @property
    def counters(self) -> Counter[str]:
        """Of the responder (`core.stun_answers`), over UDP and TCP together, and of the connections."""
        return self._responder.counters + self._stream_responder.counters + self._connections.counters

    def stop(self) -> None:
        """Closes everything. Waits, for tasks to end."""
        for socket in self._sockets.values():
            socket.close()
        self._connections.stop()
        if self._turn is not None:
            self._turn.stop()


class Connections:
    """Clients over TCP: a task each, which is in `serve`, within limits. `counters`: connections, connections_refused."""

    def __init__(self, runtime: Runtime, serve: Callable[[Stream], None]) -> None:
        self._runtime = runtime
        self._serve_stream = serve
        self._scope = runtime.scope("stun connections")
        self._streams: set[Stream] = set()
        self._of_network: Counter[str] = Counter()
        self._listener: Listener | None = None
        self.counters: Counter[str] = Counter()

    def listen(self, local: Address) -> Address:
        """Raises EnvironmentFault."""
        self._listener = self._runtime.listen(local, self._accept)
        return self._listener.local

    def _accept(self, stream: Stream) -> None:
        network = subnet_of(stream.remote[0])
        is_crowded = network is not None and self._of_network[network] >= MAX_CONNECTIONS_OF_NETWORK
        if is_crowded or len(self._streams) >= MAX_CONNECTIONS:
            self.counters["connections_refused"] += 1
            stream.close()
            return
        self.counters["connections"] += 1
        self._streams.add(stream)
        if network is not None:
            self._of_network[network] += 1
        try:
            self._scope.spawn(f"stun {address_text(*stream.remote)}", self._serve, stream, network)
        except Stopped:
            self._ended(stream, network)

    def _serve(self, stream: Stream, network: str | None) -> None:
        try:
            self._serve_stream(stream)
        except (StreamClosed, WireError) as error:
            log.debug("stun: connection of %s ended: %s", stream.remote[0], error)
        finally:
            self._ended(stream, network)

    def _ended(self, stream: Stream, network: str | None) -> None:
        stream.close()
        self._streams.discard(stream)
        if network is not None:
            self._of_network[network] -= 1
            if not self._of_network[network]:
                del self._of_network[network]

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._scope.close()
        for stream in list(self._streams):
            stream.close()
        self._scope.join(STOP_LIMIT_S)
