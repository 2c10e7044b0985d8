"""What goes wrong around a connection through real NATs: routers, cards and servers that fail, and floods of forged packets.

Each test prints how long the recovery took (`pytest -s`); how long it may take is not asserted here, for the machine may
be busy: that it comes is.
"""

from __future__ import annotations

import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab_nodes import REPOSITORY, LabNode
from matrix import Machine, Network, connect, part
from natlab import Host, Kind, Lab, Router, skip_without_lab
from natlab.servers import Server

from kodectl.api.files import SOCKET_FILE
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.node.views import BroadcastView

pytestmark = [pytest.mark.lab, skip_without_lab]

PATIENCE_S = 60.0
FLOOD_S, LONG_FLOOD_S = 3.0, 60.0
FLOOD_GROWTH = 24 << 20
"""Bytes that a process may grow by meanwhile: less than what arrives in a second."""
CARD_OUT_S = 3.0
MAPPING_TIMEOUT_S = 30
KEPT_S = 600.0
TURN_PORT = 3478
TURN_USER, TURN_PASSWORD = "ann", "secret"

Pair = tuple[Machine, Machine]
_NUMBERS = count()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Lab() as lab:
        yield Network(lab, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def machines(network: Network) -> Pair:
    """A full cone, which strangers get through to, and one that filters by port."""
    pair = network.lay_kind(Kind.FULL_CONE, "cone"), network.lay_kind(Kind.PORT_RESTRICTED, "filtering")
    network.settle(pair)
    return pair


@pytest.fixture
def pair(machines: Pair) -> Pair:
    if machines[0].peer(machines[1].id) is None:
        connect(*machines, PATIENCE_S)
    comes(lambda: path_of(machines) == "direct")
    return machines


def router_of(machine: Machine) -> Router:
    router = machine.node.host.router
    assert router is not None
    return router


def comes(holds: Callable[[], Any]) -> float:
    """Until that is true; answers how many seconds it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + PATIENCE_S, "it did not come"
        time.sleep(0.05)
    return time.monotonic() - began


def path_of(pair: Pair) -> str | None:
    peer = pair[0].peer(pair[1].id)
    return None if peer is None else peer["path"]


def heard(pair: Pair) -> int:
    """Messages that the second has got from the first over their own link."""
    peer = pair[1].peer(pair[0].id)
    return 0 if peer is None else peer["messages_received"]


def carries(pair: Pair) -> float:
    """Until the second hears the first again, over their link; answers how many seconds that took."""
    client = NodeClient(Endpoint(unix=pair[0].node.datadir / SOCKET_FILE), PATIENCE_S)
    before = heard(pair)
    payload = b64encode(b"fault %d" % next(_NUMBERS)).decode()
    client.post("/api/network/broadcast", BroadcastView, {"type": "transaction", "payload": payload, "mode": "flood"})
    return comes(lambda: heard(pair) > before)


def links(pair: Pair) -> list[int]:
    """How many the two have had with each other, as each has told."""
    return [
        sum(event["type"] == "peer_connected" and event["data"]["id"] == peer.id for event in machine.node.events())
        for machine, peer in (pair, pair[::-1])
    ]


def tell(what: str, **figures: float) -> None:
    print(f"\n{what}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))


# -- routers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
def test_a_router_that_forgets_everything_ends_no_connection(pair: Pair, side: int) -> None:
    before = links(pair)
    router_of(pair[side]).forget()
    took_s = carries(pair)
    back_s = carries(pair[::-1])
    comes(lambda: path_of(pair) == "direct")
    assert links(pair) == before
    tell("router forgets", first_s=took_s, back_s=back_s)


@pytest.mark.slow
def test_mappings_of_thirty_seconds_are_kept_for_ten_minutes(tmp_path: Path) -> None:
    with Lab() as lab:
        network = Network(lab, tmp_path)
        hosts = [lab.behind(Kind.PORT_RESTRICTED, udp_timeout_s=MAPPING_TIMEOUT_S) for _ in range(2)]
        one, other = (network.lay(host, f"kept-{number}", "--nat", "none") for number, host in enumerate(hosts))
        network.settle((one, other))
        assert connect(one, other, PATIENCE_S).direct_s is not None
        before, paths = links((one, other)), {"direct"}
        ends = time.monotonic() + KEPT_S
        while time.monotonic() < ends:
            paths.add(path_of((one, other)) or "gone")
            time.sleep(1.0)
        tell("kept for ten minutes", answer_s=carries((one, other)))
        assert links((one, other)) == before
        assert paths == {"direct"}


# -- cards ---------------------------------------------------------------------------------------------------------------


def take_down(host: Host) -> None:
    host.namespace.configure(["ip", "-batch", "-"], "link set eth0 down\n")


def put_up(host: Host) -> None:
    assert host.router is not None
    host.namespace.configure(
        ["ip", "-batch", "-"], f"link set eth0 up\nroute replace default via {host.router.inner_ip} dev eth0\n"
    )


def add_card(host: Host, router: Router) -> None:
    """A second one, behind another router; its way out is used when that of the first is gone."""
    address = router.next_guest_ip()
    router.namespace.configure(
        ["ip", "-batch", "-"],
        f"link add second type veth peer name eth1 netns {host.namespace.path}\nlink set second master inner up\n",
    )
    host.namespace.configure(
        ["ip", "-batch", "-"],
        f"addr add {address}/24 dev eth1\nlink set eth1 up\n"
        f"route add default via {router.inner_ip} dev eth1 metric 100\n",
    )
    host.namespace.wait_for_card("eth1")


def test_a_card_that_is_gone_for_a_moment_ends_no_connection(pair: Pair) -> None:
    before, host = links(pair), pair[1].node.host
    take_down(host)
    time.sleep(CARD_OUT_S)
    put_up(host)
    took_s = carries(pair)
    comes(lambda: path_of(pair) == "direct")
    assert links(pair) == before
    tell("card out and in", back_s=took_s)


def test_a_connection_moves_to_another_card(network: Network, machines: Pair) -> None:
    """And stays there: the machine is of no use to other tests."""
    moving = network.lay_kind(Kind.PORT_RESTRICTED, "two cards")
    network.settle([moving])
    pair = machines[0], moving
    connect(*pair, PATIENCE_S)
    before, host = links(pair), moving.node.host
    add_card(host, network.lab.router(Kind.PORT_RESTRICTED))
    take_down(host)
    took_s, back_s = carries(pair), carries(pair[::-1])
    direct_s = comes(lambda: path_of(pair) == "direct")
    assert links(pair) == before
    tell("card gone, another one there", first_s=took_s, back_s=back_s, direct_s=direct_s)
    moving.node.leave()


def back_to_first(host: Host) -> None:
    """The first card comes, and the second one is taken away, in the same moment."""
    assert host.router is not None
    host.namespace.configure(
        ["ip", "-batch", "-"],
        f"link set eth0 up\nroute replace default via {host.router.inner_ip} dev eth0\nlink del eth1\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("moves_first", [True, False], ids=["asks", "is asked"])
def test_a_connection_moves_to_another_card_and_back(
    network: Network, machines: Pair, moves_first: bool, tmp_path: Path
) -> None:
    moving = network.lay_kind(Kind.PORT_RESTRICTED, tmp_path.name)
    network.settle([moving])
    pair = (moving, machines[0]) if moves_first else (machines[0], moving)
    connect(*pair, PATIENCE_S)
    before, host = links(pair), moving.node.host
    add_card(host, network.lab.router(Kind.PORT_RESTRICTED))
    take_down(host)
    carries(pair)
    carries(pair[::-1])
    back_to_first(host)
    took_s, back_s = carries(pair), carries(pair[::-1])
    assert links(pair) == before
    tell("first card back, second gone", first_s=took_s, back_s=back_s)
    moving.node.leave()


# -- servers -------------------------------------------------------------------------------------------------------------


class Turn:
    """A coturn on a host of its own."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.public("coturn")
        self._near = lab.public("near")
        self.url = f"{TURN_USER}:{TURN_PASSWORD}@{self.host.ip}:{TURN_PORT}"
        self.start(TURN_PASSWORD)

    def start(self, password: str) -> None:
        command = ["turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--listening-ip", self.host.ip]
        command += ["--listening-port", str(TURN_PORT), "--lt-cred-mech", "--user", f"{TURN_USER}:{password}"]
        command += ["--realm", "lab", "--userdb", "/dev/null", "--pidfile", "/dev/null", "--log-file", "stdout"]
        self.server = Server(self.host.namespace, command)
        self.server.wait_until(lambda: self._near.connect((self.host.ip, TURN_PORT)).close() is None)

    def kill(self) -> None:
        self.server.process.kill()
        self.server.process.wait()

    def carries(self, pair: Pair) -> bool:
        peer = pair[0].peer(pair[1].id)
        return peer is not None and self.host.ip in str(peer["pair"])


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, list[Turn]]]:
    """Two behind symmetric NATs, and two TURN servers that they were told of; no node relays for anybody."""
    home = tmp_path_factory.mktemp("turn")
    with Lab() as lab:
        first = LabNode(lab.public("open"), home, "open0", "--nat", "none", "--relay", "off")
        known = ("--bootstrap", first.wait().enode, "--nat", "none", "--relay", "off")
        for number in range(1, 4):
            LabNode(lab.public("open"), home, f"open{number}", *known)
        servers = [Turn(lab), Turn(lab)]
        told = [part for server in servers for part in ("--turn", server.url)]
        nodes = [LabNode(lab.behind(Kind.SYMMETRIC), home, f"hidden{number}", *known, *told) for number in range(2)]
        one, other = (Machine(node, node.wait().id) for node in nodes)
        for node in nodes:
            node.wait(lambda status: status.nat.state == "turn_relay" and len(status.nat.rendezvous or ()) >= 3)
        yield (one, other), servers


