"""Running nodes under attack, over loopback: what strangers, peers, disks and operators can do to one.

The node's own wire modules make a dialler that says whatever it is told.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kodectl.api.files import socket_address
from kodectl.core.identity import Identity
from kodectl.wire import packets
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import parse_enode
from kodectl.wire.frames import Compression, FrameDecoder, FrameEncoder, encode_message
from kodectl.wire.messages import (
    ENVELOPE_SIZE,
    BroadcastMode,
    DigestSlot,
    DisconnectReason,
    Envelope,
    Hello,
    MessageKind,
    SyncDigest,
    SyncHave,
    SyncWant,
    new_envelope,
    pack_envelope,
    pack_hello,
    pack_sync,
    unpack_disconnect,
)
from kodectl.wire.noise import Handshake
from kodectl.wire.suite import RealSuite

SYNC, TRANSACTION = MessageKind.SYNC, MessageKind.TRANSACTION
PROLOGUE, STATIC_KEY_CONTEXT = b"kodechain link v1", b"kodechain noise static key v1"
HELLO = Hello((1,), "evil/1", "kodechain", ("gossip", "sync"), Ports(0, 0))
MEBIBYTE = 1 << 20


# -- tools -----------------------------------------------------------------------------------------------------------


def call(node, path: str, method: str = "GET", body: Any = None, limit_s: float = 20.0) -> Any:
    """Over the unix socket of the node's data directory."""
    with socket_address(node.datadir / "api.sock") as address, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(limit_s)
        sock.connect(address)
        connection = http.client.HTTPConnection("localhost")
        connection.sock = sock
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return json.loads(connection.getresponse().read())


def stats(node) -> dict[str, Any]:
    return call(node, "/api/network/stats")


def peers(node) -> set[str]:
    return {peer["id"] for peer in call(node, "/api/network/peers")["peers"]}


def publish(node, payload: bytes) -> None:
    """Waits while most links are congested; the node may say that it waited for too long."""
    body = {"type": "transaction", "payload": base64.b64encode(payload).decode(), "mode": "flood"}
    call(node, "/api/network/broadcast", "POST", body)


def memory_mib(node) -> float:
    """The most that the process has ever had: what was given back in time counts too."""
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def port_of(node) -> int:
    return parse_enode(node.enode).tcp


def unharmed(node) -> None:
    assert node.process.poll() is None, node.log.read_text()
    assert call(node, "/livez")["ok"]
    assert "Traceback" not in node.log.read_text()


class Evil:
    """Dials, shakes hands in order, and then says what it is told."""

    def __init__(self, node, hello: Hello | None = HELLO, receive_buffer: int | None = None) -> None:
        self.identity = Identity(RealSuite(), os.urandom(32))
        self._saying = threading.Lock()
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(20)
        self.sock.connect(("127.0.0.1", port_of(node)))
        self._received = self.sock.makefile("rb")
        static = self.identity.suite.exchange_keypair(os.urandom(32))
        noise = Handshake(
            self.identity.suite, initiator=True, static=static, ephemeral_secret=os.urandom(32), prologue=PROLOGUE
        )
        self._send_sized(noise.write_message())
        noise.read_message(self._read_sized())
        self._send_sized(noise.write_message(self.identity.public_key + self._proof(static[1])))
        self._transport = noise.split()
        self._encoder = FrameEncoder(self._transport.send, Compression())
        self._decoder = FrameDecoder(self._transport.receive, Compression())
        if hello is not None:
            self.say(MessageKind.HELLO, pack_hello(hello))

    def _proof(self, static_public: bytes) -> bytes:
        return self.identity.sign(STATIC_KEY_CONTEXT + static_public)

    def _send_sized(self, message: bytes) -> None:
        self.sock.sendall(len(message).to_bytes(2) + message)

    def _read_sized(self) -> bytes:
        size = self._received.read(2)
        message = self._received.read(int.from_bytes(size))
        if not message:
            raise EOFError
        return message

    def say(self, kind: int, body: bytes) -> None:
        # Two threads say something: sealed in one order and sent in another, it would end the link.
        with self._saying:
            self.sock.sendall(b"".join(self._encoder.seal([encode_message(kind, body)])))

    def segment(self, plaintext: bytes) -> None:
        """Sealed in order; what is in it need not be."""
        self._send_sized(self._transport.send.encrypt(plaintext))

    def compressed(self, content: bytes) -> None:
        packed = zstandard.ZstdCompressor(level=3, write_content_size=True).compress(content)
        for start in range(0, len(packed), 60_000):
            more = 2 if start + 60_000 < len(packed) else 0
            self.segment(bytes([1 | more]) + packed[start : start + 60_000])

    def envelope(
        self, payload: bytes, time_s: float | None = None, mode: BroadcastMode = BroadcastMode.GOSSIP
    ) -> Envelope:
        time_ms = int((time.time() if time_s is None else time_s) * 1000)
        return new_envelope(
            TRANSACTION,
            payload,
            mode,
            origin=self.identity.public_key,
            time_ms=time_ms,
            nonce=os.urandom(8),
            sign=self.identity.sign,
        )

    def ending(self) -> DisconnectReason | None:
        """The reason that the node gives at the end, None if it gives none."""
        try:
            while True:
                for kind, body in self._decoder.open(self._read_sized()):
                    if kind == MessageKind.DISCONNECT:
                        return unpack_disconnect(body).reason
        except (EOFError, ConnectionError):
            return None

    def close(self) -> None:
        self._received.close()
        self.sock.close()


