"""Peering over loopback TCP, with the real suite and the real store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kodectl.core.identity import Identity
from kodectl.node.events import Events
from kodectl.node.peering import Peering
from kodectl.node.persistence import MemoryStore, Store
from kodectl.runtime.base import Scope
from kodectl.runtime.green import GreenRuntime
from kodectl.settings import NodeSettings
from kodectl.store.sqlite import SqliteStore
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import ZERO_ID, Enode
from kodectl.wire.messages import Hello, MessageKind
from kodectl.wire.suite import RealSuite

LIMIT_S = 10.0


class Resident:
    def __init__(self, runtime: GreenRuntime, number: int, store: Store | None = None, **settings: Any) -> None:
        self.identity = Identity(RealSuite(), number.to_bytes(32))
        self.scope: Scope = runtime.scope(f"resident {number}")
        self.events = Events(runtime)
        self.received: list[bytes] = []
        self.settings = NodeSettings(listen_host="127.0.0.1", tcp_port=0, **settings)
        self.peering = Peering(
            runtime,
            self.settings,
            self.identity,
            lambda: Hello((1,), "kodectl/test", "kodechain", (), Ports(self.peering.tcp_port, 0)),
            self.scope,
            self.events,
            store or MemoryStore(),
            {MessageKind.TRANSACTION: lambda peer, body: self.received.append(body)},
        )

    @property
    def node_id(self) -> bytes:
        return self.identity.node_id

    @property
    def enode(self) -> Enode:
        return Enode(self.node_id, "127.0.0.1", self.peering.tcp_port, 0)

    def stop(self) -> None:
        self.peering.stop()
        self.scope.close()
        assert self.scope.join(LIMIT_S) == []


class Street:
    """Residents on one machine, gone at the end without a trace."""

    def __init__(self) -> None:
        self.runtime = GreenRuntime()
        self.residents: list[Resident] = []

    def settle(self, number: int | None = None, store: Store | None = None, **settings: Any) -> Resident:
        resident = Resident(self.runtime, number or len(self.residents) + 1, store, **settings)
        resident.peering.start()
        self.residents.append(resident)
        return resident

    def leave(self, resident: Resident) -> None:
        self.residents.remove(resident)
        resident.stop()

    def until(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        began = time.monotonic()
        waiting = self.runtime.event()
        while not condition():
            assert time.monotonic() - began < limit_s, "it has not come true"
            waiting.wait(0.01)

    def end(self) -> None:
        for resident in list(self.residents):
            self.leave(resident)
        assert self.runtime.faults.counts == {}
        self.runtime.close()


@pytest.fixture
def street() -> Iterator[Street]:
    made = Street()
    yield made
    made.end()


def test_two_connect_talk_and_part(street: Street) -> None:
    one, other = street.settle(), street.settle()
    view = one.peering.connect(other.enode, LIMIT_S)
    assert view.outcome == "connected"
    one.peering.links[other.node_id].send(MessageKind.TRANSACTION, b"over TCP")
    street.until(lambda: other.received == [b"over TCP"])
    street.until(lambda: one.peering.latency().average_latency_ms is not None)
    street.leave(other)
    street.until(lambda: not one.peering.links)
    assert one.peering.disconnects == {"shutting_down": 1}


def test_outcomes_of_a_real_dial(street: Street) -> None:
    one, other = street.settle(), street.settle()
    wrong = Enode(b"x" * 32, "127.0.0.1", other.peering.tcp_port, 0)
    assert one.peering.connect(wrong, LIMIT_S).outcome == "identity_mismatch"
    whoever = Enode(ZERO_ID, "localhost", one.peering.tcp_port, 0)
    assert one.peering.connect(whoever, LIMIT_S).outcome == "self"
    port = other.peering.tcp_port
    street.leave(other)
    assert one.peering.connect(Enode(b"y" * 32, "127.0.0.1", port, 0), LIMIT_S).outcome in (
        "refused",
        "recently_dialed",
    )


def test_twelve_that_know_one_find_each_other(street: Street) -> None:
    first, *others = [street.settle() for _ in range(12)]
    for other in others:
        other.peering.add_candidate(first.enode, "test")
    street.until(lambda: all(len(resident.peering.links) >= 8 for resident in street.residents), 20.0)
    by_id = {resident.node_id: resident.peering.links for resident in street.residents}
    street.until(lambda: all(mine in by_id[its] for mine, links in by_id.items() for its in links))


def test_a_restarted_node_is_back_with_its_peers_from_the_store(street: Street, tmp_path: Path) -> None:
    others = [street.settle() for _ in range(5)]
    store = SqliteStore(tmp_path / "node.db")
    one = street.settle(90, store)
    for other in others:
        one.peering.add_candidate(other.enode, "test")
    street.until(lambda: len(one.peering.links) == 5)
    street.leave(one)
    store.close()

    store = SqliteStore(tmp_path / "node.db")
    again = street.settle(90, store)
    street.until(lambda: len(again.peering.links) == 5, 5.0)
    street.leave(again)
    store.close()
