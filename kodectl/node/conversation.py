"""One session of letters with one node: which ways they take, and when they are said again.

The ways of who began lead through the other's rendezvous nodes; those of who was written to are the ones that letters came
by. Each letter takes two at once, and others when those fail or it is not heard.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from kodectl.core.correspondence import Correspondence, Outgoing
from kodectl.core.signal_routes import Way
from kodectl.runtime.base import Runtime, Timer
from kodectl.wire.offers import Letter, Offer, OfferKind

SIDE_BY_SIDE = 2
MAX_HOPS_KNOWN = 8
"""And taken at once by what is urgent."""
MAX_HELD = 16
"""Offers, for whoever is about to listen: more than a connection takes."""
SAY_AGAIN_S = 0.3
"""Between two times that all that is unheard is said again out of turn."""
LINGER_S = 10.0
"""After `close`: what was said last is repeated until it is heard, and the other side's repetitions are answered."""

BEGINNINGS = (OfferKind.OFFER, OfferKind.ANSWER)
"""They say all that there is to say: what came before them, and was not heard, need not be waited for."""

NOT_THERE = "not_there"
UNHEARD = "unheard"
NO_WAY = "no_way"


class Hop(NamedTuple):
    """The first step of a letter. `via`: packed contacts that the neighbour is to hand it to."""

    way: Way
    via: bytes = b""
    is_spare: bool = False
    """Taken when the others have failed, or what took them was not heard."""


class Sender(Protocol):
    def transmit(
        self, conversation: Conversation, hop: Hop, letter: Letter, tell: Callable[[bool | None], None]
    ) -> None:
        """`tell` hears whether the hop has passed it on; None: nothing is known."""
        ...

    def find_again(self, conversation: Conversation) -> bool:
        """Begins to look for other hops, for `go_on`; false where that makes no sense."""
        ...

    def ended(self, conversation: Conversation) -> None: ...


