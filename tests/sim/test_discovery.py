"""The discovery endpoint over the virtual network: questions and answers, and all that can come between."""

import hashlib

import pytest

from kodectl.core.identity import Identity
from kodectl.core.requests import ATTEMPTS, Notice
from kodectl.core.session import Session
from kodectl.core.sessions import ANY_ID
from kodectl.errors import NegativeAnswer, PeerFault, WireError
from kodectl.node.discovery import ANSWER_LIMIT_S, NETWORK_REQUEST_BURST, Discovery, read_answer
from kodectl.node.kademlia import MAX_CHECKS, Kademlia
from kodectl.runtime.base import Stopped
from kodectl.sim.network import PathModel
from kodectl.sim.suite import SimSuite
from kodectl.sim.world import World
from kodectl.wire import packets, rpc
from kodectl.wire.contacts import Contact, pack_contacts
from kodectl.wire.rpc import ErrorAnswer, FindNode, Kind, Nodes, Ping, Pong

SUITE = SimSuite()
PORT = 30301
A_IP, B_IP, C_IP = "20.0.1.1", "20.0.2.1", "20.0.3.1"
PING = Ping(0, 1)


def id_of(name: str) -> bytes:
    return Identity(SUITE, hashlib.sha256(name.encode()).digest()).node_id


class End:
    """An endpoint that answers pings, and counts them."""

    def __init__(self, world: World, ip: str, runtime=None, name: str | None = None, flags: int = 0) -> None:
        self.world = world
        self.runtime = runtime or world.host(ip)
        self.identity = Identity(SUITE, hashlib.sha256((name or ip).encode()).digest())
        self.id = self.identity.node_id
        self.discovery = Discovery(self.runtime, self.identity, flags)
        self.discovery.handlers[Kind.PING] = self._pong
        self.address = (ip, self.discovery.open(("0.0.0.0", PORT))[1])
        self.served = 0
        self.failed: list[tuple[bytes, tuple[str, int]]] = []
        self.discovery.on_failed = lambda *where: self.failed.append(where)

    def _pong(self, session, ping):
        self.served += 1
        return Pong(0, 2, bytes(4), 0)

    def ask(self, other: "End", body=PING, node_id=None, address=None):
        return self.world.call(
            self.runtime, self.discovery.ask, other.id if node_id is None else node_id, address or other.address, body
        )

    def notices(self, node_id, address, body=PING):
        """What `request` tells, as it comes."""
        told = []
        self.discovery.request(node_id, address, body, lambda *answer: told.append(answer), told.append)
        return told


@pytest.fixture
def world():
    with World(3, PathModel()) as one:
        yield one


@pytest.fixture
def pair(world):
    return End(world, A_IP), End(world, B_IP)


def test_a_question_is_answered_in_two_round_trips_and_then_in_one(pair):
    a, b = pair
    first = a.ask(b)
    assert first.body == Pong(0, 2, bytes(4), 0)
    assert first.session.node_id == b.id
    assert a.ask(b).rtt_s == pytest.approx(first.rtt_s / 2, rel=0.2)
    assert b.discovery.sessions.handshakes == 1


def test_both_may_begin_at_once(world, pair):
    a, b = pair
    told_a, told_b = a.notices(b.id, b.address), b.notices(a.id, a.address)
    world.run_for(5.0)
    assert [told[0][1] for told in (told_a, told_b)] == [Kind.PONG, Kind.PONG]
    assert a.ask(b).session.node_id == b.id
    assert b.ask(a).session.node_id == a.id


@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_questions_get_through_loss(loss):
    with World(11, PathModel(loss=loss, duplication=0.1, reordering=0.2)) as world:
        a, b = End(world, A_IP), End(world, B_IP)
        answers = []
        for _ in range(40):
            try:
                answers.append(a.ask(b))
            except NegativeAnswer:
                continue
    assert len(answers) >= (40 if loss < 0.2 else 30)


