"""`nat serve --user`, as TURN clients by others and our own see it, on loopback."""

from __future__ import annotations

import errno
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from kodectl.errors import NotAuthorised, PeerFault
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.runtime.base import Address, Mailbox
from kodectl.runtime.green import GreenRuntime

REPOSITORY = Path(__file__).parents[2]
HOST, USER, PASSWORD = "127.0.0.1", "ann", "secret"
JUDGE_LIMIT_S = 40.0
LIMIT_S = 10.0

needs_coturn = pytest.mark.skipif(
    shutil.which("turnutils_uclient") is None, reason="turnutils_uclient is missing: apt-get install coturn"
)
needs_aioice = pytest.mark.skipif(
    importlib.util.find_spec("aioice") is None, reason="aioice is missing: pip install aioice"
)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != errno.EADDRNOTAVAIL


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no ::1 here")


class Served(NamedTuple):
    process: subprocess.Popen[str]
    port: int


def serve(*options: str, host: str = HOST) -> Served:
    command = [sys.executable, "-m", "kodectl", "nat", "serve", "--json", "--listen", f"{host}:0"]
    credentials = ["--user", f"{USER}:{PASSWORD}", "--realm", "example.org"]
    process = subprocess.Popen([*command, *credentials, *options], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())["data"]
    return Served(process, int(ready["udp"][0].rpartition(":")[2]))


def end(served: Served) -> dict[str, Any]:
    """What it has relayed."""
    served.process.terminate()
    out, _ = served.process.communicate(timeout=JUDGE_LIMIT_S)
    assert served.process.returncode == 0
    turn: dict[str, Any] = json.loads(out)["data"]["turn"]
    return turn


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = serve("--allow-peer", "loopback")
    yield served
    summary = end(served)
    assert summary["over_rate"] == summary["over_throughput"] == 0


def ask_coturn(port: int, *options: str, host: str = HOST) -> tuple[int, int, str]:
    """Sent, received, and all that was said. Its exit code is 0 whatever is lost."""
    credentials = ("-u", USER, "-w", PASSWORD, "-p", str(port))
    command = ["turnutils_uclient", "-y", "-n", "10", "-z", "5", *credentials, *options, host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=JUDGE_LIMIT_S)
    said = done.stdout + done.stderr
    sent, received = re.findall(r"tot_send_msgs=(\d+)", said), re.findall(r"tot_recv_msgs=(\d+)", said)
    return int(sent[-1]) if sent else 0, int(received[-1]) if received else 0, said


WAYS = [
    (),  # channels, with pairs of ports
    ("-s",),  # Send indications
    ("-t",),
    ("-t", "-s"),
    ("-c", "-m", "5"),
    ("-c", "-m", "3", "-t"),
    ("-G",),  # requests beyond what is needed
    ("-D",),  # padding over UDP
    ("-N",),  # wrong requests on purpose
]
IPV6_WAYS = [("-x",), ("-x", "-t")]
Asked = dict[tuple[str, ...], "Future[tuple[int, int, str]]"]
AMONG_RELAYS = ("among relays",)


@pytest.fixture(scope="module")
def asked(served: Served) -> Iterator[Asked]:
    """Side by side: a run of coturn's client waits for five seconds of its six."""
    among_relays, over_ipv6 = serve("--allow-peer", "relays"), None
    runs: Asked = {}
    try:
        with ThreadPoolExecutor(len(WAYS) + len(IPV6_WAYS) + 1) as pool:
            runs |= {options: pool.submit(ask_coturn, served.port, *options) for options in WAYS}
            runs[AMONG_RELAYS] = pool.submit(ask_coturn, among_relays.port)
            if has_ipv6():
                over_ipv6 = serve("--allow-peer", "loopback", host="[::1]")
                for options in IPV6_WAYS:
                    runs[options] = pool.submit(ask_coturn, over_ipv6.port, *options, host="::1")
            yield runs
    finally:
        for started in filter(None, (among_relays, over_ipv6)):
            end(started)


