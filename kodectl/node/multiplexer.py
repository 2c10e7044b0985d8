"""What arrives at the discovery socket and is not discovery's, sorted (RFC 9443, RFC 7983).

first byte   0 to 3       STUN: answers to this node's questions; ICE, by the user name of a request or the transaction of an
                          answer; TURN, for the relay; what is left are Binding requests of others
             64 to 79     TURN channels, unless a QUIC connection has the id that follows
             64 to 255    QUIC, by connection id; a first packet only from where ICE has heard its sender

No step keeps anything of a stranger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from kodectl.core.ice.owners import Owners
from kodectl.core.ice.requests import named_ufrag
from kodectl.core.quic_paths import Path
from kodectl.core.stun_answers import BindingResponder
from kodectl.errors import WireError
from kodectl.node.discovery import Discovery
from kodectl.runtime.base import Address, Runtime
from kodectl.wire.quic import is_initial
from kodectl.wire.stun import transaction_id_of

MAX_STUN_FIRST_BYTE = 3
MIN_QUIC_FIRST_BYTE = 64
MAX_NAMES = 8
"""Of one session: checks to the one of before its restarts go on until there is a new path. QUIC gives up before as many have
failed."""


class IceTaker(Protocol):
    """A session of ICE whose candidates are at this socket."""

    @property
    def ufrag(self) -> str: ...
    def received_shared(self, data: bytes, source: Address) -> None: ...
    def knows_source(self, source: Address) -> bool: ...


class QuicTaker(Protocol):
    def knows(self, data: bytes) -> bool: ...
    def received(self, data: bytes, path: Path) -> None: ...


class Multiplexer:
    """Takes what discovery passes on. The parts are attached where the node is put together; what is not attached takes
    nothing."""

    def __init__(self, runtime: Runtime, discovery: Discovery) -> None:
        self._runtime = runtime
        self._discovery = discovery
        self._binding = BindingResponder()
        self._sessions: dict[str, IceTaker] = {}
        self._owners: Owners[IceTaker] = Owners()
        self.own_questions: Callable[[bytes, Address], bool] = _take_nothing
        self.relay: Callable[[bytes, Address], bool] = _take_nothing
        self.quic: QuicTaker | None = None
        self.counters: Counter[str] = Counter()
        discovery.other_traffic = self.received

    def attach(self, session: IceTaker) -> None:
        self._sessions[session.ufrag] = session
        names = [ufrag for ufrag, other in self._sessions.items() if other is session]
        for ufrag in names[:-MAX_NAMES]:
            del self._sessions[ufrag]

    def detach(self, session: IceTaker) -> None:
        """Under all the names that it has had."""
        self._sessions = {ufrag: other for ufrag, other in self._sessions.items() if other is not session}
        self._owners.forget(session)

    def asked(self, session: IceTaker, request: bytes) -> None:
        """A request of this session leaves by the socket: its answers are the session's."""
        self._owners.asked(transaction_id_of(request), session, self._runtime.now())

    def path_to(self, remote: Address) -> Path:
        """Over this socket, as QUIC knows it: its own address does not matter, and may change."""
        return Path(("", self._discovery.port), remote)

    def received(self, data: bytes, source: Address) -> None:
        """Runs in the hub for every datagram that is not discovery's."""
        if not data:
            return
        if data[0] >= MIN_QUIC_FIRST_BYTE and self.quic is not None and self.quic.knows(data):
            self.quic.received(data, self.path_to(source))
        elif data[0] <= MAX_STUN_FIRST_BYTE:
            self._stun(data, source)
        elif not self.relay(data, source):
            self._stranger(data, source)

    def _stun(self, data: bytes, source: Address) -> None:
        if self.own_questions(data, source):
            return
        session = self._session_for(data)
        if session is not None:
            session.received_shared(data, source)
        elif not self.relay(data, source):
            answer = self._binding.answer(data, source, self._runtime.now())
            if answer is not None:
                self._discovery.send(answer, source)

    def _session_for(self, data: bytes) -> IceTaker | None:
        if not self._sessions:
            return None
        try:
            ufrag = named_ufrag(data)
        except WireError:
            return None
        if ufrag is not None:
            return self._sessions.get(ufrag)
        return self._owners.of(transaction_id_of(data))

    def _stranger(self, data: bytes, source: Address) -> None:
        """Whoever wants a QUIC connection has been heard by ICE before: others are not even asked to come again."""
        if self.quic is not None and is_initial(data) and self._is_awaited(source):
            self.quic.received(data, self.path_to(source))
        else:
            self.counters["dropped"] += 1

    def _is_awaited(self, source: Address) -> bool:
        return any(session.knows_source(source) for session in set(self._sessions.values()))


def _take_nothing(data: bytes, source: Address) -> bool:
    return False