def test_nobody_there_is_no_answer_within_the_limit(world, pair):
    a, _ = pair
    begun = world.now
    with pytest.raises(NegativeAnswer) as caught:
        a.ask(a, node_id=b"x" * 32, address=("20.9.9.9", 1))
    assert caught.value.code == "no_answer"
    assert world.now - begun < 5.0
    assert a.failed == [(b"x" * 32, ("20.9.9.9", 1))]
    assert a.discovery.counters["retransmissions"] == ATTEMPTS - 1


def test_slow_comes_once_before_the_end(world, pair):
    a, _ = pair
    told = a.notices(b"x" * 32, ("20.9.9.9", 1))
    world.run_for(ANSWER_LIMIT_S)
    assert told == [Notice.SLOW, Notice.TIMEOUT]


def test_another_identity_is_named_and_reported_with_its_address(world, pair):
    a, b = pair
    imposter = End(world, C_IP)
    imposter.identity.node_id, honest = b.id, imposter.id  # answers hails that are meant for b
    told = a.notices(b.id, imposter.address)
    with pytest.raises(PeerFault) as caught:
        a.ask(b, address=imposter.address)
    assert caught.value.code == "identity_mismatch"
    assert honest.hex() in caught.value.message
    assert a.failed == [(b.id, imposter.address)]
    world.run_for(ANSWER_LIMIT_S)
    assert [fault.code for fault in told] == ["identity_mismatch"]
    assert a.ask(b).session.node_id == b.id


def test_a_refusal_is_a_fault_of_the_peer(pair):
    a, b = pair

    def refuse(session, body):
        raise PeerFault("not you", code="refused")

    b.discovery.handlers[Kind.PING] = refuse
    with pytest.raises(PeerFault, match="not you") as caught:
        a.ask(b)
    assert caught.value.code == "refused"


def test_an_unknown_kind_is_answered_by_an_error(pair):
    a, b = pair
    with pytest.raises(PeerFault, match="message kind 3"):
        a.ask(b, FindNode(bytes(32)))
    assert read_answer(Kind.PONG, rpc.pack_message(0, Pong(0, 2, bytes(4), 0))[5:]) == Pong(0, 2, bytes(4), 0)
    with pytest.raises(WireError):
        read_answer(Kind.PONG, b"\xff")


def test_restarted_peer_is_found_again_within_one_question(world, pair):
    a, b = pair
    a.ask(b)
    world.crash(B_IP)
    reborn = End(world, B_IP, runtime=world.restart(B_IP))
    answer = a.ask(reborn)
    assert answer.rtt_s < 1.0
    assert reborn.served == 1
    assert a.failed == []


def test_another_node_in_the_place_of_a_restarted_one_is_noticed(world, pair):
    a, b = pair
    a.ask(b)
    world.crash(B_IP)
    other = End(world, B_IP, runtime=world.restart(B_IP), name="another")
    with pytest.raises(NegativeAnswer):
        a.ask(b)  # it does not answer to another's name
    assert a.ask(b, node_id=ANY_ID).session.node_id == other.id
    assert a.ask(other).session.node_id == other.id


def test_whoever_answers_there_is_the_one_who_answered(world, pair):
    """The answer belongs to the session that it came over, whatever stands under "anybody" when the asker looks."""
    a, b = pair
    told = a.notices(ANY_ID, b.address)
    world.run_for(2.0)
    session, kind, _, _ = told[0]
    assert (session.node_id, kind) == (b.id, Kind.PONG)
    a.discovery.sessions._remove(session)
    outcome = []
    world.spawn(a.runtime, "ask", lambda: outcome.append(a.discovery.ask(ANY_ID, b.address, PING)))
    original = a.discovery.sessions.receive

    def receive_and_forget(data, address, now, unix_time):
        received = original(data, address, now, unix_time)
        if received.message is not None:
            a.discovery.sessions._remove(received.session)
        return received

    a.discovery.sessions.receive = receive_and_forget
    world.run_for(5.0)
    assert outcome[0].session.node_id == b.id


