"""What waits for a stream: in order, in few writes, so many and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kodectl.node.stream_queue import COALESCED, StreamQueue
from kodectl.runtime.base import Stopped, StreamClosed
from kodectl.sim.network import PathModel
from kodectl.sim.world import World

NEAR, FAR, PORT = "20.0.0.1", "20.1.0.1", 30_303
LIMIT, LIMIT_BYTES, RESERVED = 100, 50_000, 10


class Line:
    """A queue and its writer, and what has arrived at the other end; `sizes`: of the writes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.near = world.host(NEAR)
        far = world.host(FAR)
        self.arrived = bytearray()
        self.sizes: list[int] = []
        self.piece = 1
        self.ended = False
        listener = far.listen((FAR, PORT), lambda stream: world.spawn(far, "read", self._read, stream))
        self.stream = world.call(self.near, self.near.connect, (FAR, PORT), 1.0)
        listener.close()
        write = self.stream.write

        def counted(data: bytes) -> None:
            self.sizes.append(len(data))
            write(data)

        self.stream.write = counted
        self.queue = StreamQueue(self.near, self.stream, LIMIT, LIMIT_BYTES)

    def _read(self, stream: Any) -> None:
        try:
            while True:
                self.arrived += stream.read_exactly(self.piece)
        except (StreamClosed, Stopped):
            pass

    def begin(self) -> None:
        self.world.spawn(self.near, "write", self._write)

    def _write(self) -> None:
        self.queue.write()
        self.ended = True


@pytest.fixture
def line() -> Iterator[Line]:
    with World("queue", PathModel(latency_s=0.01, spread_s=0.0)) as world:
        yield Line(world)


def test_what_has_gathered_leaves_together_and_in_order(line: Line) -> None:
    packets = [bytes([number]) * 100 for number in range(LIMIT)]
    assert all(line.queue.put(packet) for packet in packets)
    line.begin()
    line.world.run_for(1.0)
    assert line.arrived == b"".join(packets)
    assert line.sizes == [100 * LIMIT]


def test_no_write_is_much_longer_than_it_has_to_be(line: Line) -> None:
    """Memory for a client that does not read is what waits, and one of these."""
    line.piece = 10_000
    for _ in range(LIMIT):
        assert line.queue.put(bytes(10_000))
    line.begin()
    line.world.run_for(10.0)
    assert sum(line.sizes) == 10_000 * LIMIT
    assert max(line.sizes) < COALESCED + 10_000


def test_room_is_told_by_places_and_by_bytes(line: Line) -> None:
    for _ in range(LIMIT - RESERVED):
        assert line.queue.has_room(1, RESERVED)
        assert line.queue.put(b"x")
    assert not line.queue.has_room(1, RESERVED)
    assert line.queue.has_room(1)
    assert not line.queue.has_room(LIMIT_BYTES)
    for _ in range(RESERVED):
        assert line.queue.put(b"x")
    assert not line.queue.put(b"x")
    line.begin()
    line.world.run_for(1.0)
    assert line.queue.has_room(LIMIT_BYTES)
    assert not line.queue.has_room(LIMIT_BYTES + 1)


@pytest.mark.parametrize("end", ["queue", "stream"])
def test_the_writer_ends_with_its_queue_or_its_stream(line: Line, end: str) -> None:
    line.begin()
    line.queue.put(b"before")
    line.world.run_for(1.0)
    getattr(line, end).close()
    assert line.queue.put(b"after") is (end == "stream")
    assert line.world.run(lambda: line.ended, 10.0)
    assert line.arrived == b"before"
