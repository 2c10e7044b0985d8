"""One way through the NATs to one peer: from the offer to the end of the link that runs on it.

Who asks for it controls ICE and opens the QUIC connection. Each side moves its own end of that to the best path it has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from kodectl.core.ice.checks import Credentials
from kodectl.core.ice.pairs import Pair
from kodectl.core.limits import TokenBucket
from kodectl.core.quic_paths import Path
from kodectl.core.traversal_plan import Plan
from kodectl.errors import WireError
from kodectl.node.discovery import Discovery
from kodectl.node.ice import Allocate, Description, IceSession, IceTerms, SendingBase
from kodectl.node.ice_stream import IceStream, PathBook
from kodectl.node.multiplexer import Multiplexer
from kodectl.node.punching import Punches
from kodectl.node.quic import QuicEndpoint
from kodectl.node.quic_stream import QuicStream
from kodectl.node.routes import Route
from kodectl.node.side_ways import Around, Errand, SideWays
from kodectl.node.signalling import Conversation
from kodectl.node.situation import Situation
from kodectl.runtime.base import Address, ConnectFailed
from kodectl.wire.candidates import Candidate, CandidateType
from kodectl.wire.offers import MAX_CANDIDATES, Offer, OfferKind
from kodectl.wire.stun import is_binding_request

log = logging.getLogger(__name__)

ANSWER_LIMIT_S = 6.0
"""For the other side to be told, to gather, and to answer: two hops each way with repetitions."""
PATH_LIMIT_S = 10.0
"""For the first path: a relay that has to be asked for, and some lost checks."""
QUIC_LIMIT_S = 6.0
"""Two round trips and some repetitions."""
QUIC_ATTEMPTS = 2
"""The path may die, and another be there, while QUIC is still beginning."""
GATHER_LIMIT_S = 5.0
"""For relays that are slow to answer; the others have been told of by then."""
FIRST_CANDIDATE_LIMIT_S = 2.0
"""For the first candidate, where UDP is blocked and everything needs a relay."""
RESTART_PAUSE_S = 4.0
"""From an answer to the next attempt to find a way again, once all have died: relays may have to be asked over TCP, and be
told of, and a lost check is repeated twice."""
DOUBT_PAUSE_S = 4.0
"""Between two doubts since the other side sends by another path: it may as well like that better."""
UNHEARD_PAUSE_S = 1.0
"""If there was no answer: the links by which one may come are being made again."""
SETTLE_S = 1.0
"""From the first direct path to the end of what was tried beside it: the other side may have seen another one."""
RESTARTS_PER_S = 0.25
RESTART_BURST = 4.0
"""That the peer may ask for: one in ANSWER_LIMIT_S is what an honest one does. Each has checks sent to all addresses that it
names."""
LOOK_EVERY_S = 2.0
"""While there is only a relayed path: whether others see discovery's socket at another address, which the peer has to know."""
UNUSED_LIMIT_S = 30.0
"""For the QUIC connection to begin, on the side that waits for it."""


_UNDELIVERED = {
    "not_there": "its rendezvous nodes are not linked with it any more: it has just left, or is changing them",
    "no_way": "none of its rendezvous nodes can be reached",
}


class SharedBase:
    """Discovery's socket, as one session sees it."""

    def __init__(self, discovery: Discovery, ip: str) -> None:
        self.on_request: Callable[[bytes], None] = lambda request: None
        """Before it is sent."""
        self._discovery = discovery
        self.address: Address = (ip, discovery.port)

    def send(self, data: bytes, address: Address) -> None:
        if is_binding_request(data):
            self.on_request(data)
        self._discovery.send(data, address)

    def close(self) -> None:
        """It is not this session's to close."""


class Surroundings(Around, Protocol):
    """What a passage uses of the node."""

    multiplexer: Multiplexer
    endpoint: QuicEndpoint
    paths: PathBook

    situation: Situation

    def relays(self) -> Sequence[Allocate]:
        """As they are to be had now."""
        ...

    def moved(self, passage: Passage) -> None:
        """Its way has changed."""
        ...

    def ended(self, passage: Passage) -> None: ...


