"""What systemd hears of a node."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kodectl.cli.sd_notify import Supervisor
from kodectl.runtime.base import Stopped

WATCHDOG_S = 0.6


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(15)
        yield listener


def heard(manager: socket.socket, until: str) -> list[dict[str, str]]:
    """Everything up to what begins with this name."""
    found: list[dict[str, str]] = []
    while not found or until not in found[-1]:
        lines = manager.recv(4096).decode().splitlines()
        found.append(dict(line.split("=", 1) for line in lines))
    return found


def test_a_node_says_when_it_is_ready_alive_reloading_and_leaving(manager, nodes) -> None:
    nodes.environment |= {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
    node = nodes.launch("a")
    assert "STATUS" in heard(manager, "READY")[-1]
    node.wait_ready()
    heard(manager, "WATCHDOG")
    heard(manager, "WATCHDOG")

    asked_us = time.monotonic_ns() // 1000
    node.process.send_signal(signal.SIGHUP)
    told_us = int(heard(manager, "RELOADING")[-1]["MONOTONIC_USEC"])
    assert asked_us <= told_us <= time.monotonic_ns() // 1000
    heard(manager, "READY")

    node.process.send_signal(signal.SIGTERM)
    heard(manager, "STOPPING")
    node.process.wait(15)


def test_a_dead_node_is_not_called_alive(manager) -> None:
    told = Supervisor({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "300000"}, os.getpid())
    slept: list[float] = []

    class Once:
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                raise Stopped

    alive = iter((True, False, False))
    with pytest.raises(Stopped):
        told.keep_alive(Once(), lambda: next(alive))  # type: ignore[arg-type]
    told.stopping()
    assert [set(one) for one in heard(manager, "STOPPING")] == [{"WATCHDOG"}, {"STOPPING", "STATUS"}]
    assert slept == pytest.approx([0.1] * 3)


def test_an_abstract_socket_will_do_and_a_missing_one_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0kodectl-test-{os.getpid()}")
        Supervisor({"NOTIFY_SOCKET": f"@kodectl-test-{os.getpid()}"}, 1).stopping()
        assert listener.recv(100).startswith(b"STOPPING=1\n")
    for place in ("", "/nowhere/at/all", "vsock:2:1234", "@nobody"):
        Supervisor({"NOTIFY_SOCKET": place}, 1).ready("there")


def test_its_variables_are_not_for_children_and_a_watchdog_only_for_its_process() -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "17", "HOME": "/"}
    assert Supervisor(environment, 17).watchdog_s == 3
    assert environment == {"HOME": "/"}
    assert Supervisor({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "17"}, 18).watchdog_s is None
    assert Supervisor({"WATCHDOG_USEC": "3s"}, 1).watchdog_s is None
