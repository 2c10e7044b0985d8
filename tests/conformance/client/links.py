"""Links over TCP (docs/protocol.md, "Links: TCP"): the handshake, frames, and what travels in them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import deque
from typing import Any

from conformance.client import msgpack
from conformance.client.discovery import ANSWER_LIMIT_S, Place
from conformance.client.keys import Identity, is_signed, node_id
from conformance.client.noise import Cipher, Handshake

HELLO, ANNOUNCEMENT, PEER_REQUEST, PEER_RESPONSE, BLOCK, TRANSACTION, SYNC, HEARTBEAT, DISCONNECT = range(9)
REQUEST, ANSWER = 9, 10
UNSPECIFIED, SHUTTING_DOWN, TOO_MANY_PEERS, DUPLICATE_CONNECTION, SELF, WRONG_NETWORK = range(6)
INCOMPATIBLE_VERSION, PROTOCOL_ERROR, TIMEOUT, SLOW, REQUESTED, BANNED, SUBNET_LIMIT, USELESS = range(6, 14)
HAVE, WANT, DIGEST = range(3)
FLOOD, GOSSIP = range(2)

PROLOGUE = b"kodechain link v1"
KEY_CONTEXT = b"kodechain noise static key v1"
COMPRESSED, MORE_FOLLOWS = 1, 2
SEGMENT_ROOM = 65_535 - 17
HELLO_BODY = {
    "versions": [1],
    "client": "conformance/1",
    "network": "kodechain",
    "capabilities": ["gossip", "sync"],
    "ports": {"tcp": 0, "udp": 0},
}


class Ended(Exception):
    """The node has closed the connection."""


class Pace:
    """A node turns away who dials too often (docs/protocol.md, "Handshake"): a client stays below that, whatever the machine."""

    PER_S, BURST = 40.0, 80

    def __init__(self) -> None:
        self._due = 0.0

    def wait(self) -> None:
        now = time.monotonic()
        self._due = max(self._due, now - self.BURST / self.PER_S) + 1 / self.PER_S
        if self._due > now:
            time.sleep(self._due - now)


class Connection:
    """A TCP connection to the node, or one that it has made."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.stream.settimeout(ANSWER_LIMIT_S)
        self._reader = stream.makefile("rb")

    @classmethod
    def to(cls, place: Place) -> Connection:
        return cls(socket.create_connection((place.ip, place.tcp), ANSWER_LIMIT_S))

    def close(self) -> None:
        self._reader.close()
        self.stream.close()

    def write(self, data: bytes) -> None:
        """What a node that has closed does not read any more is no concern of the writer."""
        try:
            self.stream.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def read(self, size: int) -> bytes:
        """Raises Ended, also where the node has closed with something unread."""
        try:
            data = self._reader.read(size)
        except ConnectionResetError as error:
            raise Ended from error
        if len(data) < size:
            raise Ended
        return data

    def write_sized(self, message: bytes) -> None:
        self.write(len(message).to_bytes(2, "big") + message)

    def read_sized(self) -> bytes:
        return self.read(int.from_bytes(self.read(2), "big"))

    def is_closed(self) -> bool:
        """Waits for the node's next bytes; true if none come any more."""
        try:
            self.read(1)
        except Ended:
            return True
        return False


def proof(identity: Identity, static_public: bytes, context: bytes = KEY_CONTEXT) -> bytes:
    """The payload of the second and third message."""
    return identity.public + identity.sign(context + static_public)


def check_proof(payload: bytes, static_public: bytes) -> bytes:
    """The node id that it proves."""
    assert is_signed(payload[:32], payload[32:96], KEY_CONTEXT + static_public)
    return node_id(payload[:32])


