"""The kinds of router: what each does to packets, as nftables rules.

RFC 4787 describes a NAT by two behaviours. Mapping: which outer port stands for a host inside and its port, and whether it
is the same one towards everybody. Filtering: who may send in through an outer port. A kind is a pair of them. The kernel's
own NAT is kept per connection, which gives mapping and filtering that depend on address and port for nothing; what
is looser than that is remembered in maps, which fill themselves as packets go out, so no port is known in advance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

DEFAULT_UDP_TIMEOUT_S = 120
"""RFC 4787, section 4.3: at least two minutes."""


class Kind(Enum):
    OPEN = "open"
    """No translation, no filter."""
    FIREWALLED = "firewalled"
    """No translation; only answers come in."""
    FULL_CONE = "full_cone"
    RESTRICTED = "restricted"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"
    """A random port towards each endpoint."""
    SYMMETRIC_SEQUENTIAL = "symmetric_sequential"
    SYMMETRIC_BY_ADDRESS = "symmetric_by_address"
    """A random port towards each address, whichever the port there."""
    CGNAT = "cgnat"
    """A port-restricted router at home, behind a carrier's with 100.64.0.0/10 between them."""
    CARRIER = "carrier"
    """The carrier's router alone: RFC 6888 wants an endpoint-independent mapping; the port is not preserved."""
    BLOCKED = "blocked"
    """TCP goes out, UDP goes nowhere."""
    IGD = "igd"
    """Port-restricted, with miniupnpd on it."""

    @property
    def translates(self) -> bool:
        return self not in (Kind.OPEN, Kind.FIREWALLED)


# --- Mapping: rules of the chain that a packet leaves by ------------------------------------------------------------------

_ENDPOINT_INDEPENDENT = """
    # Who has an outer port keeps it towards everybody: that makes the mapping endpoint-independent.
    meta l4proto udp snat to $OUTER : ip saddr . udp sport map @outer_ports
    # Two hosts inside may use one source port. The second gets another outer port, and keeps that one.
    udp sport @taken snat to $OUTER : 1024-65535 fully-random
    {first}
    snat to $OUTER
"""
_PRESERVED = "# The first of a port keeps it: the kernel changes a port only when it has to."
_NOT_PRESERVED = "meta l4proto udp snat to $OUTER : 1024-65535 fully-random"

_RANDOM = """
    # One draw for each connection, and a connection is a pair of endpoints: mapping depends on address and port.
    meta l4proto { tcp, udp } snat to $OUTER : 1024-65535 fully-random
    snat to $OUTER
"""
_BY_DESTINATION = """
    # A draw for each address outside, kept towards all of its ports: mapping depends on the address alone.
    meta l4proto udp snat to $OUTER : ip saddr . udp sport . ip daddr map @outer_ports_by_address
    meta l4proto { tcp, udp } snat to $OUTER : 1024-65535 fully-random
    snat to $OUTER
"""
_SEQUENTIAL = """
    # As with random ports, but the next connection gets the next port, whoever inside opens it.
    meta l4proto { tcp, udp } snat to $OUTER : numgen inc mod {count} map {sequence}
    snat to $OUTER
"""

# --- Filtering: rules of the chain that a packet comes in by ---------------------------------------------------------------

_BY_ENDPOINT_INDEPENDENT = """
    # Whoever sends to an outer port in use reaches the host behind it.
    ip daddr $OUTER meta l4proto udp dnat to udp dport map @inner_endpoints
"""
_BY_ADDRESS = """
    # Only from addresses that the host behind the port has sent to through it, from whatever port of theirs.
    ip daddr $OUTER udp dport . ip saddr @contacted dnat to udp dport map @inner_endpoints
"""
_BY_ADDRESS_AND_PORT = """
    # Nothing: what belongs to a connection never comes here, and what does not is not let in.
"""


@dataclass(frozen=True)
class _Behavior:
    mapping: str
    filtering: str


