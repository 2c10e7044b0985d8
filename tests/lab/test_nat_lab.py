"""The NAT lab itself: that each router is of the kind it says, by packets of our own and by programs that are not ours."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from natlab import Host, Kind, Lab, LabError, judges, netns, skip_without_lab

pytestmark = [pytest.mark.lab, skip_without_lab]

TESTS = Path(__file__).parents[1]
SOON_S = 0.3
"""For what must not come; by then it would have, on a machine that is not very busy. Where a packet that must come can
follow it, that one is waited for instead."""

SO_RCVBUFFORCE = 33
"""Of Linux; Python does not name it."""

Endpoint = tuple[str, int]


class Outside:
    """Three endpoints on the internet: two ports of one address, and another address."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.stranger = lab.public("server"), lab.public("stranger")
        self.same = self.host.udp()
        self.other_port = self.host.udp()
        self.other_address = self.stranger.udp()

    def saw(self, sender: socket.socket, at: socket.socket) -> Endpoint:
        """Where something from this socket seems to come from, at that endpoint."""
        sender.sendto(b"hello", endpoint(at))
        return heard(at, b"hello")


def endpoint(made: socket.socket) -> Endpoint:
    ip, port = made.getsockname()
    return ip, port


def heard(receiver: socket.socket, expected: bytes) -> Endpoint:
    text, sender = receiver.recvfrom(2048)
    assert text == expected
    return sender


def is_quiet(receiver: socket.socket) -> bool:
    receiver.settimeout(SOON_S)
    try:
        receiver.recv(1)
    except TimeoutError:
        return True
    return False


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Shared by tests that make routers of their own, and leave alone what belongs to all."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def outside(lab: Lab) -> Outside:
    return Outside(lab)


# --- What each kind does, by packets of our own ---------------------------------------------------------------------------

# How many outer ports one inner port has: towards two ports of one address, and a port of another.
OUTER_PORTS = {
    Kind.OPEN: 1,
    Kind.FIREWALLED: 1,
    Kind.FULL_CONE: 1,
    Kind.RESTRICTED: 1,
    Kind.PORT_RESTRICTED: 1,
    Kind.IGD: 1,
    Kind.CARRIER: 1,
    Kind.CGNAT: 1,
    Kind.SYMMETRIC_BY_ADDRESS: 2,
    Kind.SYMMETRIC: 3,
    Kind.SYMMETRIC_SEQUENTIAL: 3,
}
# Who reaches the host through a port that has sent to `same` only. Nobody else does.
LETS_IN = {
    Kind.OPEN: {"other_port", "other_address"},
    Kind.FULL_CONE: {"other_port", "other_address"},
    Kind.CARRIER: {"other_port", "other_address"},
    Kind.RESTRICTED: {"other_port"},
}
KINDS_WITH_UDP = pytest.mark.parametrize("kind", OUTER_PORTS, ids=lambda kind: kind.value)
ALL_KINDS = pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)


@KINDS_WITH_UDP
def test_mapping(lab: Lab, outside: Outside, kind: Kind) -> None:
    host = lab.behind(kind)
    inside = host.udp()
    seen = [outside.saw(inside, at) for at in (outside.same, outside.other_port, outside.other_address)]
    assert {ip for ip, _ in seen} == {host.external_ip}
    assert len({port for _, port in seen}) == OUTER_PORTS[kind]
    assert outside.saw(inside, outside.same) == seen[0], "a mapping stays"


@KINDS_WITH_UDP
def test_filtering(lab: Lab, outside: Outside, kind: Kind) -> None:
    inside = lab.behind(kind).udp()
    mapped = outside.saw(inside, outside.same)
    for name in ("other_address", "other_port", "same"):
        getattr(outside, name).sendto(name.encode(), mapped)
        if name == "same" or name in LETS_IN.get(kind, ()):
            assert heard(inside, name.encode()) == endpoint(getattr(outside, name))