@needs_coturn
class TestCoturn:
    @pytest.mark.parametrize("options", WAYS, ids=lambda options: " ".join(options) or "channels")
    def test_loses_nothing(self, asked: Asked, options: tuple[str, ...]) -> None:
        sent, received, said = asked[options].result()
        assert sent >= 20, said
        assert received == sent, said
        assert "Total lost packets 0 (0.000000%)" in said

    def test_meets_itself_at_relayed_addresses_where_only_these_are_allowed(self, asked: Asked) -> None:
        sent, received, said = asked[AMONG_RELAYS].result()
        assert (sent >= 20, received) == (True, sent), said

    @needs_ipv6
    @pytest.mark.parametrize("options", IPV6_WAYS)
    def test_loses_nothing_over_ipv6(self, asked: Asked, options: tuple[str, ...]) -> None:
        sent, received, said = asked[options].result()
        assert (sent >= 20, received) == (True, sent), said

    def test_gets_nothing_with_a_wrong_password(self, served: Served) -> None:
        sent, _, said = ask_coturn(served.port, "-w", "wrong")
        assert sent == 0
        assert "Cannot complete Allocation" in said

    def test_gets_nothing_through_to_peers_that_are_not_allowed(self) -> None:
        served = serve()
        try:
            sent, _, said = ask_coturn(served.port)
            assert sent == 0
            assert "403 (Forbidden)" in said
        finally:
            assert end(served)["relayed_packets"] == 0


AIOICE = """
import asyncio, sys
import aioice

async def main(port, count):
    def agent(controlling):
        return aioice.Connection(
            ice_controlling=controlling, components=1, stun_server=None, turn_server=("127.0.0.1", port),
            turn_username="ann", turn_password="secret", turn_transport=sys.argv[3],
            transport_policy=aioice.TransportPolicy.RELAY,
        )
    one, two = agent(True), agent(False)
    await asyncio.gather(one.gather_candidates(), two.gather_candidates())
    for near, far in ((one, two), (two, one)):
        assert [candidate.type for candidate in near.local_candidates] == ["relay"], near.local_candidates
        for candidate in near.local_candidates:
            await far.add_remote_candidate(candidate)
        await far.add_remote_candidate(None)
        far.remote_username, far.remote_password = near.local_username, near.local_password
    await asyncio.gather(one.connect(), two.connect())
    for number in range(count):
        await one.send(b"there %d" % number)
        assert await two.recv() == b"there %d" % number
        await two.send(b"back %d" % number)
        assert await one.recv() == b"back %d" % number
    await asyncio.gather(one.close(), two.close())
    print("carried", count)

asyncio.run(asyncio.wait_for(main(int(sys.argv[1]), int(sys.argv[2])), 30))
"""


@needs_aioice
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_aioice_agents_meet_at_their_relayed_addresses(served: Served, transport: str) -> None:
    command = [sys.executable, "-c", AIOICE, str(served.port), "200", transport]
    done = subprocess.run(command, capture_output=True, text=True, timeout=JUDGE_LIMIT_S)
    assert done.stdout == "carried 200\n", done.stderr


class TestOurClient:
    @staticmethod
    def allocation(runtime: GreenRuntime, port: int, transport: Literal["udp", "tcp"], password: str) -> Allocation:
        scope = runtime.scope("turn client")
        return allocate(runtime, scope, TurnServer(HOST, port, transport, USER, password))

    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    def test_loses_nothing_to_an_echoing_peer(self, served: Served, transport: Literal["udp", "tcp"]) -> None:
        runtime = GreenRuntime()
        heard: Mailbox[bytes] = runtime.mailbox(1000)
        echo = runtime.open_datagram((HOST, 0), lambda data, sender: echo.send(data, sender))
        allocation = self.allocation(runtime, served.port, transport, PASSWORD)

        def on_data(data: bytes, peer: Address) -> None:
            assert peer == echo.local
            heard.put(data)

        allocation.on_data = on_data
        allocation.permit([HOST])
        allocation.send(b"first", echo.local)
        assert heard.get(LIMIT_S) == b"first"
        for number in range(200):  # indications at first, then a channel
            allocation.send(str(number).encode(), echo.local)
            assert heard.get(LIMIT_S) == str(number).encode()
        allocation.close()
        echo.close()
        runtime.close()

    def test_is_told_of_a_wrong_password_and_of_a_quota(self) -> None:
        served, runtime = serve("--quota", "user=1"), GreenRuntime()
        try:
            with pytest.raises(NotAuthorised):
                self.allocation(runtime, served.port, "udp", "wrong")
            first = self.allocation(runtime, served.port, "udp", PASSWORD)
            with pytest.raises(PeerFault) as refused:
                self.allocation(runtime, served.port, "udp", PASSWORD)
            assert refused.value.code == "turn_quota"
            first.close()
        finally:
            runtime.close()
            assert end(served)["allocations"] == 1
