"""What is measured, of which peers, and against which mark."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from programs import PACKAGES, PEERS, Failed, Program, last_line, program, programs

CONTACTS = 400
UNDER_WAY = 16
WARM_UP_S = 1.0
CROWD = 50
PROCESSES = 4
NODES_EACH = 25
SETTLE_S = 10.0
FEW, MANY = 10, 100
LOOKUPS = 200
VALUES = 100
VALUE_SIZE = 100
MESHED = 10
DEGREE = 4
FEWER = 15
"""Times fewer messages, for a peer whose queues drop what comes at once."""
MESSAGES = {200: 3000, 10_000: 1500}
OPERATED_S = 20
Figures = dict[str, dict[str, float]]
"""By the name of the figure: `value`, and what else belongs to it."""


class Figure(NamedTuple):
    unit: str
    mark: str
    is_rate: bool = False
    """More is better."""


class Row(NamedTuple):
    """One measurement, which may give several figures."""

    peers: tuple[str, ...]
    figures: dict[str, Figure]
    measure: Callable[[str, str, float], Figures]
    """With the Python and the name of the peer, and the seconds of a window."""


# -- one node asked ----------------------------------------------------------------------------------------------------


def questions(python: str, peer: str, seconds: float) -> Figures:
    return {what: question(python, peer, what, seconds) for what in ("ping", "find_node")}


def question(python: str, peer: str, what: str, seconds: float) -> dict[str, float]:
    with program(python, peer, role="serve", contacts=CONTACTS) as server:
        ready = server.answer()
        order = {"what": what, "port": ready["ready"], "node_id": ready["id"], "under_way": UNDER_WAY}
        with program(python, peer, role="ask", warm_up_s=WARM_UP_S, seconds=seconds, **order) as asker:
            began, cpu_began = asker.answer(), server.cpu_s()
            ended, cpu_ended = asker.answer(), server.cpu_s()
    answers = ended["answers"] - began["answers"]
    if not answers:
        raise Failed(f"no {what} was answered")
    return {
        "value": (cpu_ended - cpu_began) / answers * 1e6,
        "rate": answers / seconds,
        "failures": ended["failures"],
        "table": ready["table"],
        "contacts": ended["contacts"],
    }


def crowd(python: str, peer: str, seconds: float) -> Figures:
    with program(python, peer, role="crowd", count=CROWD) as process:
        found = process.answer()
    return {"memory_fresh": {"value": found["bytes_per_node"] / 1000, "contacts": found["contacts"]}}


# -- a network ---------------------------------------------------------------------------------------------------------


def network(python: str, peer: str, seconds: float) -> Figures:
    """A hundred nodes: each looks for others and for values that others have put, one after the other."""
    rng = random.Random(1)
    with programs(python, peer, PROCESSES, role="network", count=NODES_EACH) as members:
        places = [one.answer()["places"] for one in members]
        first = places[0][0]
        for one in members:
            one.tell({"do": "join", "first": first, "settle_s": SETTLE_S})
        for one in members:
            one.answer()
        looked = ask_in_turn(members, "look_up", [[rng.randbytes(32).hex()] for _ in range(LOOKUPS)], rng)
        entries = [[rng.randbytes(20).hex(), rng.randbytes(VALUE_SIZE).hex()] for _ in range(VALUES)]
        put = ask_in_turn(members, "put", entries, rng)
        got = ask_in_turn(members, "get", entries, rng)
        cpu_s = sum(one.cpu_s() for one in members)
    return {
        "lookup": {**times(looked), "p95": percentile(looked, 0.95), "cpu_s_of_all": cpu_s},
        "lookup_p95": {"value": percentile(looked, 0.95)},
        "put": times(put),
        "get": times(got),
        "memory": {"value": weight(python, peer) / 1000},
    }


def weight(python: str, peer: str) -> float:
    """Bytes of a node that has worked: a process with many beside one with few, which has what all have in common."""
    few, many = (weighed(python, peer, count) for count in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def weighed(python: str, peer: str, count: int) -> float:
    rng = random.Random(1)
    with program(python, peer, role="network", count=count, number=0) as process:
        places = process.answer()["places"]
        process.ask({"do": "join", "first": places[0], "settle_s": SETTLE_S / 2})
        for number in range(count):
            entry = [rng.randbytes(20).hex(), rng.randbytes(VALUE_SIZE).hex()]
            for what, order in (("look_up", [rng.randbytes(32).hex()]), ("put", entry), ("get", entry)):
                process.ask({"do": what, "node": number, "with": order})
        return float(process.ask({"do": "weigh"})["bytes"])


def ask_in_turn(members: Sequence[Program], what: str, orders: list[list[str]], rng: random.Random) -> list[Any]:
    """Each from a random node: [ms or null where it came to nothing]."""
    return [
        rng.choice(members).ask({"do": what, "node": rng.randrange(NODES_EACH), "with": order})["ms"]
        for order in orders
    ]


def times(outcomes: list[float | None]) -> dict[str, float]:
    done = [ms for ms in outcomes if ms is not None]
    if not done:
        raise Failed("nothing was found")
    return {"value": statistics.median(done), "success": len(done) / len(outcomes)}


def percentile(outcomes: list[float | None], share: float) -> float:
    done = sorted(ms for ms in outcomes if ms is not None)
    if not done:
        raise Failed("nothing was found")
    return done[min(len(done) - 1, int(share * len(done)))]


# -- a broadcast -------------------------------------------------------------------------------------------------------


def broadcast(python: str, peer: str, seconds: float) -> Figures:
    return {f"broadcast_{size}": spread(python, peer, size) for size in MESSAGES}


def spread(python: str, peer: str, size: int) -> dict[str, float]:
    return spread_by_program(python, peer, size) if peer in PACKAGES else spread_by_kodectl(peer, size)


def spread_by_kodectl(peer: str, size: int) -> dict[str, float]:
    verify = [] if peer == "kodectl_unverified" else ["--verify"]
    [found] = script("broadcast.py", "--messages", str(MESSAGES[size]), "--sizes", str(size), *verify)
    return {
        "value": found["messages_per_s"],
        "complete": 1.0,
        "cpu_us_per_delivery": found["cpu_us_per_delivery"],
        "copies": found["copies_per_node"],
    }


def spread_by_program(python: str, peer: str, size: int) -> dict[str, float]:
    """Ten nodes, five in each of two processes, on a ring where each is linked with the next two: degree 4."""
    with programs(python, peer, 2, role="mesh", count=MESHED // 2) as members:
        # Who has no connections is told of its neighbours on both sides.
        steps = (1, 2, -1, -2) if peer == "pyipv8" else (1, 2)
        even, odd = (one.answer()["places"] for one in members)
        places = [place for pair in zip(even, odd, strict=True) for place in pair]
        links = [[index, places[(index + step) % MESHED]] for index in range(MESHED) for step in steps]
        for number, one in enumerate(members):
            one.tell({"do": "link", "links": [[i // 2, place] for i, place in links if i % 2 == number]})
        for one in members:
            one.answer()
        each = MESSAGES[size] // MESHED // (FEWER if peer == "libp2p" else 1)
        order = {"do": "publish", "each": each, "size": size, "seconds": 60.0}
        for one in members:
            one.tell(order)
        ended = [one.answer() for one in members]
    messages = each * MESHED
    delivered = sum(one["delivered"] for one in ended)
    elapsed_s = max(one["elapsed_s"] for one in ended)
    return {
        "value": delivered / MESHED / elapsed_s,
        "complete": delivered / (messages * MESHED),
        "cpu_us_per_delivery": sum(one["cpu_s"] for one in ended) / max(1, delivered) * 1e6,
    }


# -- one connection ----------------------------------------------------------------------------------------------------


def connection(python: str, peer: str, seconds: float) -> Figures:
    """Writes of 60 KiB that cannot be compressed, and messages of 200 bytes; from the dial to the end of the handshake."""
    if peer not in PACKAGES:
        found = {line["what"]: line for line in script("link.py", "--seconds", str(seconds))}
        return {
            "bulk": {"value": found["link bulk_60KiB"]["mb_per_s"]},
            "small": {"value": found["link transactions_200B"]["messages_per_s"]},
            "set_up": {"value": found["set-up"]["median_ms"]},
            "idle_link": {"value": found["idle link"]["kib_per_link"] * 1.024},
        }
    with program(python, peer, role="take") as taker, program(python, peer, role="give") as giver:
        place = taker.answer()
        giver.answer()
        found = {
            what: giver.ask({"do": what, "place": place, "seconds": seconds}) for what in ("bulk", "small", "set_up")
        }
    return {
        "bulk": {"value": found["bulk"]["bytes_per_s"] / 1e6},
        "small": {"value": found["small"]["messages_per_s"]},
        "set_up": {"value": found["set_up"]["ms"]},
    }


# -- kodectl alone -----------------------------------------------------------------------------------------------------


def hub(python: str, peer: str, seconds: float) -> Figures:
    [found] = script("operated.py", "--seconds", str(OPERATED_S), "--rate", "5000", "--peers", "50")
    return {"hub_delay": {"value": found["hub_delay_ms"]["p99"], "messages_per_s": found["sent_per_s"]}}


def simulator(python: str, peer: str, seconds: float) -> Figures:
    """A thousand nodes that join one after the other, and a thousand lookups."""
    from kodectl.sim.dht import DhtNetwork
    from kodectl.sim.garbage import seldom_collected
    from kodectl.sim.network import PathModel

    began = time.perf_counter()
    dht = DhtNetwork(1000, seed=1, model=PathModel(loss=0.02))
    with seldom_collected(), dht.world:
        dht.build()
        built = time.perf_counter()
        found = dht.lookups(1000, dht.nodes)
        ended = time.perf_counter()
    return {
        "simulation": {"value": ended - began, "lookups_s": ended - built, "found": sum(one.found for one in found)}
    }


def script(name: str, *arguments: str) -> list[dict[str, Any]]:
    """The lines of another script of this directory."""
    command = [sys.executable, str(PEERS.parent / name), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(PEERS.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Failed(f"{name} ended with {done.returncode}: {last_line(done.stderr)}")
    return [json.loads(line) for line in done.stdout.splitlines()]


EVERYBODY = ("kodectl", "kademlia", "pyipv8", "opendht")
ROWS = {
    "questions": Row(
        EVERYBODY,
        {"ping": Figure("server CPU us", "<= 60, aim 30"), "find_node": Figure("server CPU us", "<= 100")},
        questions,
    ),
    "crowd": Row(("kodectl", "kademlia", "pyipv8"), {"memory_fresh": Figure("kB a node", "")}, crowd),
    "network": Row(
        EVERYBODY,
        {
            "lookup": Figure("ms, median", "<= 8, aim 3"),
            "lookup_p95": Figure("ms", "<= 16, aim 6"),
            "put": Figure("ms, median", "<= 12"),
            "get": Figure("ms, median", "<= 3"),
            "memory": Figure("kB a node", "<= 60"),
        },
        network,
    ),
    "broadcast": Row(
        ("kodectl", "kodectl_unverified", "pyipv8", "libp2p"),
        {
            "broadcast_200": Figure("messages/s to all", ">= 3,000 on authenticated links, >= 1,000 verified", True),
            "broadcast_10000": Figure("messages/s to all", ">= 1,500", True),
        },
        broadcast,
    ),
    "connection": Row(
        ("kodectl", "libp2p"),
        {
            "bulk": Figure("MB/s", ">= 300", True),
            "small": Figure("messages/s", ">= 200,000", True),
            "set_up": Figure("ms", "<= 6"),
            "idle_link": Figure("kB", "<= 30"),
        },
        connection,
    ),
    "hub": Row(("kodectl",), {"hub_delay": Figure("ms, p99, at 50 peers and 5,000 messages/s", "<= 20")}, hub),
    "simulator": Row(("kodectl",), {"simulation": Figure("s for 1,000 nodes and 1,000 lookups", "<= 20")}, simulator),
}
