"""`kodectl nat probe` behind real NATs of every kind: the right class, or none with a reason; never a wrong one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from subprocess import PIPE

import pytest
from conftest import environment
from lab_nodes import open_network
from natlab import Kind, Lab, skip_without_lab
from natlab.netns import Namespace
from probe_lab import DEAD, EXPECTED, SIX_LIES, TESTS, Probe, ProbeLab, Result, servers, table

pytestmark = [pytest.mark.lab, skip_without_lab]

NEAR = """link set lo up
link add card type veth peer name card netns {path}
addr add 20.1.0.1/24 dev card
addr add 2a00:1::1/64 dev card nodad
link set card up
route add default via 20.1.0.2
route add ::/0 via 2a00:1::2
"""
FAR = "link set lo up\naddr add 20.1.0.2/24 dev card\naddr add 2a00:1::2/64 dev card nodad\nlink set card up\n"

RUNS = 20
"""Of each kind, in the campaign."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def lab(home: Path) -> Iterator[ProbeLab]:
    with Lab() as made:
        yield ProbeLab(made, home)


@pytest.fixture(scope="module")
def lossy(home: Path) -> Iterator[ProbeLab]:
    """20 % lost each way, so that 36 % of the exchanges fail."""
    with Lab() as made:
        probe_lab = ProbeLab(made, home)
        for lie in SIX_LIES:
            probe_lab.liar(lie)
        made.lose(0.2)
        yield probe_lab


def every_kind(arguments: Callable[[], tuple[str, ...]]) -> list[Probe]:
    return [Probe(kind, arguments()) for kind in EXPECTED for _ in range(RUNS)]


def assert_right(results: list[Result]) -> None:
    assert {result.kind for result in results if result.judgement != "right"} == set(), table(results)


def assert_not_wrong(results: list[Result]) -> None:
    assert {result.judgement for result in results} <= {"right", "null"}, table(results)


@pytest.mark.parametrize("server", ["coturn", "kodectl"])
def test_every_kind_by_one_server(lab: ProbeLab, server: str) -> None:
    results = lab.run_all([Probe(kind, servers(getattr(lab, server))) for kind in EXPECTED])
    assert_right(results)
    for result in results:
        assert result.exit == (3 if result.kind is Kind.BLOCKED else 0)
        assert result.warnings == []
        if result.kind is not Kind.BLOCKED:
            assert result.data["ip"] == lab.hosts[result.kind].external_ip


def test_every_kind_among_a_liar_and_two_honest_servers(lab: ProbeLab) -> None:
    lies = cycle(SIX_LIES)
    results = lab.run_all([Probe(kind, servers(lab.liar(next(lies)), lab.coturn, lab.kodectl)) for kind in EXPECTED])
    assert_right(results)


def test_every_kind_by_one_honest_one_dead_and_one_lying_server(lab: ProbeLab) -> None:
    lies = cycle(SIX_LIES[3:] + SIX_LIES[:3])
    results = lab.run_all([Probe(kind, servers(lab.liar(next(lies)), DEAD, lab.coturn)) for kind in EXPECTED])
    assert_not_wrong(results)
    assert all("server_silent" in result.warnings for result in results if result.kind is not Kind.BLOCKED)


def test_every_kind_with_loss(lossy: ProbeLab) -> None:
    """Nearly always right: a few dozen packets in a row are lost now and then, and a TCP connection needs some too."""
    results = lossy.run_all([Probe(kind, servers(lossy.coturn)) for kind in EXPECTED])
    assert_not_wrong(results)
    assert sum(result.judgement == "right" for result in results) >= len(EXPECTED) - 2, table(results)


def test_every_kind_with_loss_a_dead_and_a_lying_server(lossy: ProbeLab) -> None:
    lies = cycle(SIX_LIES)
    assert_not_wrong(
        lossy.run_all([Probe(kind, servers(lossy.liar(next(lies)), DEAD, lossy.coturn)) for kind in EXPECTED])
    )


def test_what_a_router_tells_and_what_pystun3_says(lab: ProbeLab) -> None:
    """With routers asked, UPnP by multicast too: this is a namespace."""
    kinds = [Kind.IGD, Kind.FULL_CONE, Kind.SYMMETRIC]
    results = lab.run_all([Probe(kind, (*servers(lab.coturn, gateway=True), "--classic")) for kind in kinds])
    igd, cone, symmetric = (result.data for result in results)
    assert {gateway["method"] for gateway in igd["gateways"] if gateway["speaks"]} == {"pcp", "natpmp", "upnp"}
    assert (igd["double_nat"], igd["cgnat"]) == (False, False)
    assert igd["next_command"].startswith("kodectl nat map")
    assert not any(gateway["speaks"] for gateway in cone["gateways"])
    assert cone["why"]["double_nat"] == "no_gateway"
    assert [one["classic"]["agrees"] for one in (igd, cone, symmetric)] == [True, True, True]


