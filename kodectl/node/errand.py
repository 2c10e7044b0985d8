"""A short-lived discovery socket with an identity of its own: what errands stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from kodectl.core.identity import Identity
from kodectl.errors import DeadlineReached, EnvironmentFault, KodectlError, NegativeAnswer, NodeUnreachable
from kodectl.node.discovery import Discovery
from kodectl.node.handshake import LinkClosed, LocalEnd
from kodectl.node.kademlia import Kademlia
from kodectl.node.link import dial
from kodectl.node.lookups import enode_of
from kodectl.node.node import CLIENT
from kodectl.node.values import Values
from kodectl.runtime.base import Address, Connection, Runtime, Stopped, TimedOut
from kodectl.wire import packets
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import Enode
from kodectl.wire.messages import PROTOCOL_VERSIONS, DisconnectReason, Hello
from kodectl.wire.suite import RealSuite

Stage = Literal["resolve", "udp", "tcp", "handshake", "identity"]

TIMERS_EARLY_S = 0.01
"""Those of the event loop come at most so much before their time, by the clock: what is left then is nothing."""
GOODBYE_LIMIT_S = 2.0
"""For the farewell of a link to reach the other side."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What all errands are told."""

    bootstrap: tuple[Enode, ...]
    network: str
    timeout_s: float
    """One question, one dial."""
    deadline_s: float
    """The whole errand."""


class Errand:
    """A discovery socket, a table and an identity, for the time of one command. It is a DHT client: nobody keeps it."""

    def __init__(self, runtime: Runtime, terms: Terms, seed: bytes | None = None) -> None:
        self.runtime = runtime
        self.terms = terms
        self.identity = Identity(RealSuite(), seed or runtime.random_bytes(32))
        self.scope = runtime.scope("errand")
        self.discovery = Discovery(runtime, self.identity, packets.FLAG_CLIENT)
        self.kademlia = Kademlia(runtime, self.discovery, self.scope)
        self.values = Values(runtime, self.discovery, self.kademlia, self.scope)
        self.ends = runtime.now() + terms.deadline_s
        self.late = False
        self._dialled: set[Connection] = set()
        """Where a handshake is under way."""

    def left_s(self) -> float:
        return max(0.0, self.ends - self.runtime.now())

    @property
    def is_over(self) -> bool:
        """A question that is unanswered by now had less time than it should have, and proves nothing."""
        return self.left_s() < TIMERS_EARLY_S

    def limit_s(self) -> float:
        """For one question or dial: its own limit, and never past the end of the errand."""
        return min(self.terms.timeout_s, self.left_s())

    def end(self) -> None:
        """The deadline: whatever waits for an answer is told that none will come."""
        self.late = True
        self.discovery.close()

    def hang_up(self) -> None:
        """Ends the dials under way: nobody waits for them any more."""
        for stream in list(self._dialled):
            stream.close()

    def join(self) -> None:
        """Asks all bootstrap nodes side by side and goes on with the first answers.

        Raises NodeUnreachable (no_bootstrap_answered) with what went wrong at each, and DeadlineReached."""
        if not self.terms.bootstrap:
            raise NodeUnreachable(
                "no bootstrap node is given", code="no_bootstrap_answered", hint="name one: --bootstrap enode://..."
            )
        outcomes = self.runtime.mailbox(len(self.terms.bootstrap))
        for enode in self.terms.bootstrap:
            self.scope.spawn(f"bootstrap {enode.host}", self._ask_bootstrap, enode, outcomes.put)
        troubles: list[str] = []
        for _ in self.terms.bootstrap:
            try:
                trouble = outcomes.get(self.left_s())
            except TimedOut:
                break
            if trouble is None:
                return
            troubles.append(trouble)
        if self.is_over:
            raise DeadlineReached(f"no bootstrap node has answered within {self.terms.deadline_s:g} s", code="deadline")
        raise NodeUnreachable(
            f"no bootstrap node answered: {'; '.join(troubles)}",
            code="no_bootstrap_answered",
            hint="check the addresses, or name another node: --bootstrap enode://...",
        )

    def _ask_bootstrap(self, enode: Enode, tell: Callable[[str | None], bool]) -> None:
        try:
            ip = self.resolve(enode.host)
            self.discovery.ask(enode.node_id, (ip, enode.udp), self.kademlia.ping_body(), self.limit_s())
        except Stopped:
            tell(f"{enode.host}:{enode.udp}: no answer before the deadline")
        except KodectlError as error:
            tell(f"{enode.host}:{enode.udp}: {error}")
        else:
            tell(None)

    def resolve(self, host: str) -> str:
        addresses = self.runtime.resolve(host, self.limit_s(), self.scope)
        # Every machine has IPv4; an IPv6 address is taken when there is nothing else.
        return next((ip for ip in addresses if ":" not in ip), addresses[0])

    def locate(self, node_id: bytes) -> Enode:
        """Raises NegativeAnswer (not_found)."""
        self.join()
        found = self.kademlia.find(node_id)
        for contact in found.closest:
            if contact.node_id == node_id:
                return enode_of(contact)
        raise NegativeAnswer(f"no node of the network knows {node_id.hex()}", code="not_found")

    def handshake(self, enode: Enode, address: Address) -> tuple[Hello | None, str | None, float]:
        """Dials, proves, and says goodbye: the peer's hello, or the reason why it wanted none; and the time it took.

        Raises ConnectFailed, PeerFault, TimedOut, and Stopped or LinkClosed where the errand ends meanwhile."""
        started = self.runtime.now()
        stream = self.runtime.connect(address, self.limit_s(), scope=self.scope)
        self._dialled.add(stream)
        # A dial has a limit of its own, but this errand's may be shorter.
        ends = self.runtime.now() + self.limit_s()
        cut = self.runtime.call_later(self.limit_s(), stream.close)
        local = LocalEnd(self.identity, self.runtime.random_bytes(32))
        hello = Hello(PROTOCOL_VERSIONS, CLIENT, self.terms.network, (), Ports(0, 0))
        try:
            link = dial(self.runtime, local, stream, enode.node_id if enode.id_known else None, hello)
        except LinkClosed as closed:
            if self.runtime.now() >= ends:
                raise TimedOut from closed
            if closed.reason is DisconnectReason.UNSPECIFIED:
                raise
            # A reason comes sealed, after the proof: it is who it should be, and has no place for us.
            return None, closed.code, self.runtime.now() - started
        finally:
            cut.cancel()
            self._dialled.discard(stream)
        took_s = self.runtime.now() - started
        link.disconnect(DisconnectReason.REQUESTED)
        self.scope.spawn("goodbye", link.run, lambda *_: None)
        return link.hello, None, took_s


@contextmanager
def errand(runtime: Runtime, terms: Terms, seed: bytes | None = None) -> Iterator[Errand]:
    """Opens the errand's socket, keeps its deadline, and leaves nothing behind."""
    this = Errand(runtime, terms, seed)
    _open(this.discovery)
    timer = runtime.call_later(terms.deadline_s, this.end)
    try:
        yield this
    except Stopped as error:
        raise DeadlineReached(f"no answer within {terms.deadline_s:g} s", code="deadline") from error
    finally:
        timer.cancel()
        this.scope.close()
        this.hang_up()
        this.discovery.close()
        this.scope.join(GOODBYE_LIMIT_S)


def _open(discovery: Discovery) -> None:
    """For both families, where the machine has both."""
    try:
        discovery.open(("::", 0))
    except EnvironmentFault:
        discovery.open(("0.0.0.0", 0))


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
