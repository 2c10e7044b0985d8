"""A foreign QUIC implementation (aioquic) that follows docs/protocol.md, "Links: QUIC", from its text: data stream with
its opening byte, limits on the credit streams. It shares no code with kodectl but the runtime's sockets and timers."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kodectl.runtime.base import Address, Runtime, Timer

WINDOW = 1 << 20


def configuration(*, is_client: bool) -> QuicConfiguration:
    made = QuicConfiguration(is_client=is_client, alpn_protocols=["kodechain/1"], verify_mode=ssl.CERT_NONE)
    if not is_client:
        made.private_key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "foreign")])
        begin, end = datetime.datetime(2020, 1, 1), datetime.datetime(2050, 1, 1)
        builder = x509.CertificateBuilder(name, name, made.private_key.public_key(), 1, begin, end)
        made.certificate = builder.sign(made.private_key, hashes.SHA256())
    return made


class AioquicPeer:
    """One connection, dialled to `remote`, or accepted where there is none. `received` is the data stream without its
    opening byte; it is read at once. `holds`: nothing is read, so no limits are sent."""

    def __init__(self, runtime: Runtime, ip: str, remote: Address | None = None) -> None:
        self.runtime = runtime
        self.received = bytearray()
        self.holds = False
        self.ended: str | None = None
        self.arrived = runtime.event()
        self.limit = WINDOW
        self.retried = False
        self._total = 0
        self._told = WINDOW
        self._sent = 0
        self._queue = bytearray()
        self._limits = b""
        self._dials = remote is not None
        self._opened = False
        self._timer: Timer | None = None
        self._quic: QuicConnection | None = None
        self._peer = remote
        self._configuration = configuration(is_client=self._dials)
        self.socket = runtime.open_datagram((ip, 0), self._receive)
        if remote is not None:
            self._quic = QuicConnection(configuration=self._configuration)
            self._quic.connect(remote, runtime.now())
            self._settle()

    def _receive(self, data: bytes, sender: Address) -> None:
        if self._quic is None:
            header = pull_quic_header(Buffer(data=data), host_cid_length=8)
            self._peer = sender
            self._quic = QuicConnection(
                configuration=self._configuration, original_destination_connection_id=header.destination_cid
            )
        self._quic.receive_datagram(data, sender, self.runtime.now())
        self._settle()

    def write(self, data: bytes) -> None:
        self._queue += data
        self._settle()

    def ping(self) -> None:
        assert self._quic is not None
        self._quic.send_ping(1)
        self._settle()

    def read_on(self) -> None:
        self.holds = False
        self._tell_limit()
        self._settle()

    def break_rules(self, act: Callable[[QuicConnection], Any]) -> None:
        assert self._quic is not None
        act(self._quic)
        self._settle()

    def finish(self) -> None:
        assert self._quic is not None
        self._quic.send_stream_data(0, b"", end_stream=True)
        self._settle()

    def _settle(self) -> None:
        assert self._quic is not None
        while (event := self._quic.next_event()) is not None:
            self._happened(event)
        room = self.limit - self._sent
        if self._opened and self._queue and room > 0:
            piece = bytes(self._queue[:room])
            del self._queue[:room]
            self._sent += len(piece)
            self._quic.send_stream_data(0, piece)
        for data, address in self._quic.datagrams_to_send(self.runtime.now()):
            self.socket.send(data, address)
        if self._timer is not None:
            self._timer.cancel()
        at = self._quic.get_timer()
        if at is not None:
            self._timer = self.runtime.call_later(max(0.0, at - self.runtime.now()), self._time_has_come)

    def _time_has_come(self) -> None:
        assert self._quic is not None
        self._timer = None
        self._quic.handle_timer(self.runtime.now())
        self._settle()

    def _happened(self, event: events.QuicEvent) -> None:
        assert self._quic is not None
        if isinstance(event, events.HandshakeCompleted) and self._dials:
            self._quic.send_stream_data(0, b"\x01")
            self._sent += 1
            self._opened = True
        elif isinstance(event, events.StreamDataReceived) and event.stream_id == 0:
            self._take(event.data)
        elif isinstance(event, events.StreamDataReceived):
            self._limits += event.data
            if len(self._limits) >= 8:
                whole = len(self._limits) // 8 * 8
                self.limit = int.from_bytes(self._limits[whole - 8 : whole])
                self._limits = self._limits[whole:]
        elif isinstance(event, events.ConnectionTerminated):
            self.ended = f"{event.error_code} {event.reason_phrase}".strip()
            self.arrived.set()

    def _take(self, data: bytes) -> None:
        self._total += len(data)
        if not self._dials and not self._opened and data:
            assert data[:1] == b"\x01"
            data = data[1:]
            self._opened = True
        self.received += data
        self._tell_limit()
        self.arrived.set()

    def _tell_limit(self) -> None:
        if not self.holds and self._total + WINDOW - self._told >= WINDOW // 2:
            self._told = self._total + WINDOW
            assert self._quic is not None
            self._quic.send_stream_data(2 if self._dials else 3, self._told.to_bytes(8))

    def wait(self, condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
        deadline = self.runtime.now() + limit_s
        while not condition() and self.runtime.now() < deadline:
            self.arrived.clear()
            self.arrived.wait(0.5)
        return condition()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.socket.close()
