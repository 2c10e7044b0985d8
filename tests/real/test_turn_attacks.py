"""A running relay among strangers: what they send leaves no memory behind, and does not end it."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from kodectl.node.turn_client import TurnServer, allocate
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

REPOSITORY = Path(__file__).parents[2]
HOST, USER, PASSWORD = "127.0.0.1", "ann", "secret"
STRANGERS = 10_000
GROWTH_LIMIT = 4 * 1024 * 1024
"""Bytes: the budgets of 1,024 sources, and what allocators keep."""
STOP_LIMIT_S = 20.0


class Served(NamedTuple):
    process: subprocess.Popen[str]
    port: int


@pytest.fixture
def served() -> Iterator[Served]:
    command = [sys.executable, "-m", "kodectl", "nat", "serve", "--json", "--listen", f"{HOST}:0"]
    process = subprocess.Popen(
        [*command, "--user", f"{USER}:{PASSWORD}", "--allow-peer", "loopback"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())["data"]
    yield Served(process, int(ready["udp"][0].rpartition(":")[2]))
    process.terminate()
    _, err = process.communicate(timeout=STOP_LIMIT_S)
    assert process.returncode == 0
    assert "Traceback" not in err


def works(served: Served) -> None:
    """An allocation is had, and a datagram comes back through it."""
    runtime = GreenRuntime()
    scope = runtime.scope("turn client")
    heard = runtime.mailbox(1)
    echo = runtime.open_datagram((HOST, 0), lambda data, sender: echo.send(data, sender))
    allocation = allocate(runtime, scope, TurnServer(HOST, served.port, "udp", USER, PASSWORD))
    allocation.on_data = lambda data, peer: heard.put(data)
    allocation.permit([HOST])
    allocation.send(b"x", echo.local)
    assert heard.get(5.0) == b"x"
    allocation.close()
    echo.close()
    scope.close()
    runtime.close()


def flood(served: Served, packets: list[bytes], answered: bool) -> None:
    """One packet from each of the strangers. With `answered` each waits for the answer, so that none is lost unseen."""
    for number in range(STRANGERS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(0.5)
            stranger.bind((f"127.1.{number >> 8}.{number & 255 or 1}", 0))
            stranger.sendto(packets[number % len(packets)], (HOST, served.port))
            if answered:
                assert stranger.recv(2048)


def test_strangers_leave_no_memory_behind(served: Served) -> None:
    transport = (Attribute.REQUESTED_TRANSPORT, 17)
    requests = [
        encode(Message(MessageClass.REQUEST, method, bytes(12), (transport,)), key=key, integrity=integrity)
        for method in (Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND)
        for key, integrity in ((None, ()), (b"guessed", (Attribute.MESSAGE_INTEGRITY,)))
    ]
    works(served)
    before = psutil.Process(served.process.pid).memory_info().rss
    flood(served, requests, answered=True)
    works(served)
    assert psutil.Process(served.process.pid).memory_info().rss - before < GROWTH_LIMIT


def test_anything_at_all_may_come(served: Served) -> None:
    rng = random.Random(4)
    heads = [
        b"\0\3",
        b"\0\4",
        b"\0\x16",
        b"\0\x08",
        b"\0\x09",
        b"\x40\0",
        b"\x4f\xff",
        b"\x7f\xff",
        b"\xff\xff",
        b"\0\1",
    ]
    packets = [
        head
        + rng.randbytes(2)
        + (b"\x21\x12\xa4\x42" if rng.random() < 0.7 else b"")
        + rng.randbytes(rng.randrange(1400))
        for head in heads
        for _ in range(20)
    ]
    flood(served, packets, answered=False)
    for packet in packets:
        with socket.create_connection((HOST, served.port)) as stranger:
            stranger.send(packet)
    works(served)
