"""Discovery messages: what travels sealed inside MESSAGE and HANDSHAKE packets (docs/protocol.md, "Messages").

kind (1) | request id (4) | body
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any

import msgspec

from kodectl.errors import WireError

MESSAGE_PREFIX = 5
MAX_RECORD = 1147
MAX_TOKEN = 32
MAX_RECORDS_IN_ANSWER = 16
"""As many as the smallest records let fit into one packet."""
MAX_REQUESTED_PEERS = 1000
MAX_RELAY_TEXT = 128
"""Of a user name and a password."""
MAX_LETTER = 900
"""With the ids around it, and two packets' heads, it passes through any path that takes 1,232 bytes."""
MAX_VIA_CONTACTS = 4
MAX_VIA = MAX_VIA_CONTACTS * 53
"""Contacts with IPv6 addresses."""
SESSION_SIZE = 8

Id = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
UnixMs = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Kind(IntEnum):
    ERROR = 0
    PING = 1
    PONG = 2
    FIND_NODE = 3
    NODES = 4
    STORE = 5
    STORED = 6
    FIND_VALUE = 7
    VALUES = 8
    PEER_REQUEST = 9
    PEER_RESPONSE = 10
    SIGNAL = 11
    SIGNALLED = 12
    PROBE = 13
    PROBED = 14
    RELAY = 15
    RELAYED = 16


class ErrorCode(IntEnum):
    UNKNOWN_KIND = 1
    MALFORMED = 2
    BUSY = 3
    REFUSED = 4


class StoreStatus(IntEnum):
    STORED = 0
    BAD_TOKEN = 1
    OLD_SEQUENCE = 2
    QUOTA = 3
    EXPIRED = 4
    BAD_SIGNATURE = 5
    MALFORMED = 6
    NOT_CLOSEST = 7


class _Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class ErrorAnswer(_Body, frozen=True):
    code: Byte
    text: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Ping(_Body, frozen=True):
    flags: Byte
    tcp_port: Port


class Pong(_Body, frozen=True):
    flags: Byte
    tcp_port: Port
    observed_ip: Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]
    observed_port: Port
    time_ms: UnixMs = 0
    """0: not told."""


class FindNode(_Body, frozen=True):
    target: Id


class Nodes(_Body, frozen=True):
    contacts: bytes
    """Packed (kodectl.wire.contacts)."""


class Store(_Body, frozen=True):
    token: Annotated[bytes, msgspec.Meta(max_length=MAX_TOKEN)]
    record: Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD)]


class Stored(_Body, frozen=True):
    status: Byte


class FindValue(_Body, frozen=True):
    key: Id
    skip: Count
    contacts_wanted: bool


class Values(_Body, frozen=True):
    total: Count
    token: Annotated[bytes, msgspec.Meta(max_length=MAX_TOKEN)]
    records: Annotated[
        list[Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD)]], msgspec.Meta(max_length=MAX_RECORDS_IN_ANSWER)
    ]
    contacts: bytes


class PeerRequest(msgspec.Struct, frozen=True, tag="peer_request", tag_field="type"):
    requested_count: Annotated[int, msgspec.Meta(ge=0, le=MAX_REQUESTED_PEERS)]


class PeerResponse(msgspec.Struct, frozen=True, tag="peer_response", tag_field="type"):
    peers: Annotated[list[Annotated[str, msgspec.Meta(max_length=512)]], msgspec.Meta(max_length=64)]


class Probe(_Body, frozen=True):
    """Knock, with this nonce, at these ports (0: not there) of `ip`; without `ip`, at the address of who asks, and have
    others knock there too."""

    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    udp_port: Port
    tcp_port: Port
    ip: Annotated[bytes, msgspec.Meta(max_length=16)] = b""


class Probed(_Body, frozen=True):
    """`knocking`: how many others were asked to knock."""

    status: Byte
    knocking: Count = 0


class ProbeStatus(IntEnum):
    KNOCKING = 0
    BUSY = 1
    NOT_THERE = 2
    """Nobody knocks at such an address for somebody from so far away."""


