"""How fast a link is: one process sends, another receives, over loopback TCP. Prints JSON lines.

    python -m bench.link [--seconds 2]

`plain` is the same runtime, the same sizes and the same number of writes without a link around them, in the same run:
compare with it, since absolute rates depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable

from kodectl.core.identity import Identity
from kodectl.node.link import Link, LocalEnd, accept, dial
from kodectl.runtime.base import Runtime, Stream, StreamClosed
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.announcement import Ports
from kodectl.wire.frames import SEGMENT_ROOM
from kodectl.wire.messages import DisconnectReason, Hello, MessageKind
from kodectl.wire.suite import RealSuite

HELLO = Hello((1,), "kodectl/bench", "bench", (), Ports(0, 0))
WORKLOADS = {"transactions_200B": (200, False), "bulk_60KiB": (60 << 10, True), "blocks_4MiB": (4 << 20, True)}
"""Name: size of a message, and whether its content cannot be compressed."""
SET_UPS = 200
IDLE_LINKS = 500
LOOPBACK = ("127.0.0.1", 0)


def local_end() -> LocalEnd:
    return LocalEnd(Identity(RealSuite(), os.urandom(32)), os.urandom(32))


def report(**figures: object) -> None:
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}))
    sys.stdout.flush()


def payloads(size: int, incompressible: bool) -> list[bytes]:
    """Messages, none of them twice in a frame. What can be compressed is like transactions: half keys and signatures."""
    rng = random.Random(size)
    if incompressible:
        return [rng.randbytes(size) for _ in range(4)]
    return [rng.randbytes(size // 2) + bytes(size - size // 2) for _ in range(5000)]


def in_child(serve: Callable[[Runtime, int], None]) -> tuple[int, int]:
    """Forks a process that listens; its port and pid. It runs before gevent has started anything here."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            serve(GreenRuntime(), write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        return int(pipe.readline()), pid


def serve_one(runtime: Runtime, announce_to: int, work: Callable[[Stream], None]) -> None:
    """Listens, tells the port, and works on the first stream that comes."""
    arrived = runtime.mailbox(16)
    listener = runtime.listen(LOOPBACK, arrived.put)
    os.write(announce_to, b"%d\n" % listener.local[1])
    work(arrived.get())


def cpu() -> float:
    return time.process_time()