@pytest.fixture(scope="module")
def pair(shared_nodes):
    """The node that is attacked, and an honest peer of it."""
    victim = shared_nodes.start("victim")
    honest = shared_nodes.start("honest", "--bootstrap", victim.enode)
    done = shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(victim.datadir))
    assert done.returncode == 0
    return victim, honest


@pytest.fixture
def victim(pair) -> Iterator[Any]:
    node, honest = pair
    yield node
    unharmed(node)
    assert honest.id in peers(node)


# -- datagrams -------------------------------------------------------------------------------------------------------

SIZES = [0, 1, 2, 16, 17, 33, 183, 184, 185, 191, 192, 193, 1231, 1232, 1233, 9000, 65_507]


def of_any_size(rng: random.Random, number: int) -> bytes:
    return (bytes([8 + number % 6]) + rng.randbytes(65_507))[: SIZES[number % len(SIZES)]]


def hail(rng: random.Random, number: int) -> bytes:
    return packets.pack_hail(packets.Hail(bytes(32), rng.randbytes(32), rng.randbytes(16)))


def handshake(rng: random.Random, number: int) -> bytes:
    """Of the right form, with a cookie that nobody gave."""
    cookie = int(time.monotonic() * 1000).to_bytes(8) + rng.randbytes(16)
    body = packets.Handshake(0, rng.randbytes(16), cookie, rng.randbytes(32), rng.randbytes(32), 1, bytes(64))
    return packets.pack_handshake_head(body)[:112] + rng.randbytes(64 + 60)


def message(rng: random.Random, number: int) -> bytes:
    return b"\x0b" + rng.randbytes(8) + number.to_bytes(8) + rng.randbytes(100)


@pytest.mark.parametrize("make", [of_any_size, hail, handshake, message])
def test_a_flood_of_datagrams_gets_less_back_and_costs_nobody_a_peer(victim, make: Callable) -> None:
    rng = random.Random(1)
    before, sent = memory_mib(victim), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooder:
        flooder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MEBIBYTE)
        for number in range(500 if make is of_any_size else 8000):
            sent += flooder.sendto(make(rng, number), ("127.0.0.1", parse_enode(victim.enode).udp))
        call(victim, "/livez")
        flooder.settimeout(0.5)
        received = 0
        try:
            while True:
                received += len(flooder.recv(65_536))
        except TimeoutError:
            pass
    assert received <= sent
    assert memory_mib(victim) < before + 4


# -- links -----------------------------------------------------------------------------------------------------------


def test_hundreds_of_half_open_connections_shut_nobody_out_for_long(victim, eventually) -> None:
    idle = [socket.create_connection(("127.0.0.1", port_of(victim))) for _ in range(300)]
    try:
        unharmed(victim)
        # While they stay: the first have five seconds to shake hands, the others are turned away at once.
        eventually(lambda: can_shake_hands(victim))
    finally:
        for sock in idle:
            sock.close()


def can_shake_hands(node) -> bool:
    try:
        Evil(node).close()
    except (EOFError, ConnectionError, TimeoutError):
        return False
    return True


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


