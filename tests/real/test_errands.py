"""Questions without a node of one's own, asked of real nodes on loopback: every stage that can fail, by its name."""

import base64
import os
import socket as plain_socket
import time

import gevent
import pytest
from gevent import socket

from kodectl.core.identity import Identity
from kodectl.errors import DeadlineReached, EnvironmentFault, LocalMisuse, NegativeAnswer, NodeUnreachable, PeerFault
from kodectl.node.errand import Terms
from kodectl.node.errands import find_node, get_value, put_value, verify_enode
from kodectl.node.node import Node
from kodectl.node.pinging import ping_target
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.wire.contacts import Contact, pack_contacts
from kodectl.wire.enode import Enode, parse_enode
from kodectl.wire.rpc import Kind, Values
from kodectl.wire.suite import RealSuite

SUITE = RealSuite()
SILENT_PORT = 9  # discard: nobody listens there


@pytest.fixture(scope="module")
def runtime():
    one = GreenRuntime()
    yield one
    one.close()


def start(runtime, seed: bytes, *bootstrap: Node, host="127.0.0.1", **settings) -> Node:
    told = NodeSettings(
        listen_host=host,
        tcp_port=0,
        udp_port=0,
        lan=False,
        nat="none",
        bootstrap=tuple(node.enode for node in bootstrap),
        **settings,
    )
    node = Node(runtime, told, Identity(SUITE, seed.ljust(32, b".")))
    node.start()
    return node


@pytest.fixture(scope="module")
def nodes(runtime):
    first = start(runtime, b"errands 1")
    started = [first, start(runtime, b"errands 2", first), start(runtime, b"errands 3", first)]
    with gevent.Timeout(15):
        while not all(len(node.kademlia.table) == 2 for node in started):
            gevent.sleep(0.02)
    yield started
    for node in started:
        node.stop()


def enode_of(node: Node, **changed) -> Enode:
    enode = parse_enode(node.enode)
    fields = {"node_id": enode.node_id, "host": enode.host, "tcp": enode.tcp, "udp": enode.udp, **changed}
    return Enode(**fields)


def terms(*bootstrap: Enode, timeout_s=3.0, deadline_s=10.0, network="kodechain") -> Terms:
    return Terms(bootstrap=bootstrap, network=network, timeout_s=timeout_s, deadline_s=deadline_s)


def ping(runtime, target, mode="auto", count=1, told=None, **rest):
    pongs = []
    view = ping_target(
        runtime, told or terms(**rest), target, mode=mode, count=count, interval_s=0.01, report=pongs.append
    )
    assert view.sent == len(pongs)
    return view, pongs


@pytest.fixture(autouse=True)
def nothing_left_behind(runtime, nodes):
    """No errand leaves a socket. Links of nodes come and go, so the count is given a moment."""

    def sockets():
        found = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
            except OSError:
                continue
        return found

    before = sockets()
    yield
    deadline = time.monotonic() + 5
    while sockets() > before and time.monotonic() < deadline:
        gevent.sleep(0.05)
    assert sockets() <= before


class TcpEnd:
    """A listener that does what a test says with each connection."""

    def __init__(self, handle) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        self._kept = []
        self._task = gevent.spawn(self._serve, handle)

    def _serve(self, handle):
        while True:
            connection, _ = self._socket.accept()
            self._kept.append(connection)
            handle(connection)

    def close(self):
        self._task.kill()
        for one in (self._socket, *self._kept):
            one.close()


@pytest.fixture
def tcp_end():
    ends = []

    def make(handle):
        ends.append(TcpEnd(handle))
        return ends[-1]

    yield make
    for end in ends:
        end.close()


@pytest.fixture
def closed_port():
    """A TCP port that nobody listens on."""
    with plain_socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield one.getsockname()[1]


# -- ping --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "udp", "tcp", "handshake"])
def test_ping_in_every_mode(runtime, nodes, mode):
    view, pongs = ping(runtime, enode_of(nodes[0]), mode, count=3)
    assert (view.sent, view.received, view.loss, view.stage, view.reason) == (3, 3, 0.0, None, None)
    assert [pong.seq for pong in pongs] == [1, 2, 3]
    assert {pong.mode for pong in pongs} == {"udp" if mode == "auto" else mode}
    assert 0 < view.min_ms <= view.average_ms <= view.max_ms < 2000
    assert view.id == nodes[0].identity.node_id.hex()


