"""`kodectl doctor` where something is wrong: it names the first cause and a command, and once that was mended, all is well.

Every case is a host of its own, in which the doctor runs, something is mended as it says, and it runs again; the cases run side
by side."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any, NamedTuple

import pytest
from conftest import environment
from lab_nodes import LYING_NODE, REPOSITORY, LabNode, open_network
from natlab import Host, Kind, Lab, skip_without_lab
from published import check_documents

from kodectl.api.files import SOCKET_FILE
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.errors import KodectlError
from kodectl.node.views import NatView, StatusView

pytestmark = [pytest.mark.lab, skip_without_lab]

WELL, FAILED, DEGRADED = 0, 3, 4
SIDE_BY_SIDE = 9
"""Cases at a time: they wait for most of their time."""
BLACK_HOLE = f"enode://{'ab' * 32}@30.0.0.1:30303?discport=30301"
LIMIT_S = 60
FEW = 2
PATIENTLY = ("--deadline", "50")
"""So many at once make each other slow; alone they end within the twenty seconds that it takes by itself."""
CLIENT_NODE = Path(__file__).parents[1] / "client_node.py"
INPUT = """table inet mine { chain guard {
  type filter hook input priority filter; policy drop; iifname lo accept; ct state established,related accept; ct state new %s;
}; }"""
OUTPUT = "table inet mine { chain out { type filter hook output priority filter; meta l4proto udp drop; }; }"
FORWARDED = (("udp", 30301), ("tcp", 30303))


class Examined(NamedTuple):
    exit: int
    view: dict[str, Any]

    @property
    def root(self) -> dict[str, Any]:
        assert self.view["root_cause"] is not None, self.view
        return self.view["root_cause"]

    @property
    def cause(self) -> tuple[str, str | None] | None:
        root = self.view["root_cause"]
        return root and (root["check"], root["code"])

    def state(self, check: str) -> str:
        return next(one["state"] for one in self.view["checks"] if one["check"] == check)


class Patient:
    """A host with something wrong: examined, mended, examined again."""

    def __init__(self, surgery: Surgery, host: Host, name: str) -> None:
        self.surgery = surgery
        self.host = host
        self.datadir = surgery.home / name
        self.options: tuple[str, ...] = ("--bootstrap", surgery.first, "--nat", "none")
        self.environment = surgery.environment
        self.doctor: tuple[str, ...] = ("kodectl", "doctor")

    def examine(self, *options: str) -> Examined:
        command = [
            *self.doctor,
            "--json",
            "--no-lan",
            "--datadir",
            str(self.datadir),
            *PATIENTLY,
            *self.options,
            *options,
        ]
        return self.finish(self.host.popen(command, stdout=PIPE, stderr=PIPE, env=self.environment, text=True))

    def finish(self, process: Popen[str]) -> Examined:
        out, err = process.communicate(timeout=LIMIT_S)
        (document,) = check_documents(out) or [{"ok": False, "error": {}}]
        view = document["data"] if document["ok"] else document["error"].get("details")
        assert view is not None, out + err
        return Examined(process.returncode, view)

    def type(self, command: str) -> int:
        """What the doctor says, into a shell on that host."""
        done = self.host.run(["sh", "-c", command], env=self.environment, timeout_s=LIMIT_S)
        return done.returncode

    def run_node(self, command: str) -> None:
        """`kodectl node run ...` as the doctor tells it, in the background, until strangers have got through to it."""
        log = (self.surgery.home / f"{self.datadir.name}.log").open("w")
        self.host.popen(["sh", "-c", f"exec {command}"], env=self.environment, stdout=log, stderr=STDOUT, stdin=DEVNULL)
        log.close()
        client = NodeClient(Endpoint(unix=self.datadir / SOCKET_FILE), 5.0)
        ends = time.monotonic() + LIMIT_S
        while not (nat := nat_of(client)) or not (nat.reachable_udp and nat.reachable_tcp):
            assert time.monotonic() < ends, f"{nat}\n{Path(log.name).read_text()}"
            time.sleep(0.1)


def nat_of(client: NodeClient) -> NatView | None:
    try:
        return client.get("/api/network/status", StatusView).nat
    except KodectlError:
        return None


Mend = Callable[[Patient, Examined], Examined]


class Case(NamedTuple):
    """`place` brings a host about, and may change the patient's options. `cause`: check and code, which is the root cause at
    first. `mend` does what is told, and answers what the doctor says then."""

    name: str
    place: Callable[[Surgery, str], Patient]
    cause: tuple[str, str]
    exit: int
    mend: Mend | None = None


class Surgery:
    """A lab with an open network, and `kodectl` on the PATH."""

    def __init__(self, lab: Lab, home: Path, honest: int = 4) -> None:
        self.lab = lab
        self.home = home
        programs = home / "bin"
        programs.mkdir()
        (programs / "kodectl").write_text(
            f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m kodectl "$@"\n'
        )
        (programs / "kodectl").chmod(0o755)
        self.environment = environment(home) | {"PATH": f"{programs}:{os.environ['PATH']}"}
        self.nodes = open_network(lab, home, honest) if honest > FEW else few_nodes(lab, home, honest)
        self.first = self.nodes[0].wait().enode

    def treat(self, case: Case) -> tuple[Examined, Examined | None]:
        patient = case.place(self, case.name)
        before = patient.examine()
        if case.mend is None or before.cause != case.cause:
            return before, None
        return before, case.mend(patient, before)


def few_nodes(lab: Lab, home: Path, count: int) -> list[LabNode]:
    """Too few to knock at each other's doors from elsewhere."""
    first = LabNode(lab.public(), home, "few0", "--nat", "none")
    known = ("--bootstrap", first.wait().enode, "--nat", "none")
    others = [LabNode(lab.public(), home, f"few{number}", *known) for number in range(1, count)]
    for node in others:
        node.wait(lambda status: status.table_size == count - 1)
    return [first, *others]


