"""A TURN server's sockets: the relayed ones are its own, the one towards its clients is shared with STUN.

    service = turn_service(runtime, TurnSettings("example.org", key_of), places)
    service.start(socket.send)
    service.received(data, sender)      # in the hub, for every datagram of that socket; whether it was TURN's
    service.serve(stream, answer)       # in a task, for every connection

What is relayed is relayed in the call that brought it. Over TCP it waits in a bounded queue of the client's, and what
does not fit is lost, as a datagram would be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kodectl.core.limits import SharedBudget
from kodectl.core.stun_answers import server_budget
from kodectl.core.turn_access import SECRET_SIZE, Client, Gate, KeyOf
from kodectl.core.turn_allocations import Relay, RelayLimits
from kodectl.core.turn_reach import Network, ReachPolicy
from kodectl.core.turn_server import Bind, Close, Effect, Forward, Reply, TurnResponder, is_turn_message
from kodectl.errors import EnvironmentFault
from kodectl.node.stream_queue import StreamQueue
from kodectl.node.stun_framing import read_turn_framed
from kodectl.runtime.base import (
    Address,
    DatagramSocket,
    LocalNetwork,
    Runtime,
    Stopped,
    Stream,
    Timer,
)
from kodectl.wire.addresses import address_text
from kodectl.wire.channel_data import FIRST_BYTES

log = logging.getLogger(__name__)

EVEN_PORT_ATTEMPTS = 16
"""Half of the ports are even, so one of 65,000 clients that ask for one is refused without need."""
UNUSED_LIMIT_S = 40.0
"""A connection without an allocation, in all. With one it lasts as long as that does."""
MAX_QUEUED = 512
MAX_QUEUED_BYTES = 256 * 1024
"""Of a client that does not read: a second of video."""
RESERVED = 32
"""Places for answers: over a stream a request is sent once, and its answer must not be lost behind data."""
STOP_LIMIT_S = 2.0

Answer = Callable[[bytes, Address, float], bytes | None]


class RelayPlace(NamedTuple):
    """Where relayed sockets are of one address family."""

    ip: str
    """They are bound to it."""
    external_ip: str
    """Others see them there: the same, unless a NAT translates it one to one."""


@dataclass(frozen=True)
class TurnSettings:
    realm: str
    key_of: KeyOf
    limits: RelayLimits = field(default_factory=RelayLimits)
    allowed_peers: tuple[Network, ...] = ()
    """Beside public addresses."""
    neighbours: tuple[Network, ...] = ()
    """So too, but for the server's own addresses among them."""
    to_relays: bool = False
    """Whether clients may meet at their relayed addresses here."""
    channel_first_bytes: range = FIRST_BYTES
    """Of the channel numbers that are granted: those that may share a socket with QUIC."""
    budget: Callable[[], SharedBudget] = field(default=server_budget)
    """Of answers to strangers."""
    may_grow: Callable[[str], bool] = lambda ip: True
    """See `TurnResponder`."""
    held_key_of: KeyOf | None = None
    account_of: Callable[[str], str] = str
    """See `Gate`."""


def turn_service(runtime: Runtime, settings: TurnSettings, places: Mapping[int, RelayPlace]) -> TurnService:
    own = {*runtime.local_network().addresses, *(ip for place in places.values() for ip in place)}
    responder = TurnResponder(
        Gate(
            settings.realm,
            settings.key_of,
            runtime.random_bytes(SECRET_SIZE),
            settings.held_key_of,
            settings.account_of,
        ),
        ReachPolicy(own, settings.allowed_peers, neighbours=settings.neighbours, to_relays=settings.to_relays),
        settings.limits,
        places.keys(),
        settings.budget(),
        runtime.random_bytes,
        settings.channel_first_bytes,
        settings.may_grow,
    )
    return TurnService(runtime, responder, places)


