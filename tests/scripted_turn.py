"""A TURN server that serves well until a test tells it otherwise: a host of the simulated network, UDP and TCP.

It shares the codec with what it tests, and nothing else: who may do what is written here a second time.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from kodectl.node.stun_framing import read_turn_framed
from kodectl.runtime.base import Address, DatagramSocket, Runtime, Stream, StreamClosed
from kodectl.wire.channel_data import FIRST_BYTES, pack_channel_data, unpack_channel_data
from kodectl.wire.stun import (
    Attribute,
    Message,
    MessageClass,
    Method,
    PasswordAlgorithm,
    StunError,
    decode,
    encode,
    verifies,
)

USER, PASSWORD, REALM = "alice", "wonderland", "rabbit hole"
PERMISSION_S, CHANNEL_S = 300.0, 600.0

Reply = Callable[[bytes], None]


class Held:
    """What it holds for one 5-tuple."""

    def __init__(self, socket: DatagramSocket, reply: Reply, until: float) -> None:
        self.socket = socket
        self.reply = reply
        self.until = until
        self.permitted: dict[str, float] = {}
        self.channels: dict[int, tuple[Address, float]] = {}


class ScriptedTurn:
    """`script(request, source)` may answer a request in the server's place: the packet, b"" for silence, None to leave it."""

    def __init__(
        self, runtime: Runtime, address: Address, *, is_modern: bool = False, is_anonymous: bool = False
    ) -> None:
        self.runtime = runtime
        self.address = address
        self.scope = runtime.scope("scripted turn")
        self.is_modern, self.is_anonymous = is_modern, is_anonymous
        self.passwords = {USER: PASSWORD}
        self.lifetime_s = 600
        self.nonce_number = 0
        self.held: dict[Any, Held] = {}
        self.requests: list[tuple[float, Message]] = []
        self.indications = 0
        self.channel_data = 0
        self.dropped = 0
        self.forbidden: set[str] = set()
        self.script: Callable[[Message, Address], bytes | None] = lambda request, source: None
        self._streams: list[Stream] = []
        self.socket = runtime.open_datagram(address, self._datagram)
        self.listener = runtime.listen(address, self._accept)

    # --- What happens to it -------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """As after a restart."""
        for held in self.held.values():
            held.socket.close()
        self.held.clear()
        self.nonce_number += 1
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    def die(self) -> None:
        self.forget()
        self.socket.close()
        self.listener.close()

    def asked(self, method: Method) -> list[Message]:
        return [message for _, message in self.requests if message.method == method]

    # --- Arrivals -----------------------------------------------------------------------------------------------------------

    def _datagram(self, data: bytes, source: Address) -> None:
        self._arrived(data, source, source, lambda packet: self.socket.send(packet, source))

    def _accept(self, stream: Stream) -> None:
        self._streams.append(stream)
        self.scope.spawn("scripted turn stream", self._serve, stream)

    def _serve(self, stream: Stream) -> None:
        outbox = self.runtime.mailbox(5_000)

        def write() -> None:
            while True:
                try:
                    stream.write(outbox.get())
                except StreamClosed:
                    return

        self.scope.spawn("scripted turn writer", write)
        try:
            while True:
                packet = read_turn_framed(stream)
                self._arrived(packet, stream.remote, stream, lambda answer: self._frame(outbox, answer))
        except StreamClosed:
            outbox.close()
            held = self.held.pop(stream, None)
            if held is not None:
                held.socket.close()

    @staticmethod
    def _frame(outbox: Any, packet: bytes) -> None:
        outbox.put(packet + bytes(-len(packet) % 4) if packet[0] in FIRST_BYTES else packet)

    def _arrived(self, data: bytes, source: Address, key: Any, reply: Reply) -> None:
        if data[0] in FIRST_BYTES:
            self._from_client(key, *self._channel(key, data))
            return
        message = decode(data)
        if message.kind is MessageClass.INDICATION:
            if message.method == Method.SEND:
                self.indications += 1
                self._from_client(key, message.get(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA))
            return
        self.requests.append((self.runtime.now(), message))
        scripted = self.script(message, source)
        answer = self._answer(message, data, source, key, reply) if scripted is None else scripted
        if answer:
            reply(answer)

    # --- Requests -----------------------------------------------------------------------------------------------------------

    @property
    def nonce(self) -> bytes:
        features = self.is_modern << 23 | self.is_anonymous << 22
        head = b"obMatJos2" + b64encode(features.to_bytes(3)) if features else b""
        return head + b"nonce %d" % self.nonce_number

    def _key(self, request: Message) -> bytes | None:
        name = next((name for name in self.passwords if self._is_named(request, name)), None)
        if name is None:
            return None
        algorithm = request.get(Attribute.PASSWORD_ALGORITHM)
        digest = hashlib.sha256 if algorithm and algorithm.number == 2 else hashlib.md5
        return digest(f"{name}:{REALM}:{self.passwords[name]}".encode()).digest()

    def _is_named(self, request: Message, name: str) -> bool:
        if self.is_anonymous:
            return bool(request.get(Attribute.USERHASH) == hashlib.sha256(f"{name}:{REALM}".encode()).digest())
        return bool(request.get(Attribute.USERNAME) == name)

    @property
    def integrity(self) -> Attribute:
        return Attribute.MESSAGE_INTEGRITY_SHA256 if self.is_modern else Attribute.MESSAGE_INTEGRITY

    def challenge(self, request: Message, code: int) -> bytes:
        contents: list[tuple[int, Any]] = [(Attribute.REALM, REALM), (Attribute.NONCE, self.nonce)]
        if self.is_modern:
            contents.append((Attribute.PASSWORD_ALGORITHMS, (PasswordAlgorithm(7), PasswordAlgorithm(2))))
        return self.refusal(request, code, *contents, is_sealed=False)

    def refusal(self, request: Message, code: int, *contents: tuple[int, Any], is_sealed: bool = True) -> bytes:
        error = (Attribute.ERROR_CODE, StunError(code, "No"))
        return self._sealed(request, MessageClass.ERROR, (error, *contents), is_sealed)

    def success(self, request: Message, *contents: tuple[int, Any], is_sealed: bool = True) -> bytes:
        return self._sealed(request, MessageClass.SUCCESS, contents, is_sealed)

    def _sealed(self, request: Message, kind: MessageClass, contents: tuple[tuple[int, Any], ...], seal: bool) -> bytes:
        message = request._replace(kind=kind, attributes=contents)
        return encode(message, key=self._key(request) if seal else None, integrity=(self.integrity,))

    def _answer(self, request: Message, data: bytes, source: Address, key: Any, reply: Reply) -> bytes:
        secret = self._key(request)
        if request.get(self.integrity) is None or secret is None or not verifies(data, secret, self.integrity):
            return self.challenge(request, 401)
        if request.get(Attribute.NONCE) != self.nonce:
            return self.challenge(request, 438)
        now, held = self.runtime.now(), self.held.get(key)
        if held is not None and held.until <= now:
            self.held.pop(key).socket.close()
            held = None
        if request.method == Method.ALLOCATE:
            return self._allocate(request, source, key, reply) if held is None else self.refusal(request, 437)
        if held is None:
            return self.refusal(request, 437)
        if request.method == Method.REFRESH:
            return self._refresh(request, held, key)
        peers = [value for number, value in request.attributes if number == Attribute.XOR_PEER_ADDRESS]
        if any(ip in self.forbidden for ip, _ in peers):
            return self.refusal(request, 403)
        held.permitted.update({ip: now + PERMISSION_S for ip, _ in peers})
        if request.method == Method.CHANNEL_BIND:
            held.channels[request.get(Attribute.CHANNEL_NUMBER)] = (peers[0], now + CHANNEL_S)
        return self.success(request)

    def _allocate(self, request: Message, source: Address, key: Any, reply: Reply) -> bytes:
        def receive(data: bytes, peer: Address) -> None:
            self._from_peer(held, data, peer)

        socket = self.runtime.open_datagram((self.address[0], 0), receive)
        held = self.held[key] = Held(socket, reply, self.runtime.now() + self.lifetime_s)
        relayed = (self.address[0], held.socket.local[1])
        return self.success(
            request,
            (Attribute.XOR_RELAYED_ADDRESS, relayed),
            (Attribute.XOR_MAPPED_ADDRESS, source),
            (Attribute.LIFETIME, self.lifetime_s),
        )

    def _refresh(self, request: Message, held: Held, key: Any) -> bytes:
        if not request.get(Attribute.LIFETIME):
            del self.held[key]
            held.socket.close()
            return self.success(request, (Attribute.LIFETIME, 0))
        held.until = self.runtime.now() + self.lifetime_s
        return self.success(request, (Attribute.LIFETIME, self.lifetime_s))

    # --- Data ---------------------------------------------------------------------------------------------------------------

    def _channel(self, key: Any, data: bytes) -> tuple[Address | None, bytes]:
        self.channel_data += 1
        number, payload = unpack_channel_data(data)
        held = self.held.get(key)
        peer, until = held.channels.get(number, (None, 0.0)) if held else (None, 0.0)
        return (peer if until > self.runtime.now() else None), payload

    def _from_client(self, key: Any, peer: Address | None, data: bytes) -> None:
        held = self.held.get(key)
        if held is None or peer is None or not self._is_permitted(held, peer):
            self.dropped += 1
            return
        held.socket.send(data, peer)

    def _from_peer(self, held: Held, data: bytes, peer: Address) -> None:
        if not self._is_permitted(held, peer):
            self.dropped += 1
            return
        now = self.runtime.now()
        number = next((number for number, (of, until) in held.channels.items() if of == peer and until > now), None)
        held.reply(pack_channel_data(number, data) if number is not None else data_indication(data, peer))

    def _is_permitted(self, held: Held, peer: Address) -> bool:
        now = self.runtime.now()
        return held.until > now and held.permitted.get(peer[0], 0.0) > now


def data_indication(data: bytes, peer: Address) -> bytes:
    contents = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
    return encode(Message(MessageClass.INDICATION, Method.DATA, b"data of peer", contents))
