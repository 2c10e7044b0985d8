"""From a byte stream to a verified peer: Noise XX, proof of identity, hello (docs/protocol.md, "Handshake").

    dialler                                   acceptor
    e                                      ->
                                           <- e, ee, s, es, {public key, signature}
    s, se, {public key, signature}, hello  ->
                                           <- hello

Noise proves that the other side holds its static key, the signature that the identity vouches for that key, and the
hash of the public key that it is the identity which was dialled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, NoReturn

from kodectl.core.identity import Identity
from kodectl.errors import NegativeAnswer, PeerFault, WireError
from kodectl.runtime.base import Address, Runtime, Stream, StreamClosed, TimedOut
from kodectl.wire.frames import Compression, FrameDecoder, FrameEncoder, Message, check_segment_size, encode_message
from kodectl.wire.messages import (
    Disconnect,
    DisconnectReason,
    Hello,
    MessageKind,
    common_version,
    pack_disconnect,
    pack_hello,
    unpack_disconnect,
    unpack_hello,
)
from kodectl.wire.noise import Handshake, Transport
from kodectl.wire.packets import NONCE_SIZE
from kodectl.wire.suite import KEY_SIZE, SIGNATURE_SIZE, node_id_of

HANDSHAKE_LIMIT_S = 5.0
"""For all of it. Two round trips and 2 ms of work fit many times; who needs longer holds one of few pending places."""
MAX_HANDSHAKE_MESSAGE = 1024
"""The longest of ours has 192 bytes. What dials with another protocol mostly declares more, and is refused unread."""

PROLOGUE = b"kodechain link v1"
STATIC_KEY_CONTEXT = b"kodechain noise static key v1"
_NO_HANDSHAKE = bytes(2)
"""A first message of size 0: a nonce follows, and nothing else."""
STUN_BEGINNINGS = (0x0001, 0x0003)
"""Types of a Binding and of an Allocate request: no message of the handshake is so short."""
_UNKNOWN_ID = bytes(32)
"""An enode may carry it: whoever answers there."""


class LinkClosed(NegativeAnswer):
    """The connection was ended in order; `reason` is what was given, UNSPECIFIED if the other side just went away."""

    def __init__(self, reason: DisconnectReason, text: str = "") -> None:
        name = reason.name.lower()
        super().__init__(f"connection closed: {name}" + (f" ({text})" if text else ""), code=name)
        self.reason = reason


class Knocked(Exception):
    """Not a handshake, but a knock (docs/protocol.md, "Dial-back"): somebody shows that the port can be reached."""

    def __init__(self, nonce: bytes) -> None:
        super().__init__(f"knock {nonce.hex()}")
        self.nonce = nonce


class StunBegun(Exception):
    """Not a handshake, but a STUN or TURN client (RFC 8489, section 6.2.2): `stream` has all of it, and is still open."""

    def __init__(self, stream: Stream) -> None:
        super().__init__("STUN over TCP")
        self.stream = stream


class ReadAgain:
    """A stream of which the first bytes have been read and are to be read once more. See `runtime.base.Stream`."""

    def __init__(self, first: bytes, stream: Stream) -> None:
        self._first = first
        self._stream = stream
        self.write = stream.write
        self.close = stream.close

    @property
    def local(self) -> Address:
        return self._stream.local

    @property
    def remote(self) -> Address:
        return self._stream.remote

    def read_exactly(self, size: int) -> bytes:
        if not self._first:
            return self._stream.read_exactly(size)
        taken, self._first = self._first[:size], self._first[size:]
        return taken + self._stream.read_exactly(size - len(taken)) if len(taken) < size else taken


class LocalEnd:
    """What all links of one node share: its identity, a Noise static key with the proof for it, zstd contexts.

    Made once per node, because the proof costs a signature."""

    __slots__ = ("compression", "identity", "proof", "static")

    def __init__(self, identity: Identity, static_secret: bytes) -> None:
        """`static_secret`: 32 random bytes; a new one with every start is as good as a kept one."""
        self.identity = identity
        self.static = identity.suite.exchange_keypair(static_secret)
        self.proof = identity.public_key + identity.sign(STATIC_KEY_CONTEXT + self.static[1])
        self.compression = Compression()


class Channel(NamedTuple):
    """A verified peer, its hello, and the two halves of the sealed channel."""

    public_key: bytes
    node_id: bytes
    hello: Hello
    encoder: FrameEncoder
    decoder: FrameDecoder
    early: list[Message]
    """Messages that came in one frame with the hello."""


def open_outbound(
    runtime: Runtime, local: LocalEnd, stream: Stream, expected_id: bytes | None, hello: Hello
) -> Channel:
    """Dialler's side. `expected_id` None or zeros: whoever answers. On any failure the stream is closed.

    Raises PeerFault (handshake_failed, identity_mismatch, self, wrong_network, incompatible_version), LinkClosed,
    TimedOut."""
    with _limited(runtime, stream):
        noise = _noise(runtime, local, initiator=True)
        _write_noise(stream, noise.write_message())
        with _noise_faults():
            proof = noise.read_message(_read_noise(stream))
        public_key = _verify(local, proof, noise.remote_static, expected_id)
        last = noise.write_message(local.proof)
        return _exchange_hello(local, stream, noise.split(), public_key, hello, prefix=_sized(last))


def open_inbound(runtime: Runtime, local: LocalEnd, stream: Stream, hello: Hello) -> Channel:
    """Acceptor's side; raises as `open_outbound`, but identity_mismatch; and Knocked, StunBegun."""
    with _limited(runtime, stream):
        noise = _noise(runtime, local, initiator=False)
        with _noise_faults():
            noise.read_message(_read_first(stream))
            _write_noise(stream, noise.write_message(local.proof))
            proof = noise.read_message(_read_noise(stream))
        public_key = _verify(local, proof, noise.remote_static, None)
        return _exchange_hello(local, stream, noise.split(), public_key, hello, prefix=b"")