# -- places ----------------------------------------------------------------------------------------------------------------


def on_the_internet(*options: str, rules: str = "", plain: bool = False) -> Callable[[Surgery, str], Patient]:
    def place(surgery: Surgery, name: str) -> Patient:
        patient = Patient(surgery, surgery.lab.public(), name)
        patient.options = options if plain else (*patient.options, *options)
        if rules:
            patient.host.namespace.configure(["nft", "-f", "-"], f"{rules}\n")
        return patient

    return place


def behind(kind: Kind, *options: str, **router: Any) -> Callable[[Surgery, str], Patient]:
    def place(surgery: Surgery, name: str) -> Patient:
        patient = Patient(surgery, surgery.lab.behind(kind, **router), name)
        patient.options = (*patient.options, *options)
        return patient

    return place


def behind_two(surgery: Surgery, name: str) -> Patient:
    outer = surgery.lab.router(Kind.PORT_RESTRICTED)
    return Patient(surgery, surgery.lab.behind(Kind.PORT_RESTRICTED, upstream=outer), name)


def with_a_dead_neighbour(surgery: Surgery, name: str) -> Patient:
    """It begins with a node that was there, and is gone."""
    patient = Patient(surgery, surgery.lab.public(), name)
    neighbour = LabNode(surgery.lab.public(), surgery.home, f"{name} neighbour", "--bootstrap", surgery.first)
    patient.options = ("--bootstrap", neighbour.wait().enode, "--nat", "none")
    neighbour.leave()
    patient.neighbour = neighbour  # type: ignore[attr-defined]
    return patient


def with_a_taken_port(surgery: Surgery, name: str) -> Patient:
    patient = Patient(surgery, surgery.lab.public(), name)
    patient.host.listen(30303, ip="0.0.0.0")
    return patient


