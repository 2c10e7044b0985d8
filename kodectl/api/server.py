"""pywsgi with limits: times, header sizes, number of connections, and problem details for what it refuses itself.

A connection is in one of the phases below, each with a limit. One sweeper per server looks for those over their limit
and closes their reading side (a late request then gets its 408) or the whole connection.
"""

from __future__ import annotations

import io
import logging
import re
import socket as stdlib_socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol

import gevent
from gevent import socket
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIHandler, WSGIServer

from kodectl.api.chunks import Chunks
from kodectl.api.problems import internal_fault, raw_response
from kodectl.errors import EnvironmentFault, KodectlError, LocalMisuse
from kodectl.node.events import Waiter
from kodectl.runtime.base import Scope
from kodectl.runtime.streams import EXHAUSTED

log = logging.getLogger("kodectl.api")

MAX_CONNECTIONS = 128
"""Open at a time, about 60 kB each with buffers. Local clients need a handful; a dashboard per operator some more."""
SPARE_CONNECTIONS = 16
"""Over the limit, only long enough to be told so."""
ACCEPT_PAUSE_S = 0.2
"""Rest after running out of descriptors, while the connection that was closed for it lets go of its own."""
TELL_AGAIN_S = 60.0
"""Of having run out, which whoever presses in can cause five times a second."""

IDLE_LIMIT_S = 60.0
"""Between two requests of a kept connection."""
HEADER_LIMIT_S = 10.0
"""From the first byte of a request to the end of its header: slow headers hold a place no longer than this."""
BODY_LIMIT_S = 30.0
"""For a whole body: 5.6 MB (a block) at 200 kB/s."""
WRITE_LIMIT_S = 30.0
"""For one response to a client that reads slowly or not at all."""
LINGER_LIMIT_S = 1.0
"""After a refusal with the body unread: time for the client to read it, since closing at once would reset it away."""
LINGER_BYTES = 256 * 1024
"""What is thrown away meanwhile, at most."""
SWEEP_S = 0.5
"""How exact the limits above are."""

MAX_HEADER_BYTES = 16 * 1024
"""All header lines together; browsers stay under 8 kB."""
MAX_HEADER_LINES = 99
"""Browsers send 20; http.client, which parses them, takes 100 with the empty one."""

FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r?\n)*\r?\n")
"""A header whose lines are name, colon and value (RFC 9112, section 5): no line is folded, no space stands before a colon, no
CR or NUL in a value. What others read otherwise is refused, and not mended."""

ABSOLUTE = re.compile(r"http://(?P<authority>[^/?#]+)(?P<rest>[^#]*)", re.IGNORECASE)
"""A request target in absolute form. The host is looked at as one of the header is."""

ONE_SEND_BYTES = 64 * 1024
"""Up to this size copying the body behind its head is cheaper than a second system call."""

NEVER = float("inf")
READABLE = 1
"""To gevent's loop."""


class Upgrade(Protocol):
    """What a connection becomes when the application has set it as the handler's `upgrade` and answered 101."""

    @property
    def head(self) -> bytes:
        """The whole head of the answer."""
        ...

    def serve(self, sock: socket.socket, early: bytes) -> None:
        """Runs the connection to its end, with limits of its own. `early` is what has been read of it already."""
        ...

    def stop(self) -> None:
        """The server stops: `serve` is to end soon. Does not wait."""
        ...

    def ended(self) -> None:
        """It is over, even if `serve` was never called."""
        ...


