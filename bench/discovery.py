"""What an authenticated request costs the node that answers: ping, and find_node from a full table.

    python bench/discovery.py

One JSON line each: CPU microseconds per request of the answering process, beside those of a bare UDP echo of the same
size in the same run. The asker is another process, with 16 questions under way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from math import inf

from kodectl.core.identity import Identity
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.node.discovery import Discovery
from kodectl.node.kademlia import Kademlia
from kodectl.runtime.base import Address
from kodectl.runtime.green import GreenRuntime
from kodectl.wire import packets, rpc
from kodectl.wire.contacts import Contact
from kodectl.wire.suite import RealSuite

SECONDS = 4.0
UNDER_WAY = 16
ECHO_SIZE = 100
QUESTIONS = {"ping": lambda: rpc.Ping(packets.FLAG_CLIENT, 0), "find_node": lambda: rpc.FindNode(os.urandom(32))}


def main() -> None:
    runtime = GreenRuntime()
    server = Discovery(runtime, Identity(RealSuite(), os.urandom(32)))
    server.request_budget = SharedBudget(TokenBucket(inf, inf), inf, inf)
    kademlia = Kademlia(runtime, server, runtime.scope("bench"))
    for number in range(400):
        kademlia.table.heard(Contact(os.urandom(32), f"127.{1 + number % 250}.{number // 250}.1", 1, 1), runtime.now())
    echoed = [0]
    address = server.open(("127.0.0.1", 0))

    def echo(data: bytes, sender: Address) -> None:
        echoed[0] += 1
        socket.send(data, sender)

    socket = runtime.open_datagram(("127.0.0.1", 0), echo)
    bare = measure(runtime, lambda: echoed[0], "echo", socket.local, server.identity.node_id)
    print(json.dumps({"what": "udp echo", "server_cpu_us": round(bare, 2), "bytes": ECHO_SIZE}))
    for name in QUESTIONS:
        cost = measure(runtime, lambda: server.counters["requests_served"], name, address, server.identity.node_id)
        line = {"what": name, "server_cpu_us": round(cost, 2), "ratio_to_echo": round(cost / bare, 2)}
        print(json.dumps({**line, "table": len(kademlia.table)}))


def measure(runtime: GreenRuntime, served, what: str, address: Address, node_id: bytes) -> float:
    """Runs the asker and returns CPU microseconds per request served meanwhile."""
    command = [sys.executable, __file__, what, str(address[1]), node_id.hex()]
    asker = subprocess.Popen(command)
    runtime.event().wait(1.0)
    cpu, count = time.process_time(), served()
    runtime.event().wait(SECONDS)
    cost = (time.process_time() - cpu) / max(1, served() - count) * 1e6
    while asker.poll() is None:
        runtime.event().wait(0.1)
    return cost


def ask(what: str, port: int, node_id: bytes) -> None:
    runtime = GreenRuntime()
    until = runtime.now() + SECONDS + 2.0
    if what == "echo":
        socket = runtime.open_datagram(("127.0.0.1", 0), lambda data, sender: socket.send(data, sender))
        for _ in range(UNDER_WAY):
            socket.send(bytes(ECHO_SIZE), ("127.0.0.1", port))
        runtime.event().wait(until - runtime.now())
        return
    client = Discovery(runtime, Identity(RealSuite(), os.urandom(32)), packets.FLAG_CLIENT)
    client.open(("127.0.0.1", 0))
    scope = runtime.scope("asker")

    def keep_asking() -> None:
        while runtime.now() < until:
            client.ask(node_id, ("127.0.0.1", port), QUESTIONS[what]())

    for _ in range(UNDER_WAY):
        scope.spawn(what, keep_asking)
    scope.join()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        ask(sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3]))
    else:
        main()
