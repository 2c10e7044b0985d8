"""Streams of the virtual network: reliable pipes, with the delays, waits and silences of TCP."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import NamedTuple

from kodectl.runtime.base import Address, ConnectFailed, Connection, Scope, Stopped, StreamClosed
from kodectl.sim.network import LOOPBACKS, NEVER, Host, Path, Way
from kodectl.sim.trace import NO_HOST, Kind

WINDOW = 256 * 1024
"""Bytes on their way or unread, per direction, before the writer waits: about what kernels start with."""

SEGMENT = 64 * 1024
"""Bytes that travel as one event."""

CREDIT_STEP = WINDOW // 4
"""Bytes read before the writer hears of it; at each read it would double the events."""

RETRANSMISSION_S = 0.2
"""The least wait before a lost piece is sent again (Linux's TCP_RTO_MIN)."""

MAX_RETRANSMISSIONS = 8
"""Pieces get through then even at a loss of 1."""

DIAL_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Between the attempts of one dial (RFC 6298, section 2)."""


class End(NamedTuple):
    """Where the pieces of a lane belong: what comes to another port, or seems to come from another sender, is of another
    connection."""

    host: Host
    port: int
    sender: Address


class Piece(NamedTuple):
    number: int
    """From 1; of the lane."""
    kind: Kind
    data: bytes


class Lane:
    """One direction of a stream: in order and complete, late where the way loses packets or is cut.

    Each piece is translated anew by the boxes on its way. One that these drop is repeated like any that is lost; one that
    they let come from another address than before (they have forgotten the connection, or have another address
    themselves) is answered with a reset."""

    def __init__(self, source: Host, port: int, remote: Address, end: End) -> None:
        self.receiver: SimStream
        self.sender: SimStream
        self._network = source.network
        self._schedule = source.network.schedule
        self._source = source
        self._port = port
        self._remote = remote
        self._end = end
        self._direct: Way | None = None
        self._sent_until = 0.0
        self._arrived_until = 0.0
        self._pieces = 0
        self._waiting: list[Piece] = []
        """In order: what was on its way when the way was cut comes before what was never sent, though it is held later."""

    def send(self, kind: Kind, data: bytes = b"") -> None:
        self._pieces += 1
        self._send(Piece(self._pieces, kind, data))

    def _send(self, piece: Piece) -> None:
        if not self._source.alive:
            return
        way = self._way()
        if way is None or self._waiting:
            self._hold(piece)
            return
        _, kind, data = piece
        now, path = self._schedule.now, way.path
        self._arrived_until = max(self._arrived_until, self._departure(path, len(data)) + self._delay(path))
        self._network.trace.record(
            kind,
            now,
            self._arrived_until,
            self._source.number,
            way.sender[1],
            way.target.number,
            way.port,
            data,
        )
        self._schedule.at(self._arrived_until, self._arrive, piece)

    def _way(self) -> Way | None:
        direct = self._direct
        if direct is not None and self._source.paths.get(self._remote[0]) is direct.path:
            return direct
        way = self._network.way(self._source, self._port, self._remote)
        # With no box between, the way is the same as long as its path is.
        self._direct = way if way is not None and self._source.paths.get(self._remote[0]) is way.path else None
        return way

    def _departure(self, path: Path, size: int) -> float:
        now = self._schedule.now
        if path.model.bandwidth is None:
            return now
        self._sent_until = max(now, self._sent_until) + size / path.model.bandwidth
        return self._sent_until

    def _delay(self, path: Path) -> float:
        draw = self._network.random
        delay = path.latency_s + path.jitter_s * draw()
        losses = 0
        while losses < MAX_RETRANSMISSIONS and draw() < path.model.loss:
            losses += 1
        return delay + losses * (RETRANSMISSION_S + 2 * path.latency_s)

    def _arrive(self, piece: Piece) -> None:
        way = self._way()
        if self._waiting or way is None or not way.target.alive:
            self._hold(piece)  # the sender's kernel repeats it until the way is back
        elif (way.target, way.port, way.sender) == self._end:
            self.receiver.arrived(piece.kind, piece.data)
            back = self.receiver.lane
            if back._waiting:  # what came in may have opened the way out again, at a box that had closed it
                self._network.waiting_lanes.pop(back, None)
                back.try_again()
        else:  # the host has restarted since, or this is no connection of its own: it knows nothing of this stream
            self._schedule.at(self._schedule.now + way.path.latency_s, self._reset)

    def _reset(self) -> None:
        if self._source.alive:
            self.sender.arrived(Kind.RESET, b"")

    def _hold(self, piece: Piece) -> None:
        insort(self._waiting, piece)
        self._network.waiting_lanes[self] = None

    def try_again(self) -> None:
        """The ways have changed: sends again what could not get through."""
        waiting, self._waiting = self._waiting, []
        for piece in waiting:
            self._send(piece)


class SimStream:
    """See `runtime.base.Stream`."""

    def __init__(self, host: Host, local: Address, remote: Address, lane: Lane) -> None:
        self.local = local
        self.remote = remote
        self.lane = lane
        self._inbox = bytearray()
        self._unread_credit = 0
        self._outstanding = 0
        self._ended = False
        self._broken = False
        self._closed = False
        self._readers = host.tasks.waiters()
        self._writers = host.tasks.waiters()
        self.on_accepted: Callable[[], None] | None = None

    def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait_for_input()
            piece = self._inbox[: size - len(data)]
            del self._inbox[: len(piece)]
            data += piece
            self._give_credit(len(piece))
        if self._closed:
            raise StreamClosed("closed on this side")
        return bytes(data)

    def _wait_for_input(self) -> None:
        while not self._inbox or self._closed:
            if self._closed:
                raise StreamClosed("closed on this side")
            if self._ended:
                raise StreamClosed("reset by the other side" if self._broken else "ended by the other side")
            self._readers.wait()

    def _give_credit(self, size: int) -> None:
        self._unread_credit += size
        if self._unread_credit >= CREDIT_STEP and not self._ended:
            self._send_credit()

    def _send_credit(self) -> None:
        if self._unread_credit:
            self.lane.send(Kind.CREDIT, self._unread_credit.to_bytes(4, "big"))
            self._unread_credit = 0

    def write(self, data: bytes) -> None:
        view = memoryview(bytes(data))
        while view:
            self._wait_for_room()
            piece = bytes(view[: min(WINDOW - self._outstanding, SEGMENT)])
            view = view[len(piece) :]
            self._outstanding += len(piece)
            self.lane.send(Kind.DATA, piece)
        if self._closed:
            raise StreamClosed("closed on this side")

    def _wait_for_room(self) -> None:
        while self._outstanding >= WINDOW or self._closed or self._broken:
            if self._closed:
                raise StreamClosed("closed on this side")
            if self._broken:
                raise StreamClosed("reset by the other side")
            self._writers.wait()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._broken:
            # Unread input is thrown away, which makes room: a writer that waited for it goes on, to its reset.
            self._unread_credit += len(self._inbox)
            self._send_credit()
            self.lane.send(Kind.END)
        self._inbox.clear()
        self._wake_all()

    def accept(self) -> None:
        """Tells the dialler that the stream is open."""
        self.lane.send(Kind.ACCEPTANCE)

    def reset(self) -> None:
        """Ends the stream as a kernel does whose program gave up on it."""
        self._closed = self._broken = True
        self.lane.send(Kind.RESET)
        self._wake_all()

    def arrived(self, kind: Kind, data: bytes) -> None:
        """Takes what came over the other side's lane."""
        if kind == Kind.DATA:
            self._take(data)
        elif kind == Kind.CREDIT:
            self._outstanding -= int.from_bytes(data, "big")
            self._writers.wake_all()
        elif kind == Kind.ACCEPTANCE and self.on_accepted is not None:
            self.on_accepted()
        elif kind == Kind.END:
            self._ended = True
            self._readers.wake_all()
        elif kind == Kind.RESET:
            self._ended = self._broken = True
            self._wake_all()

    def _take(self, data: bytes) -> None:
        if self._closed:
            self.reset()
            return
        self._inbox += data
        self._readers.wake_all()

    def _wake_all(self) -> None:
        self._readers.wake_all()
        self._writers.wake_all()


class SimListener:
    """See `runtime.base.Listener`."""

    def __init__(self, host: Host, local: Address, accept: Callable[[Connection], None]) -> None:
        self.local = host.claim(local, host.listeners, "TCP")
        self._host = host
        self._accept = accept
        host.listeners[self.local[1]] = self

    def hand_over(self, stream: SimStream) -> None:
        try:
            self._accept(stream)
        except Exception as error:
            stream.close()
            self._host.network.callback_failed(self._host, "accept", error)

    def close(self) -> None:
        if self._host.listeners.get(self.local[1]) is self:
            del self._host.listeners[self.local[1]]


class Dial:
    """One attempt to open a stream, however often it knocks."""

    def __init__(self, host: Host, remote: Address, local_port: int) -> None:
        self.stream: SimStream | None = None
        self.refused = False
        self._host = host
        self._network = host.network
        self._port = local_port or host.ephemeral_port()
        self._remote = remote
        self._answered = False
        self._given_up = False
        self._waiters = host.tasks.waiters()
        host.dials[self._port, remote] = self

    def wait(self, timeout_s: float) -> None:
        if self.stream is None and not self.refused:
            self._waiters.wait(timeout_s)

    def wake(self) -> None:
        self._waiters.wake_all()

    def end(self) -> None:
        """What is accepted from now on comes too late."""
        self._given_up = True
        if self._host.dials.get((self._port, self._remote)) is self:
            del self._host.dials[self._port, self._remote]

    def knock(self) -> None:
        self._send(Kind.DIAL, self._host, self._port, self._remote, self._arrive)

    def _send(self, kind: Kind, source: Host, port: int, remote: Address, arrive: Callable[[Way], None]) -> None:
        """One packet that is lost like a datagram."""
        schedule, draw = self._network.schedule, self._network.random
        way = self._network.way(source, port, remote)
        if way is None or draw() < way.path.model.loss:
            self._network.trace.record(kind, schedule.now, NEVER, source.number, port, NO_HOST, remote[1], b"")
            return
        arrival = schedule.now + way.path.latency_s + way.path.jitter_s * draw()
        self._network.trace.record(
            kind, schedule.now, arrival, source.number, way.sender[1], way.target.number, way.port, b""
        )
        schedule.at(arrival, arrive, way)

    def _arrive(self, way: Way) -> None:
        if self._answered or not way.target.alive:
            return
        crossed = way.target.dials.get((way.port, way.sender))
        listener = way.target.listeners.get(way.port)
        if crossed is not None and crossed is not self:
            crossed.be_met(self._joined(way))
        elif listener is not None:
            listener.hand_over(self._joined(way))
        else:
            self._send(Kind.REFUSAL, way.target, way.port, way.sender, self._be_refused)

    def _joined(self, way: Way) -> SimStream:
        """The far end of the stream, which has told the near one that it is open."""
        self._answered = True
        near, far = _joined_streams(self._host, self._port, self._remote, way)
        near.on_accepted = lambda: self._be_accepted(near)
        far.accept()
        return far

    def be_met(self, stream: SimStream) -> None:
        """The dial of the other side came to this one, which has got what it wanted."""
        self._answered = True
        self._be_accepted(stream)

    def _be_refused(self, _: Way) -> None:
        self.refused = True
        self._waiters.wake_all()

    def _be_accepted(self, stream: SimStream) -> None:
        if self._given_up:
            stream.reset()
            return
        self.stream = stream
        self._waiters.wake_all()


def _joined_streams(here: Host, port: int, remote: Address, way: Way) -> tuple[SimStream, SimStream]:
    """The two ends of one connection: of `here`, which dialled `remote`, and of the host where that came out."""
    there = way.target
    seen_here = (there.ip, way.port) if remote[0] in LOOPBACKS else remote
    out = Lane(here, port, remote, End(there, way.port, way.sender))
    back = Lane(there, way.port, way.sender, End(here, port, seen_here))
    near = SimStream(here, (here.ip, port), remote, out)
    far = SimStream(there, (there.ip, way.port), way.sender, back)
    out.sender, out.receiver = near, far
    back.sender, back.receiver = far, near
    return near, far


def connect(
    host: Host, remote: Address, timeout_s: float, local_port: int = 0, scope: Scope | None = None
) -> SimStream:
    """Dials, and dials again where a packet was lost. Raises ConnectFailed, and Stopped as soon as `scope` is closed.

    Two that dial each other, each from the port that the other one dials, get one stream (simultaneous open, RFC 9293,
    section 3.5): that is how a hole is punched through boxes that keep a port's outer address."""
    dial = Dial(host, remote, local_port)
    stopping = scope.on_close(dial.wake) if scope is not None else None
    try:
        return _knock_until_open(host, dial, timeout_s, scope)
    finally:
        if stopping is not None:
            stopping.cancel()
        dial.end()


def _knock_until_open(host: Host, dial: Dial, timeout_s: float, scope: Scope | None) -> SimStream:
    deadline = host.tasks.now() + timeout_s
    for pause in DIAL_PAUSES_S:
        left = deadline - host.tasks.now()
        if left <= 0:
            break
        if scope is not None and scope.closed:
            raise Stopped
        dial.knock()
        dial.wait(min(pause, left))
        if scope is not None and scope.closed:
            raise Stopped
        if dial.stream is not None:
            return dial.stream
        if dial.refused:
            raise ConnectFailed("refused")
    raise ConnectFailed("timeout")
