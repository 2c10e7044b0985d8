"""A running node as others' relay: `kodectl node run` on loopback, coturn's client and our own on its discovery and TCP ports.

Credentials are asked for as nodes do, over a session of discovery.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from kodectl.core.identity import Identity
from kodectl.errors import KodectlError, NotAuthorised, PeerFault
from kodectl.node.discovery import Discovery
from kodectl.node.stun_client import ask_over_tcp
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.runtime.base import Mailbox, TimedOut
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.enode import parse_enode
from kodectl.wire.rpc import Relay, Relayed, RelayStatus
from kodectl.wire.suite import RealSuite

HOST = "127.0.0.1"
JUDGE_LIMIT_S = 40.0
LIMIT_S = 10.0
ATTEMPTS = 20
FLOOD = 3000
Transport = Literal["udp", "tcp"]

needs_coturn = pytest.mark.skipif(
    shutil.which("turnutils_uclient") is None, reason="turnutils_uclient is missing: apt-get install coturn"
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[GreenRuntime]:
    one = GreenRuntime()
    yield one
    one.close()


@pytest.fixture(scope="module")
def relay(shared_nodes: Any) -> Any:
    return shared_nodes.start("relay", "--nat", f"extip:{HOST}")


def granted(runtime: GreenRuntime, relay: Any, name: bytes = b"asker") -> Relayed:
    """To a node of that name, over a session."""
    discovery = Discovery(runtime, Identity(RealSuite(), name.ljust(32, b".")))
    discovery.open((HOST, 0))
    enode = parse_enode(relay.enode)
    answer = discovery.ask(enode.node_id, (HOST, enode.udp), Relay(), LIMIT_S).body
    discovery.close()
    assert isinstance(answer, Relayed)
    return answer


def server_of(grant: Relayed, transport: Transport = "udp", **changed: str) -> TurnServer:
    credentials = {"username": grant.username, "password": grant.password, **changed}
    return TurnServer(HOST, grant.udp_port if transport == "udp" else grant.tcp_port, transport, **credentials)


def allocated(runtime: GreenRuntime, server: TurnServer) -> Allocation:
    return allocate(runtime, runtime.scope("turn client"), server)


def meets(sender: Allocation, receiver: Allocation, heard: Mailbox[bytes]) -> bool:
    """Until the receiver's permission is there, what comes to it is lost."""
    receiver.permit([sender.relayed[0]])
    for _ in range(ATTEMPTS):
        sender.send(b"opens", receiver.relayed)
        try:
            return heard.get(LIMIT_S / ATTEMPTS) == b"opens"
        except TimedOut:
            continue
    return False


def told_of_relay(nodes: Any, relay: Any) -> dict[str, Any]:
    done = nodes.kodectl("node", "status", "--json", "--datadir", str(relay.datadir))
    told: dict[str, Any] = json.loads(done.stdout)["data"]["nat"]["relay"]
    return told


def test_credentials_are_for_who_asks(runtime: GreenRuntime, relay: Any) -> None:
    first, again, other = granted(runtime, relay), granted(runtime, relay), granted(runtime, relay, b"other")
    assert first.status == RelayStatus.GRANTED
    assert (first.username.partition(":")[2], first.lifetime_s > 1800) == (again.username.partition(":")[2], True)
    assert other.username.partition(":")[2] != first.username.partition(":")[2]
    assert (first.udp_port, first.tcp_port) == (parse_enode(relay.enode).udp, parse_enode(relay.enode).tcp)


@needs_coturn
class TestCoturn:
    """Its exit code is 0 whatever is lost. It sends indications here: three of four of the channel numbers that it draws are
    QUIC's (RFC 9443), and a node has both on one port."""

    @staticmethod
    def lost(grant: Relayed, *options: str, password: str | None = None) -> tuple[int, int, str]:
        """Sent, received, and all that was said."""
        port = grant.tcp_port if "-t" in options else grant.udp_port
        credentials = ("-u", grant.username, "-w", password or grant.password, "-p", str(port))
        command = ["turnutils_uclient", "-y", "-n", "10", "-z", "5", *credentials, *options, HOST]
        done = subprocess.run(command, capture_output=True, text=True, timeout=JUDGE_LIMIT_S)
        said = done.stdout + done.stderr
        sent, received = re.findall(r"tot_send_msgs=(\d+)", said), re.findall(r"tot_recv_msgs=(\d+)", said)
        return int(sent[-1]) if sent else 0, int(received[-1]) if received else 0, said

    @pytest.mark.parametrize("options", [("-s",), ("-t", "-s", "-m", "2")], ids=" ".join)
    def test_loses_nothing(self, runtime: GreenRuntime, relay: Any, options: tuple[str, ...]) -> None:
        grant = granted(runtime, relay, b"coturn " + "".join(options).encode())
        sent, received, said = self.lost(grant, *options)
        assert sent >= 20, said
        assert received == sent, said

    def test_gets_nothing_with_a_wrong_password(self, runtime: GreenRuntime, relay: Any) -> None:
        sent, _, said = self.lost(granted(runtime, relay), password="wrong")
        assert sent == 0
        assert "Cannot complete Allocation" in said


