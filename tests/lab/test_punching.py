"""Holes in real NATs: TCP from the port that listens, ports that are foretold, and the birthday spray."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from natlab import Host, Kind, Lab, skip_without_lab
from punching import Program, introduce

from kodectl.core.spray import MAX_PACKETS

pytestmark = [pytest.mark.lab, skip_without_lab]

TESTS = Path(__file__).parents[1]
TCP_PORT = 30_303
LIMIT_S = 10.0
FAILURE_S = 3.0
SPRAY_LIMIT_S = 35.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


class TcpSide(Program):
    def __init__(self, lab: Lab, kind: Kind, limit_s: float = LIMIT_S, **options: Any) -> None:
        self.host = lab.behind(kind, **options)
        super().__init__(
            [sys.executable, str(TESTS / "tcp_punch_peer.py"), str(TCP_PORT), str(limit_s)], self.host.popen
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
    for side in sides:
        # A SYN and its refusal are on their way for 6 ms. With none of it, two that share a core with others never
        # have a SYN under way at the same time.
        side.host.router.narrow(200_000)
    for told in punch_tcp(*sides):
        assert told["event"] == "connected", told
        assert told["echoed"]


def test_tcp_does_not_where_the_port_is_another_one(lab: Lab) -> None:
    sides = [TcpSide(lab, Kind.SYMMETRIC, FAILURE_S, is_silent=True) for _ in range(2)]
    assert [told["event"] for told in punch_tcp(*sides)] == ["failed", "failed"]


class UdpSide(Program):
    def __init__(self, host: Host, role: str, *observers: str, limit_s: float = SPRAY_LIMIT_S) -> None:
        command = [sys.executable, str(TESTS / "spray_peer.py"), role, str(limit_s), host.ip, host.external_ip]
        super().__init__([*command, *observers], host.popen)


def test_a_spray_connects_port_restricted_with_drawn_ports(lab: Lab) -> None:
    sides = UdpSide(lab.behind(Kind.SYMMETRIC), "many"), UdpSide(lab.behind(Kind.PORT_RESTRICTED), "ports")
    introduce(*sides)
    for side in sides:
        told = side.end()[1][-1]
        assert told["event"] == "connected", told
        assert told["sent"] <= MAX_PACKETS


@pytest.mark.parametrize("step", [1, 2])
def test_foretold_ports_connect_port_restricted_with_a_row_of_ports(lab: Lab, step: int) -> None:
    observers = [lab.public("observer") for _ in range(2)]
    for observer in observers:
        lab.coturn(observer)
    router = lab.router(Kind.SYMMETRIC_SEQUENTIAL, step=step)
    host = lab.behind(router=router)
    router.make_busy(50)
    sides = (
        UdpSide(host, "foretell", *(observer.ip for observer in observers), limit_s=LIMIT_S),
        UdpSide(lab.behind(Kind.PORT_RESTRICTED), "follow", limit_s=LIMIT_S),
    )
    introduce(*sides)
    ports = sides[0].line()
    assert json.loads(ports), "nothing foretold"
    sides[1].tell(ports)
    for side in sides:
        told = side.end()[1][-1]
        assert told["event"] == "connected", told
