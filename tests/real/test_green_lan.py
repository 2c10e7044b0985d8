"""Announcements and the shared port number, each test in a network namespace of its own.

A test is a function of this file that runs in a child process under `unshare -n`, so that nothing is multicast on a
real network.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest

from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import ConnectFailed, TimedOut
from kodectl.runtime.green import GreenRuntime
from kodectl.runtime.lan import BROADCAST, GROUP

PORT = 30_301
LIMIT_S = 20.0


def missing() -> str | None:
    """What keeps these tests from running here."""
    if os.geteuid() != 0:
        return "needs root for a network namespace"
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "needs unshare and ip"
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    return f"no network namespace to be had: {tried.stderr.strip()}" if tried.returncode else None


pytestmark = [pytest.mark.lab, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


def in_namespace(procedure: Callable[[], None], *, interfaces: tuple[str, ...] = ("10.9.0.1", "10.9.1.1")) -> None:
    """Runs a function of this module where nothing but the given interfaces exists."""
    script = [
        "ip link set lo up",
        *(f"ip link add lan{n} type veth peer name far{n}" for n, _ in enumerate(interfaces)),
        *(f"ip address add {ip}/24 broadcast + dev lan{n}" for n, ip in enumerate(interfaces)),
        *(f"ip link set {end}{n} up" for n, _ in enumerate(interfaces) for end in ("lan", "far")),
        f"exec {sys.executable} {__file__} {procedure.__name__}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["unshare", "-n", "sh", "-ec", "\n".join(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr


def ignore(*_: object) -> None:
    pass


def every_node_hears_every_announcement() -> None:
    runtime = GreenRuntime()
    heard = [runtime.mailbox(16) for _ in range(3)]
    lans = [runtime.open_lan(PORT, lambda data, sender, box=box: box.put((data, sender[0]))) for box in heard]
    lans[0].announce(b"here I am")
    for box in heard:
        # By multicast and by broadcast, out of each of the two interfaces.
        got = sorted(box.get(5.0) for _ in range(4))
        assert got == [(b"here I am", "10.9.0.1")] * 2 + [(b"here I am", "10.9.1.1")] * 2, got
        assert not len(box)
    lans[1].close()
    lans[1].announce(b"after the close")
    lans[2].announce(b"again")
    assert heard[0].get(5.0)[0] == b"again"
    assert not len(heard[1])


def without_a_network_the_loopback_serves() -> None:
    runtime = GreenRuntime()
    heard = runtime.mailbox(16)
    runtime.open_lan(PORT, lambda data, sender: heard.put(sender[0]))
    runtime.open_lan(PORT, ignore).announce(b"here I am")
    assert heard.get(5.0) == "127.0.0.1"


def an_interface_that_comes_up_later_is_used() -> None:
    runtime = GreenRuntime()
    heard = runtime.mailbox(16)
    lan = runtime.open_lan(PORT, lambda data, sender: heard.put(sender[0]))
    subprocess.run(["ip", "address", "add", "10.9.7.1/24", "dev", "far0"], check=True)
    lan._outlets_read_at = 0.0  # as if half a minute had passed
    lan.announce(b"here I am")
    assert "10.9.7.1" in {heard.get(5.0) for _ in range(6)}


def the_discovery_socket_hears_no_multicast() -> None:
    runtime = GreenRuntime()
    heard, stray = runtime.mailbox(16), runtime.mailbox(16)
    node = runtime.open_datagram(("0.0.0.0", PORT), lambda data, sender: stray.put(data))
    lan = runtime.open_lan(PORT, lambda data, sender: heard.put(data))
    sender = runtime.open_datagram(("10.9.0.1", 0), ignore)
    sender.send(b"multicast", (GROUP, PORT))
    assert heard.get(5.0) == b"multicast"
    sender.send(b"unicast", ("10.9.0.1", PORT))
    assert stray.get(5.0) == b"unicast"
    assert not len(stray)
    for opened in (node, lan, sender):
        opened.close()


def in_every_order_one_node_has_the_port() -> None:
    """Node A has its discovery socket on the port, node B on another; both listen to announcements. Whatever is opened
    first, A gets what is sent to the port, a third node does not get the port, and A can restart beside B."""
    for host in ("0.0.0.0", "::", "10.9.0.1"):
        for order in itertools.permutations(["discovery", "own lan", "other lan"]):
            opens_in_order(GreenRuntime(), host, order)


def opens_in_order(runtime: GreenRuntime, host: str, order: tuple[str, ...]) -> None:
    got = runtime.mailbox(4)
    openers = {
        "discovery": lambda: runtime.open_datagram((host, PORT), lambda data, sender: got.put(data)),
        "own lan": lambda: runtime.open_lan(PORT, ignore),
        "other lan": lambda: runtime.open_lan(PORT, ignore),
    }
    opened = {name: openers[name]() for name in order}
    for name in ("own lan", "discovery"):
        opened[name].close()
    for name in order:
        if name != "other lan":
            opened[name] = openers[name]()
    sender = runtime.open_datagram(("10.9.0.1", 0), ignore)
    sender.send(b"for A", ("10.9.0.1", PORT))
    assert got.get(5.0) == b"for A"
    for other in ("0.0.0.0", "10.9.0.1", "::"):
        refuses(runtime, other)
    for closable in (*opened.values(), sender):
        closable.close()


def refuses(runtime: GreenRuntime, host: str) -> None:
    with pytest.raises(EnvironmentFault, match=str(os.getpid())) as refused:
        runtime.open_datagram((host, PORT), ignore)
    assert refused.value.code == "port_in_use"
    assert refused.value.hint


def announcement_sockets_hold_the_port_against_nobody() -> None:
    runtime = GreenRuntime()
    lan = runtime.open_lan(PORT, ignore)
    for host in ("0.0.0.0", "10.9.0.1", "127.0.0.1"):
        runtime.open_datagram((host, PORT), ignore).close()
    lan.close()


def a_foreign_socket_on_the_port_is_reported() -> None:
    runtime = GreenRuntime()
    with socket.socket(type=socket.SOCK_DGRAM) as foreign:
        foreign.bind(("0.0.0.0", PORT))
        refuses(runtime, "0.0.0.0")
        with pytest.raises(EnvironmentFault) as refused:
            runtime.open_lan(PORT, ignore)
        assert refused.value.code == "port_in_use"


def broadcast_alone_is_heard() -> None:
    runtime = GreenRuntime()
    heard = runtime.mailbox(4)
    runtime.open_lan(PORT, lambda data, sender: heard.put(data))
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.bind(("10.9.0.1", 0))
        sender.sendto(b"broadcast", (BROADCAST, PORT))
    assert heard.get(5.0) == b"broadcast"


def another_port_hears_nothing() -> None:
    runtime = GreenRuntime()
    heard = runtime.mailbox(4)
    runtime.open_lan(PORT + 1, lambda data, sender: heard.put(data))
    runtime.open_lan(PORT, ignore).announce(b"here I am")
    with pytest.raises(TimedOut):
        heard.get(0.2)


def a_socket_connected_to_itself_is_refused() -> None:
    """With one ephemeral port left, dialling that port finds the dialling socket itself."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40000")
    runtime = GreenRuntime()
    with pytest.raises(ConnectFailed) as failed:
        runtime.connect(("127.0.0.1", 40_000), 2.0)
    assert failed.value.reason == "refused"


@pytest.mark.parametrize(
    "procedure",
    [
        every_node_hears_every_announcement,
        broadcast_alone_is_heard,
        another_port_hears_nothing,
        an_interface_that_comes_up_later_is_used,
        the_discovery_socket_hears_no_multicast,
        in_every_order_one_node_has_the_port,
        announcement_sockets_hold_the_port_against_nobody,
        a_foreign_socket_on_the_port_is_reported,
        a_socket_connected_to_itself_is_refused,
    ],
)
def test_in_a_namespace(procedure: Callable[[], None]) -> None:
    in_namespace(procedure)


def test_without_a_network() -> None:
    in_namespace(without_a_network_the_loopback_serves, interfaces=())


if __name__ == "__main__":
    with gevent.Timeout(LIMIT_S):
        globals()[sys.argv[1]]()