ATTACKS: dict[str, Callable[[Evil], Any]] = {
    "second hello": lambda evil: evil.say(0, pack_hello(HELLO)),
    "segment of nothing": lambda evil: evil.sock.sendall(b"\0\0"),
    "unsealed": lambda evil: evil.sock.sendall(b"\xff\xff" + bytes(65_535)),
    "unknown flags": lambda evil: evil.segment(b"\xffabc"),
    "no flags": lambda evil: evil.segment(b""),
    "empty promise": lambda evil: evil.segment(b"\x02"),
    "message of 2^63": lambda evil: evil.segment(b"\0\x05" + b"\xff" * 9 + b"\x01"),
    "message of 4 GiB": lambda evil: evil.segment(b"\0\x05\xff\xff\xff\xff\x0f"),
    "5,000 messages": lambda evil: evil.segment(b"\0" + b"\x63\0" * 5000),
    "oversize frame": lambda evil: [evil.segment(b"\x02" + bytes(60_000)) for _ in range(72)],
    "bomb of 1 GiB": lambda evil: evil.compressed(bytes(1 << 30)),
    "bomb of the limit": lambda evil: evil.compressed(encode_message(TRANSACTION, bytes(4 << 20))),
    "broken zstd": lambda evil: evil.segment(b"\x01" + b"\x28\xb5\x2f\xfd" + bytes(20)),
    "broken heartbeat": lambda evil: evil.say(7, b"\xc1"),
    "broken disconnect": lambda evil: evil.say(8, b"\xc1"),
    "broken sync": lambda evil: evil.say(6, b""),
    "deep peer_request": lambda evil: evil.say(2, nested(30_000)),
    "deep peer_response": lambda evil: evil.say(3, nested(30_000)),
    "peer_request for too many": lambda evil: evil.say(2, b'{"type":"peer_request","requested_count":1e30}'),
    "too many control messages": lambda evil: [evil.segment(b"\0" + b"\x07\x03\x92\x00\x01" * 4000) for _ in range(3)],
    "too many unknown messages": lambda evil: [evil.segment(b"\0" + b"\xc8\x00" * 4000) for _ in range(3)],
    "short envelope": lambda evil: evil.say(TRANSACTION, b"abc"),
    "unknown mode": lambda evil: evil.say(TRANSACTION, pack_envelope(evil.envelope(b"x"))[:48] + bytes([7] * 70)),
    "large transaction": lambda evil: evil.say(TRANSACTION, pack_envelope(evil.envelope(b"")) + bytes(70_000)),
    "forged origin": lambda evil: evil.say(TRANSACTION, forged(evil)),
}


def forged(evil: Evil) -> bytes:
    packed = pack_envelope(evil.envelope(b"payload"))
    return packed[:49] + os.urandom(64) + packed[ENVELOPE_SIZE:]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_broken_message_ends_its_own_link_and_nothing_else(victim, eventually, attack: Callable[[Evil], Any]) -> None:
    before, ended = memory_mib(victim), stats(victim)["disconnects"].get("protocol_error", 0)
    evil = Evil(victim)
    try:
        attack(evil)
    except ConnectionError:
        pass  # refused before all of it was said
    # What was still on its way when the node closed may have reset the connection, and the reason with it.
    assert evil.ending() in (DisconnectReason.PROTOCOL_ERROR, None)
    evil.close()
    eventually(lambda: stats(victim)["disconnects"].get("protocol_error", 0) == ended + 1)
    assert memory_mib(victim) < before + 12


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (b"{]", DisconnectReason.PROTOCOL_ERROR),
        (nested(2000), DisconnectReason.PROTOCOL_ERROR),
        (bytes(5000), DisconnectReason.PROTOCOL_ERROR),
        (pack_hello(Hello((1,), "evil", "other", (), Ports(0, 0))), DisconnectReason.WRONG_NETWORK),
        (pack_hello(Hello((9,), "evil", "kodechain", (), Ports(0, 0))), DisconnectReason.INCOMPATIBLE_VERSION),
    ],
)
def test_a_hello_that_does_not_fit_gets_its_reason(victim, hello: bytes, reason: DisconnectReason) -> None:
    evil = Evil(victim, hello=None)
    evil.say(0, hello)
    assert evil.ending() is reason
    evil.close()


def test_what_nobody_asked_for_changes_nothing(victim, eventually) -> None:
    """Answers without a question, replays, lies about what is there, and messages out of their time."""
    evil = Evil(victim)
    before = stats(victim)["broadcast"]
    once = pack_envelope(evil.envelope(b"once"))
    for body in [once] * 50 + [pack_envelope(evil.envelope(b"late", time.time() + late)) for late in (-700, 200, 1e9)]:
        evil.say(TRANSACTION, body)
    slot = int(time.time() * 1000) // 10_000
    evil.say(SYNC, pack_sync(SyncDigest(tuple(DigestSlot(slot - age, 5, os.urandom(32)) for age in range(250)))))
    evil.say(SYNC, pack_sync(SyncHave(tuple(os.urandom(32) for _ in range(4096)))))
    evil.say(SYNC, pack_sync(SyncWant(tuple(os.urandom(32) for _ in range(4096)))))
    for _ in range(5):
        evil.say(3, b'{"type":"peer_response","peers":["enode://nonsense"]}')
    last = pack_envelope(evil.envelope(b"last"))
    evil.say(TRANSACTION, last)
    eventually(lambda: stats(victim)["broadcast"]["delivered"] == before["delivered"] + 2)
    after = stats(victim)["broadcast"]
    assert after["duplicates"] - before["duplicates"] == 49
    assert after["too_old"] - before["too_old"] == 1
    assert after["too_far_ahead"] - before["too_far_ahead"] == 2
    evil.close()


