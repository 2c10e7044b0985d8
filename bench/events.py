"""What bringing events to subscribers costs: CPU of the node's process for each delivery, and how late its hub is meanwhile.

    python bench/events.py [--seconds 5] [--rates 200,2000] [--subscribers 1,8,32] [--size 200]

One process emits transactions at a steady rate and serves /ws, as a node does, and nothing else; another holds the
subscribers. One JSON line for each combination. `cpu_us_per_delivery` is without what emitting costs by itself, which is measured
first (`cpu_us_per_event`; it includes the measuring, 1 % of a core). Hub delay as in operated.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operated import SAMPLE_S, Subscriber, added, probe, quantiles_of


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rates", default="200,2000")
    parser.add_argument("--subscribers", default="1,8,32")
    parser.add_argument("--size", default="200", help="bytes of a payload")
    options = parser.parse_args()
    for rate in options.rates.split(","):
        alone, _ = measure(rate, "0", options)
        for count in options.subscribers.split(","):
            busy, delivered = measure(rate, count, options)
            figures = {
                "bench": "events",
                "subscribers": int(count),
                "events_per_s": int(rate),
                "size": int(options.size),
                "deliveries_per_s": round(delivered["events"] / busy["elapsed_s"]),
                "missed": delivered["missed"],
                "cpu": round(busy["cpu_s"] / busy["elapsed_s"], 3),
                "cpu_us_per_event": round(alone["cpu_s"] / alone["events"] * 1e6, 1),
                "cpu_us_per_delivery": round((busy["cpu_s"] - alone["cpu_s"]) / max(1, delivered["events"]) * 1e6, 1),
                "age_ms": delivered["age_ms"],
                "hub_delay_ms": busy["hub_delay_ms"],
                "hub_delay_with_a_cpu_ms": busy["hub_delay_with_a_cpu_ms"],
            }
            print(json.dumps(figures), flush=True)


def measure(rate: str, count: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        delays = Path(directory) / "delays"
        node = start("serve", rate, options.size, str(delays))
        readers = None
        try:
            address = line_of(node)
            if int(count):
                readers = start("read", address, count)
                line_of(readers)
            say(node, "begin")
            time.sleep(options.seconds)
            served = json.loads(ask(node))
            delivered = json.loads(ask(readers)) if readers is not None else {}
        finally:
            for process in (node, readers):
                if process is not None:
                    process.kill()
                    process.wait()
        rows = [json.loads(line) for line in delays.read_text().splitlines()]
    served["hub_delay_ms"] = quantiles_of(added(rows, "counts"))
    served["hub_delay_with_a_cpu_ms"] = quantiles_of(added(rows, "own_counts"))
    return served, delivered


def start(role: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, role, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit("a part of the bench has ended")
    return line


def say(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def ask(process: subprocess.Popen[str]) -> str:
    say(process, "end")
    return line_of(process)


def serve(rate: str, size: str, delays: str) -> None:
    import gevent

    from kodectl.api.access import AccessRules
    from kodectl.api.app import Guard, make_app
    from kodectl.api.listeners import listen_tcp
    from kodectl.api.server import ApiServer
    from kodectl.cli.serving import settle_memory
    from kodectl.node.events import Events
    from kodectl.runtime.green import GreenRuntime

    runtime = GreenRuntime()
    scope = runtime.scope("bench")

    class Node:
        """What /ws has of a node."""

        events = Events(runtime)

    server = ApiServer(listen_tcp(("127.0.0.1", 0)), make_app(Node(), Guard(AccessRules()), lambda: None), unix=False)  # type: ignore[arg-type]
    server.start_in(scope)
    settle_memory()
    print("{}:{}".format(*server.address), flush=True)
    runtime.in_thread(sys.stdin.readline)
    gevent.spawn(probe, delays)
    payload, emitted, ended = os.urandom(int(size)), 0, False

    def emit() -> None:
        nonlocal emitted
        began = time.monotonic()
        while not ended:
            while emitted < (time.monotonic() - began) * int(rate):
                emitted += 1
                Node.events.emit(
                    "transaction", id=f"{emitted:064x}", type="transaction", size=len(payload), payload=payload
                )
            gevent.sleep(0.005)

    began, cpu_began = time.monotonic(), time.process_time()
    scope.spawn("emit", emit)
    runtime.in_thread(sys.stdin.readline)
    elapsed_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    ended = True
    scope.sleep(SAMPLE_S)
    print(json.dumps({"elapsed_s": elapsed_s, "cpu_s": cpu_s, "events": emitted}), flush=True)
    runtime.in_thread(sys.stdin.readline)


def read(address: str, count: str) -> None:
    import gevent

    readers = [Subscriber(address) for _ in range(int(count))]

    def follow(reader: Subscriber) -> None:
        for frame in reader.frames():
            reader.take(frame)

    for reader in readers:
        gevent.spawn(follow, reader)
    while any(reader.place is None for reader in readers):
        gevent.sleep(0.01)
    print("ready", flush=True)
    gevent.get_hub().threadpool.apply(sys.stdin.readline)
    totals = {
        "events": sum(reader.events for reader in readers),
        "missed": sum(reader.missed + reader.unexplained for reader in readers),
        "age_ms": quantiles_of([sum(counts) for counts in zip(*(reader.ages_ms for reader in readers), strict=True)]),
    }
    print(json.dumps(totals), flush=True)
    os._exit(0)


ROLES: dict[str, Callable[..., None]] = {"serve": serve, "read": read}

if __name__ == "__main__":
    main()