def with_a_useless_neighbour(surgery: Surgery, name: str) -> Patient:
    """It answers, serves nobody as a DHT node, and knows nobody."""
    patient = Patient(surgery, surgery.lab.public(), name)
    client = LabNode(surgery.lab.public(), surgery.home, "client", program=(str(CLIENT_NODE),))
    patient.options = ("--bootstrap", client.wait().enode, "--nat", "none")
    return patient


def without_a_card(surgery: Surgery, name: str) -> Patient:
    patient = Patient(surgery, surgery.lab.public(), name)
    patient.host.namespace.configure(["ip", "-batch", "-"], "link set eth0 down\n")
    return patient


def with_a_wrong_clock(surgery: Surgery, name: str) -> Patient:
    patient = Patient(surgery, surgery.lab.public(), name)
    patient.environment = patient.environment | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    patient.doctor = ("faketime", "-f", "+5m", *patient.doctor)
    return patient


def with_a_name(surgery: Surgery, name: str) -> Patient:
    """The bootstrap node is given by a name, and there is no name server; files can be."""
    patient = Patient(surgery, surgery.lab.public(), name)
    hosts = surgery.home / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    node_id, _, place = surgery.first.partition("@")
    patient.options = ("--bootstrap", f"{node_id}@seed.example:{place.partition(':')[2]}", "--nat", "none")
    mounted = f'mount --bind "{hosts}" /etc/hosts; exec "$@"'
    patient.doctor = ("unshare", "-m", "sh", "-c", mounted, "sh", *patient.doctor)
    return patient


# -- mends -----------------------------------------------------------------------------------------------------------------


def by_its_command(patient: Patient, examined: Examined) -> Examined:
    assert patient.type(examined.root["command"]) == WELL
    return patient.examine()


def by_running_as_told(patient: Patient, examined: Examined) -> Examined:
    """The node that runs is asked then."""
    command = examined.root["command"]
    assert command.startswith("kodectl node run "), command
    patient.run_node(f"{command} --json")
    patient.options = ()
    return patient.examine()


def by_forwarding(patient: Patient, examined: Examined) -> Examined:
    """On all routers, by hand, as is told where no router can be asked."""
    router, inner = patient.host.router, patient.host
    while router is not None:
        for transport, port in FORWARDED:
            target = inner if inner is patient.host else _Inner(inner.outer_ip)
            router.forward(transport, port, target, port)
        router, inner = router.upstream, router
    return patient.examine()


class _Inner(NamedTuple):
    ip: str


def by_letting_through(patient: Patient, examined: Examined) -> Examined:
    """In a firewall that is not this machine's."""
    assert "its own drops nothing" in examined.root["mend"]
    for transport, port in FORWARDED:
        rule = ["nft", "insert", "rule", "ip", "router", "through", transport, "dport", str(port), "accept"]
        assert patient.host.router.namespace.run(rule).returncode == 0
    # What it tells to type looks whether it is done.
    assert patient.type(examined.root["command"]) == WELL
    return patient.examine()


def by_letting_udp_out(patient: Patient, examined: Examined) -> Examined:
    """What is told shows whether it is done."""
    patient.host.router.kind = Kind.PORT_RESTRICTED
    patient.host.router.load()
    assert patient.type(examined.root["command"]) == WELL
    return patient.examine("--check", "udp_egress")


def by_starting_it(patient: Patient, examined: Examined) -> Examined:
    neighbour = patient.neighbour  # type: ignore[attr-defined]
    assert patient.type(examined.root["command"]) == FAILED
    LabNode(neighbour.host, patient.surgery.home, neighbour.datadir.name, "--bootstrap", patient.surgery.first).wait()
    assert patient.type(examined.root["command"]) == WELL
    return patient.examine()


def by_another_router(patient: Patient, examined: Examined) -> Examined:
    router = patient.host.router
    router.igd.stop()
    router.serve_igd(("upnp", "natpmp", "pcp"))
    return patient.examine()


