"""Discovery over UDP, from the side that begins: A of the drawing in docs/protocol.md, "Discovery: UDP"."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from conformance.client import msgpack
from conformance.client.keys import Identity, is_signed, node_id
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HAIL, CHALLENGE, HANDSHAKE, MESSAGE, RESET, KNOCK = range(0x08, 0x0E)
ERROR, PING, PONG, FIND_NODE, NODES, STORE, STORED, FIND_VALUE, VALUES, PEER_REQUEST, PEER_RESPONSE = range(11)
SIGNAL, SIGNALLED, PROBE, PROBED, RELAY, RELAYED = range(11, 17)
UNKNOWN_KIND, MALFORMED, BUSY, REFUSED = range(1, 5)

CLIENT = 1
"""The flag of who is not to be entered into routing tables."""
PACKET_LIMIT = 1232
ANSWER_LIMIT_S = 15.0
"""What has to come comes at once; a busy machine may take its time."""


@dataclass(frozen=True)
class Place:
    """A node under test, as its enode tells."""

    id: bytes
    ip: str
    tcp: int
    udp: int


@dataclass(frozen=True)
class Challenge:
    packed: bytes

    @property
    def version(self) -> int:
        return self.packed[1]

    @property
    def nonce(self) -> bytes:
        return self.packed[4:20]

    @property
    def cookie(self) -> bytes:
        return self.packed[20:44]

    @property
    def public(self) -> bytes:
        return self.packed[44:76]

    @property
    def prekey(self) -> bytes:
        return self.packed[76:108]

    @property
    def expiry(self) -> int:
        return int.from_bytes(self.packed[108:116], "big")

    @property
    def tcp_port(self) -> int:
        return int.from_bytes(self.packed[116:118], "big")

    def is_signed(self) -> bool:
        statement = b"kodechain discovery prekey v1" + self.packed[2:3] + self.packed[76:120]
        return is_signed(self.public, self.packed[120:184], statement)


class Session:
    """The keys of one handshake, for A or for B."""

    def __init__(self, secret: bytes, salt: bytes, id_a: bytes, id_b: bytes, begun: bool = True) -> None:
        okm = hkdf(secret, salt, b"kodechain discovery session v1" + id_a + id_b, 72)
        ours = AESGCM(okm[0:16]), okm[32:36], okm[40:48]
        others = AESGCM(okm[16:32]), okm[36:40], okm[48:56]
        if not begun:
            ours, others = others, ours
        self._out, self._iv_out, self.sid_out = ours
        self._in, self._iv_in, self.sid_in = others
        self.next_counter = 1 if begun else 0

    def seal_first(self, request: bytes, head: bytes) -> bytes:
        return self._out.encrypt(self._iv_out + bytes(8), request, head)

    def seal(self, message: bytes, counter: int | None = None) -> bytes:
        if counter is None:
            counter, self.next_counter = self.next_counter, self.next_counter + 1
        head = bytes((MESSAGE,)) + self.sid_out + counter.to_bytes(8, "big")
        return head + self._out.encrypt(self._iv_out + head[9:], message, head)

    def open_first(self, sealed: bytes, head: bytes) -> bytes:
        return self._in.decrypt(self._iv_in + bytes(8), sealed, head)

    def open(self, packet: bytes) -> bytes:
        assert packet[:9] == bytes((MESSAGE,)) + self.sid_in
        return self._in.decrypt(self._iv_in + packet[9:17], packet[17:], packet[:17])


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, with SHA-256."""
    key = hmac.new(salt, secret, hashlib.sha256).digest()
    okm = block = b""
    while len(okm) < size:
        block = hmac.new(key, block + info + bytes((len(okm) // 32 + 1,)), hashlib.sha256).digest()
        okm += block
    return okm[:size]


def message(kind: int, request_id: int, body: Any) -> bytes:
    """`body`: bytes as they are, anything else as MessagePack."""
    return bytes((kind,)) + request_id.to_bytes(4, "big") + (body if isinstance(body, bytes) else msgpack.pack(body))


def read_message(plain: bytes) -> tuple[int, int, Any]:
    """Kind, request id and body; JSON stays text."""
    body = plain[5:] if plain[0] in (PEER_REQUEST, PEER_RESPONSE) else msgpack.unpack(plain[5:])
    return plain[0], int.from_bytes(plain[1:5], "big"), body


class Peer:
    """A socket and what is said over it. `session` is the newest one."""

    def __init__(self, place: Place, identity: Identity | None = None) -> None:
        self.place = place
        self.identity = identity or Identity()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((place.ip, 0))
        self.socket.settimeout(ANSWER_LIMIT_S)
        self.port: int = self.socket.getsockname()[1]
        self.nonce = os.urandom(16)
        self.ephemeral = X25519PrivateKey.generate()
        self.session: Session
        self.signals: list[Any] = []
        self._last_id = 100

    def close(self) -> None:
        self.socket.close()

    # -- packets ---------------------------------------------------------------------------------------------------

    def send(self, packet: bytes) -> None:
        self.socket.sendto(packet, (self.place.ip, self.place.udp))

    def receive(self) -> bytes:
        packet, sender = self.socket.recvfrom(65_536)
        assert sender == (self.place.ip, self.place.udp)
        assert len(packet) <= PACKET_LIMIT
        return packet

    def exchange(self, packet: bytes) -> bytes:
        self.send(packet)
        return self.receive()

    def hail(self, recipient: bytes | None = None, nonce: bytes | None = None) -> bytes:
        to = self.place.id if recipient is None else recipient
        return bytes((HAIL, 1, 0, 0)) + to + self.identity.id + (nonce or self.nonce) + bytes(100)

    def answers_to(self, packet: bytes) -> list[bytes]:
        """All that comes for a packet. That no more does is seen by what follows it: the next packet gets its own answer,
        and a node answers packets in the order in which they come."""
        end = os.urandom(16)
        self.send(packet)
        self.send(self.hail(nonce=end))
        answers: list[bytes] = []
        while True:
            answer = self.receive()
            if answer[0] == CHALLENGE and answer[4:20] == end:
                return answers
            answers.append(answer)

    # -- the handshake ---------------------------------------------------------------------------------------------

    def challenge(self) -> Challenge:
        return Challenge(self.exchange(self.hail()))

    def handshake(
        self, challenge: Challenge, request: bytes = b"", flags: int = CLIENT, tcp_port: int = 30303, **options: bytes
    ) -> bytes:
        """And its session. `context` and `ephemeral` may be others than they have to be."""
        public = options.get("ephemeral", self.ephemeral.public_key().public_bytes_raw())
        head = bytes((HANDSHAKE, 1, flags, 0)) + challenge.nonce + challenge.cookie + self.identity.public
        head += public + tcp_port.to_bytes(2, "big") + bytes(2)
        context = options.get("context", b"kodechain discovery handshake v1")
        head += self.identity.sign(context + head + challenge.public + challenge.prekey)
        secret = self.ephemeral.exchange(X25519PublicKey.from_public_bytes(challenge.prekey))
        salt = challenge.cookie + challenge.nonce
        self.session = Session(secret, salt, self.identity.id, node_id(challenge.public))
        return head + self.session.seal_first(request, head)

    def connect(self, flags: int = CLIENT) -> Peer:
        """As a DHT client it leaves the node's table as it is."""
        self.nonce, self.ephemeral = os.urandom(16), X25519PrivateKey.generate()
        handshake = self.handshake(self.challenge(), message(PING, 1, [flags, 30303]), flags)
        kind, request_id, _ = self.opened(self.exchange(handshake))
        assert (kind, request_id) == (PONG, 1)
        return self

    # -- requests --------------------------------------------------------------------------------------------------

    def opened(self, packet: bytes) -> tuple[int, int, Any]:
        return read_message(self.session.open(packet))

    def sealed(self, kind: int, body: Any) -> bytes:
        """A request with an id of its own."""
        self._last_id += 1
        return self.session.seal(message(kind, self._last_id, body))

    def ask(self, kind: int, body: Any) -> tuple[int, Any]:
        """Kind and body of the answer. Requests of the node's own may come before it: signals wait for `next_signal`, and
        others are not answered."""
        self.send(self.sealed(kind, body))
        asked = self._last_id
        while True:
            answer, request_id, answered = self.opened(self.receive())
            if answer % 2 == 0:
                assert request_id == asked
                return answer, answered
            if answer == SIGNAL:
                self._heard(request_id, answered)

    def next_signal(self) -> list[Any]:
        while not self.signals:
            kind, request_id, body = self.opened(self.receive())
            if kind == SIGNAL:
                self._heard(request_id, body)
        return self.signals.pop(0)

    def _heard(self, request_id: int, body: Any) -> None:
        self.send(self.session.seal(message(SIGNALLED, request_id, [1])))
        self.signals.append(body)


class Callee:
    """Another's node, to which the node under test has something to say: B of the drawing, on a socket of its own."""

    def __init__(self, ip: str) -> None:
        self.identity = Identity()
        self.prekey = X25519PrivateKey.generate()
        self.cookie = os.urandom(24)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((ip, 0))
        self.socket.settimeout(ANSWER_LIMIT_S)
        self.asker: tuple[str, int]
        self.session: Session

    def close(self) -> None:
        self.socket.close()

    @property
    def contact(self) -> bytes:
        ip, port = self.socket.getsockname()
        return b"\4" + socket.inet_aton(ip) + port.to_bytes(2, "big") + bytes(2) + self.identity.id

    def receive(self) -> bytes:
        packet, self.asker = self.socket.recvfrom(65_536)
        return packet

    def next(self, kind: int) -> bytes:
        """The next packet of that type; others are passed over, since what is asked is repeated."""
        while True:
            packet = self.receive()
            if packet[0] == kind:
                return packet

    def waiting(self) -> list[bytes]:
        """What has come by now."""
        self.socket.setblocking(False)
        packets = []
        try:
            while True:
                packets.append(self.receive())
        except BlockingIOError:
            self.socket.settimeout(ANSWER_LIMIT_S)
        return packets

    def send(self, packet: bytes) -> None:
        self.socket.sendto(packet, self.asker)

    def challenge(self, hail: bytes, ahead_s: int = 3600, identity: Identity | None = None) -> bytes:
        """As a client, so that it stays out of the node's table."""
        identity = identity or self.identity
        offered = (
            self.prekey.public_key().public_bytes_raw() + (int(time.time()) + ahead_s).to_bytes(8, "big") + bytes(4)
        )
        signature = identity.sign(b"kodechain discovery prekey v1" + bytes((CLIENT,)) + offered)
        head = bytes((CHALLENGE, 1, CLIENT, 0)) + hail[68:84] + self.cookie
        return head + identity.public + offered + signature

    def accept(self, handshake: bytes, nonce: bytes) -> tuple[int, int, Any]:
        """Checks all that B has to; the first request."""
        assert handshake[:2] + handshake[3:4] == bytes((HANDSHAKE, 1, 0))
        assert handshake[4:44] == nonce + self.cookie
        public, ephemeral = handshake[44:76], handshake[76:108]
        keys = self.identity.public + self.prekey.public_key().public_bytes_raw()
        assert is_signed(public, handshake[112:176], b"kodechain discovery handshake v1" + handshake[:112] + keys)
        secret = self.prekey.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        self.session = Session(secret, self.cookie + nonce, node_id(public), self.identity.id, begun=False)
        return read_message(self.session.open_first(handshake[176:], handshake[:176]))
