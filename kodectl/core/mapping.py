"""Port mappings: what is asked of a gateway, what it gave, and why it did not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from kodectl.errors import NegativeAnswer

Address = tuple[str, int]

DEFAULT_LEASE_S = 3600
"""What a node asks for (RFC 6886, section 3.3, recommends two hours; a router that forgets to clean up keeps a dead
mapping for no longer than this)."""

LONGEST_LEASE_S = 365 * 86_400
"""For "for ever" where a protocol has no word for it. Not the most that 32 bits hold: routers add it to their clock, and
some then see the end in the past."""


class Transport(Enum):
    UDP = "udp"
    TCP = "tcp"


class Method(Enum):
    """How a gateway is talked to. PCP first where all answer at once: it says most."""

    PCP = "pcp"
    NATPMP = "natpmp"
    UPNP = "upnp"


@dataclass(frozen=True)
class Wish:
    """A port of this host that the outside is to reach."""

    transport: Transport
    internal_port: int
    external_port: int
    """Asked for; the gateway may give another. 0: any."""
    lease_s: int = DEFAULT_LEASE_S


@dataclass(frozen=True)
class PortMapping:
    """What a gateway gave, or lists."""

    method: Method
    transport: Transport
    internal: Address
    external: Address
    """The IP is the gateway's outer address as the gateway tells it; "0.0.0.0" when it does not."""
    lease_s: int
    """Left when it was read; 0: for ever."""
    gateway: str
    """The gateway's inner address."""
    description: str = ""


class MappingRefused(NegativeAnswer):
    """The gateway said no. `method` and `number` are its own words (a UPnP error, a PCP or NAT-PMP result code), `message`
    and `hint` what they mean for the operator. Codes: mapping_refused, mapping_conflict (the port is another's),
    mapping_permanent_only, mapping_not_authorised, gateway_full, gateway_no_address, mapping_unsupported."""

    def __init__(self, message: str, *, method: Method, number: int | None, code: str, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.method = method
        self.number = number


class Gateway(Protocol):
    """A router that answers one of the protocols. Every method waits, with a limit of a few seconds, and raises
    MappingRefused, NegativeAnswer (code no_gateway: it has fallen silent) or WireError (it answers nonsense)."""

    method: Method
    address: str
    """The inner address of the router."""
    name: str
    """What it calls itself, for people; the address where it has no name."""

    def external_ip(self) -> str | None:
        """The router's outer address; None when it has none, or does not tell."""
        ...

    def add(self, wish: Wish) -> PortMapping:
        """Makes or renews a mapping to this host, and answers what was really given."""
        ...

    def verify(self, mapping: PortMapping) -> bool | None:
        """Whether the mapping is there, read back from the router; None where the protocol cannot tell."""
        ...

    def remove(self, mapping: PortMapping) -> None:
        """Removes a mapping to this host. One that is not there is no error."""
        ...

    def mappings(self) -> list[PortMapping] | None:
        """All that the router tells of; None where the protocol has no list."""
        ...

    def has_restarted(self) -> bool:
        """Whether the router has lost its state since the last call, as far as it tells (epochs, uptime, read back)."""
        ...