@pytest.mark.slow
@pytest.mark.parametrize("password", [None, "another"], ids=["dead", "credentials"])
def test_a_turn_server_that_fails_in_mid_connection_is_left(
    relayed: tuple[Pair, list[Turn]], password: str | None
) -> None:
    """It dies, or it is started anew and takes the password no more."""
    pair, servers = relayed
    if pair[0].peer(pair[1].id) is not None:
        part(*pair)  # it may have lost one of its relays in the test before
    connect(*pair, None)
    carries(pair)
    before, used = links(pair), next(server for server in servers if server.carries(pair))
    used.kill()
    if password is not None:
        used.start(password)
    took_s = carries(pair)
    back_s = carries(pair[::-1])
    left_s = comes(lambda: not used.carries(pair) and not used.carries(pair[::-1]))
    assert links(pair) == before
    if password is not None:
        used.kill()
    used.start(TURN_PASSWORD)
    tell(f"TURN server fails ({password or 'dead'})", first_s=took_s, back_s=back_s, left_s=left_s)


# -- forged packets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds", [pytest.param(FLOOD_S, id="short"), pytest.param(LONG_FLOOD_S, id="long", marks=pytest.mark.slow)]
)
def test_forged_packets_at_full_rate_end_no_connection(network: Network, pair: Pair, seconds: float) -> None:
    one = pair[0]
    before, nat, memory = links(pair), one.node.wait().nat, memory_of(one)
    command = [sys.executable, str(REPOSITORY / "tests" / "flooder.py"), nat.observed_address, str(nat.observed_port)]
    attacker = network.lab.public("attacker").popen(
        [*command, str(seconds)], cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE
    )
    slowest_s = 0.0
    while attacker.poll() is None:
        slowest_s = max(slowest_s, carries(pair), carries(pair[::-1]))
    sent = int(attacker.stdout.read())
    assert sent > 1000
    carries(pair)
    assert links(pair) == before
    assert path_of(pair) == "direct"
    grown = memory_of(one) - memory
    assert grown < FLOOD_GROWTH
    assert "Traceback" not in one.node.log.read_text()
    tell("flood", packets_per_s=sent / seconds, slowest_message_s=slowest_s, grown_mib=grown / (1 << 20))


def memory_of(machine: Machine) -> int:
    return int(psutil.Process(machine.node.process.pid).memory_info().rss)
