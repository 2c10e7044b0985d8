"""pyipv8, spoken to as bench/beside.py speaks to every peer: see there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time

from ipv8.community import Community, CommunitySettings
from ipv8.dht import DHTError, routing
from ipv8.dht.community import DHTCommunity
from ipv8.keyvault.crypto import default_eccrypto
from ipv8.lazy_community import lazy_wrapper
from ipv8.messaging.interfaces.udp.endpoint import UDPEndpoint, UDPv4Address
from ipv8.messaging.lazy_payload import VariablePayload
from ipv8.peer import Peer
from ipv8.peerdiscovery.network import Network

UNDER_WAY = 300
"""More messages are lost in the kernel's queues, and nobody repeats them."""
SO_RCVBUFFORCE = 33
QUEUE_BYTES = 16 * 1024 * 1024
"""Root may; with what the others may have, two thirds of that were lost."""
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


async def network(count: int, number: int) -> None:
    made = [await node() for _ in range(count)]
    communities = [community for community, _ in made]
    for community, own in made:
        community.my_estimated_wan = ("127.0.0.1", own)  # else it takes nobody into its table
    say(places=[["127.0.0.1", port, one.my_peer.public_key.key_to_bin().hex()] for one, port in made])

    async def look_up(community: DHTCommunity, target: str) -> bool:
        return bool(await community.find_nodes(bytes.fromhex(target)[:20]))

    async def put(community: DHTCommunity, key: str, value: str) -> bool:
        # A signed value of a hundred bytes is more than it stores (MAX_ENTRY_SIZE).
        return bool(await community.store_value(bytes.fromhex(key), bytes.fromhex(value)))

    async def get(community: DHTCommunity, key: str, value: str) -> bool:
        return any(data == bytes.fromhex(value) for data, _ in await community.find_values(bytes.fromhex(key)))

    errands = {"look_up": look_up, "put": put, "get": get}
    while True:
        order = json.loads(await asyncio.to_thread(sys.stdin.readline))
        what = order.pop("do")
        if what == "join":
            ip, port, key = order["first"]
            entry = routing.Node(default_eccrypto.key_from_public_bin(bytes.fromhex(key)), UDPv4Address(ip, port))
            for community in communities:
                if community.my_peer.public_key.key_to_bin().hex() != key:
                    community.on_node_discovered(bytes.fromhex(key), entry.address)
                    await asyncio.sleep(0.01)
                    for one in await community.find_nodes(community.get_my_node_id(entry)):
                        community.on_node_discovered(one.public_key.key_to_bin(), one.address)
            await asyncio.sleep(order["settle_s"])
            say(joined=min(map(in_table, communities)))
        elif what == "weigh":
            say(bytes=resident())
        else:
            began = time.perf_counter()
            try:
                is_done = await errands[what](communities[order["node"]], *order["with"])
            except DHTError:
                is_done = False
            say(ms=(time.perf_counter() - began) * 1e3 if is_done else None)


class Flooded(VariablePayload):
    msg_id = 1
    format_list = ("raw",)
    names = ("data",)


class FloodCommunity(Community):
    """Hands on what it has not seen to all neighbours but the one it came from; each packet is signed by who sends it."""

    community_id = b"kodectl bench flood "

    def __init__(self, settings: CommunitySettings) -> None:
        super().__init__(settings)
        self.add_message_handler(Flooded, self.on_flooded)
        self.neighbours: list[Peer] = []
        self.seen: set[bytes] = set()
        self.last = 0.0

    @lazy_wrapper(Flooded)
    def on_flooded(self, peer: Peer, payload: Flooded) -> None:
        self.spread(payload.data, peer)

    def spread(self, data: bytes, source: Peer | None) -> None:
        name = data[:16]
        if name in self.seen:
            return
        self.seen.add(name)
        self.last = time.perf_counter()
        for peer in self.neighbours:
            if source is None or peer.address != source.address:
                self.ez_send(peer, Flooded(data))


async def mesh(count: int, number: int) -> None:
    communities = []
    places = []
    for _ in range(count):
        endpoint = UDPEndpoint(port=0, ip="127.0.0.1")
        await endpoint.open()
        with contextlib.suppress(PermissionError):
            endpoint._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
        me = Peer(default_eccrypto.generate_key("curve25519"))
        settings = FloodCommunity.settings_class(my_peer=me, endpoint=endpoint, network=Network())
        communities.append(FloodCommunity(settings))
        places.append([*endpoint.get_address(), me.public_key.key_to_bin().hex()])
    say(places=places)
    order = json.loads(await asyncio.to_thread(sys.stdin.readline))
    for index, (ip, port, key) in order["links"]:
        communities[index].neighbours.append(
            Peer(default_eccrypto.key_from_public_bin(bytes.fromhex(key)), UDPv4Address(ip, port))
        )
    say(linked=True)
    order = json.loads(await asyncio.to_thread(sys.stdin.readline))
    wanted = order["each"] * 10
    began, cpu_began = time.perf_counter(), time.process_time()

    async def publish(community: FloodCommunity) -> None:
        for _ in range(order["each"]):
            while len(community.seen) < community.own * 10 - UNDER_WAY and time.perf_counter() < community.last + 1.0:
                await asyncio.sleep(0.001)
            community.own += 1
            community.spread(os.urandom(order["size"]), None)
            await asyncio.sleep(0)

    for community in communities:
        community.own, community.last = 0, began
    kept = [asyncio.create_task(publish(community)) for community in communities]
    while any(len(one.seen) < wanted for one in communities):
        await asyncio.sleep(0.01)
        if time.perf_counter() > max(one.last for one in communities) + 3.0:
            break
    ended = max(one.last for one in communities)
    say(
        delivered=sum(len(one.seen) for one in communities),
        elapsed_s=ended - began,
        cpu_s=time.process_time() - cpu_began,
    )
    await asyncio.gather(*kept)
    await asyncio.to_thread(sys.stdin.read)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    asyncio.run(
        {"serve": serve, "ask": ask, "crowd": crowd, "network": network, "mesh": mesh}[order.pop("role")](**order)
    )
