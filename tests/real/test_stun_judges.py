"""STUN against implementations by others, on loopback: 127.0.0.1 and 127.0.0.2 are the two addresses of RFC 5780."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest

from kodectl.node.stun_client import StunClient, StunRefused, ask_over_tcp
from kodectl.runtime.base import Address
from kodectl.runtime.green import GreenRuntime

REPOSITORY = Path(__file__).parents[2]
HOST, ALT = "127.0.0.1", "127.0.0.2"
CLIENT = "127.0.0.3"
JUDGE_LIMIT_S = 20.0
LIMIT_S = 30.0


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing: apt-get install {package}")


def judged(*command: str) -> str:
    """What a judge prints. Some never end by themselves, and exit codes mean nothing in common."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=JUDGE_LIMIT_S)
    return done.stdout + done.stderr


needs_pystun = pytest.mark.skipif(
    importlib.util.find_spec("stun") is None, reason="pystun3 is missing: pip install pystun3"
)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != errno.EADDRNOTAVAIL


class Served(NamedTuple):
    process: subprocess.Popen[str]
    port: int


def serve(*options: str) -> Served:
    command = [sys.executable, "-m", "kodectl", "nat", "serve", "--json", "--listen", f"{HOST}:0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())["data"]
    return Served(process, int(ready["udp"][0].rpartition(":")[2]))


def end(served: Served) -> dict[str, Any]:
    """The summary."""
    served.process.terminate()
    out, _ = served.process.communicate(timeout=JUDGE_LIMIT_S)
    assert served.process.returncode == 0
    summary: dict[str, Any] = json.loads(out)["data"]
    return summary


@pytest.fixture(scope="module")
def two_addresses() -> Iterator[Served]:
    served = serve("--alt-ip", ALT)
    yield served
    summary = end(served)
    assert summary["malformed"] == summary["refused"] == summary["over_rate"] == 0


@pytest.fixture(scope="module")
def one_address() -> Iterator[Served]:
    served = serve()
    yield served
    end(served)


@pytest.fixture(params=["two_addresses", "one_address"])
def served(request: pytest.FixtureRequest) -> Served:
    found: Served = request.getfixturevalue(request.param)
    return found


class TestServer:
    """`nat serve`, as clients of others see it."""

    @needs("turnutils_stunclient", "coturn")
    def test_coturn_learns_its_address(self, two_addresses: Served) -> None:
        said = judged("turnutils_stunclient", "-p", str(two_addresses.port), "-L", CLIENT, HOST)
        assert f"UDP reflexive addr: {CLIENT}:" in said
        assert f"Other addr: : {ALT}:{two_addresses.port + 1}" in said

    @needs("turnutils_natdiscovery", "coturn")
    @pytest.mark.parametrize("padding", [[], ["-P"]])
    def test_coturn_finds_no_nat_where_there_is_none(self, two_addresses: Served, padding: list[str]) -> None:
        port = str(two_addresses.port)
        said = judged("turnutils_natdiscovery", "-m", "-f", *padding, "-p", port, "-L", CLIENT, HOST)
        assert "No NAT! (Endpoint Independent Mapping)" in said
        assert "NAT with Endpoint Independent Filtering!" in said
        assert "ALG" not in said.replace("No ALG", "")

    @needs("stun", "stun-client")
    def test_the_classic_client_finds_it_open(self, two_addresses: Served) -> None:
        assert "Primary: Open" in judged("stun", f"{HOST}:{two_addresses.port}")

    @needs("stun", "stun-client")
    def test_the_classic_client_learns_its_address_from_either(self, served: Served) -> None:
        said = judged("stun", f"{HOST}:{served.port}", "1", "-v")
        assert f"MappedAddress = {HOST}:" in said

    @needs_pystun
    def test_pystun3_finds_it_open(self, two_addresses: Served) -> None:
        import stun

        kind, ip, _ = stun.get_ip_info(HOST, 0, HOST, two_addresses.port)
        assert (kind, ip) == ("Open Internet", HOST)

    @needs_pystun
    def test_pystun3_takes_no_refusal_for_an_answer_from_elsewhere(self, one_address: Served) -> None:
        """With one address it is told its own, and then waits in vain for the other."""
        import stun

        stun._initialize()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.2)
            asking.bind((HOST, 0))
            to = (asking, HOST, one_address.port, HOST, 0)
            assert stun.stun_test(*to)["ExternalPort"] == asking.getsockname()[1]
            assert not stun.stun_test(*to, send_data="0003000400000006")["Resp"]


@pytest.fixture(scope="module")
def port(shared_nodes: Any) -> int:
    node = shared_nodes.start("answering", "--nat", "none")
    return int(node.ready["listeners"]["udp"].rpartition(":")[2])


class TestNode:
    """A node's discovery port, as clients of others see it."""

    @needs("turnutils_stunclient", "coturn")
    def test_coturn_learns_its_address(self, port: int) -> None:
        said = judged("turnutils_stunclient", "-p", str(port), "-L", CLIENT, HOST)
        assert f"UDP reflexive addr: {CLIENT}:" in said

    @needs("stun", "stun-client")
    def test_the_classic_client_learns_its_address(self, port: int) -> None:
        assert f"MappedAddress = {HOST}:" in judged("stun", f"{HOST}:{port}", "1", "-v")

    @needs_pystun
    def test_pystun3_learns_its_address(self, port: int) -> None:
        import stun

        stun._initialize()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(2.0)
            asking.bind((HOST, 0))
            told = stun.stun_test(asking, HOST, port, HOST, 0)
            assert (told["ExternalIP"], told["ExternalPort"]) == asking.getsockname()


