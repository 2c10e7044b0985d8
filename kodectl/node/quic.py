"""Streams over UDP paths, by QUIC: one endpoint for all connections that a socket's owner has, dialled and accepted.

The endpoint has no socket. Its owner gives it the datagrams that are for it (`is_quic`, `knows`) with the path they
came by, and functions that send.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kodectl.core.quic_admission import Admission, Admit, Refer, Retry
from kodectl.core.quic_connection import (
    Certificate,
    QuicCore,
    acceptor_configuration,
    dialler_configuration,
    pack_retry,
)
from kodectl.core.quic_paths import Path
from kodectl.node.quic_stream import QuicStream, Send
from kodectl.runtime.base import ConnectFailed, Runtime, Scope
from kodectl.wire.quic import destination_id, is_initial

log = logging.getLogger(__name__)

# qh3 warns of every connection that the other side ends, which is no trouble of ours.
logging.getLogger("quic").setLevel(logging.ERROR)

HANDSHAKE_LIMIT_S = 5.0
"""For a stranger's handshake: three round trips with some repetitions."""

_FOR_EVER = datetime.datetime(2020, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)
"""RFC 5280, section 4.1.2.5: no end. Nobody looks at it, and a clock that is wrong must not matter."""


def make_certificate(secret: bytes) -> Certificate:
    """Self-signed, for the Ed25519 key that is `secret` (32 random bytes)."""
    key = Ed25519PrivateKey.from_private_bytes(secret)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kodechain")])
    begin, end = _FOR_EVER
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end)
    return Certificate(
        builder.sign(key, None).public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


class QuicEndpoint:
    """`accept(stream)` runs in the hub for every connection that another side opened, and must not wait; None: nobody
    is let in. `reply(datagrams, path)` sends to whoever datagrams have come from by a path that was not given with a
    `send` of its own. When `scope` closes, so does the endpoint."""

    def __init__(
        self,
        runtime: Runtime,
        scope: Scope,
        accept: Callable[[QuicStream], None] | None,
        reply: Callable[[Sequence[bytes], Path], None],
    ) -> None:
        self.reply = reply
        self._runtime = runtime
        self._accept = accept
        self._admission = Admission(runtime.random_bytes(32))
        self._dialler = dialler_configuration()
        self._acceptor = acceptor_configuration(make_certificate(runtime.random_bytes(32)))
        self._by_id: dict[bytes, QuicStream] = {}
        self._ids: dict[QuicStream, set[bytes]] = {}
        self._half_open: set[QuicStream] = set()
        self._closed = False
        self.counters = self._admission.counters
        scope.on_close(self.close)

    @property
    def connections(self) -> int:
        """All there are, those whose handshake is under way and those that are being closed too."""
        return len(self._ids)

    @property
    def half_open(self) -> int:
        """Of others' connections, those whose handshake is under way."""
        return len(self._half_open)

    def knows(self, data: bytes) -> bool:
        """Whether a datagram names a connection of this endpoint: the only mark of the short packets, whose first byte
        they share with TURN's channels (RFC 9443)."""
        return destination_id(data) in self._by_id

    def is_quic(self, data: bytes) -> bool:
        """Whether a datagram is to be given to `received`: it names a connection, or asks for one."""
        return self.knows(data) or is_initial(data)

    def received(self, data: bytes, path: Path) -> None:
        """Takes a datagram, whatever it is; runs in the hub and does not wait."""
        connection_id = destination_id(data)
        stream = self._by_id.get(connection_id) if connection_id is not None else None
        if stream is not None:
            stream.receive(data, path)
        elif self._accept is not None and not self._closed and is_initial(data):
            self._knock(data, path)

    def connect(self, path: Path, send: Send, timeout_s: float) -> QuicStream:
        """Waits for a connection with who is at the other end of `path`. Raises ConnectFailed."""
        if self._closed:
            raise ConnectFailed("stopped")
        core = QuicCore.dial(self._dialler, path, self._runtime.now())
        stream = self._enter(core, path, send)
        stream.settle()
        if stream.wait_open(timeout_s):
            return stream
        reason, detail = ("timeout", "") if stream.end is None else ("refused", stream.end)
        stream.abort()
        stream.forget("not opened")
        raise ConnectFailed("stopped" if self._closed else reason, detail)

    def close(self) -> None:
        """Ends all connections without waiting; a last packet tells each other side."""
        self._closed = True
        for stream in list(self._ids):
            stream.abort()
            stream.forget("closed on this side")

    # Strangers

    def _knock(self, data: bytes, path: Path) -> None:
        now = self._runtime.now()
        counts = {"half_open": len(self._half_open), "connections": len(self._ids)}
        match self._admission.decide(data, path, now, **counts):
            case Admit() as admitted:
                self._answer(admitted, data, path, now)
            case Retry() as retry:
                self.reply([pack_retry(retry)], path)
            case Refer(answer):
                self.reply([answer], path)

    def _answer(self, admitted: Admit, data: bytes, path: Path, now: float) -> None:
        stream = self._enter(QuicCore.answer(self._acceptor, admitted, path, now), path, None)
        self._half_open.add(stream)
        # Until it knows the id that was chosen here, the client goes on using its own.
        self.id_issued(stream, admitted.retried_as or admitted.original)
        self._runtime.call_later(HANDSHAKE_LIMIT_S, lambda: self._give_up(stream))
        stream.receive(data, path)
        stream.settle()

    def _give_up(self, stream: QuicStream) -> None:
        if stream in self._half_open:
            self.counters["given_up"] += 1
            stream.abort()
            stream.forget("the handshake took too long")

    def _enter(self, core: QuicCore, path: Path, send: Send | None) -> QuicStream:
        stream = QuicStream(self._runtime, core, self, path, send)
        self._ids[stream] = set()
        return stream

    # What streams tell

    def opened(self, stream: QuicStream) -> None:
        if stream.dialled:
            return
        self._half_open.discard(stream)
        assert self._accept is not None
        try:
            self._accept(stream)
        except Exception:
            # As for TCP: a callback that fails costs the connection it was called for.
            log.exception("accepting a QUIC stream failed")
            stream.close()

    def gone(self, stream: QuicStream) -> None:
        for connection_id in self._ids.pop(stream, ()):
            self._by_id.pop(connection_id, None)
        self._half_open.discard(stream)

    def id_issued(self, stream: QuicStream, connection_id: bytes) -> None:
        ids = self._ids.get(stream)
        if ids is not None and connection_id not in self._by_id:
            ids.add(connection_id)
            self._by_id[connection_id] = stream

    def id_retired(self, connection_id: bytes) -> None:
        stream = self._by_id.pop(connection_id, None)
        if stream is not None:
            self._ids[stream].discard(connection_id)
