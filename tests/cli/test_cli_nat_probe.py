"""`kodectl nat probe` and `nat watch`, as they are typed and read, with a STUN server on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import environment

from kodectl.cli.explanations import EXPLANATIONS
from kodectl.cli.nat_probe import REASONS, is_met, known, probe_text, watch_line, words
from kodectl.core.nat_evidence import Why
from kodectl.core.nat_observations import Alternate
from kodectl.node.probe_views import GatewayView, Ipv6View, ProbeServerView, ProbeView
from kodectl.node.probe_watching import ChangeView, WatchView

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """With two addresses."""
    command = [
        sys.executable,
        "-m",
        "kodectl",
        "nat",
        "serve",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--alt-ip",
        "127.0.0.2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment(home))
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["data"]["udp"][0]
    process.kill()
    process.communicate()


def kodectl(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kodectl", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=REPOSITORY,
        env=environment(home) | variables,
    )


def probe(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Without looking for routers, which would be looked for in the network of whoever runs the tests."""
    return kodectl(home, "nat", "probe", "--no-gateway", *arguments, **variables)


def test_the_document(home: Path, server: str) -> None:
    done = probe(home, "--server", server, "--json")
    document = json.loads(done.stdout)
    data = document["data"]
    assert (done.returncode, done.stderr, document["schema"]) == (0, "", "kodectl.nat.probe/1")
    assert (data["nat_type"], data["translated"], data["verdict"], data["difficulty"]) == (
        "open",
        False,
        "direct",
        "easy",
    )
    assert data["address"] == f"127.0.0.1:{data['port']}"
    assert data["port"] == data["local_port"]
    assert (data["hairpin"], data["why"]["hairpin"]) == (None, "no_nat")
    (told,) = data["servers"]
    assert (told["address"], told["alternate"], told["loss"], told["outlier"]) == (server, "verified", 0.0, False)


def test_the_text(home: Path, server: str) -> None:
    done = probe(home, "--server", server, "--classic")
    lines = done.stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["verdict", "direct (easy)"]
    assert "open" in lines[1]
    assert any(server in line for line in lines)
    assert lines[-1].split(maxsplit=1) == ["next", "kodectl node run"]


@pytest.mark.parametrize(("require", "expected"), [("udp", 0), ("mapped", 0), ("punchable", 0), ("open", 0)])
def test_what_is_required_and_there(home: Path, server: str, require: str, expected: int) -> None:
    assert probe(home, "--server", server, "--require", require).returncode == expected


def test_the_servers_of_the_setting_serve_where_none_is_given(home: Path, server: str) -> None:
    assert json.loads(probe(home, "--json", KODECTL_STUN=server).stdout)["data"]["servers"][0]["server"] == server
    silent = "127.0.0.1:9"
    given = json.loads(probe(home, "--json", "--server", server, KODECTL_STUN=silent).stdout)
    assert [one["server"] for one in given["data"]["servers"]] == [server]


def test_a_dead_server_is_a_warning(home: Path, server: str) -> None:
    done = probe(home, "--server", server, "--server", "127.0.0.1:9", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["data"]["nat_type"]) == (0, "open")
    assert [warning["code"] for warning in document["warnings"]] == ["server_silent"]
    assert "127.0.0.1:9 does not answer" in done.stderr


def test_watching_a_while(home: Path, server: str) -> None:
    done = kodectl(home, "nat", "watch", "--server", server, "--count", "2", "--interval", "0.1", "--jsonl")
    (line,) = done.stdout.splitlines()
    assert (done.returncode, json.loads(line)["data"]["event"]) == (0, "first")


def test_watching_until_interrupted(home: Path, server: str) -> None:
    command = [sys.executable, "-m", "kodectl", "nat", "watch", "--server", server, "--interval", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment(home))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("seen as 127.0.0.1:")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130


# --- words ---------------------------------------------------------------------------------------------------------------


def test_every_reason_has_words_and_an_explanation() -> None:
    assert {why.value for why in Why} == set(REASONS)
    assert set(REASONS) <= set(EXPLANATIONS)


