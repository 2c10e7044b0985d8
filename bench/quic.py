"""How fast a stream over QUIC is, beside TCP and beside aioquic in the same run: one process sends, another receives,
over loopback. Prints JSON lines.

    python -m bench.quic [--seconds 2] [--only raw|link|handshake] [--profile]

`raw` is the stream alone, `link` the encrypted link over it, with the same sizes over TCP. aioquic sends to aioquic over
the same runtime's sockets, where it is installed. Compare within a run: absolute rates depend on the machine.
`--profile` prints where the sender of the raw QUIC stream spends its time.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pathlib
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from bench.link import HELLO, LOOPBACK, WORKLOADS, cpu, in_child, local_end, payloads, report
from kodectl.core.quic_paths import Path
from kodectl.node.link import accept, dial
from kodectl.node.quic import QuicEndpoint
from kodectl.runtime.base import Address, Runtime, Stream
from kodectl.runtime.green import GreenRuntime
from kodectl.wire.messages import DisconnectReason, MessageKind

PIECE = os.urandom(64 * 1024)
sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests"))  # where the foreign peer is
HANDSHAKES = 20
"""Of one network in a burst: more would meet the acceptor's rate."""
LIMIT_S = 10.0


class QuicSocket:
    """An endpoint with a socket of its own."""

    def __init__(self, runtime: Runtime, accept: Callable[[Stream], None] | None = None) -> None:
        self.socket = runtime.open_datagram(LOOPBACK, self._receive)
        self.endpoint = QuicEndpoint(runtime, runtime.scope("quic"), accept, self._reply)

    def _receive(self, data: bytes, sender: Address) -> None:
        self.endpoint.received(data, Path(self.socket.local, sender))

    def _reply(self, datagrams: Sequence[bytes], path: Path) -> None:
        self.socket.send_many(datagrams, path.remote)

    def connect(self, remote: Address) -> Stream:
        path = Path(self.socket.local, remote)
        return self.endpoint.connect(path, lambda datagrams: self.socket.send_many(datagrams, remote), LIMIT_S)


def dial_stream(runtime: Runtime, transport: str, port: int) -> Stream:
    remote = ("127.0.0.1", port)
    return runtime.connect(remote, LIMIT_S) if transport == "tcp" else QuicSocket(runtime).connect(remote)


def serve_streams(runtime: Runtime, transport: str, announce_to: int, work: Callable[[Stream], None]) -> None:
    """Listens, tells the port, and works on the streams that come, one after the other."""
    arrived = runtime.mailbox(64)
    listener = runtime.listen(LOOPBACK, arrived.put) if transport == "tcp" else QuicSocket(runtime, arrived.put).socket
    os.write(announce_to, b"%d\n" % listener.local[1])
    while True:
        work(arrived.get())


def receive_raw(transport: str) -> Callable[[Runtime, int], None]:
    def work(stream: Stream) -> None:
        started = cpu()
        while stream.read_exactly(1) == b"\1":
            stream.read_exactly(len(PIECE))
        stream.write(b"%16.6f" % (cpu() - started))

    return lambda runtime, announce_to: serve_streams(runtime, transport, announce_to, work)


def measure_raw(runtime: Runtime, transport: str, port: int, seconds: float) -> None:
    stream = dial_stream(runtime, transport, port)
    piece = b"\1" + PIECE
    began, began_cpu, sent = time.perf_counter(), cpu(), 0
    while time.perf_counter() - began < seconds:
        stream.write(piece)
        sent += len(piece)
    stream.write(b"\0")
    receiver_cpu = float(stream.read_exactly(16))
    report(what=f"raw {transport}", **_rates(sent, time.perf_counter() - began, cpu() - began_cpu, receiver_cpu))


def _rates(sent: int, elapsed: float, sender_cpu: float, receiver_cpu: float) -> dict[str, float]:
    return {
        "mb_per_s": sent / elapsed / 1e6,
        "sender_cpu_ms_per_mb": sender_cpu / sent * 1e9,
        "receiver_cpu_ms_per_mb": receiver_cpu / sent * 1e9,
    }


def receive_link(transport: str) -> Callable[[Runtime, int], None]:
    def serve(runtime: Runtime, announce_to: int) -> None:
        def work(stream: Stream) -> None:
            link = accept(runtime, local_end(), stream, HELLO)
            started = cpu()
            link.run(
                lambda link, kind, _: kind == MessageKind.SYNC and link.send(kind, b"%f" % (cpu() - started)) and None
            )

        serve_streams(runtime, transport, announce_to, work)

    return serve


