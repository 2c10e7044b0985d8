"""What the gossip core finds, and what it asks to be done."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from kodectl.wire.messages import DigestSlot


class Verdict(Enum):
    """What a message is, before its signature is looked at. Only NEW goes on."""

    NEW = "new"
    DUPLICATE = "duplicates"
    TOO_OLD = "too_old"
    AHEAD = "too_far_ahead"
    OVER_RATE = "over_origin_rate"
    FULL = "overload"


class Offence(Enum):
    """Why a peer loses trust."""

    FLOODING = "flooding"
    BROKEN_PROMISE = "broken_promise"


class Relay(NamedTuple):
    """Send this message, which is encoded already, to these peers."""

    peers: Sequence[bytes]
    message_id: bytes
    message: bytes


class SendHave(NamedTuple):
    peer: bytes
    ids: tuple[bytes, ...]


class SendWant(NamedTuple):
    peer: bytes
    ids: tuple[bytes, ...]


class SendDigest(NamedTuple):
    peer: bytes
    slots: tuple[DigestSlot, ...]


class Distrust(NamedTuple):
    peer: bytes
    offence: Offence


Effect = Relay | SendHave | SendWant | SendDigest | Distrust

IDS_AT_ONCE = 1024
"""Ids in one `have` or `want`: 32 KiB, half a segment, so that it delays no heartbeat."""


def in_parts(ids: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """The ids as so many messages hold them."""
    return [tuple(ids[start : start + IDS_AT_ONCE]) for start in range(0, len(ids), IDS_AT_ONCE)]
