"""Who this node is connected to: its parts (roster, dialling, heartbeats, exchange, memory) put together.

in    listener -> handshake -> a place in the roster -> serve until the end
out   keeper or operator -> dialler -> the same
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from math import inf

from kodectl.core.arrivals import Arrivals
from kodectl.core.histogram import Histogram
from kodectl.core.identity import Identity
from kodectl.core.peerbook import PeerBook
from kodectl.core.turn_allocations import network_of
from kodectl.errors import KodectlError, PeerFault
from kodectl.node.connecting import Connector
from kodectl.node.dialling import CONNECTED, STOPPED, Dial, Dialler, Reach, place_of
from kodectl.node.events import Events, rfc3339
from kodectl.node.handshake import Knocked, LocalEnd, StunBegun
from kodectl.node.heartbeat import Heartbeats
from kodectl.node.keeper import Keeper
from kodectl.node.link import Link
from kodectl.node.link import accept as accept_link
from kodectl.node.peer import Peer
from kodectl.node.peer_exchange import PeerExchange
from kodectl.node.peer_memory import PeerMemory
from kodectl.node.peer_views import latency_view, peer_view
from kodectl.node.persistence import Store
from kodectl.node.roster import Roster
from kodectl.node.views import BanView, ConnectView, LatencyView, PeerView
from kodectl.runtime.base import Address, Connection, Listener, Runtime, Scope, Stopped, Stream, TimedOut
from kodectl.settings import NodeSettings
from kodectl.wire.addresses import address_text
from kodectl.wire.enode import Enode, parse_enode
from kodectl.wire.messages import DisconnectReason, Hello, MessageKind

__all__ = ["Peer", "Peering"]

log = logging.getLogger(__name__)

STATIC_SECRET_SIZE = 32
MAX_STUN_STREAMS = 256
"""Clients of the relay over TCP, and those that only ask where they are seen."""
MAX_STUN_STREAMS_OF_NETWORK = 32
"""As many as a relay gives addresses to one: nobody keeps the others out."""

_WITHOUT_ROOM = (DisconnectReason.TOO_MANY_PEERS, DisconnectReason.SUBNET_LIMIT)
_BULK = frozenset(
    (MessageKind.BLOCK, MessageKind.TRANSACTION, MessageKind.SYNC, MessageKind.REQUEST, MessageKind.ANSWER)
)
"""Broadcast and requests over links bound these themselves."""

PeerHandler = Callable[[Peer, bytes], None]


class Peering:
    """Links to peers: dialling, accepting, limits, crossed dials, heartbeats, trust, bans.

    Raises nothing on account of a peer; a fault of a peer or of a message handler ends that peer's link."""

    def __init__(
        self,
        runtime: Runtime,
        settings: NodeSettings,
        identity: Identity,
        hello_of: Callable[[], Hello],
        scope: Scope,
        events: Events,
        store: Store,
        handlers: dict[int, PeerHandler],
        candidates: Callable[[int], list[Enode]] = lambda count: [],
    ) -> None:
        """`handlers` take the messages that are not peering's own, by message kind; they must not wait, and more may be
        added to `self.handlers`. `candidates` gives up to so many enodes to dial when peering knows too few itself."""
        self._runtime = runtime
        self._settings = settings
        self._own_id = identity.node_id
        self._hello_of = hello_of
        self._scope = scope
        self._events = events
        self._local = LocalEnd(identity, runtime.random_bytes(STATIC_SECRET_SIZE))
        self._bootstrap = [parse_enode(text) for text in settings.bootstrap]
        self._book = PeerBook(self._own_id, self._privileged(), runtime.rng)
        self._roster = Roster(runtime, self._own_id, settings.max_peers, self._book, events)
        self._memory = PeerMemory(runtime, self._book, store, events, scope)
        self._heartbeats = Heartbeats(runtime, self._roster, self._book, scope)
        self.exchange = PeerExchange(runtime, self._own_id, self._roster, self._book, scope)
        self._dialler = Dialler(runtime, self._local, hello_of, self._roster, self._book, scope, self._serve)
        self._keeper = Keeper(runtime, self._roster, self._book, self._dialler, candidates)
        self._connector = Connector(runtime, self._own_id, self._roster, self._book, self._dialler)
        self._listener: Listener | None = None
        self._arrivals: Arrivals[Stream] = Arrivals()
        self._handshakes: set[Stream] = set()
        self._unknown: set[Connection] = set()
        """Those among them over TCP."""
        self._inbound: Counter[str] = Counter()
        self.on_knock: Callable[[bytes, str], None] = _ignore_knock
        """Hears the nonce of each connection that only showed that the port can be reached, and who made it."""
        self.on_stun: Callable[[Stream], None] = lambda stream: None
        """Serves a STUN or TURN client that has come to the listener; waits, in a task of its own."""
        self._stun_streams: Counter[str] = Counter()
        """By network."""
        self.claims: Callable[[Connection], bool] = lambda stream: False
        """Takes a connection to the listener for something else than a link."""
        self.links = self._roster.links
        """Connected peers by node id."""
        self.on_connected = self._roster.on_connected
        self.on_disconnected = self._roster.on_disconnected
        self.handlers: dict[int, PeerHandler] = {
            **handlers,
            MessageKind.HEARTBEAT: self._heartbeats.handle,
            MessageKind.PEER_REQUEST: self.exchange.handle_request,
            MessageKind.PEER_RESPONSE: self._handle_peer_response,
        }
        self.on_connected.append(self.exchange.connected)
        self.on_disconnected.append(lambda peer: self._keeper.wake())
        self._dialler.on_settled = self._dial_settled

    def reach_by(self, reach: Reach) -> None:
        """How to open a stream to a node of which only the id is known, or whose port nobody gets through to."""
        self._dialler.reach = reach

    def reconfigure(self, settings: NodeSettings, answered: set[bytes]) -> None:
        """Takes over bootstrap nodes, validators and the number of peers. `answered`: bootstrap nodes whose ids have only
        been learned."""
        self._settings = settings
        self._bootstrap = [parse_enode(text) for text in settings.bootstrap]
        self._book.set_privileged(self._privileged() | answered)
        self._roster.resize(settings.max_peers)
        for enode in self._bootstrap:
            self.add_candidate(enode, "bootstrap")
        self._keeper.wake()

    def _privileged(self) -> set[bytes]:
        """Who ranks high by configuration."""
        bootstrap = {enode.node_id for enode in self._bootstrap if enode.id_known}
        return bootstrap | {bytes.fromhex(validator) for validator in self._settings.validators}

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Loads what is stored, listens, and begins to dial. Waits for the disk. Raises EnvironmentFault."""
        self._memory.load()
        local = (self._settings.listen_host, self._settings.tcp_port)
        self._listener = self._runtime.listen(local, self._arrived)
        for enode in self._bootstrap:
            self.add_candidate(enode, "bootstrap")
        self._scope.spawn("heartbeats", self._heartbeats.sweep)
        self._scope.spawn("peer exchange", self.exchange.keep_asking)
        self._scope.spawn("save peers", self._memory.keep_saved)
        self._scope.spawn("keep peers", self._keeper.keep)

    def stop(self) -> None:
        """Saves, and says goodbye to every peer. Waits for the disk; the links end within a second after it."""
        if self._listener is not None:
            self._listener.close()
            # Before the goodbyes: who is linked now is dialled first after a restart.
            self._memory.try_to_save()
        self._keeper.stop()
        self._dialler.stop()
        self._roster.close()
        for stream in list(self._handshakes):
            stream.close()

    @property
    def tcp_port(self) -> int:
        """Where it listens; 0 before `start`."""
        return self._listener.local[1] if self._listener is not None else 0

    # -- links in --------------------------------------------------------------------------------------------------

    def _arrived(self, stream: Connection) -> None:
        if not self.claims(stream):
            self._unknown.add(stream)
            self.accept(stream)

    def accept(self, stream: Stream, expected_id: bytes | None = None) -> None:
        """A stream that somebody else has opened: `expected_id`, where that is known. Runs in the hub: refuses, without
        cryptography, what is too much."""
        ip = stream.remote[0]
        entry = self._arrivals.enter(stream, ip, self._runtime.now(), stays=expected_id is not None)
        if not entry.enters:
            self._inbound["turned_away"] += 1
            self._unknown.discard(stream)
            stream.close()
            return
        if entry.makes_way is not None:
            self._inbound["made_way"] += 1
            entry.makes_way.close()
        self._handshakes.add(stream)
        try:
            self._scope.spawn(f"inbound {ip}", self._serve_inbound, stream, expected_id)
        except Stopped:
            self._is_known(stream)
            stream.close()

    def _is_known(self, stream: Stream) -> None:
        self._arrivals.leave(stream)
        self._handshakes.discard(stream)
        self._unknown.discard(stream)

    def make_way(self, remote: Address) -> None:
        """Ends connections from there that have not shown yet whose they are, without a trace."""
        for stream in [stream for stream in self._unknown if stream.remote == remote]:
            stream.reset()

    def _serve_inbound(self, stream: Stream, expected_id: bytes | None) -> None:
        link = self._shake_hands(stream)
        if link is None:
            return
        if expected_id not in (None, link.node_id):
            # A relay in between, for one, that takes the place of who was let in.
            self._inbound["another_identity"] += 1
            log.info("inbound from %s: %s in the place of %s", stream.remote[0], link.node_id.hex(), expected_id.hex())
            stream.close()
            return
        peer = Peer(link, static=self._book.is_static(link.node_id))
        refused = self._roster.enter(peer, wanted=self._dialler.is_dialling(link.node_id))
        if refused is None:
            self._inbound["accepted"] += 1
            self._serve(peer)
            return
        self._inbound[refused.name.lower()] += 1
        log.info("peer %s from %s refused: %s", peer.node_id.hex(), peer.remote[0], refused.name.lower())
        link.disconnect(refused, peers=self.exchange.referral(peer) if refused in _WITHOUT_ROOM else ())
        link.run(_ignore)

    def _shake_hands(self, stream: Stream) -> Link | None:
        asking: Stream | None = None
        try:
            return accept_link(self._runtime, self._local, stream, self._hello_of())
        except Knocked as knock:
            self._inbound["knocks"] += 1
            self.on_knock(knock.nonce, stream.remote[0])
        except StunBegun as begun:
            self._inbound["stun"] += 1
            asking = begun.stream
        except (KodectlError, TimedOut, Stopped) as fault:
            self._inbound["failed"] += 1
            log.debug("inbound from %s: %s", stream.remote[0], fault)
        except Exception:
            self._inbound["failed"] += 1
            log.exception("the handshake with %s failed", stream.remote[0])
            stream.close()
        finally:
            self._is_known(stream)
        if asking is not None:
            self._serve_stun(asking)
        return None

    def _serve_stun(self, stream: Stream) -> None:
        """To its end. It holds no place among the handshakes meanwhile."""
        streams, network = self._stun_streams, network_of(stream.remote[0])
        if streams.total() >= MAX_STUN_STREAMS or streams[network] >= MAX_STUN_STREAMS_OF_NETWORK:
            stream.close()
            return
        streams[network] += 1
        try:
            self.on_stun(stream)
        except Stopped:
            raise
        except Exception:
            # The boundary of faults: a bug met in what a stranger sends costs this stream, and the node goes on.
            log.exception("serving STUN and TURN to %s failed", stream.remote[0])
        finally:
            streams[network] -= 1
            if not streams[network]:
                del streams[network]
            stream.close()

    # -- links that stand ------------------------------------------------------------------------------------------

    def _serve(self, peer: Peer, on_confirmed: Callable[[], None] = lambda: None) -> DisconnectReason:
        """To the end of the link."""

        def handle(link: Link, kind: int, body: bytes) -> None:
            if not peer.confirmed:
                self._roster.confirm(peer)
                on_confirmed()
            self._dispatch(peer, kind, body)

        self._heartbeats.ask(peer)
        return self._roster.serve(peer, handle)

    def _dispatch(self, peer: Peer, kind: int, body: bytes) -> None:
        handler = self.handlers.get(kind)
        if kind not in _BULK and not peer.control_rate.take(self._runtime.now()):
            raise PeerFault("too many control messages", code="flooding")
        if handler is not None:
            handler(peer, body)

    def _handle_peer_response(self, peer: Peer, body: bytes) -> None:
        if self.exchange.handle_response(peer, body):
            self._keeper.wake()

    # -- links out -------------------------------------------------------------------------------------------------

    def add_candidate(self, enode: Enode, source: str) -> None:
        """Somebody to dial when there is room. `source` (lan, dht, exchange, bootstrap) is for the log."""
        if not enode.id_known:
            self._keeper.add_unnamed(enode)
        elif self._book.hear_of(enode, self._runtime.now()):
            log.debug("candidate from %s: %s", source, enode)
            self._keeper.wake()

    def connect(self, target: Enode, timeout_s: float) -> ConnectView:
        """Connects now, whatever the back-off says, and waits for the outcome. A peer that an operator has asked for is
        static from then on: exempt from limits and redialled, until `disconnect` or `ban`."""
        return self._connector.connect(target, timeout_s)

    def dial(self, target: Enode) -> None:
        """Dials in the background, whatever the back-off says; it gets a place as anybody else."""
        with suppress(Stopped):
            self._dialler.dial(target)

    def await_link(self, node_id: bytes, limit_s: float) -> bool:
        """Waits for a link that the other side makes; false when the limit passed. Raises Stopped."""
        linked = self._runtime.event()

        def look(peer: Peer) -> None:
            if peer.node_id == node_id:
                linked.set()

        self.on_connected.append(look)
        closer = self._scope.on_close(linked.set)
        try:
            if node_id not in self.links:
                linked.wait(limit_s)
        finally:
            closer.cancel()
            self.on_connected.remove(look)
        if self._scope.closed:
            raise Stopped
        return node_id in self.links

    def is_banned(self, node_id: bytes) -> bool:
        return self._book.bans.until(node_id, self._runtime.now()) is not None

    def _dial_settled(self, dial: Dial) -> None:
        place = place_of(dial.target)
        if dial.outcome == "self":
            self._keeper.unnamed.pop(place, None)
        if dial.outcome == CONNECTED and dial.node_id is not None:
            if self._keeper.unnamed.pop(place, None) is not None:
                # A configured address whose id was not known: now it is.
                self._book.privilege(dial.node_id)
            peer = self.links.get(dial.node_id)
            if dial.feeler and peer is not None:
                self._roster.end(peer, DisconnectReason.TOO_MANY_PEERS, "only looked whether it is there")
        elif dial.outcome not in (CONNECTED, STOPPED):
            self._tell_failure(dial)
            self.exchange.hear_of(dial.referred)
        self._keeper.wake()

    def _tell_failure(self, dial: Dial) -> None:
        target = dial.target
        self._events.emit(
            "connect_failed",
            id=dial.node_id.hex() if dial.node_id is not None else None,
            addr=address_text(target.host, target.tcp) if target.tcp else None,
            outcome=dial.outcome,
            stage=dial.stage,
            detail=dial.detail or None,
            static=dial.static,
        )

    # -- orders ----------------------------------------------------------------------------------------------------

    def disconnect(self, node_id: bytes, reason: DisconnectReason = DisconnectReason.REQUESTED) -> bool:
        """Ends the link, and does not redial for some minutes; false when there is none."""
        self._book.set_static(node_id, False)
        peer = self._roster.get(node_id)
        if peer is not None:
            self._roster.end(peer, reason)
        return peer is not None

    def ban(self, node_id: bytes, seconds: float | None) -> BanView:
        """Ends the link, and accepts and dials none until the time has passed (None: until `unban`)."""
        now = self._runtime.now()
        self._book.bans.add(node_id, inf if seconds is None else now + seconds)
        self.disconnect(node_id, DisconnectReason.BANNED)
        until = None if seconds is None else rfc3339(self._runtime.unix_time() + seconds)
        return BanView(node_id.hex(), True, until)

    def unban(self, node_id: bytes) -> BanView:
        """Back to normal; the pause that came with the ban ends too."""
        self._book.bans.lift(node_id)
        self._book.end_pause(node_id)
        self._keeper.wake()
        return BanView(node_id.hex(), False, None)

    def try_to_save(self) -> None:
        """As `save`, for whom a fault of the disk is no reason to stop: it is told, and tried again later."""
        self._memory.try_to_save()

    def save(self) -> None:
        """Waits until what was ordered by now is on the disk. Raises EnvironmentFault; it holds all the same until the end."""
        self._memory.save()

    def distrust(self, node_id: bytes) -> None:
        """Another part of the node saw the peer misbehave, short of breaking the protocol."""
        self._book.missed(node_id, self._runtime.now())

    # -- questions -------------------------------------------------------------------------------------------------

    @property
    def disk_trouble(self) -> str | None:
        """Why what has changed is not on the disk; None while it is."""
        return self._memory.trouble

    def shareable(self, asker_id: bytes, asker_ip: str) -> list[Enode]:
        """Peers to name to somebody who asks for peers, best first; at most 20."""
        return self.exchange.shareable(asker_id, asker_ip)

    def peers(self) -> list[PeerView]:
        return [peer_view(peer, self._book, self._runtime) for peer in self._alive()]

    def _alive(self) -> list[Peer]:
        """Without those that are saying goodbye."""
        return [peer for peer in self.links.values() if not peer.link.closed]

    def latency(self) -> LatencyView:
        return latency_view(self._alive())

    def totals(self) -> dict[str, int]:
        """bytes_sent, bytes_received, messages_sent, messages_received, of all links since the start."""
        return self._roster.totals()._asdict()

    def messages_per_second(self) -> float:
        """Messages in and out, over the last minute."""
        return self._roster.messages_per_second()

    @property
    def round_trips_s(self) -> Histogram:
        """Of heartbeats, since the start."""
        return self._heartbeats.round_trips_s

    @property
    def dials(self) -> dict[str, int]:
        """Dials by outcome, and inbound handshakes by theirs (`inbound_...`), since the start."""
        return {**self._dialler.outcomes, **{f"inbound_{outcome}": count for outcome, count in self._inbound.items()}}

    @property
    def disconnects(self) -> dict[str, int]:
        """Ended links by reason, since the start."""
        return dict(self._roster.disconnects)


def _ignore_knock(nonce: bytes, ip: str) -> None:
    pass


def _ignore(link: Link, kind: int, body: bytes) -> None:
    """A refused link is read only until the other side has our reason."""
