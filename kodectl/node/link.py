"""One encrypted connection to one peer: frames out of a bounded queue, frames in to a handler.

A link has a reader (whoever calls `run`) and, only while there is something to write, a writer task of its own. What
goes wrong in either ends this link and nothing else.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from kodectl.errors import PeerFault, WireError
from kodectl.node.handshake import Channel, LinkClosed, LocalEnd, open_inbound, open_outbound
from kodectl.runtime.base import Address, Event, Runtime, Scope, Stopped, Stream, StreamClosed, TimedOut, Timer
from kodectl.wire.frames import MAX_CONTENT, MAX_MESSAGES, SEGMENT_ROOM, Message, check_segment_size, encode_message
from kodectl.wire.messages import (
    Disconnect,
    DisconnectReason,
    Hello,
    MessageKind,
    pack_disconnect,
    unpack_disconnect,
)

log = logging.getLogger(__name__)

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
CLOSING_LIMIT_S = 1.0
"""From the decision to disconnect to the closed stream: the reason goes out and the other side closes within a round
trip. Closing at once, with data unread, makes TCP reset the connection and lose the reason."""
TURN_S = 0.005
"""Work of the reader between two turns of the hub. One chunk of input can hold a gigabyte compressed, or hundreds of
signatures to check."""
_DISCARD_SIZE = 4096

_HELLO = int(MessageKind.HELLO)
_DISCONNECT = int(MessageKind.DISCONNECT)

Handler = Callable[["Link", int, bytes], None]
"""Gets the link, the type of a message (perhaps one not known here) and its body."""


def dial(runtime: Runtime, local: LocalEnd, stream: Stream, expected_id: bytes | None, hello: Hello) -> Link:
    """The link over a stream that this side opened; see `open_outbound` for what it checks and raises."""
    return Link(runtime, stream, open_outbound(runtime, local, stream, expected_id, hello), outbound=True)


def accept(runtime: Runtime, local: LocalEnd, stream: Stream, hello: Hello) -> Link:
    """The link over a stream that the other side opened; see `open_inbound`."""
    return Link(runtime, stream, open_inbound(runtime, local, stream, hello), outbound=False)


class Link:
    """Open until `close_reason` is set, by either side; from then on `send` answers False and nothing is handled.

    `closed_by_peer` tells who ended it, `close_text` what was said. Bytes are those of frames, without the handshake.
    """

    __slots__ = (
        "_busy_s",
        "_closing_timer",
        "_decoder",
        "_early",
        "_encoder",
        "_in_flight",
        "_queue",
        "_room",
        "_runtime",
        "_scope",
        "_stream",
        "_write_began",
        "_write_timer",
        "_writing",
        "bytes_received",
        "bytes_sent",
        "close_reason",
        "close_text",
        "closed_by_peer",
        "hello",
        "messages_received",
        "messages_sent",
        "node_id",
        "opened_at",
        "outbound",
        "public_key",
        "queued_bytes",
        "remote",
    )

    def __init__(self, runtime: Runtime, stream: Stream, channel: Channel, *, outbound: bool) -> None:
        self.node_id = channel.node_id
        self.public_key = channel.public_key
        self.hello = channel.hello
        self.outbound = outbound
        self.remote: Address = stream.remote
        self.opened_at = runtime.now()
        self.bytes_sent = self.bytes_received = 0
        self.messages_sent = self.messages_received = 0
        self.queued_bytes = 0
        self.close_reason: DisconnectReason | None = None
        self.close_text = ""
        self.closed_by_peer = False
        self._runtime = runtime
        self._stream = stream
        self._encoder = channel.encoder
        self._decoder = channel.decoder
        self._early = channel.early
        self._busy_s = 0.0
        self._queue: deque[bytes] = deque()
        self._in_flight = 0
        self._scope: Scope | None = None
        self._writing = False
        self._write_began: float | None = None
        self._write_timer: Timer | None = None
        self._closing_timer: Timer | None = None
        self._room: Event | None = None

    @property
    def closed(self) -> bool:
        return self.close_reason is not None

    def send(self, kind: int, body: bytes) -> bool:
        """Queues a message and never waits. False when the link is closed, or closes (slow) over a full queue."""
        return self.send_encoded(encode_message(kind, body))

    def send_encoded(self, message: bytes) -> bool:
        """As `send`, for a message from `encode_message`; links share it without copying."""
        if self.close_reason is not None:
            return False
        queued = self.queued_bytes + len(message) + MESSAGE_COST
        if queued > MAX_QUEUED_BYTES:
            self.disconnect(DisconnectReason.SLOW, f"{self.queued_bytes} bytes wait to be read")
            return False
        self.queued_bytes = queued
        self._queue.append(message)
        if not self._writing:
            self._start_writer()
        return True

    def wait_room(self, timeout_s: float) -> None:
        """Waits until little is queued: for producers that could fill the queue. Raises TimedOut, LinkClosed."""
        deadline = self._runtime.now() + timeout_s
        while self.close_reason is None and self.queued_bytes > ROOM_BYTES:
            if self._room is None:
                self._room = self._runtime.event()
            self._room.clear()
            if not self._room.wait(max(0.0, deadline - self._runtime.now())):
                raise TimedOut(f"{self.queued_bytes} bytes still queued after {timeout_s:g} s")
        if self.close_reason is not None:
            raise LinkClosed(self.close_reason, self.close_text)

    def disconnect(self, reason: DisconnectReason, text: str = "") -> None:
        """Closes without waiting: what is queued and then the reason go out in the background, for CLOSING_LIMIT_S
        at most. Nothing happens on a link that is closed already."""
        if self.close_reason is not None:
            return
        self._mark_closed(reason, text)
        if reason is DisconnectReason.SLOW:
            self._drop_queue()
        self._queue.append(encode_message(_DISCONNECT, pack_disconnect(Disconnect(reason, text))))
        self._closing_timer = self._runtime.call_later(CLOSING_LIMIT_S, self._stream.close)
        if not self._writing:
            self._start_writer()

    def run(self, handle: Handler) -> DisconnectReason:
        """Reads until the link has ended, and all of it: the stream is closed and the writer gone.

        A PeerFault from a decoder or from `handle` closes with protocol_error; any other exception of `handle` is
        logged and closes too. Stopped closes with shutting_down."""
        try:
            self._receive(handle)
            self._discard()
        except StreamClosed:
            self._ended(DisconnectReason.UNSPECIFIED, "the stream ended", by_peer=True)
        finally:
            self._release()
        assert self.close_reason is not None
        return self.close_reason

    # Reading

    def _receive(self, handle: Handler) -> None:
        """Until the link is closed. Raises StreamClosed."""
        try:
            early, self._early = self._early, []
            self._dispatch(early, handle, self._runtime.now())
            while self.close_reason is None:
                segment = self._read_segment()
                began = self._runtime.now() - self._busy_s
                self._dispatch(self._decoder.open(segment), handle, began)
        except StreamClosed:
            raise
        except PeerFault as fault:
            self.disconnect(DisconnectReason.PROTOCOL_ERROR, str(fault))
        except Stopped:
            self.disconnect(DisconnectReason.SHUTTING_DOWN)
        except Exception:
            # The boundary of faults: a bug met in one message costs this link, and the node goes on.
            log.exception("handling a message of %s failed", self.node_id.hex())
            self.disconnect(DisconnectReason.UNSPECIFIED, "internal error")

    def _read_segment(self) -> bytes:
        size = int.from_bytes(self._stream.read_exactly(2))
        check_segment_size(size)
        segment = self._stream.read_exactly(size)
        self.bytes_received += 2 + size
        return segment

    def _dispatch(self, messages: list[Message], handle: Handler, turn_began: float) -> None:
        """Hands messages over, and the hub its turn when this has taken TURN_S."""
        now = self._runtime.now
        for kind, body in messages:
            if self.close_reason is not None:
                return
            self.messages_received += 1
            if kind == _DISCONNECT:
                self._ended(*unpack_disconnect(body), by_peer=True)
            elif kind == _HELLO:
                raise WireError("a second hello")
            else:
                handle(self, kind, body)
            if now() - turn_began > TURN_S:
                self._tasks().sleep(0)
                turn_began = now()
        self._busy_s = now() - turn_began

    def _discard(self) -> None:
        """Reads on until the stream ends, so that the other side can read our reason. Raises StreamClosed."""
        while True:
            self._stream.read_exactly(_DISCARD_SIZE)

    # Writing

    def _start_writer(self) -> None:
        self._writing = True
        self._tasks().spawn("link writer", self._write_queue)

    def _tasks(self) -> Scope:
        """Made when first needed: an idle link has no task of its own."""
        if self._scope is None:
            self._scope = self._runtime.scope(f"link {self.node_id.hex()[:8]}")
        return self._scope

    def _write_queue(self) -> None:
        """Ends when the queue is empty. What gathers during a write leaves together in the next."""
        try:
            while self._queue:
                batch = self._next_batch()
                for segment in self._encoder.seal(batch):
                    self._write(segment)
                self.messages_sent += len(batch)
                self.queued_bytes -= self._in_flight
                self._in_flight = 0
                if self._room is not None and self.queued_bytes <= ROOM_BYTES:
                    self._room.set()
        except StreamClosed:
            self._ended(DisconnectReason.UNSPECIFIED, "the stream ended", by_peer=True)
        except Exception:
            # The same boundary as for the reader; half a frame may be out, so nothing more can be said.
            log.exception("writing to %s failed", self.node_id.hex())
            self._ended(DisconnectReason.UNSPECIFIED, "internal error", by_peer=False)
        finally:
            self._writing = False

    def _next_batch(self) -> list[bytes]:
        """One message, and as many more as fill one segment with it."""
        queue = self._queue
        message = queue.popleft()
        batch = [message]
        size = len(message)
        while queue and len(batch) < MAX_MESSAGES:
            size += len(queue[0])
            if size > SEGMENT_ROOM:
                size -= len(queue[0])
                break
            batch.append(queue.popleft())
        self._in_flight = size + MESSAGE_COST * len(batch)
        return batch

    def _write(self, segment: bytes) -> None:
        self._write_began = self._runtime.now()
        if self._write_timer is None:
            self._write_timer = self._runtime.call_later(WRITE_LIMIT_S, self._check_progress)
        self._stream.write(segment)
        self._write_began = None
        self.bytes_sent += len(segment)

    def _check_progress(self) -> None:
        """One timer outlives many writes: it looks at the one under way when it fires."""
        self._write_timer = None
        if self._write_began is None or self.close_reason is not None:
            return
        waited = self._runtime.now() - self._write_began
        if waited >= WRITE_LIMIT_S:
            self.disconnect(DisconnectReason.SLOW, f"took nothing for {waited:.0f} s")
        else:
            self._write_timer = self._runtime.call_later(WRITE_LIMIT_S - waited, self._check_progress)

    # Ending

    def _mark_closed(self, reason: DisconnectReason, text: str) -> None:
        self.close_reason = reason
        self.close_text = text
        if self._room is not None:
            self._room.set()

    def _ended(self, reason: DisconnectReason, text: str, *, by_peer: bool) -> None:
        """Nothing more is read or said: the other side is gone or going, or our side of the channel is broken."""
        if self.close_reason is None:
            self.closed_by_peer = by_peer
            self._mark_closed(reason, text)
        self._drop_queue()
        self._stream.close()

    def _drop_queue(self) -> None:
        self._queue.clear()
        self.queued_bytes = self._in_flight

    def _release(self) -> None:
        self._stream.close()
        self._drop_queue()
        for timer in (self._closing_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self._scope is not None:
            self._scope.close()
            self._scope.join(CLOSING_LIMIT_S)
