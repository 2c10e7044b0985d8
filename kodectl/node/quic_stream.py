"""A stream over one QUIC connection (`runtime.base.Stream`), so that links run over UDP paths as over TCP.

It has no task: what arrives is worked on in the hub, once for all datagrams that came together; reader and writer wait
for events that this sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kodectl.core.quic_connection import (
    Ended,
    Event,
    Gone,
    IdIssued,
    IdRetired,
    Opened,
    QuicCore,
    Received,
    RoomMade,
)
from kodectl.core.quic_paths import ALIVE_S, MAX_PATHS, Path
from kodectl.core.unanswered import Unanswered
from kodectl.runtime.base import Address, Runtime, StreamClosed, Timer

Send = Callable[[Sequence[bytes]], None]
"""Sends datagrams over one path, in order, without waiting; any of them may be lost. A socket takes them with
`send_many`, whatever takes one at a time in a loop."""

MAX_WAITING = 512
"""Datagrams between two turns of the hub: more than a socket hands over in one, and the others are lost as on the way."""

MIN_PAUSE_S = 0.0002
"""Between two looks at the clock: should a deadline ever stay in the past, the connection fails and the hub lives."""

SILENT_DEADLINES = 3
"""In a row, at which something was sent again, or asked, and nothing has come: one packet may be lost, another late."""

LINGER_S = 5.0
"""After `close`, for what was written to arrive: a few repetitions on a bad path."""


class Owner(Protocol):
    """The endpoint, as its streams see it."""

    def reply(self, datagrams: Sequence[bytes], path: Path) -> None: ...
    def opened(self, stream: QuicStream) -> None: ...
    def gone(self, stream: QuicStream) -> None: ...
    def id_issued(self, stream: QuicStream, connection_id: bytes) -> None: ...
    def id_retired(self, connection_id: bytes) -> None: ...


class QuicStream:
    """See `runtime.base.Stream`. `path` is what it was made over or was last moved to; `is_open` from the end of the
    handshake to the end of the connection."""

    def __init__(self, runtime: Runtime, core: QuicCore, owner: Owner, path: Path, send: Send | None) -> None:
        self.path = path
        self.end: str | None = None
        """Why nothing more comes; None while something may."""
        self._runtime = runtime
        self._core = core
        self._owner = owner
        self._sends: dict[Path, Send] = {path: send} if send else {}
        self._waiting: list[tuple[bytes, Path]] = []
        self._buffer = bytearray()
        self._is_opened = False
        self._is_closed = False
        self._is_gone = False
        self._readable = runtime.event()
        self._writable = runtime.event()
        self._changed = runtime.event()
        self._turn: Timer | None = None
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._linger: Timer | None = None
        self._silent_deadlines = 0
        self._unanswered = Unanswered()
        self._heard_here_at = float("-inf")
        """Over `sends_on`."""
        self.on_silence: Callable[[], None] = lambda: None
        """What was sent is not answered: the path may be dead. Runs in the hub."""
        self.on_elsewhere: Callable[[], None] = lambda: None
        """The other side is heard over another path than `sends_on`, and over that no more: it may be dead, or the other side
        has changed its mind. To a path that is new QUIC follows by itself, to a former one not. Runs in the hub."""
        self.on_gone: Callable[[], None] = lambda: None
        """Both sides have said their last word, or will not say it any more. Runs in the hub."""

    @property
    def local(self) -> Address:
        return self.path.local

    @property
    def remote(self) -> Address:
        return self.path.remote

    @property
    def sends_on(self) -> Path:
        return self._core.path

    @property
    def is_open(self) -> bool:
        return self._is_opened and self.end is None and not self._is_closed

    @property
    def is_gone(self) -> bool:
        return self._is_gone

    @property
    def dialled(self) -> bool:
        return self._core.dialled

    def wait_open(self, timeout_s: float) -> bool:
        """Waits for the end of the handshake; false when it failed (`end` says why) or the limit passed."""
        self._changed.wait(timeout_s)
        return self.is_open

    # The stream

    def read_exactly(self, size: int) -> bytes:
        if len(self._buffer) >= size and not self._is_closed:
            return self._take(size)
        parts = []
        missing = size
        while missing > 0:
            self._await_bytes()
            parts.append(self._take(min(missing, len(self._buffer))))
            missing -= len(parts[-1])
        if self._is_closed:
            raise StreamClosed("closed on this side")
        return b"".join(parts)

    def _await_bytes(self) -> None:
        while not self._buffer or self._is_closed:
            if self._is_closed:
                raise StreamClosed("closed on this side")
            if self.end is not None:
                raise StreamClosed(self.end)
            self._readable.clear()
            self._readable.wait()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        if self._core.read(size):
            self.settle()
        return taken

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while True:
            if self._is_closed:
                raise StreamClosed("closed on this side")
            if self.end is not None:
                raise StreamClosed(self.end)
            if not left:
                return
            taken = self._core.write(left)
            left = left[taken:]
            if taken:
                self.settle()
            else:
                self._writable.clear()
                self._writable.wait()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._buffer.clear()
        self._wake()
        if not self._is_gone:
            self._core.finish()
            self._linger = self._runtime.call_later(LINGER_S, self.abort)
            self.settle()

    def move(self, path: Path, send: Send) -> None:
        """Goes on over another path, which the owner knows to work; the other side follows as soon as it has seen, by
        an answer of its own, that this side is there. Nothing is lost or doubled."""
        self.path = path
        self._sends.pop(path, None)
        self._sends[path] = send
        while len(self._sends) > MAX_PATHS:
            del self._sends[next(iter(self._sends))]
        if not self._is_gone:
            self._core.move(path, self._runtime.now())
            self.settle()

    # For the endpoint

    def receive(self, data: bytes, path: Path) -> None:
        if len(self._waiting) >= MAX_WAITING:
            return
        self._waiting.append((data, path))
        if self._turn is None:
            self._turn = self._runtime.call_later(0.0, self._work)

    def _work(self) -> None:
        self._turn = None
        self._silent_deadlines = 0
        self._unanswered.heard()
        waiting, self._waiting = self._waiting, []
        now = self._runtime.now()
        here = self.sends_on
        start = 0
        for end in range(1, len(waiting) + 1):
            if end == len(waiting) or waiting[end][1] != waiting[start][1]:
                self._core.receive([data for data, _ in waiting[start:end]], waiting[start][1], now)
                start = end
        if any(path == here for _, path in waiting):
            self._heard_here_at = now
        elif now >= self._heard_here_at + ALIVE_S:
            self.on_elsewhere()
        self.settle()

    def settle(self, min_pause_s: float = 0.0) -> bool:
        """Does what follows from the last call of the core: tells, sends, and sets the clock. Whether anything was sent."""
        for event in self._core.events():
            self._happened(event)
        if self._is_gone:
            return False
        has_sent = False
        now = self._runtime.now()
        for path, datagrams in self._core.datagrams(now):
            has_sent = True
            send = self._sends.get(path)
            if send is None:
                self._owner.reply(datagrams, path)
            else:
                send(datagrams)
        self._set_timer(min_pause_s)
        if has_sent and self._unanswered.sent(now):
            self.on_silence()
        return has_sent

    def _happened(self, event: Event) -> None:
        match event:
            case Received(data):
                if not self._is_closed:
                    self._buffer += data
                    self._readable.set()
            case RoomMade():
                self._writable.set()
            case Opened():
                self._is_opened = True
                self._changed.set()
                self._owner.opened(self)
            case IdIssued(connection_id):
                self._owner.id_issued(self, connection_id)
            case IdRetired(connection_id):
                self._owner.id_retired(connection_id)
            case Ended(why):
                self.end = why
                self._wake()
            case Gone():
                self.forget("the connection ended")

    def _wake(self) -> None:
        for event in (self._readable, self._writable, self._changed):
            event.set()

    def _set_timer(self, min_pause_s: float) -> None:
        """A timer that is early stays: setting it anew for every packet would cost more than looking once in vain."""
        deadline = self._core.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._runtime.call_later(max(min_pause_s, deadline - self._runtime.now()), self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = None
        self._core.handle_deadline(self._runtime.now())
        if self.settle(MIN_PAUSE_S):
            self._silent_deadlines += 1
            if self._silent_deadlines == SILENT_DEADLINES:
                self.on_silence()

    def abort(self) -> None:
        """Closes the connection at once, and says so to the other side."""
        if not self._is_gone:
            self._core.abort()
            self.settle()

    def forget(self, why: str) -> None:
        """Nothing more is sent or received."""
        if self._is_gone:
            return
        self._is_gone = True
        self.end = self.end or why
        for timer in (self._turn, self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        self._waiting.clear()
        self._wake()
        self._owner.gone(self)
        self.on_gone()
