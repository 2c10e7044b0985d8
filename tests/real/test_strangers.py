"""A running node among strangers who may forge their addresses: what they get back, and what they leave behind."""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from strangers import BINDINGS, HEADERS, KINDS, Make, Strangers

from kodectl.core.stun_answers import ANSWER_BURST, ANSWERS_PER_S
from kodectl.wire.enode import parse_enode

ALL_SIZES = range(1, 1473)
SOME_SIZES = [
    1,
    2,
    4,
    12,
    16,
    17,
    20,
    24,
    28,
    33,
    36,
    44,
    60,
    96,
    100,
    108,
    112,
    183,
    184,
    185,
    192,
    300,
    800,
    1231,
    1232,
]
SOME_SIZES += [1233, 1472]
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def relay(shared_nodes: Any) -> Any:
    """It relays too: the most that a node answers to."""
    return shared_nodes.start("relay", "--nat", "extip:127.0.0.1")


@pytest.fixture
def strangers(relay: Any) -> Iterator[Strangers]:
    enode = parse_enode(relay.enode)
    made = Strangers(enode.node_id, ("127.0.0.1", enode.udp))
    yield made
    made.close()
    assert relay.process.poll() is None
    assert "Traceback" not in relay.log.read_text()


def resident(node: Any) -> int:
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def tried(strangers: Strangers, kinds: dict[str, Make], sizes: Any, allowed: float, headers: int) -> Counter[str]:
    """Each from an address of its own, and once more from that; returns answers by kind."""
    answered: Counter[str] = Counter()
    number = random.randrange(1 << 22)
    for name, make in kinds.items():
        for size in sizes:
            packet = make(strangers.node_id, size)
            number += 1
            for _ in range(2):
                answers = strangers.answers_to(packet, number)
                answered[name] += len(answers)
                given = sum(len(answer) + headers for answer in answers)
                assert given <= allowed * (len(packet) + headers), f"{name} of {len(packet)} bytes: {given}"
    return answered


def test_no_packet_gets_more_than_it_has(strangers: Strangers) -> None:
    answered = tried(strangers, KINDS, SOME_SIZES, 1.0, 0)
    assert min(answered[name] for name in ("hail", "message", "Allocate", "Refresh")) > 0


def test_binding_requests_get_one_and_a_half_of_what_they_have(strangers: Strangers) -> None:
    """With headers, as docs/protocol.md has it."""
    answered = tried(strangers, BINDINGS, SOME_SIZES, 1.5, HEADERS)
    assert min(answered[name] for name in BINDINGS if "CHANGE" not in name) > 0


@pytest.mark.slow
def test_no_packet_of_any_size_gets_more_than_it_has(strangers: Strangers) -> None:
    tried(strangers, KINDS, ALL_SIZES, 1.0, 0)


@pytest.mark.slow
def test_no_first_byte_gets_more_than_it_has(strangers: Strangers) -> None:
    """Of each of the 256; those of STUN are in BINDINGS."""
    every = {f"0x{byte:02x}": _beginning(byte) for byte in range(256)}
    tried(strangers, every, range(1, 1473, 37), 1.0, 0)


def _beginning(byte: int) -> Make:
    return lambda node_id, size: bytes((byte,)) + os.urandom(size - 1)


@pytest.mark.slow
def test_binding_requests_of_any_size(strangers: Strangers) -> None:
    """Slowly enough to be answered all."""

    def waiting(make: Make) -> Make:
        def wait_and_make(node_id: bytes, size: int) -> bytes:
            time.sleep(2.2 / ANSWERS_PER_S)
            return make(node_id, size)

        return wait_and_make

    answered = tried(strangers, {name: waiting(make) for name, make in BINDINGS.items()}, ALL_SIZES, 1.5, HEADERS)
    assert min(answered[name] for name in BINDINGS if "CHANGE" not in name) > 500


def test_the_sum_of_answers_to_binding_requests_is_bounded(strangers: Strangers) -> None:
    """From however many addresses."""
    began, answers = time.monotonic(), 0
    make = BINDINGS["Binding"]
    for number in range(4000):
        strangers.send(make(strangers.node_id, 20), number)
        if number % 100 == 99:
            answers += len(strangers.until_answered(number))
    assert 0 < answers <= ANSWER_BURST + ANSWERS_PER_S * (time.monotonic() - began) + 1


@pytest.mark.parametrize(
    ("many", "allowed"),
    [(10_000, 4 * MEBIBYTE), pytest.param(100_000, 2 * MEBIBYTE, marks=pytest.mark.slow)],
)
def test_strangers_leave_no_memory_behind(relay: Any, strangers: Strangers, many: int, allowed: int) -> None:
    """One packet from each, of all kinds by turns."""
    kinds = [make(strangers.node_id, 300) for make in (KINDS | BINDINGS).values()]

    def come(first: int) -> None:
        for number in range(first, first + many):
            strangers.send(kinds[number % len(kinds)], number)
            if number % 200 == 199:
                strangers.until_answered(number)

    cold = resident(relay)
    come(1 << 22)
    before = resident(relay)
    come(3 << 22)
    grown = resident(relay) - before
    print(f"{many} strangers: {(before - cold) / 1024:.0f} KiB, and as many again: {grown / 1024:.0f} KiB")
    assert grown <= allowed


@pytest.mark.parametrize("many", [50, pytest.param(10_000, marks=pytest.mark.slow)])
def test_connections_leave_nothing_behind(relay: Any, strangers: Strangers, many: int) -> None:
    """Silent, cut off in the middle, and with garbage; from many addresses."""
    port = parse_enode(relay.enode).tcp
    begins = [
        b"",
        b"\0",
        b"\0\x20" + bytes(10),
        b"\0\x20" + os.urandom(32),
        os.urandom(500),
        b"\0\1\0\0",
        b"\0\3\0\x08",
    ]

    def come() -> None:
        for number in range(many):
            with socket.socket() as sock, suppress(ConnectionError):
                sock.settimeout(20.0)
                sock.bind((f"127.77.{number >> 8}.{1 + number % 250}", 0))
                sock.connect(("127.0.0.1", port))
                sock.sendall(begins[number % len(begins)])

    come()
    before, descriptors = resident(relay), len(os.listdir(f"/proc/{relay.process.pid}/fd"))
    come()
    grown = resident(relay) - before
    print(f"{many} connections: {grown / 1024:.0f} KiB")
    assert grown <= 4 * MEBIBYTE
    deadline = time.monotonic() + 60.0
    while len(os.listdir(f"/proc/{relay.process.pid}/fd")) > descriptors + 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