def relay_places(host: str, external_ip: str | None, network: LocalNetwork) -> dict[int, RelayPlace]:
    """Of a server that listens at `host`: there, or where the default routes leave if that is any address."""
    if host not in ("0.0.0.0", "::"):
        return {family_of(host): RelayPlace(host, external_ip or host)}
    sources = [network.source, network.source6 if host == "::" else None]
    places = {family_of(ip): RelayPlace(ip, ip) for ip in sources if ip is not None}
    if external_ip is not None:
        family = family_of(external_ip)
        ip = places[family].ip if family in places else ("0.0.0.0" if family == 4 else "::")
        places[family] = RelayPlace(ip, external_ip)
    return places


def family_of(ip: str) -> int:
    return 6 if ":" in ip else 4


class TurnService:
    """Serves from `start` to `stop`."""

    def __init__(self, runtime: Runtime, responder: TurnResponder, places: Mapping[int, RelayPlace]) -> None:
        self._runtime = runtime
        self._now = runtime.now
        self._responder = responder
        self._channel_data = responder.channel_data
        self._channel_first_bytes = responder.channel_first_bytes
        self._places = places
        self._scope = runtime.scope("turn connections")
        self._connections: dict[Client, Connection] = {}
        self._relays: dict[Address, DatagramSocket] = {}
        self._timer: Timer | None = None
        self._send: Callable[[bytes, Address], None] = lambda data, address: None

    @property
    def external_ips(self) -> list[str]:
        """Of the relayed addresses."""
        return [place.external_ip for place in self._places.values()]

    @property
    def allocations(self) -> int:
        """At this moment."""
        return len(self._responder)

    @property
    def counters(self) -> dict[str, int]:
        """The responder's, and what it has relayed."""
        responder = self._responder
        relayed = {"relayed_packets": responder.relayed_packets, "relayed_bytes": responder.relayed_bytes}
        return {**responder.counters, **relayed}

    def start(self, send: Callable[[bytes, Address], None]) -> None:
        """`send`: of the socket that clients know."""
        self._send = send

    def received(self, data: bytes, sender: Address) -> bool:
        """A datagram from a client; false for what is not TURN."""
        if data and data[0] in self._channel_first_bytes:
            forward = self._channel_data(data, sender, self._now())
            if forward is not None:
                forward.relay.socket.send(forward.data, forward.peer)
            return True
        if not is_turn_message(data):
            return False
        self._perform(self._responder.from_client(data, sender, self._now()))
        return True

    def serve(self, stream: Stream, answer: Answer) -> None:
        """Waits until the client's connection ends; `answer` is asked about what is not TURN, and ends it with None, unless it
        relays: keepalives have no answer, and those of a crowded network none left.

        Raises StreamClosed, and WireError."""
        client = (*stream.remote, "tcp")
        connection = self._connections[client] = Connection(self._runtime, stream)
        try:
            self._scope.spawn(f"turn to {address_text(*stream.remote)}", connection.write)
            while True:
                connection.limit(self._responder.allocation_of(client) is None)
                data = read_turn_framed(stream, self._channel_first_bytes)
                if data[0] in self._channel_first_bytes or is_turn_message(data):
                    self._perform(self._responder.from_client(data, client, self._now()))
                    continue
                reply = answer(data, stream.remote, self._now())
                if reply is not None:
                    connection.answer(reply)
                elif self._responder.allocation_of(client) is None:
                    return
        except Stopped:
            pass
        finally:
            del self._connections[client]
            connection.close()
            self._perform(self._responder.vanished(client))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reply():
                    self._answer(effect.data, effect.client)
                case Forward():
                    effect.relay.socket.send(effect.data, effect.peer)
                case Bind():
                    self._perform(self._responder.bound(effect, self._opened(effect), self._now()))
                    self._arm()
                case Close():
                    self._close(effect)

    def _answer(self, data: bytes, client: Client) -> None:
        if len(client) == 2:
            self._send(data, client)
        elif client in self._connections:
            self._connections[client].answer(data)

    def _deliver(self, data: bytes, client: Client) -> None:
        if len(client) == 2:
            self._send(data, client)
        elif client in self._connections:
            self._connections[client].relay(data)

    def _opened(self, bind: Bind) -> Sequence[Relay]:
        place = self._places[bind.family]
        try:
            for _ in range(EVEN_PORT_ATTEMPTS if bind.is_even else 1):
                relay = self._open(place, 0)
                if not bind.is_even:
                    return (relay,)
                if relay.address[1] % 2 == 0:
                    following = self._open_next(place, relay.address[1] + 1) if bind.with_next else ()
                    if following or not bind.with_next:
                        return relay, *following
                self._end(relay)
        except EnvironmentFault as fault:
            log.warning("turn: no relayed socket: %s", fault.message)
        return ()

    def _open_next(self, place: RelayPlace, port: int) -> tuple[Relay, ...]:
        try:
            return (self._open(place, port),)
        except EnvironmentFault:  # somebody else's, and another pair is tried
            return ()

    def _open(self, place: RelayPlace, port: int) -> Relay:
        """Raises EnvironmentFault."""

        def receive(data: bytes, peer: Address) -> None:
            allocation = holder_of(address)
            if allocation is not None:
                packed = from_peer(allocation, data, peer, now())
                if packed is not None:
                    deliver(packed, allocation.client)

        holder_of, from_peer = self._responder.holder_of, self._responder.from_peer
        now, deliver = self._now, self._deliver
        socket = self._runtime.open_datagram((place.ip, port), receive)
        address = (place.external_ip, socket.local[1])
        self._relays[address] = socket
        return Relay(address, socket)

    def _close(self, closing: Close) -> None:
        self._end(closing.relay)
        connection = self._connections.get(closing.client) if closing.client is not None else None
        if connection is not None:
            connection.limit(True)

    def _end(self, relay: Relay) -> None:
        del self._relays[relay.address]
        relay.socket.close()

    def _arm(self) -> None:
        """Looks again at the next end. New ends that are earlier come with new sockets only."""
        if self._timer is not None:
            self._timer.cancel()
        deadline = self._responder.next_deadline()
        self._timer = None
        if deadline is not None:
            self._timer = self._runtime.call_later(max(0.0, deadline - self._now()), self._expire)

    def _expire(self) -> None:
        self._perform(self._responder.expire(self._now()))
        self._arm()

    def stop(self) -> None:
        """Closes everything. Waits, for tasks to end."""
        if self._timer is not None:
            self._timer.cancel()
        for socket in self._relays.values():
            socket.close()
        self._scope.close()
        for connection in list(self._connections.values()):
            connection.close()
        self._scope.join(STOP_LIMIT_S)


class Connection:
    """A client over TCP: its queue, and how long it may stay without an allocation."""

    def __init__(self, runtime: Runtime, stream: Stream) -> None:
        self._runtime = runtime
        self._stream = stream
        self._queue = StreamQueue(runtime, stream, MAX_QUEUED, MAX_QUEUED_BYTES)
        self._limit: Timer | None = None
        self.lost = 0

    def relay(self, data: bytes) -> None:
        """Data of a peer."""
        if self._queue.has_room(len(data), RESERVED):
            self.answer(data)
        else:
            self.lost += 1

    def answer(self, data: bytes) -> None:
        if not self._queue.put(data):
            self.lost += 1

    def write(self) -> None:
        """A task: until the queue or the stream is closed."""
        self._queue.write()
        self._stream.close()

    def limit(self, is_unused: bool) -> None:
        """Begins the limit of a connection that is not used for an allocation, or lifts it. Messages do not put it off: one in
        half a minute would hold a place for good."""
        if is_unused and self._limit is None:
            self._limit = self._runtime.call_later(UNUSED_LIMIT_S, self._stream.close)
        elif not is_unused and self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def close(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._queue.close()
        self._stream.close()