def by_plugging_it_in(patient: Patient, examined: Examined) -> Examined:
    patient.host.namespace.configure(["ip", "-batch", "-"], "link set eth0 up\nroute add default via 20.0.0.1\n")
    patient.host.namespace.wait_for_card("eth0")
    return patient.examine()


def by_setting_the_clock(patient: Patient, examined: Examined) -> Examined:
    patient.doctor = ("kodectl", "doctor")
    return patient.examine()


def by_naming_it(patient: Patient, examined: Examined) -> Examined:
    host = patient.surgery.nodes[0].host
    (patient.surgery.home / "hosts").write_text(f"{host.ip} seed.example\n")
    return patient.examine()


def by_its_name(patient: Patient, examined: Examined) -> Examined:
    patient.options = patient.options[:-2]
    return patient.examine()


def by_another_node(patient: Patient, examined: Examined) -> Examined:
    patient.options = ("--bootstrap", patient.surgery.first, "--nat", "none")
    return patient.examine()


NOT_FORWARDED = ("nat_class", "nat_not_forwarded")
CASES = [
    Case("no udp", behind(Kind.BLOCKED), ("udp_egress", "udp_blocked"), FAILED, by_letting_udp_out),
    Case("symmetric", behind(Kind.SYMMETRIC), ("nat_class", "nat_symmetric"), DEGRADED, by_forwarding),
    Case("cgnat", behind(Kind.CGNAT), ("cgnat", "cgnat"), DEGRADED, by_forwarding),
    Case(
        "wrong address",
        on_the_internet("--nat", "extip:20.200.0.9"),
        ("advertised_address", "advertised_address_wrong"),
        FAILED,
        by_running_as_told,
    ),
    Case("own firewall", on_the_internet(rules=INPUT % "drop"), ("nat_class", "firewalled"), DEGRADED, by_its_command),
    Case("wrong clock", with_a_wrong_clock, ("clock", "clock_skew"), FAILED, by_setting_the_clock),
]
MORE_CASES = [
    Case("port taken", with_a_taken_port, ("ports", "port_in_use"), FAILED, by_running_as_told),
    Case("dead bootstrap", with_a_dead_neighbour, ("bootstrap", "no_bootstrap_answered"), FAILED, by_starting_it),
    Case("nobody asks the router", behind(Kind.IGD), NOT_FORWARDED, DEGRADED, by_running_as_told),
    Case("double nat", behind_two, ("cgnat", "double_nat"), DEGRADED, by_forwarding),
    Case("port restricted", behind(Kind.PORT_RESTRICTED), NOT_FORWARDED, DEGRADED, by_forwarding),
    Case("firewall before it", behind(Kind.FIREWALLED), ("nat_class", "firewalled"), DEGRADED, by_letting_through),
    Case(
        "mapping refused",
        behind(Kind.IGD, "--nat", "auto", igd=["upnp"], igd_settings=["deny 0-65535 0.0.0.0/0 0-65535"]),
        ("port_mapping", "mapping_not_authorised"),
        DEGRADED,
        by_another_router,
    ),
    Case(
        "tcp closed",
        on_the_internet(rules=INPUT % "udp dport 30301 accept"),
        ("inbound_tcp", "inbound_blocked"),
        DEGRADED,
        by_its_command,
    ),
    Case("tcp not forwarded", behind(Kind.FULL_CONE), ("inbound_tcp", "inbound_blocked"), DEGRADED, by_forwarding),
    Case(
        "udp closed",
        on_the_internet(rules=INPUT % "tcp dport 30303 accept"),
        ("inbound_udp", "inbound_blocked"),
        DEGRADED,
        by_its_command,
    ),
    Case("no udp from here", on_the_internet(rules=OUTPUT), ("udp_egress", "udp_blocked"), FAILED, by_its_command),
    Case(
        "not my address",
        on_the_internet("--listen", "20.200.0.9:30303"),
        ("ports", "address_not_available"),
        FAILED,
        by_running_as_told,
    ),
    Case("no network", without_a_card, ("addresses", "no_network"), FAILED, by_plugging_it_in),
    Case("no name server", with_a_name, ("dns", "name_not_resolved"), FAILED, by_naming_it),
    Case("half of them", on_the_internet("--bootstrap", BLACK_HOLE), ("bootstrap", "bootstrap_silent"), DEGRADED),
    Case("nobody", on_the_internet("--nat", "none", plain=True), ("bootstrap", "no_bootstrap_answered"), DEGRADED),
    Case("empty table", with_a_useless_neighbour, ("table", "table_empty"), FAILED, by_another_node),
    Case("other network", on_the_internet("--network", "other"), ("dials", "wrong_network"), FAILED, by_its_name),
]


