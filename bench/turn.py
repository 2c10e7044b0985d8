"""What relaying costs: `kodectl nat serve --user` beside coturn, in the same run, under the same load.

    python bench/turn.py [SECONDS]

One JSON line for each server and size: packets relayed per second (both directions together), CPU microseconds of the
server per packet, and both as ratios to coturn's. `bare` is what bounds a relay in Python from above: a loop over two
sockets that takes the four bytes of a channel off, or puts them on, and does nothing else. The load is one client with a
channel and a peer that echoes, in this process, with 64 packets under way. Where the load is what limits the packets per
second, which shows as packets times CPU well under a second, the CPU per packet is the figure to compare; so it is on a
machine that does other work too. One client keeps one thread of coturn's busy; the relay here has one.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from kodectl.wire.channel_data import pack_channel_data
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, decode, encode
from kodectl.wire.stun_credentials import long_term_key

SECONDS = 4.0
UNDER_WAY = 64
SIZES = (160, 1200)
"""Bytes of data: a frame of voice, a full packet."""
HOST, REALM, USER, PASSWORD = "127.0.0.1", "bench", "ann", "secret"
CHANNEL = 0x4000
START_LIMIT_S = 10.0
ANSWER_LIMIT_S = 2.0
SILENCE_S = 0.2
"""After which what is under way is taken for lost, and sent anew."""

Command = Callable[[int], list[str]]
Begin = Callable[[socket.socket, tuple[str, int]], None]
"""Has a channel to the peer made."""

BARE = """
import select, socket, struct, sys
client, relayed = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
client.bind(("127.0.0.1", int(sys.argv[1])))
relayed.bind(("127.0.0.1", 0))
first, user = client.recvfrom(2048)
peer = ("127.0.0.1", int(first))
client.sendto(b"ready", user)
client.setblocking(False)
relayed.setblocking(False)
while True:
    for sock in select.select((client, relayed), (), ())[0]:
        for _ in range(64):
            try:
                data = sock.recv(2048)
            except BlockingIOError:
                break
            if sock is client:
                relayed.sendto(data[4 : 4 + int.from_bytes(data[2:4])], peer)
            else:
                client.sendto(struct.pack("!HH", 0x4000, len(data)) + data, user)
"""
"""Its first packet names the peer's port."""

SERVERS: dict[str, Command] = {
    "coturn": lambda port: [
        *("turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--allow-loopback-peers", "--lt-cred-mech"),
        *("--listening-ip", HOST, "--relay-ip", HOST, "--listening-port", str(port), "--pidfile", "/dev/null"),
        *("--realm", REALM, "--user", f"{USER}:{PASSWORD}", "--log-file", "/dev/null"),
    ],
    "kodectl": lambda port: [
        *(sys.executable, "-m", "kodectl", "nat", "serve", "--listen", f"{HOST}:{port}", "--realm", REALM),
        *("--user", f"{USER}:{PASSWORD}", "--allow-peer", "loopback"),
        *(f"--quota={name}=1000000000" for name in ("packets", "bytes", "total-packets", "total-bytes")),
    ],
    "bare": lambda port: [sys.executable, "-c", BARE, str(port)],
}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    for size in SIZES:
        first: dict[str, float] | None = None
        for name, command in SERVERS.items():
            with running(command) as (process, port):
                measured = measure(process, port, size, seconds, begin_bare if name == "bare" else begin)
            first = first or measured
            ratios = {f"{key}_ratio": round(value / first[key], 2) for key, value in measured.items()}
            rounded = {key: round(value, 2) for key, value in measured.items()}
            print(json.dumps({"server": name, "data_bytes": size, **rounded, **ratios}), flush=True)


@contextmanager
def running(command: Command) -> Iterator[tuple[psutil.Popen, int]]:
    """Ends it afterwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    process = psutil.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process, port
    finally:
        process.terminate()
        process.wait()


def begin(client: socket.socket, peer: tuple[str, int]) -> None:
    Allocating(client).channel_to(peer)


def begin_bare(client: socket.socket, peer: tuple[str, int]) -> None:
    client.settimeout(0.1)
    give_up = time.monotonic() + START_LIMIT_S
    while time.monotonic() < give_up:
        try:
            client.send(b"%d" % peer[1])
            client.recv(2048)
            return
        except (ConnectionError, TimeoutError):
            continue
    raise SystemExit("the bare relay does not answer")


def measure(process: psutil.Popen, port: int, size: int, seconds: float, begin: Begin) -> dict[str, float]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        client.connect((HOST, port))
        peer.bind((HOST, 0))
        begin(client, peer.getsockname())
        carry(client, peer, size, 0.5)
        before = cpu_s(process)
        count, took_s = carry(client, peer, size, seconds)
        return {"packets_per_s": count / took_s, "server_cpu_us": (cpu_s(process) - before) / max(1, count) * 1e6}


def cpu_s(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Allocating:
    """As much of a TURN client as it takes to get a channel."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._key = long_term_key(USER, REALM, PASSWORD)
        self._nonce = b""
        self._serial = 0

    def channel_to(self, peer: tuple[str, int]) -> None:
        self._until_answered(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17))
        self._until_answered(
            Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, CHANNEL), (Attribute.XOR_PEER_ADDRESS, peer)
        )

    def _until_answered(self, method: Method, *attributes: tuple[int, Any]) -> None:
        """The server may not have started yet."""
        give_up = time.monotonic() + START_LIMIT_S
        while time.monotonic() < give_up:
            try:
                answer = self._ask(method, attributes)
            except (ConnectionError, TimeoutError):
                time.sleep(0.1)
                continue
            if answer.kind is MessageClass.SUCCESS:
                return
            self._nonce = answer.get(Attribute.NONCE) or self._nonce
        raise SystemExit("the server does not answer")

    def _ask(self, method: Method, attributes: tuple[tuple[int, Any], ...]) -> Message:
        self._serial += 1
        credentials = ((Attribute.USERNAME, USER), (Attribute.REALM, REALM), (Attribute.NONCE, self._nonce))
        contents = attributes + credentials if self._nonce else attributes
        message = Message(MessageClass.REQUEST, method, self._serial.to_bytes(12), contents)
        self._client.settimeout(ANSWER_LIMIT_S)
        self._client.send(encode(message, key=self._key) if self._nonce else encode(message))
        return decode(self._client.recv(2048))


def carry(client: socket.socket, peer: socket.socket, size: int, seconds: float) -> tuple[int, float]:
    """Packets that were relayed, and how long it took."""
    client.setblocking(False)
    peer.setblocking(False)
    packet = pack_channel_data(CHANNEL, bytes(size))
    began = time.monotonic()
    count = 0
    for _ in range(UNDER_WAY):
        client.send(packet)
    while time.monotonic() < began + seconds:
        ready, _, _ = select.select((client, peer), (), (), SILENCE_S)
        if not ready:
            for _ in range(UNDER_WAY):
                client.send(packet)
        for sock in ready:
            count += drain(sock, sock is client, packet)
    return count, time.monotonic() - began


def drain(sock: socket.socket, is_client: bool, packet: bytes) -> int:
    count = 0
    for _ in range(UNDER_WAY):
        try:
            data, sender = sock.recvfrom(2048)
            count += 1
            if is_client:
                sock.send(packet)
            else:
                sock.sendto(data, sender)
        except BlockingIOError:
            break
    return count


if __name__ == "__main__":
    main()