def measure_link(runtime: Runtime, port: int, name: str, seconds: float) -> None:
    bodies = payloads(*WORKLOADS[name])
    stream = runtime.connect(("127.0.0.1", port), 5.0)
    link = dial(runtime, local_end(), stream, None, HELLO)
    scope = runtime.scope("bench")
    done: list[bytes] = []
    scope.spawn("reader", link.run, lambda _link, _kind, body: done.append(body))
    start, started_cpu, sent = time.perf_counter(), cpu(), 0
    while time.perf_counter() - start < seconds:
        link.wait_room(10.0)
        for _ in range(max(1, (1 << 20) // len(bodies[0]))):
            link.send(MessageKind.TRANSACTION, bodies[sent % len(bodies)])
            sent += 1
    link.send(MessageKind.SYNC, b"end")
    while not done and not link.closed:
        scope.sleep(0.001)
    elapsed = time.perf_counter() - start
    receiver_cpu = float(done[0])
    link.disconnect(DisconnectReason.REQUESTED)
    scope.join(5.0)
    report(
        what=f"link {name}",
        messages_per_s=sent / elapsed,
        mb_per_s=sent * len(bodies[0]) / elapsed / 1e6,
        wire_bytes_per_content_byte=link.bytes_sent / (sent * len(bodies[0])),
        sender_cpu_us_per_message=(cpu() - started_cpu) / sent * 1e6,
        receiver_cpu_us_per_message=receiver_cpu / sent * 1e6,
    )


def receive_link(runtime: Runtime, announce_to: int) -> None:
    def work(stream: Stream) -> None:
        link = accept(runtime, local_end(), stream, HELLO)
        started_cpu = cpu()

        def handle(link: Link, kind: int, body: bytes) -> None:
            if kind == MessageKind.SYNC:
                link.send(kind, b"%f" % (cpu() - started_cpu))

        link.run(handle)

    serve_one(runtime, announce_to, work)


def measure_plain(runtime: Runtime, port: int, name: str, seconds: float) -> None:
    """Writes of at most one segment, each before its size, read the same way."""
    size, _ = WORKLOADS[name]
    per_write = max(1, SEGMENT_ROOM // size)
    piece = os.urandom(min(SEGMENT_ROOM, per_write * size))
    stream = runtime.connect(("127.0.0.1", port), 5.0)
    start, started_cpu, sent = time.perf_counter(), cpu(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(16):
            stream.write(len(piece).to_bytes(2) + piece)
            sent += 1
    stream.write(bytes(2))
    stream.read_exactly(1)
    elapsed = time.perf_counter() - start
    content = sent * len(piece)
    report(
        what=f"plain {name}",
        messages_per_s=content / size / elapsed,
        mb_per_s=content / elapsed / 1e6,
        sender_cpu_us_per_message=(cpu() - started_cpu) / (content / size) * 1e6,
    )


def receive_plain(runtime: Runtime, announce_to: int) -> None:
    def work(stream: Stream) -> None:
        while size := int.from_bytes(stream.read_exactly(2)):
            stream.read_exactly(size)
        stream.write(b"!")

    serve_one(runtime, announce_to, work)


def measure_set_up(runtime: Runtime, port: int) -> None:
    local, times = local_end(), []
    started_cpu = cpu()
    for _ in range(SET_UPS):
        start = time.perf_counter()
        stream = runtime.connect(("127.0.0.1", port), 5.0)
        dial(runtime, local, stream, None, HELLO)
        times.append((time.perf_counter() - start) * 1e3)
        stream.close()
    times.sort()
    report(
        what="set-up",
        median_ms=times[SET_UPS // 2],
        p95_ms=times[SET_UPS * 95 // 100],
        dialler_cpu_ms=(cpu() - started_cpu) / SET_UPS * 1e3,
    )


def accept_many(runtime: Runtime, announce_to: int) -> None:
    local, arrived = local_end(), runtime.mailbox(16)
    listener = runtime.listen(LOOPBACK, arrived.put)
    os.write(announce_to, b"%d\n" % listener.local[1])
    for _ in range(SET_UPS):
        accept(runtime, local, arrived.get(), HELLO)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_idle(runtime: Runtime, port: int) -> None:
    """Memory of links that have exchanged a few messages and then rest; the other ends are in the other process."""
    local, scope = local_end(), runtime.scope("idle")
    links: list[Link] = []

    def add(count: int) -> None:
        for _ in range(count):
            link = dial(runtime, local, runtime.connect(("127.0.0.1", port), 5.0), None, HELLO)
            scope.spawn("reader", link.run, lambda *_: None)
            link.send(MessageKind.HEARTBEAT, b"\x92\x00\x01")
            links.append(link)
        scope.sleep(0.3)
        gc.collect()

    add(100)
    before = resident()
    add(IDLE_LINKS)
    report(what="idle link", kib_per_link=(resident() - before) / IDLE_LINKS / 1024, links=len(links))


def answer_idle(runtime: Runtime, announce_to: int) -> None:
    local, scope = local_end(), runtime.scope("idle")

    def work(stream: Stream) -> None:
        accept(runtime, local, stream, HELLO).run(lambda link, kind, body: link.send(kind, body) and None)

    listener = runtime.listen(LOOPBACK, lambda stream: scope.spawn("link", work, stream))
    os.write(announce_to, b"%d\n" % listener.local[1])
    scope.sleep(600.0)


def run(serve: Callable[[Runtime, int], None], measure: Callable[[Runtime, int], None]) -> None:
    """Each measurement has two processes of its own."""
    port, server = in_child(serve)
    client = os.fork()
    if client == 0:
        try:
            measure(GreenRuntime(), port)
        except StreamClosed as error:
            report(error=str(error))
        finally:
            os._exit(0)
    os.waitpid(client, 0)
    os.kill(server, 15)
    os.waitpid(server, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stream")
    seconds = parser.parse_args().seconds
    for name in WORKLOADS:
        run(receive_plain, lambda runtime, port, name=name: measure_plain(runtime, port, name, seconds))
        run(receive_link, lambda runtime, port, name=name: measure_link(runtime, port, name, seconds))
    run(accept_many, measure_set_up)
    run(answer_idle, measure_idle)


if __name__ == "__main__":
    main()
