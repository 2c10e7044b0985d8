"""The sending half of a link: a bounded queue, and a task that empties it and exists only while there is something."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kodectl.runtime.base import Event, Runtime, Scope, Stream, TimedOut, Timer
from kodectl.wire.frames import MAX_CONTENT, MAX_MESSAGES, SEGMENT_ROOM, FrameEncoder

MAX_QUEUED_BYTES = (8 << 20) + MAX_CONTENT
"""Two blocks of the largest size may wait, and one more come. Fifty peers that stop reading then hold 600 MB at the
very worst, for as long as WRITE_LIMIT_S."""
MESSAGE_COST = 48
"""What a waiting message takes beside its bytes (object and place in the queue): so that the bound on bytes is one on
memory for tiny messages too."""
ROOM_BYTES = 1 << 20
"""`wait_room` returns below this: enough to keep the writer busy until its caller's turn comes again."""
WRITE_LIMIT_S = 20.0
"""For one segment to go out: at less than 64 KiB in that time (3 kB/s), a block would take 20 minutes."""


class Outbox:
    """Takes encoded messages and never waits; the writer is a task of `scope`.

    `on_failure` is told once why nothing more can be written: StreamClosed, TimedOut when the other side takes nothing,
    anything else is a bug. After `seal` nothing more is taken."""

    __slots__ = (
        "_encoder",
        "_in_flight",
        "_on_failure",
        "_queue",
        "_room",
        "_runtime",
        "_scope",
        "_sealed",
        "_stream",
        "_timer",
        "_write_began",
        "_writing",
        "bytes_sent",
        "messages_sent",
        "queued_bytes",
    )

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        stream: Stream,
        encoder: FrameEncoder,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.bytes_sent = 0
        self.messages_sent = 0
        self.queued_bytes = 0
        """What waits and what is being written, with MESSAGE_COST for each."""
        self._runtime = runtime
        self._scope = scope
        self._stream = stream
        self._encoder = encoder
        self._on_failure = on_failure
        self._queue: deque[bytes] = deque()
        self._in_flight = 0
        self._sealed = False
        self._writing = False
        self._write_began: float | None = None
        self._timer: Timer | None = None
        self._room: Event | None = None

    def put(self, message: bytes) -> bool:
        """False when the queue is full or sealed; the message is dropped then."""
        queued = self.queued_bytes + len(message) + MESSAGE_COST
        if queued > MAX_QUEUED_BYTES or self._sealed:
            return False
        self._add(message, queued)
        return True

    def seal(self, last: bytes) -> None:
        """Takes one more message, even into a full queue, and then none."""
        self._sealed = True
        self._add(last, self.queued_bytes + len(last) + MESSAGE_COST)
        self._tell_room()

    def wait_room(self, timeout_s: float) -> None:
        """Waits until little is queued, or the box is sealed. Raises TimedOut."""
        deadline = self._runtime.now() + timeout_s
        while self.queued_bytes > ROOM_BYTES and not self._sealed:
            if self._room is None:
                self._room = self._runtime.event()
            self._room.clear()
            if not self._room.wait(max(0.0, deadline - self._runtime.now())):
                raise TimedOut(f"{self.queued_bytes} bytes still queued after {timeout_s:g} s")

    def drop(self) -> None:
        """Forgets what waits; what is being written stays where it is."""
        self._queue.clear()
        self.queued_bytes = self._in_flight

    def close(self) -> None:
        """For good. The writer, if it waits, ends when the stream is closed."""
        self._sealed = True
        self.drop()
        self._tell_room()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, message: bytes, queued: int) -> None:
        self.queued_bytes = queued
        self._queue.append(message)
        if not self._writing:
            self._writing = True
            self._scope.spawn("writer", self._write_queue)

    def _write_queue(self) -> None:
        """What gathers during a write leaves together in the next."""
        try:
            while self._queue:
                batch = self._next_batch()
                for segment in self._encoder.seal(batch):
                    self._write(segment)
                self.messages_sent += len(batch)
                self.queued_bytes -= self._in_flight
                self._in_flight = 0
                if self.queued_bytes <= ROOM_BYTES:
                    self._tell_room()
        except Exception as error:  # the boundary: the link decides, and the task ends in order
            self._on_failure(error)
        finally:
            self._writing = False

    def _next_batch(self) -> list[bytes]:
        """One message, and as many more as fill one segment with it."""
        queue = self._queue
        batch = [queue.popleft()]
        size = len(batch[0])
        while queue and len(batch) < MAX_MESSAGES and size + len(queue[0]) <= SEGMENT_ROOM:
            message = queue.popleft()
            size += len(message)
            batch.append(message)
        self._in_flight = size + MESSAGE_COST * len(batch)
        return batch

    def _write(self, segment: bytes) -> None:
        self._write_began = self._runtime.now()
        if self._timer is None:
            self._timer = self._runtime.call_later(WRITE_LIMIT_S, self._check_progress)
        self._stream.write(segment)
        self._write_began = None
        self.bytes_sent += len(segment)

    def _check_progress(self) -> None:
        """One timer outlives many writes: it looks at the one under way when it fires."""
        self._timer = None
        if self._write_began is None:
            return
        waited = self._runtime.now() - self._write_began
        if waited >= WRITE_LIMIT_S:
            self._on_failure(TimedOut(f"took nothing for {waited:.0f} s"))
        else:
            self._timer = self._runtime.call_later(WRITE_LIMIT_S - waited, self._check_progress)

    def _tell_room(self) -> None:
        if self._room is not None:
            self._room.set()