def test_what_was_filtered_does_not_spoil_the_mapping(lab: Lab, outside: Outside) -> None:
    """It must leave no connection at the router that holds the port when the host sends there in its turn: punching."""
    inside = lab.behind(Kind.PORT_RESTRICTED).udp()
    mapped = outside.saw(inside, outside.same)
    outside.other_address.sendto(b"too early", mapped)
    assert outside.saw(inside, outside.other_address) == mapped
    outside.other_address.sendto(b"punched", mapped)
    heard(inside, b"punched")


def test_no_udp_passes_a_router_that_blocks_it(lab: Lab, outside: Outside) -> None:
    host = lab.behind(Kind.BLOCKED)
    receiver, listener = outside.host.udp(), outside.host.listen()
    host.udp().sendto(b"lost", endpoint(receiver))
    host.connect(endpoint(listener))  # which goes through, after it
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(10)


@ALL_KINDS
def test_tcp_goes_out(lab: Lab, outside: Outside, kind: Kind) -> None:
    host = lab.behind(kind)
    listener = outside.host.listen()
    client = host.connect(endpoint(listener))
    accepted, seen = listener.accept()
    with accepted:
        assert seen[0] == host.external_ip
        accepted.sendall(b"welcome")
        assert client.recv(10) == b"welcome"


@ALL_KINDS
def test_tcp_comes_in_only_where_nothing_is_in_the_way(lab: Lab, outside: Outside, kind: Kind) -> None:
    host = lab.behind(kind)
    listener = host.listen()
    target = (host.external_ip, endpoint(listener)[1])
    if kind is Kind.OPEN:
        outside.stranger.connect(target)
    else:
        with pytest.raises(ConnectionRefusedError):
            outside.stranger.connect(target)


def test_a_silent_router_does_not_even_refuse(lab: Lab, outside: Outside) -> None:
    host = lab.behind(Kind.PORT_RESTRICTED, is_silent=True)
    with pytest.raises(TimeoutError):
        outside.stranger.connect((host.external_ip, 4000), timeout_s=SOON_S)


def test_a_port_is_preserved_or_not(lab: Lab, outside: Outside) -> None:
    for preserve_ports in (True, False):
        host = lab.behind(Kind.FULL_CONE, preserve_ports=preserve_ports)
        # Two, since one may be drawn by chance.
        seen = [outside.saw(host.udp(port), outside.same)[1] for port in (4000, 4001)]
        assert (seen == [4000, 4001]) is preserve_ports


@pytest.mark.parametrize("step", [1, 3])
def test_sequential_ports_go_up_by_a_step(lab: Lab, outside: Outside, step: int) -> None:
    inside = lab.behind(Kind.SYMMETRIC_SEQUENTIAL, step=step).udp()
    first, second, third = (
        outside.saw(inside, at)[1] for at in (outside.same, outside.other_port, outside.other_address)
    )
    assert (second - first, third - second) == (step, step)


def test_sequential_ports_go_up_by_more_at_a_busy_router(lab: Lab, outside: Outside) -> None:
    router = lab.router(Kind.SYMMETRIC_SEQUENTIAL)
    inside = lab.behind(router=router).udp()
    first = outside.saw(inside, outside.same)[1]
    busy = router.make_busy(per_second=1000)
    others = (outside.host.udp() for _ in range(1000))
    # However slow the other host is to begin.
    assert any(outside.saw(inside, at)[1] - first > number for number, at in enumerate(others, 1))
    netns.end(busy)


@pytest.mark.parametrize("kind", [Kind.FULL_CONE, Kind.RESTRICTED, Kind.PORT_RESTRICTED], ids=lambda kind: kind.value)
def test_two_hosts_with_one_source_port_get_a_mapping_each(lab: Lab, outside: Outside, kind: Kind) -> None:
    first = lab.behind(kind)
    second = lab.behind(router=first.router)
    assert (first.external_ip, first.ip) != (second.external_ip, second.ip)
    assert first.external_ip == second.external_ip
    mappings = []
    # The second begins where the first has not been: there the port is free, and the kernel would give it away again.
    for host, goes_to in (
        (first, (outside.same, outside.other_port)),
        (second, (outside.other_address, outside.other_port, outside.same)),
    ):
        inside = host.udp(5000)
        seen = {outside.saw(inside, at) for at in goes_to}
        assert len(seen) == 1, "endpoint-independent for the second, too"
        mappings.append((inside, seen.pop()))
    assert mappings[0][1] != mappings[1][1]
    for inside, mapped in mappings:
        outside.same.sendto(str(mapped).encode(), mapped)
        heard(inside, str(mapped).encode())