@pytest.fixture(scope="module")
def surgery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surgery]:
    with Lab() as lab:
        yield Surgery(lab, tmp_path_factory.mktemp("doctor"))


@pytest.fixture(scope="module")
def treated(request: pytest.FixtureRequest, surgery: Surgery) -> Iterator[dict[str, Future[Any]]]:
    """All cases that are to run, begun at once."""
    callspecs = [getattr(item, "callspec", None) for item in request.session.items]
    cases = [
        spec.params["case"] for spec in callspecs if spec is not None and isinstance(spec.params.get("case"), Case)
    ]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {case.name: pool.submit(surgery.treat, case) for case in cases}


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_CASES)], ids=lambda case: case.name
)
def test_the_root_cause_is_found_and_what_is_told_mends_it(treated, case):
    if case.name == "wrong clock" and shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    before, after = treated[case.name].result()
    assert (before.cause, before.exit) == (case.cause, case.exit), before.view
    assert before.view["complete"]
    assert before.root["command"], before.root
    if case.mend is not None:
        assert after.cause is None, after.view


# -- other ways to look ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_that_runs_is_mended_by_starting_it_anew(surgery):
    """With what it was started with, but for what is wrong."""
    host = surgery.lab.public()
    patient = Patient(surgery, host, "wrongly")
    node = LabNode(host, surgery.home, "wrongly", "--bootstrap", surgery.first, "--nat", "extip:20.200.0.9")
    node.wait(lambda status: status.nat.state == "direct" and status.nat.observers > 1)
    patient.options = ()
    examined = patient.examine()
    assert examined.view["examined"]["id"] == node.wait().id
    assert (examined.cause, examined.exit) == (("advertised_address", "advertised_address_wrong"), FAILED)
    # The doctor was not told how it runs.
    (mapping,) = (one["seen"] for one in examined.view["checks"] if one["check"] == "port_mapping")
    assert mapping == "switched off (--nat extip:20.200.0.9)"
    stop, run = examined.root["command"].split("; ")
    assert surgery.first in run
    assert patient.type(stop) == WELL
    assert node.process.wait(10) == 0
    patient.run_node(run)
    assert patient.examine().cause is None


@pytest.mark.slow
def test_an_api_that_others_reach_gets_a_token(surgery):
    """Something on the machine passes on to it what comes from outside."""
    host = surgery.lab.public()
    patient = Patient(surgery, host, "exposed")
    node = LabNode(host, surgery.home, "exposed", "--bootstrap", surgery.first, "--nat", "none")
    node.wait()
    forwarder = host.popen([sys.executable, "-c", FORWARDER, host.ip, "8545"], stdout=PIPE, text=True)
    assert forwarder.stdout is not None
    assert forwarder.stdout.readline() == "ready\n"
    patient.options = ("--check", "api_exposure")
    examined = patient.examine()
    assert (examined.cause, examined.exit) == (("api_exposure", "api_exposed"), FAILED)
    assert f"{host.ip}:8545" in examined.root["seen"]
    stop, token, run = examined.root["command"].split("; ")
    assert patient.type(f"{stop}; {token}") == WELL
    assert node.process.wait(10) == 0
    patient.run_node(run)
    assert patient.examine().cause is None


