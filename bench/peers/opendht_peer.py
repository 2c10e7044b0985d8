"""opendht (C++), spoken to as bench/beside speaks to every peer: see there.

Its Python module has no call for one question, so `ask` writes them itself: msgpack over UDP, as OpenDHT's network engine
does. Nor has it one for the table, so the node that serves has twenty others in another process to know.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import msgpack
import opendht

ANSWER_LIMIT_S = 10.0
LOST_AFTER_S = 0.5
COMPANY = 20
SETTLE_S = 4.0


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def node() -> opendht.DhtRunner:
    config = opendht.DhtConfig()
    config.setIdentity(opendht.Identity.generate("bench", bits=1024))
    config.setBootstrapMode(True)
    config.setRateLimit(-1, -1)
    runner = opendht.DhtRunner()
    runner.run(port=0, ipv4="127.0.0.1", ipv6="", config=config)
    return runner


def port_of(runner: opendht.DhtRunner) -> int:
    return int(runner.getBound().getPort())


def serve(contacts: int) -> None:
    runner = node()
    others = subprocess.Popen(
        [sys.executable, __file__, json.dumps({"role": "company", "port": port_of(runner)})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert others.stdout is not None
    known = json.loads(others.stdout.readline())["company"]
    say(ready=port_of(runner), id=str(runner.getNodeId()), table=known)
    sys.stdin.read()
    os._exit(0)


def company(port: int) -> None:
    """Ends with who has begun it."""
    runners = [node() for _ in range(COMPANY)]
    for runner in runners:
        runner.bootstrap("127.0.0.1", str(port))
    time.sleep(SETTLE_S)
    say(company=len(runners))
    sys.stdin.read()
    os._exit(0)


def question(what: str, number: int, own: bytes) -> bytes:
    about = {"id": own} if what == "ping" else {"id": own, "target": os.urandom(20), "w": [socket.AF_INET]}
    packed = {"a": about, "q": what.removesuffix("_node"), "t": number.to_bytes(4, "big"), "y": "q", "v": "RNG1"}
    return bytes(msgpack.packb(packed))


def ask(what: str, port: int, node_id: str, under_way: int, warm_up_s: float, seconds: float) -> None:
    own, answers, failures, told = os.urandom(20), 0, 0, 0
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.1", port))
    asking.settimeout(LOST_AFTER_S)
    for number in range(under_way):
        asking.send(question(what, number, own))
    for pause_s in (warm_up_s, seconds):
        ends = time.monotonic() + pause_s
        while time.monotonic() < ends:
            try:
                answer = msgpack.unpackb(asking.recv(4096), raw=False, strict_map_key=False)
                answers += 1
                told = len(answer.get("r", {}).get("n4", b"")) // 26
            except TimeoutError:
                failures += 1
            asking.send(question(what, answers, own))
        say(answers=answers, failures=failures, contacts=told)
    os._exit(0)


def network(count: int, number: int) -> None:
    runners = [node() for _ in range(count)]
    say(places=[["127.0.0.1", port_of(one), str(one.getNodeId())] for one in runners])

    def look_up(runner: opendht.DhtRunner, target: str) -> bool:
        """A search for what nobody has stored: it ends when the closest nodes have answered."""
        return ended(lambda done: runner.get(opendht.InfoHash(target.encode()), lambda value: True, done))

    def put(runner: opendht.DhtRunner, key: str, value: str) -> bool:
        stored = opendht.Value(bytes.fromhex(value))
        return ended(lambda done: runner.put(opendht.InfoHash(key.encode()), stored, done))

    def get(runner: opendht.DhtRunner, key: str, value: str) -> bool:
        """Until the value is there, as the others do."""
        there = threading.Event()
        found = []

        def take(one: opendht.Value) -> bool:
            found.append(one.data == bytes.fromhex(value))
            there.set()
            return False

        runner.get(opendht.InfoHash(key.encode()), take, lambda ok, nodes: there.set())
        there.wait(ANSWER_LIMIT_S)
        return any(found)

    errands = {"look_up": look_up, "put": put, "get": get}
    for line in sys.stdin:
        order = json.loads(line)
        what = order.pop("do")
        if what == "join":
            ip, port, _ = order["first"]
            for runner in runners:
                runner.bootstrap(ip, str(port))
            time.sleep(order["settle_s"])
            say(joined=0)
        elif what == "weigh":
            say(bytes=resident())
        else:
            began = time.perf_counter()
            is_done = errands[what](runners[order["node"]], *order["with"])
            say(ms=(time.perf_counter() - began) * 1e3 if is_done else None)


def ended(begin) -> bool:
    told = threading.Event()
    outcome = []

    def done(ok: bool, nodes: object) -> None:
        outcome.append(ok)
        told.set()

    begin(done)
    told.wait(ANSWER_LIMIT_S)
    return bool(outcome and outcome[0])


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    {"serve": serve, "company": company, "ask": ask, "network": network}[order.pop("role")](**order)