@pytest.mark.parametrize("kind", [Kind.FULL_CONE, Kind.PORT_RESTRICTED, Kind.SYMMETRIC], ids=lambda kind: kind.value)
def test_hairpin(lab: Lab, outside: Outside, kind: Kind) -> None:
    for hairpin in (True, False):
        host = lab.behind(kind, hairpin=hairpin)
        neighbor = lab.behind(router=host.router)
        inside, own, beside = host.udp(timeout_s=SOON_S), host.udp(), neighbor.udp()
        mapped = outside.saw(inside, outside.same)
        for sender in (own, beside, own, beside):
            sender.sendto(b"round the corner", mapped)
            if hairpin:
                assert heard(inside, b"round the corner")[0] == host.external_ip, "as if it came from outside"
        outside.same.sendto(b"after it", mapped)
        heard(inside, b"after it")


def test_two_nats_in_a_row(lab: Lab, outside: Outside) -> None:
    host = lab.behind(Kind.CGNAT)
    home, carrier = host.router, host.router.upstream
    assert carrier is not None
    assert ip_address(home.outer_ip) in ip_network("100.64.0.0/10")
    assert carrier.outer_ip == home.external_ip == outside.saw(host.udp(), outside.same)[0]


def test_any_router_can_be_behind_any_other(lab: Lab, outside: Outside) -> None:
    inner = lab.router(Kind.SYMMETRIC, upstream=lab.router(Kind.FULL_CONE))
    inside = lab.behind(router=inner).udp()
    assert len({outside.saw(inside, at) for at in (outside.same, outside.other_port)}) == 2


def test_hosts_and_routers_behind_one_router_have_addresses_of_their_own(lab: Lab) -> None:
    carrier = lab.router(Kind.CARRIER)
    homes = [lab.router(Kind.PORT_RESTRICTED, upstream=carrier) for _ in range(2)]
    assert len({lab.behind(router=carrier).ip, *(home.outer_ip for home in homes)}) == 3


def test_the_rest_of_the_world_is_a_black_hole(lab: Lab) -> None:
    host = lab.behind(Kind.PORT_RESTRICTED)
    with pytest.raises(TimeoutError):
        host.connect(("198.51.100.1", 80), timeout_s=SOON_S)


# --- What happens to a router ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [Kind.FULL_CONE, Kind.SYMMETRIC, Kind.SYMMETRIC_SEQUENTIAL], ids=lambda kind: kind.value
)
def test_a_router_that_forgets_gives_other_mappings(lab: Lab, outside: Outside, kind: Kind) -> None:
    host = lab.behind(kind, preserve_ports=False)
    sockets = [host.udp(), host.udp()]
    before = [outside.saw(inside, outside.same) for inside in sockets]
    host.router.forget()
    outside.same.sendto(b"to nobody", before[0])
    after = [outside.saw(inside, outside.same) for inside in sockets]
    assert before != after
    outside.same.sendto(b"to the new one", after[0])
    heard(sockets[0], b"to the new one")


def test_a_router_that_forgets_ends_tcp_connections(lab: Lab, outside: Outside) -> None:
    host = lab.behind(Kind.PORT_RESTRICTED)
    listener = outside.host.listen()
    client = host.connect(endpoint(listener))
    accepted, _ = listener.accept()
    host.router.forget()
    with accepted:
        accepted.sendall(b"are you there")
        assert is_quiet(client)


def test_a_router_forgets_under_traffic_too(lab: Lab, eventually: Callable[..., Any]) -> None:
    host = lab.behind(Kind.FULL_CONE, preserve_ports=False)
    chatter = (
        "import socket; s = socket.socket(2, 2); s.bind(('', 5000))\nwhile True: s.sendto(b'', ('198.51.100.1', 9))"
    )
    running = host.popen([sys.executable, "-c", chatter])
    ports = []
    for _ in range(5):
        ports += eventually(host.router.udp_mappings).values()
        host.router.forget()
    netns.end(running)
    assert len(set(ports)) > 3, "they are drawn, so two may be the same by chance"


