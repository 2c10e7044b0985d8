"""What peers of a node notice while strangers flood it: throughput and delays beside, and the CPU of each hostile packet.

    python bench/flood.py [--rate 10000] [--load 1000] [--pairs 3] [--seconds 2] [--kinds hail,tcp] [--sources 20000] [--links 1]

One node, as the command runs it, on loopback, with nine peers that publish signed transactions, `load` a second (0: as many as
it takes, 64 under way), and count them at the ninth. Floods come from strangers, from one who has a session and asks
(bench/question_floods.py), or over the link of one more peer (bench/peer_floods.py). Each kind of flood runs in slices, by
turns: aimed at the node, and aimed at a port where nobody works (so that the flooder's own CPU falls on both). `kept` is the
median of the ratios of the two slices of a pair. `--rate 0` floods as fast as one process can. Datagrams come from `sources`
addresses of 127.0.0.0/8 by turns.

One JSON line a kind. `sent_per_s` is what left the flooder, `taken_per_s` what the node's kernel did not drop; CPU is from
/proc/PID/schedstat of the node, all threads, and `cpu_us` is what it had more of in the hostile slices, for each packet
taken (for each connection, where the flood is of those). With `load` 0 it has no CPU to spare, and `cpu_us` means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from peer_floods import PEER_FLOODS, Spammer
from question_floods import QUESTION_FLOODS, questions

NETWORK = "bench"
PEERS = 8
"""That publish; one more counts."""
UNDER_WAY = 64
SIZE = 200
PACING_S = 0.002
HELD = 256
"""Connections that a flooder has open at a time."""
IP_PKTINFO = 8
BURST = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--load", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--sources", type=int, default=20_000)
    parser.add_argument("--links", type=int, default=1, help="of the peer that floods; they share the rate")
    parser.add_argument("--kinds", default=",".join(KINDS))
    if len(sys.argv) > 1 and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](*sys.argv[2:])
        return
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(options, directory)


# -- the whole ---------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, directory: str) -> None:
    node = start("node", directory)
    helpers = []
    try:
        ready = json.loads(line_of(node))["data"]
        subprocess.Popen(["cat"], stdin=node.stdout, stdout=subprocess.DEVNULL)
        peers = start("peers", ready["enode"], str(options.load))
        helpers.append(peers)
        line_of(peers)
        flooder, spammer = start("flooder", ready["enode"]), start("spammer", ready["enode"])
        helpers += [flooder, spammer]
        victim = Victim(node.pid, int(ready["enode"].rpartition("=")[2]), ready["listeners"]["api"][0])
        time.sleep(2.0)
        for kind in options.kinds.split(","):
            attacker = spammer if kind in PEER_FLOODS else flooder
            pairs = [pair(options, kind, victim, peers, attacker) for _ in range(options.pairs)]
            print(json.dumps({"bench": "flood", "kind": kind} | summary(options, pairs)), flush=True)
    finally:
        for process in [*helpers, node]:
            process.kill()
            process.wait()


def start(role: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, role, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a part of the bench has ended")
    return line


def asked(process: subprocess.Popen[str], **order: Any) -> Any:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return json.loads(line_of(process))


class Victim(NamedTuple):
    """The node, seen from outside."""

    pid: int
    port: int
    api: str

    def cpu_s(self) -> float:
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident_kib(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def drops(self) -> int:
        """Datagrams that found the buffer of this port full."""
        suffix = f":{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        return sum(int(row[-1]) for row in rows if row[1].endswith(suffix))

    def connections(self) -> int:
        """Those that have come to its listener; the kernel drops some before, when its queue is full."""
        with urllib.request.urlopen(f"http://{self.api}/api/network/stats", timeout=30) as answer:
            dials = json.load(answer)["dials"]
        return sum(count for name, count in dials.items() if name in ("inbound_turned_away", "inbound_failed"))


def pair(
    options: argparse.Namespace,
    kind: str,
    victim: Victim,
    peers: subprocess.Popen[str],
    flooder: subprocess.Popen[str],
) -> tuple[dict[str, float], dict[str, float]]:
    """The flood beside the node, and on it; by chance the one or the other first."""
    found: dict[bool, dict[str, float]] = {}
    for hits in random.sample([False, True], 2):
        order: dict[str, Any] = {"kind": kind, "hits": hits, "rate": options.rate, "seconds": options.seconds}
        if kind in PEER_FLOODS:
            order["links"] = options.links
            asked(flooder, prepare=True, **order)
        asked(peers, what="begin")
        cpu_s, dropped, resident_kib = victim.cpu_s(), victim.drops(), victim.resident_kib()
        connections = victim.connections()
        sent = asked(flooder, sources=options.sources, **order)
        seen = asked(peers, what="end")
        arrived = victim.connections() - connections
        found[hits] = {
            **seen,
            "sent": sent["sent"],
            "elapsed_s": sent["elapsed_s"],
            "links_ended": sent.get("links_ended", 0),
            "taken": arrived if kind in CONNECTIONS else sent["sent"] - victim.drops() + dropped,
            "cpu_s": victim.cpu_s() - cpu_s,
            "grown_kib": victim.resident_kib() - resident_kib,
        }
        time.sleep(0.3)
    return found[False], found[True]


def summary(options: argparse.Namespace, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    def median(figure: Callable[[dict[str, float], dict[str, float]], float]) -> float:
        return statistics.median(figure(calm, hit) for calm, hit in pairs)

    def rate(slice_: dict[str, float]) -> float:
        return slice_["count"] / slice_["elapsed_s"]

    def share(slice_: dict[str, float]) -> float:
        return slice_["cpu_s"] / slice_["elapsed_s"]

    def cost_us(calm: dict[str, float], hit: dict[str, float]) -> float:
        return (share(hit) - share(calm)) * hit["elapsed_s"] / max(1, hit["taken"]) * 1e6

    return {
        "kept": round(median(lambda calm, hit: rate(hit) / rate(calm)), 3),
        "kept_least": round(min(rate(hit) / rate(calm) for calm, hit in pairs), 3),
        "messages_per_s": [round(median(lambda calm, _: rate(calm))), round(median(lambda _, hit: rate(hit)))],
        "p99_ms": [
            round(median(lambda calm, _: calm["p99_ms"]), 1),
            round(median(lambda _, hit: hit["p99_ms"]), 1),
        ],
        "sent_per_s": round(median(lambda _, hit: hit["sent"] / hit["elapsed_s"])),
        "taken_per_s": round(median(lambda _, hit: hit["taken"] / hit["elapsed_s"])),
        "node_cpu": [round(median(lambda calm, _: share(calm)), 3), round(median(lambda _, hit: share(hit)), 3)],
        "cpu_us": None if options.load == 0 else round(median(cost_us), 1),
        "links_lost": max(hit["links_lost"] for _, hit in pairs),
        "flooder_dropped": sum(hit["links_ended"] for _, hit in pairs),
        "grown_mib": round(sum(hit["grown_kib"] for _, hit in pairs) / 1024, 2),
    }


# -- the node ----------------------------------------------------------------------------------------------------------


def run_node(directory: str) -> None:
    from kodectl.cli.main import main as kodectl

    places = ["--listen", "127.0.0.1:0", "--discovery-port", "0", "--api", "127.0.0.1:0"]
    options = ["--network", NETWORK, "--no-lan", "--nat", "none", "--json", "-q"]
    os.environ["KODECTL_BOOTSTRAP"] = ""
    sys.argv = ["kodectl", "node", "run", "--datadir", f"{directory}/node", *places, *options]
    kodectl()


# -- the peers ---------------------------------------------------------------------------------------------------------


class Crowd:
    """Peers that publish by turns; the last one counts what arrives and how late."""

    def __init__(self, enode_text: str, load: int) -> None:
        from kodectl.core.identity import Identity
        from kodectl.node.handshake import LocalEnd
        from kodectl.node.link import dial
        from kodectl.runtime.green import GreenRuntime
        from kodectl.wire.announcement import Ports
        from kodectl.wire.enode import parse_enode
        from kodectl.wire.messages import Hello
        from kodectl.wire.suite import RealSuite

        self.runtime = GreenRuntime()
        self.scope = self.runtime.scope("peers")
        self._load = load
        self._sent = 0
        self._links_lost = 0
        self._times: dict[bytes, float] = {}
        self._late_ms: list[float] = []
        self._room = self.runtime.event()
        enode = parse_enode(enode_text)
        hello = Hello((1,), "kodectl/bench", NETWORK, ("gossip", "sync"), Ports(0, 0))
        self._links: list[Any] = []
        for number in range(PEERS + 1):
            identity = Identity(RealSuite(), os.urandom(32))
            stream = self.runtime.connect((str(enode.host), enode.tcp), 5.0)
            link = dial(self.runtime, LocalEnd(identity, os.urandom(32)), stream, enode.node_id, hello)
            self.scope.spawn("link", self._serve, link, self._counted if number == PEERS else self._ignored)
            self._links.append((identity, link))

    def _serve(self, link: Any, handle: Callable[[Any, int, bytes], None]) -> None:
        link.run(handle)
        self._links_lost += 1

    def _ignored(self, link: Any, kind: int, body: bytes) -> None:
        from kodectl.wire.messages import Heartbeat, MessageKind, pack_heartbeat, unpack_heartbeat

        if kind == MessageKind.HEARTBEAT:
            heartbeat = unpack_heartbeat(body)
            if not heartbeat.is_answer:
                link.send(MessageKind.HEARTBEAT, pack_heartbeat(Heartbeat(1, heartbeat.id)))

    def _counted(self, link: Any, kind: int, body: bytes) -> None:
        from kodectl.wire.messages import MessageKind

        if kind != MessageKind.TRANSACTION:
            self._ignored(link, kind, body)
            return
        sent_at = self._times.pop(body[-SIZE:], None)
        if sent_at is not None:
            self._late_ms.append((self.runtime.now() - sent_at) * 1000)
            self._room.set()

    def _publish(self) -> None:
        from kodectl.wire.frames import encode_message
        from kodectl.wire.messages import BroadcastMode, MessageKind, new_envelope, pack_envelope

        identity, link = self._links[self._sent % PEERS]
        payload = os.urandom(SIZE)
        envelope = new_envelope(
            MessageKind.TRANSACTION,
            payload,
            BroadcastMode.FLOOD,
            origin=identity.public_key,
            time_ms=int(self.runtime.unix_time() * 1000),
            nonce=os.urandom(8),
            sign=identity.sign,
        )
        self._times[payload] = self.runtime.now()
        link.send_encoded(encode_message(MessageKind.TRANSACTION, pack_envelope(envelope)))
        self._sent += 1

    def produce_steadily(self) -> None:
        began, made = self.runtime.now(), 0
        while True:
            due = int((self.runtime.now() - began) * self._load)
            for _ in range(min(due - made, max(1, self._load // 50))):
                self._publish()
                made += 1
            self.scope.sleep(PACING_S)

    def produce_all(self) -> None:
        while True:
            while len(self._times) < UNDER_WAY:
                self._publish()
            self._room.clear()
            self._room.wait(1.0)

    def answer(self) -> None:
        """Orders from stdin, one a line."""
        self.scope.spawn("produce", self.produce_all if self._load == 0 else self.produce_steadily)
        print("ready", flush=True)
        while True:
            order = json.loads(self.runtime.in_thread(sys.stdin.readline))
            late_ms = sorted(self._late_ms)
            if order["what"] == "begin":
                self._late_ms.clear()
            p99_ms = late_ms[len(late_ms) * 99 // 100] if late_ms else 0.0
            print(json.dumps({"count": len(late_ms), "p99_ms": p99_ms, "links_lost": self._links_lost}), flush=True)


def run_peers(enode_text: str, load: str) -> None:
    Crowd(enode_text, int(load)).answer()


# -- the flooder -------------------------------------------------------------------------------------------------------


class Target:
    """The node, and a port on its machine where nobody works on what arrives."""

    def __init__(self, enode_text: str) -> None:
        from kodectl.core.identity import Identity
        from kodectl.wire.enode import parse_enode
        from kodectl.wire.suite import RealSuite

        enode = parse_enode(enode_text)
        self.identity = Identity(RealSuite(), os.urandom(32))
        self.node_id = enode.node_id
        self.udp, self.tcp = (str(enode.host), enode.udp), (str(enode.host), enode.tcp)
        self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.bind(("127.0.0.1", 0))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            self.nobody = closed.getsockname()
        self.sink = self._sink.getsockname()


def hails(target: Target) -> list[bytes]:
    from kodectl.wire.packets import Hail, pack_hail

    return [pack_hail(Hail(target.node_id, target.identity.node_id, os.urandom(16))) for _ in range(BURST)]


def handshakes(target: Target) -> list[bytes]:
    """Of the right form, with a cookie of now that nobody gave."""
    from kodectl.wire.packets import Handshake, pack_handshake_head

    now_ms = int(time.monotonic() * 1000)
    made = []
    for _ in range(BURST):
        cookie = now_ms.to_bytes(8) + os.urandom(16)
        body = Handshake(0, os.urandom(16), cookie, target.identity.public_key, os.urandom(32), 1, os.urandom(64))
        made.append(pack_handshake_head(body)[:176] + os.urandom(64))
    return made


def messages(target: Target) -> list[bytes]:
    return [b"\x0b" + os.urandom(100) for _ in range(BURST)]


def noise(target: Target) -> list[bytes]:
    return [os.urandom(random.randrange(1, 1473)) for _ in range(BURST)]


def bindings(target: Target) -> list[bytes]:
    return [b"\0\1\0\0\x21\x12\xa4\x42" + os.urandom(12) for _ in range(BURST)]


def allocations(target: Target) -> list[bytes]:
    return [b"\0\3\0\x08\x21\x12\xa4\x42" + os.urandom(12) + b"\0\x19\0\4\x11\0\0\0" for _ in range(BURST)]


def checks(target: Target) -> list[bytes]:
    """Of ICE, for names that nobody has."""
    from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

    contents = ((Attribute.USERNAME, "aaaabbbb:ccccdddd"), (Attribute.PRIORITY, 1))
    return [
        encode(
            Message(MessageClass.REQUEST, Method.BINDING, os.urandom(12), contents),
            key=os.urandom(16),
            fingerprint=True,
        )
        for _ in range(BURST)
    ]


def initials(target: Target) -> list[bytes]:
    return [b"\xc3\0\0\0\1\x08" + os.urandom(1194) for _ in range(BURST)]


def short_headers(target: Target) -> list[bytes]:
    return [b"\x43" + os.urandom(80) for _ in range(BURST)]


DATAGRAMS: dict[str, Callable[[Target], list[bytes]]] = {
    "hail": hails,
    "handshake": handshakes,
    "message": messages,
    "noise": noise,
    "binding": bindings,
    "allocate": allocations,
    "check": checks,
    "initial": initials,
    "short": short_headers,
}


class Paced:
    """How many may be sent now; all, where there is no rate."""

    def __init__(self, rate: int, seconds: float) -> None:
        self._rate = rate
        self.began = time.monotonic()
        self._ends = self.began + seconds
        self.sent = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self._ends

    def due(self) -> int:
        if not self._rate:
            return BURST
        due = int((time.monotonic() - self.began) * self._rate) - self.sent
        if due <= 0:
            time.sleep(PACING_S / 2)
        return min(due, BURST)

    def report(self) -> dict[str, float]:
        return {"sent": self.sent, "elapsed_s": time.monotonic() - self.began}


def source_of(number: int) -> bytes:
    """One of the sixteen million addresses of this machine."""
    return bytes((127, 1 + (number >> 16) % 200, (number >> 8) & 255, number & 255))


def flood_datagrams(target: Target, kind: str, hits: bool, paced: Paced, sources: int) -> None:
    packets = DATAGRAMS[kind](target)
    address = target.udp if hits else target.sink
    notes = [
        [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("I4s4s", 0, source_of(number), b"\0\0\0\0"))]
        for number in range(max(1, sources))
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while paced.goes_on():
            for _ in range(paced.due()):
                sock.sendmsg([packets[paced.sent % BURST]], notes[paced.sent % len(notes)], 0, address)
                paced.sent += 1


def flood_questions(target: Target, kind: str, hits: bool, paced: Paced) -> None:
    sock, packets = questions(kind, target.node_id, target.udp)
    address = target.udp if hits else target.sink
    with sock:
        while paced.goes_on():
            for _ in range(paced.due()):
                sock.sendto(next(packets), address)
                paced.sent += 1


def flood_proved(target: Target, hits: bool, paced: Paced) -> None:
    """Fetches cookies, and brings them back with a signature that is none: each costs the node a public-key operation, as
    far as its budget lets it."""
    from kodectl.wire.packets import Handshake, pack_handshake_head, unpack_challenge

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.05)
        sock.connect(target.udp if hits else target.sink)
        while paced.goes_on():
            for hail in hails(target)[: paced.due()]:
                sock.send(hail)
                try:
                    challenge = unpack_challenge(sock.recv(2048))
                except TimeoutError:
                    continue
                finally:
                    paced.sent += 1
                body = Handshake(
                    0, challenge.nonce, challenge.cookie, target.identity.public_key, os.urandom(32), 1, os.urandom(64)
                )
                sock.send(pack_handshake_head(body)[:176] + os.urandom(64))


def flood_connections(target: Target, hits: bool, paced: Paced, sources: int, says: bytes) -> None:
    """Connects, says something if it can, and goes away when many others have come."""
    held: deque[socket.socket] = deque()
    address = target.tcp if hits else target.nobody
    while paced.goes_on():
        for _ in range(paced.due()):
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((socket.inet_ntoa(source_of(paced.sent % max(1, sources))), 0))
            sock.connect_ex(address)
            try:
                sock.send(says)
            except OSError:  # not connected yet, or refused
                pass
            held.append(sock)
            paced.sent += 1
            if len(held) > HELD:
                held.popleft().close()
    for sock in held:
        sock.close()


FIRST_MESSAGE = b"\0\x20" + bytes(range(32))

CONNECTIONS = ("tcp", "tcp_silent")
KINDS = [*DATAGRAMS, "proved", *QUESTION_FLOODS, *CONNECTIONS, *PEER_FLOODS]


def run_flooder(enode_text: str) -> None:
    target = Target(enode_text)
    for line in sys.stdin:
        order = json.loads(line)
        kind, hits, paced = order["kind"], order["hits"], Paced(order["rate"], order["seconds"])
        if kind in DATAGRAMS:
            flood_datagrams(target, kind, hits, paced, order["sources"])
        elif kind == "proved":
            flood_proved(target, hits, paced)
        elif kind in QUESTION_FLOODS:
            flood_questions(target, kind, hits, paced)
        else:
            flood_connections(target, hits, paced, order["sources"], FIRST_MESSAGE if kind == "tcp" else b"")
        print(json.dumps(paced.report()), flush=True)


def run_spammer(enode_text: str) -> None:
    Spammer(enode_text, NETWORK).answer()


ROLES: dict[str, Callable[..., None]] = {
    "node": run_node,
    "peers": run_peers,
    "flooder": run_flooder,
    "spammer": run_spammer,
}

if __name__ == "__main__":
    main()
