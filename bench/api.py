"""Requests a second on /api/network/peers with fifty peers, as a ratio of a bare gevent.pywsgi answer of the same size.

    python bench/api.py [--peers 50] [--connections 16] [--seconds 2] [--rounds 5] [--path /api/network/peers] [--profile FILE]

A node, as the command runs it, has fifty peers on real links over loopback. The bare server answers a constant of the same
size, with the same small-packet setting, from a process of its own. One client process asks both in turns over kept
connections; medians over the rounds. `cpu_ratio` compares what one request costs the servers' processes: it holds where
the client, or another load on the machine, is what bounds the rate. `--profile` has py-spy write where the node spends
its time (collapsed stacks). Prints one JSON line, and ends with 1 under the mark.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil
from operated import NETWORK, drain, wait_for_line
from operated import start as start_part

MARK = 0.5
ANSWER_LIMIT_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=50)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--path", default="/api/network/peers")
    parser.add_argument("--profile")
    if sys.argv[1:2] == ["bare"]:
        serve_bare(int(sys.argv[2]))
        return 0
    found = measure(parser.parse_args())
    print(json.dumps(found))
    return int(found["ratio"] < MARK)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        started: list[subprocess.Popen[str]] = []
        try:
            node = start_node(directory, options.peers)
            started.append(node)
            ready = json.loads(wait_for_line(node))["data"]
            drain(node)
            peers = start_part("peers", ready["enode"], str(options.peers), "0", "1", "0")
            started.append(peers)
            wait_for_line(peers)
            api = ready["listeners"]["api"][0]
            size = len(ask(api, options.path))
            bare = subprocess.Popen([sys.executable, __file__, "bare", str(size)], stdout=subprocess.PIPE, text=True)
            started.append(bare)
            places = {"node": (node, api), "bare": (bare, wait_for_line(bare).strip())}
            profiler = profile(node.pid, options) if options.profile else None
            found = compare(places, options)
            if profiler is not None:
                profiler.wait()
        finally:
            for process in reversed(started):
                process.kill()
                process.wait()
    return {"bench": "api", "path": options.path, "peers": options.peers, "size": size, **found}


def start_node(directory: str, peers: int) -> subprocess.Popen[str]:
    places = ["--datadir", directory, "--listen", "127.0.0.1:0", "--discovery-port", "0", "--api", "127.0.0.1:0"]
    # Of all slots some are kept for peers that it dials itself.
    slots = ["--max-peers", str(2 * peers)]
    options = ["--network", NETWORK, *slots, "--no-lan", "--nat", "none", "--json", "-q"]
    return subprocess.Popen(
        [sys.executable, "-m", "kodectl", "node", "run", *places, *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KODECTL_BOOTSTRAP": ""},
    )


def serve_bare(size: int) -> None:
    from gevent.pywsgi import WSGIServer

    from kodectl.api.listeners import listen_tcp

    body = b"x" * size

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(size))])
        return [body]

    listener = listen_tcp(("127.0.0.1", 0))
    print("{}:{}".format(*listener.getsockname()), flush=True)
    WSGIServer(listener, application, log=None).serve_forever()


def compare(places: dict[str, tuple[subprocess.Popen[str], str]], options: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in places}
    costs_us: dict[str, list[float]] = {name: [] for name in places}
    for number in range(options.rounds + 1):
        for name, (process, address) in places.items():
            watched = psutil.Process(process.pid)
            before = cpu_s(watched)
            rate = load(address, options)
            if number:  # the first round warms up
                rates[name].append(rate)
                costs_us[name].append((cpu_s(watched) - before) / (rate * options.seconds) * 1e6)
    rate_of = {name: statistics.median(found) for name, found in rates.items()}
    cost_us = {name: statistics.median(found) for name, found in costs_us.items()}
    return {
        "requests_per_s": {name: round(found) for name, found in rate_of.items()},
        "cpu_us_per_request": {name: round(found, 1) for name, found in cost_us.items()},
        "ratio": round(statistics.median(a / b for a, b in zip(rates["node"], rates["bare"], strict=True)), 3),
        "cpu_ratio": round(cost_us["bare"] / cost_us["node"], 3),
        "load_average": os.getloadavg()[0],
    }


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def profile(pid: int, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    seconds = str(int(options.seconds * 2 * (options.rounds + 1)))
    return subprocess.Popen(
        ["py-spy", "record", "-p", str(pid), "-d", seconds, "-r", "200", "-f", "raw", "-o", options.profile],
        stdout=subprocess.DEVNULL,
    )


# -- the client --------------------------------------------------------------------------------------------------------


def request_for(address: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), ANSWER_LIMIT_S)


def ask(address: str, path: str) -> bytes:
    with connected(address) as sock:
        sock.sendall(request_for(address, path))
        _, body = read_answer(sock)
    return body


def read_answer(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(head.decode())
    while len(body) < length:
        body += _received(sock)
    return head, body


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 18)
    if not data:
        raise SystemExit("a connection was closed")
    return data


def load(address: str, options: argparse.Namespace) -> float:
    """Answers a second, with a request under way on every connection."""
    request = request_for(address, options.path)
    done = 0
    with selectors.DefaultSelector() as selector:
        socks = [connected(address) for _ in range(options.connections)]
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
            sock.sendall(request)
        began = time.perf_counter()
        while time.perf_counter() < began + options.seconds:
            for key, _ in selector.select(ANSWER_LIMIT_S):
                sock = key.fileobj  # type: ignore[assignment]
                read_answer(sock)
                sock.sendall(request)
                done += 1
        elapsed_s = time.perf_counter() - began
        for sock in socks:
            sock.close()
    return done / elapsed_s


if __name__ == "__main__":
    sys.exit(main())
