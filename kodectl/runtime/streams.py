"""TCP on gevent.

A stream reads into chunks and hands out pieces of them, so that small frames cost no system call each. It asks the
hub for readability before each chunk, even where one may be there already: so a fast sender cannot starve timers and
other sockets, and the failing call that would find nothing is saved.
"""

from __future__ import annotations

import errno
import os
import struct
from _socket import socket as KernelSocket
from collections.abc import Callable
from socket import IPPROTO_TCP, SO_ERROR, SO_LINGER, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY

from gevent.hub import Hub, Waiter

from kodectl.errors import LocalMisuse
from kodectl.runtime.base import Address, ConnectFailed, Connection, Scope, Stopped, StreamClosed
from kodectl.runtime.binding import bind_dialling, bind_stream, family_of, share_port, shown, sockaddr
from kodectl.runtime.faults import CallbackFaults
from kodectl.runtime.green_tasks import park

RECEIVE_SIZE = 131_072
"""Taken from the kernel at once: two of the largest segments."""

WRITE_TURN = 1024 * 1024
"""Bytes written without the hub's turn: about 3 ms at full speed, while a fast reader never makes the writer wait."""

MAX_DISCARDED_READS = 16
"""Chunks thrown away before a close (2 MiB). With unread input the kernel would reset the connection instead of closing
it, and what was written last, the reason of the disconnect, would be lost."""

LISTEN_BACKLOG = 256
"""Connections that the kernel completes while the hub is busy: a burst of dials at half a second's delay."""

ACCEPT_LIMIT = 32
"""Connections accepted before the hub looks at everything else. To rest after so many, and leave a flood to the kernel, was
tried: with 10,000 a second it cost the process twice the CPU of accepting and closing them all."""

ACCEPT_PAUSE_S = 0.5
"""Rest after running out of descriptors or memory: accepting again at once would spin."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

LINGER_NOT, LINGER = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""struct linger: on, for no time; and off (socket(7))."""

READ, WRITE = 1, 2
"""The event masks of libev."""


class Readiness:
    """One direction of a socket: its task waits here until the kernel can go on, or until `close`."""

    __slots__ = ("_hub", "_waiter", "_watcher")

    def __init__(self, hub: Hub, fileno: int, events: int) -> None:
        self._hub = hub
        self._watcher = hub.loop.io(fileno, events)
        self._waiter: Waiter | None = None

    def wait(self, timeout_s: float | None = None) -> bool:
        """True when ready or closed, false when the limit passed first."""
        if self._waiter is not None:
            raise LocalMisuse("two tasks wait for the same direction of a stream")
        waiter = self._waiter = Waiter(self._hub)
        self._watcher.start(waiter.switch, True)
        try:
            return park(self._hub, waiter, timeout_s)
        finally:
            self._waiter = None
            self._watcher.stop()

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None:
            self._hub.loop.run_callback(self._waiter.switch, True)


class GreenStream:
    """See `runtime.base.Stream`. Takes over a connected, non-blocking socket."""

    __slots__ = ("_chunk", "_closed", "_offset", "_readable", "_sock", "_unpaused", "_writable", "local", "remote")

    def __init__(self, hub: Hub, sock: KernelSocket, remote: Address) -> None:
        self._sock = sock
        self._readable = Readiness(hub, sock.fileno(), READ)
        self._writable = Readiness(hub, sock.fileno(), WRITE)
        self._chunk = b""
        self._offset = 0
        self._unpaused = 0
        self._closed = False
        self.local: Address = shown(sock.getsockname())
        self.remote: Address = remote

    def read_exactly(self, size: int) -> bytes:
        start = self._offset
        end = start + size
        if end <= len(self._chunk) and not self._closed:
            self._offset = end
            return self._chunk[start:end]
        return self._read_over(size)

    def _read_over(self, size: int) -> bytes:
        """Reads what goes past the end of the chunk at hand."""
        parts = [self._chunk[self._offset :]]
        missing = size - len(parts[0])
        # While it waits for more, an idle stream holds no spent chunk: that would be most of its memory.
        self._chunk, self._offset = b"", 0
        while missing > 0:
            self._chunk = self._receive()
            self._offset = min(missing, len(self._chunk))
            parts.append(self._chunk[: self._offset])
            missing -= self._offset
        return b"".join(parts)

    def _receive(self) -> bytes:
        while not self._closed:
            self._readable.wait()
            try:
                chunk = self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._gone(error) from error
            if not chunk:
                raise StreamClosed("ended by the other side")
            return chunk
        raise self._gone()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._closed:
            if self._unpaused >= WRITE_TURN:
                self._pause_writing()
            try:
                sent = self._sock.send(view)
            except BlockingIOError:
                self._pause_writing()
                continue
            except OSError as error:
                raise self._gone(error) from error
            self._unpaused += sent
            view = view[sent:]
        if self._closed:
            raise self._gone()

    def _pause_writing(self) -> None:
        self._writable.wait()
        self._unpaused = 0

    def _gone(self, error: OSError | None = None) -> StreamClosed:
        if self._closed or error is None:
            return StreamClosed("closed on this side")
        return StreamClosed(error.strerror)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._readable.close()
        self._writable.close()
        self._discard_input()
        self._sock.close()

    def reset(self) -> None:
        if not self._closed:
            self._sock.setsockopt(SOL_SOCKET, SO_LINGER, LINGER_NOT)
            self.close()

    def _discard_input(self) -> None:
        try:
            for _ in range(MAX_DISCARDED_READS):
                if not self._sock.recv(RECEIVE_SIZE):
                    return
        except OSError:  # nothing is left, or the connection broke before
            return