def view(**changes: Any) -> ProbeView:
    told: dict[str, Any] = {
        "answered": True,
        "nat_type": "port_restricted",
        "mapping": "endpoint_independent",
        "filtering": "address_and_port_dependent",
        "translated": True,
        "address": "20.0.0.1:5000",
        "ip": "20.0.0.1",
        "port": 5000,
        "local_address": "192.168.1.2:5000",
        "local_ip": "192.168.1.2",
        "local_port": 5000,
        "port_preserved": True,
        "port_pattern": None,
        "port_step": None,
        "hairpin": False,
        "cgnat": None,
        "double_nat": None,
        "gateways": [],
        "ipv6": Ipv6View(None, None, None),
        "servers": [],
        "classic": None,
        "verdict": "hole_punching",
        "difficulty": "moderate",
        "advice": "do something",
        "next_command": "kodectl node run",
        "why": {"cgnat": "no_gateway", "double_nat": "no_gateway"},
        "findings": [],
        "complete": True,
        "took_ms": 1000.0,
    }
    return ProbeView(**told | changes)


def test_what_is_not_known_is_told_with_its_reason() -> None:
    assert known(view(), "cgnat") == "- (no router tells its outer address)"
    assert known(view(hairpin=True), "hairpin") == "yes"
    assert known(view(), "mapping") == "endpoint-independent"
    assert words("address_and_port_dependent") == "address and port-dependent"


@pytest.mark.parametrize("alternate", [None, *(one.value for one in Alternate)])
def test_servers_of_every_sort_have_their_line(alternate: str | None) -> None:
    told = ProbeServerView(
        server="a",
        address="20.1.0.1:1",
        ip="20.1.0.1",
        port=1,
        answered=alternate is not None,
        mapped=None,
        mapped_ip=None,
        mapped_port=None,
        rtt_ms=None,
        loss=None,
        alternate=alternate,
        other_address="20.1.1.1:2",
        software="\x1b[2J",
        counted=True,
        outlier=True,
    )
    assert "contradicts the others" in probe_text(view(servers=[told]))


def test_symmetric_unknown_and_routers_have_their_lines() -> None:
    why = {"port": "mapping_varies", "address": "servers_disagree"}
    symmetric = view(nat_type="symmetric", address=None, port=None, port_preserved=False, why=why)
    assert "20.0.0.1, port: another one for each destination" in probe_text(symmetric)
    unknown = view(ip=None, address=None, port=None, verdict=None, difficulty=None, nat_type=None, why=why)
    assert probe_text(unknown).splitlines()[0].endswith("unknown")
    assert "servers disagree" in probe_text(unknown)
    router = GatewayView("upnp", True, "192.168.1.1", "a router", "20.0.0.1", None)
    none = GatewayView("pcp", False, None, None, None, "no_gateway")
    assert "192.168.1.1 speaks UPnP, its outer address is 20.0.0.1" in probe_text(view(gateways=[none, router]))
    assert "answers none of PCP" in probe_text(view(gateways=[none]))


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, ["udp", "mapped", "punchable"]),
        ({"verdict": "direct"}, ["udp", "mapped", "punchable", "open"]),
        ({"verdict": "turn_relay", "mapping": "address_dependent", "address": None}, ["udp"]),
        ({"verdict": None, "mapping": None}, ["udp"]),
        ({"answered": False, "verdict": None, "mapping": None, "address": None}, []),
    ],
)
def test_requirements(changes: dict[str, Any], met: list[str]) -> None:
    assert [name for name in ("udp", "mapped", "punchable", "open") if is_met(view(**changes), name)] == met


def test_a_line_of_watching() -> None:
    seen = WatchView(
        event="changed",
        round=3,
        answered=True,
        changes=[ChangeView("nat_type", "full_cone", "symmetric"), ChangeView("ip", "20.0.0.1", "20.0.0.9")],
        address=None,
        ip="20.0.0.9",
        port=None,
        local_address=None,
        nat_type="symmetric",
        verdict="turn_relay",
    )
    assert watch_line(seen) == ("nat type full cone -> symmetric, ip 20.0.0.1 -> 20.0.0.9: seen as 20.0.0.9, symmetric")
