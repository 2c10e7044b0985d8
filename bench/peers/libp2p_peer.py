"""py-libp2p (TCP, Noise, Yamux; gossipsub), spoken to as bench/beside speaks to every peer: see there."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_pair
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service.context import background_trio_service
from multiaddr import Multiaddr

LISTEN = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
TAKE = "/bench/take/1"
GOSSIP = "/meshsub/1.1.0"
CHUNK = 61_440
SMALL = 200
SET_UPS = 7


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def host():
    keys = create_new_key_pair()
    noise = NoiseTransport(libp2p_keypair=keys, noise_privkey=x25519_pair().private_key)
    return new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt={YAMUX: Yamux})


def place_of(one) -> list[str]:
    return [str(one.get_addrs()[0]), str(one.get_id())]


async def connect(one, place: list[str]) -> ID:
    peer = ID.from_base58(place[1])
    address = Multiaddr(place[0].split("/p2p/")[0])
    await one.connect(PeerInfo(peer, [address]))
    return peer


# -- one connection ----------------------------------------------------------------------------------------------------


async def take() -> None:
    """Reads what comes, and tells how much when it ends."""
    one = host()

    async def taken(stream) -> None:
        # The size of all comes first; then that much.
        size = int.from_bytes(await stream.read(8), "big")
        got = 0
        while got < size:
            got += len(await stream.read(CHUNK * 4))
        await stream.write(got.to_bytes(8, "big"))

    async with one.run(LISTEN):
        one.set_stream_handler(TAKE, taken)
        print(json.dumps(place_of(one)), flush=True)
        await trio.sleep_forever()


async def give() -> None:
    one = host()
    async with one.run(LISTEN):
        say(ready=True)
        while True:
            order = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
            what = order["do"]
            if what == "set_up":
                say(ms=await set_up(order["place"]))
                continue
            size = CHUNK if what == "bulk" else SMALL
            rate = await send(one, order["place"], size, order["seconds"])
            say(bytes_per_s=rate * size, messages_per_s=rate)


async def send(one, place: list[str], size: int, seconds: float) -> float:
    """Messages a second. How many are sent is found out by a first round, since the stream says first how long it is."""
    peer = await connect(one, place)
    count, elapsed_s = 64, 0.0
    while elapsed_s < seconds / 2:
        stream = await one.new_stream(peer, [TAKE])
        piece = os.urandom(size)
        began = time.perf_counter()
        await stream.write((count * size).to_bytes(8, "big"))
        for _ in range(count):
            await stream.write(piece)
        await stream.read(8)
        elapsed_s = time.perf_counter() - began
        rate = count / elapsed_s
        count = max(count * 2, int(rate * seconds)) if elapsed_s < seconds / 2 else count
        await stream.close()
    return rate


async def set_up(place: list[str]) -> float:
    taken = []
    for _ in range(SET_UPS):
        one = host()
        async with one.run(LISTEN):
            began = time.perf_counter()
            await connect(one, place)
            taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


# -- a mesh ------------------------------------------------------------------------------------------------------------


async def mesh(count: int, number: int) -> None:
    """Gossipsub with a degree of 4, and all links of the ring."""
    async with trio.open_nursery() as nursery:
        members = [await member(nursery) for _ in range(count)]
        say(places=[place_of(one) for one, _ in members])
        order = await ordered()
        for index, place in order["links"]:
            await connect(members[index][0], place)
        subscriptions = [await pubsub.subscribe("bench") for _, pubsub in members]
        await trio.sleep(5.0)  # for the heartbeats that make the mesh
        say(linked=True)
        order = await ordered()
        wanted = order["each"] * 10
        got = [0] * count
        began, cpu_began = time.perf_counter(), time.process_time()
        last = [began]

        async def deliver(index: int) -> None:
            while got[index] < wanted:
                await subscriptions[index].get()
                got[index] += 1
                last[0] = time.perf_counter()

        async def publish(pubsub) -> None:
            for _ in range(order["each"]):
                await pubsub.publish("bench", os.urandom(order["size"]))

        with trio.move_on_after(order["seconds"]):
            async with trio.open_nursery() as work:
                for index in range(count):
                    work.start_soon(deliver, index)
                for _, pubsub in members:
                    work.start_soon(publish, pubsub)
        say(delivered=sum(got), elapsed_s=last[0] - began, cpu_s=time.process_time() - cpu_began)
        await trio.sleep_forever()


async def ordered():
    return json.loads(await trio.to_thread.run_sync(sys.stdin.readline))


async def member(nursery):
    one = host()
    # Its protection against spam lets ten messages a second through.
    router = GossipSub(
        [GOSSIP],
        4,
        3,
        5,
        heartbeat_initial_delay=0.1,
        heartbeat_interval=1,
        spam_protection_enabled=False,
        eclipse_protection_enabled=False,
    )
    pubsub = Pubsub(one, router, strict_signing=True)
    started = trio.Event()

    async def live() -> None:
        async with one.run(LISTEN), background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            started.set()
            await trio.sleep_forever()

    nursery.start_soon(live)
    await started.wait()
    return one, pubsub


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    roles = {"take": take, "give": give, "mesh": mesh}
    role = roles[order.pop("role")]
    trio.run(lambda: role(**order))