def test_hairpin_ports_and_what_is_required(home: Path) -> None:
    with Lab() as made:
        kinds = [Kind.PORT_RESTRICTED, Kind.SYMMETRIC_SEQUENTIAL, Kind.CGNAT]
        probe_lab = ProbeLab(made, home, kinds, hairpin=True, step=2)
        probes = [Probe(kind, (*servers(probe_lab.coturn), "--require", "punchable")) for kind in kinds]
        restricted, sequential, carrier = probe_lab.run_all(probes)
        assert (restricted.exit, sequential.exit, carrier.exit) == (0, 4, 0)
        assert (restricted.data["hairpin"], restricted.data["port_preserved"]) == (True, True)
        assert (sequential.data["port_pattern"], sequential.data["port_step"]) == ("sequential", 2)
        assert carrier.data["port_preserved"] is False


def test_any_node_is_a_server(home: Path) -> None:
    """Three nodes on the internet show the mapping; none of them has a second address."""
    with Lab() as made:
        nodes = open_network(made, home, honest=3)
        arguments = [option for node in nodes for option in ("--via-node", node.wait().enode)]
        probe_lab = ProbeLab(made, home, [Kind.RESTRICTED, Kind.SYMMETRIC])
        cone, symmetric = probe_lab.run_all([Probe(kind, (*arguments, "--no-gateway")) for kind in probe_lab.hosts])
        assert (cone.data["mapping"], cone.data["filtering"]) == ("endpoint_independent", None)
        assert cone.data["why"]["filtering"] == "server_has_one_address"
        assert cone.data["verdict"] == "hole_punching"
        assert symmetric.data["nat_type"] == "symmetric"
        for node in nodes:
            node.leave()


def test_ipv6_beside_ipv4_and_alone(home: Path) -> None:
    with closing(Namespace("near")) as near, closing(Namespace("far")) as far:
        near.configure(["ip", "-batch", "-"], NEAR.format(path=far.path))
        far.configure(["ip", "-batch", "-"], FAR)
        command = [sys.executable, "-m", "kodectl", "nat"]
        variables = environment(home) | {"PYTHONPATH": str(TESTS.parent)}
        serving = far.popen([*command, "serve", "--listen", "[::]:3478"], env=variables, stdout=PIPE, text=True)
        assert serving.stdout is not None
        assert serving.stdout.readline()
        for given, ip, works in [
            (["20.1.0.2:3478", "[2a00:1::2]:3478"], "20.1.0.1", True),
            (["[2a00:1::2]:3478"], "2a00:1::1", True),
            (["20.1.0.2:3478", "[2a00:1::9]:3478"], "20.1.0.1", False),
            (["20.1.0.2:3478"], "20.1.0.1", None),
        ]:
            done = near.run([*command, "probe", "--json", *servers(*given)], env=variables)
            data = json.loads(done.stdout)["data"]
            assert (data["ip"], data["translated"], data["ipv6"]["works"]) == (ip, False, works)
            assert data["ipv6"]["address"] == "2a00:1::1"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_runs_of_each_kind(lab: ProbeLab, lossy: ProbeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lies = cycle(SIX_LIES)
    scenes: dict[str, tuple[ProbeLab, list[Probe]]] = {
        "plain: one server, routers asked": (lab, every_kind(lambda: servers(lab.coturn, gateway=True))),
        "one lying server among three": (
            lab,
            every_kind(lambda: servers(lab.liar(next(lies)), lab.coturn, lab.kodectl)),
        ),
        "one dead and one lying among three": (
            lab,
            every_kind(lambda: servers(lab.liar(next(lies)), DEAD, lab.coturn)),
        ),
        "20 % lost each way": (lossy, every_kind(lambda: servers(lossy.coturn))),
        "20 % lost, one dead and one lying among three": (
            lossy,
            every_kind(lambda: servers(lossy.liar(next(lies)), DEAD, lossy.coturn)),
        ),
    }
    for name, (where, probes) in scenes.items():
        results = where.run_all(probes, side_by_side=4)
        with capsys.disabled():
            print(f"\n\n{name}, {RUNS} runs each\n{table(results)}", flush=True)
        assert_not_wrong(results)
