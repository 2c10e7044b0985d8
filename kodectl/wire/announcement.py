"""LAN announcements: signed JSON (docs/protocol.md, "LAN announcements").

The signature covers the bytes of `data` as they stand in the JSON, so a receiver verifies what it read and not what it
would have written.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec

from kodectl.errors import WireError

MAX_ANNOUNCEMENT = 1024
CONTEXT = b"kodechain announcement v1\n"

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


class Ports(msgspec.Struct, frozen=True):
    tcp: Port
    udp: Port


class EnodeData(msgspec.Struct, frozen=True):
    id: Hex32
    ip: Annotated[str, msgspec.Meta(max_length=45)]
    ports: Ports
    network: Annotated[str, msgspec.Meta(max_length=64)]
    public_key: Hex32


class _Envelope(msgspec.Struct, frozen=True):
    type: str
    data: msgspec.Raw
    timestamp: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    signature: Hex64


class Announcement(msgspec.Struct, frozen=True):
    data: EnodeData
    timestamp: int
    signature: bytes
    statement: bytes
    """What the signature covers."""


_data_decoder = msgspec.json.Decoder(EnodeData)
_envelope_decoder = msgspec.json.Decoder(_Envelope)


def announcement_statement(data: EnodeData, timestamp: int) -> bytes:
    return _statement(msgspec.json.encode(data), timestamp)


def pack_announcement(data: EnodeData, timestamp: int, signature: bytes) -> bytes:
    envelope = _Envelope("announcement", msgspec.Raw(msgspec.json.encode(data)), timestamp, signature.hex())
    return msgspec.json.encode(envelope)


def unpack_announcement(packed: bytes) -> Announcement:
    """Checks the layout, not the signature."""
    if len(packed) > MAX_ANNOUNCEMENT:
        raise WireError(f"announcement of {len(packed)} bytes; the limit is {MAX_ANNOUNCEMENT}")
    try:
        # Where a key stands twice, readers differ in which they believe; msgspec keeps the last and does not say.
        json.loads(packed, object_pairs_hook=_refuse_duplicates)
        envelope = _envelope_decoder.decode(packed)
        raw = bytes(envelope.data)
        data = _data_decoder.decode(raw)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise WireError(f"announcement: {error}") from error
    if envelope.type != "announcement":
        raise WireError(f"announcement of type {envelope.type[:40]!r}")
    return Announcement(
        data, envelope.timestamp, bytes.fromhex(envelope.signature), _statement(raw, envelope.timestamp)
    )


def _statement(raw_data: bytes, timestamp: int) -> bytes:
    return CONTEXT + raw_data + b"\n" + str(timestamp).encode()


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
