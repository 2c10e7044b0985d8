"""Several agents on one socket, with candidates that nobody gathered: bases are given, not opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kodectl.core.ice import local as candidates
from kodectl.core.ice.requests import named_ufrag
from kodectl.node.ice import Description, IceSession, IceTerms
from kodectl.runtime.base import Address
from kodectl.sim.network import PathModel
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World
from kodectl.wire.candidates import CandidateType
from kodectl.wire.stun import looks_like_stun

PORT = 30301
OBSERVER = "20.9.0.1"


class SharedSocket:
    """A base of many agents, which hands to each what is its own."""

    def __init__(self, runtime: SimRuntime) -> None:
        self.runtime = runtime
        self._socket = runtime.open_datagram((runtime.ip, PORT), self._received)
        self.address = self._socket.local
        self.sessions: list[IceSession] = []

    def send(self, data: bytes, address: Address) -> None:
        self._socket.send(data, address)

    def close(self) -> None:
        self._socket.close()

    def session(self, is_controlling: bool, seen_at: Address | None = None) -> IceSession:
        """`seen_at`: where peers say that the socket is."""
        made = IceSession(self.runtime, self.runtime.scope("ice"), IceTerms(is_controlling))
        made.add_local(candidates.host(self, 65_535))
        if seen_at is not None:
            made.add_local(candidates.server_reflexive(self, seen_at, OBSERVER, 65_535))
        self.sessions.append(made)
        return made

    def _received(self, data: bytes, sender: Address) -> None:
        for session in self.sessions:
            if self._is_for(session, data, sender):
                session.received(self, data, sender)

    def _is_for(self, session: IceSession, data: bytes, sender: Address) -> bool:
        if not looks_like_stun(data):
            return any(pair.key == (self, sender) for pair in session.agent.pairs)
        return named_ufrag(data) == session.agent.credentials.ufrag or session.agent.expects(data[8:20])


@pytest.fixture
def world() -> Iterator[World]:
    with World("shared", PathModel(latency_s=0.05, spread_s=0.0, jitter_s=0.0)) as made:
        yield made


def introduce(one: IceSession, other: IceSession) -> None:
    told: list[Description] = [one.description, other.description]
    one.set_remote(told[1])
    other.set_remote(told[0])


def test_many_agents_share_a_socket_and_need_no_server(world: World) -> None:
    box = world.nat("home", "20.8.0.1")
    shared = SharedSocket(world.host("192.168.1.2", behind=box))
    peers = [SharedSocket(world.host(f"20.{number}.0.1")) for number in range(1, 6)]
    pairs = []
    for peer in peers:
        ours, theirs = shared.session(True, (box.outer_ip, PORT)), peer.session(False)
        introduce(ours, theirs)
        pairs.append((ours, theirs))
    began = world.now
    assert world.run(lambda: all(one.selected and other.selected for one, other in pairs), 5.0)
    assert world.now - began < 0.3
    heard: list[tuple[int, bytes]] = []
    for number, (ours, theirs) in enumerate(pairs):
        ours.on_data = lambda data, base, sender, number=number: heard.append((number, data))  # type: ignore[misc]
        assert theirs.send(b"\x80%d" % number)
        assert theirs.selected is not None
        assert theirs.selected.remote.type is CandidateType.SERVER_REFLEXIVE
    assert world.run(lambda: len(heard) == len(pairs), 1.0)
    assert sorted(heard) == [(number, b"\x80%d" % number) for number in range(len(pairs))]


def test_two_on_shared_sockets_of_one_address_pair_are_told_apart(world: World) -> None:
    here, there = SharedSocket(world.host("20.1.0.1")), SharedSocket(world.host("20.2.0.1"))
    pairs = [(here.session(True), there.session(False)), (here.session(False), there.session(True))]
    for one, other in pairs:
        introduce(one, other)
    assert world.run(lambda: all(one.selected and other.selected for one, other in pairs), 5.0)
