"""Conformance of enodes as text. The headings are those of docs/protocol.md, a docstring says what is required there."""

from __future__ import annotations

import hashlib

from conformance.client.keys import new_key

ID = new_key().hex()


# -- Identity ----------------------------------------------------------------------------------------------------------


def test_enode_names_id_host_and_both_ports(parse):
    """`enode://ID@HOST:TCP?discport=UDP`, with an ID of 64 hex digits."""
    assert parse(f"enode://{ID}@192.0.2.7:30303?discport=30301") == [(ID, "192.0.2.7", 30303, 30301)]


def test_enode_without_discport_has_one_port(parse):
    """Without `discport`, UDP = TCP."""
    assert parse(f"enode://{ID}@192.0.2.7:30303") == [(ID, "192.0.2.7", 30303, 30303)]


def test_enode_of_128_digits_is_hashed(parse):
    """Then the node id is H of the 64 bytes."""
    long = new_key() + new_key()
    hashed = hashlib.sha256(long).hexdigest()
    assert parse(f"enode://{long.hex()}@192.0.2.7:1?discport=2") == [(hashed, "192.0.2.7", 1, 2)]


def test_host_may_be_an_ipv6_address_in_brackets(parse):
    """And only in brackets."""
    assert parse(f"enode://{ID}@[2001:db8::7]:1?discport=2", f"enode://{ID}@2001:db8::7:1?discport=2") == [
        (ID, "2001:db8::7", 1, 2),
        None,
    ]


def test_host_may_be_a_name(parse):
    """A host name of the DNS."""
    assert parse(f"enode://{ID}@node.example.org:1?discport=2") == [(ID, "node.example.org", 1, 2)]


def test_capital_digits_and_scheme_mean_the_same(parse):
    """Readers take both; writers write lower case."""
    assert parse(f"ENODE://{ID.upper()}@192.0.2.7:1?discport=2") == [(ID, "192.0.2.7", 1, 2)]


def test_port_of_0_is_not_listened_at(parse):
    """One of the two may be 0, not both."""
    assert parse(*(f"enode://{ID}@192.0.2.7:{tcp}?discport={udp}" for tcp, udp in ((0, 2), (1, 0), (0, 0)))) == [
        (ID, "192.0.2.7", 0, 2),
        (ID, "192.0.2.7", 1, 0),
        None,
    ]


def test_unknown_parameters_are_ignored(parse):
    """Parameters that the reader does not know change nothing."""
    assert parse(f"enode://{ID}@192.0.2.7:1?later=x&discport=2") == [(ID, "192.0.2.7", 1, 2)]


def test_what_is_no_enode_is_refused(parse):
    """Another scheme, size of the id, digit or port; no id, host or port."""
    texts = (
        f"node://{ID}@192.0.2.7:1",
        f"enode://{ID[:-1]}@192.0.2.7:1",
        f"enode://{ID}0@192.0.2.7:1",
        f"enode://{ID[:-1]}g@192.0.2.7:1",
        f"enode://{ID}@192.0.2.7:65536",
        f"enode://{ID}@192.0.2.7:-1",
        f"enode://{ID}@192.0.2.7:1?discport=65536",
        f"enode://{ID}@192.0.2.7:1?discport=",
        "enode://192.0.2.7:1",
        f"enode://{ID}@:1",
        f"enode://{ID}@192.0.2.7",
        f"enode://{ID}@192.0.2.256:1",
        f"enode://{ID}@[2001:db8::7:1",
    )
    assert parse(*texts) == [None] * len(texts)
