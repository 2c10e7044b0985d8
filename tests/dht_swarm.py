"""Many DHT nodes in one process, on loopback addresses of their own, that know each other from the start: something to crawl.

`python dht_swarm.py LIVE DEAD LIARS` prints the first one's enode and all ids as JSON, and answers until stdin ends. The dead
are in the tables, and nowhere else; liars name nodes that there are none of, for ever others."""

from __future__ import annotations

import json
import random
import sys
from types import MethodType
from typing import Any

SEED = 7
REACHED = 60
"""How many others each has heard of, in the mean; their tables do the rest."""


def address_of(number: int) -> str:
    return f"127.1.{number // 100}.{1 + number % 100}"


def main(live: int, dead: int, liars: int) -> None:
    from kodectl.core.identity import Identity
    from kodectl.node.discovery import Discovery
    from kodectl.node.kademlia import Kademlia
    from kodectl.runtime.green import GreenRuntime
    from kodectl.wire.contacts import Contact
    from kodectl.wire.enode import Enode
    from kodectl.wire.suite import RealSuite

    rng = random.Random(SEED)
    runtime = GreenRuntime()
    suite = RealSuite()
    tables: list[Any] = []
    everybody = [Contact(rng.randbytes(32), address_of(live + number), 9, 0) for number in range(dead)]
    for number in range(live):
        discovery = Discovery(runtime, Identity(suite, rng.randbytes(32)))
        kademlia = Kademlia(runtime, discovery, runtime.scope(f"node {number}"))
        ip, port = discovery.open((address_of(number), 0))
        everybody.append(Contact(discovery.identity.node_id, ip, port, 0))
        tables.append(kademlia)
        if live - number <= liars:
            kademlia.closest_packed = MethodType(lying, kademlia)  # type: ignore[method-assign]
    for kademlia in tables:
        for contact in rng.sample(everybody, min(len(everybody), REACHED)):
            kademlia.table.heard(contact, runtime.now())
    for before, after in zip(tables[-1:] + tables[:-1], everybody[dead:], strict=True):
        before.table.heard(after, runtime.now())  # a ring, so that nobody is unheard of
    first = everybody[dead]
    told = {
        "enode": str(Enode(first.node_id, first.ip, 0, first.address[1])),
        "live": [contact.node_id.hex() for contact in everybody[dead:]],
        "dead": [contact.node_id.hex() for contact in everybody[:dead]],
    }
    print(json.dumps(told), flush=True)
    runtime.in_thread(sys.stdin.read)


def lying(kademlia: Any, target: bytes, limit: int = 16) -> bytes:
    """Ids near to what was asked for, so that one question follows another, at addresses where nobody is."""
    from kodectl.wire.contacts import Contact, pack_contacts

    made_up = (
        Contact(target[:3] + random.randbytes(29), f"127.9.{random.randrange(250)}.{random.randrange(1, 250)}", 9, 0)
        for _ in range(16)
    )
    return bytes(pack_contacts(made_up))


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    main(*map(int, sys.argv[1:4]))
