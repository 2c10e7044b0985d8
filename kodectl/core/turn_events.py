"""What happens to an allocation, asking side, and what is to be sent for it: what `turn_client.TurnClient` answers."""

from __future__ import annotations

from typing import NamedTuple

from kodectl.errors import KodectlError
from kodectl.wire.stun_attributes import Address


class Allocated(NamedTuple):
    """The server relays at `relayed`, and sees us at `mapped`. May happen again, with another address, after `Forgotten`."""

    relayed: Address
    mapped: Address
    lifetime_s: int


class DataReceived(NamedTuple):
    data: bytes
    peer: Address


class PeerRefused(NamedTuple):
    """The server does not let `ip` send to us, nor us to it."""

    ip: str
    error: KodectlError


class Forgotten(NamedTuple):
    """The server has lost the allocation; another is being asked for."""


class Mismatched(NamedTuple):
    """The server has another allocation of this 5-tuple (437): one from another port is needed."""

    error: KodectlError


class Redirected(NamedTuple):
    """Ask there (300). The client has ended; make another one."""

    server: Address


class Lost(NamedTuple):
    """There is no allocation, or none any more. The client has ended."""

    error: KodectlError


Event = Allocated | DataReceived | PeerRefused | Forgotten | Mismatched | Redirected | Lost


class Step(NamedTuple):
    packets: tuple[bytes, ...] = ()
    events: tuple[Event, ...] = ()


NOTHING = Step()