def test_a_router_gets_another_address(lab: Lab, outside: Outside) -> None:
    host = lab.behind(Kind.FULL_CONE)
    inside = host.udp()
    before = outside.saw(inside, outside.same)
    host.router.change_address()
    after = outside.saw(inside, outside.same)
    assert after[0] == host.external_ip != before[0]
    outside.same.sendto(b"to the old one", before)
    outside.same.sendto(b"to the new one", after)
    heard(inside, b"to the new one")


def test_only_an_address_of_its_own_can_be_changed(lab: Lab) -> None:
    for host in (lab.behind(Kind.OPEN), lab.behind(Kind.CGNAT)):
        with pytest.raises(LabError):
            host.router.change_address()
        with pytest.raises(LabError):
            lab.behind(Kind.FIREWALLED, router=host.router)


def test_a_mapping_ends_when_nothing_uses_it(lab: Lab, outside: Outside, eventually: Callable[..., Any]) -> None:
    host = lab.behind(Kind.FULL_CONE, udp_timeout_s=1, preserve_ports=False)
    sockets = [host.udp(), host.udp()]
    before = [outside.saw(inside, outside.same) for inside in sockets]
    assert len(host.router.udp_mappings()) == 2
    eventually(lambda: not host.router.udp_mappings())
    outside.other_address.sendto(b"to nobody", before[0])
    after = [outside.saw(inside, outside.same) for inside in sockets]
    assert before != after
    outside.other_address.sendto(b"to the new one", after[0])
    heard(sockets[0], b"to the new one")


def test_a_forwarded_port_lets_strangers_in(lab: Lab, outside: Outside) -> None:
    host = lab.behind(Kind.SYMMETRIC)
    inside, listener = host.udp(5000), host.listen(5001)
    lab.forward(host.router, "udp", 6000, host, 5000)
    lab.forward(host.router, "tcp", 6001, host, 5001)
    for _ in range(2):
        outside.stranger.connect((host.external_ip, 6001))
        _, seen = listener.accept()
        assert seen[0] == outside.stranger.ip
        outside.other_address.sendto(b"come in", (host.external_ip, 6000))
        inside.sendto(b"welcome", heard(inside, b"come in"))
        assert heard(outside.other_address, b"welcome") == (host.external_ip, 6000)
        host.router.forget()  # what was set up by hand it keeps


def test_loss_is_as_asked_in_each_direction() -> None:
    count, share = 2000, 0.2
    deviations = 6 * (count * share * (1 - share)) ** 0.5  # one run in 500 million is outside
    with Lab() as lab:
        here, there = lab.public().udp(), lab.behind(Kind.OPEN).udp()
        for sender, receiver in ((here, there), (there, here)):
            lab.lose(share)
            lost = count - _arrived(lab, sender, receiver, count)
            assert abs(lost - count * share) < deviations
            assert _arrived(lab, sender, receiver, count) == count


def _arrived(lab: Lab, sender: socket.socket, receiver: socket.socket, count: int) -> int:
    """Out of so many sent, and then ends the loss."""
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    for _ in range(count):
        sender.sendto(b"one", endpoint(receiver))
    lab.lose(0)
    sender.sendto(b"last", endpoint(receiver))
    return sum(1 for _ in iter(lambda: receiver.recv(10), b"last"))


# --- Port mapping by the router -------------------------------------------------------------------------------------------

UPNP = """
import miniupnpc, sys
router = miniupnpc.UPnP()
router.discoverdelay = 200
assert router.discover() == 1
router.selectigd()
assert router.addportmapping(7000, "TCP", router.lanaddr, 5000, "lab", "", 60)
print(router.externalipaddress())
"""


