"""Nodes that find each other on a network of their own: three network namespaces on a bridge, in a fourth.

The test is this file run as a program under `unshare`, so that nothing is announced on a real network.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kodectl.core.identity import Identity
from kodectl.runtime.lan import GROUP
from kodectl.wire.announcement import EnodeData, Ports, announcement_statement, pack_announcement
from kodectl.wire.suite import RealSuite

PORT = 30_301
BRIDGE = "10.9.0.254"
LIMIT_S = 60.0
SILENCE_S = 2.0
"""A node that announces does so at 0 and 1 seconds, by multicast and broadcast."""


def missing() -> str | None:
    """What keeps these tests from running here."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "needs unshare and ip"
    tried = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, text=True)
    return f"no network namespace to be had: {tried.stderr.strip()}" if tried.returncode else None


# -- inside ----------------------------------------------------------------------------------------------------------


class LanNode:
    def __init__(self, place: Path, number: int, name: str, *options: str) -> None:
        self.datadir = place / name
        self.log = place / f"{name}.log"
        command = [
            *("ip", "netns", "exec", f"lan{number}", sys.executable, "-m", "kodectl", "node", "run", "--json"),
            *("--datadir", str(self.datadir), "--listen", "0.0.0.0:0", "--discovery-port", "0", "--api", "127.0.0.1:0"),
        ]
        environment = {**os.environ, "HOME": str(place), "KODECTL_BOOTSTRAP": ""}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )

    def ready(self) -> LanNode:
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), self.log.read_text()
        return self

    def ask(self, *command: str) -> dict:
        arguments = [sys.executable, "-m", "kodectl", "node", *command, "--json", "--datadir", str(self.datadir)]
        return json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)["data"]

    def wait_for_peers(self, count: int) -> None:
        self.ask("wait", "--for", f"peers={count}", "--deadline", str(LIMIT_S))

    def dials(self) -> dict[str, int]:
        return {name: count for name, count in self.ask("stats")["dials"].items() if not name.startswith("inbound")}

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT_S) == 0
        assert "Traceback" not in self.log.read_text()


def make_network() -> None:
    lines = ["mount --make-rprivate /", "mkdir -p /run/netns", "mount -t tmpfs none /run/netns"]
    # /sys shows the network namespace that it was mounted in.
    lines += ["mount -t sysfs none /sys", "ip link set lo up"]
    lines += ["ip link add bridge type bridge", f"ip address add {BRIDGE}/24 dev bridge", "ip link set bridge up"]
    for number in range(3):
        lines += [
            f"ip netns add lan{number}",
            f"ip link add port{number} type veth peer name eth0 netns lan{number}",
            f"ip link set port{number} master bridge up",
            f"ip -n lan{number} address add 10.9.0.{number + 1}/24 broadcast + dev eth0",
            f"ip -n lan{number} link set eth0 up",
            f"ip -n lan{number} link set lo up",
        ]
    subprocess.run(["sh", "-ec", "\n".join(lines)], check=True)
    # The bridge forwards what is multicast once its ports are up.
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        states = [Path(f"/sys/class/net/port{number}/brport/state").read_text().strip() for number in range(3)]
        if states == ["3"] * 3:
            return
        time.sleep(0.1)
    raise AssertionError(f"the ports of the bridge do not forward: {states}")


def listener() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", PORT))
    membership = socket.inet_aton(GROUP) + socket.inet_aton(BRIDGE)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(BRIDGE))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    return sock


def heard(sock: socket.socket, seconds: float, enough: int | None = None) -> list[bytes]:
    packets: list[bytes] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and len(packets) != enough:
        sock.settimeout(left)
        try:
            packets.append(sock.recv(65_536))
        except TimeoutError:
            break
    return packets


def nodes_without_bootstrap_find_each_other(place: Path) -> None:
    """Three in three namespaces, then a second one in one of them."""
    nodes = [LanNode(place, number, f"n{number}") for number in range(3)]
    for node in nodes:
        node.ready()
    for node in nodes:
        node.wait_for_peers(2)
    nodes.append(LanNode(place, 0, "late").ready())
    for node in nodes:
        node.wait_for_peers(3)
    for node in nodes:
        node.end()


def without_lan_nothing_is_said(place: Path) -> None:
    with listener() as sock:
        quiet = LanNode(place, 0, "quiet", "--no-lan").ready()
        quiet.ask("rediscover")
        assert heard(sock, SILENCE_S) == []
        quiet.end()
        loud = LanNode(place, 0, "loud").ready()
        assert len(heard(sock, LIMIT_S, enough=2)) == 2
        loud.end()


def only_announcements_that_hold_are_followed(place: Path) -> None:
    node = LanNode(place, 0, "node").ready()
    evil = Identity(RealSuite(), os.urandom(32))

    def announcement(age_s: int = 0, network: str = "kodechain", ip: str = "0.0.0.0", forged: bool = False) -> bytes:
        data = EnodeData(evil.node_id.hex(), ip, Ports(1, 0), network, evil.public_key.hex())
        timestamp = int(time.time()) - age_s
        signature = os.urandom(64) if forged else evil.sign(announcement_statement(data, timestamp))
        return pack_announcement(data, timestamp, signature)

    with listener() as sock:
        own = heard(sock, SILENCE_S)
        bad = [announcement(100), announcement(-100), announcement(network="other"), announcement(forged=True)]
        bad += [announcement(ip="evil.example"), announcement()[:-20], announcement().replace(b'"id"', b'"id":"","id"')]
        bad += [b"", os.urandom(1400), b'{"a":' + b"[" * 30_000, b"[" * 700 + b"]" * 700]
        for packet in own + bad:
            sock.sendto(packet, (GROUP, PORT))
        time.sleep(1)
        assert node.dials() == {}
        good = announcement()
        for _ in range(20):
            sock.sendto(good, (GROUP, PORT))
        deadline = time.monotonic() + LIMIT_S
        while not node.dials():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert sum(node.dials().values()) < 20
    node.end()


# -- outside ---------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.parametrize(
    "procedure",
    [
        nodes_without_bootstrap_find_each_other,
        without_lan_nothing_is_said,
        only_announcements_that_hold_are_followed,
    ],
)
def test_on_a_network_of_three(procedure: Callable[[Path], None], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["unshare", "-n", "-m", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, __file__]
    done = subprocess.run(
        [*command, procedure.__name__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=6 * LIMIT_S,
        env=environment,
    )
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs


if __name__ == "__main__":
    make_network()
    globals()[sys.argv[1]](Path(sys.argv[2]))