class ApiServer(WSGIServer):
    """Serves `application` on a listening socket."""

    def __init__(self, listener: Any, application: Callable[..., Any], *, unix: bool) -> None:
        # With the name given, pywsgi does not ask the DNS for one.
        environ = {"SERVER_NAME": "localhost", "SERVER_PORT": "0", "kodectl.unix": unix}
        super().__init__(
            listener,
            application,
            log=None,
            error_log=log,
            handler_class=ApiHandler,
            spawn=Pool(MAX_CONNECTIONS + SPARE_CONNECTIONS),
            environ=environ,
        )
        self.connections: set[ApiHandler] = set()
        self._tell_at = 0.0

    def start_in(self, scope: Scope) -> None:
        self.start()
        scope.spawn("api sweeper", self._sweep, scope)

    def _sweep(self, scope: Scope) -> None:
        while not self.closed:
            scope.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in [one for one in self.connections if one.deadline <= now]:
                connection.cut()

    def do_read(self) -> Any:
        """Accepts. Out of descriptors gevent would print a traceback at each try, and close nothing."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self._rest(error)
            return None

    def _rest(self, error: OSError) -> None:
        now = time.monotonic()
        if now >= self._tell_at:
            log.warning("the API can accept nobody else: %s", error.strerror)
            self._tell_at = now + TELL_AGAIN_S
        self._close_an_idle_one()
        self.stop_accepting()
        self._timer = self.loop.timer(ACCEPT_PAUSE_S)
        self._timer.start(self._start_accepting_if_started)

    def handle(self, sock: socket.socket, address: Any) -> None:
        connection = ApiHandler(sock, address, self)
        room = len(self.connections) < MAX_CONNECTIONS or self._close_an_idle_one()
        self.connections.add(connection)
        try:
            if room:
                connection.handle()
            else:
                connection.refuse(EnvironmentFault("too many connections to the API", code="busy"))
        except OSError as error:
            log.debug("connection ended: %s", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            self.connections.discard(connection)
            if connection.upgrade is not None:
                connection.upgrade.ended()

    def _close_an_idle_one(self) -> bool:
        """Makes room: the connection that has waited longest for a request, or inside one, goes."""
        waiting = [one for one in self.connections if one.waiting]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.waiting_since)
        self.connections.discard(oldest)
        oldest.cut()
        return True

    def stop(self, timeout: float | None = None) -> None:
        """Closes the listener, lets answers under way finish for `timeout` seconds, then ends the rest."""
        self.close()
        for connection in list(self.connections):
            if connection.waiting:
                connection.cut()
            elif connection.upgrade is not None:
                connection.upgrade.stop()
        self.pool.join(timeout=timeout)
        for connection in list(self.connections):
            connection.cut(both=True)


class ApiHandler(WSGIHandler):
    """One connection: pywsgi's handler with limits on time and size at every place where it waits for the client."""

    server: ApiServer
    wsgi_input: Any
    path: str

    def __init__(self, sock: socket.socket, address: Any, server: ApiServer) -> None:
        super().__init__(sock, address, server)
        self.deadline = NEVER
        self.waiting = True
        """For a request, or in the middle of its header."""
        self.waiting_since = time.monotonic()
        self._writing = False
        self._late = False
        self._lengths: list[str] = []
        self._body: Body | None = None
        self.upgrade: Upgrade | None = None
        self._upgraded = False

    def cut(self, both: bool = False) -> None:
        """Ends a wait from outside: a reader sees the end of its input, and can still answer; a writer is cut off."""
        self.deadline = NEVER
        self._late = True
        how = stdlib_socket.SHUT_RDWR if self._writing or both else stdlib_socket.SHUT_RD
        try:
            self.socket.shutdown(how)
        except (OSError, AttributeError):
            pass  # The client was faster, and pywsgi has dropped the socket.

    def refuse(self, error: KodectlError) -> None:
        """One response without having read a request."""
        self.waiting = False
        self._send(raw_response(error))
        self.linger()

    def handle_one_request(self) -> Any:
        self.waiting = True
        self.waiting_since = time.monotonic()
        self.deadline = self.waiting_since + IDLE_LIMIT_S
        if not self._request_begins():
            return None
        self.deadline = time.monotonic() + HEADER_LIMIT_S
        result = super().handle_one_request()
        if self._upgraded:
            self._serve_upgraded()
            return None
        if not isinstance(result, tuple):
            return result
        code, response = result
        if code == "414":
            response = raw_response(LocalMisuse("the request line is too long", code="uri_too_long"))
        self._send(response)
        self.linger()
        return None

    def _serve_upgraded(self) -> None:
        """From here on nothing of HTTP holds, its limits neither."""
        assert self.upgrade is not None, "only an upgrade upgrades"
        self.socket.settimeout(0)
        early = self.rfile.read1(MAX_HEADER_BYTES)
        self.upgrade.serve(self.socket, early)

    @contextmanager
    def watched(self, waiter: Waiter) -> Iterator[Callable[[], bool]]:
        """While the application waits for something that may take long: sets `waiter` when the client closes its side. What is
        given is true until then."""
        readable = False

        def look() -> None:
            nonlocal readable
            readable = True
            watcher.stop()
            waiter.set()

        watcher = gevent.get_hub().loop.io(self.socket.fileno(), READABLE)
        watcher.start(look)
        try:
            yield lambda: not (readable and self._has_ended())
        finally:
            watcher.stop()
            watcher.close()

    def _has_ended(self) -> bool:
        """Of a connection that can be read: at its end, not at the next request."""
        try:
            return not self.socket.recv(1, stdlib_socket.MSG_PEEK)
        except OSError:
            return True

    def _request_begins(self) -> bool:
        try:
            return bool(self.rfile.peek(1))
        except (OSError, ValueError):
            return False

    def read_requestline(self) -> str:
        """After one empty line at most: clients of old send one behind a body (RFC 9112, section 2.2)."""
        line: str = super().read_requestline()
        return super().read_requestline() if line in ("\r\n", "\n") else line

    def read_request(self, raw_requestline: str) -> bool:
        if not raw_requestline.endswith("\n"):
            raise self._early_end()
        if len(raw_requestline.split()) != 3:
            raise LocalMisuse("the request line is not METHOD TARGET HTTP/1.1", code="malformed_request")
        ok: bool = super().read_request(raw_requestline)
        self._check_framing()
        self._take_absolute_target()
        return ok

    def _take_absolute_target(self) -> None:
        """A whole URL, as for a proxy, names the host too, and better than the header does (RFC 9112, section 3.2.2)."""
        target = ABSOLUTE.fullmatch(self.path)
        if target is None:
            return
        del self.headers["Host"]
        self.headers["Host"] = target["authority"]
        self.path = target["rest"] if target["rest"].startswith("/") else f"/{target['rest']}"

    def MessageClass(self, *args: Any) -> Any:
        message = super().MessageClass(io.BytesIO(self._read_header_lines()))
        # pywsgi drops them where the body is chunked. Spaces after a value are none of it (RFC 9112, section 5.1).
        self._lengths = [text.strip(" \t") for text in message.get_all("content-length", [])]
        return message

    def _read_header_lines(self) -> bytes:
        """Up to the empty line, bounded as a whole. What ends before it is no request, though pywsgi would serve it."""
        lines = bytearray()
        for number in count():
            line = self.rfile.readline(MAX_HEADER_BYTES - len(lines) + 1)
            lines += line
            if len(lines) > MAX_HEADER_BYTES:
                raise LocalMisuse(f"the header has more than {MAX_HEADER_BYTES} bytes", code="headers_too_large")
            if not line.endswith(b"\n"):
                raise self._early_end()
            if line in (b"\r\n", b"\n"):
                break
            if number >= MAX_HEADER_LINES:
                raise LocalMisuse(f"the header has more than {MAX_HEADER_LINES} lines", code="headers_too_large")
        if FIELDS.fullmatch(lines) is None:
            raise LocalMisuse("a header line is not NAME: VALUE", code="malformed_request")
        return bytes(lines)

    def _early_end(self) -> LocalMisuse:
        if self._late:
            return LocalMisuse(f"the header took more than {HEADER_LIMIT_S:g} seconds", code="request_timeout")
        return LocalMisuse("the request ended early", code="malformed_request")

    def _check_framing(self) -> None:
        """One reading of where the body ends (RFC 9112, section 6.3) and of who is asked (section 3.2), or none."""
        codings = self.headers.get_all("transfer-encoding", [])
        lengths = self._lengths
        hosts = self.headers.get_all("host", [])
        if len(codings) > 1 or (codings and lengths):
            raise LocalMisuse("the request says twice where its body ends", code="malformed_request")
        if codings and codings[0].strip().lower() != "chunked":
            raise LocalMisuse("bodies come plain or chunked", code="transfer_encoding_not_supported")
        if codings and self.request_version == "HTTP/1.0":
            raise LocalMisuse("HTTP/1.0 has no chunks", code="malformed_request")
        if len(set(lengths)) > 1 or any(not (text.isascii() and text.isdigit()) for text in lengths):
            raise LocalMisuse("the Content-Length is not one number", code="malformed_request")
        if len(hosts) > 1 or any("," in host for host in hosts) or not (hosts or self.request_version == "HTTP/1.0"):
            raise LocalMisuse("the request does not name one Host", code="malformed_request")

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        # The header stands; from here the client is waited for only while its body is read and the answer written.
        self.waiting = False
        self.deadline = NEVER
        # Not environ["wsgi.input"]: for whoever asks for an upgrade that is the connection itself, without an end.
        source = self.wsgi_input
        self._body = Body(self, Chunks(self.rfile, source._send_100_continue) if source.chunked_input else source)
        environ["wsgi.input"] = self.wsgi_input = self._body
        environ["kodectl.connection"] = self
        return environ

    def finalize_headers(self) -> None:
        super().finalize_headers()
        if self._body is not None and self._body.unread:
            self.close_connection = True
            self.response_headers.append((b"Connection", b"close"))

    def _write_with_headers(self, data: bytes) -> None:
        """As pywsgi's, with a small answer in one send together with its head: a sixth of the time of a request."""
        self.headers_sent = True
        if self.upgrade is not None and self.code == 101:
            self._sendall(self.upgrade.head)
            self._upgraded = True
            return
        self.finalize_headers()
        lines = [b"HTTP/1.1 " + self.status, *(name + b": " + value for name, value in self.response_headers), b"\r\n"]
        head = b"\r\n".join(lines)
        if self.response_use_chunked or len(data) > ONE_SEND_BYTES:
            self._sendall(head)
            self._write(data)
        else:
            self._sendall(head + data)

    def _sendall(self, data: bytes) -> None:
        self._send(data)
        self.response_length += len(data)

    def _send(self, data: bytes) -> None:
        self.deadline = time.monotonic() + WRITE_LIMIT_S
        self._writing = True
        self.socket.sendall(data)
        self._writing = False
        self.deadline = NEVER

    def linger(self) -> None:
        """Throws away for a moment what the client still sends, so that it gets to read why it was refused."""
        self.deadline = time.monotonic() + LINGER_LIMIT_S
        self._writing = False
        left = LINGER_BYTES
        try:
            self.socket.shutdown(stdlib_socket.SHUT_WR)
            while left > 0 and (data := self.socket.recv(min(left, 65_536))):
                left -= len(data)
        except OSError:
            pass

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        if isinstance(ex, KodectlError):
            error = ex
        elif isinstance(ex, OSError):  # gevent ends a wait on a socket that `cut` has shut down in this way.
            error = self._early_end()
        else:
            error = LocalMisuse("the request is not HTTP/1.1", code="malformed_request")
        log.debug("refused a request from %s: %s", self.client_address or "the unix socket", error.message)
        return error.code, raw_response(error)

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        log.error("a request failed", exc_info=(t, v, tb))
        self._send_error_response_if_possible(500)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        self.close_connection = True
        if self.headers_sent or self.response_length:
            return
        error = internal_fault() if error_code == 500 else LocalMisuse("malformed body", code="malformed_request")
        self._sendall(raw_response(error))

    def log_request(self) -> None:
        """No access log: formatting one takes as long as an answer."""


class Body:
    """The body of one request: reading it is timed, and what the application leaves is not read in its place."""

    def __init__(self, connection: ApiHandler, source: Input | Chunks) -> None:
        self._connection = connection
        self._source = source

    def read(self, size: int | None = None) -> bytes:
        self._connection.deadline = time.monotonic() + BODY_LIMIT_S
        data: bytes = self._source.read(size)
        self._connection.deadline = NEVER
        return data

    @property
    def unread(self) -> bool:
        if isinstance(self._source, Chunks):
            return not self._source.ended
        return bool(self._source.position < (self._source.content_length or 0))

    def _discard(self) -> None:
        """pywsgi calls this after each response; its own would read on to the end, be it a gigabyte."""
        if self.unread:
            self._connection.linger()
