"""Two ICE sessions on virtual time, and what they lean on: a STUN server, a relay."""

from __future__ import annotations

from typing import Any

from kodectl.core.ice.pairs import Pair
from kodectl.core.stun_answers import BindingResponder
from kodectl.errors import NegativeAnswer
from kodectl.node.ice import Description, IceSession, IceTerms, SelectedPair
from kodectl.runtime.base import Address
from kodectl.sim.runtime import SimRuntime
from kodectl.sim.world import World

STUN = ("20.9.0.1", 3478)
A_IP, B_IP, RELAY_IP = "20.0.0.1", "20.1.0.1", "20.7.0.1"


def stun_server(world: World) -> None:
    runtime = world.host(STUN[0])
    responder = BindingResponder()

    def received(data: bytes, sender: Address) -> None:
        reply = responder.answer(data, sender, runtime.now())
        if reply is not None:
            socket.send(reply, sender)

    socket = runtime.open_datagram(STUN, received)


class Side:
    def __init__(self, world: World, runtime: SimRuntime, is_controlling: bool, **terms: Any) -> None:
        self.world = world
        self.runtime = runtime
        self.scope = runtime.scope("ice")
        self.session = IceSession(runtime, self.scope, IceTerms(is_controlling, **terms))
        self.heard: list[bytes] = []
        self.paths: list[Pair | None] = []
        """As they were told of."""
        self.session.on_data = lambda data, base, sender: self.heard.append(data)
        self.session.on_path = self.paths.append

    def gather(self) -> Description:
        described: Description = self.world.call(self.runtime, self.session.gather)
        return described

    @property
    def selected(self) -> SelectedPair | None:
        return self.session.selected

    @property
    def way(self) -> str | None:
        path = self.session.path
        return None if path is None else "relay" if path.is_relayed else "direct"

    @property
    def ways(self) -> list[str | None]:
        """One after the other."""
        told = [None if path is None else "relay" if path.is_relayed else "direct" for path in self.paths]
        return [way for number, way in enumerate(told) if not number or way != told[number - 1]]


class Two:
    """The controlling side `a` and the controlled `b`."""

    def __init__(self, world: World, a: SimRuntime, b: SimRuntime, **terms: Any) -> None:
        self.world = world
        self.a, self.b = Side(world, a, True, **terms), Side(world, b, False, **terms)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.a, self.b

    def introduce(self) -> float:
        """Both know each other from now on, with what comes later too; when that is."""
        told = self.a.gather(), self.b.gather()
        self.a.session.on_candidate = self.b.session.add_remote
        self.b.session.on_candidate = self.a.session.add_remote
        self.a.session.set_remote(told[1])
        self.b.session.set_remote(told[0])
        return self.world.now

    def connected(self) -> bool:
        return self.a.selected is not None and self.b.selected is not None

    def connect(self, limit_s: float = 15.0) -> float:
        """How long it took."""
        began = self.introduce()
        assert self.world.run(self.connected, limit_s), (self.a.session.agent.pairs, self.b.session.agent.pairs)
        return self.world.now - began

    def restart(self) -> None:
        for side in self.sides:
            side.session.restart()
        told = self.a.session.description, self.b.session.description
        self.a.session.set_remote(told[1])
        self.b.session.set_remote(told[0])

    def exchange(self) -> bool:
        for side, other in ((self.a, self.b), (self.b, self.a)):
            assert side.session.send(b"\x80from " + side.runtime.name.encode())
            other.heard.clear()
        return self.world.run(lambda: bool(self.a.heard and self.b.heard), 2.0)

    def close(self) -> None:
        for side in self.sides:
            side.session.close()
            side.scope.close()


class Relay:
    """On a host of its own, where it is used from without a network between; permits who it is told to."""

    def __init__(self, runtime: SimRuntime, port: int) -> None:
        self._open(runtime, port)
        self.mapped: Address = (A_IP, 1)
        self.on_data: Any = None
        self.on_lost: Any = None
        self.on_moved: Any = None
        self.permitted: set[str] = set()
        self.is_closed = False

    def _open(self, runtime: SimRuntime, port: int) -> None:
        self.socket = runtime.open_datagram((runtime.ip, port), self._received)
        self.relayed = self.server = self.socket.local

    def allocate(self, family: int) -> Relay:
        if family == 6:
            raise NegativeAnswer("no IPv6 here")
        return self

    def move_to(self, runtime: SimRuntime, port: int) -> None:
        self.socket.close()
        self._open(runtime, port)
        self.on_moved()

    def _received(self, data: bytes, peer: Address) -> None:
        if peer[0] in self.permitted:
            self.on_data(data, peer)

    def permit(self, ips: Any) -> None:
        self.permitted |= set(ips)

    def send(self, data: bytes, peer: Address) -> None:
        assert peer[0] in self.permitted, "permissions come before the first check"
        self.socket.send(data, peer)

    def close(self) -> None:
        self.is_closed = True