class GreenListener:
    """See `runtime.base.Listener`. Survives running out of descriptors: it rests, and tries again."""

    def __init__(self, hub: Hub, local: Address, accept: Callable[[Connection], None], faults: CallbackFaults) -> None:
        self._hub = hub
        self._accept = accept
        self._faults = faults
        self._sock = bind_stream(local)
        # Small frames go out at once; accepted sockets inherit this.
        self._sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._sock.listen(LISTEN_BACKLOG)
        share_port(self._sock)
        self.local: Address = shown(self._sock.getsockname())
        self._watcher = hub.loop.io(self._sock.fileno(), READ)
        self._rest = hub.loop.timer(ACCEPT_PAUSE_S)
        self._watcher.start(self._accept_waiting)

    def _accept_waiting(self) -> None:
        for _ in range(ACCEPT_LIMIT):
            try:
                fileno, raw = self._sock._accept()  # type: ignore[attr-defined]  # what socket.accept calls
            except BlockingIOError:
                return
            except OSError as error:
                if self._sock.fileno() < 0:  # closed by the callback of the connection before
                    return
                if error.errno in EXHAUSTED:
                    self._pause(error)
                    return
                continue  # the connection was reset before it was accepted
            self._hand_over(fileno, shown(raw))

    def _hand_over(self, fileno: int, remote: Address) -> None:
        sock = KernelSocket(self._sock.family, SOCK_STREAM, 0, fileno)
        sock.setblocking(False)
        stream = GreenStream(self._hub, sock, remote)
        try:
            self._accept(stream)
        except Exception as error:
            stream.close()
            self._faults.report("accept callback", error)

    def _pause(self, error: OSError) -> None:
        self._faults.report("accept", error, foreseen=True)
        self._watcher.stop()
        self._rest.start(self._resume, update=True)

    def _resume(self) -> None:
        self._rest.stop()
        self._watcher.start(self._accept_waiting)

    def close(self) -> None:
        self._rest.stop()
        self._rest.close()
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()


def connect(
    hub: Hub, remote: Address, timeout_s: float, local_port: int | None = None, scope: Scope | None = None
) -> GreenStream:
    """Dials. Raises ConnectFailed; also (unreachable) where there is a connection between these very ends already; and
    Stopped."""
    try:
        family = family_of(remote[0])
        target = sockaddr(remote, family)
        sock = KernelSocket(family, SOCK_STREAM)
    except OSError as error:
        raise ConnectFailed("unreachable", error.strerror or str(error)) from error
    try:
        sock.setblocking(False)
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        if local_port is not None:
            bind_dialling(sock, family, local_port)
            # Until it is open: half of a simultaneous open would linger, and hold the two ends.
            sock.setsockopt(SOL_SOCKET, SO_LINGER, LINGER_NOT)
        code = sock.connect_ex(target)
        if code == errno.EINPROGRESS:
            code = _await_connection(hub, sock, timeout_s, scope)
        # Dialling a free port of this machine may connect a socket to itself (RFC 9293, section 3.5): nobody listens.
        if not code and sock.getsockname() == sock.getpeername():
            code = errno.ECONNREFUSED
        if code:
            raise ConnectFailed(_reason(code), os.strerror(code))
        sock.setsockopt(SOL_SOCKET, SO_LINGER, LINGER)
        return GreenStream(hub, sock, remote)
    except OSError as error:
        sock.close()
        raise ConnectFailed("unreachable", error.strerror or str(error)) from error
    except BaseException:
        sock.close()
        raise


def _await_connection(hub: Hub, sock: KernelSocket, timeout_s: float, scope: Scope | None) -> int:
    if scope is not None and scope.closed:
        raise Stopped
    writable = Readiness(hub, sock.fileno(), WRITE)
    stopping = scope.on_close(writable.wake) if scope is not None else None
    try:
        is_over = writable.wait(timeout_s)
        if scope is not None and scope.closed:
            raise Stopped
        return sock.getsockopt(SOL_SOCKET, SO_ERROR) if is_over else errno.ETIMEDOUT
    finally:
        if stopping is not None:
            stopping.cancel()
        writable.close()


def _reason(code: int) -> str:
    if code == errno.ECONNREFUSED:
        return "refused"
    return "timeout" if code == errno.ETIMEDOUT else "unreachable"
