"""Dialling: one attempt, from a name to a peer.

resolve -> tcp -> handshake and hello -> a place in the roster -> confirmed by the other side

Where only the id is known, or nobody gets to the peer's TCP port, finding it and traversing its NAT take the place of the
first two steps.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from kodectl.core.exchange import usable_enodes
from kodectl.core.peerbook import PeerBook
from kodectl.errors import NegativeAnswer, PeerFault
from kodectl.node.handshake import LinkClosed, LocalEnd
from kodectl.node.link import Link
from kodectl.node.link import dial as open_link
from kodectl.node.peer import Peer
from kodectl.node.roster import NO_SENSE_S, PAUSE_AFTER_S, Roster
from kodectl.node.stream_race import NoWay, Reached, first_of
from kodectl.runtime.base import ConnectFailed, Runtime, Scope, Stopped, Stream, TimedOut
from kodectl.wire.enode import Enode
from kodectl.wire.messages import DisconnectReason, Hello

log = logging.getLogger(__name__)

RESOLVE_LIMIT_S = 4.0
CONNECT_LIMIT_S = 4.0
"""A SYN, two repetitions after 1 and 3 s, and a second for the last to be answered. A node that stops waits as long."""
MAX_ADDRESSES = 4
"""Of one name: two families, two of each."""
MAX_RECENT = 256
"""Outcomes kept for who asks again."""

Place = tuple[str, int]

CONNECTED = "connected"
STOPPED = "stopped"
"""This node stops: says nothing about the other one."""
PAUSING = {"wrong_network", "incompatible_version"}
NOT_TO_BLAME = {"too_many_peers", "duplicate_connection", "subnet_limit", "banned", "requested", "useless", STOPPED}
"""Outcomes that tell nothing bad about the peer that was dialled."""


Reach = Callable[[bytes, Callable[[str], None], Place | None], Reached]
"""Finds a node by its id and opens a stream to it; tells each stage as it begins. The place, if any, is being tried already.
Waits; raises ConnectFailed, or Stopped."""


class Dial:
    """One attempt. `outcome` is None until it is settled: `connected`, a disconnect reason, or a fault's code. `stage` is what
    is under way, or has failed. `enode` is where the peer was found in the end. `done` is set when it is settled, or there
    is a link that the other side has dialled."""

    __slots__ = (
        "changed",
        "detail",
        "done",
        "enode",
        "feeler",
        "node_id",
        "outcome",
        "referred",
        "settled_at",
        "stage",
        "static",
        "stream",
        "target",
        "tried",
    )

    def __init__(self, target: Enode, runtime: Runtime, *, static: bool, feeler: bool) -> None:
        self.target = self.enode = target
        self.stage = "resolve" if target.tcp else "locate"
        self.static = static
        self.feeler = feeler
        self.done = runtime.event()
        self.changed = runtime.event()
        """It has become `static`, or its port has been `tried`."""
        self.tried = False
        self.node_id = target.node_id if target.id_known else None
        self.stream: Stream | None = None
        self.outcome: str | None = None
        self.detail = ""
        self.settled_at = 0.0
        self.referred: list[Enode] = []
        """Others that the peer named when it had no room."""


def place_of(enode: Enode) -> Place:
    """Dials are told apart by where they go: the id may not be known before. Where it is all that is known, by the id."""
    return (enode.host, enode.tcp) if enode.tcp else (enode.node_id.hex(), 0)


class Dialler:
    """At most one dial to a place at a time. `pending` are under way; `recent` the last outcomes, for operators."""

    def __init__(
        self,
        runtime: Runtime,
        local: LocalEnd,
        hello_of: Callable[[], Hello],
        roster: Roster,
        book: PeerBook,
        scope: Scope,
        serve: Callable[[Peer, Callable[[], None]], DisconnectReason],
    ) -> None:
        """`serve(peer, on_confirmed)` runs a link that has a place, to its end."""
        self.pending: dict[Place, Dial] = {}
        self.recent: dict[Place, Dial] = {}
        self.outcomes: Counter[str] = Counter()
        self.on_settled: Callable[[Dial], None] = lambda dial: None
        self.reach: Reach = _reach_nobody
        self._runtime = runtime
        self._local = local
        self._hello_of = hello_of
        self._roster = roster
        self._book = book
        self._scope = scope
        self._serve = serve
        self._stopping = False
        roster.on_connected.append(self._linked)

    def is_dialling(self, node_id: bytes) -> bool:
        return any(dial.node_id == node_id for dial in self.pending.values())

    def dial(self, target: Enode, *, static: bool = False, feeler: bool = False) -> Dial:
        """Begins a dial, or joins the one under way to the same place. Raises Stopped when the node stops."""
        if self._stopping:
            raise Stopped
        place = place_of(target)
        dial = self.pending.get(place)
        if dial is not None and static:
            dial.static = True
            dial.changed.set()
        if dial is None:
            dial = Dial(target, self._runtime, static=static, feeler=feeler)
            self.pending[place] = dial
            try:
                self._scope.spawn(f"dial {place[0]}:{place[1]}", self._run, dial)
            except Stopped:
                del self.pending[place]
                raise
        return dial

    def _linked(self, peer: Peer) -> None:
        """Whoever waits for a dial need not wait for its end when the other side has been quicker."""
        for dial in self.pending.values():
            if dial.node_id == peer.node_id and not peer.outbound:
                dial.done.set()

    def stop(self) -> None:
        """No more dials; those that wait for a handshake end."""
        self._stopping = True
        for dial in self.pending.values():
            if dial.stream is not None:
                dial.stream.close()

    def _run(self, dial: Dial) -> None:
        try:
            link = self._open(dial)
        except ConnectFailed as failed:
            self._settle(dial, "no_route" if failed.reason == "unreachable" else failed.reason, failed.detail)
        except TimedOut as late:
            self._settle(dial, "timeout", str(late))
        except (PeerFault, NegativeAnswer) as fault:  # NegativeAnswer: no such name, or closed by the other side.
            self._settle(dial, _outcome_of(fault), fault.message)
        except Stopped:
            self._settle(dial, STOPPED)
        except Exception:
            log.exception("dialling %s failed", dial.target)
            self._settle(dial, "internal_error")
        else:
            self._enter(dial, link)

    def _open(self, dial: Dial) -> Link:
        dial.stream, dial.enode = self._stream_to(dial)
        dial.stage = "handshake"
        link = open_link(self._runtime, self._local, dial.stream, dial.node_id, self._hello_of())
        dial.node_id = link.node_id
        dial.stage = "admission"
        return link

    def _stream_to(self, dial: Dial) -> Reached:
        target = dial.target
        if not target.tcp:
            return self.reach(target.node_id, partial(setattr, dial, "stage"), None)
        if not target.id_known:
            return self._open_tcp(dial)
        ways = partial(self._open_tcp, dial), partial(self._open_by_id, dial)
        try:
            return first_of(self._runtime, self._scope, f"dial {target.host}:{target.tcp} or else", ways)
        except NoWay as none:
            # A second one that has not even found the node leaves it to the first to say what is wrong.
            raise none.failures[0 if dial.stage in ("resolve", "tcp") else 1] from none

    def _open_by_id(self, dial: Dial) -> Reached:
        """What else is tried for an operator, who may come while the port is tried for the node itself."""

        def at(stage: str) -> None:
            if stage != "locate":  # while the port is tried still
                dial.stage = stage

        while not (dial.static or dial.tried):
            dial.changed.wait()
        if not dial.static:
            raise ConnectFailed("unreachable", "nobody asked for another way")
        return self.reach(dial.target.node_id, at, place_of(dial.target))

    def _open_tcp(self, dial: Dial) -> Reached:
        try:
            return self._try_port(dial)
        finally:
            dial.tried = True
            dial.changed.set()

    def _try_port(self, dial: Dial) -> Reached:
        target = dial.target
        ips = self._runtime.resolve(target.host, RESOLVE_LIMIT_S, self._scope)[:MAX_ADDRESSES]
        dial.stage = "tcp"
        return Reached(self._connect(ips, target.tcp), target)

    def _connect(self, ips: list[str], port: int) -> Stream:
        """To the first that answers. Raises ConnectFailed."""
        failed = ConnectFailed("unreachable", "no address")
        for ip in ips:
            if self._stopping:
                raise Stopped
            try:
                return self._runtime.connect((ip, port), CONNECT_LIMIT_S)
            except ConnectFailed as error:
                failed = error
        raise failed

    def _enter(self, dial: Dial, link: Link) -> None:
        """Asks for a place, and serves the link for as long as it lives."""
        static = dial.static or self._book.is_static(link.node_id)
        peer = Peer(link, dial.enode, static=static)
        refused = self._roster.enter(peer, wanted=True)
        if refused is not None:
            link.disconnect(refused)
            self._settle(dial, refused.name.lower(), "there is no room for it here")
            link.run(lambda link, kind, body: None)
            return
        reason = self._serve(peer, lambda: self._settle(dial, CONNECTED))
        dial.referred = usable_enodes(link.referred, link.remote[0])
        # Without effect on a dial that was settled when the link was confirmed.
        self._settle(dial, _outcome_of_end(reason, link), link.close_text)

    def _settle(self, dial: Dial, outcome: str, detail: str = "") -> None:
        """The first call for a dial counts."""
        if dial.outcome is not None:
            return
        now = self._runtime.now()
        dial.outcome, dial.detail, dial.settled_at = outcome, detail, now
        place = place_of(dial.target)
        del self.pending[place]
        self.recent.pop(place, None)
        self.recent[place] = dial
        if len(self.recent) > MAX_RECENT:
            del self.recent[next(iter(self.recent))]
        self.outcomes[outcome] += 1
        log.debug("dial %s: %s at %s %s", dial.target, outcome, dial.stage, detail)
        if outcome not in (CONNECTED, STOPPED) and dial.target.id_known:
            self._note_failure(dial.target.node_id, outcome, now)
        dial.done.set()
        self.on_settled(dial)

    def _note_failure(self, node_id: bytes, outcome: str, now: float) -> None:
        self._book.dial_failed(node_id, now, blame=outcome not in NOT_TO_BLAME)
        if outcome == "self":  # who told that it is where this node is has lied, and it has not
            return
        reason = DisconnectReason.__members__.get(outcome.upper())
        if outcome in PAUSING or reason in PAUSE_AFTER_S:
            self._book.pause(node_id, now, PAUSE_AFTER_S[reason] if reason is not None else NO_SENSE_S)


def _reach_nobody(node_id: bytes, at: Callable[[str], None], tried: Place | None) -> Reached:
    raise ConnectFailed("unreachable", "it does not listen for connections")


def _outcome_of_end(reason: DisconnectReason, link: Link) -> str:
    """Of a link that ended before it was confirmed."""
    if reason is DisconnectReason.SHUTTING_DOWN and not link.closed_by_peer:
        return STOPPED
    return "refused" if reason is DisconnectReason.UNSPECIFIED else reason.name.lower()


def _outcome_of(fault: PeerFault | NegativeAnswer) -> str:
    """Codes as they are, but for two that operators know by another name."""
    if fault.code == "name_not_resolved":
        return "no_route"
    if isinstance(fault, LinkClosed) and fault.reason is DisconnectReason.UNSPECIFIED:
        return "refused"  # It took the connection and closed it: full of handshakes, or no node at all.
    return fault.code
