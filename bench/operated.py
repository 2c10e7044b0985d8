"""A busy node with everybody looking at it: how late its hub is, what it costs, and whether its memory stays flat.

    python bench/operated.py [--seconds 60] [--rate 2000] [--peers 50] [--copies 3] [--size 200] [--profile FILE]

One node, as the command runs it, on loopback. Fifty peers on real links each publish their share of `rate` transactions a
second; each message comes from `copies` peers, as in a mesh, and is signed and verified. Three subscribers are on its
WebSocket: two read, one reads for a moment and then nothing for fifteen seconds, and so on. A dashboard follows the events
too, and asks for the history every two seconds; a scraper asks for /metrics every second. Prints one JSON line.

A node remembers messages for ten minutes (at most 1,000,000 of them, docs/protocol.md), and its memory grows until then:
`--warm-up 900` comes before figures on whether it is flat (the table of a million ids grows once more after twelve minutes).

Hub delay: of timers due every 5 ms in the node's process, how late they were (those that fell into a longer delay count too).
On a machine that does other things the node waits for a processor too: `hub_delay_with_a_cpu_ms` is without that time, and
`--alone` runs a node with nothing to do, whose delays are the machine's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NETWORK = "bench"
PROBE_S = 0.005
BUCKETS_MS = [0.5 * 1.1**step for step in range(120)]
STALLED_FOR_S = 15.0
BEHIND = 16_384
"""Bytes that the stalled one's kernel takes."""
SAMPLE_S = 1.0
START_LIMIT_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=5, help="seconds before the figures begin")
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--peers", type=int, default=50)
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--alone", action="store_true", help="no messages, subscribers or scrapes")
    parser.add_argument(
        "--profile", help="py-spy writes here where the node spends its time (.svg, or .txt: collapsed stacks)"
    )
    parser.add_argument("--samples", help="memory and delays go here, a JSON line a second")
    if len(sys.argv) > 1 and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](*sys.argv[2:])
        return
    print(json.dumps(measure(parser.parse_args())))


# -- the whole ---------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        delays = Path(directory) / "delays"
        node = start("node", str(delays), directory, str(options.peers))
        helpers: list[subprocess.Popen[str]] = []
        try:
            assert node.stdout is not None
            ready = json.loads(node.stdout.readline())["data"]
            drain(node)
            api, enode = ready["listeners"]["api"][0], ready["enode"]
            if not options.alone:
                helpers.append(
                    start("peers", enode, *map(str, (options.peers, options.rate, options.copies, options.size)))
                )
                wait_for_line(helpers[0])
                helpers.append(start("watch", api))
            time.sleep(options.warm_up)
            result = observe(node, helpers, delays, options) | reports_of(helpers)
        finally:
            for process in [*helpers, node]:
                if process.poll() is None:
                    process.kill()
                process.wait()
    return {"bench": "operated", **result}


