"""Enodes: the documented example, every form of host and port, and each way to get one wrong."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kodectl.errors import WireError
from kodectl.wire.addresses import scope_of
from kodectl.wire.enode import MAX_ENODE_LENGTH, Enode, parse_enode

DOCUMENTED_ID = (
    "a979fb575495b8d6db44f750317d0f4622bf4c2aa3365d6af7c284339968eef2"
    "9b69ad0dce72a4d8db5ebb4968de0e3bec910127f134779fbcb0cb6d3331163c"
)
ID = "ab" * 32


def at(location: str, node_id: str = ID) -> str:
    return f"enode://{node_id}@{location}"


def test_the_documented_example() -> None:
    enode = parse_enode(at("127.0.0.1:30303?discport=30301", DOCUMENTED_ID))
    assert enode.long_id == bytes.fromhex(DOCUMENTED_ID)
    assert enode.node_id == hashlib.sha256(bytes.fromhex(DOCUMENTED_ID)).digest()
    assert (enode.host, enode.tcp, enode.udp, enode.udp_given) == ("127.0.0.1", 30303, 30301, True)
    assert str(enode) == (
        "enode://e170c34ae50e313544a6bc4e9ec2645e4f02af6c2e960aaa03984ae175216785@127.0.0.1:30303?discport=30301"
    )
    assert parse_enode(str(enode)) == enode


@pytest.mark.parametrize(
    ("text", "host", "tcp", "udp", "written"),
    [
        (at("192.0.2.7:1?discport=2"), "192.0.2.7", 1, 2, at("192.0.2.7:1?discport=2")),
        (at("192.0.2.7:30303"), "192.0.2.7", 30303, 30303, at("192.0.2.7:30303?discport=30303")),
        (at("192.0.2.7:30303?"), "192.0.2.7", 30303, 30303, at("192.0.2.7:30303?discport=30303")),
        (at("[2001:DB8:0::1]:1"), "2001:db8::1", 1, 1, at("[2001:db8::1]:1?discport=1")),
        (at("[::ffff:192.0.2.7]:1"), "192.0.2.7", 1, 1, at("192.0.2.7:1?discport=1")),
        (at("Seed1.KodeChain.io:1"), "seed1.kodechain.io", 1, 1, at("seed1.kodechain.io:1?discport=1")),
        (at("seed1.kodechain.io.:1"), "seed1.kodechain.io", 1, 1, at("seed1.kodechain.io:1?discport=1")),
        (at("localhost:1"), "localhost", 1, 1, at("localhost:1?discport=1")),
        (at("3com.com:1"), "3com.com", 1, 1, at("3com.com:1?discport=1")),
        (at("192.0.2.7:0?discport=5"), "192.0.2.7", 0, 5, at("192.0.2.7:0?discport=5")),
        (at("192.0.2.7:5?discport=0"), "192.0.2.7", 5, 0, at("192.0.2.7:5?discport=0")),
        (at("192.0.2.7:65535?discport=00001"), "192.0.2.7", 65535, 1, at("192.0.2.7:65535?discport=1")),
        (f"ENODE://{ID.upper()}@192.0.2.7:1", "192.0.2.7", 1, 1, at("192.0.2.7:1?discport=1")),
    ],
)
def test_forms(text: str, host: str, tcp: int, udp: int, written: str) -> None:
    enode = parse_enode(text)
    assert (enode.node_id.hex(), enode.host, enode.tcp, enode.udp) == (ID, host, tcp, udp)
    assert str(enode) == written


def test_where_the_udp_port_came_from_is_told_but_is_no_difference() -> None:
    without, with_ = parse_enode(at("192.0.2.7:5")), parse_enode(at("192.0.2.7:5?discport=5"))
    assert (without.udp_given, with_.udp_given) == (False, True)
    assert without == with_
    assert hash(without) == hash(with_)


def test_parameters_of_later_versions_are_ignored_and_told() -> None:
    enode = parse_enode(at("192.0.2.7:5?quic=7&discport=6&x"))
    assert (enode.udp, enode.ignored) == (6, ("quic", "x"))


def test_zeros_stand_for_an_id_that_is_not_known() -> None:
    assert not parse_enode(at("192.0.2.7:5", "0" * 64)).id_known
    assert parse_enode(at("192.0.2.7:5")).id_known


def test_a_value_stays_as_it_is() -> None:
    enode = parse_enode(at("192.0.2.7:5"))
    with pytest.raises(FrozenInstanceError):
        enode.host = "192.0.2.8"  # type: ignore[misc]


BROKEN = [
    ("", "empty"),
    ("enr:-IS4QHCYrYZbAKW", "must begin with enode://"),
    (f"http://{ID}@192.0.2.7:1", "must begin with enode://"),
    ("enode://192.0.2.7:1", "no @ between"),
    ("enode://@192.0.2.7:1", "no node id"),
    ("enode://[id]@seed1.kodechain.io:30303", "4 characters"),
    (at("192.0.2.7:1", ID[:-1]), "63 characters"),
    (at("192.0.2.7:1", ID + "00"), "66 characters"),
    (at("192.0.2.7:1", "xy" * 32), "other characters than hex"),
    (at("192.0.2.7:1", f"{ID[:-2]}é1"), "other characters than hex"),
    (at("192.0.2.7"), "no TCP port"),
    (at("192.0.2.7:"), "no TCP port"),
    (at("[2001:db8::1]"), "no TCP port"),
    (at(":1"), "no host"),
    (at("192.0.2.7:x"), "not a number"),
    (at("192.0.2.7:-1"), "not a number"),
    (at("192.0.2.7:+1"), "not a number"),
    (at("192.0.2.7:1_0"), "not a number"),
    (at("192.0.2.7:٣"), "not a number"),
    (at("192.0.2.7:65536"), "above 65535"),
    (at("192.0.2.7:000001"), "not a number"),
    (at("192.0.2.7:0"), "neither"),
    (at("192.0.2.7:0?discport=0"), "neither"),
    (at("192.0.2.7:1?discport=65536"), "discport 65536 is above"),
    (at("192.0.2.7:1?discport=x"), "discport 'x' is not a number"),
    (at("192.0.2.7:1?discport="), "no discport"),
    (at("192.0.2.7:1?discport"), "without a value"),
    (at("192.0.2.7:1?discport=1&discport=1"), "twice"),
    (at("192.0.2.256:1"), "not an IPv4 address"),
    (at("192.0.2.07:1"), "not an IPv4 address"),
    (at("1:1"), "not an IPv4 address"),
    (at("0x7f000001:1"), "not an IPv4 address"),
    (at("2001:db8::1:1"), "in brackets"),
    (at("[2001:db8:::1]:1"), "not an IPv6 address"),
    (at("[192.0.2.7]:1"), "not an IPv6 address"),
    (at("[]:1"), "not an IPv6 address"),
    (at("[2001:db8::1:1"), "without ]"),
    (at("[::1]x:1"), "between ] and the port"),
    (at("[fe80::1%eth0]:1"), "zone"),
    (at("a_b.example:1"), "RFC 1123"),
    (at("-a.example:1"), "RFC 1123"),
    (at("a-.example:1"), "RFC 1123"),
    (at(f"{'a' * 64}.example:1"), "RFC 1123"),
    (at("a..example:1"), "empty label"),
    (at(".:1"), "empty label"),
    (at("exämple.org:1"), "xn--"),
    (at(f"{'.'.join(['a' * 63] * 4)}:1"), "255 characters"),
    (at("192.0.2.7:1/path"), "path or fragment"),
    (at("192.0.2.7:1#x"), "path or fragment"),
    (at("192.0.2.7:1 "), "white space"),
    (at("192.0.2.7\n:1"), "white space"),
    (at("a\x00b:1"), "control"),
    (at("a:1") + "?" + "x" * MAX_ENODE_LENGTH, "at most 512"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_each_way_to_get_it_wrong_has_its_message(text: str, message: str) -> None:
    with pytest.raises(WireError) as raised:
        parse_enode(text)
    assert message in raised.value.message
    assert len(raised.value.message) < 700


@given(st.text() | st.text().map(lambda text: f"enode://{ID}@{text}") | st.from_regex(r"enode://[0-9a-f]{64}@\S{0,40}"))
@example("enode://")
def test_any_text_is_an_enode_or_a_wire_error(text: str) -> None:
    try:
        enode = parse_enode(text)
    except WireError:
        return
    assert parse_enode(str(enode)) == enode
    assert len(enode.node_id) == 32


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).filter(lambda ip: ip.ipv4_mapped is None).map(str),
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,10}){0,3}", fullmatch=True),
)


@given(st.binary(min_size=32, max_size=32), hosts, st.integers(1, 65535), st.integers(0, 65535))
def test_what_is_written_is_read_again(node_id: bytes, host: str, tcp: int, udp: int) -> None:
    enode = Enode(node_id, host, tcp, udp)
    assert parse_enode(str(enode)) == enode


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("8.8.8.8", "public"),
        ("2606:4700::1", "public"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", "public"),
        ("192.168.0.1", "private"),
        ("fd00::1", "private"),
        ("100.64.0.1", "cgnat"),
        ("100.127.255.255", "cgnat"),
        ("100.128.0.1", "public"),
        ("127.1.2.3", "loopback"),
        ("::1", "loopback"),
        ("169.254.1.1", "link_local"),
        ("fe80::1", "link_local"),
        ("192.0.2.1", "documentation"),
        ("203.0.113.5", "documentation"),
        ("2001:db8::1", "documentation"),
        ("198.18.0.1", "benchmark"),
        ("198.20.0.1", "public"),
        ("239.255.75.67", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "reserved"),
        ("seed1.kodechain.io", "name"),
    ],
)
def test_scopes(host: str, scope: str) -> None:
    assert scope_of(host) == scope


@given(st.ip_addresses())
def test_every_address_has_a_scope(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert scope_of(str(address)) != "name"
