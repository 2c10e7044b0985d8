"""What a NAT does, in the words of RFC 4787: as nodes tell each other."""

from __future__ import annotations

from enum import Enum


class Behavior(Enum):
    """Of mapping (RFC 4787, section 4.1) and of filtering (section 5): what an outside endpoint's part in it is."""

    ENDPOINT_INDEPENDENT = "endpoint_independent"
    ADDRESS_DEPENDENT = "address_dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address_and_port_dependent"
