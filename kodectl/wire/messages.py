"""Messages of a link: the bodies, one pack and one unpack for each (docs/protocol.md, "Links: TCP")."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from kodectl.errors import LocalMisuse, WireError
from kodectl.wire.announcement import Ports
from kodectl.wire.rpc import PeerRequest, PeerResponse
from kodectl.wire.suite import Suite

T = TypeVar("T")

PROTOCOL_VERSIONS = (1,)

MAX_HELLO = 4096
"""Sixteen versions and 32 capabilities of 32 characters need half of it."""
MAX_BLOCK = 4 << 20
MAX_TRANSACTION = 64 << 10
MAX_PEER_MESSAGE = 64 << 10
"""64 enodes of 512 characters need half of it."""
MAX_SYNC_IDS = 4096
"""Ids in one `have` or `want`: 128 KiB, a few segments. Who has more to say sends several."""
MAX_DIGEST_SLOTS = 256
"""Messages live ten minutes and may be two minutes ahead: 72 slots of ten seconds."""
MAX_DISCONNECT_TEXT = 200
MAX_REFERRED = 8
"""Enodes in a disconnect: some of them may have no room either."""
MAX_REFERRED_ENODE = 256
"""With a numeric address none has more than 130 characters."""

ID_SIZE = 32
NONCE_SIZE = 8
BROADCAST_CONTEXT = b"kodechain broadcast v1"

Text = Annotated[str, msgspec.Meta(pattern=r"^[ -~]{1,64}\Z")]
"""Printable ASCII: it ends up on terminals and in logs."""
Capability = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,32}\Z")]
Version = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Id = Annotated[bytes, msgspec.Meta(min_length=ID_SIZE, max_length=ID_SIZE)]


class MessageKind(IntEnum):
    HELLO = 0
    ANNOUNCEMENT = 1
    PEER_REQUEST = 2
    PEER_RESPONSE = 3
    BLOCK = 4
    TRANSACTION = 5
    SYNC = 6
    HEARTBEAT = 7
    DISCONNECT = 8
    REQUEST = 9
    ANSWER = 10


class DisconnectReason(IntEnum):
    UNSPECIFIED = 0
    SHUTTING_DOWN = 1
    TOO_MANY_PEERS = 2
    DUPLICATE_CONNECTION = 3
    SELF = 4
    WRONG_NETWORK = 5
    INCOMPATIBLE_VERSION = 6
    PROTOCOL_ERROR = 7
    TIMEOUT = 8
    SLOW = 9
    REQUESTED = 10
    BANNED = 11
    SUBNET_LIMIT = 12
    USELESS = 13


class BroadcastMode(IntEnum):
    FLOOD = 0
    GOSSIP = 1


class Hello(msgspec.Struct, frozen=True):
    """The first message of both sides; `ports.tcp` 0 = not listening."""

    versions: Annotated[tuple[Version, ...], msgspec.Meta(min_length=1, max_length=16)]
    client: Text
    network: Text
    capabilities: Annotated[tuple[Capability, ...], msgspec.Meta(max_length=32)]
    ports: Ports


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`direction` 0 asks, 1 answers with the id of the question."""

    direction: Annotated[int, msgspec.Meta(ge=0, le=1)]
    id: Number

    @property
    def is_answer(self) -> bool:
        return self.direction == 1


class Disconnect(NamedTuple):
    """`text` is for people: printable, at most 200 characters. `peers`: enodes of others that may have room, at most
    MAX_REFERRED."""

    reason: DisconnectReason
    text: str = ""
    peers: tuple[str, ...] = ()


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A block or transaction on its way; `kind` is BLOCK or TRANSACTION, `id` is computed, never sent."""

    kind: MessageKind
    origin: bytes
    time_ms: int
    nonce: bytes
    mode: BroadcastMode
    signature: bytes
    payload: bytes
    id: bytes


class SyncHave(NamedTuple):
    ids: tuple[bytes, ...]


class SyncWant(NamedTuple):
    ids: tuple[bytes, ...]


class DigestSlot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`slot` = message time in ms div 10,000; `xor` of the ids in it."""

    slot: Number
    count: Number
    xor: Id


