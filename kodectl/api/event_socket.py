"""Subscribers on their sockets: one task each, that reads and writes what can be read and written and waits for more."""

from __future__ import annotations

import socket as stdlib_socket
import time
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from kodectl.api.subscriber import Subscriber
from kodectl.api.subscriptions import Subscriptions
from kodectl.node.events import Events

READ_SIZE = 4096
"""At a time: as many of the smallest frames as can be in it take 5 ms."""
PAUSE_S = 0.001
"""Between two turns when there is more to do. Not 0: what is put off that way is run before the hub looks at its timers."""
SEND_BUFFER = 128 * 1024
"""Bytes that the kernel holds for a subscriber (it doubles this): more would be old news to a slow one."""
READABLE, WRITABLE = 1, 2


class EventSocket:
    """A subscriber from its upgrade to its end. See `server.Upgrade`."""

    def __init__(self, events: Events, places: Subscriptions, head: bytes) -> None:
        self.head = head
        self._places = places
        self._wake = Event()
        self._core = Subscriber(events, self._wake, time.monotonic())
        self._readable = self._writable = True

    @property
    def stalled_since(self) -> float | None:
        return self._core.stalled_since

    def stop(self) -> None:
        self._core.leave()
        self._wake.set()

    def cut(self) -> None:
        """Its place is needed."""
        self._core.lost()
        self._wake.set()

    def ended(self) -> None:
        self._core.lost()
        self._places.leave(self)

    def serve(self, sock: socket.socket, early: bytes) -> None:
        sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_SNDBUF, SEND_BUFFER)
        sock.settimeout(0)
        loop = gevent.get_hub().loop
        reading, writing = loop.io(sock.fileno(), READABLE), loop.io(sock.fileno(), WRITABLE)
        try:
            if early:
                self._core.receive(early, time.monotonic())
            while not self._core.over:
                self._turn(sock)
                self._await(reading, writing)
        finally:
            for watcher in (reading, writing):
                watcher.stop()
                watcher.close()

    def _turn(self, sock: socket.socket) -> None:
        now = time.monotonic()
        core = self._core
        core.tick(now)
        if self._readable and core.wants_input:
            self._read(sock, now)
        chunk = core.outgoing(now)
        if chunk and self._writable:
            self._write(sock, chunk, now)

    def _read(self, sock: socket.socket, now: float) -> None:
        try:
            data = sock.recv(READ_SIZE)
        except BlockingIOError:
            self._readable = False
            return
        except OSError:
            data = b""
        if data:
            self._core.receive(data, now)
        else:
            self._core.lost()

    def _write(self, sock: socket.socket, chunk: memoryview, now: float) -> None:
        try:
            size = sock.send(chunk)
        except BlockingIOError:
            size = 0
        except OSError:
            self._core.lost()
            return
        self._writable = size == len(chunk)
        self._core.sent(size, now)

    def _await(self, reading: Any, writing: Any) -> None:
        """Until something can be done."""
        core = self._core
        now = time.monotonic()
        if core.over:
            return
        if (self._readable and core.wants_input) or (self._writable and core.outgoing(now)):
            gevent.sleep(PAUSE_S)
            return
        if core.wants_input:
            reading.start(self._can_read)
        if not self._writable:
            writing.start(self._can_write)
        self._wake.wait(max(0.0, core.next_deadline() - now))
        self._wake.clear()
        reading.stop()
        writing.stop()

    def _can_read(self) -> None:
        self._readable = True
        self._wake.set()

    def _can_write(self) -> None:
        self._writable = True
        self._wake.set()