FORWARDER = """
import socket, sys, threading
place = (sys.argv[1], int(sys.argv[2]))
listener = socket.create_server(place)
print("ready", flush=True)
def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
while True:
    outside = listener.accept()[0]
    inside = socket.create_connection(("127.0.0.1", place[1]))
    for pair in ((outside, inside), (inside, outside)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("--bootstrap", BLACK_HOLE), marks=pytest.mark.slow)],
    ids=["nobody to ask", "somebody to ask"],
)
def test_a_machine_without_any_network_is_told_so_in_time(surgery, options):
    host = surgery.lab.public()
    host.namespace.configure(["ip", "-batch", "-"], "link del eth0\n")
    patient = Patient(surgery, host, f"offline {len(options)}")
    patient.options = (*options, "--deadline", "20")
    examined = patient.examine()
    assert (examined.cause, examined.exit, examined.view["complete"]) == (("addresses", "no_network"), FAILED, True)
    assert examined.view["other_causes"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("observers", "cause"), [(1, ("advertised_address", "nat_unknown")), (2, NOT_FORWARDED)], ids=["one", "two"]
)
def test_a_network_of_few_nodes_is_none_to_blame_the_operator_in(tmp_path, observers, cause):
    """They are too few for the node to believe where it is: it was told no wrong address, and there is none to be told."""
    with Lab() as lab:
        surgery = Surgery(lab, tmp_path, observers)
        patient = behind(Kind.PORT_RESTRICTED)(surgery, "small")
        examined = patient.examine()
    assert (examined.cause, examined.exit) == (cause, DEGRADED)
    assert examined.state("advertised_address") == "unknown"
    assert examined.view["other_causes"] == []


@pytest.mark.slow
def test_a_bootstrap_node_that_lies_is_not_believed_alone(surgery):
    """It says that the node is elsewhere, and that it knocks there."""
    liar = LabNode(surgery.lab.public(), surgery.home, "liar", program=(str(LYING_NODE),))
    patient = Patient(surgery, surgery.lab.public(), "deceived")
    patient.options = ("--bootstrap", liar.wait().enode, "--nat", "none")
    examined = patient.examine()
    assert examined.view["complete"]
    assert examined.state("bootstrap") == "ok"
    assert {examined.state(check) for check in ("advertised_address", "nat_class", "inbound_udp")} == {"unknown"}
    assert examined.exit == DEGRADED


@pytest.mark.slow
def test_a_bootstrap_node_that_sends_noise_has_not_answered(surgery):
    host = surgery.lab.public()
    process = host.popen([sys.executable, "-c", NOISE, host.ip], stdout=PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    patient = Patient(surgery, surgery.lab.public(), "deafened")
    patient.options = ("--bootstrap", f"enode://{'ab' * 32}@{host.ip}:30303?discport=30301", "--nat", "none")
    examined = patient.examine()
    assert (examined.cause, examined.exit) == (("udp_egress", "udp_blocked"), FAILED)
    assert "or its UDP port is another one" in examined.root["mend"]


NOISE = """
import os, random, socket, sys, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 30301))
tcp = socket.create_server((sys.argv[1], 30303))
def flood():
    while True:
        connection = tcp.accept()[0]
        connection.sendall(os.urandom(1 << 20))
threading.Thread(target=flood, daemon=True).start()
print("ready", flush=True)
while True:
    data, source = udp.recvfrom(2000)
    for size in (0, 1, 40, 1400):
        udp.sendto(os.urandom(size), source)
    udp.sendto(data, source)
    udp.sendto(data[:1] + os.urandom(len(data) - 1) if data else b"", source)
"""
