"""When both sides punch over TCP, and from which ports.

Half a round trip lies between telling and hearing: who controls says when ("go"), and waits that long itself.

A punch that came to nothing may have left boxes with a connection that they let no other one into: Linux keeps one that was
reset for 10 s, and one that was opened by half for 120 s, from the last packet. So all but the first are made from ports
that no box has seen before. Each side asks a peer where a new one is seen outside. The other side tells that with a "go" of
its own, as soon as it knows it; the controlling side's "go" tells its own one, if both have one.
"""

from __future__ import annotations

import logging

from kodectl.errors import EnvironmentFault
from kodectl.node.new_port import NewPort
from kodectl.node.side_ways import Around, Errand, SideWays
from kodectl.node.signalling import Conversation
from kodectl.runtime.base import Address
from kodectl.wire.offers import Offer, OfferKind

log = logging.getLogger(__name__)

GO_LIMIT_S = 2.0
"""For the word that the other side punches; without it, this side begins all the same."""
LATER_GO_LIMIT_S = 5.0
"""For the next one: the other side is not through with the last one yet."""
PAUSES_S = (0.0, 0.0, 12.0, 125.0)
"""Before each punch: there may be no new ports, and boxes have forgotten the old ones' connections then."""


class Punches:
    """Of one passage, one after the other until one gets through. `run` waits; the rest is called in the hub."""

    def __init__(
        self, around: Around, conversation: Conversation, side_ways: SideWays, *, is_controlling: bool
    ) -> None:
        self._around = around
        self._conversation = conversation
        self._side_ways = side_ways
        self._is_controlling = is_controlling
        self._told = around.runtime.event()
        """A "go" has come."""
        self._told_port: Address | None = None
        self._peer_ip = ""
        self._ending = around.runtime.event()
        self._port: NewPort | None = None

    def told(self, offer: Offer) -> None:
        """A "go" of the other side. In the hub."""
        self._told_port = offer.tcp_seen
        self._told.set()

    def run(self, errand: Errand) -> None:
        self._peer_ip = errand.tcp_seen[0] if errand.tcp_seen is not None else ""
        try:
            for attempt, pause_s in enumerate(PAUSES_S):
                self._rest(pause_s)
                if attempt:
                    self._open_port()
                begin = self._say if self._is_controlling else self._hear
                theirs = begin(GO_LIMIT_S if attempt == 0 else LATER_GO_LIMIT_S)
                if not self._side_ways.is_wanted:
                    return
                self._punch(errand._replace(rtt_s=self._conversation.rtt_s), theirs)
        finally:
            self._close_port()

    def close(self) -> None:
        """May be called twice."""
        self._ending.set()
        self._told.set()

    def _punch(self, errand: Errand, theirs: Address | None) -> None:
        if theirs is None or self._port is None:
            self._side_ways.run(errand)
        else:
            self._side_ways.run(errand._replace(tcp_seen=theirs), self._port)
            self._close_port()

    def _rest(self, pause_s: float) -> None:
        """Who controls may begin sooner."""
        ending = self._ending if self._is_controlling else self._told
        ending.wait(pause_s)

    # -- who begins ------------------------------------------------------------------------------------------------

    def _say(self, limit_s: float) -> Address | None:
        """Where the other side's new port is, if both have one."""
        theirs = None
        if self._port is not None:
            self._told.wait(limit_s)
            theirs = self._take_told()
        self._conversation.send(Offer(OfferKind.GO, tcp_seen=self._port.seen if self._port and theirs else None))
        self._around.scope.sleep((self._conversation.rtt_s or 0.0) / 2)
        return theirs

    def _hear(self, limit_s: float) -> Address | None:
        if self._port is not None:
            self._conversation.send(Offer(OfferKind.GO, tcp_seen=self._port.seen))
        self._told.wait(limit_s)
        return self._take_told()

    def _take_told(self) -> Address | None:
        """The other side's new port. It is where the listening one is: the budget of punches, and what was agreed on, are of
        that address."""
        theirs, self._told_port = self._told_port, None
        if not self._ending.is_set():
            self._told.clear()
        return theirs if theirs is not None and theirs[0] == self._peer_ip and theirs[1] else None

    # -- new ports -------------------------------------------------------------------------------------------------

    def _open_port(self) -> None:
        """Unless it is too late for one. One that was told of and not used is told of again."""
        if (
            self._port is not None
            or not self._side_ways.is_wanted
            or (self._told.is_set() and not self._is_controlling)
        ):
            return
        try:
            port = NewPort(self._around.runtime, self._around.outer_tcp_port)
        except EnvironmentFault as error:
            log.debug("punch: no new port: %s", error)
            return
        if port.seen is None:
            port.close()
        else:
            self._port = port

    def _close_port(self) -> None:
        if self._port is not None:
            self._port.close()
            self._port = None