def test_ping_by_address_alone_learns_the_id_over_udp(runtime, nodes):
    target = enode_of(nodes[0], node_id=bytes(32))
    view, _ = ping(runtime, target, "udp")
    assert view.id == nodes[0].identity.node_id.hex()


def test_ping_by_id_alone_goes_through_the_network(runtime, nodes):
    target = Enode(nodes[2].identity.node_id, "", 0, 0)
    view, _ = ping(runtime, target, told=terms(enode_of(nodes[0])))
    assert view.received == 1
    assert view.addr == f"127.0.0.1:{nodes[2].udp_port}"


def test_ping_of_an_id_that_nobody_knows(runtime, nodes):
    with pytest.raises(NegativeAnswer) as caught:
        ping(runtime, Enode(b"x" * 32, "", 0, 0), told=terms(enode_of(nodes[0])))
    assert caught.value.code == "not_found"


def test_ping_over_udp_without_an_answer(runtime, nodes):
    view, (pong,) = ping(runtime, enode_of(nodes[0], udp=SILENT_PORT), "udp", timeout_s=0.6)
    assert (view.received, view.loss, view.stage, view.reason) == (0, 1.0, "udp", "timeout")
    assert (pong.rtt_ms, pong.addr) == (None, f"127.0.0.1:{SILENT_PORT}")


def test_ping_falls_back_to_the_handshake_and_stays_with_it(runtime, nodes):
    view, pongs = ping(runtime, enode_of(nodes[0], udp=SILENT_PORT), "auto", count=3, timeout_s=0.6)
    assert view.received == 3
    assert [pong.mode for pong in pongs] == ["handshake"] * 3


def test_ping_where_nothing_answers_says_how_far_it_came(runtime, nodes, closed_port):
    target = enode_of(nodes[0], tcp=closed_port, udp=SILENT_PORT)
    view, _ = ping(runtime, target, "auto", timeout_s=0.6)
    assert (view.stage, view.reason) == ("udp", "timeout")
    view, _ = ping(runtime, target, "tcp")
    assert (view.stage, view.reason) == ("tcp", "refused")
    view, _ = ping(runtime, target, "handshake")
    assert (view.stage, view.reason) == ("tcp", "refused")


def test_ping_of_a_name_that_does_not_resolve(runtime, nodes):
    view, (pong,) = ping(runtime, enode_of(nodes[0], host="gone.invalid"), timeout_s=1.0)
    assert (view.stage, view.reason, pong.addr) == ("resolve", "not_resolved", None)


def test_ping_of_a_listener_that_says_nothing(runtime, nodes, tcp_end):
    silent = tcp_end(lambda connection: None)
    target = enode_of(nodes[0], tcp=silent.port, udp=SILENT_PORT)
    assert ping(runtime, target, "tcp")[0].received == 1
    view, _ = ping(runtime, target, "handshake", timeout_s=0.5)
    assert (view.stage, view.reason) == ("handshake", "timeout")
    view, _ = ping(runtime, target, "auto", timeout_s=0.5)
    assert (view.stage, view.reason) == ("handshake", "timeout")  # farther than udp


def test_ping_of_a_listener_that_hangs_up(runtime, nodes, tcp_end):
    rude = tcp_end(lambda connection: connection.close())
    view, _ = ping(runtime, enode_of(nodes[0], tcp=rude.port), "handshake")
    assert view.stage == "handshake"
    assert view.reason not in (None, "timeout")


def test_ping_of_something_else_that_talks(runtime, nodes, tcp_end):
    web = tcp_end(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9))
    view, _ = ping(runtime, enode_of(nodes[0], tcp=web.port), "handshake", timeout_s=1.0)
    assert (view.received, view.stage) == (0, "handshake")


def test_ping_of_another_identity_is_named(runtime, nodes):
    with pytest.raises(PeerFault) as caught:
        ping(runtime, enode_of(nodes[0], node_id=b"x" * 32), "handshake")
    assert caught.value.code == "identity_mismatch"
    with pytest.raises(PeerFault) as caught:
        ping(runtime, enode_of(nodes[0], node_id=b"x" * 32), "auto", timeout_s=0.6)
    assert caught.value.code == "identity_mismatch"


