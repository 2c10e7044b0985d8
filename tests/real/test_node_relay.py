"""A running node's relay on loopback, as coturn's client and abusers see it."""

from __future__ import annotations

import re
import shutil
import socket as plain_socket
from collections.abc import Iterator
from contextlib import suppress

import gevent
import pytest
from gevent import socket, subprocess

from kodectl.core.identity import Identity
from kodectl.core.stun_answers import NETWORK_BURST
from kodectl.core.turn_requests import LENGTHENING
from kodectl.errors import NotAuthorised
from kodectl.node.errand import Terms, errand
from kodectl.node.node import Node
from kodectl.node.peering import MAX_STUN_STREAMS_OF_NETWORK
from kodectl.node.pinging import ping_target
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.wire import rpc
from kodectl.wire.enode import parse_enode
from kodectl.wire.rpc import Relayed, RelayStatus
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, decode, encode
from kodectl.wire.suite import RealSuite

HOST = "127.0.0.1"
JUDGE_LIMIT_S = 40.0
LIMIT_S = 10.0

needs_coturn = pytest.mark.skipif(
    shutil.which("turnutils_uclient") is None, reason="turnutils_uclient is missing: apt-get install coturn"
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[GreenRuntime]:
    one = GreenRuntime()
    yield one
    one.close()


def start(runtime: GreenRuntime, seed: bytes, *bootstrap: Node) -> Node:
    settings = NodeSettings(
        listen_host=HOST,
        tcp_port=0,
        udp_port=0,
        lan=False,
        nat=f"extip:{HOST}",
        bootstrap=tuple(node.enode for node in bootstrap),
    )
    node = Node(runtime, settings, Identity(RealSuite(), seed.ljust(32, b".")))
    node.start()
    return node


@pytest.fixture(scope="module")
def node(runtime: GreenRuntime) -> Iterator[Node]:
    one = start(runtime, b"node relay")
    yield one
    one.stop()


@pytest.fixture(scope="module")
def other(runtime: GreenRuntime, node: Node) -> Iterator[Node]:
    """Linked with `node`."""
    one = start(runtime, b"node relay 2", node)
    with gevent.Timeout(LIMIT_S):
        while node.identity.node_id not in one.peering.links:
            gevent.sleep(0.02)
    yield one
    one.stop()


def terms_of(node: Node) -> Terms:
    return Terms(bootstrap=(parse_enode(node.enode),), network="kodechain", timeout_s=3.0, deadline_s=LIMIT_S)


def ask(runtime: GreenRuntime, node: Node) -> Relayed:
    """Credentials for somebody who has just come."""
    with errand(runtime, terms_of(node)) as this:
        answer = this.discovery.ask(node.identity.node_id, (HOST, node.udp_port), rpc.Relay()).body
    assert isinstance(answer, Relayed)
    assert answer.status == RelayStatus.GRANTED
    assert (answer.udp_port, answer.tcp_port) == (node.udp_port, node.peering.tcp_port)
    return answer


def allocated(runtime: GreenRuntime, granted: Relayed, *, over_tcp: bool = False, name: str = "") -> Allocation:
    port, transport = (granted.tcp_port, "tcp") if over_tcp else (granted.udp_port, "udp")
    server = TurnServer(HOST, port, transport, name or granted.username, granted.password)
    return allocate(runtime, runtime.scope("turn client"), server)


def carries(runtime: GreenRuntime, near: Allocation, far: Allocation) -> bool:
    heard = runtime.mailbox(10)
    far.on_data = lambda data, peer: heard.put(data)
    far.permit([HOST])
    near.permit([HOST])
    for number in range(20):  # indications at first, then a channel
        near.send(b"%d" % number, far.relayed)
        if heard.get(LIMIT_S) != b"%d" % number:
            return False
    return True


def binding(number: int = 1) -> bytes:
    return encode(Message(MessageClass.REQUEST, Method.BINDING, number.to_bytes(12), ()))


def allocating(number: int) -> bytes:
    contents = ((Attribute.REQUESTED_TRANSPORT, 17), LENGTHENING)
    return encode(Message(MessageClass.REQUEST, Method.ALLOCATE, number.to_bytes(12), contents))


def is_linked_and_answers(runtime: GreenRuntime, node: Node, other: Node) -> bool:
    """New links over TCP come about, and the one that stands goes on."""
    told = terms_of(node)
    view = ping_target(
        runtime, told, parse_enode(node.enode), mode="handshake", count=1, interval_s=0.01, report=lambda pong: None
    )
    return view.received == 1 and node.identity.node_id in other.peering.links


def coturns_client(runtime: GreenRuntime, node: Node, options: tuple[str, ...]) -> str:
    """What it says. Its exit code is 0 whatever is lost. It sends indications: its channels have numbers up to 0x7FFF, as in
    RFC 5766, and those above 0x4FFF are QUIC's here. Our own client uses channels."""
    granted = ask(runtime, node)
    port = granted.tcp_port if "-t" in options else granted.udp_port
    credentials = ("-u", granted.username, "-w", granted.password, "-p", str(port))
    command = ["turnutils_uclient", "-y", "-s", "-n", "10", "-z", "5", *credentials, *options, HOST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=JUDGE_LIMIT_S)
    return done.stdout + done.stderr


WAYS = [("-c",), ("-c", "-t"), ("-c", "-m", "4"), ("-c", "-m", "3", "-t")]


@pytest.fixture(scope="module")
def coturn_says(runtime: GreenRuntime, node: Node) -> dict[tuple[str, ...], gevent.Greenlet]:
    """Side by side: a run waits for five seconds of its six."""
    return {options: gevent.spawn(coturns_client, runtime, node, options) for options in WAYS}


@needs_coturn
@pytest.mark.parametrize("options", WAYS)
def test_coturns_client_loses_nothing(coturn_says: dict, options: tuple[str, ...]) -> None:
    said = coturn_says[options].get()
    sent, received = re.findall(r"tot_send_msgs=(\d+)", said), re.findall(r"tot_recv_msgs=(\d+)", said)
    assert sent, said
    assert int(sent[-1]) >= 20, said
    assert received[-1] == sent[-1], said
    assert "Total lost packets 0 (0.000000%)" in said


@pytest.mark.parametrize("over_tcp", [False, True])
def test_relays_between_two_of_its_relayed_addresses(runtime: GreenRuntime, node: Node, over_tcp: bool) -> None:
    granted = ask(runtime, node)
    near, far = (allocated(runtime, granted, over_tcp=over_tcp) for _ in range(2))
    assert carries(runtime, near, far)
    near.close()
    far.close()


def test_forged_and_foreign_credentials_are_worth_nothing(runtime: GreenRuntime, node: Node, other: Node) -> None:
    granted, foreign = ask(runtime, node), ask(runtime, other)
    expiry, _, account = granted.username.partition(":")
    later = f"{int(expiry) + 3600}:{account}"
    for name in (later, f"{expiry}:{'ab' * 16}", foreign.username):
        with pytest.raises(NotAuthorised):
            allocated(runtime, granted, name=name)


def test_a_link_and_binding_requests_share_the_tcp_port(runtime: GreenRuntime, node: Node, other: Node) -> None:
    with socket.create_connection((HOST, node.peering.tcp_port), LIMIT_S) as client:
        for number in (1, 2, 3):
            client.sendall(binding(number))
            answer = decode(client.recv(2048))
            assert answer.get(Attribute.XOR_MAPPED_ADDRESS) == client.getsockname()
    assert is_linked_and_answers(runtime, node, other)


def test_nothing_on_the_relays_machine_but_relayed_ports_is_reached(runtime: GreenRuntime, node: Node) -> None:
    """The node's own sockets, a service beside it, and one that listens on another loopback address."""
    heard: list[bytes] = []
    services = [runtime.open_datagram((ip, 0), lambda data, sender: heard.append(data)) for ip in (HOST, "127.0.0.2")]
    client = allocated(runtime, ask(runtime, node))
    before = node.connectivity.relaying.view().relayed_packets
    for service in services:
        client.permit([service.local[0]])
        client.send(b"x", service.local)
    client.send(b"x", (HOST, node.udp_port))
    near = allocated(runtime, ask(runtime, node))
    assert carries(runtime, near, client)  # what was sent before has arrived, or never will
    assert heard == []
    assert node.connectivity.relaying.view().relayed_packets - before <= 2 * 20
    for one in (client, near, *services):
        one.close()


def test_a_flood_of_allocate_requests_is_answered_to_a_bound(runtime: GreenRuntime, node: Node, other: Node) -> None:
    with plain_socket.socket(plain_socket.AF_INET, plain_socket.SOCK_DGRAM) as flooder:
        flooder.bind(("127.9.0.1", 0))
        flooder.settimeout(0.5)
        for number in range(2000):
            flooder.sendto(allocating(number), (HOST, node.udp_port))
            if number % 50 == 0:
                gevent.sleep(0)
        near, far = (allocated(runtime, ask(runtime, node)) for _ in range(2))
        assert carries(runtime, near, far)
        flooder.setblocking(False)
        answers = 0
        with suppress(BlockingIOError):
            while answers < 2000:
                flooder.recv(2048)
                answers += 1
    assert 0 < answers < 4 * NETWORK_BURST
    assert is_linked_and_answers(runtime, node, other)
    near.close()
    far.close()


def test_connections_that_only_begin_as_stun_are_few(runtime: GreenRuntime, node: Node, other: Node) -> None:
    idle = []
    for _ in range(MAX_STUN_STREAMS_OF_NETWORK + 20):
        client = socket.socket()
        client.bind(("127.8.0.1", 0))
        client.connect((HOST, node.peering.tcp_port))
        client.sendall(binding()[:2])
        idle.append(client)

    def open_ones() -> int:
        """Of those that were not closed on the other side."""
        count = 0
        for one in idle:
            one.settimeout(0.005)
            try:
                count += one.recv(1) != b""
            except TimeoutError:
                count += 1
            except ConnectionResetError:
                pass
        return count

    try:
        with gevent.Timeout(LIMIT_S):
            while open_ones() > MAX_STUN_STREAMS_OF_NETWORK:
                gevent.sleep(0.02)
        assert open_ones() == MAX_STUN_STREAMS_OF_NETWORK
        assert is_linked_and_answers(runtime, node, other)
        near, far = (allocated(runtime, ask(runtime, node), over_tcp=True) for _ in range(2))
        assert carries(runtime, near, far)
        near.close()
        far.close()
    finally:
        for one in idle:
            one.close()
