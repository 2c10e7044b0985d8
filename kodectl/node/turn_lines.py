"""Ways to a TURN server: a UDP socket of its own, one that is shared, or a stream. None of them waits to send."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from kodectl.errors import WireError
from kodectl.node.stream_queue import StreamQueue
from kodectl.node.stun_framing import read_turn_framed
from kodectl.runtime.base import Address, DatagramSocket, Runtime, Scope, Stopped, Stream, StreamClosed
from kodectl.wire.addresses import address_text
from kodectl.wire.stun import FIRST_BYTES, MessageClass, unpack_type

log = logging.getLogger(__name__)

MAX_QUEUED = 1_024
MAX_QUEUED_BYTES = 1024 * 1024
"""Messages that a stream has not taken yet, and their bytes; what comes then is lost, as it would be over UDP."""
RESERVED = 64
"""Of them for requests: over a stream they are sent once, and none may be lost behind data."""


class DatagramSender(Protocol):
    """Of a `DatagramSocket` what a client of a shared one needs."""

    def send(self, data: bytes, address: Address) -> None: ...


class Line(Protocol):
    def send(self, packets: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...


class DatagramLine:
    """`owned`: the socket that ends with the line."""

    def __init__(self, socket: DatagramSender, server: Address, owned: DatagramSocket | None) -> None:
        self._socket = socket
        self._server = server
        self._owned = owned

    def send(self, packets: Iterable[bytes]) -> None:
        for packet in packets:
            self._socket.send(packet, self._server)

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()


def open_datagram_line(runtime: Runtime, server: Address, receive: Callable[[bytes, Address], object]) -> DatagramLine:
    """Raises EnvironmentFault."""

    def received(data: bytes, source: Address) -> None:
        receive(data, source)

    socket = runtime.open_datagram(("::" if ":" in server[0] else "0.0.0.0", 0), received)
    return DatagramLine(socket, server, socket)


class StreamLine:
    """Two tasks in `scope`. `receive` gets each message; `broken` runs once, when the stream has ended without `close`."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        stream: Stream,
        receive: Callable[[bytes, Address], object],
        broken: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._receive = receive
        self._broken = broken
        self._queue = StreamQueue(runtime, stream, MAX_QUEUED, MAX_QUEUED_BYTES)
        self._is_closed = False
        self.lost = 0
        where = address_text(*stream.remote)
        try:
            scope.spawn(f"turn from {where}", self._read)
            scope.spawn(f"turn to {where}", self._write)
        except Stopped:
            self.close()
            raise

    def send(self, packets: Iterable[bytes]) -> None:
        for packet in packets:
            may_wait = is_request(packet) or self._queue.has_room(len(packet), RESERVED)
            if not (may_wait and self._queue.put(packet)):
                self.lost += 1

    def _read(self) -> None:
        try:
            while True:
                self._receive(read_turn_framed(self._stream), self._stream.remote)
        except (StreamClosed, WireError) as error:
            log.debug("turn: connection to %s ended: %s", address_text(*self._stream.remote), error)
        finally:
            self._ended()

    def _write(self) -> None:
        try:
            self._queue.write()
        finally:
            self._ended()

    def _ended(self) -> None:
        was_closed = self._is_closed
        self.close()
        if not was_closed:
            self._broken()

    def close(self) -> None:
        """A server lets go of the allocation with its connection: nothing that is still queued has to arrive."""
        self._is_closed = True
        self._queue.close()
        self._stream.close()


def is_request(packet: bytes) -> bool:
    """And not data: ChannelData, or an indication."""
    return packet[0] in FIRST_BYTES and unpack_type(int.from_bytes(packet[:2]))[0] is MessageClass.REQUEST
