"""How many messages a second reach ten nodes, and what one delivery costs.

    python bench/broadcast.py [--messages 3000] [--sizes 200,10000] [--verify]

Ten nodes on a mesh of degree 4, five in each of two processes, over loopback. All publish transactions as fast as
they may; time runs until every node has every message. One JSON line a size. CPU counts everything that both processes
do: links, gossip, events, and the publishers' signatures (one in ten deliveries); `--verify` adds the origin's check.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

PROCESSES = 2
NODES_PER_PROCESS = 5
NODES = PROCESSES * NODES_PER_PROCESS
STEPS = (1, 2)
"""On a ring, each node is linked with the next and the one after: degree 4."""
LIMIT_S = 120.0
DIAL_LIMIT_S = 5.0


class Workers:
    """The processes with the nodes; each takes a line and answers with a line."""

    def __init__(self, verify: bool) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", str(number), *(["--verify"] if verify else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]

    def ask(self, *requests: object) -> list[Any]:
        """Sends a request to each, and waits for all answers."""
        for process, request in zip(self._processes, requests, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout is not None]

    def end(self) -> None:
        for process in self._processes:
            process.communicate("", timeout=LIMIT_S)


def measure(messages: int, size: int, verify: bool) -> dict[str, object]:
    workers = Workers(verify)
    try:
        # Even nodes in one process, odd ones in the other, so that half of the links cross.
        places = [place for pair in zip(*workers.ask("listen", "listen"), strict=True) for place in pair]
        dials = [[index, places[(index + step) % NODES]] for index in range(NODES) for step in STEPS]
        workers.ask(*([dial for dial in dials if dial[0] % PROCESSES == number] for number in range(PROCESSES)))
        results = workers.ask(*[{"each": messages // NODES, "size": size}] * PROCESSES)
    finally:
        workers.end()
    deliveries = messages // NODES * NODES * NODES
    elapsed_s = max(result["elapsed_s"] for result in results)
    return {
        "bench": "broadcast",
        "nodes": NODES,
        "degree": 2 * len(STEPS),
        "processes": PROCESSES,
        "size": size,
        "messages": messages,
        "verify_origin": verify,
        "messages_per_s": round(messages / elapsed_s, 1),
        "cpu_us_per_delivery": round(sum(result["cpu_s"] for result in results) / deliveries * 1e6, 1),
        "copies_per_node": round(sum(result["copies"] for result in results) / deliveries, 2),
        "elapsed_s": round(elapsed_s, 3),
    }


def work(number: int, verify: bool) -> None:
    """A process with nodes, driven by lines on stdin."""
    from kodectl.core.identity import Identity
    from kodectl.node.broadcast import Broadcast
    from kodectl.node.events import Events
    from kodectl.node.handshake import LocalEnd
    from kodectl.node.link import Link, accept, dial
    from kodectl.node.peer import Peer
    from kodectl.runtime.base import Stream
    from kodectl.runtime.green import GreenRuntime
    from kodectl.wire.announcement import Ports
    from kodectl.wire.messages import BroadcastMode, Hello, MessageKind
    from kodectl.wire.suite import RealSuite

    runtime = GreenRuntime()
    scope = runtime.scope("bench")
    hello = Hello((1,), "kodectl/bench", "bench", ("gossip", "sync"), Ports(0, 0))

    class Member:
        """A node's broadcasts and links; stands in for Peering, so that the mesh is the one that was asked for."""

        def __init__(self, index: int) -> None:
            self.handlers: dict[int, Any] = {}
            self.on_connected: list[Any] = []
            self.on_disconnected: list[Any] = []
            identity = Identity(RealSuite(), bytes([index + 1]) * 32)
            self.local = LocalEnd(identity, os.urandom(32))
            self.broadcast = Broadcast(runtime, identity, Events(runtime), scope, self, verify_origin=verify)  # type: ignore[arg-type]
            self.broadcast.start()
            self.listener = runtime.listen(("127.0.0.1", 0), self._accept)
            self.place = [identity.node_id.hex(), self.listener.local[1]]

        def _accept(self, stream: Stream) -> None:
            scope.spawn("inbound", lambda: self.serve(accept(runtime, self.local, stream, hello)))

        def dial(self, node_id: str, port: int) -> None:
            stream = runtime.connect(("127.0.0.1", port), DIAL_LIMIT_S)
            link = dial(runtime, self.local, stream, bytes.fromhex(node_id), hello)
            scope.spawn("outbound", self.serve, link)

        def serve(self, link: Link) -> None:
            peer = Peer(link, None)
            for connected in self.on_connected:
                connected(peer)
            try:
                link.run(lambda _link, kind, body: self.handlers[kind](peer, body))
            finally:
                for disconnected in self.on_disconnected:
                    disconnected(peer)

        def distrust(self, node_id: bytes) -> None:
            print("distrusts", node_id.hex(), file=sys.stderr)

        def publish(self, count: int, size: int) -> None:
            for _ in range(count):
                self.broadcast.publish(MessageKind.TRANSACTION, os.urandom(size), BroadcastMode.GOSSIP)

        @property
        def counters(self) -> dict[str, int]:
            return self.broadcast.counters()

    members = {index: Member(index) for index in range(number, NODES, PROCESSES)}

    def request() -> Any:
        return json.loads(runtime.in_thread(sys.stdin.readline))

    def answer(value: object) -> None:
        print(json.dumps(value), flush=True)

    request()
    answer([member.place for member in members.values()])
    for index, (node_id, port) in request():
        members[index].dial(node_id, port)
    answer("linked")
    order = request()
    began, cpu_began = time.monotonic(), time.process_time()
    for member in members.values():
        scope.spawn("publish", member.publish, order["each"], order["size"])
    while any(member.counters["delivered"] < order["each"] * NODES for member in members.values()):
        if time.monotonic() - began > LIMIT_S:
            raise SystemExit(f"not complete after {LIMIT_S:g} s: {[member.counters for member in members.values()]}")
        scope.sleep(0.01)
    elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    copies = sum(member.counters["accepted"] + member.counters["duplicates"] for member in members.values())
    answer({"elapsed_s": elapsed_s, "cpu_s": cpu_s, "copies": copies})
    # Until the other process is complete too.
    runtime.in_thread(sys.stdin.read)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--sizes", default="200,10000")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.verify)
        return
    for size in map(int, options.sizes.split(",")):
        print(json.dumps(measure(options.messages, size, options.verify)), flush=True)


if __name__ == "__main__":
    main()
