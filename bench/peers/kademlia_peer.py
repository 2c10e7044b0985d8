"""PyPI's kademlia, spoken to as bench/beside.py speaks to every peer: see there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from kademlia.crawling import NodeSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol

CALLS = {
    "ping": lambda protocol, to: protocol.ping(to, protocol.source_node.id),
    "find_node": lambda protocol, to: protocol.find_node(to, protocol.source_node.id, os.urandom(20)),
}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def node() -> tuple[Server, KademliaProtocol, int]:
    server = Server(ksize=16)
    await server.listen(0, "127.0.0.1")
    return server, server.protocol, server.transport.get_extra_info("sockname")[1]


def fill(protocol: KademliaProtocol, contacts: int) -> None:
    for number in range(contacts):
        protocol.router.add_contact(Node(os.urandom(20), f"127.{1 + number % 250}.{number // 250}.1", 1))


def in_table(protocol: KademliaProtocol) -> int:
    return sum(len(bucket) for bucket in protocol.router.buckets)


async def serve(contacts: int) -> None:
    _, protocol, port = await node()
    # Its table calls those that it evicts, and these are no hosts: filled once, it learns nobody more.
    fill(protocol, contacts)
    protocol.welcome_if_new = lambda source: None
    say(ready=port, id=protocol.source_node.id.hex(), table=in_table(protocol))
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


async def ask(what: str, port: int, node_id: str, under_way: int, warm_up_s: float, seconds: float) -> None:
    _, protocol, _ = await node()
    answers, told = [0, 0], [0]

    async def keep_asking() -> None:
        while True:
            good, found = await CALLS[what](protocol, ("127.0.0.1", port))
            answers[0 if good else 1] += 1
            if good and isinstance(found, list):
                told[0] = len(found)

    kept = [asyncio.create_task(keep_asking()) for _ in range(under_way)]
    for pause_s in (warm_up_s, seconds):
        await asyncio.wait(kept, timeout=pause_s)
        say(answers=answers[0], failures=answers[1], contacts=told[0])
    os._exit(0)


async def crowd(count: int) -> None:
    kept = []

    async def add(number_of_nodes: int) -> None:
        for _ in range(number_of_nodes):
            server, protocol, _ = await node()
            fill(protocol, 20)
            kept.append(server)

    await add(5)
    before = resident()
    await add(count)
    say(bytes_per_node=(resident() - before) / count, contacts=min(in_table(server.protocol) for server in kept))
    os._exit(0)


async def network(count: int, number: int) -> None:
    made = [await node() for _ in range(count)]
    servers = [server for server, _, _ in made]
    say(places=[["127.0.0.1", port, protocol.source_node.id.hex()] for _, protocol, port in made])

    async def look_up(server: Server, target: str) -> bool:
        wanted = Node(bytes.fromhex(target)[:20])
        nearest = server.protocol.router.find_neighbors(wanted)
        return len(await NodeSpiderCrawl(server.protocol, wanted, nearest, server.ksize, server.alpha).find()) == 16

    async def put(server: Server, key: str, value: str) -> bool:
        return bool(await server.set(key, value))

    async def get(server: Server, key: str, value: str) -> bool:
        return await server.get(key) == value

    errands = {"look_up": look_up, "put": put, "get": get}
    while True:
        order = json.loads(await asyncio.to_thread(sys.stdin.readline))
        what = order.pop("do")
        if what == "join":
            for server in servers:
                await server.bootstrap([tuple(order["first"][:2])])
            await asyncio.sleep(order["settle_s"])
            say(joined=min(map(in_table, [server.protocol for server in servers])))
        elif what == "weigh":
            say(bytes=resident())
        else:
            began = time.perf_counter()
            is_done = await errands[what](servers[order["node"]], *order["with"])
            say(ms=(time.perf_counter() - began) * 1e3 if is_done else None)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    asyncio.run({"serve": serve, "ask": ask, "crowd": crowd, "network": network}[order.pop("role")](**order))
