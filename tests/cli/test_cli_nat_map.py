"""The command lines of `nat map`, `mappings` and `unmap`, as far as they get without a network. With one: tests/lab.

Nothing here may get as far as a search: that is a multicast."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kodectl.cli.main import cli
from kodectl.cli.nat_map import MAX_LEASE_S, MIN_LEASE_S, Port, parse_inner, parse_lease, parse_mapping
from kodectl.runtime import upnp


@pytest.fixture(autouse=True)
def _no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a test without a namespace has begun a search")

    monkeypatch.setattr(upnp, "find_upnp", refuse)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("30303/tcp", Port(30303, "tcp", None)),
        ("30301/udp:1", Port(30301, "udp", 1)),
        ("30303", Port(30303, None, None)),
        ("1:65535", Port(1, None, 65535)),
    ],
)
def test_a_port_is_inner_transport_and_outer(text: str, port: Port) -> None:
    assert parse_mapping(text) == port
    assert port.transports == (("tcp", "udp") if port.transport is None else (port.transport,))


@pytest.mark.parametrize(
    "text",
    ["", "0", "65536", "-1", "x", "1/", "1/sctp", "1/TCP", "1:", "1:0", "1:x", "1/tcp:2:3", "1 ", "¹", "9" * 5000],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="PORT"):
        parse_mapping(text)
    with pytest.raises(ValueError, match="PORT"):
        parse_inner(text)


def test_removing_takes_no_outer_port() -> None:
    with pytest.raises(ValueError, match="PORT"):
        parse_inner("1/tcp:2")


@given(st.text(alphabet="0123456789/:tcpud x"))
def test_any_text_is_a_port_or_refused(text: str) -> None:
    try:
        port = parse_mapping(text)
    except ValueError:
        return
    assert 0 < port.number < 65_536
    assert port.outer is None or 0 < port.outer < 65_536


def test_a_lease_has_bounds_and_none_is_none() -> None:
    assert [parse_lease(text) for text in ("0", "60", str(MAX_LEASE_S))] == [0, MIN_LEASE_S, MAX_LEASE_S]
    for text in ("59", str(MAX_LEASE_S + 1), "-1", "1.5", "", "0" * 12 + "60", "9" * 5000):
        with pytest.raises(ValueError, match="seconds"):
            parse_lease(text)


@pytest.mark.parametrize(
    "words",
    [
        "map 0/tcp",
        "map 1/tcp 1/tcp",
        "map 1 1/udp",
        "map 1/tcp:5 2/tcp:5",
        "map 1/tcp:2 2/tcp",
        "map 1 --lease 5",
        "map 1 --proto igd",
        "map 1 --timeout 0",
        " ".join(["map", *map(str, range(1, 40))]),
        "unmap",
        "unmap 1/tcp:2",
        "unmap 1 1",
        "mappings 1",
    ],
)
def test_a_command_that_makes_no_sense_is_refused_before_anything_is_sent(words: str) -> None:
    done = CliRunner().invoke(cli, ["nat", *words.split(), "--json"])
    assert done.exit_code == 2, done.output
    assert json.loads(done.stdout)["error"]["code"] == "usage"


def test_a_node_that_takes_any_port_has_none_to_map() -> None:
    variables = {"KODECTL_LISTEN": "0.0.0.0:0", "XDG_CONFIG_HOME": "/nonexistent"}
    done = CliRunner().invoke(cli, ["nat", "map", "--json"], env=variables)
    assert done.exit_code == 2
    assert "nat map 30303/tcp" in json.loads(done.stdout)["error"]["hint"]
