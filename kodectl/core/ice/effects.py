"""What an agent wants done, and what it has to tell."""

from __future__ import annotations

from typing import NamedTuple

from kodectl.core.ice.local import Base
from kodectl.core.ice.pairs import Pair
from kodectl.wire.candidates import Address


class Transmit(NamedTuple):
    """`data` is to leave from `base`."""

    base: Base
    data: bytes
    address: Address


class Received(NamedTuple):
    """The application's data, on any path where the peer has proved itself."""

    data: bytes
    pair: Pair


class Usable(NamedTuple):
    """The first valid pair: data can be sent, while better ones are still looked for."""

    pair: Pair


class Selected(NamedTuple):
    """Both sides have agreed; once more when a peer that nominates several comes to a better one."""

    pair: Pair


class Lost(NamedTuple):
    """Consent is gone (RFC 7675): nothing may be sent until a restart has found another path."""


class Failed(NamedTuple):
    """Nothing connects, and nothing more is to be expected."""


Effect = Transmit | Received | Usable | Selected | Lost | Failed