class SyncDigest(NamedTuple):
    slots: tuple[DigestSlot, ...]


Sync = SyncHave | SyncWant | SyncDigest


_Referred = Annotated[str, msgspec.Meta(max_length=MAX_REFERRED_ENODE)]


class _DisconnectBody(msgspec.Struct, frozen=True, array_like=True):
    reason: Number
    text: Annotated[str, msgspec.Meta(max_length=MAX_DISCONNECT_TEXT)] = ""
    peers: Annotated[tuple[_Referred, ...], msgspec.Meta(max_length=MAX_REFERRED)] = ()


class _Have(msgspec.Struct, frozen=True, array_like=True, tag=0):
    ids: Annotated[bytes, msgspec.Meta(max_length=MAX_SYNC_IDS * ID_SIZE)]


class _Want(msgspec.Struct, frozen=True, array_like=True, tag=1):
    ids: Annotated[bytes, msgspec.Meta(max_length=MAX_SYNC_IDS * ID_SIZE)]


class _Digest(msgspec.Struct, frozen=True, array_like=True, tag=2):
    slots: Annotated[tuple[DigestSlot, ...], msgspec.Meta(max_length=MAX_DIGEST_SLOTS)]


_MAX_SYNC_BODY = MAX_SYNC_IDS * ID_SIZE + 64

_json = msgspec.json.Encoder().encode
_msgpack = msgspec.msgpack.Encoder().encode
_read_hello = msgspec.json.Decoder(Hello).decode
_read_heartbeat = msgspec.msgpack.Decoder(Heartbeat).decode
_read_disconnect = msgspec.msgpack.Decoder(_DisconnectBody).decode
_read_peer_request = msgspec.json.Decoder(PeerRequest).decode
_read_peer_response = msgspec.json.Decoder(PeerResponse).decode
_read_sync = msgspec.msgpack.Decoder(_Have | _Want | _Digest).decode


def _unpack(what: str, read: Callable[[bytes], T], body: bytes, limit: int) -> T:
    if len(body) > limit:
        raise WireError(f"{what} of {len(body)} bytes; the limit is {limit}")
    try:
        return read(body)
    # Fields that are skipped may nest deeper than the interpreter goes.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"{what}: {error}") from error


def pack_hello(hello: Hello) -> bytes:
    return _json(hello)


def unpack_hello(body: bytes) -> Hello:
    return _unpack("hello", _read_hello, body, MAX_HELLO)


def common_version(ours: Hello, theirs: Hello) -> int | None:
    """The highest version that both speak."""
    return max(set(ours.versions) & set(theirs.versions), default=None)


def pack_heartbeat(heartbeat: Heartbeat) -> bytes:
    return _msgpack(heartbeat)


def unpack_heartbeat(body: bytes) -> Heartbeat:
    return _unpack("heartbeat", _read_heartbeat, body, MAX_HELLO)


def pack_disconnect(disconnect: Disconnect) -> bytes:
    said = (int(disconnect.reason), disconnect.text[:MAX_DISCONNECT_TEXT])
    return _msgpack((*said, disconnect.peers[:MAX_REFERRED]) if disconnect.peers else said)


def unpack_disconnect(body: bytes) -> Disconnect:
    """A reason that is not known here reads as UNSPECIFIED: it may be a later version's."""
    read = _unpack("disconnect", _read_disconnect, body, MAX_HELLO)
    try:
        reason = DisconnectReason(read.reason)
    except ValueError:
        reason = DisconnectReason.UNSPECIFIED
    return Disconnect(reason, "".join(char if char.isprintable() else "?" for char in read.text), read.peers)


def pack_peer_request(request: PeerRequest) -> bytes:
    return _json(request)


def unpack_peer_request(body: bytes) -> PeerRequest:
    return _unpack("peer_request", _read_peer_request, body, MAX_PEER_MESSAGE)


def pack_peer_response(response: PeerResponse) -> bytes:
    return _json(response)