def test_ping_over_ipv6_needs_no_bootstrap_node(runtime):
    try:
        node = start(runtime, b"errands six", host="::1")
    except EnvironmentFault:
        pytest.skip("no IPv6 loopback here")
    try:
        assert ping(runtime, enode_of(node, host="::1"), "udp")[0].received == 1
        assert ping(runtime, enode_of(node, host="::1"), "handshake")[0].received == 1
    finally:
        node.stop()


@pytest.mark.parametrize("host", ["255.255.255.255", "224.0.0.1", "0.0.0.0"])
def test_ping_of_an_address_of_many_sends_nothing_over_udp(runtime, nodes, host):
    begun = time.monotonic()
    view, _ = ping(runtime, enode_of(nodes[0], host=host), "udp")
    assert view.received == 0
    assert time.monotonic() - begun < 1.0


def test_pings_end_with_the_deadline(runtime, nodes):
    begun = time.monotonic()
    view, _ = ping(runtime, enode_of(nodes[0]), "udp", count=10_000, deadline_s=0.5)
    assert 1 <= view.sent < 10_000
    assert time.monotonic() - begun < 30.0


# -- find, put, get ----------------------------------------------------------------------------------------------------


def test_find_node_reports_each_hop(runtime, nodes):
    hops = []
    target = nodes[2].identity.node_id
    view = find_node(runtime, terms(enode_of(nodes[0])), target, report=hops.append)
    assert view.found
    assert view.closest[0].id == target.hex()
    assert view.closest[0].distance_bits == 0
    assert view.trace == hops
    assert hops[0].id == nodes[0].identity.node_id.hex()
    assert {hop.outcome for hop in hops} == {"answered"}
    assert len(hops) <= view.messages <= 3  # the target may answer while another is still asked


def test_find_node_of_an_unknown_id_names_the_closest(runtime, nodes):
    view = find_node(runtime, terms(enode_of(nodes[0])), b"x" * 32, report=lambda hop: None)
    assert not view.found
    assert {contact.id for contact in view.closest} == {node.identity.node_id.hex() for node in nodes}


def test_a_dead_bootstrap_node_beside_a_living_one_costs_no_time(runtime, nodes):
    begun = time.monotonic()
    told = terms(enode_of(nodes[0], udp=SILENT_PORT), enode_of(nodes[1]), timeout_s=60.0, deadline_s=100.0)
    assert find_node(runtime, told, nodes[2].identity.node_id, report=lambda hop: None).found
    assert time.monotonic() - begun < 30.0


def test_no_bootstrap_node_given(runtime):
    with pytest.raises(NodeUnreachable) as caught:
        find_node(runtime, terms(), bytes(32), report=lambda hop: None)
    assert caught.value.code == "no_bootstrap_answered"
    assert "--bootstrap" in caught.value.hint


def test_no_bootstrap_node_answers_and_each_is_named(runtime, nodes):
    told = terms(enode_of(nodes[0], udp=SILENT_PORT), enode_of(nodes[1], host="gone.invalid"), timeout_s=0.6)
    with pytest.raises(NodeUnreachable) as caught:
        get_value(runtime, told, key=b"k")
    assert caught.value.code == "no_bootstrap_answered"
    assert f"127.0.0.1:{SILENT_PORT}: no answer" in caught.value.message
    assert "gone.invalid" in caught.value.message


def test_the_deadline_ends_a_join_that_nobody_answers(runtime, nodes):
    begun = time.monotonic()
    with pytest.raises(DeadlineReached, match=r"no bootstrap node has answered within 0\.4 s"):
        get_value(runtime, terms(enode_of(nodes[0], udp=SILENT_PORT), timeout_s=60.0, deadline_s=0.4), key=b"k")
    assert time.monotonic() - begun < 30.0


def test_put_and_get_by_two_errands(runtime, nodes):
    told = terms(enode_of(nodes[0]))
    seed = b"publisher".ljust(32)
    put = put_value(runtime, told, seed, key=b"motd", value=b"one", ttl_s=60.0)
    assert (put.stored, put.asked) == (3, 3)
    again = put_value(runtime, told, seed, key=b"motd", value=b"two", ttl_s=60.0)
    assert again.sequence > put.sequence
    view = get_value(runtime, terms(enode_of(nodes[1])), key=b"motd")
    assert [base64.b64decode(record.value) for record in view.records] == [b"two"]
    assert view.records[0].publisher == SUITE.public_key(seed).hex()