def start(role: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, role, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a part of the bench has ended")
    return line


def drain(node: subprocess.Popen[str]) -> None:
    """Its events, which nobody reads here, must not fill the pipe."""
    subprocess.Popen(["cat"], stdin=node.stdout, stdout=subprocess.DEVNULL)


def reports_of(helpers: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """Each is told to end, and says what it has seen."""
    found: dict[str, Any] = {}
    for process in reversed(helpers):
        assert process.stdin is not None
        process.stdin.close()
        found |= json.loads(wait_for_line(process))
    return found


def observe(
    node: subprocess.Popen[str], helpers: list[subprocess.Popen[str]], delays: Path, options: argparse.Namespace
) -> dict[str, Any]:
    import psutil

    process = psutil.Process(node.pid)
    others = [psutil.Process(helper.pid) for helper in helpers]
    profiler = profile(node.pid, options) if options.profile else None
    skip = len(delays.read_text().splitlines())
    began, cpu_began = time.monotonic(), [cpu_s(one) for one in (process, *others)]
    resident: list[float] = []
    while time.monotonic() < began + options.seconds:
        time.sleep(SAMPLE_S)
        resident.append(process.memory_info().rss / (1 << 20))
    elapsed_s = time.monotonic() - began
    cpu = [(cpu_s(one) - before) / elapsed_s for one, before in zip((process, *others), cpu_began, strict=True)]
    rows = [json.loads(line) for line in delays.read_text().splitlines()[skip:]]
    if not rows:
        raise SystemExit("the node did not come to look at a timer in all that time")
    if options.samples:
        lines = [json.dumps({"rss_mb": round(mb, 1), **row}) for mb, row in zip(resident, rows, strict=False)]
        Path(options.samples).write_text("\n".join(lines) + "\n")
    if profiler is not None:
        profiler.wait()
    quarter = max(1, len(resident) // 4)
    return {
        "seconds": round(elapsed_s, 1),
        "hub_delay_ms": quantiles_of(added(rows, "counts")),
        "hub_delay_with_a_cpu_ms": quantiles_of(added(rows, "own_counts")),
        "waited_for_cpu": round(sum(row["waited_ms"] for row in rows) / 1000 / elapsed_s, 3),
        "gc": {
            "share": round(sum(row["gc_ms"] for row in rows) / 1000 / elapsed_s, 4),
            "most_ms": max(row["gc_most_ms"] for row in rows),
        },
        "hub_delay_max_ms": round(max(row["max_ms"] for row in rows), 1),
        "cpu": dict(zip(("node", "peers", "watch"), (round(share, 3) for share in cpu), strict=False)),
        "rss_mb": {
            "first_quarter": round(sum(resident[:quarter]) / quarter, 1),
            "last_quarter": round(sum(resident[-quarter:]) / quarter, 1),
            "most": round(max(resident), 1),
            "growth_per_minute": round((resident[-1] - resident[0]) / elapsed_s * 60, 1),
        },
        "load_average": os.getloadavg()[0],
    }


def cpu_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def profile(pid: int, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    kind = "flamegraph" if options.profile.endswith(".svg") else "raw"
    seconds = str(max(1, int(options.seconds)))
    return subprocess.Popen(
        ["py-spy", "record", "-p", str(pid), "-d", seconds, "-r", "200", "-f", kind, "-o", options.profile],
        stdout=subprocess.DEVNULL,
    )


def added(rows: list[dict[str, Any]], name: str) -> list[int]:
    return [sum(counts) for counts in zip(*(row[name] for row in rows), strict=True)]


def quantiles_of(counts: list[int]) -> dict[str, float]:
    """p50, p95 and p99 as upper ends of their buckets."""
    found = {}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)):
        wanted, seen = share * sum(counts), 0
        for top_ms, count in zip([*BUCKETS_MS, float("inf")], counts, strict=True):
            seen += count
            if seen >= wanted:
                found[name] = round(top_ms, 2)
                break
    return found


# -- the node ----------------------------------------------------------------------------------------------------------


def run_node(delays: str, directory: str, peers: str) -> None:
    """`kodectl node run` with one timer more."""
    import gevent

    from kodectl.cli.main import main as kodectl

    gevent.spawn(probe, delays)
    gc.callbacks.append(time_collection)
    # Of all slots some are kept for peers that it dials itself.
    slots = str(2 * int(peers))
    places = [
        "--datadir",
        f"{directory}/node",
        "--listen",
        "127.0.0.1:0",
        "--discovery-port",
        "0",
        "--api",
        "127.0.0.1:0",
    ]
    options = ["--network", NETWORK, "--max-peers", slots, "--no-lan", "--nat", "none", "--json", "-q"]
    os.environ["KODECTL_BOOTSTRAP"] = ""
    sys.argv = ["kodectl", "node", "run", *places, *options]
    kodectl()


def probe(path: str) -> None:
    import bisect

    import gevent

    due, waited_ms = time.monotonic(), waited_for_cpu_ms()
    with open(path, "w", buffering=1) as written:
        while True:
            counts, own_counts = [0] * (len(BUCKETS_MS) + 1), [0] * (len(BUCKETS_MS) + 1)
            most_ms, waited_before_ms, until = 0.0, waited_ms, due + SAMPLE_S
            while due < until:
                gevent.sleep(max(0.0, due - time.monotonic()))
                now, waited_since_ms = time.monotonic(), waited_for_cpu_ms() - waited_ms
                waited_ms += waited_since_ms
                while due <= now:
                    late_ms = (now - due) * 1000
                    counts[bisect.bisect_left(BUCKETS_MS, late_ms)] += 1
                    own_counts[bisect.bisect_left(BUCKETS_MS, late_ms - waited_since_ms)] += 1
                    most_ms = max(most_ms, late_ms)
                    due += PROBE_S
            row = {"max_ms": round(most_ms, 2), "waited_ms": round(waited_ms - waited_before_ms, 2)}
            row |= {
                "gc_ms": round(sum(collections_ms[1:]), 2),
                "gc_most_ms": round(max(collections_ms[1:], default=0), 2),
            }
            del collections_ms[1:]
            written.write(json.dumps({**row, "counts": counts, "own_counts": own_counts}) + "\n")


collections_ms = [0.0]
"""Since the last row; the first is the beginning of the one under way."""


def time_collection(phase: str, info: dict[str, int]) -> None:
    if phase == "start":
        collections_ms[0] = time.monotonic()
    else:
        collections_ms.append((time.monotonic() - collections_ms[0]) * 1000)


def waited_for_cpu_ms() -> float:
    """How long this thread, in all, could have run and was not let by the kernel."""
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e6


# -- the peers ---------------------------------------------------------------------------------------------------------


def run_peers(enode_text: str, peers: str, rate: str, copies: str, size: str) -> None:
    """Links that bring messages, answer heartbeats, and drop what they are sent: in a mesh they would have it already."""
    import random

    from kodectl.core.identity import Identity
    from kodectl.node.handshake import LocalEnd
    from kodectl.node.link import Link, dial
    from kodectl.runtime.green import GreenRuntime
    from kodectl.wire.announcement import Ports
    from kodectl.wire.enode import parse_enode
    from kodectl.wire.frames import encode_message
    from kodectl.wire.messages import (
        BroadcastMode,
        Heartbeat,
        Hello,
        MessageKind,
        new_envelope,
        pack_envelope,
        pack_heartbeat,
        unpack_heartbeat,
    )
    from kodectl.wire.suite import RealSuite

    runtime = GreenRuntime()
    scope = runtime.scope("peers")
    enode = parse_enode(enode_text)
    hello = Hello((1,), "kodectl/bench", NETWORK, ("gossip", "sync"), Ports(0, 0))
    counts = {"sent": 0, "copies_sent": 0, "received": 0, "links_lost": 0}
    links: list[tuple[Identity, Link]] = []

    def handle(link: Link, kind: int, body: bytes) -> None:
        if kind == MessageKind.HEARTBEAT:
            heartbeat = unpack_heartbeat(body)
            if not heartbeat.is_answer:
                link.send(MessageKind.HEARTBEAT, pack_heartbeat(Heartbeat(1, heartbeat.id)))
        elif kind == MessageKind.TRANSACTION:
            counts["received"] += 1

    def serve(link: Link) -> None:
        reason = link.run(handle)
        counts["links_lost"] += 1
        print(f"a link has ended: {reason.name} {link.close_text}", file=sys.stderr)

    for _ in range(int(peers)):
        identity = Identity(RealSuite(), os.urandom(32))
        stream = runtime.connect((str(enode.host), enode.tcp), 5.0)
        link = dial(runtime, LocalEnd(identity, os.urandom(32)), stream, enode.node_id, hello)
        scope.spawn("link", serve, link)
        links.append((identity, link))

    def publish() -> None:
        identity, link = random.choice(links)
        payload = os.urandom(int(size))
        envelope = new_envelope(
            MessageKind.TRANSACTION,
            payload,
            BroadcastMode.GOSSIP,
            origin=identity.public_key,
            time_ms=int(runtime.unix_time() * 1000),
            nonce=os.urandom(8),
            sign=identity.sign,
        )
        message = encode_message(MessageKind.TRANSACTION, pack_envelope(envelope))
        link.send_encoded(message)
        for _, other in random.sample(links, int(copies) - 1):
            other.send_encoded(message)
        counts["sent"] += 1
        counts["copies_sent"] += int(copies)

    def produce() -> None:
        began, made = runtime.now(), 0
        while True:
            due = int((runtime.now() - began) * int(rate))
            # After a delay it catches up, but not all at once.
            for _ in range(min(due - made, int(rate) // 20)):
                publish()
                made += 1
            scope.sleep(0.005)

    scope.spawn("produce", produce)
    print("ready", flush=True)
    began = runtime.now()
    runtime.in_thread(sys.stdin.read)
    elapsed_s = runtime.now() - began
    print(json.dumps({"sent_per_s": round(counts["sent"] / elapsed_s), "peers": counts}), flush=True)
    os._exit(0)


# -- those who watch ---------------------------------------------------------------------------------------------------


class Subscriber:
    """One WebSocket, on which every number must come or be told as missed."""

    def __init__(self, api: str, *, read_buffer: int | None = None) -> None:
        from gevent import socket

        host, _, port = api.rpartition(":")
        self._sock = socket.socket()
        if read_buffer is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, read_buffer)
        self._sock.connect((host, int(port)))
        self._file = self._sock.makefile("rb", 131_072)
        head = f"GET /ws HTTP/1.1\r\nHost: {api}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self._sock.sendall((head + key).encode())
        while self._file.readline() != b"\r\n":
            pass
        self._send(0x81, b'{"op":"subscribe"}')
        self.events = self.gaps = self.missed = 0
        self.unexplained = 0
        self.place: int | None = None
        self.ages_ms = [0] * (len(BUCKETS_MS) + 1)

    def _send(self, opcode: int, payload: bytes) -> None:
        self._sock.sendall(bytes([opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def frames(self) -> Iterator[bytes]:
        while True:
            head = self._file.read(2)
            size = head[1]
            if size >= 126:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8))
            payload = self._file.read(size)
            if head[0] == 0x89:
                self._send(0x8A, payload)
            elif head[0] == 0x81:
                yield payload
            else:
                raise SystemExit(f"a subscriber was closed: {payload!r}")

    def take(self, frame: bytes) -> None:
        import bisect

        # By hand: reading must not be what limits the subscriber.
        if found := _EVENT.match(frame):
            seq = int(found[1])
            if self.place is not None:
                self.unexplained += seq - self.place - 1
            self.place = seq
            self.events += 1
            if self.events % 16 == 0:
                second = float(found[2]) + 60 * int(time.time() // 60)
                self.ages_ms[bisect.bisect_left(BUCKETS_MS, (time.time() - second) % 60 * 1000)] += 1
        elif b'"gap"' in frame:
            missed = json.loads(frame)["missed"]
            self.gaps += 1
            self.missed += missed
            self.unexplained -= missed
        elif b'"subscribed"' in frame:
            self.place = json.loads(frame)["since"]

    def report(self) -> dict[str, Any]:
        figures = {"events": self.events, "gaps": self.gaps, "missed": self.missed, "unexplained": self.unexplained}
        return figures | {"age_ms": quantiles_of(self.ages_ms)}


_EVENT = re.compile(rb'\{"seq":(\d+),"ts":"\d+-\d+-\d+T\d+:\d+:(\d+\.\d+)Z"')


def run_watch(api: str) -> None:
    import gevent

    subscribers = [Subscriber(api), Subscriber(api), Subscriber(api)]
    stalled = Subscriber(api, read_buffer=BEHIND)

    def follow(subscriber: Subscriber) -> None:
        for frame in subscriber.frames():
            subscriber.take(frame)

    def stall() -> None:
        """Reads until it is not far behind, and rests."""
        for frame in stalled.frames():
            stalled.take(frame)
            if stalled.events and (subscribers[0].place or 0) - (stalled.place or 0) < 100:
                gevent.sleep(STALLED_FOR_S)

    asked: dict[str, list[tuple[int, int, float]]] = {}

    def ask(path: str, every_s: float) -> None:
        while True:
            began = time.monotonic()
            status, size = get(api, path)
            asked.setdefault(path, []).append((status, size, time.monotonic() - began))
            gevent.sleep(max(0.0, began + every_s - time.monotonic()))

    for subscriber in subscribers:
        gevent.spawn(follow, subscriber)
    gevent.spawn(stall)
    gevent.spawn(ask, "/metrics", 1.0)
    gevent.spawn(ask, "/api/network/history", 2.0)
    gevent.spawn(ask, "/api/network/peers", 2.0)
    gevent.get_hub().threadpool.apply(sys.stdin.read)
    answers = {path: requests_of(rows) for path, rows in asked.items()}
    reading = {f"reader_{number}": one.report() for number, one in enumerate(subscribers)}
    print(json.dumps({"subscribers": {**reading, "stalled": stalled.report()}, "requests": answers}), flush=True)
    os._exit(0)


def get(api: str, path: str) -> tuple[int, int]:
    from gevent import socket

    host, _, port = api.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    return int(answer.split()[1]), len(answer)


def requests_of(rows: list[tuple[int, int, float]]) -> dict[str, Any]:
    times_ms = sorted(elapsed_s * 1000 for _, _, elapsed_s in rows)
    return {
        "answers": len(rows),
        "statuses": sorted({status for status, _, _ in rows}),
        "bytes": max(size for _, size, _ in rows),
        "median_ms": round(times_ms[len(times_ms) // 2], 1),
        "most_ms": round(times_ms[-1], 1),
    }


ROLES: dict[str, Callable[..., None]] = {"node": run_node, "peers": run_peers, "watch": run_watch}

if __name__ == "__main__":
    main()
