"""Which addresses of a machine become candidates."""

from __future__ import annotations

import pytest

from kodectl.node.ice_bases import MAX_ADDRESSES, host_addresses
from kodectl.runtime.base import LocalNetwork

LOOPBACK = ("127.0.0.1", "::1")
LINK = "fe80::1"


def network(*addresses: str, source: str | None = None, zones: tuple[tuple[str, str], ...] = ()) -> LocalNetwork:
    return LocalNetwork((*LOOPBACK, *addresses), source, None, None, None, zones)


@pytest.mark.parametrize(
    ("addresses", "chosen"),
    [
        ((), ["::1", "127.0.0.1"]),
        (("10.0.0.1",), ["10.0.0.1"]),
        (("10.0.0.1", "2a00::1"), ["2a00::1", "10.0.0.1"]),
        (("10.0.0.1", "10.0.0.1"), ["10.0.0.1"]),
        (("169.254.0.1",), ["169.254.0.1"]),
        (("10.0.0.1", LINK), ["10.0.0.1"]),
        (("0.0.0.0", "224.0.0.1", "::ffff:10.0.0.1", "fec0::1", "10.0.0.1"), ["10.0.0.1"]),
    ],
)
def test_what_is_chosen(addresses: tuple[str, ...], chosen: list[str]) -> None:
    assert host_addresses(network(*addresses, zones=((LINK, "eth0"),))) == chosen


def test_link_local_addresses_only_where_there_is_nothing_else_and_with_their_interface() -> None:
    assert host_addresses(network(LINK, zones=((LINK, "eth0"),))) == [LINK]
    assert host_addresses(network(LINK)) == ["::1", "127.0.0.1"]
    assert host_addresses(network(LINK, "10.0.0.1", zones=((LINK, "eth0"),)), families=(6,)) == [LINK]


def test_the_address_of_the_default_route_is_first_and_there_are_so_many() -> None:
    many = [f"10.0.0.{number}" for number in range(1, 100)]
    chosen = host_addresses(network(*many, source=many[-1]))
    assert chosen[0] == many[-1]
    assert len(chosen) == MAX_ADDRESSES