def test_closing_ends_all_questions_under_way(world, pair):
    a, b = pair
    outcome = []

    def ask():
        try:
            a.discovery.ask(b"x" * 32, ("20.9.9.9", 1), PING)
        except Stopped:
            outcome.append("stopped")

    world.spawn(a.runtime, "ask", ask)
    told = a.notices(b"y" * 32, ("20.9.9.9", 1))
    world.run_for(0.1)
    a.discovery.close()
    world.run_for(1.0)
    assert outcome == ["stopped"]
    assert told == [Notice.REFUSED]
    assert a.notices(b.id, b.address) == [Notice.REFUSED]
    assert len(a.discovery.requests) == 0
    a.discovery.close()
    world.run_for(60.0)
    assert b.served == 0


@pytest.mark.parametrize(
    "address",
    [("224.0.0.1", 1), ("255.255.255.255", 1), ("0.0.0.0", 1), ("::", 1), ("ff02::1", 1), ("20.0.2.1", 0), ("name", 1)],
)
def test_nothing_is_ever_sent_to_what_is_not_one_host(world, pair, address):
    a, _ = pair
    sent = a.discovery.counters["bytes_sent"]
    assert a.notices(b"x" * 32, address) == [Notice.REFUSED]
    world.run_for(20.0)
    assert a.discovery.counters["bytes_sent"] == sent


def test_questions_past_the_limit_are_refused_at_once(pair, monkeypatch):
    monkeypatch.setattr("kodectl.core.requests.MAX_REQUESTS", 5)
    a, b = pair
    told = [a.notices(b.id, b.address) for _ in range(7)]
    assert told[4:] == [[], [Notice.REFUSED], [Notice.REFUSED]]


def answer_from(sender: End, receiver: End, request_id: int, body=None) -> None:
    """An answer that nobody may have asked for, over a session that stands."""
    session = sender.discovery.sessions.session_with(receiver.id, receiver.address)
    message = rpc.pack_message(request_id, body or Pong(0, 9, bytes(4), 0))
    packet = sender.discovery.sessions.reply(session, message, sender.runtime.now())
    sender.discovery._send(packet, receiver.address)


def test_who_asks_far_too_much_is_not_served_and_others_are(world, pair):
    a, b = pair
    a.ask(b)
    served = b.served
    session = a.discovery.sessions.session_with(b.id, b.address)
    for number in range(3 * int(NETWORK_REQUEST_BURST)):
        a.discovery.send(session.seal_next(rpc.pack_message(number, PING)), b.address)
        if number % 50 == 49:
            world.run_for(0.01)
    world.run_for(0.5)
    assert NETWORK_REQUEST_BURST * 0.9 < b.served - served < NETWORK_REQUEST_BURST * 1.6
    assert b.discovery.sessions.dropped["requests over budget"] > NETWORK_REQUEST_BURST
    assert End(world, "22.3.3.3").ask(b).body == Pong(0, 2, bytes(4), 0)
    world.run_for(2.0)
    assert a.ask(b).body == Pong(0, 2, bytes(4), 0)


def test_answers_count_from_whom_they_were_asked_and_with_the_id_only(world, pair):
    a, b = pair
    c = End(world, C_IP)
    a.ask(b)
    a.ask(c)
    b.discovery.handlers[Kind.PING] = lambda session, ping: ErrorAnswer(3)
    told = a.notices(b.id, b.address)
    (request,) = a.discovery.requests.all()
    for request_id, sender in ((request.request_id, c), (request.request_id + 1, b), (request.request_id ^ 1 << 31, b)):
        answer_from(sender, a, request_id)
    answer_from(b, a, request.request_id, Nodes(b""))  # of another kind
    world.run_for(0.01)
    assert told == []
    world.run_for(5.0)
    assert [answer[1] for answer in told] == [Kind.ERROR]
    assert a.discovery.counters["unsolicited"] == 4