class Passage:
    """Lives until `close`. What waits says so; everything else runs in the hub too."""

    def __init__(
        self, around: Surroundings, conversation: Conversation, terms: IceTerms, shared: SharedBase | None
    ) -> None:
        self.peer_id = conversation.peer_id
        self.stream: QuicStream | None = None
        self.answer: Offer | None = None
        self._around = around
        self._runtime = around.runtime
        self._conversation = conversation
        self._is_controlling = terms.is_controlling
        self._shared = shared
        self._answered = self._runtime.event()
        self._usable = self._runtime.event()
        self._is_told = False
        """Our first description has left."""
        self._is_closed = False
        self._is_seeking = False
        self._was_relayed = False
        self._is_looking = False
        self._doubted_at = float("-inf")
        """As the other side was heard elsewhere."""
        self._taken = ""
        """Of the peer's descriptions, the one in use, by its ufrag."""
        self._unheard = ""
        """Why an offer did not arrive."""
        self._restarts = TokenBucket(RESTARTS_PER_S, RESTART_BURST)
        self.session = IceSession(around.runtime, around.scope, terms)
        self.side_ways = SideWays(around, self.session, shared, self._usable, self._tell_more)
        self._punches = Punches(around, conversation, self.side_ways, is_controlling=self._is_controlling)
        self.session.on_data = self._data
        self.session.on_path = self._path_changed
        self.session.on_candidate = self._candidate_found
        self.session.on_base_gone = lambda base: around.paths.forget([base])
        conversation.on_message = self.told
        conversation.on_undelivered = self._undelivered
        around.multiplexer.attach(self)
        if shared is not None:
            shared.on_request = partial(around.multiplexer.asked, self)
        self._closer = around.scope.on_close(self.close)

    # -- what the peer is told, and tells --------------------------------------------------------------------------

    def gather(self, kind: OfferKind) -> None:
        """Waits; tells the peer what there is as soon as there is something, and the rest as it comes."""
        session = self.session
        self._add_reflexive()
        session.gather(0.0, FIRST_CANDIDATE_LIMIT_S)
        self._tell(kind)
        if not session.description.is_complete:
            session.gathered.wait(GATHER_LIMIT_S)
            self._tell(OfferKind.UPDATE)

    def _add_reflexive(self) -> None:
        """As others see discovery's socket now."""
        reflexive = self._around.situation.reflexive()
        if self._shared is not None and reflexive is not None:
            self.session.add_reflexive(self._shared, *reflexive)

    def _tell(self, kind: OfferKind, *, is_urgent: bool = False) -> None:
        if self._is_closed:
            return
        ours = self.session.description
        situation = self._around.situation
        self._is_told = True
        self._conversation.send(
            Offer(
                kind,
                ours.ufrag,
                ours.password,
                ours.candidates[:MAX_CANDIDATES],
                ours.is_complete,
                situation.hint(),
                situation.tcp(),
                situation.tcp_seen(),
            ),
            is_urgent=is_urgent,
        )

    def _candidate_found(self, candidate: Candidate) -> None:
        if self._is_told:
            self._tell(OfferKind.UPDATE)

    def told(self, offer: Offer) -> None:
        """By the peer, in the hub."""
        if self._is_closed:
            return
        if offer.kind is OfferKind.UPDATE:
            if self._is_of_now(offer):
                self._take_more(offer)
            if self.stream is not None:  # it may say so because it hears nothing
                self.session.doubt()
        elif offer.kind is OfferKind.OFFER and not self._is_controlling:
            self._begin_again(offer)
        elif offer.kind is OfferKind.GO:
            self._punches.told(offer)
        elif offer.kind in (OfferKind.ANSWER, OfferKind.REFUSAL) and self._is_controlling:
            self.answer = offer
            self._answered.set()

    def _is_of_now(self, offer: Offer) -> bool:
        """Not of a description of the peer's that a restart has ended: its relays and mappings are gone."""
        awaited = self.answer.ufrag if self.answer is not None else self._taken
        return offer.ufrag == awaited

    def _take_more(self, offer: Offer) -> None:
        for candidate in offer.candidates:
            self.session.add_remote(candidate)
        if offer.is_complete:
            self.session.remote_done()

    def _undelivered(self, why: str) -> None:
        """What was said last does not arrive. In the hub."""
        if self.answer is None:
            self._unheard = why
            self._answered.set()

    def take(self, offer: Offer) -> None:
        """The peer's description. Raises WireError."""
        self.session.set_remote(Description(offer.ufrag, offer.password, offer.candidates, offer.is_complete))
        self._taken = offer.ufrag

    def _begin_again(self, offer: Offer) -> None:
        """The peer has lost all paths, or repeats what was lost on the way."""
        if offer.ufrag == self._taken:
            return
        if not self._restarts.take(self._runtime.now()):
            log.debug("%s offers again too often", self.peer_id.hex())
            return
        self._restart()
        try:
            self.take(offer)
        except WireError as error:
            log.debug("%s offers again: %s", self.peer_id.hex(), error)
            return
        self._tell(OfferKind.ANSWER, is_urgent=True)

    # -- opening, by who asked for it ------------------------------------------------------------------------------

    def await_answer(self) -> Offer:
        """Raises ConnectFailed."""
        self._answered.wait(ANSWER_LIMIT_S)
        answer = self.answer
        if answer is None:
            why = _UNDELIVERED.get(self._unheard, "it does not answer through its rendezvous nodes")
            raise ConnectFailed("stopped" if self._is_closed else "timeout", why)
        if answer.kind is OfferKind.REFUSAL:
            raise ConnectFailed("refused", f"it does not want to: {answer.reason}")
        return answer

    def await_path(self) -> None:
        """Raises ConnectFailed."""
        self._usable.wait(PATH_LIMIT_S)
        if self.session.path is None:
            faults = "; ".join(dict.fromkeys(fault.message for fault in self.session.faults))
            why = self.session.why_not(PATH_LIMIT_S)
            raise ConnectFailed("stopped" if self._is_closed else "timeout", f"{why}; {faults}" if faults else why)

    def open_stream(self) -> IceStream:
        """Raises ConnectFailed."""
        failed = ConnectFailed("timeout", "no path")
        for _ in range(QUIC_ATTEMPTS):
            pair = self.session.path
            if pair is None:
                break
            path = self._path_of(pair)
            try:
                self.stream = self._around.endpoint.connect(path, self._sender(path), QUIC_LIMIT_S)
            except ConnectFailed as error:
                failed = error
                continue
            return self._carried(self.stream)
        raise failed

    def carry(self, stream: QuicStream) -> IceStream | None:
        """A connection that the peer has opened; None where it is not its to open, or one too many."""
        if not self.may_carry:
            return None
        self.stream = stream
        return self._carried(stream)

    @property
    def may_carry(self) -> bool:
        return not self._is_controlling and (self.stream is None or not self.stream.is_open)

    def _carried(self, stream: QuicStream) -> IceStream:
        stream.on_silence = self.session.doubt
        stream.on_elsewhere = self._elsewhere
        self._move()
        return IceStream(self._runtime, stream, self.route, self.close)

    def route(self) -> Route:
        pair = self.session.path
        if pair is None:
            return Route("relay" if self._was_relayed else "direct", "quic")
        return Route("relay" if pair.is_relayed else "direct", "quic", pair.seen_as.candidate, pair.remote)

    # -- paths -----------------------------------------------------------------------------------------------------

    def _path_changed(self, pair: Pair | None) -> None:
        if self._is_closed:
            return
        if pair is None:
            self._usable.clear()
            if self.stream is not None and not self._is_seeking:
                self._is_seeking = True
                self._around.scope.spawn(f"find a way again to {self.peer_id.hex()[:8]}", self._seek)
            return
        self._was_relayed = pair.is_relayed
        if not pair.is_relayed:
            self._runtime.call_later(SETTLE_S, self.side_ways.close)
        elif not self._is_looking:
            self._is_looking = True
            self._runtime.call_later(LOOK_EVERY_S, self._look)
        self._usable.set()
        self._move()
        self._around.moved(self)

    def _look(self) -> None:
        """A box that has lost its mappings gives others; those that worked get nowhere then."""
        path = self.session.path
        self._is_looking = not self._is_closed and path is not None and path.is_relayed
        if self._is_looking:
            self._add_reflexive()
            self._runtime.call_later(LOOK_EVERY_S, self._look)

    def _move(self) -> None:
        """Both sides do: QUIC follows the other side by itself, but not to a path that it has left before. What was lost on
        a path that is there again is repeated at once."""
        pair, stream = self.session.path, self.stream
        if pair is not None and stream is not None and stream.is_open:
            path = self._path_of(pair)
            stream.move(path, self._sender(path))

    def _elsewhere(self) -> None:
        """Where QUIC has followed the other side, which has come back since, this side does too: it had no reason to leave.
        Otherwise the path may be dead, and only the other side knows."""
        pair, now = self.session.path, self._runtime.now()
        if pair is None or self.stream is None:
            return
        if self.stream.sends_on != self._path_of(pair):
            self._move()
        elif now >= self._doubted_at + DOUBT_PAUSE_S:
            self._doubted_at = now
            self.session.doubt()

    def _path_of(self, pair: Pair) -> Path:
        base: SendingBase = pair.local.base  # type: ignore[assignment]  # every base that was given to the agent sends
        return self._around.paths.path(base, pair.remote.address, is_shared=base is self._shared)

    def _sender(self, path: Path) -> Callable[[Sequence[bytes]], None]:
        paths = self._around.paths
        return lambda datagrams: paths.send(datagrams, path)

    # -- a way again, once all have died ---------------------------------------------------------------------------

    def _seek(self) -> None:
        """Until there is a path, or no link left to need one."""
        try:
            while not self._is_closed and self.session.path is None and self.stream is not None and self.stream.is_open:
                self._usable.wait(self._offer_again() if self._is_controlling else self._call())
        finally:
            self._is_seeking = False

    def _offer_again(self) -> float:
        """How long to wait for a path then."""
        self._answered.clear()
        self.answer = None
        self._restart()
        self._tell(OfferKind.OFFER, is_urgent=True)
        # The offer is repeated by itself; another one would make its answer worthless.
        self._answered.wait(ANSWER_LIMIT_S)
        if self.answer is None:
            return UNHEARD_PAUSE_S
        try:
            self.take(self.answer)
        except WireError as error:
            log.debug("%s answers a restart: %s", self.peer_id.hex(), error)
        return RESTART_PAUSE_S

    def _call(self) -> float:
        """The other side is to begin anew. It may have nothing by which to write to this side until it has heard from it: a
        box that forgets takes links along."""
        self._renew()
        self._tell(OfferKind.UPDATE, is_urgent=True)
        return RESTART_PAUSE_S

    def _restart(self) -> None:
        self._renew()
        self.session.restart()
        self._taken = ""
        self._around.multiplexer.attach(self)

    def _renew(self) -> None:
        """What this side is seen as, and its relays: nobody knows what has taken all paths."""
        self._add_reflexive()
        self.session.renew_relays(self._around.relays())

    # -- what comes in ---------------------------------------------------------------------------------------------

    @property
    def ufrag(self) -> str:
        return self.session.agent.credentials.ufrag

    def received_shared(self, data: bytes, source: Address) -> None:
        if self._shared is not None and not self.side_ways.received(data, source):
            self.session.received(self._shared, data, source)

    def knows_source(self, source: Address) -> bool:
        """Of whom a connection is awaited."""
        return self.may_carry and self._shared is not None and self.session.agent.has_heard(self._shared, source)

    def _data(self, data: bytes, base: SendingBase, sender: Address) -> None:
        # Who has asked opens the connection: what else would begin one may be its own first packet, sent back by somebody.
        if self.may_carry or self._around.endpoint.knows(data):
            path = self._around.paths.path(base, sender, is_shared=base is self._shared)
            self._around.endpoint.received(data, path)

    def follow(self, agreed: Plan, offer: Offer) -> None:
        """Tries beside ICE what both have agreed on, in the background."""
        theirs = Credentials(offer.ufrag, offer.password)
        told = (one.address for one in offer.candidates if one.type is CandidateType.SERVER_REFLEXIVE)
        errand = Errand(agreed, theirs, next(told, None), offer.tcp_seen)
        self._around.scope.spawn(f"side ways to {self.peer_id.hex()[:8]}", self._go_side_ways, errand)

    def _go_side_ways(self, errand: Errand) -> None:
        run = self._punches.run if errand.agreed.punches_tcp else self.side_ways.run
        run(errand)

    def _tell_more(self, candidates: Sequence[Candidate]) -> None:
        ours = self.session.description
        told = tuple(candidates)[:MAX_CANDIDATES]
        self._conversation.send(Offer(OfferKind.UPDATE, ours.ufrag, ours.password, told, ours.is_complete))

    def give_up_unless_used(self) -> None:
        """By a connection that the peer opens."""
        self._runtime.call_later(UNUSED_LIMIT_S, lambda: self.close() if self.stream is None else None)

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        self._closer.cancel()
        self._around.multiplexer.detach(self)
        self._around.paths.forget(self.session.bases)
        self._conversation.close()
        self._punches.close()
        self.side_ways.close()
        self.session.close()
        for event in (self._answered, self._usable):
            event.set()
        self._around.ended(self)