def unpack_peer_response(body: bytes) -> PeerResponse:
    return _unpack("peer_response", _read_peer_response, body, MAX_PEER_MESSAGE)


# Envelope: origin (32) | time (8) | nonce (8) | mode (1) | signature (64) | payload

_envelope = struct.Struct("!32sQ8sB64s")
_identified = struct.Struct("!B32sQ8sB32s")
ENVELOPE_SIZE = _envelope.size
MAX_PAYLOAD = {MessageKind.BLOCK: MAX_BLOCK, MessageKind.TRANSACTION: MAX_TRANSACTION}
_MODES = {int(mode): mode for mode in BroadcastMode}


def new_envelope(
    kind: MessageKind,
    payload: bytes,
    mode: BroadcastMode,
    *,
    origin: bytes,
    time_ms: int,
    nonce: bytes,
    sign: Callable[[bytes], bytes],
) -> Envelope:
    """A signed envelope. Raises LocalMisuse for a payload over the limit of its kind."""
    if len(payload) > MAX_PAYLOAD[kind]:
        message = f"{kind.name.lower()} of {len(payload)} bytes; the limit is {MAX_PAYLOAD[kind]}"
        raise LocalMisuse(message, code="payload_too_large")
    message_id = _envelope_id(kind, origin, time_ms, nonce, mode, payload)
    return Envelope(kind, origin, time_ms, nonce, mode, sign(BROADCAST_CONTEXT + message_id), payload, message_id)


def pack_envelope(envelope: Envelope) -> bytes:
    head = _envelope.pack(envelope.origin, envelope.time_ms, envelope.nonce, envelope.mode, envelope.signature)
    return head + envelope.payload


def unpack_envelope(kind: int, body: bytes) -> Envelope:
    """Checks the layout and the limits, not the signature."""
    known = MessageKind.BLOCK if kind == MessageKind.BLOCK else MessageKind.TRANSACTION
    if kind != known:
        raise WireError(f"no envelope in messages of type {kind}")
    size = len(body) - ENVELOPE_SIZE
    if size < 0:
        raise WireError("envelope cut short")
    if size > MAX_PAYLOAD[known]:
        raise WireError(f"{known.name.lower()} of {size} bytes; the limit is {MAX_PAYLOAD[known]}")
    origin, time_ms, nonce, mode_number, signature = _envelope.unpack_from(body)
    mode = _MODES.get(mode_number)
    if mode is None:
        raise WireError(f"broadcast mode {mode_number}")
    payload = body[ENVELOPE_SIZE:]
    message_id = _envelope_id(known, origin, time_ms, nonce, mode, payload)
    return Envelope(known, origin, time_ms, nonce, mode, signature, payload, message_id)


def envelope_is_signed(suite: Suite, envelope: Envelope) -> bool:
    return suite.verify(envelope.origin, BROADCAST_CONTEXT + envelope.id, envelope.signature)


def _envelope_id(kind: int, origin: bytes, time_ms: int, nonce: bytes, mode: int, payload: bytes) -> bytes:
    digest = hashlib.sha256(payload).digest()
    return hashlib.sha256(_identified.pack(kind, origin, time_ms, nonce, mode, digest)).digest()


def pack_sync(sync: Sync) -> bytes:
    body: Any
    match sync:
        case SyncHave(ids):
            body = _Have(b"".join(ids))
        case SyncWant(ids):
            body = _Want(b"".join(ids))
        case SyncDigest(slots):
            body = _Digest(slots)
    return _msgpack(body)


def unpack_sync(body: bytes) -> Sync:
    read = _unpack("sync", _read_sync, body, _MAX_SYNC_BODY)
    if isinstance(read, _Digest):
        return SyncDigest(read.slots)
    ids = _split_ids(read.ids)
    return SyncHave(ids) if isinstance(read, _Have) else SyncWant(ids)


def _split_ids(joined: bytes) -> tuple[bytes, ...]:
    if len(joined) % ID_SIZE:
        raise WireError(f"sync: {len(joined)} bytes are no whole number of ids")
    return tuple(joined[start : start + ID_SIZE] for start in range(0, len(joined), ID_SIZE))