def measure_link(runtime: Runtime, transport: str, port: int, name: str, seconds: float) -> None:
    bodies = payloads(*WORKLOADS[name])
    link = dial(runtime, local_end(), dial_stream(runtime, transport, port), None, HELLO)
    scope, done = runtime.scope("bench"), runtime.mailbox(1)
    scope.spawn("reader", link.run, lambda _link, _kind, body: done.put(body) and None)
    began, began_cpu, sent = time.perf_counter(), cpu(), 0
    while time.perf_counter() - began < seconds:
        link.wait_room(LIMIT_S)
        for _ in range(max(1, (1 << 18) // len(bodies[0]))):
            link.send(MessageKind.TRANSACTION, bodies[sent % len(bodies)])
            sent += 1
    link.send(MessageKind.SYNC, b"end")
    receiver_cpu = float(done.get(LIMIT_S))
    elapsed, spent = time.perf_counter() - began, cpu() - began_cpu
    link.disconnect(DisconnectReason.REQUESTED)
    scope.join(5.0)
    report(
        what=f"link {transport} {name}",
        messages_per_s=sent / elapsed,
        **_rates(sent * len(bodies[0]), elapsed, spent, receiver_cpu),
    )


def measure_handshakes(runtime: Runtime, transport: str, port: int) -> None:
    dial_stream(runtime, transport, port)  # what both sides do once, such as imports
    times, began_cpu = [], cpu()
    for _ in range(HANDSHAKES):
        began = time.perf_counter()
        dial_stream(runtime, transport, port)
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    report(
        what=f"handshake {transport}",
        median_ms=times[HANDSHAKES // 2],
        p95_ms=times[HANDSHAKES * 95 // 100],
        dialler_cpu_ms=(cpu() - began_cpu) / HANDSHAKES * 1e3,
    )


def serve_idle(transport: str) -> Callable[[Runtime, int], None]:
    kept: list[Stream] = []
    return lambda runtime, announce_to: serve_streams(runtime, transport, announce_to, kept.append)


def receive_aioquic(runtime: Runtime, announce_to: int) -> None:
    from aioquic_peer import AioquicPeer

    peer = AioquicPeer(runtime, "127.0.0.1")
    os.write(announce_to, b"%d\n" % peer.socket.local[1])
    total, began = 0, cpu()
    while True:
        peer.wait(lambda: bool(peer.received), 60.0)
        total += len(peer.received)
        if peer.received.endswith(b"end of it"):
            peer.write(b"%16.6f" % (cpu() - began))
        peer.received.clear()


def measure_aioquic(runtime: Runtime, port: int, seconds: float) -> None:
    from aioquic_peer import AioquicPeer

    peer = AioquicPeer(runtime, "127.0.0.1", ("127.0.0.1", port))
    scope = runtime.scope("aioquic")
    began, began_cpu, sent = time.perf_counter(), cpu(), 0
    while time.perf_counter() - began < seconds:
        peer.write(PIECE)
        sent += len(PIECE)
        while len(peer._queue) > 4 * len(PIECE):
            scope.sleep(0.0005)
    peer.write(b"end of it")
    peer.wait(lambda: len(peer.received) >= 16, LIMIT_S)
    report(
        what="raw aioquic",
        **_rates(sent, time.perf_counter() - began, cpu() - began_cpu, float(peer.received or b"nan")),
    )


def run(serve: Callable[[Runtime, int], None], measure: Callable[[Runtime, int], None]) -> None:
    """Each measurement has two processes of its own."""
    port, server = in_child(serve)
    client = os.fork()
    if client == 0:
        try:
            measure(GreenRuntime(), port)
        except Exception as error:
            report(error=repr(error))
        finally:
            os._exit(0)
    os.waitpid(client, 0)
    os.kill(server, 15)
    os.waitpid(server, 0)


def profiled(runtime: Runtime, port: int, seconds: float) -> None:
    profile = cProfile.Profile()
    profile.runcall(measure_raw, runtime, "quic", port, seconds)
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(14)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stream")
    parser.add_argument("--only", choices=("raw", "link", "handshake"), help="leave the others out")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    seconds = options.seconds
    if options.profile:
        run(receive_raw("quic"), lambda runtime, port: profiled(runtime, port, seconds))
        return
    for transport in ("tcp", "quic"):
        if options.only in (None, "raw"):
            run(receive_raw(transport), lambda runtime, port, t=transport: measure_raw(runtime, t, port, seconds))
        for name in ("transactions_200B", "bulk_60KiB") if options.only in (None, "link") else ():
            run(
                receive_link(transport),
                lambda runtime, port, t=transport, name=name: measure_link(runtime, t, port, name, seconds),
            )
        if options.only in (None, "handshake"):
            run(serve_idle(transport), lambda runtime, port, t=transport: measure_handshakes(runtime, t, port))
    if options.only in (None, "raw") and find_spec("aioquic"):
        run(receive_aioquic, lambda runtime, port: measure_aioquic(runtime, port, seconds))


if __name__ == "__main__":
    main()