def message(kind: int, body: Any) -> bytes:
    """`body`: bytes as they are, an object as JSON, anything else as MessagePack."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    elif not isinstance(body, bytes):
        body = msgpack.pack(body)
    return bytes((kind,)) + leb128(len(body)) + body


def leb128(number: int) -> bytes:
    packed = b""
    while number > 0x7F:
        packed += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return packed + bytes((number,))


def read_messages(content: bytes) -> list[tuple[int, bytes]]:
    messages, at = [], 0
    while at < len(content):
        kind, at = content[at], at + 1
        size = shift = 0
        while True:
            byte, at = content[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert at + size <= len(content)
        messages.append((kind, content[at : at + size]))
        at += size
    return messages


class Link:
    """A connection after its handshake. Until `begin`, no hello has been sent."""

    def __init__(self, connection: Connection, out: Cipher, into: Cipher, identity: Identity, peer_id: bytes) -> None:
        self.connection = connection
        self.identity = identity
        self.peer_id = peer_id
        self.hello: dict[str, Any] = {}
        self._out, self._in = out, into
        self._received: deque[tuple[int, bytes]] = deque()
        self.beats: list[list[int]] = []
        """Heartbeats that have come."""
        self._last_beat = 1000

    # -- out -------------------------------------------------------------------------------------------------------

    def segment(self, plaintext: bytes) -> bytes:
        sealed = self._out.encrypt(plaintext)
        return len(sealed).to_bytes(2, "big") + sealed

    def send_segment(self, flags: int, content: bytes = b"") -> None:
        self.connection.write(self.segment(bytes((flags,)) + content))

    def send_content(self, content: bytes, flags: int = 0) -> None:
        """A frame, in as many segments as it takes."""
        parts = [content[at : at + SEGMENT_ROOM] for at in range(0, len(content), SEGMENT_ROOM)] or [b""]
        for part in parts[:-1]:
            self.send_segment(flags | MORE_FOLLOWS, part)
        self.send_segment(flags, parts[-1])

    def send(self, kind: int, body: Any) -> None:
        self.send_content(message(kind, body))

    def ask(self, kind: int, body: Any, request_id: int = 7) -> tuple[int, Any]:
        """A request over the link: kind and body of its answer."""
        packed = body if isinstance(body, bytes) else msgpack.pack(body)
        self.send(REQUEST, bytes((kind,)) + request_id.to_bytes(4, "big") + packed)
        answer = self.next(ANSWER)
        assert int.from_bytes(answer[1:5], "big") == request_id
        return answer[0], msgpack.unpack(answer[5:])

    # -- in --------------------------------------------------------------------------------------------------------

    def receive(self) -> tuple[int, bytes]:
        """The next message. The node's heartbeats are answered on the way. Raises Ended."""
        while not self._received:
            self._received.extend(self._read_frame())
        kind, body = self._received.popleft()
        if kind == HEARTBEAT:
            self.beats.append(msgpack.unpack(body))
            direction, number = self.beats[-1]
            if direction == 0:
                self.send(HEARTBEAT, [1, number])
        return kind, body

    def _read_frame(self) -> list[tuple[int, bytes]]:
        content, flags = b"", MORE_FOLLOWS
        while flags & MORE_FOLLOWS:
            plaintext = self._in.decrypt(self.connection.read_sized())
            flags, content = plaintext[0], content + plaintext[1:]
            assert not flags & COMPRESSED, "cases are made so that nothing can shrink"
        return read_messages(content)

    def next(self, kind: int) -> bytes:
        """The body of the next message of that type; others are passed over."""
        while True:
            received, body = self.receive()
            assert received != DISCONNECT or kind == DISCONNECT, body
            if received == kind:
                return body

    def until_beat(self) -> list[tuple[int, bytes]]:
        """What comes until the node has taken all that was sent: it answers a heartbeat after that."""
        self._last_beat += 1
        self.send(HEARTBEAT, [0, self._last_beat])
        came = []
        while True:
            kind, body = self.receive()
            assert kind != DISCONNECT, body
            if kind == HEARTBEAT and msgpack.unpack(body) == [1, self._last_beat]:
                return came
            came.append((kind, body))

    def ending(self) -> int | None:
        """The reason that the node gives, once it has ended the link; None for none. Waits for it."""
        reason = None
        try:
            while True:
                kind, body = self.receive()
                if kind == DISCONNECT:
                    reason = msgpack.unpack(body)[0]
                    self.connection.stream.shutdown(socket.SHUT_WR)
        except (Ended, OSError):
            return reason

    def begin(self, body: Any = None) -> Link:
        """Hellos."""
        self.send(HELLO, HELLO_BODY if body is None else body)
        self.read_hello()
        return self

    def read_hello(self) -> None:
        kind, body = self.receive()
        assert kind == HELLO, (kind, body)
        self.hello = json.loads(body)

    def close(self) -> None:
        self.connection.close()


def shake_hands(connection: Connection, identity: Identity) -> Link:
    """The dialler's side; no hello yet."""
    noise = Handshake(True, PROLOGUE)
    connection.write_sized(noise.write())
    peer_id = check_proof(noise.read(connection.read_sized()), noise.remote_static)
    connection.write_sized(noise.write(proof(identity, noise.static_public)))
    return Link(connection, *noise.split(), identity, peer_id)


# -- broadcasts --------------------------------------------------------------------------------------------------------


class Envelope:
    """A block or transaction, signed. Its payload cannot be compressed unless it is given."""

    def __init__(
        self,
        kind: int = TRANSACTION,
        payload: bytes | None = None,
        mode: int = FLOOD,
        origin: Identity | None = None,
        late_s: float = 0.0,
    ) -> None:
        origin = origin or Identity()
        self.kind = kind
        self.payload = os.urandom(100) if payload is None else payload
        self.time_ms = int((time.time() - late_s) * 1000)
        head = origin.public + self.time_ms.to_bytes(8, "big") + os.urandom(8) + bytes((mode,))
        self.id = hashlib.sha256(bytes((kind,)) + head + hashlib.sha256(self.payload).digest()).digest()
        self.packed = head + origin.sign(b"kodechain broadcast v1" + self.id) + self.payload

    @property
    def slot(self) -> int:
        return self.time_ms // 10_000