def test_an_answer_of_the_same_session_from_elsewhere_does_not_count(world, pair):
    a, b = pair
    a.ask(b)
    elsewhere = world.host("20.0.2.2").open_datagram(("0.0.0.0", PORT), lambda *_: None)
    told = a.notices(b.id, b.address)
    (request,) = a.discovery.requests.all()
    world.cut(A_IP, B_IP)
    session = b.discovery.sessions.session_with(a.id, a.address)
    packet = b.discovery.sessions.reply(session, rpc.pack_message(request.request_id, Pong(0, 9, bytes(4), 0)), 0.0)
    elsewhere.send(packet, a.address)
    world.run_for(0.2)
    assert told == []
    assert a.discovery.sessions.dropped["no session"] == 1


def test_a_reset_that_names_nothing_begins_nothing(world, pair):
    a, b = pair
    a.ask(b)
    sent = a.discovery.counters["bytes_sent"]
    b.discovery._send(bytes((packets.RESET,)) + b"t" * 16, a.address)
    world.run_for(5.0)
    assert a.discovery.counters["bytes_sent"] == sent
    assert a.discovery.sessions.dropped["unsolicited reset"] == 1


def test_resets_never_answer_each_other(world, pair):
    """A MESSAGE that two strangers hand back and forth ends with the first RESET."""
    a, b = pair
    lost = packets.pack_message_head(b"s" * 8, 1) + bytes(16)
    a.discovery._send(lost, b.address)
    world.run_for(30.0)
    assert b.discovery.counters["bytes_sent"] == packets.RESET_SIZE
    assert a.discovery.counters["bytes_sent"] == len(lost)


def test_a_request_larger_than_a_handshake_reaches_a_stranger(world, pair):
    a, b = pair
    got = []
    b.discovery.handlers[Kind.STORE] = lambda session, store: got.append(store) or rpc.Stored(0)
    store = rpc.Store(b"t" * 16, b"r" * rpc.MAX_RECORD)
    assert a.ask(b, store).body == rpc.Stored(0)
    assert got == [store]
    assert b.discovery.counters["malformed"] == 0


def test_idle_sessions_are_let_go(world, pair):
    a, b = pair
    a.ask(b)
    world.run_for(2 * 3600.0)
    assert len(a.discovery.sessions) == len(b.discovery.sessions) == 0
    assert a.ask(b).session.node_id == b.id


def test_other_traffic_is_handed_on_as_it_is(world, pair):
    a, b = pair
    heard = []
    b.discovery.other_traffic = lambda data, address: heard.append((data, address))
    for data in (b"\x00stun", b"\x07", b"\x0e", b"\xffquic", b""):
        a.discovery._send(data, b.address)
    world.run_for(1.0)
    assert sorted(heard) == sorted((data, a.address) for data in (b"\x00stun", b"\x07", b"\x0e", b"\xffquic", b""))


# -- what the routing table makes of it --------------------------------------------------------------------------------


class TableEnd(End):
    def __init__(self, world, ip, **rest):
        super().__init__(world, ip, **rest)
        self.scope = self.runtime.scope("table")
        self.kademlia = Kademlia(self.runtime, self.discovery, self.scope)
        self.new = []
        self.kademlia.on_new.append(self.new.append)

    @property
    def contact(self):
        return Contact(self.id, *self.address, 0)


def test_a_lie_about_a_node_leaves_it_in_the_table(world):
    """Somebody names it at an address where nobody answers, and at his own."""
    a, b, liar = (TableEnd(world, ip) for ip in (A_IP, B_IP, C_IP))
    a.ask(b)
    for wrong in (("20.9.9.9", 1), liar.address):
        lie = Contact(b.id, *wrong, 0)
        liar.discovery.handlers[Kind.FIND_NODE] = lambda session, question, lie=lie: Nodes(pack_contacts([lie]))
        seeds = [liar.contact]
        for _ in range(3):
            a.kademlia.table.remove(b.id)
            world.call(a.runtime, a.kademlia.find, b.id, seeds)
            a.ask(b)
    assert a.kademlia.table.contact(b.id) == b.contact
    assert b.contact in a.kademlia.table.closest(b.id)