_CONE = _ENDPOINT_INDEPENDENT.replace("{first}", _PRESERVED)
_BEHAVIORS = {
    Kind.FULL_CONE: _Behavior(_CONE, _BY_ENDPOINT_INDEPENDENT),
    Kind.RESTRICTED: _Behavior(_CONE, _BY_ADDRESS),
    Kind.PORT_RESTRICTED: _Behavior(_CONE, _BY_ADDRESS_AND_PORT),
    Kind.IGD: _Behavior(_CONE, _BY_ADDRESS_AND_PORT),
    Kind.BLOCKED: _Behavior(_CONE, _BY_ADDRESS_AND_PORT),
    Kind.CARRIER: _Behavior(_CONE, _BY_ENDPOINT_INDEPENDENT),
    Kind.SYMMETRIC: _Behavior(_RANDOM, _BY_ADDRESS_AND_PORT),
    Kind.SYMMETRIC_BY_ADDRESS: _Behavior(_BY_DESTINATION, _BY_ADDRESS_AND_PORT),
    Kind.SYMMETRIC_SEQUENTIAL: _Behavior(_SEQUENTIAL, _BY_ADDRESS_AND_PORT),
}

_TABLE = """
define OUTER = {outer}
define INNER = {inner}

table ip router {
  # Host and port inside -> outer port, and back. Kept alive by what goes out (RFC 4787, REQ-6).
  map outer_ports { type ipv4_addr . inet_service : inet_service; size 65535; flags dynamic,timeout; timeout {timeout}s; }
  map inner_endpoints { type inet_service : ipv4_addr . inet_service; size 65535; flags dynamic,timeout; timeout {timeout}s; }
  map outer_ports_by_address {
    type ipv4_addr . inet_service . ipv4_addr : inet_service; size 65535; flags dynamic,timeout; timeout {timeout}s;
  }
  set taken { type inet_service; size 65535; flags dynamic,timeout; timeout {timeout}s; }
  # Through which outer port who has been sent to.
  set contacted { type inet_service . ipv4_addr; size 65535; flags dynamic,timeout; timeout {timeout}s; }
  # Forwarded by hand, whatever the kind.
  map forwards { type inet_proto . inet_service : ipv4_addr . inet_service; }

  chain arriving {
    type nat hook prerouting priority dstnat
    ip daddr $OUTER iifname "outer" dnat to meta l4proto . th dport map @forwards
    iifname "outer" jump filtering
    iifname "inner" jump hairpin
  }
  chain filtering {
{filtering}
  }
  chain hairpin {
{hairpin}
  }

  chain leaving {
    type nat hook postrouting priority srcnat
    ip saddr $INNER oifname "outer" jump mapping
    # Sent back inside: seen there as coming from outside (RFC 4787, REQ-9).
    ip saddr $INNER oifname "inner" ct status dnat jump mapping
  }
  chain mapping {
{mapping}
  }

  chain learning {
    # After translation: the packet's source is the outer endpoint, and the connection still knows the inner one.
    type filter hook postrouting priority srcnat + 10
    ip saddr != $OUTER return
    meta l4proto != udp return
    ct direction original ct original ip saddr $INNER goto learn_original
    ct direction reply ct reply ip saddr $INNER goto learn_reply
  }
{learning}
  chain through {
    type filter hook forward priority filter; policy drop
    {udp}
    # It belongs to no connection, so it would go out with its inner address.
    ct state invalid drop
    ct state established,related accept
    iifname "inner" oifname "outer" accept
    ct status dnat accept
  }
  chain own {
    # What no rule wants ends at the router. Dropped before it is confirmed, it leaves no connection behind that would
    # take the port from the host inside when that host sends to the same stranger (as bare masquerading does).
    type filter hook input priority filter; policy drop
    iifname "lo" accept
    ct state established,related accept
    icmp type echo-request accept
    iifname "inner" ip daddr != $OUTER accept
    {unsolicited}
  }
}
"""

