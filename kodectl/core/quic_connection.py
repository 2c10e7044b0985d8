"""One QUIC connection that carries one stream of bytes each way: qh3 behind an interface of ours.

The only module that knows qh3. Time comes in, datagrams and a deadline go out, and what happened is told by events.
The bytes that are ours on top of QUIC are in docs/protocol.md, "Links: QUIC".

TLS proves nothing here. The acceptor's certificate is self-signed and the dialler looks at none: who the other side is
shows in the Noise handshake that runs inside (node/handshake.py), and whoever sits in between can do no more than one
who cuts the cable.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from qh3.quic import events as qh3_events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.packet import encode_quic_retry

from kodectl.core.quic_admission import Admit, Retry
from kodectl.core.quic_credit import ReceiveCredit, SendCredit
from kodectl.core.quic_paths import Address, Path, Paths
from kodectl.errors import WireError
from kodectl.wire.quic import (
    ALPN,
    CONNECTION_ID_SIZE,
    CREDIT_STREAMS,
    CREDIT_WINDOW,
    DATA_STREAM,
    OPENING,
    VERSION_1,
    pack_limit,
    unpack_limits,
)

IDLE_LIMIT_S = 15.0
"""Without a sign of the other side, from the first packet that asks for one: it is gone."""
KEEPALIVE_S = 12.0
"""Of silence before a PING asks for a sign: below the 30 s after which many a NAT forgets, and with IDLE_LIMIT_S the
death of a path shows 15 to 27 s after it."""
DATAGRAM_SIZE = 1200
"""What every path carries (RFC 9000, section 14). Nothing larger is tried: behind tunnels and relays it would be lost."""
RECEIVE_WINDOW = 2 * CREDIT_WINDOW
"""What QUIC itself lets the other side send ahead. Credit is smaller, so this stops none but who ignores credit."""

MAX_EARLY = 8
"""Datagrams kept during the handshake, to be shown to the library again: it drops those that overtake the keys they
need, and then a whole flight would wait for its repetition. A flight has three or four."""

ENDED, BROKEN = 0, 1
"""The error codes of CONNECTION_CLOSE that are ours: in order, and against the rules of docs/protocol.md."""

_SERVER_NAME = "kodechain"
_ED25519, _ECDSA_P256, _RSA_PSS = 0x0807, 0x0403, 0x0804
_VERIFY_NOTHING = 0
"""ssl.CERT_NONE, which a core cannot import."""


class Certificate(NamedTuple):
    """What TLS wants of an acceptor, as PEM."""

    certificate: bytes
    key: bytes


class Opened(NamedTuple):
    """Both sides can write from now on."""


class Received(NamedTuple):
    data: bytes


class RoomMade(NamedTuple):
    """`write` may take more again."""


class Ended(NamedTuple):
    """Nothing more will be received, and nothing written is read any more."""

    why: str


class Gone(NamedTuple):
    """The connection needs neither packets nor time any more: it is to be forgotten."""


class IdIssued(NamedTuple):
    """Packets for this id are for this connection."""

    connection_id: bytes


class IdRetired(NamedTuple):
    connection_id: bytes


Event = Opened | Received | RoomMade | Ended | Gone | IdIssued | IdRetired


def dialler_configuration() -> QuicConfiguration:
    """To be shared by all connections of an endpoint."""
    configuration = _configuration(is_client=True)
    configuration.server_name = _SERVER_NAME
    configuration.verify_mode = _VERIFY_NOTHING
    configuration.verify_hostname = False
    configuration.signature_algorithms = [_ED25519, _ECDSA_P256, _RSA_PSS]
    return configuration


def acceptor_configuration(certificate: Certificate) -> QuicConfiguration:
    configuration = _configuration(is_client=False)
    configuration.load_cert_chain(certificate.certificate, certificate.key)
    return configuration


def _configuration(is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        connection_id_length=CONNECTION_ID_SIZE,
        idle_timeout=IDLE_LIMIT_S,
        max_data=RECEIVE_WINDOW,
        max_stream_data=RECEIVE_WINDOW,
        max_datagram_size=DATAGRAM_SIZE,
        probe_datagram_size=False,
        max_datagram_frame_size=0,
    )


def pack_retry(retry: Retry) -> bytes:
    question = retry.question
    return encode_quic_retry(VERSION_1, retry.new_id, question.source, question.destination, retry.token)


class QuicCore:
    """Dialled with `dial`, accepted with `answer`. After each call that can change something, look at `events`,
    `datagrams` and `next_deadline`. No method raises, whatever the other side sends; `faults` counts what the library
    could not take."""

    def __init__(self, connection: QuicConnection, path: Path, now: float, *, dialled: bool) -> None:
        self.dialled = dialled
        self.faults = 0
        self._connection = connection
        self._paths = Paths(path)
        self._events: list[Event] = [IdIssued(connection.host_cid)]
        self._sending = SendCredit()
        self._receiving = ReceiveCredit()
        self._limit_bytes = b""
        self._early: list[bytes] = []
        self._has_keys = False
        self._opened = False
        self._ended = False
        self._heard_at = now
        self._pinged_at = now
        self._pings = 0

    @classmethod
    def dial(cls, configuration: QuicConfiguration, path: Path, now: float) -> QuicCore:
        connection = QuicConnection(configuration=configuration)
        core = cls(connection, path, now, dialled=True)
        connection.connect(core._paths.stand_in(path), now)
        return core

    @classmethod
    def answer(cls, configuration: QuicConfiguration, admitted: Admit, path: Path, now: float) -> QuicCore:
        connection = QuicConnection(
            configuration=configuration,
            original_destination_connection_id=admitted.original,
            retry_source_connection_id=admitted.retried_as,
        )
        return cls(connection, path, now, dialled=False)

    # What comes in

    def receive(self, datagrams: list[bytes], path: Path, now: float) -> None:
        address = self._paths.heard(path, now)
        self._guarded(self._connection.receive_many_datagrams, datagrams, address, now)
        self._take_events(now)
        if self._early or not self._has_keys:
            self._show_again(datagrams, address, now)

    def _show_again(self, datagrams: list[bytes], address: Address, now: float) -> None:
        """The acceptor waits for the end of the handshake: before it, every byte that came in lets it send three, and
        none may count twice."""
        early, self._early = self._early, [] if self._has_keys else (self._early + datagrams)[:MAX_EARLY]
        if early and (self.dialled or self._has_keys):
            self._guarded(self._connection.receive_many_datagrams, early, address, now)
            self._take_events(now)

    def handle_deadline(self, now: float) -> None:
        """To be called at `next_deadline` or later."""
        timer = self._connection.get_timer()
        if timer is not None and timer <= now:
            self._guarded(self._connection.handle_timer, now)
            self._take_events(now)
        if now >= self._keepalive_at():
            self._ping(now)

    # What the owner wants

    def write(self, data: memoryview) -> int:
        """Takes as many bytes as credit and queue allow, and says how many; 0: wait for RoomMade."""
        if self._ended or not self._opened:
            return 0
        size = min(len(data), self._sending.room)
        if size > 0:
            self._send(DATA_STREAM, data[:size])
            self._sending.spend(size)
        return size

    def read(self, size: int) -> bool:
        """So many of the received bytes have been read; true when there is something to send for it."""
        limit = self._receiving.read(size)
        if limit is None or self._ended:
            return False
        self._send(CREDIT_STREAMS[self.dialled], pack_limit(limit))
        return True

    def finish(self) -> None:
        """Says that nothing more will be written or read. The other side closes the connection when it has all."""
        if self._opened and not self._ended:
            self._guarded(self._connection.send_stream_data, DATA_STREAM, b"", True)
        else:
            self.abort()

    def abort(self, code: int = ENDED, why: str = "") -> None:
        """Closes at once; what is under way is lost."""
        self._guarded(self._connection.close, code, None, why)
        self._end(why or "closed on this side")

    def move(self, path: Path, now: float) -> None:
        """Sends over `path` from now on, at once: what got lost on the former path shows by the answer."""
        self._paths.move(path)
        if self._opened:
            self._ping(now)

    @property
    def path(self) -> Path:
        """Over which it sends: the last that it was moved to, or the other side has gone to since."""
        return self._paths.path

    # What goes out

    def events(self) -> list[Event]:
        found, self._events = self._events, []
        return found

    def datagrams(self, now: float) -> list[tuple[Path, list[bytes]]]:
        """What is to be sent, in rows that go over one path."""
        rows: list[tuple[Path, list[bytes]]] = []
        for address, row in groupby(self._guarded(self._connection.datagrams_to_send, now) or (), itemgetter(1)):
            path = self._paths.behind(address)
            if path is not None:
                rows.append((path, [data for data, _ in row]))
        return rows

    def next_deadline(self) -> float | None:
        timer = self._connection.get_timer()
        if timer is None or not self._opened or self._ended:
            return timer
        return min(timer, self._keepalive_at())

    # Within

    def _keepalive_at(self) -> float:
        if not self._opened or self._ended:
            return float("inf")
        return max(self._heard_at, self._pinged_at) + KEEPALIVE_S

    def _ping(self, now: float) -> None:
        self._pinged_at = now
        self._pings += 1
        self._guarded(self._connection.send_ping, self._pings)

    def _take_events(self, now: float) -> None:
        while (event := self._connection.next_event()) is not None:
            self._heard_at = now
            try:
                self._take(event)
            except WireError as error:
                self.abort(BROKEN, str(error))

    def _take(self, event: qh3_events.QuicEvent) -> None:
        """Raises WireError for what is against our rules."""
        match event:
            case qh3_events.StreamDataReceived():
                self._take_data(event.stream_id, event.data, event.end_stream)
            case qh3_events.HandshakeCompleted():
                self._has_keys = True
                if self.dialled:
                    self._send(DATA_STREAM, OPENING)
                    self._sending.spend(len(OPENING))
                    self._open()
            case qh3_events.ConnectionIdIssued():
                self._events.append(IdIssued(event.connection_id))
            case qh3_events.ConnectionIdRetired():
                self._events.append(IdRetired(event.connection_id))
            case qh3_events.StreamReset() | qh3_events.StopSendingReceived():
                raise WireError("a stream was reset")
            case qh3_events.ConnectionTerminated():
                self._end(event.reason_phrase or "the connection ended")
                self._events.append(Gone())

    def _take_data(self, stream: int, data: bytes, is_last: bool) -> None:
        if self._ended:
            return
        if stream == DATA_STREAM:
            self._receiving.arrive(len(data))
            self._take_bytes(data)
            if is_last:
                self.abort(ENDED, "ended by the other side")
        elif stream == CREDIT_STREAMS[not self.dialled]:
            self._take_limits(data)
        else:
            raise WireError(f"data on stream {stream}, which has no meaning here")

    def _take_bytes(self, data: bytes) -> None:
        if not self._opened and data:
            if data[:1] != OPENING:
                raise WireError("the data stream begins with another version")
            self._open()
            self.read(len(OPENING))
            data = data[len(OPENING) :]
        if data:
            self._events.append(Received(data))

    def _take_limits(self, data: bytes) -> None:
        limit, self._limit_bytes = unpack_limits(self._limit_bytes + data)
        if limit is not None:
            self._sending.grant(limit)
            self._events.append(RoomMade())

    def _open(self) -> None:
        self._opened = True
        self._events.append(Opened())

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._events.append(Ended(why))

    def _send(self, stream: int, data: bytes | memoryview) -> None:
        self._guarded(self._connection.send_stream_data, stream, data)

    def _guarded(self, call: Callable[..., Any], *args: Any) -> Any:
        """Calls the library. What strangers send reaches it unfiltered, and nothing it raises may end more than the
        packet at hand; a connection that it has broken ends by its idle limit."""
        try:
            return call(*args)
        except Exception:
            self.faults += 1
            return None