class Signal(_Body, frozen=True):
    """Bring `letter` (kodectl.wire.offers) of `sender` to `target`. `hops`: how often it was passed on. `via`: packed
    contacts that the receiver is to hand it to, for a sender without UDP."""

    target: Id
    sender: Id
    session: Annotated[bytes, msgspec.Meta(min_length=SESSION_SIZE, max_length=SESSION_SIZE)]
    hops: Byte
    via: Annotated[bytes, msgspec.Meta(max_length=MAX_VIA)]
    letter: Annotated[bytes, msgspec.Meta(max_length=MAX_LETTER)]


class Signalled(_Body, frozen=True):
    """What became of it on this hop; whether it arrives is for the target to say."""

    status: Byte


class SignalStatus(IntEnum):
    FORWARDED = 0
    DELIVERED = 1
    NOT_THERE = 2
    """No link with the target, and no way back to it."""
    BUSY = 3


class Relay(_Body, frozen=True):
    """Asks for credentials for the TURN relay of who is asked."""


class Relayed(_Body, frozen=True):
    """`status`: a RelayStatus; of one that is not GRANTED the rest means nothing. `username` and `password`: TURN's
    long-term credentials (RFC 8656, section 5), good for `lifetime_s`. The relay is at the address that was asked."""

    status: Byte
    username: Annotated[str, msgspec.Meta(max_length=MAX_RELAY_TEXT)] = ""
    password: Annotated[str, msgspec.Meta(max_length=MAX_RELAY_TEXT)] = ""
    lifetime_s: Count = 0
    udp_port: Port = 0
    tcp_port: Port = 0


class RelayStatus(IntEnum):
    GRANTED = 0
    OFF = 1
    """It relays for nobody, or nobody would reach it."""
    FULL = 2


Body = (
    ErrorAnswer
    | Ping
    | Pong
    | FindNode
    | Nodes
    | Store
    | Stored
    | FindValue
    | Values
    | PeerRequest
    | PeerResponse
    | Signal
    | Signalled
    | Probe
    | Probed
    | Relay
    | Relayed
)

_KINDS: dict[type[Any], Kind] = {
    ErrorAnswer: Kind.ERROR,
    Ping: Kind.PING,
    Pong: Kind.PONG,
    FindNode: Kind.FIND_NODE,
    Nodes: Kind.NODES,
    Store: Kind.STORE,
    Stored: Kind.STORED,
    FindValue: Kind.FIND_VALUE,
    Values: Kind.VALUES,
    PeerRequest: Kind.PEER_REQUEST,
    PeerResponse: Kind.PEER_RESPONSE,
    Signal: Kind.SIGNAL,
    Signalled: Kind.SIGNALLED,
    Probe: Kind.PROBE,
    Probed: Kind.PROBED,
    Relay: Kind.RELAY,
    Relayed: Kind.RELAYED,
}
_JSON_KINDS = (Kind.PEER_REQUEST, Kind.PEER_RESPONSE)

_pack_msgpack = msgspec.msgpack.Encoder().encode
_pack_json = msgspec.json.Encoder().encode
_PREFIXES = {body: bytes((kind,)) for body, kind in _KINDS.items()}
_PACKERS = {body: _pack_json if kind in _JSON_KINDS else _pack_msgpack for body, kind in _KINDS.items()}
_UNPACKERS = {
    int(kind): (msgspec.json.Decoder(body) if kind in _JSON_KINDS else msgspec.msgpack.Decoder(body)).decode
    for body, kind in _KINDS.items()
}


def is_request(kind: int) -> bool:
    """Requests are odd, and the answer to one is kind + 1; an error (0) answers anything."""
    return kind & 1 == 1


def pack_message(request_id: int, body: Body) -> bytes:
    body_type = type(body)
    return _PREFIXES[body_type] + request_id.to_bytes(4) + _PACKERS[body_type](body)


def unpack_message(plaintext: bytes) -> tuple[int, int, bytes]:
    """Kind, request id and the body still packed: who waits for it decides whether it is worth decoding."""
    if len(plaintext) < MESSAGE_PREFIX:
        raise WireError("message cut short")
    return plaintext[0], int.from_bytes(plaintext[1:5]), plaintext[5:]


def unpack_body(kind: int, body: bytes) -> Any:
    """The body as one of the values above. Raises WireError, for kinds not known here too."""
    unpack = _UNPACKERS.get(kind)
    if unpack is None:
        raise WireError(f"message kind {kind}")
    try:
        return unpack(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"{Kind(kind).name.lower()}: {error}") from error
