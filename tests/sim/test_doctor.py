"""The doctor's checks on virtual time: how they end, what they wait for, and what they make of a chart."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from town import Town, town_of

from kodectl.core.diagnosis import Finding, State
from kodectl.errors import EnvironmentFault
from kodectl.node.checks.here import check_clock
from kodectl.node.checks.joining import check_dials, check_table
from kodectl.node.checks.machine import Machine
from kodectl.node.checks.outside import check_advertised_address, check_cgnat, check_inbound_tcp
from kodectl.node.doctor import END_LIMIT_S, Check, examine
from kodectl.node.doctor_views import Examined
from kodectl.node.node import Node
from kodectl.node.patient import CALM_S, Chart, Patient, chart_of
from kodectl.settings import NodeSettings
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World

UNKNOWN, WARNING, FAILED, OK = State.UNKNOWN, State.WARNING, State.FAILED, State.OK
HERE = "24.0.0.1"
SETTINGS = NodeSettings(listen_host="0.0.0.0")


# -- how they end ----------------------------------------------------------------------------------------------------------


def ok(name: str) -> Finding:
    return Finding(name, OK, "well")


def run_checks(checks: dict[str, object], limit_s: float = 10.0) -> tuple[list[Examined], list[str], float]:
    """Each either a number of seconds that it takes, or what it raises; what was found, in which order, and when it was over."""
    with World(1, PathModel()) as world:
        runtime = world.host(HERE)
        scope = runtime.scope("checks")
        told: list[str] = []

        def check(name: str, way: object) -> Finding:
            if isinstance(way, Exception):
                raise way
            scope.sleep(float(way))  # type: ignore[arg-type]
            return ok(name)

        made = [Check(name, lambda name=name, way=way: check(name, way), 5.0) for name, way in checks.items()]
        found = world.call(
            runtime, examine, runtime, made, limit_s, lambda examined: told.append(examined.finding.check)
        )
        took_s = runtime.now()
        scope.close()
    return found, told, took_s


def test_checks_run_side_by_side_and_are_told_as_they_end():
    found, told, took_s = run_checks({"config": 3.0, "disk": 1.0, "ports": 2.0})
    assert told == ["disk", "ports", "config"]
    assert [examined.finding.check for examined in found] == ["config", "disk", "ports"]
    assert took_s == pytest.approx(3.0, abs=END_LIMIT_S)


def test_a_check_that_hangs_spoils_only_itself():
    found, _, took_s = run_checks({"config": 1.0, "disk": 1e6})
    assert [(one.finding.state, one.is_late) for one in found] == [(OK, False), (UNKNOWN, True)]
    assert found[1].finding.code == "deadline"
    assert took_s == pytest.approx(5.0, abs=2 * END_LIMIT_S)


def test_the_limit_for_all_comes_before_that_of_each():
    found, _, took_s = run_checks({"config": 1e6, "disk": 1.0}, limit_s=2.0)
    assert [one.is_late for one in found] == [True, False]
    assert took_s == pytest.approx(2.0, abs=2 * END_LIMIT_S)


def test_a_check_that_breaks_says_so():
    found, _, _ = run_checks({"disk": ZeroDivisionError("oh"), "ports": EnvironmentFault("no", code="store")})
    assert [(one.finding.state, one.finding.code) for one in found] == [(UNKNOWN, "internal_error"), (UNKNOWN, "store")]
    assert "ZeroDivisionError: oh" in found[0].finding.seen


# -- what they make of a chart ---------------------------------------------------------------------------------------------


class Ward:
    """A node in a town, and the chart that the checks are shown: its own, changed at will."""

    def __init__(self, town: Town) -> None:
        self.world = town.world
        self.runtime: SimRuntime = town.world.host(HERE)
        self.node: Node = town.node(self.runtime)
        self.changes: dict[str, dict[str, object]] = {}
        self.settings = SETTINGS

    def chart(self) -> Chart:
        chart = chart_of(self.node)
        for part, values in self.changes.items():
            changed = msgspec.structs.replace(getattr(chart, part), **values)
            chart = msgspec.structs.replace(chart, **{part: changed})
        return chart

    def ask(self, check, *others) -> tuple[Finding, float]:
        """What it finds, and after how many seconds."""
        patient = Patient(self.runtime, self.settings, self.chart, 0.1, is_running=True)
        scope = self.runtime.scope("patient")
        scope.spawn("look", patient.run, scope)
        began = self.runtime.now()
        finding = self.world.call(self.runtime, check, patient, *others)
        scope.close()
        return finding, self.runtime.now() - began


@pytest.fixture(scope="module")
def only_ward() -> Iterator[Ward]:
    with town_of(2) as town:
        one = Ward(town)
        assert town.world.run(lambda: one.node.bootstrap().bootstrap[0].state == "answered", 30.0)
        yield one


@pytest.fixture
def ward(only_ward: Ward) -> Ward:
    only_ward.changes, only_ward.settings = {}, SETTINGS
    return only_ward


@pytest.mark.parametrize(
    ("ahead_s", "voices", "synchronised", "state"),
    [
        (0.5, 5, False, OK),
        (20.0, 5, True, WARNING),
        (300.0, 5, True, FAILED),
        (-300.0, 5, False, FAILED),
        # One or two may be wrong themselves, unless nobody keeps this clock.
        (300.0, 1, True, WARNING),
        (300.0, 1, False, FAILED),
    ],
)
def test_a_clock_is_held_against_those_of_others(ward, ahead_s, voices, synchronised, state):
    ward.changes["status"] = {"clock_ahead_s": ahead_s, "clock_voices": voices}
    finding, _ = ward.ask(check_clock, Machine(synchronised))
    assert (finding.state, finding.code) == (state, None if state is OK else "clock_skew")
    assert finding.command == (None if state is OK else "timedatectl set-ntp true")
    if state is FAILED:
        assert f"300 s {'ahead' if ahead_s > 0 else 'behind'}" in finding.seen


@pytest.mark.parametrize(("synchronised", "state"), [(True, OK), (False, UNKNOWN), (None, UNKNOWN)])
def test_a_clock_without_others_is_what_the_kernel_says(ward, synchronised, state):
    ward.changes["status"] = {"clock_ahead_s": None, "clock_voices": 0}
    finding, took_s = ward.ask(check_clock, Machine(synchronised))
    assert finding.state is state
    # Others may still say: it is waited for them, and not longer than there is news.
    assert CALM_S <= took_s < 2 * CALM_S


@pytest.mark.parametrize(
    ("dials", "peers", "state", "code"),
    [
        ({}, 0, State.SKIPPED, None),
        ({}, 3, OK, None),
        ({"connected": 5}, 5, OK, None),
        ({"connected": 2, "timeout": 9, "refused": 1}, 2, OK, None),
        ({"connected": 1, "timeout": 9}, 1, WARNING, "dials_fail"),
        ({"timeout": 2}, 0, WARNING, "dials_fail"),
        ({"timeout": 6, "refused": 1}, 0, FAILED, "dials_fail"),
        ({"timeout": 6}, 4, WARNING, "dials_fail"),
        ({"wrong_network": 1}, 0, FAILED, "wrong_network"),
        ({"incompatible_version": 2}, 0, FAILED, "incompatible_version"),
        ({"wrong_network": 1, "connected": 3}, 3, OK, None),
        ({"inbound_wrong_network": 9, "already_connected": 4}, 2, OK, None),
    ],
)
def test_dials_may_fail_as_long_as_some_do_not(ward, dials, peers, state, code):
    ward.changes = {"stats": {"dials": dials}, "status": {"peers": peers}}
    finding, _ = ward.ask(check_dials)
    assert (finding.state, finding.code) == (state, code), finding.seen
    if code == "dials_fail":
        assert finding.command == "kodectl explain timeout"


def test_an_empty_table_is_the_fault_of_those_who_answer_only_if_they_do(ward):
    ward.changes["status"] = {"table_size": 0}
    finding, _ = ward.ask(check_table)
    assert (finding.state, finding.code) == (FAILED, "table_empty")
    assert "the bootstrap nodes answer" in finding.seen
    silent = [msgspec.structs.replace(node, state="silent") for node in ward.node.bootstrap().bootstrap]
    ward.changes["bootstrap"] = {"bootstrap": silent}
    assert ward.ask(check_table)[0].seen == "no other node is known"


def nat_of(ward: Ward, router_ip: str | None = None, **changes: object) -> dict[str, object]:
    """What the node says of its NAT, with other words in it."""
    nat = ward.chart().status.nat
    mapping = msgspec.structs.replace(nat.port_mapping, state="refused" if router_ip else "off", external_ip=router_ip)
    return {"nat": msgspec.structs.replace(nat, port_mapping=mapping, **changes)}


SHUT = {"state": "hole_punching", "reachable_udp": False, "reachable_tcp": False, "translated": True}


def test_a_carrier_shows_by_the_routers_outer_address(ward):
    ward.changes["status"] = nat_of(ward, "100.64.3.4", **SHUT)
    finding, _ = ward.ask(check_cgnat, Machine())
    assert (finding.state, finding.code) == (WARNING, "cgnat")
    assert finding.command == "kodectl node run --turn turn:USER:PASS@HOST:3478"
    ward.changes["status"] = nat_of(ward, "100.64.3.4", **SHUT | {"reachable_udp": True, "reachable_tcp": True})
    assert ward.ask(check_cgnat, Machine())[0].state is OK


def test_a_public_ipv6_address_is_a_way_round_a_carrier(ward, monkeypatch):
    network = ward.runtime.local_network()._replace(source6="2a01:db8::5")
    monkeypatch.setattr(ward.runtime, "local_network", lambda: network)
    ward.changes["status"] = nat_of(ward, "100.64.3.4", **SHUT)
    finding, _ = ward.ask(check_cgnat, Machine())
    assert finding.command == "kodectl node run --listen '[::]:30303' --nat extip:2a01:db8::5"


def test_two_routers_show_by_a_private_outer_address(ward):
    ward.changes["status"] = nat_of(ward, "192.168.9.1", double_nat=True, **SHUT)
    finding, _ = ward.ask(check_cgnat, Machine())
    assert (finding.state, finding.code) == (WARNING, "double_nat")
    assert "beyond it 192.168.9.1" in finding.seen


def test_the_second_router_on_the_way_tells_too(ward):
    ward.changes["status"] = nat_of(ward, **SHUT)
    finding, _ = ward.ask(check_cgnat, Machine(first_hops=lambda target, count, limit_s: ["192.168.1.1", "100.64.0.1"]))
    assert (finding.code, finding.details["hops"]) == ("cgnat", ["192.168.1.1", "100.64.0.1"])


@pytest.mark.parametrize(
    ("machine", "changes", "command", "words"),
    [
        (Machine(let_in="open {} {}".format), SHUT, "open tcp 30303", "on this machine"),
        (Machine(), SHUT, "kodectl node run --nat auto", "ask the router"),
        (Machine(), {**SHUT, "translated": False}, "kodectl doctor --check inbound_tcp", "its own drops nothing"),
    ],
    ids=["its own firewall", "a router", "a firewall before it"],
)
def test_a_closed_port_is_opened_where_it_is_closed(ward, machine, changes, command, words):
    ward.changes["status"] = nat_of(ward, **changes)
    finding, _ = ward.ask(check_inbound_tcp, machine)
    assert (finding.state, finding.code, finding.command) == (WARNING, "inbound_blocked", command)
    assert words in finding.mend


@pytest.mark.parametrize(
    ("settings", "observers", "state"),
    [
        ({}, 1, UNKNOWN),
        # As many as a node wants to hear before it believes any.
        ({}, 3, UNKNOWN),
        ({}, 4, FAILED),
        # What it was told for good it does not find out.
        ({"nat": f"extip:{HERE}"}, 1, UNKNOWN),
        ({"nat": f"extip:{HERE}"}, 2, FAILED),
        ({"listen_host": HERE}, 2, FAILED),
    ],
)
def test_an_address_is_wrong_when_enough_networks_say_so(ward, settings, observers, state):
    ward.changes["status"] = nat_of(ward, observed_address="66.6.6.6", observers=observers)
    ward.settings = NodeSettings(**{"listen_host": "0.0.0.0", **settings})
    finding, _ = ward.ask(check_advertised_address)
    assert (finding.state, finding.details["observed"]) == (state, "66.6.6.6")
    assert (
        finding.command
        == {
            UNKNOWN: "kodectl doctor --bootstrap ENODE --bootstrap ENODE",
            FAILED: "kodectl node run --nat extip:66.6.6.6",
        }[state]
    )