def test_a_put_counts_on_from_a_record_with_a_faster_clock(runtime, nodes):
    class Fast(GreenRuntime):
        def unix_time(self) -> float:
            return super().unix_time() + 600.0

    told, seed, fast = terms(enode_of(nodes[0])), b"two machines".ljust(32), Fast()
    before = put_value(fast, told, seed, key=b"shared", value=b"one", ttl_s=60.0)
    fast.close()
    after = put_value(runtime, told, seed, key=b"shared", value=b"two", ttl_s=60.0)
    assert after.sequence == before.sequence + 1
    assert after.stored == 3


def test_the_deadline_ends_a_lookup_among_the_dead(runtime, nodes):
    liar = start(runtime, b"errands liar")
    dead = [Contact(bytes([n]) * 32, "127.0.0.1", SILENT_PORT + n, 0) for n in range(1, 10)]
    liar.discovery.handlers[Kind.FIND_VALUE] = lambda *_: Values(0, bytes(16), [], pack_contacts(dead))
    begun = time.monotonic()
    try:
        with pytest.raises(DeadlineReached):
            get_value(runtime, terms(enode_of(liar), deadline_s=0.5), key=b"k")
        assert time.monotonic() - begun < 2.0
    finally:
        liar.stop()


def test_a_put_of_too_much_is_refused_before_it_is_sent(runtime, nodes):
    with pytest.raises(LocalMisuse) as caught:
        put_value(runtime, terms(enode_of(nodes[0])), bytes(32), key=b"k", value=b"v" * 1001, ttl_s=60.0)
    assert caught.value.code == "value_too_large"


def test_get_of_what_nobody_has(runtime, nodes):
    with pytest.raises(NegativeAnswer) as caught:
        get_value(runtime, terms(enode_of(nodes[0])), key=b"nobody has this")
    assert caught.value.code == "value_not_found"


def test_an_errand_with_the_identity_of_a_node_takes_nothing_from_it(runtime, nodes):
    put_value(runtime, terms(enode_of(nodes[0])), b"errands 2".ljust(32, b"."), key=b"own", value=b"v", ttl_s=60.0)
    for node in (nodes[0], nodes[2]):
        assert node.kademlia.table.contact(nodes[1].identity.node_id).address == ("127.0.0.1", nodes[1].udp_port)


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_proves_the_identity(runtime, nodes):
    view = verify_enode(runtime, terms(), enode_of(nodes[0]))
    assert view.verified
    assert view.id == nodes[0].identity.node_id.hex()
    assert view.client.startswith("kodectl/")
    assert (view.network, view.reason) == ("kodechain", None)


def test_verify_of_another_identity(runtime, nodes):
    with pytest.raises(PeerFault) as caught:
        verify_enode(runtime, terms(), enode_of(nodes[0], node_id=b"x" * 32))
    assert caught.value.code == "identity_mismatch"


def test_verify_needs_an_id_and_a_port(runtime, nodes):
    for enode in (enode_of(nodes[0], node_id=bytes(32)), enode_of(nodes[0], tcp=0)):
        with pytest.raises(LocalMisuse) as caught:
            verify_enode(runtime, terms(), enode)
        assert caught.value.code == "bad_target"


def test_verify_of_a_node_of_another_network(runtime, nodes):
    with pytest.raises(PeerFault) as caught:
        verify_enode(runtime, terms(network="other"), enode_of(nodes[0]))
    assert caught.value.code == "wrong_network"


def test_verify_names_the_stage_that_failed(runtime, nodes, tcp_end, closed_port):
    silent = tcp_end(lambda connection: None)
    cases = {
        "refused at stage tcp": enode_of(nodes[0], tcp=closed_port),
        "timeout at stage handshake": enode_of(nodes[0], tcp=silent.port),
        "not_resolved at stage resolve": enode_of(nodes[0], host="gone.invalid"),
    }
    for text, enode in cases.items():
        with pytest.raises(NegativeAnswer, match=text) as caught:
            verify_enode(runtime, terms(timeout_s=0.6), enode)
        assert caught.value.code == "unreachable"


def test_verify_ends_with_the_deadline(runtime, nodes, tcp_end):
    silent = tcp_end(lambda connection: None)
    begun = time.monotonic()
    with pytest.raises(DeadlineReached):
        verify_enode(runtime, terms(timeout_s=60.0, deadline_s=0.4), enode_of(nodes[0], tcp=silent.port))
    assert time.monotonic() - begun < 30.0