@pytest.mark.parametrize("transports", [("udp", "udp"), ("tcp", "udp"), ("tcp", "tcp")], ids="-".join)
def test_two_nodes_meet_at_their_relayed_addresses(
    runtime: GreenRuntime, relay: Any, transports: tuple[Transport, Transport]
) -> None:
    heard: Mailbox[bytes] = runtime.mailbox(200)
    one, other = (
        allocated(runtime, server_of(granted(runtime, relay, f"meets {number}".encode()), transport))
        for number, transport in enumerate(transports)
    )
    other.on_data = lambda data, peer: other.send(data, peer)
    one.on_data = lambda data, peer: heard.put(data) and None
    other.permit([one.relayed[0]])
    assert meets(other, one, heard)
    for number in range(100):
        one.send(b"%d" % number, other.relayed)
        assert heard.get(LIMIT_S) == b"%d" % number
    one.close()
    other.close()


class TestAbuse:
    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    def test_forged_and_foreign_credentials(self, runtime: GreenRuntime, relay: Any, transport: Transport) -> None:
        grant, other = granted(runtime, relay), granted(runtime, relay, b"other")
        later = "9" + grant.username
        expired = "1:" + grant.username.partition(":")[2]
        for changed in (
            {"username": other.username},
            {"password": other.password},
            {"username": later},
            {"username": expired},
            {"username": "ann", "password": "secret"},
        ):
            with pytest.raises(NotAuthorised):
                allocated(runtime, server_of(grant, transport, **changed))

    def test_a_node_has_its_quota_and_others_have_theirs(self, runtime: GreenRuntime, shared_nodes: Any) -> None:
        small = shared_nodes.start("small", "--nat", f"extip:{HOST}", "--relay", "user=2,allocations=3")
        grant = granted(runtime, small)
        held = [allocated(runtime, server_of(grant)), allocated(runtime, server_of(grant, "tcp"))]
        with pytest.raises(PeerFault) as refused:
            allocated(runtime, server_of(granted(runtime, small)))
        assert refused.value.code == "turn_quota"
        held.append(allocated(runtime, server_of(granted(runtime, small, b"other"))))
        assert granted(runtime, small, b"third").status == RelayStatus.FULL
        for allocation in held:
            allocation.close()
        told = told_of_relay(shared_nodes, small)
        assert (told["state"], told["max_allocations"]) == ("on", 3)
        assert small.leave() == 0

    def test_nobody_gets_through_to_the_machine_itself(self, runtime: GreenRuntime, relay: Any) -> None:
        heard: Mailbox[bytes] = runtime.mailbox(10)
        service = runtime.open_datagram((HOST, 0), lambda data, sender: heard.put(data) and None)
        allocation = allocated(runtime, server_of(granted(runtime, relay, b"curious")))
        other = allocated(runtime, server_of(granted(runtime, relay, b"friend")))
        allocation.permit([HOST])
        for _ in range(5):
            allocation.send(b"to a service of the relay's machine", service.local)
        arrived: Mailbox[bytes] = runtime.mailbox(10)
        other.on_data = lambda data, peer: arrived.put(data) and None
        assert meets(allocation, other, arrived)
        allocation.send(b"to a friend", other.relayed)  # over the same line, so what went before it has been judged
        assert arrived.get(LIMIT_S) == b"to a friend"
        assert len(heard) == 0
        for one in (allocation, other, service):
            one.close()

    def test_a_flood_of_strangers_holds_up_nobody_who_has_an_allocation(
        self, runtime: GreenRuntime, relay: Any
    ) -> None:
        heard: Mailbox[bytes] = runtime.mailbox(10)
        one, other = (allocated(runtime, server_of(granted(runtime, relay, name))) for name in (b"one", b"two"))
        one.on_data = lambda data, peer: heard.put(data) and None
        assert meets(other, one, heard)
        stranger = runtime.open_datagram((HOST, 0), lambda data, sender: None)
        port = parse_enode(relay.enode).udp
        allocate_request = bytes.fromhex("000300002112a442") + bytes(12)
        for number in range(FLOOD):
            stranger.send(allocate_request, (HOST, port))
            stranger.send(b"\x40\x00\x00\x04flood", (HOST, port))
            if number % 300 == 0:
                other.send(b"%d" % number, one.relayed)
                assert heard.get(LIMIT_S) == b"%d" % number
        for allocation in (one, other):
            allocation.close()
        stranger.close()

    def test_connections_that_only_begin_cost_others_nothing(self, runtime: GreenRuntime, relay: Any) -> None:
        port = parse_enode(relay.enode).tcp
        began = [runtime.connect((HOST, port), LIMIT_S) for _ in range(8)]
        for stream in began:
            stream.write(b"\x00\x03")
        assert ask_over_tcp(runtime, (HOST, port), LIMIT_S).mapped[0] == HOST
        for stream in began:
            stream.close()


def test_binding_over_tcp_tells_the_outer_address(runtime: GreenRuntime, shared_nodes: Any) -> None:
    """Of nodes that relay for nobody too, and links are made at the same port."""
    node = shared_nodes.start("off", "--nat", f"extip:{HOST}", "--relay", "off")
    enode = parse_enode(node.enode)
    assert ask_over_tcp(runtime, (HOST, enode.tcp), LIMIT_S).mapped[0] == HOST
    assert granted(runtime, node).status == RelayStatus.OFF
    assert told_of_relay(shared_nodes, node)["state"] == "off"
    with pytest.raises(KodectlError):
        allocated(runtime, TurnServer(HOST, enode.tcp, "tcp", "1:x", "y"))
    verified = shared_nodes.kodectl("enode", "verify", node.enode)
    assert verified.returncode == 0, verified.stderr
    assert node.leave() == 0
