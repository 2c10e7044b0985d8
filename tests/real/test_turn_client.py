"""Our TURN client through coturn, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kodectl.errors import NotAuthorised
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.runtime.base import Address, Mailbox, TimedOut
from kodectl.runtime.green import GreenRuntime

HOST, USER, PASSWORD, REALM = "127.0.0.1", "alice", "wonder:l@nd", "rabbit.hole"
LIMIT_S = 10.0
COUNT = 1_000
IN_FLIGHT = 32
"""So that no buffer is tested but the client."""

pytestmark = pytest.mark.skipif(not shutil.which("turnserver"), reason="turnserver (package coturn) is not installed")


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


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a turnserver that asks for credentials. It is ready when it answers over TCP."""
    place, port = tmp_path_factory.mktemp("coturn"), free_port()
    command = ["turnserver", "-n", "-L", HOST, "-p", str(port), "--no-cli", "--no-tls", "--no-dtls"]
    command += ["--lt-cred-mech", "-u", f"{USER}:{PASSWORD}", "-r", REALM, "--allow-loopback-peers"]
    command += ["--user-quota", "100", "-b", str(place / "db"), "-l", str(place / "log"), "--simple-log"]
    command += ["--pidfile", str(place / "pid")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_listener(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def wait_for_listener(process: subprocess.Popen[bytes], port: int) -> None:
    runtime = GreenRuntime()
    scope = runtime.scope("waiting")
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex((HOST, port)) == 0:
                    return
            assert process.poll() is None
            scope.sleep(0.05)
        raise AssertionError("coturn does not listen")
    finally:
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


def named(port: int, transport: Any = "udp", password: str = PASSWORD) -> TurnServer:
    return TurnServer(HOST, port, transport, USER, password)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_allocations_talk_through_the_relay(place: Place, coturn: int, transport: str) -> None:
    near, far = (place.allocate(named(coturn, transport)) for _ in range(2))
    assert near.relayed != far.relayed
    assert near.relayed[0] == near.mapped[0] == HOST
    assert near.server == (HOST, coturn)
    assert echoed(place, near, far) == COUNT


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_wrong_password_is_told_at_once(place: Place, coturn: int, transport: str) -> None:
    with pytest.raises(NotAuthorised, match="does not take this user name") as caught:
        place.allocate(named(coturn, transport, password="wrong"))
    assert caught.value.code == "turn_unauthorised"
