"""Whether a network that never rests leaves anything behind.

    python bench/soak.py [--nodes 20] [--minutes 30] [--every 1.0] [--seed 1]

Two processes on loopback. In one, `--nodes` nodes; `--every` seconds one of them goes (half of them say goodbye, half just
end) and a new one comes, with a new identity or, one time in three, with that of one that went before. In the other one
`kodectl node run`, which is linked with them all along and sees them come and go. Every node that comes puts a value and
broadcasts a transaction.

Memory, descriptors and greenlets of both are taken before the churn, every 10 s of it, and after it, at rest; the process
of the nodes also with all nodes stopped. One JSON line each, the last one with what has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import gevent
from greenlet import greenlet

from kodectl.core.identity import Identity
from kodectl.errors import KodectlError
from kodectl.node.node import Node
from kodectl.runtime.base import Stopped
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.wire.suite import RealSuite

SAMPLE_EVERY_S = 10.0
SETTLE_S = 45.0
"""Before the first and the last look: links are made and heartbeats sent; those that went are forgotten."""
ANCHORS = 2
"""Nodes that stay, for the others to begin with."""
AGAIN_SHARE = 1 / 3
GOODBYE_SHARE = 1 / 2
KEPT_IDENTITIES = 50
READY_LIMIT_S = 20.0
STOP_LIMIT_S = 20.0
VALUE_TTL_S = 300.0
LOOPBACK = "127.0.0.1"


class Churn:
    """The nodes of this process."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.runtime = GreenRuntime()
        self._scope = self.runtime.scope("churn")
        self._rng = rng
        self._gone: list[Identity] = []
        self.came = self.went = self.failed = self.unstored = 0
        self.anchors = [self._started(()) for _ in range(ANCHORS)]
        self.others = [self._started(self._bootstrap()) for _ in range(count - ANCHORS)]

    def _bootstrap(self) -> tuple[str, ...]:
        return tuple(anchor.enode for anchor in self.anchors)

    def _started(self, bootstrap: tuple[str, ...]) -> Node:
        identity = Identity(RealSuite(), self._rng.randbytes(32))
        if self._gone and self._rng.random() < AGAIN_SHARE:
            identity = self._gone.pop(self._rng.randrange(len(self._gone)))
        settings = NodeSettings(
            listen_host=LOOPBACK, tcp_port=0, udp_port=0, bootstrap=bootstrap, lan=False, nat="none", network="soak"
        )
        node = Node(self.runtime, settings, identity)
        node.start()
        self.came += 1
        return node

    def step(self) -> None:
        """One goes, one comes; neither is waited for."""
        going = self.others.pop(self._rng.randrange(len(self.others)))
        self._scope.spawn("go", self._go, going)
        coming = self._started(self._bootstrap())
        self.others.append(coming)
        self._scope.spawn("use", self._use, coming)

    def _go(self, node: Node) -> None:
        try:
            if self._rng.random() >= GOODBYE_SHARE:
                # As far as others can tell, a crash: the sockets close, and nothing is said.
                for peer in list(node.peering.links.values()):
                    peer.link._stream.close()
                node.discovery.close()
            node.stop()
        except Exception as error:  # counted and told: the campaign goes on
            self.failed += 1
            print(json.dumps({"failed": "".join(traceback.format_exception(error)[-4:])}), file=sys.stderr, flush=True)
        self._gone.append(node.identity)
        del self._gone[:-KEPT_IDENTITIES]
        self.went += 1

    def _use(self, node: Node) -> None:
        self._scope.sleep(0.5)
        if node.state != "ready":
            return
        node.broadcast("transaction", self._rng.randbytes(200), "gossip")
        try:
            node.dht_put(self._rng.randbytes(32), self._rng.randbytes(100), VALUE_TTL_S)
        except (KodectlError, Stopped):
            self.unstored += 1

    def stop(self) -> None:
        for node in self.others + self.anchors:
            node.stop()
        self.others.clear()
        self.anchors.clear()
        self._scope.close()
        self._scope.join(STOP_LIMIT_S)


class Watched:
    """`kodectl node run` in a process of its own."""

    def __init__(self, home: Path, bootstrap: tuple[str, ...]) -> None:
        options = [
            "--listen",
            f"{LOOPBACK}:0",
            "--discovery-port",
            "0",
            "--api",
            f"{LOOPBACK}:0",
            "--no-lan",
            "--nat",
            "none",
        ]
        for enode in bootstrap:
            options += ["--bootstrap", enode]
        self.datadir = home / "watched"
        self._log = (home / "log").open("w+")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "kodectl",
                "node",
                "run",
                "--network",
                "soak",
                "--datadir",
                str(self.datadir),
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        ends = time.monotonic() + READY_LIMIT_S
        while not (self.datadir / "api.sock").exists():
            if time.monotonic() > ends:
                raise SystemExit(f"the node does not begin: {self.log()}")
            gevent.sleep(0.1)

    def sample(self) -> dict[str, Any]:
        return process_sample(self._process.pid) | {"peers": self._peers()}

    def _peers(self) -> int:
        done = gevent.get_hub().threadpool.apply(self._ask, ("node", "peers"))
        return len(json.loads(done.stdout)["data"]["peers"])

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "kodectl", *command, "--json", "--datadir", str(self.datadir)]
        return subprocess.run(line, capture_output=True, text=True, check=True)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return gevent.get_hub().threadpool.apply(self._process.wait, (STOP_LIMIT_S,))


def process_sample(pid: int) -> dict[str, Any]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "rss_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
    }


def own_sample() -> dict[str, Any]:
    gc.collect()
    alive = sum(isinstance(thing, greenlet) and not thing.dead for thing in gc.get_objects())
    return process_sample(os.getpid()) | {"greenlets": alive}


def soak(count: int, minutes: float, every_s: float, seed: int) -> int:
    began = time.monotonic()

    def tell(phase: str, **more: Any) -> dict[str, Any]:
        line = {"bench": "soak", "phase": phase, "at_s": round(time.monotonic() - began, 1), **more}
        print(json.dumps(line), flush=True)
        return line

    tell("empty", nodes=own_sample())
    churn = Churn(count, random.Random(seed))
    with tempfile.TemporaryDirectory() as home:
        watched = Watched(Path(home), tuple(anchor.enode for anchor in churn.anchors))
        gevent.sleep(SETTLE_S)
        before = tell("before", nodes=own_sample(), watched=watched.sample())
        ends, next_sample = time.monotonic() + minutes * 60.0, time.monotonic()
        while (now := time.monotonic()) < ends:
            churn.step()
            if now >= next_sample:
                next_sample += SAMPLE_EVERY_S
                tell("churn", came=churn.came, went=churn.went, nodes=own_sample(), watched=watched.sample())
            gevent.sleep(max(0.0, every_s - (time.monotonic() - now)))
        gevent.sleep(SETTLE_S)
        after = tell("after", nodes=own_sample(), watched=watched.sample())
        code = watched.stop()
        tracebacks = watched.log().count("Traceback")
        churn.stop()
        gevent.sleep(2.0)
        tell("stopped", nodes=own_sample())
    grown = {
        who: {name: round(after[who][name] - before[who][name], 1) for name in before[who]}
        for who in ("nodes", "watched")
    }
    tell(
        "grown",
        **grown,
        came=churn.came,
        failed=churn.failed,
        unstored=churn.unstored,
        exit_code=code,
        tracebacks=tracebacks,
    )
    return bool(churn.failed or code or tracebacks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return soak(given.nodes, given.minutes, given.every, given.seed)


if __name__ == "__main__":
    sys.exit(main())