def test_a_flood_of_compressed_messages_ends_the_link(victim) -> None:
    """Thousands of messages in 24 bytes: dropping them is work as well."""
    evil = Evil(victim)
    frame = encode_message(SYNC, b"\x92\x00\xc4\x00") * 4000
    with pytest.raises(ConnectionError):
        deque((evil.compressed(frame) for _ in range(1_000_000)), maxlen=0)
    evil.close()
    assert stats(victim)["broadcast"]["over_peer_rate"] > 0


@pytest.mark.slow
def test_peers_that_stop_reading_are_dropped_as_slow(victim) -> None:
    before = memory_mib(victim)
    deaf = [Evil(victim, receive_buffer=4096) for _ in range(5)]
    deadline = time.monotonic() + 60
    while stats(victim)["disconnects"].get("slow", 0) < len(deaf):
        assert time.monotonic() < deadline
        publish(victim, os.urandom(64 << 10))
        assert memory_mib(victim) < before + 5 * 13 + 40
    for evil in deaf:
        evil.close()


# Fifty peers that stop reading, come back as soon as they are let go, and ask for everything meanwhile

CACHED_MIB = 64
"""Of messages, that a node keeps for those who ask: whatever its peers do."""
DEAF_BUFFER = 4096
MESSAGE_SIZE = 30_000
MESSAGES_PER_S = 40


class Reader(threading.Thread):
    """An honest peer: hears everything."""

    def __init__(self, evil: Evil) -> None:
        super().__init__(daemon=True)
        self._evil = evil
        self.heard = 0
        # A heartbeat may be all that there is to hear for half a minute.
        evil.sock.settimeout(None)

    def run(self) -> None:
        try:
            while True:
                for kind, body in self._evil._decoder.open(self._evil._read_sized()):
                    if kind == TRANSACTION:
                        self.heard += 1
                    elif kind == 7 and body[1] == 0:
                        self._evil.say(7, body[:1] + b"\x01" + body[2:])
        except (EOFError, OSError):
            return