# Once for what a host inside began, once for its answers to what came in.
_LEARN = """
  chain learn_{direction} {
    meta l4proto udp update @outer_ports { ct {direction} ip saddr . ct {direction} proto-src : udp sport }
    meta l4proto udp update @outer_ports_by_address { ct {direction} ip saddr . ct {direction} proto-src . ip daddr : udp sport }
    meta l4proto udp update @inner_endpoints { udp sport : ct {direction} ip saddr . ct {direction} proto-src }
    update @taken { udp sport }
    update @contacted { udp sport . ip daddr }
  }
"""

_FIREWALL = """
table ip router {
  chain through {
    type filter hook forward priority filter; policy drop
    ct state established,related accept
    iifname "inner" oifname "outer" accept
    {unsolicited}
  }
}
"""

_HAIRPIN = """
    # What a host inside sends to an outer endpoint goes to the host behind it, filtered or not.
    ip daddr $OUTER dnat to meta l4proto . th dport map @forwards
    ip daddr $OUTER meta l4proto udp dnat to udp dport map @inner_endpoints
"""
_NO_HAIRPIN = "    # Not known here: it ends at the router."
_RESET = "meta l4proto tcp reject with tcp reset"
_NOTHING = "# No word to strangers."
_FRESH = "table ip router\ndelete table ip router\ntable ip blackout\ndelete table ip blackout\n"
BLACKOUT = "table ip blackout { chain arriving { type filter hook prerouting priority raw - 100; policy drop; }; }\n"
"""Until the next ruleset nothing gets through. Else a packet in between could teach a router what it should forget."""


_SEQUENCE_LENGTH = 4096
"""Connections until sequential ports begin again: more than are opened within two minutes, for which the kernel knows each. It
drops the first packet of one that gets the port of another."""


@dataclass(frozen=True)
class Options:
    hairpin: bool = False
    udp_timeout_s: int = DEFAULT_UDP_TIMEOUT_S
    preserve_ports: bool = True
    """The first host inside to use a port gets the same one outside. Means nothing to the symmetric kinds."""
    step: int = 1
    """Of sequential ports."""
    is_silent: bool = False
    """Unsolicited TCP is dropped instead of refused. Unsolicited UDP always is."""


def ruleset(kind: Kind, outer: str, inner: str, options: Options) -> str:
    """For `nft -f -`; replaces what was there, and with it all that the maps had learnt."""
    unsolicited = _NOTHING if options.is_silent else _RESET
    if kind is Kind.OPEN:
        return _FRESH
    if kind is Kind.FIREWALLED:
        return _FRESH + _FIREWALL.replace("{unsolicited}", unsolicited)
    behavior = _BEHAVIORS[kind]
    mapping = behavior.mapping
    if not options.preserve_ports or kind is Kind.CARRIER:
        mapping = mapping.replace(_PRESERVED, _NOT_PRESERVED)
    values = {
        "{outer}": outer,
        "{inner}": inner,
        "{timeout}": str(options.udp_timeout_s),
        "{filtering}": behavior.filtering,
        "{mapping}": mapping,
        "{learning}": "".join(_LEARN.replace("{direction}", direction) for direction in ("original", "reply")),
        "{count}": str(_SEQUENCE_LENGTH),
        "{sequence}": _sequence(options.step),
        "{hairpin}": _HAIRPIN if options.hairpin else _NO_HAIRPIN,
        "{udp}": "meta l4proto udp drop" if kind is Kind.BLOCKED else "# Any transport.",
        "{unsolicited}": unsolicited,
    }
    text = _TABLE
    for name, value in values.items():
        text = text.replace(name, value)
    return _FRESH + text


def _sequence(step: int) -> str:
    """A map instead of `numgen ... offset`, whose number nft writes into the port with its bytes swapped: steps of 256."""
    first = random.randrange(1024, 65536 - step * _SEQUENCE_LENGTH)
    return "{ " + ", ".join(f"{turn} : {first + turn * step}" for turn in range(_SEQUENCE_LENGTH)) + " }"
