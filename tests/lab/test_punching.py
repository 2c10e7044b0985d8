"""Holes in real NATs: TCP, from the port that listens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from natlab import Kind, Lab, skip_without_lab
from punching import Program, introduce

pytestmark = [pytest.mark.lab, skip_without_lab]

TESTS = Path(__file__).parents[1]
TCP_PORT = 30_303
LIMIT_S = 10.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


class TcpSide(Program):
    def __init__(self, lab: Lab, kind: Kind, **options: Any) -> None:
        self.host = lab.behind(kind, **options)
        super().__init__(
            [sys.executable, str(TESTS / "tcp_punch_peer.py"), str(TCP_PORT), str(LIMIT_S)], self.host.popen
        )
        self.ticket = f"{self.host.external_ip} {TCP_PORT}\n"


def punch_tcp(one: TcpSide, other: TcpSide) -> list[dict[str, Any]]:
    introduce(one, other)
    return [side.end()[1][-1] for side in (one, other)]


# UDP-blocked is a router that keeps TCP ports, as most do.
@pytest.mark.parametrize("kind", [Kind.PORT_RESTRICTED, Kind.BLOCKED], ids=lambda kind: kind.value)
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "refusing"])
def test_tcp_gets_through_two_nats_from_the_listening_ports(lab: Lab, kind: Kind, is_silent: bool) -> None:
    sides = [TcpSide(lab, one, is_silent=is_silent) for one in (kind, Kind.PORT_RESTRICTED)]
    for told in punch_tcp(*sides):
        assert told["event"] == "connected", told
        assert told["echoed"]


def test_tcp_does_not_where_the_port_is_another_one(lab: Lab) -> None:
    sides = [TcpSide(lab, Kind.SYMMETRIC, is_silent=True) for _ in range(2)]
    assert [told["event"] for told in punch_tcp(*sides)] == ["failed", "failed"]