def has_ended(evil: Evil) -> bool:
    poll = select.poll()
    poll.register(evil.sock, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
    return bool(poll.poll(0))


@pytest.mark.slow
def test_fifty_that_stop_reading_cost_a_bounded_memory_and_no_honest_peer(nodes: Any) -> None:
    node = nodes.start("victim", "--max-peers", "140")
    publisher, reader = Evil(node), Evil(node)
    listening = [Reader(publisher), Reader(reader)]
    for thread in listening:
        thread.start()
    deaf = [Evil(node, receive_buffer=DEAF_BUFFER) for _ in range(50)]
    before, most, sent, returned = memory_mib(node), 0.0, 0, 0
    ids: deque[bytes] = deque(maxlen=500)
    began, seconds = time.monotonic(), float(os.environ.get("DEAF_SECONDS", "60"))
    while (passed := time.monotonic() - began) < seconds:
        while sent < passed * MESSAGES_PER_S:
            envelope = publisher.envelope(random.randbytes(MESSAGE_SIZE), mode=BroadcastMode.FLOOD)
            publisher.say(TRANSACTION, pack_envelope(envelope))
            ids.append(envelope.id)
            sent += 1
        for number, evil in enumerate(deaf):
            try:
                evil.say(SYNC, pack_sync(SyncWant(tuple(random.sample(ids, min(len(ids), 100))))))
            except OSError:
                pass
            if has_ended(evil):
                evil.close()
                returned += 1
                try:
                    deaf[number] = Evil(node, receive_buffer=DEAF_BUFFER)
                except (EOFError, OSError):
                    continue
        most = max(most, memory_mib(node))
        time.sleep(0.1)
    slow = stats(node)["disconnects"]
    print(
        f"{sent} messages, heard {listening[1].heard}; memory {before:.0f} to {most:.0f} MiB; back {returned}; {slow}"
    )
    unharmed(node)
    assert publisher.identity.node_id.hex() in {peer["id"] for peer in call(node, "/api/network/peers")["peers"]}
    assert listening[1].heard >= 0.95 * sent
    assert slow.get("slow", 0) >= 50
    assert most - before < CACHED_MIB + 100
    for honest in (publisher, reader):
        honest.sock.shutdown(socket.SHUT_RDWR)
    for thread in listening:
        thread.join()
    for evil in (*deaf, publisher, reader):
        evil.close()


def test_places_for_peers_are_limited_and_some_are_kept(nodes) -> None:
    node = nodes.start("few", "--max-peers", "10")
    diallers = [Evil(node) for _ in range(14)]
    endings = Counter(evil.ending() for evil in diallers[5:])
    assert endings == {DisconnectReason.TOO_MANY_PEERS: 9}
    assert len(peers(node)) == 5
    for evil in diallers:
        evil.close()


# -- the process and its disk ----------------------------------------------------------------------------------------


def restarts(nodes, times: int) -> None:
    first = nodes.start("first")
    node = nodes.start("killed", "--bootstrap", first.enode)
    waited = nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(node.datadir))
    assert waited.returncode == 0
    call(node, "/api/dht/key", "PUT", {"value": base64.b64encode(b"value").decode()})
    assert call(node, "/api/network/status")["records"] == 1
    # Time for what is known to reach the disk; after that no moment of death loses it.
    time.sleep(4)
    own_id, rng = node.id, random.Random(2)
    for _ in range(times):
        node.leave(signal.SIGKILL)
        node = nodes.launch("killed")
        time.sleep(rng.uniform(0, 1.5))
    node.leave(signal.SIGKILL)
    node = nodes.start("killed")
    assert node.id == own_id
    assert call(node, "/api/network/status")["records"] == 1
    done = nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(node.datadir), "--deadline", "30")
    assert done.returncode == 0
    assert "Traceback" not in node.log.read_text()


def test_killed_at_any_moment_a_node_comes_back_whole(nodes) -> None:
    restarts(nodes, 4)


@pytest.mark.slow
def test_killed_twenty_times_a_node_comes_back_whole(nodes) -> None:
    restarts(nodes, 20)


@pytest.mark.slow
def test_a_node_that_stood_still_is_left_and_comes_back(nodes) -> None:
    first, second, node = nodes.trio()
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(100)
    assert node.id not in peers(first) | peers(second)
    node.process.send_signal(signal.SIGCONT)
    done = nodes.kodectl("node", "wait", "--for", "peers=2", "--datadir", str(node.datadir), "--deadline", "60")
    assert done.returncode == 0
    unharmed(node)


def test_signals_at_any_moment_of_the_start_end_it_without_a_traceback(nodes) -> None:
    for number, delay_s in enumerate((0.1, 0.3, 0.5, 0.7)):
        node = nodes.launch(f"brief{number}")
        time.sleep(delay_s)
        # Before Python has come to the program's own handlers, the kernel ends it.
        assert node.leave() in (0, 143, -signal.SIGTERM)
        assert "Traceback" not in node.log.read_text()


def test_few_descriptors_and_many_connections(nodes, eventually) -> None:
    node = nodes.launch("poor")
    subprocess.run(["prlimit", "--pid", str(node.process.pid), "--nofile=64:64"], check=True)
    node.wait_ready()
    host, port = node.api.rsplit(":", 1)
    idle = [socket.create_connection(("127.0.0.1", port_of(node))) for _ in range(60)]
    idle += [socket.create_connection((host, int(port))) for _ in range(60)]
    assert eventually(lambda: call(node, "/livez")["ok"])
    for sock in idle:
        sock.close()
    assert eventually(lambda: can_shake_hands(node))
    assert "gevent" not in node.log.read_text()


def test_a_data_directory_that_vanishes_is_told(nodes, eventually) -> None:
    first = nodes.start("first")
    node = nodes.start("gone", "--bootstrap", first.enode)
    host, port = node.api.rsplit(":", 1)
    shutil.rmtree(node.datadir)

    def ask(path: str, method: str = "GET", body: str | None = None) -> Any:
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request(method, path, body, {} if body is None else {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())

    ask("/api/dht/key", "PUT", '{"value": "AAAA"}')
    eventually(lambda: not ask("/readyz")["ok"])
    assert ask("/livez")["ok"]
    assert node.leave() == 0
    assert "removed or replaced" in node.log.read_text()
    assert "Traceback" not in node.log.read_text()
