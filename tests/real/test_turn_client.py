"""Our TURN client through coturn and through our own server, on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from certificates import write_certificate

from kodectl.core import turn_peers
from kodectl.errors import EnvironmentFault, NegativeAnswer, NotAuthorised, PeerFault
from kodectl.node.stun_client import StunClient, ask_over_tcp
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.runtime.base import Address, ConnectFailed, Mailbox, Stream, TimedOut
from kodectl.runtime.green import GreenRuntime

HOST, USER, PASSWORD, REALM = "127.0.0.1", "alice", "wonder:l@nd", "rabbit.hole"
FORBIDDEN = "127.0.0.9"
LIMIT_S = 10.0
STARTS = 3
COUNT = 1_000
IN_FLIGHT = 32
"""So that no buffer is tested but the client."""


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    """For UDP and TCP."""
    while True:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind((HOST, 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            return int(tcp.getsockname()[1])


class Coturn(NamedTuple):
    port: int
    tls_port: int
    ca_file: str


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coturn]:
    """A turnserver that asks for credentials."""
    if not shutil.which("turnserver"):
        pytest.skip("turnserver (package coturn) is not installed")
    place = tmp_path_factory.mktemp("coturn")
    certificate, key = write_certificate(place, HOST)
    told = ""
    for _ in range(STARTS):
        port, tls_port = free_port(), free_port()
        both = ["-L", HOST, "-L", "::1"] if has_ipv6() else ["-L", HOST]
        # Without RFC 5780 it does not want the ports next to these as well.
        command = ["turnserver", "-n", *both, "-p", str(port), "--no-cli", "--no-dtls", "--no-rfc5780"]
        command += ["--tls-listening-port", str(tls_port), "--cert", str(certificate), "--pkey", str(key)]
        command += ["--lt-cred-mech", "-u", f"{USER}:{PASSWORD}", "-r", REALM, "--allow-loopback-peers"]
        command += ["--denied-peer-ip", FORBIDDEN, "--stale-nonce", "1"]
        command += ["--user-quota", "100", "-b", str(place / "db"), "-l", str(place / "log"), "--simple-log"]
        command += ["--pidfile", str(place / "pid")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if answers(process, port, tls_port):
                yield Coturn(port, tls_port, str(certificate))
                return
            told = (place / "log").read_text()
        finally:
            process.terminate()
            process.wait(LIMIT_S)
    pytest.fail(f"coturn does not answer: {told}")


def answers(process: subprocess.Popen[bytes], port: int, tls_port: int) -> bool:
    """Over UDP and TCP. A port may be taken between its choice and its use; then coturn tries for a while and leaves."""
    runtime = GreenRuntime()
    scope = runtime.scope("waiting")
    inbox: list[StunClient] = []
    own = runtime.open_datagram((HOST, 0), lambda data, sender: [client.received(data, sender) for client in inbox])
    inbox.append(StunClient(runtime, own.send))
    try:
        for _ in range(100):
            if process.poll() is not None:
                return False
            try:
                inbox[0].ask((HOST, port), schedule=(0.2,))
                ask_over_tcp(runtime, (HOST, port), 1.0)
                runtime.connect((HOST, tls_port), 1.0).close()
                return True
            except (NegativeAnswer, PeerFault, ConnectFailed):
                scope.sleep(0.05)
        return False
    finally:
        own.close()
        runtime.close()


class Place:
    """A runtime with a scope, and allocations in it."""

    def __init__(self) -> None:
        self.runtime = GreenRuntime()
        self.scope = self.runtime.scope("turn clients")

    def allocate(self, server: TurnServer, **options: Any) -> Allocation:
        return allocate(self.runtime, self.scope, server, **options)

    def close(self) -> None:
        self.scope.close()
        assert self.scope.join(LIMIT_S) == []
        assert not self.runtime.faults.counts
        self.runtime.close()


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


def echoed(place: Place, near: Allocation, far: Allocation) -> int:
    """How many of `COUNT` numbered datagrams come back whole, in any order."""
    answers = place.runtime.mailbox(COUNT)
    far.on_data = far.send
    near.on_data = lambda data, peer: put(answers, data, peer)
    near.permit([far.relayed[0]])
    far.permit([near.relayed[0]])
    knock(near, far.relayed, answers)
    expected = {b"datagram %d" % number for number in range(COUNT)}
    waiting = 0
    for data in sorted(expected):
        near.send(data, far.relayed)
        waiting += 1
        if waiting == IN_FLIGHT:
            take(answers.get, far.relayed, expected)
            waiting -= 1
    for _ in range(waiting):
        take(answers.get, far.relayed, expected)
    return COUNT - len(expected)


def put(answers: Mailbox[tuple[bytes, Address]], data: bytes, peer: Address) -> None:
    assert answers.put((data, peer))


def knock(near: Allocation, peer: Address, answers: Mailbox[tuple[bytes, Address]]) -> None:
    """Until both have their permissions: what comes before is dropped, and nothing tells when the other has its own."""
    for _ in range(100):
        near.send(b"knock", peer)
        try:
            assert answers.get(0.1) == (b"knock", peer)
        except TimedOut:
            continue
        return
    raise AssertionError("nothing gets through")


def take(get: Callable[[float], tuple[bytes, Address]], peer: Address, expected: set[bytes]) -> None:
    data = b"knock"
    while data == b"knock":  # one that was only slow
        data, source = get(LIMIT_S)
    assert source == peer
    expected.remove(data)


def named(coturn: Coturn, transport: Any = "udp", password: str = PASSWORD) -> TurnServer:
    return TurnServer(HOST, coturn.tls_port if transport == "tls" else coturn.port, transport, USER, password)


every_transport = pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])


@every_transport
@pytest.mark.parametrize("by", ["channels", "indications"])
def test_two_allocations_talk_through_the_relay(
    place: Place, coturn: Coturn, transport: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "indications":
        monkeypatch.setattr(turn_peers, "CHANNEL_AFTER", COUNT * 2)
    near, far = (place.allocate(named(coturn, transport), ca_file=coturn.ca_file) for _ in range(2))
    assert near.relayed != far.relayed
    assert near.relayed[0] == near.mapped[0] == HOST
    assert near.server[0] == HOST
    assert echoed(place, near, far) == COUNT


@pytest.fixture(scope="module")
def served() -> Iterator[int]:
    """The port of `kodectl nat serve`, whose users may meet at their relayed addresses."""
    command = [sys.executable, "-m", "kodectl", "nat", "serve", "--listen", f"{HOST}:0", "--user", f"{USER}:{PASSWORD}"]
    command += ["--allow-peer", "loopback", "--allow-peer", "relays", "--quota", "user=20", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            (listening,) = json.loads(process.stdout.readline())["data"]["udp"]
            yield int(listening.rpartition(":")[2])
        finally:
            process.terminate()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_allocations_talk_through_our_own_server(place: Place, served: int, transport: Any) -> None:
    near, far = (place.allocate(TurnServer(HOST, served, transport, USER, PASSWORD)) for _ in range(2))
    assert echoed(place, near, far) == COUNT
    with pytest.raises(NotAuthorised):
        place.allocate(TurnServer(HOST, served, transport, USER, "wrong"))


@every_transport
def test_a_wrong_password_is_told_at_once(place: Place, coturn: Coturn, transport: str) -> None:
    with pytest.raises(NotAuthorised, match="does not take this user name") as caught:
        place.allocate(named(coturn, transport, password="wrong"), ca_file=coturn.ca_file)
    assert caught.value.code == "turn_unauthorised"
    assert "wrong" not in str(caught.value)


def test_a_server_that_nobody_vouches_for_is_not_used(place: Place, coturn: Coturn) -> None:
    with pytest.raises(PeerFault, match="does not prove to be") as caught:
        place.allocate(named(coturn, "tls"))
    assert caught.value.code == "turn_untrusted"


def test_a_server_of_another_name_is_not_used(place: Place, coturn: Coturn) -> None:
    server = TurnServer("localhost", coturn.tls_port, "tls", USER, PASSWORD)
    with pytest.raises(PeerFault, match="does not prove to be localhost") as caught:
        place.allocate(server, ca_file=coturn.ca_file)
    assert caught.value.code == "turn_untrusted"


def test_a_file_of_authorities_that_is_none_is_named(place: Place, coturn: Coturn, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot use") as caught:
        place.allocate(named(coturn, "tls"), ca_file=str(tmp_path / "missing.pem"))
    assert caught.value.code == "ca_unreadable"


def test_a_server_that_speaks_no_tls_is_no_answer(place: Place, coturn: Coturn) -> None:
    """Pure greeting: five bytes that could be the head of a record of 12,338 bytes, and then too many."""

    def greet(stream: Stream) -> None:
        place.scope.spawn("greeter", lambda: stream.write(b"220 mail.example ready" * 1_000))

    listener = place.runtime.listen((HOST, 0), greet)
    with pytest.raises(NegativeAnswer, match="TLS") as caught:
        place.allocate(TurnServer(HOST, listener.local[1], "tls", USER, PASSWORD), ca_file=coturn.ca_file)
    assert caught.value.code == "no_answer"
    listener.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize(("ip", "transport"), [(HOST, "udp"), ("::1", "udp"), ("::1", "tcp")])
def test_ipv6_is_relayed(place: Place, coturn: Coturn, ip: str, transport: Any) -> None:
    """To a server that is reached by either family."""
    server = TurnServer(ip, coturn.port, transport, USER, PASSWORD)
    near, far = (place.allocate(server, family=6) for _ in range(2))
    assert near.relayed[0] == far.relayed[0] == "::1"
    assert near.mapped[0] == ip
    assert echoed(place, near, far) == COUNT


def test_a_family_that_the_server_does_not_relay_for_is_told(place: Place, served: int) -> None:
    with pytest.raises(PeerFault) as caught:
        place.allocate(TurnServer(HOST, served, "udp", USER, PASSWORD), family=6)
    assert caught.value.code == "turn_family"


def test_a_peer_that_the_server_forbids_costs_the_others_nothing(
    place: Place, coturn: Coturn, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses all that are asked for together. Meanwhile its nonce goes stale."""
    near, far = (place.allocate(named(coturn)) for _ in range(2))
    place.scope.sleep(1.5)
    with caplog.at_level("INFO"):
        near.permit([FORBIDDEN, far.relayed[0]])
        assert echoed(place, near, far) == COUNT
    assert f"does not relay to {FORBIDDEN}: 403" in caplog.text


def test_an_allocation_on_a_socket_of_others(place: Place, coturn: Coturn) -> None:
    passed_over: list[bytes] = []

    def receive(data: bytes, source: Address) -> None:
        if not shared.received(data, source):
            passed_over.append(data)

    owner = place.runtime.open_datagram((HOST, 0), receive)
    shared = Allocation(place.runtime, place.scope, named(coturn), socket=owner)
    shared.establish()
    assert shared.mapped == owner.local
    assert echoed(place, shared, place.allocate(named(coturn))) == COUNT
    owner.send(b"to myself", owner.local)
    place.scope.sleep(0.1)
    assert passed_over == [b"to myself"]
    owner.close()


def test_what_is_let_go_is_gone(place: Place, coturn: Coturn) -> None:
    """The socket stays; the server would answer 437 if it still had the old one."""

    def receive(data: bytes, source: Address) -> None:
        for allocation in allocations:
            allocation.received(data, source)

    owner = place.runtime.open_datagram((HOST, 0), receive)
    allocations: list[Allocation] = []
    for _ in range(3):
        allocations.append(Allocation(place.runtime, place.scope, named(coturn), socket=owner))
        allocations[-1].establish()
        allocations[-1].close()
    owner.close()