class Asker:
    """Our client, with a socket of its own on loopback."""

    def __init__(self) -> None:
        self.runtime = GreenRuntime()
        self.socket = self.runtime.open_datagram((CLIENT, 0), self._receive)
        self.client = StunClient(self.runtime, self.socket.send)
        self.ask = self.client.ask

    def _receive(self, data: bytes, sender: Address) -> None:
        self.client.received(data, sender)

    def close(self) -> None:
        self.client.close()
        self.socket.close()
        self.runtime.close()


@pytest.fixture
def asker() -> Iterator[Asker]:
    asker = Asker()
    with gevent.Timeout(LIMIT_S):
        yield asker
    asker.close()


def free_ports() -> int:
    """A port that is free with the one after it, on both addresses, for UDP and TCP."""
    while True:
        with ExitStack() as held:
            port = 0
            try:
                for ip in (HOST, ALT):
                    for step in (0, 1):
                        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                            holder = held.enter_context(socket.socket(socket.AF_INET, kind))
                            holder.bind((ip, port + step if port else 0))
                            port = port or holder.getsockname()[1]
                return port
            except (OSError, OverflowError):
                continue


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a turnserver with two addresses."""
    place, port = tmp_path_factory.mktemp("coturn"), free_ports()
    command = ["turnserver", "-n", "-L", HOST, "-L", ALT, "-p", str(port), "--alt-listening-port", str(port + 1)]
    command += ["--allow-loopback-peers", "--no-cli", "--no-tls", "--no-dtls", "--stun-only", "--simple-log"]
    command += ["-b", str(place / "db"), "-l", str(place / "log"), "--pidfile", str(place / "pid")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait(JUDGE_LIMIT_S)


@needs("turnserver", "coturn")
class TestClient:
    """Our client, asking coturn."""

    def test_learns_its_address_and_the_server_s_other(self, asker: Asker, coturn: int) -> None:
        answer = asker.ask((HOST, coturn))  # and waits for a server that has just been started
        assert answer.mapped == asker.socket.local
        assert (answer.source, answer.origin, answer.other) == ((HOST, coturn), (HOST, coturn), (ALT, coturn + 1))
        assert answer.software is not None
        assert "Coturn" in answer.software

    @pytest.mark.parametrize(
        ("change_ip", "source_ip"),
        [(True, ALT), (False, HOST)],
    )
    def test_is_answered_from_where_it_wants(self, asker: Asker, coturn: int, change_ip: bool, source_ip: str) -> None:
        asker.ask((HOST, coturn))
        answer = asker.ask((HOST, coturn), change_ip=change_ip, change_port=True)
        assert answer.source == answer.origin == (source_ip, coturn + 1)
        assert answer.mapped == asker.socket.local

    def test_learns_its_address_over_tcp(self, asker: Asker, coturn: int) -> None:
        asker.ask((HOST, coturn))
        answer = ask_over_tcp(asker.runtime, (HOST, coturn), 5.0)
        assert answer.mapped[0] == HOST
        assert answer.sendings == 1


class TestBoth:
    """Our client, asking our server."""

    @pytest.mark.parametrize("change_ip", [False, True])
    @pytest.mark.parametrize("change_port", [False, True])
    @pytest.mark.parametrize("at", [(HOST, 0), (HOST, 1), (ALT, 0), (ALT, 1)])
    def test_every_answer_leaves_by_the_right_socket(
        self, asker: Asker, two_addresses: Served, at: tuple[str, int], change_ip: bool, change_port: bool
    ) -> None:
        ip, step = at
        port = two_addresses.port
        answer = asker.ask((ip, port + step), change_ip=change_ip, change_port=change_port)
        other_ip, other_port = ALT if ip == HOST else HOST, port + 1 - step
        assert (
            answer.source
            == answer.origin
            == (other_ip if change_ip else ip, other_port if change_port else port + step)
        )
        assert answer.other == (other_ip, other_port)
        assert answer.mapped == asker.socket.local

    def test_one_address_has_no_other(self, asker: Asker, one_address: Served) -> None:
        answer = asker.ask((HOST, one_address.port))
        assert (answer.mapped, answer.origin, answer.other) == (asker.socket.local, None, None)
        with pytest.raises(StunRefused) as caught:
            asker.ask((HOST, one_address.port), change_port=True)
        assert caught.value.number == 420

    def test_over_tcp(self, asker: Asker, served: Served) -> None:
        assert ask_over_tcp(asker.runtime, (HOST, served.port), 5.0).mapped[0] == HOST

    @pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
    def test_both_families_on_one_socket(self, asker: Asker) -> None:
        served = serve("--listen", "[::]:0")
        try:
            assert asker.ask((HOST, served.port)).mapped == asker.socket.local
            assert ask_over_tcp(asker.runtime, ("::1", served.port), 5.0).mapped[0] == "::1"
            assert ask_over_tcp(asker.runtime, (HOST, served.port), 5.0).mapped[0] == HOST
        finally:
            end(served)

    def test_behind_a_nat_it_says_what_it_was_told(self, asker: Asker) -> None:
        served = serve("--alt-ip", ALT, "--external", "20.0.0.1", "--external", "20.0.0.2")
        try:
            answer = asker.ask((HOST, served.port))
            assert (answer.origin, answer.other) == (("20.0.0.1", served.port), ("20.0.0.2", served.port + 1))
        finally:
            assert end(served)["answered"] == 1
