"""Packets that wait for a stream to take them: nobody waits to send, what has gathered goes out in one write, and what is too
much is lost, as it would be on a full line."""

from __future__ import annotations

from kodectl.runtime.base import Mailbox, Runtime, Stopped, Stream, StreamClosed

COALESCED = 65_536
"""Bytes after which no further packet is added to a write."""


class StreamQueue:
    """At most `limit` packets, which count `limit_bytes` where the sender asks `has_room`."""

    def __init__(self, runtime: Runtime, stream: Stream, limit: int, limit_bytes: int) -> None:
        self._stream = stream
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._packets: Mailbox[bytes] = runtime.mailbox(limit)
        self._bytes = 0

    def has_room(self, size: int, reserved: int = 0) -> bool:
        """`reserved`: places that are left free for packets of more weight."""
        return len(self._packets) < self._limit - reserved and self._bytes + size <= self._limit_bytes

    def put(self, packet: bytes) -> bool:
        """False when the packet is lost: as many as may wait do so, or the queue is closed."""
        if not self._packets.put(packet):
            return False
        self._bytes += len(packet)
        return True

    def write(self) -> None:
        """Until the queue is closed and empty, or the stream is."""
        try:
            while True:
                self._stream.write(self._waiting())
        except (StreamClosed, Stopped):
            pass

    def close(self) -> None:
        self._packets.close()

    def _waiting(self) -> bytes:
        """Waits for the first, and takes what has gathered behind it."""
        waiting = [self._packets.get()]
        size = len(waiting[0])
        while len(self._packets) and size < COALESCED:
            waiting.append(self._packets.get())
            size += len(waiting[-1])
        self._bytes -= size
        return b"".join(waiting)