def _map_by_upnp(host: Host) -> str:
    done = host.run([sys.executable, "-c", UPNP])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _map_by_natpmp(host: Host) -> str:
    asking = host.udp()
    asking.connect((host.router.inner_ip, 5351))
    asking.send(bytes(2))
    external = socket.inet_ntoa(asking.recv(100)[8:12])
    asking.send(struct.pack("!BBHHHI", 0, 2, 0, 5000, 7000, 60))  # RFC 6886, section 3.3
    assert struct.unpack("!BBHIHHI", asking.recv(100))[1:3] == (130, 0)
    return external


def _map_by_pcp(host: Host) -> str:
    asking = host.udp()
    asking.connect((host.router.inner_ip, 5351))
    mapped_ip = bytes(10) + b"\xff\xff"
    header = struct.pack("!BBHI", 2, 1, 0, 60) + mapped_ip + socket.inet_aton(host.ip)
    asking.send(header + struct.pack("!12sB3xHH", b"natlab nonce", 6, 5000, 7000) + mapped_ip + bytes(4))
    answer = asking.recv(1100)  # RFC 6887, sections 7.2 and 11.1
    assert answer[:4] == b"\x02\x81\x00\x00"
    return socket.inet_ntoa(answer[56:60])


MAPPERS = {"upnp": _map_by_upnp, "natpmp": _map_by_natpmp, "pcp": _map_by_pcp}


@pytest.mark.parametrize("protocol", MAPPERS)
def test_a_router_maps_a_port_by_one_protocol_alone(lab: Lab, outside: Outside, protocol: str) -> None:
    host = lab.behind(Kind.IGD, igd=[protocol])
    listener = host.listen(5000)
    assert MAPPERS[protocol](host) == host.external_ip
    outside.stranger.connect((host.external_ip, 7000))
    assert listener.accept()[1][0] == outside.stranger.ip
    host.router.restart()
    with pytest.raises(ConnectionRefusedError):
        outside.stranger.connect((host.external_ip, 7000))
    MAPPERS[protocol](host)
    outside.stranger.connect((host.external_ip, 7000))


def test_a_router_does_not_hear_the_other_protocols(lab: Lab) -> None:
    host = lab.behind(Kind.IGD, igd=["natpmp"])
    with pytest.raises(ConnectionRefusedError):
        host.connect((host.router.inner_ip, 5000))
    announce = struct.pack("!BBHI", 2, 0, 0, 0) + bytes(10) + b"\xff\xff" + socket.inet_aton(host.ip)
    asking = host.udp()
    for question in (announce, bytes(2)):
        asking.sendto(question, (host.router.inner_ip, 5351))
    assert asking.recv(1100)[:2] == b"\x00\x80", "the first answer is to the second question"


def test_a_router_refuses_what_its_configuration_forbids(lab: Lab) -> None:
    """By UPnP: asked by NAT-PMP or PCP for what is forbidden, miniupnpd tries all the other ports first, for a minute."""
    host = lab.behind(Kind.IGD, igd=["upnp"], igd_settings=["deny 0-65535 0.0.0.0/0 0-65535"])
    refused = host.run([sys.executable, "-c", UPNP])
    assert "Exception: Action not authorized" in refused.stderr


# --- Labs come and go -----------------------------------------------------------------------------------------------------


def test_labs_side_by_side_do_not_meet(lab: Lab, outside: Outside) -> None:
    inside = lab.behind(Kind.PORT_RESTRICTED).udp()
    mapped = outside.saw(inside, outside.same)
    with Lab() as second:
        twin = Outside(second)
        assert twin.host.ip == outside.host.ip
        away = second.behind(Kind.PORT_RESTRICTED).udp()
        receivers = [found.host.udp(7777) for found in (outside, twin)]
        for sender, receiver, text in ((inside, receivers[0], b"one"), (away, receivers[1], b"two")):
            sender.sendto(text, (outside.host.ip, 7777))
            heard(receiver, text)
        second.lose(1)
    outside.same.sendto(b"still here", mapped)
    heard(inside, b"still here")


def test_nothing_of_a_lab_is_seen_on_the_machine() -> None:
    """So nothing can leave by the machine's own network either."""
    before = (socket.if_nameindex(), os.stat("/proc/thread-self/ns/net").st_ino, _rules())
    with Lab() as lab:
        host = lab.behind(Kind.FULL_CONE)
        assert (socket.if_nameindex(), os.stat("/proc/thread-self/ns/net").st_ino, _rules()) == before
        with host.namespace.entered():
            assert [name for _, name in socket.if_nameindex()] == ["lo", "eth0"]


