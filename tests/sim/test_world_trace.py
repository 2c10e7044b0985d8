"""One seed, one course of events: the trace hash of a scenario with everything in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kodectl.runtime.base import ConnectFailed, Stream, StreamClosed
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World

HOSTS = 12


def chatter(runtime: SimRuntime, ips: set[str]) -> None:
    """Sends, dials, announces and answers for ever, as its generator decides."""
    scope = runtime.scope("chatter")
    socket = runtime.open_datagram(
        ("0.0.0.0", 1), lambda data, sender: data != b"pong" and socket.send(b"pong", sender)
    )
    lan = runtime.open_lan(2, lambda data, sender: socket.send(data, (sender[0], 1)))

    def serve(stream: Stream) -> None:
        try:
            while True:
                stream.write(stream.read_exactly(1_000))
        except StreamClosed:
            stream.close()

    def dial(ip: str) -> None:
        try:
            stream = runtime.connect((ip, 3), 3.0)
            stream.write(runtime.random_bytes(5_000))
            stream.read_exactly(5_000)
            stream.close()
        except (ConnectFailed, StreamClosed):
            return

    def talk() -> None:
        while True:
            scope.sleep(runtime.rng.uniform(0.1, 1.0))
            ip = runtime.rng.choice(sorted(ips))
            socket.send(runtime.random_bytes(runtime.rng.randrange(200)), (ip, 1))
            lan.announce(b"here")
            scope.spawn(f"dial {ip}", dial, ip)

    runtime.listen(("0.0.0.0", 3), lambda stream: scope.spawn("serve", serve, stream))
    scope.spawn("talk", talk)


def scenario(seed: int) -> str:
    # A set of texts: its order differs between hash seeds, and must not matter.
    ips = {f"10.0.0.{number}" for number in range(HOSTS)}
    with World(seed, PathModel(loss=0.05, duplication=0.02, reordering=0.05, bandwidth=1e6)) as world:
        for ip in sorted(ips):
            chatter(world.host(ip), ips)
        world.lan("office", sorted(ips)[:5])
        world.at(3.0, lambda: world.partition(set(sorted(ips)[:4]), set(sorted(ips)[4:])))
        world.at(5.0, world.heal)
        world.at(6.0, lambda: world.crash("10.0.0.7"))
        world.at(8.0, lambda: chatter(world.restart("10.0.0.7"), ips))
        world.run(12.0)
        return world.trace_hash()


def scenario_elsewhere(seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, str(seed)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_a_seed_gives_the_same_trace_again_and_under_any_hash_seed() -> None:
    assert {scenario(1), scenario(1), scenario_elsewhere(1, "1"), scenario_elsewhere(1, "2")} == {scenario(1)}


def test_another_seed_gives_another_trace() -> None:
    assert scenario(1) != scenario(2)


@pytest.mark.parametrize("change", ["payload", "target", "time", "order"])
def test_every_difference_shows(change: str) -> None:
    def trace(change: str | None) -> str:
        world = World(1)
        here = world.host("10.0.0.1").open_datagram(("0.0.0.0", 1), lambda *_: None)
        world.host("10.0.0.2").open_datagram(("0.0.0.0", 1), lambda *_: None)
        if change == "time":
            world.run(0.001)
        first = (b"y" if change == "payload" else b"x", ("10.0.0.1" if change == "target" else "10.0.0.2", 1))
        second = (b"z", ("10.0.0.2", 1))
        for data, address in (second, first) if change == "order" else (first, second):
            here.send(data, address)
        world.run(1.0)
        return world.trace_hash()

    assert trace(None) == trace(None)
    assert trace(change) != trace(None)


if __name__ == "__main__":
    print(scenario(int(sys.argv[1])))
