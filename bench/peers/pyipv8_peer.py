"""pyipv8, spoken to as bench/beside.py speaks to every peer: see there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from ipv8.dht import routing
from ipv8.dht.community import DHTCommunity
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

CALLS = {
    "ping": lambda community, to: community.ping(to),
    "find_node": lambda community, to: community._send_find_request(to, os.urandom(20), True),
}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def node() -> tuple[DHTCommunity, int]:
    # Else it answers ten questions of one node in five seconds: what is measured is what an answer costs.
    routing.Node.blocked = property(lambda self: False)
    endpoint = UDPEndpoint(port=0, ip="127.0.0.1")
    await endpoint.open()
    me = Peer(default_eccrypto.generate_key("curve25519"))
    community = DHTCommunity(DHTCommunity.settings_class(my_peer=me, endpoint=endpoint, network=Network()))
    return community, endpoint.get_address()[1]


def fill(community: DHTCommunity, contacts: int) -> None:
    for number in range(contacts):
        key = default_eccrypto.generate_key("curve25519").pub()
        contact = routing.Node(key, UDPv4Address(f"127.{1 + number % 250}.{number // 250}.1", 1))
        contact.last_response = time.time()  # it tells others only of those that answered lately
        community.get_routing_table(contact).add(contact)


def in_table(community: DHTCommunity) -> int:
    return sum(len(bucket.nodes) for table in community.routing_tables.values() for bucket in table.trie.values())


async def serve(contacts: int) -> None:
    community, port = await node()
    fill(community, contacts)
    say(ready=port, id=community.my_peer.public_key.key_to_bin().hex(), table=in_table(community))
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


async def ask(what: str, port: int, node_id: str, under_way: int, warm_up_s: float, seconds: float) -> None:
    community, _ = await node()
    to = routing.Node(bytes.fromhex(node_id), UDPv4Address("127.0.0.1", port))
    answers, told = [0, 0], [0]

    async def keep_asking() -> None:
        while True:
            found = await CALLS[what](community, to)
            answers[1 if found is None else 0] += 1
            if isinstance(found, dict):
                told[0] = len(found.get("nodes", ()))

    kept = [asyncio.create_task(keep_asking()) for _ in range(under_way)]
    for pause_s in (warm_up_s, seconds):
        await asyncio.wait(kept, timeout=pause_s)
        say(answers=answers[0], failures=answers[1], contacts=told[0])
    os._exit(0)


async def crowd(count: int) -> None:
    kept = []

    async def add(number_of_nodes: int) -> None:
        for _ in range(number_of_nodes):
            community, _ = await node()
            fill(community, 20)
            kept.append(community)

    await add(5)
    before = resident()
    await add(count)
    say(bytes_per_node=(resident() - before) / count, contacts=min(map(in_table, kept)))
    os._exit(0)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    asyncio.run({"serve": serve, "ask": ask, "crowd": crowd}[order.pop("role")](**order))
