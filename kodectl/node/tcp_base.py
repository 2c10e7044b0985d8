"""A TCP connection as a base of ICE candidates: datagrams in frames (RFC 6544, section 3), to and from one peer.

It ends with a reset, a moment after its last datagram. An end in good order would hold the connection's two ports for a
minute (TIME-WAIT; RFC 9293, section 3.6.1), and the next connection that is punched to this peer has the same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kodectl.node.stream_queue import StreamQueue
from kodectl.runtime.base import Address, Connection, Runtime, Scope, Stopped, StreamClosed, Timer
from kodectl.wire.addresses import address_text
from kodectl.wire.stream_frames import HEADER_SIZE, MAX_DATAGRAM, pack_frame, unpack_length

log = logging.getLogger(__name__)

MAX_QUEUED = 1_024
MAX_QUEUED_BYTES = 256 * 1024
"""Datagrams that the connection has not taken yet. What comes then is lost, as on a full line, and QUIC slows down by that;
a long queue would only make every path look slow."""
REST_S = 0.25
"""From the end of the base to that of the connection: what was sent last arrives meanwhile, or is lost as datagrams are."""
Receive = Callable[["TcpBase", bytes, Address], None]


class TcpBase:
    """See `node.ice.SendingBase`. Two tasks in `scope`; `receive` runs for every datagram and must not wait, and
    `on_closed` once, when the base has ended, by whomever."""

    def __init__(self, runtime: Runtime, scope: Scope, stream: Connection, receive: Receive) -> None:
        """Raises Stopped, and has closed the stream then."""
        self.on_closed: Callable[[], None] = lambda: None
        self.address = stream.local
        self.remote = stream.remote
        self.lost = 0
        self._runtime = runtime
        self._stream = stream
        self._with_scope: Timer | None = None
        self._receive = receive
        self._queue = StreamQueue(runtime, stream, MAX_QUEUED, MAX_QUEUED_BYTES)
        self._is_closed = False
        self._has_ended = False
        where = address_text(*stream.remote)
        try:
            scope.spawn(f"frames from {where}", self._read)
            scope.spawn(f"frames to {where}", self._write)
        except Stopped:
            self.close()
            self._end()
            raise
        self._with_scope = scope.on_close(self._end)

    def send(self, data: bytes, address: Address) -> None:
        """To the other end of the connection; to anybody else nothing is sent."""
        fits = len(data) <= MAX_DATAGRAM and self._queue.has_room(HEADER_SIZE + len(data))
        if not (address == self.remote and fits and self._queue.put(pack_frame(data))):
            self.lost += 1

    def close(self) -> None:
        """May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.close()
        self._runtime.call_later(REST_S, self._end)
        self.on_closed()

    def _end(self) -> None:
        if self._with_scope is not None:
            self._with_scope.cancel()
        if not self._has_ended:
            self._has_ended = True
            self._stream.reset()

    def _read(self) -> None:
        try:
            while True:
                size = unpack_length(self._stream.read_exactly(HEADER_SIZE))
                datagram = self._stream.read_exactly(size)
                if not self._is_closed:
                    self._receive(self, datagram, self.remote)
        except StreamClosed as error:
            log.debug("frames: connection to %s ended: %s", address_text(*self.remote), error)
        finally:
            self.close()
            self._end()

    def _write(self) -> None:
        try:
            self._queue.write()
        finally:
            self.close()