def test_a_node_that_became_a_client_leaves_the_table(world):
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    a.ask(b)
    b.ask(a)
    b.discovery.sessions.flags = packets.FLAG_CLIENT
    b.ask(a, Ping(packets.FLAG_CLIENT, 0))
    assert b.id not in a.kademlia.table
    a.ask(b)
    assert b.id not in a.kademlia.table


def test_a_command_that_borrows_the_identity_of_a_node_does_not_take_it_out(world):
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    a.ask(b)
    command = End(world, C_IP, name=B_IP, flags=packets.FLAG_CLIENT)
    assert command.id == b.id
    command.ask(a, Ping(packets.FLAG_CLIENT, 0))
    world.run_for(10.0)
    assert a.kademlia.table.contact(b.id) == b.contact


def test_another_tcp_port_is_no_newcomer(world):
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    for tcp_port in range(10):
        b.ask(a, Ping(0, tcp_port))
    assert len(a.new) == 1
    assert a.kademlia.table.contact(b.id).tcp_port == 9


def test_a_node_that_moved_is_found_at_its_new_address(world):
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    a.ask(b)
    world.crash(B_IP)
    moved = TableEnd(world, C_IP, name=B_IP)
    moved.ask(a)
    assert a.kademlia.table.contact(b.id) == b.contact
    # Told to others as soon as it has answered there.
    assert world.run(lambda: [one.address for one in a.kademlia.table.closest(b.id)] == [moved.address], 10.0)


def test_a_newcomer_to_a_full_bucket_gets_the_place_of_a_dead_node(world, monkeypatch):
    monkeypatch.setattr("kodectl.core.table.K", 1)
    a = TableEnd(world, A_IP)
    far = [str(number) for number in range(50) if (id_of(str(number))[0] ^ a.id[0]) >> 7]
    old, newcomer = TableEnd(world, B_IP, name=far[0]), TableEnd(world, C_IP, name=far[1])
    a.ask(old)
    world.run_for(31.0)
    newcomer.ask(a)
    world.run_for(10.0)
    assert [one.node_id for one in a.kademlia.table.contacts()] == [old.id]  # it answered when it was asked
    world.crash(B_IP)
    world.run_for(31.0)
    newcomer.ask(a)
    assert world.run(lambda: [one.node_id for one in a.kademlia.table.closest(a.id)] == [newcomer.id], 10.0)


def test_pings_under_way_to_the_table_are_bounded(world):
    a = TableEnd(world, A_IP)
    for number in range(100):
        a.kademlia.check(Contact(number.to_bytes(32), "20.9.9.9", 1 + number, 0))
    assert len(a.discovery.requests) == MAX_CHECKS
    world.run_for(10.0)
    assert len(a.discovery.requests) == 0
    a.kademlia.check(Contact(bytes(32), "20.9.9.9", 1, 0))
    assert len(a.discovery.requests) == 1


def test_a_relay_of_packets_does_not_take_a_node_over(world):
    """It hands on every packet between two nodes, and would be the only way to one of them."""
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    a.ask(b)
    relay = world.host(C_IP)
    sockets = {}
    inner = relay.open_datagram(("0.0.0.0", 1), lambda data, sender: sockets["outer"].send(data, a.address))
    sockets["outer"] = relay.open_datagram(("0.0.0.0", 2), lambda data, sender: inner.send(data, b.address))
    assert a.ask(b, address=(C_IP, 2)).session.node_id == b.id
    world.run_for(10.0)
    assert a.kademlia.table.contact(b.id) == b.contact


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("whose", ["nobody's", "another's", "its own", "any"])
def test_a_mirror_is_nobody_and_ends_no_session(world, whose, copies):
    """Somebody sends every packet back to where it came from, once or several times."""
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    a.ask(b)
    mirror = world.host(C_IP)
    seen = []

    def reflect(data, sender):
        seen.append(data)
        for _ in range(copies):
            socket.send(data, sender)

    socket = mirror.open_datagram(("0.0.0.0", PORT), reflect)
    node_id = {"nobody's": bytes(32), "another's": b.id, "its own": a.id, "any": ANY_ID}[whose]
    told = a.notices(node_id, (C_IP, PORT))
    world.run_for(30.0)
    assert [notice for notice in told if notice is not Notice.SLOW] == [Notice.TIMEOUT]
    assert len(seen) <= 2 * ATTEMPTS
    assert a.kademlia.table.contacts() == [b.contact]
    assert a.ask(b).rtt_s < 0.5