class Conversation:
    """Nothing waits. `on_message` hears each of the other side's offers once, in order, those too that came before it was
    set; `on_undelivered` why what was said last will not arrive: `not_there` (no rendezvous node knows the node), `no_way`
    (there is none), `unheard`."""

    def __init__(self, runtime: Runtime, sender: Sender, peer_id: bytes, session: bytes, hops: list[Hop]) -> None:
        self.peer_id = peer_id
        self.session = session
        self._on_message: Callable[[Offer], None] | None = None
        self._held: list[Offer] = []
        self.on_undelivered: Callable[[str], None] = _ignore_reason
        self._runtime = runtime
        self._sender = sender
        self._hops = hops
        self._proved: list[Hop] = []
        """News has come by them, the last one first."""
        self._failed: set[Hop] = set()
        self._tried: dict[int, set[Hop]] = {}
        """By the number of an unheard letter."""
        self._urgent: set[int] = set()
        """Of the numbers of unheard letters."""
        self._said_again_at = float("-inf")
        self._correspondence = Correspondence()
        self._timer: Timer | None = None
        self._is_closed = False
        self._is_stale = False
        """The hops have led nowhere: others are to be found before anything is said again."""
        self._is_seeking = False
        self._has_sought = False
        """For what is being said now: a second look would find the same."""
        self._is_over = False

    @property
    def rtt_s(self) -> float | None:
        """From an offer to the word that it was heard, through others."""
        return self._correspondence.rtt_s

    @property
    def on_message(self) -> Callable[[Offer], None] | None:
        return self._on_message

    @on_message.setter
    def on_message(self, callback: Callable[[Offer], None] | None) -> None:
        """None: what comes is held."""
        self._on_message = callback
        held, self._held = self._held, []
        for offer in held:
            self._tell(offer)

    # -- out -------------------------------------------------------------------------------------------------------

    def send(self, offer: Offer, *, is_urgent: bool = False) -> None:
        """Repeated until the other side says that it was heard. What is urgent takes all hops at once, the spare ones too:
        whatever has made it so may have taken links along, and nobody has noticed yet. If it begins anew, nothing that was
        said before is repeated any more."""
        if self._is_closed:
            return
        if self._correspondence.is_settled:
            # A new attempt: what did not work long ago may work now.
            self._failed.clear()
            self._has_sought = False
        if is_urgent and offer.kind in BEGINNINGS:
            self._correspondence.give_up()
        outgoing = self._correspondence.write(offer, self._runtime.now())
        if outgoing is None:
            self._undelivered(UNHEARD)
            return
        if self._is_stale or not self._hops:
            self._seek(UNHEARD if self._hops else NO_WAY)
        if self._correspondence.is_settled:
            return  # Given up at once: there is nowhere to look.
        if is_urgent:
            self._urgent.add(outgoing.number)
            self._said_again_at = float("-inf")
        self._put_out(outgoing, everywhere=is_urgent)
        self._arm()

    def go_on(self, hops: list[Hop]) -> None:
        """Found again, or not (no hops)."""
        self._is_seeking = False
        if self._is_over:
            return
        if not hops:
            self._undelivered(NOT_THERE)
            return
        self._is_stale = False
        self._hops = hops
        self._proved.clear()
        self._failed.clear()
        self._tried.clear()
        for outgoing in self._correspondence.unheard():
            self._put_out(outgoing)

    def _seek(self, why: str) -> None:
        """What was said waits meanwhile."""
        if self._is_seeking:
            return
        if self._has_sought or not self._sender.find_again(self):
            self._undelivered(why)
            return
        self._is_seeking = self._has_sought = True

    def close(self) -> None:
        """Nothing is told any more. What was said is still repeated for some seconds."""
        if self._is_closed:
            return
        self._is_closed = True
        self.on_message, self.on_undelivered = _ignore_offer, _ignore_reason
        self._runtime.call_later(LINGER_S, self.end)

    def end(self) -> None:
        """At once. May be called twice."""
        if self._is_over:
            return
        self._is_closed = self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._sender.ended(self)

    def _put_out(self, outgoing: Outgoing, *, everywhere: bool = False) -> None:
        tried = self._tried.setdefault(outgoing.number, set())
        for hop in self._live() if everywhere else self._choose(tried):
            tried.add(hop)
            self._transmit(hop, outgoing)

    def _live(self) -> list[Hop]:
        """Those that news has come by first."""
        return [hop for hop in dict.fromkeys([*self._proved, *self._hops]) if hop not in self._failed]

    def _choose(self, tried: set[Hop]) -> list[Hop]:
        """Two that this letter has not taken yet, spare ones last; when it has taken all, from the start."""
        live = self._live()
        fresh = [hop for hop in live if hop not in tried]
        if not fresh:
            tried.clear()
            fresh = live
        usual = [hop for hop in fresh if not hop.is_spare or hop in self._proved]
        return (usual or fresh)[:SIDE_BY_SIDE]

    def _transmit(self, hop: Hop, outgoing: Outgoing | None) -> None:
        ours = self._correspondence
        number, offer = (outgoing.number, outgoing.offer) if outgoing is not None else (ours.last_number, None)
        letter = Letter(number, ours.oldest, ours.heard, int(self._runtime.unix_time() * 1000), offer)
        self._sender.transmit(self, hop, letter, partial(self._passed, hop))

    def _passed(self, hop: Hop, is_passed: bool | None) -> None:
        """What a hop says. One that knows nothing of the node is not asked again in this attempt."""
        if self._is_over or is_passed:
            return
        if is_passed is False:
            self._failed.add(hop)
        if self._failed.issuperset(self._hops):
            if not self._correspondence.is_settled:
                self._seek(NOT_THERE)
            return
        for outgoing in self._correspondence.unheard():
            tried = self._tried.setdefault(outgoing.number, set())
            untried = [other for other in self._hops if other not in self._failed and other not in tried]
            if hop in tried and untried:
                tried.add(untried[0])
                self._transmit(untried[0], outgoing)

    # -- in --------------------------------------------------------------------------------------------------------

    def received(self, letter: Letter, way: Way) -> None:
        """Signed by the other side."""
        if self._is_over:
            return
        ours = self._correspondence
        known_before = (ours.heard, ours.oldest)
        offers = ours.take(letter, self._runtime.now())
        # A copy of what has come already may be handed in by anybody.
        is_news = (ours.heard, ours.oldest) != known_before
        self._note_way(way, is_news=is_news)
        self._is_stale = False
        self._tried = {number: hops for number, hops in self._tried.items() if number >= ours.oldest}
        self._urgent = {number for number in self._urgent if number >= ours.oldest}
        if is_news:
            self._say_urgent_again()
        for offer in offers:
            self._tell(offer)
        if ours.owes():
            self._tell_heard()
        self._arm()

    def _say_urgent_again(self) -> None:
        """And what was said after it: by a way that has just proved to be good, which may be the only one."""
        now = self._runtime.now()
        if not self._urgent or now < self._said_again_at + SAY_AGAIN_S:
            return
        self._said_again_at = now
        for outgoing in self._correspondence.unheard():
            for hop in self._proved[:1]:
                self._transmit(hop, outgoing)

    def _tell(self, offer: Offer) -> None:
        if self._on_message is not None:
            self._on_message(offer)
        elif len(self._held) < MAX_HELD:
            self._held.append(offer)

    def _tell_heard(self) -> None:
        self._correspondence.told(self._runtime.now())
        for hop in self._choose(set()):
            self._transmit(hop, None)

    def _note_way(self, way: Way, *, is_news: bool) -> None:
        hop = next((hop for hop in self._hops if hop.way == way), None)
        if hop is None and len(self._hops) < MAX_HOPS_KNOWN:
            hop = Hop(way)
            self._hops.append(hop)
        if hop is None:
            return
        self._failed.discard(hop)
        if is_news:
            self._proved = [hop, *[other for other in self._proved if other != hop]]

    # -- time ------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._correspondence.next_deadline()
        if deadline is not None and not self._is_over:
            self._timer = self._runtime.call_later(max(0.0, deadline - self._runtime.now()), self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._runtime.now()
        if self._correspondence.is_exhausted(now):
            self._undelivered(UNHEARD)
            return
        for outgoing in self._correspondence.due(now):
            self._put_out(outgoing)
        self._arm()

    def _undelivered(self, why: str) -> None:
        self._is_stale = True
        if self._correspondence.is_settled:
            return
        self._correspondence.give_up()
        self._tried.clear()
        self._arm()
        self.on_undelivered(why)


def _ignore_offer(offer: Offer) -> None:
    pass


def _ignore_reason(reason: str) -> None:
    pass
