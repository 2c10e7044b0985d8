"""Streams of the virtual network: reliable pipes, with the delays, waits and silences of TCP."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kodectl.runtime.base import Address, ConnectFailed, Stream, StreamClosed
from kodectl.sim.network import NEVER, Host, Path
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


class Lane:
    """One direction of a stream: in order and complete, late where the way loses packets or is cut."""

    def __init__(self, source: Host, source_port: int, target: Host, target_port: int) -> None:
        self.receiver: SimStream
        self.sender: SimStream
        self._network = source.network
        self._schedule = source.network.schedule
        self._source = source
        self._source_port = source_port
        self._target = target
        self._target_port = target_port
        self._sent_until = 0.0
        self._arrived_until = 0.0
        self._waiting: deque[tuple[Kind, bytes]] = deque()

    def send(self, kind: Kind, data: bytes = b"") -> None:
        if not self._source.alive:
            return
        path = self._network.path(self._source, self._target.ip)
        if path is None or self._waiting:
            self._hold(kind, data)
            return
        now = self._schedule.now
        self._arrived_until = max(self._arrived_until, self._departure(path, len(data)) + self._delay(path))
        self._network.trace.record(
            kind,
            now,
            self._arrived_until,
            self._source.number,
            self._source_port,
            self._target.number,
            self._target_port,
            data,
        )
        self._schedule.at(self._arrived_until, self._arrive, kind, data)

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

    def _arrive(self, kind: Kind, data: bytes) -> None:
        path = self._network.path(self._source, self._target.ip)
        if self._waiting or path is None or not path.target.alive:
            self._hold(kind, data)  # the sender's kernel repeats it until the way is back
        elif path.target is self._target:
            self.receiver.arrived(kind, data)
        else:  # the host has restarted since, and knows nothing of this stream
            self._schedule.at(self._schedule.now + path.latency_s, self._reset)

    def _reset(self) -> None:
        if self._source.alive:
            self.sender.arrived(Kind.RESET, b"")

    def _hold(self, kind: Kind, data: bytes) -> None:
        self._waiting.append((kind, data))
        self._network.waiting_lanes[self] = None

    def try_again(self) -> None:
        """The ways have changed: sends again what could not get through."""
        waiting, self._waiting = self._waiting, deque()
        for kind, data in waiting:
            self.send(kind, data)


class SimStream:
    """See `runtime.base.Stream`."""

    def __init__(self, host: Host, local: Address, remote: Address, lane: Lane) -> None:
        self.local = local
        self.remote = remote
        self._lane = lane
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
            self._lane.send(Kind.CREDIT, self._unread_credit.to_bytes(4, "big"))
            self._unread_credit = 0

    def write(self, data: bytes) -> None:
        view = memoryview(bytes(data))
        while view:
            self._wait_for_room()
            piece = bytes(view[: min(WINDOW - self._outstanding, SEGMENT)])
            view = view[len(piece) :]
            self._outstanding += len(piece)
            self._lane.send(Kind.DATA, piece)
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
            self._lane.send(Kind.END)
        self._inbox.clear()
        self._wake_all()

    def accept(self) -> None:
        """Tells the dialler that the stream is open."""
        self._lane.send(Kind.ACCEPTANCE)

    def reset(self) -> None:
        """Ends the stream as a kernel does whose program gave up on it."""
        self._closed = self._broken = True
        self._lane.send(Kind.RESET)

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

    def __init__(self, host: Host, local: Address, accept: Callable[[Stream], None]) -> None:
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

    def __init__(self, host: Host, remote: Address) -> None:
        self.stream: SimStream | None = None
        self.refused = False
        self._host = host
        self._network = host.network
        self._local: Address = (host.ip, host.ephemeral_port())
        self._remote = remote
        self._answered = False
        self._given_up = False
        self._waiters = host.tasks.waiters()

    def wait(self, timeout_s: float) -> None:
        if self.stream is None and not self.refused:
            self._waiters.wait(timeout_s)

    def give_up(self) -> None:
        self._given_up = True

    def knock(self) -> None:
        self._send(Kind.DIAL, self._host, self._local[1], self._remote, self._arrive)

    def _send(self, kind: Kind, source: Host, port: int, remote: Address, arrive: Callable[[Host], None]) -> None:
        """One packet that is lost like a datagram."""
        schedule, draw = self._network.schedule, self._network.random
        path = self._network.path(source, remote[0])
        if path is None or draw() < path.model.loss:
            self._network.trace.record(kind, schedule.now, NEVER, source.number, port, NO_HOST, remote[1], b"")
            return
        arrival = schedule.now + path.latency_s + path.jitter_s * draw()
        self._network.trace.record(kind, schedule.now, arrival, source.number, port, path.target.number, remote[1], b"")
        schedule.at(arrival, arrive, path.target)

    def _arrive(self, target: Host) -> None:
        if self._answered or not target.alive:
            return
        listener = target.listeners.get(self._remote[1])
        if listener is None:
            self._send(Kind.REFUSAL, target, self._remote[1], self._local, self._be_refused)
            return
        self._answered = True
        here, there = _joined_streams(self._host, self._local, target, self._remote)
        here.on_accepted = lambda: self._be_accepted(here)
        there.accept()
        listener.hand_over(there)

    def _be_refused(self, _: Host) -> None:
        self.refused = True
        self._waiters.wake_all()

    def _be_accepted(self, stream: SimStream) -> None:
        if self._given_up:
            stream.reset()
            return
        self.stream = stream
        self._waiters.wake_all()


def _joined_streams(here: Host, local: Address, there: Host, remote: Address) -> tuple[SimStream, SimStream]:
    """The two ends of one connection."""
    out = Lane(here, local[1], there, remote[1])
    back = Lane(there, remote[1], here, local[1])
    near = SimStream(here, local, remote, out)
    far = SimStream(there, (there.ip, remote[1]), local, back)
    out.sender, out.receiver = near, far
    back.sender, back.receiver = far, near
    return near, far


def connect(host: Host, remote: Address, timeout_s: float) -> SimStream:
    """Dials, and dials again where a packet was lost. Raises ConnectFailed."""
    dial = Dial(host, remote)
    deadline = host.tasks.now() + timeout_s
    for pause in DIAL_PAUSES_S:
        left = deadline - host.tasks.now()
        if left <= 0:
            break
        dial.knock()
        dial.wait(min(pause, left))
        if dial.stream is not None:
            return dial.stream
        if dial.refused:
            raise ConnectFailed("refused")
    dial.give_up()
    raise ConnectFailed("timeout")