def _rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


OWNER = """
import os, signal, subprocess
from natlab import Kind, Lab

with Lab() as lab:
    host = lab.behind(Kind.PORT_RESTRICTED)
    # With a child of its own, which no signal reaches when this process is killed.
    child = host.popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    print(os.stat(host.namespace.path).st_ino, child.pid, child.stdout.readline(), flush=True)
    {end}
"""
ENDS = {
    "end": ("pass", None),
    "exception": ("raise ValueError", None),
    "SIGINT": ("signal.pause()", signal.SIGINT),
    "SIGTERM": ("signal.pause()", signal.SIGTERM),
    "SIGKILL": ("signal.pause()", signal.SIGKILL),
}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_of_a_lab(end: str, eventually: Callable[..., Any]) -> None:
    code, number = ENDS[end]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.replace("{end}", code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    assert owner.stdout is not None
    with owner.stdout:
        network, child, grandchild = (int(word) for word in owner.stdout.readline().split())
    if number is not None:
        owner.send_signal(number)
    owner.wait(10)
    eventually(lambda: _network_of(child) != network)
    if number in (signal.SIGTERM, signal.SIGKILL):
        assert _network_of(grandchild) == network, "an orphan, until somebody makes the next lab"
        with Lab():
            pass
    eventually(lambda: _network_of(grandchild) != network)


def test_what_a_living_owner_runs_is_left_alone(lab: Lab) -> None:
    running = lab.public().popen(["sleep", "600"])
    with Lab():
        assert running.poll() is None


def _network_of(pid: int) -> int | None:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return None if state == "Z" else os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def test_tests_are_skipped_where_no_lab_can_be_had(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", __file__, "-k", "test_mapping"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent, check=False)
    assert done.returncode == 0, done.stdout
    assert "the NAT lab needs the Debian packages iproute2, nftables" in done.stdout
    assert "passed" not in done.stdout


def test_a_lab_is_not_for_ordinary_users() -> None:
    code = "import os; from natlab import needs; os.seteuid(65534); print(needs.missing.__wrapped__())"
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "the NAT lab needs root, for network namespaces\n"


# --- What the judges say --------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    natdiscovery: tuple[str, str]
    stun_client: str
    pystun: str


MAPS_ALIKE = "NAT with Endpoint Independent Mapping"
FILTERS_NOTHING = "Endpoint Independent Filtering"
FILTERS_ADDRESSES = "Address Dependent Filtering"
FILTERS_ENDPOINTS = "Address and Port Dependent Filtering"

# A router of a kind, with what differs from the kind's defaults, and each judge's words.
# Known to be coarse: to Debian's `stun` whatever is not the inner port is a "random port", sequential ones too, and a
# dependent mapping hides the filter from it; pystun3 has one name for three symmetric kinds. None of them sees a second NAT.
TABLE: list[tuple[Kind, dict[str, Any], Said]] = [
    (Kind.OPEN, {}, Said(("No NAT!", FILTERS_NOTHING), "Open", "Open Internet")),
    (Kind.FIREWALLED, {}, Said(("No NAT!", FILTERS_ENDPOINTS), "Firewall", "Symmetric UDP Firewall")),
    (
        Kind.FULL_CONE,
        {},
        Said(
            (MAPS_ALIKE, FILTERS_NOTHING),
            "Independent Mapping, Independent Filter, preserves ports, no hairpin",
            "Full Cone",
        ),
    ),
    (
        Kind.FULL_CONE,
        {"hairpin": True, "preserve_ports": False},
        Said(
            (MAPS_ALIKE, FILTERS_NOTHING),
            "Independent Mapping, Independent Filter, random port, will hairpin",
            "Full Cone",
        ),
    ),
    (
        Kind.RESTRICTED,
        {},
        Said(
            (MAPS_ALIKE, FILTERS_ADDRESSES),
            "Independent Mapping, Address Dependent Filter, preserves ports, no hairpin",
            "Restric NAT",
        ),
    ),
    (
        Kind.PORT_RESTRICTED,
        {},
        Said(
            (MAPS_ALIKE, FILTERS_ENDPOINTS),
            "Independent Mapping, Port Dependent Filter, preserves ports, no hairpin",
            "Restric Port NAT",
        ),
    ),
    (
        Kind.PORT_RESTRICTED,
        {"hairpin": True},
        Said(
            (MAPS_ALIKE, FILTERS_ENDPOINTS),
            "Independent Mapping, Port Dependent Filter, preserves ports, will hairpin",
            "Restric Port NAT",
        ),
    ),
    (
        Kind.IGD,
        {},
        Said(
            (MAPS_ALIKE, FILTERS_ENDPOINTS),
            "Independent Mapping, Port Dependent Filter, preserves ports, no hairpin",
            "Restric Port NAT",
        ),
    ),
    (
        Kind.CARRIER,
        {},
        Said(
            (MAPS_ALIKE, FILTERS_NOTHING),
            "Independent Mapping, Independent Filter, random port, no hairpin",
            "Full Cone",
        ),
    ),
    (
        Kind.CGNAT,
        {},
        Said(
            (MAPS_ALIKE, FILTERS_ENDPOINTS),
            "Independent Mapping, Port Dependent Filter, random port, no hairpin",
            "Restric Port NAT",
        ),
    ),
    (
        Kind.SYMMETRIC,
        {},
        Said(
            ("NAT with Address and Port Dependent Mapping", FILTERS_ENDPOINTS),
            "Dependent Mapping, random port, no hairpin",
            "Symmetric NAT",
        ),
    ),
    (
        Kind.SYMMETRIC_BY_ADDRESS,
        {},
        Said(
            ("NAT with Address Dependent Mapping", FILTERS_ENDPOINTS),
            "Dependent Mapping, random port, no hairpin",
            "Symmetric NAT",
        ),
    ),
    (
        Kind.SYMMETRIC_SEQUENTIAL,
        {},
        Said(
            ("NAT with Address and Port Dependent Mapping", FILTERS_ENDPOINTS),
            "Dependent Mapping, random port, no hairpin",
            "Symmetric NAT",
        ),
    ),
    (
        Kind.BLOCKED,
        {},
        Said((judges.NO_ANSWER, judges.NO_ANSWER), "Blocked or could not reach STUN server", "Blocked"),
    ),
]
JUDGES: dict[str, Callable[[Host, str], Any]] = {
    "stun_client": judges.stun_client,
    "natdiscovery": judges.natdiscovery,
    "pystun": judges.pystun,
}
LABELS = ["-".join((kind.value, *options)) for kind, options, _ in TABLE]


@pytest.fixture(scope="module")
def hearing() -> Iterator[dict[tuple[str, str], Future[Any]]]:
    """All the judges about all the rows at once, since most of what they do is to wait."""
    with Lab() as lab, ThreadPoolExecutor(len(TABLE) * len(JUDGES)) as pool:
        server = lab.public("stun", addresses=2)
        lab.coturn(server)
        hosts = {label: lab.behind(kind, **options) for label, (kind, options, _) in zip(LABELS, TABLE, strict=True)}
        yield {
            (label, name): pool.submit(judge, host, server.ip)
            for name, judge in JUDGES.items()
            for label, host in hosts.items()
        }


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("row", TABLE, ids=LABELS)
def test_judges(
    hearing: dict[tuple[str, str], Future[Any]], row: tuple[Kind, dict[str, Any], Said], judge: str
) -> None:
    label = LABELS[TABLE.index(row)]
    assert hearing[label, judge].result() == getattr(row[2], judge)


def test_coturn_answers_over_tcp(lab: Lab) -> None:
    server, host = lab.public("stun", addresses=2), lab.behind(Kind.SYMMETRIC)
    lab.coturn(server)
    with host.connect((server.ip, 3478)) as stream:
        stream.sendall(struct.pack("!HHI12s", 1, 0, 0x2112A442, b"twelve bytes"))
        assert stream.recv(1500)[:2] == b"\x01\x01"