def pack_stream_knock(nonce: bytes) -> bytes:
    """All that is sent over a connection which only shows that the port can be reached."""
    return _NO_HANDSHAKE + nonce


@contextmanager
def _limited(runtime: Runtime, stream: Stream) -> Iterator[None]:
    """Closes the stream when the time is over and on every failure."""
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        stream.close()

    timer = runtime.call_later(HANDSHAKE_LIMIT_S, expire)
    done = False
    try:
        yield
        done = True
    except StunBegun:
        done = True
        raise
    except StreamClosed as error:
        if expired:
            raise TimedOut(f"no complete handshake within {HANDSHAKE_LIMIT_S:g} s") from error
        raise LinkClosed(DisconnectReason.UNSPECIFIED, "the stream ended during the handshake") from error
    finally:
        timer.cancel()
        if not done:
            stream.close()


@contextmanager
def _noise_faults() -> Iterator[None]:
    try:
        yield
    except WireError as error:
        raise PeerFault(f"handshake: {error}", code="handshake_failed") from error


def _noise(runtime: Runtime, local: LocalEnd, *, initiator: bool) -> Handshake:
    return Handshake(
        local.identity.suite,
        initiator=initiator,
        static=local.static,
        ephemeral_secret=runtime.random_bytes(KEY_SIZE),
        prologue=PROLOGUE,
    )


def _sized(message: bytes) -> bytes:
    return len(message).to_bytes(2) + message


def _write_noise(stream: Stream, message: bytes) -> None:
    stream.write(_sized(message))


def _read_first(stream: Stream) -> bytes:
    first = stream.read_exactly(2)
    size = int.from_bytes(first)
    if size == 0:
        raise Knocked(stream.read_exactly(NONCE_SIZE))
    if size in STUN_BEGINNINGS:
        raise StunBegun(ReadAgain(first, stream))
    return _read_sized(stream, size)


def _read_noise(stream: Stream) -> bytes:
    return _read_sized(stream, int.from_bytes(stream.read_exactly(2)))


def _read_sized(stream: Stream, size: int) -> bytes:
    if size > MAX_HANDSHAKE_MESSAGE:
        raise WireError(f"message of {size} bytes; the limit is {MAX_HANDSHAKE_MESSAGE}")
    return stream.read_exactly(size)


def _verify(local: LocalEnd, proof: bytes, remote_static: bytes, expected_id: bytes | None) -> bytes:
    """The peer's public key, once it is sure that it is the peer's and that the peer is who was dialled."""
    public_key, signature = proof[:KEY_SIZE], proof[KEY_SIZE : KEY_SIZE + SIGNATURE_SIZE]
    if not local.identity.suite.verify(public_key, STATIC_KEY_CONTEXT + remote_static, signature):
        raise PeerFault("handshake: the identity did not sign this static key", code="handshake_failed")
    node_id = node_id_of(public_key)
    if node_id == local.identity.node_id:
        raise PeerFault("this node met itself", code="self")
    if expected_id not in (None, _UNKNOWN_ID, node_id):
        raise PeerFault(f"dialled {expected_id.hex()}, but {node_id.hex()} answered", code="identity_mismatch")
    return public_key


def _exchange_hello(
    local: LocalEnd, stream: Stream, transport: Transport, public_key: bytes, hello: Hello, *, prefix: bytes
) -> Channel:
    """`prefix`: what has to be said before and travels in the same write."""
    encoder = FrameEncoder(transport.send, local.compression)
    decoder = FrameDecoder(transport.receive, local.compression)
    stream.write(prefix + b"".join(encoder.seal([encode_message(MessageKind.HELLO, pack_hello(hello))])))
    try:
        (kind, body), *early = _read_frame(stream, decoder)
        if kind == MessageKind.DISCONNECT:
            ended = unpack_disconnect(body)
            raise LinkClosed(ended.reason, ended.text)
        if kind != MessageKind.HELLO:
            raise WireError(f"message of type {kind} before hello")
        theirs = unpack_hello(body)
    except WireError as error:
        _refuse(stream, encoder, DisconnectReason.PROTOCOL_ERROR, str(error), code="handshake_failed")
    if theirs.network != hello.network:
        text = f"network {theirs.network!r} met {hello.network!r}"
        _refuse(stream, encoder, DisconnectReason.WRONG_NETWORK, text, code="wrong_network")
    if common_version(hello, theirs) is None:
        text = f"versions {list(theirs.versions)} met {list(hello.versions)}"
        _refuse(stream, encoder, DisconnectReason.INCOMPATIBLE_VERSION, text, code="incompatible_version")
    return Channel(public_key, node_id_of(public_key), theirs, encoder, decoder, early)


def _read_frame(stream: Stream, decoder: FrameDecoder) -> list[Message]:
    """The messages of the next frame that has any."""
    while True:
        size = int.from_bytes(stream.read_exactly(2))
        check_segment_size(size)
        messages = decoder.open(stream.read_exactly(size))
        if messages:
            return messages


def _refuse(stream: Stream, encoder: FrameEncoder, reason: DisconnectReason, text: str, *, code: str) -> NoReturn:
    """Says why on the wire, as far as the other side still listens, and raises it here."""
    message = encode_message(MessageKind.DISCONNECT, pack_disconnect(Disconnect(reason, text)))
    try:
        stream.write(b"".join(encoder.seal([message])))
    except StreamClosed:
        pass
    raise PeerFault(f"handshake: {text}", code=code)
