"""kodectl, spoken to as bench/beside.py speaks to every peer: see there."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from math import inf
from typing import Any

from kodectl.core.identity import Identity
from kodectl.core.limits import SharedBudget, TokenBucket
from kodectl.node.discovery import Discovery
from kodectl.node.kademlia import Kademlia
from kodectl.node.values import Values
from kodectl.runtime.base import Address
from kodectl.runtime.green import GreenRuntime
from kodectl.wire import packets, rpc
from kodectl.wire.contacts import Contact, unpack_contacts
from kodectl.wire.suite import RealSuite

LOOPBACK = ("127.0.0.1", 0)
K = 16


def question(what: str) -> rpc.Ping | rpc.FindNode:
    return rpc.Ping(packets.FLAG_CLIENT, 0) if what == "ping" else rpc.FindNode(os.urandom(32))


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def node(runtime: GreenRuntime, flags: int = 0) -> tuple[Discovery, Address]:
    discovery = Discovery(runtime, Identity(RealSuite(), os.urandom(32)), flags)
    return discovery, discovery.open(LOOPBACK)


def serve(contacts: int) -> None:
    runtime = GreenRuntime()
    discovery, address = node(runtime)
    discovery.request_budget = SharedBudget(TokenBucket(inf, inf), inf, inf)
    kademlia = Kademlia(runtime, discovery, runtime.scope("bench"))
    for number in range(contacts):
        contact = Contact(os.urandom(32), f"127.{1 + number % 250}.{number // 250}.1", 1, 1)
        kademlia.table.heard(contact, runtime.now())
    say(ready=address[1], id=discovery.identity.node_id.hex(), table=len(kademlia.table))
    runtime.in_thread(sys.stdin.read)
    os._exit(0)


def ask(what: str, port: int, node_id: str, under_way: int, warm_up_s: float, seconds: float) -> None:
    runtime = GreenRuntime()
    client, _ = node(runtime, packets.FLAG_CLIENT)
    answers, told = [0, 0], [0]
    scope = runtime.scope("asker")

    def keep_asking() -> None:
        while True:
            found = client.ask(bytes.fromhex(node_id), ("127.0.0.1", port), question(what))
            answers[0 if found else 1] += 1
            if found and isinstance(found.body, rpc.Nodes):
                told[0] = len(unpack_contacts(found.body.contacts, K))

    for _ in range(under_way):
        scope.spawn(what, keep_asking)
    for pause_s in (warm_up_s, seconds):
        scope.sleep(pause_s)
        say(answers=answers[0], failures=answers[1], contacts=told[0])
    os._exit(0)


def crowd(count: int) -> None:
    """Resident memory before and after `count` nodes that know 20 contacts each."""
    runtime = GreenRuntime()
    scope = runtime.scope("bench")
    kept = []

    def add(number_of_nodes: int) -> None:
        for _ in range(number_of_nodes):
            discovery, _ = node(runtime)
            kademlia = Kademlia(runtime, discovery, scope)
            for number in range(20):
                kademlia.table.heard(Contact(os.urandom(32), f"127.{1 + number}.0.1", 1, 1), runtime.now())
            kept.append((discovery, kademlia))

    add(5)
    before = resident()
    add(count)
    say(bytes_per_node=(resident() - before) / count, contacts=min(len(kademlia.table) for _, kademlia in kept))
    os._exit(0)


def network(count: int, number: int) -> None:
    """`count` nodes at work, which do one errand after the other."""
    runtime = GreenRuntime()
    scope = runtime.scope("network")
    nodes: list[tuple[Discovery, Kademlia, Values]] = []
    places = []
    for _ in range(count):
        discovery, (ip, port) = node(runtime)
        kademlia = Kademlia(runtime, discovery, scope)
        values = Values(runtime, discovery, kademlia, scope)
        kademlia.start()
        values.start()
        nodes.append((discovery, kademlia, values))
        places.append([ip, port, discovery.identity.node_id.hex()])
    say(places=places)

    def join(first: list[Any], settle_s: float) -> dict[str, object]:
        ip, port, node_id = first
        for discovery, kademlia, _ in nodes:
            if discovery.identity.node_id.hex() != node_id:
                discovery.ask(bytes.fromhex(node_id), (ip, port), kademlia.ping_body())
                kademlia.join()
        scope.sleep(settle_s)
        return {"joined": min(len(kademlia.table) for _, kademlia, _ in nodes)}

    def look_up(at: tuple[Discovery, Kademlia, Values], target: str) -> bool:
        return len(at[1].find(bytes.fromhex(target), stop_at_target=False).closest) == K

    def put(at: tuple[Discovery, Kademlia, Values], key: str, value: str) -> bool:
        _, stored, _ = at[2].put(bytes.fromhex(key).ljust(32), bytes.fromhex(value), 3600.0)
        return stored > 0

    def get(at: tuple[Discovery, Kademlia, Values], key: str, value: str) -> bool:
        return bytes.fromhex(value) in [record.value for record in at[2].get(bytes.fromhex(key).ljust(32))]

    errands = {"look_up": look_up, "put": put, "get": get}
    while True:
        order = json.loads(runtime.in_thread(sys.stdin.readline))
        what = order.pop("do")
        if what == "join":
            say(**join(**order))
        elif what == "weigh":
            say(bytes=resident())
        else:
            began = time.perf_counter()
            is_done = errands[what](nodes[order["node"]], *order["with"])
            say(ms=(time.perf_counter() - began) * 1e3 if is_done else None)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


ROLES: dict[str, Callable[..., None]] = {"serve": serve, "ask": ask, "crowd": crowd, "network": network}

if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    ROLES[order.pop("role")](**order)