class Copied:
    """A socket on whose way somebody sends all again, three times: `to` somebody else, or where it was to go."""

    def __init__(self, socket, elsewhere, to):
        self._socket, self._elsewhere, self._to = socket, elsewhere, to
        self.local, self.close = socket.local, socket.close

    def send(self, data, address):
        self._socket.send(data, address)
        for _ in range(3):
            self._elsewhere.send(data, self._to or address)


@pytest.mark.parametrize("back", [True, False])
def test_packets_of_a_session_that_come_again_from_elsewhere_change_nothing(world, back):
    """Somebody on the way copies all that two nodes say, and sends it again: to whom it was meant for, or back to the sender."""
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    mirror = world.host(C_IP)
    socket = mirror.open_datagram(("0.0.0.0", PORT), lambda data, sender: None)
    for end in (a, b):
        end.discovery._socket = Copied(end.discovery._socket, socket, end.address if back else None)
    for _ in range(20):
        assert a.ask(b).session.address == b.address
        assert b.ask(a).session.address == a.address
        world.run_for(1.0)
    assert [end.discovery.counters["requests_served"] for end in (a, b)] == [20, 20]
    for end, other in ((a, b), (b, a)):
        [known] = end.kademlia.table.contacts()
        assert (known.node_id, known.address) == (other.id, other.address)
    world.run_for(5.0)
    assert sum(end.discovery.counters["bytes_sent"] for end in (a, b)) < 20 * 4 * 600


def test_far_nodes_cannot_aim_a_lookup_at_our_own_network(world):
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    local = [Contact(bytes([n]) * 32, ip, 7, 7) for n, ip in enumerate(["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1"])]
    b.discovery.handlers[Kind.FIND_NODE] = lambda session, question: Nodes(pack_contacts(local))
    hops = []
    world.call(a.runtime, lambda: a.kademlia.find(bytes(32), [b.contact], trace=hops.append))
    assert [hop.contact for hop in hops] == [b.contact]


def test_a_node_that_has_become_a_client_leaves_the_table_with_its_next_answer(world):
    a, b = TableEnd(world, A_IP), TableEnd(world, B_IP)
    a.ask(b)
    assert b.id in a.kademlia.table
    b.discovery.sessions.flags |= packets.FLAG_CLIENT
    a.kademlia.check_known(b.id)
    world.run_for(1.0)
    assert b.id not in a.kademlia.table
    b.discovery.sessions.flags &= ~packets.FLAG_CLIENT
    b.ask(a)
    assert b.id in a.kademlia.table


@pytest.mark.parametrize("ips", [["10.0.0.1", "10.0.0.2", "192.168.7.3"], ["192.168.1.1", "172.16.0.2", "10.9.9.9"]])
def test_private_networks_work(world, ips):
    a, b, c = (TableEnd(world, ip) for ip in ips)
    b.ask(c)
    found = world.call(a.runtime, a.kademlia.find, c.id, [b.contact])
    assert found.found
    assert found.closest[0] == c.contact


def test_an_address_that_is_nobodys_is_not_taken_for_ours(world):
    a = TableEnd(world, A_IP)
    seen = []
    a.kademlia.on_observed = lambda *observed: seen.append(observed)
    observer = Session(bytes(32), bytes(32), ("198.51.100.1", 30301), 0, 0)
    for wrong in (bytes(4), b"\xff" * 4, b"\xe0\0\0\1", bytes(16), bytes(5)):
        with pytest.raises(WireError):
            a.kademlia.take_pong(observer, Pong(0, 0, wrong, 1))
    a.kademlia.take_pong(observer, Pong(0, 0, bytes((192, 0, 2, 1)), 1))
    assert seen == [(bytes(32), "198.51.100.1", ("192.0.2.1", 1))]
