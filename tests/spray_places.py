"""Two ICE sessions that only a spray can connect: one behind a NAT that draws its ports, one behind a NAT that filters by port;
each with one socket that everything shares, as a node has. On any runtime."""

from __future__ import annotations

from typing import Any

from kodectl.core.ice import local as candidates
from kodectl.core.ice.checks import Credentials
from kodectl.core.ice.requests import named_ufrag
from kodectl.core.spray import PREFERENCE, Terms
from kodectl.node.ice import Description, IceSession, IceTerms, SendingBase
from kodectl.node.spraying import PortSpray, SocketSpray, SpraySocket, spray_hit, spray_open
from kodectl.runtime.base import Address, Runtime
from kodectl.wire.candidates import Candidate, CandidateType
from kodectl.wire.stun import looks_like_stun

PORT = 30_301
OBSERVER = "22.0.0.9"


class Side:
    """`seen_at`: where observers see the shared socket."""

    def __init__(self, runtime: Runtime, ip: str, seen_at: Address, *, is_controlling: bool) -> None:
        self.runtime = runtime
        self.ip = ip
        self._socket = runtime.open_datagram((ip, PORT), self._received)
        self.address = self._socket.local
        self.session = IceSession(runtime, runtime.scope("ice"), IceTerms(is_controlling))
        self.session.add_local(candidates.host(self, candidates.MAX_LOCAL_PREFERENCE))
        self.session.add_local(candidates.server_reflexive(self, seen_at, OBSERVER, candidates.MAX_LOCAL_PREFERENCE))
        self.spraying: SocketSpray | PortSpray | None = None
        self.adopted: list[SpraySocket] = []
        self.found: list[Candidate] = []
        self.over = 0
        self.packets = 0
        """Of the shared socket, those of the session too."""

    # Of a base

    def send(self, data: bytes, address: Address) -> None:
        self.packets += 1
        self._socket.send(data, address)

    def close(self) -> None:
        self._socket.close()

    def _received(self, data: bytes, sender: Address) -> None:
        if isinstance(self.spraying, PortSpray) and self.spraying.received(data, sender):
            return
        agent = self.session.agent
        if not looks_like_stun(data) or named_ufrag(data) == agent.credentials.ufrag or agent.expects(data[8:20]):
            self.session.received(self, data, sender)

    # Of a spray

    def terms(self, theirs: Description) -> Terms:
        agent = self.session.agent
        return Terms(agent.credentials, Credentials(theirs.ufrag, theirs.password), agent.role)

    def open(self, theirs: Description, peer: Address, **options: Any) -> None:
        options = {"is_verified": True, "over": self.is_over, **options}
        self.spraying = spray_open(self.runtime, self.terms(theirs), peer, self.ip, self.adopt, self.receive, **options)

    def try_ports(self, theirs: Description, peer_ip: str, **options: Any) -> None:
        options = {"is_verified": True, "over": self.is_over, **options}
        self.spraying = spray_hit(self.runtime, self.terms(theirs), self, peer_ip, self._found, **options)

    def is_over(self) -> None:
        self.over += 1

    def adopt(self, socket: SpraySocket) -> None:
        self.adopted.append(socket)
        self.session.adopt(socket, kind=CandidateType.PEER_REFLEXIVE, preference=PREFERENCE)

    def receive(self, base: SendingBase, data: bytes, sender: Address) -> None:
        self.session.received(base, data, sender)

    def _found(self, candidate: Candidate) -> None:
        self.found.append(candidate)
        self.session.add_remote(candidate)
