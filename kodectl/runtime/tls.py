"""TLS, asking side, over any stream: for servers of others that are reached so (TURN). Nodes among themselves speak Noise.

OpenSSL works on memory alone; records are read from the stream one at a time, each says how long it is (RFC 8446, section
5.1): type (1) | version (2) | length (2) | fragment
"""

from __future__ import annotations

import ssl

from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import Address, ConnectFailed, Runtime, Stream, StreamClosed

RECORD_HEADER_SIZE = 5
MAX_RECORD = 16_384 + 2_048
"""TLS 1.2's (RFC 5246, section 6.2.3); TLS 1.3 has less."""
WRITE_SIZE = 65_536
"""Sealed before it is written: four records, so that a large write is not in memory twice."""


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """Verifies names and certificates, with the system's authorities (or those of SSL_CERT_FILE) or with `ca_file` alone.
    Reads files: not for the hub. Raises EnvironmentFault (ca_unreadable)."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one of them
        raise EnvironmentFault(
            f"cannot use {ca_file or 'the authorities of this machine'}: {error.strerror or error}",
            code="ca_unreadable",
            hint="a file of certificates in PEM form",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that writing never has to read first
    return context


class TlsStream:
    """See `runtime.base.Stream`; usable after `shake_hands`. Ends with its stream."""

    def __init__(self, stream: Stream, context: ssl.SSLContext, name: str) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._plain = bytearray()
        self._is_flushing = False

    @property
    def local(self) -> Address:
        return self._stream.local

    @property
    def remote(self) -> Address:
        return self._stream.remote

    def shake_hands(self) -> None:
        """Raises ssl.SSLError, and StreamClosed."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
                continue
            self._flush()
            return

    def read_exactly(self, size: int) -> bytes:
        while len(self._plain) < size:
            self._plain += self._receive()
        data = bytes(self._plain[:size])
        del self._plain[:size]
        return data

    def _receive(self) -> bytes:
        while True:
            try:
                data = self._tls.read(MAX_RECORD)
            except ssl.SSLWantReadError:
                self._flush()  # the answer to a change of keys
                self._feed()
                continue
            except ssl.SSLError as error:
                raise self._broken(error) from error
            if not data:
                raise StreamClosed("ended by the other side")
            return data

    def _feed(self) -> None:
        """One record, or what is left to OpenSSL to refuse."""
        header = self._stream.read_exactly(RECORD_HEADER_SIZE)
        size = int.from_bytes(header[3:5])
        body = self._stream.read_exactly(size) if size <= MAX_RECORD else b""
        self._incoming.write(header + body)
        if size > MAX_RECORD:
            self._incoming.write_eof()

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), WRITE_SIZE):
            view = memoryview(data)[at : at + WRITE_SIZE]
            while view:
                try:
                    view = view[self._tls.write(view) :]
                except ssl.SSLError as error:
                    raise self._broken(error) from error
            self._flush()

    def _flush(self) -> None:
        """One task at a time: what the other has sealed meanwhile goes with it, in its order."""
        if self._is_flushing:
            return
        self._is_flushing = True
        try:
            while self._outgoing.pending:
                self._stream.write(self._outgoing.read())
        finally:
            self._is_flushing = False

    def _broken(self, error: ssl.SSLError) -> StreamClosed:
        self.close()
        return StreamClosed(f"TLS: {error.reason or error}")

    def close(self) -> None:
        """Without a farewell: what is spoken over it knows its own end."""
        self._stream.close()


def connect_tls(runtime: Runtime, remote: Address, timeout_s: float, name: str, context: ssl.SSLContext) -> TlsStream:
    """Dials, and shakes hands. Raises ConnectFailed."""
    ends = runtime.now() + timeout_s
    stream = runtime.connect(remote, timeout_s)
    limit = runtime.call_later(max(0.0, ends - runtime.now()), stream.close)
    try:
        secured = TlsStream(stream, context, name)
        secured.shake_hands()
        return secured
    except ssl.SSLCertVerificationError as error:
        stream.close()
        raise ConnectFailed("untrusted", error.verify_message) from error
    except ssl.SSLError as error:
        stream.close()
        raise ConnectFailed("unreachable", f"TLS: {error.reason or error}") from error
    except StreamClosed as error:
        stream.close()
        if runtime.now() >= ends:
            raise ConnectFailed("timeout", "no end of the TLS handshake") from error
        raise ConnectFailed("unreachable", f"the TLS handshake was cut off: {error}") from error
    finally:
        limit.cancel()
