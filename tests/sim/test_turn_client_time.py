"""Our TURN client on virtual time: what it keeps up, what it survives, and what it is told when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_turn import PASSWORD, REALM, USER, ScriptedTurn, data_indication

from kodectl.core.turn_client import LEAVE_LIMIT_S
from kodectl.errors import KodectlError, NegativeAnswer, NotAuthorised, PeerFault
from kodectl.node.turn_client import Allocation, TurnServer, allocate
from kodectl.node.turn_lines import MAX_QUEUED, RESERVED
from kodectl.runtime.base import Address, ConnectFailed, Stopped
from kodectl.sim.network import PathModel
from kodectl.sim.world import World
from kodectl.wire.channel_data import pack_channel_data
from kodectl.wire.stun import Attribute, Message, MessageClass, Method, encode

CLIENT_IP, SERVER_IP, PEER_IP, OTHER_IP = "20.0.0.7", "20.1.0.1", "20.2.0.1", "20.3.0.1"
PORT = 3478
SERVER, PEER = (SERVER_IP, PORT), (PEER_IP, 5_000)
LIMIT_S = 200.0
HOUR_S = 3_600.0


class Scene:
    """A client, a server, and a peer that echoes what it gets and remembers it."""

    def __init__(self, **options: Any) -> None:
        self.world = World("turn")
        self.near, self.far = self.world.host(CLIENT_IP), self.world.host(SERVER_IP)
        self.other, self.peer = self.world.host(OTHER_IP), self.world.host(PEER_IP)
        self.server = ScriptedTurn(self.far, SERVER, **options)
        self.at_peer: list[tuple[bytes, Address]] = []
        self.got: list[tuple[bytes, Address]] = []
        self.lost: list[KodectlError] = []
        self.moved = 0
        self.scope = self.near.scope("client")
        self.peer_socket = self.peer.open_datagram(PEER, self._echo)

    def _echo(self, data: bytes, sender: Address) -> None:
        self.at_peer.append((data, sender))
        self.peer_socket.send(data, sender)

    def run(self, procedure: Callable[[], Any]) -> Any:
        return self.world.call(self.near, procedure, limit_s=LIMIT_S)

    def allocate(self, transport: Any = "udp", password: str = PASSWORD, ip: str = SERVER_IP) -> Allocation:
        named = TurnServer(ip, PORT, transport, USER, password)
        allocation: Allocation = self.run(lambda: allocate(self.near, self.scope, named))
        allocation.on_data = lambda data, peer: self.got.append((data, peer))
        allocation.on_lost = self.lost.append
        allocation.on_moved = self._moved
        return allocation

    def _moved(self) -> None:
        self.moved += 1

    def pings(self, allocation: Allocation, count: int = 1) -> int:
        """How many come back."""
        self.got.clear()
        for number in range(count):
            allocation.send(b"ping %d" % number, PEER)
            self.world.run_for(0.1)
        self.world.run_for(1.0)
        return sum(self.got.count((b"ping %d" % number, PEER)) == 1 for number in range(count))


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.world.close()


def permitted(scene: Scene, **options: Any) -> Allocation:
    allocation = scene.allocate(**options)
    allocation.permit([PEER_IP])
    scene.world.run_for(1.0)
    return allocation


class TestAllocation:
    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    @pytest.mark.parametrize("options", [{}, {"is_modern": True}, {"is_modern": True, "is_anonymous": True}])
    def test_is_had_with_whatever_credentials_the_server_asks_for(
        self, options: dict[str, bool], transport: str
    ) -> None:
        scene = Scene(**options)
        allocation = permitted(scene, transport=transport)
        assert allocation.relayed[0] == SERVER_IP
        assert allocation.mapped[0] == CLIENT_IP
        assert scene.pings(allocation, 20) == 20
        assert scene.at_peer[0][1] == allocation.relayed
        assert scene.server.indications + scene.server.channel_data == 20
        assert 10 <= scene.server.indications <= 12, "until the tenth is answered by a channel"
        sealed = [message for _, message in scene.server.requests if message.get(Attribute.REALM) == REALM]
        assert len(sealed) == len(scene.server.requests) - 1, "one challenge for all of them"
        scene.world.close()

    def test_waits_for_lost_answers(self, scene: Scene) -> None:
        answers = iter([b"", b"", None, b"", None])
        scene.server.script = lambda request, source: next(answers, None)
        assert scene.allocate().relayed[0] == SERVER_IP

    def test_of_a_silent_server_ends_in_time(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: b""
        started = scene.near.now()
        with pytest.raises(NegativeAnswer, match=r"no answer from the TURN server at 20\.1\.0\.1:3478") as caught:
            scene.allocate()
        assert caught.value.code == "no_answer"
        assert scene.near.now() - started == pytest.approx(39.5)
        assert len(scene.server.requests) == 7

    def test_over_a_stream_is_asked_for_once(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: b""
        with pytest.raises(NegativeAnswer):
            scene.allocate("tcp")
        assert len(scene.server.requests) == 1

    def test_ends_with_its_scope_at_once(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: b""
        scene.near.call_later(3.0, scene.scope.close)

        def allocated() -> float:
            with pytest.raises(Stopped):
                allocate(scene.near, scene.scope, TurnServer(SERVER_IP, PORT, "udp", USER, PASSWORD))
            return scene.near.now()

        assert scene.run(allocated) == pytest.approx(3.0)

    def test_is_sought_by_name_at_one_address_of_each_family(self, scene: Scene) -> None:
        """The second of a family is the same server for all that one can know."""
        scene.world.names["turn.example"] = [OTHER_IP, PEER_IP, "2001:db8::1"]
        started = scene.near.now()
        with pytest.raises(NegativeAnswer, match=OTHER_IP):
            scene.allocate(ip="turn.example")
        assert scene.near.now() - started == pytest.approx(2 * 39.5, abs=0.1)
        scene.world.names["turn.example"] = [SERVER_IP]
        assert scene.allocate(ip="turn.example").server == SERVER

    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    def test_with_a_wrong_password_is_refused_at_once(self, scene: Scene, transport: str) -> None:
        with pytest.raises(NotAuthorised) as caught:
            scene.allocate(transport, password="wrong")
        assert caught.value.code == "turn_unauthorised"
        assert len(scene.server.requests) == 2
        assert "wrong" not in str(caught.value)

    def test_without_credentials_says_that_some_are_wanted(self, scene: Scene) -> None:
        named = TurnServer(SERVER_IP, PORT)
        with pytest.raises(NotAuthorised, match="wants a user name") as caught:
            scene.run(lambda: allocate(scene.near, scene.scope, named))
        assert caught.value.code == "turn_unauthorised"
        assert len(scene.server.requests) == 1

    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (403, "turn_forbidden"),
            (440, "turn_family"),
            (441, "turn_unauthorised"),
            (442, "turn_transport"),
            (486, "turn_quota"),
            (508, "turn_capacity"),
            (500, "turn_refused"),
        ],
    )
    def test_that_is_refused_says_why_and_what_helps(self, scene: Scene, number: int, code: str) -> None:
        def refuse(request: Message, source: Address) -> bytes | None:
            return scene.server.refusal(request, number) if request.get(Attribute.NONCE) else None

        scene.server.script = refuse
        with pytest.raises(KodectlError) as caught:
            scene.allocate()
        assert caught.value.code == code
        assert caught.value.hint or number == 500
        assert scene.near.now() < 1.0

    def test_is_got_from_another_port_when_the_server_has_an_older_one(self, scene: Scene) -> None:
        sources: list[Address] = []

        def holds_older_ones(request: Message, source: Address) -> bytes | None:
            if request.get(Attribute.NONCE) and source not in sources:
                sources.append(source)
            is_new = len(sources) == 3 or not request.get(Attribute.NONCE)
            return None if is_new else scene.server.refusal(request, 437)

        scene.server.script = holds_older_ones
        assert scene.allocate().mapped == sources[-1]
        assert len(set(sources)) == 3

    def test_is_not_sought_from_port_to_port_for_ever(self, scene: Scene) -> None:
        scene.server.script = lambda request, _: scene.server.refusal(request, 437, is_sealed=False)
        with pytest.raises(PeerFault) as caught:
            scene.allocate()
        assert caught.value.code == "turn_mismatch"
        assert len(scene.server.requests) == 4


class TestRedirection:
    def redirect(self, scene: Scene, to: Address) -> None:
        scene.server.script = lambda request, source: scene.server.refusal(
            request, 300, (Attribute.ALTERNATE_SERVER, to), is_sealed=False
        )

    def test_is_followed(self, scene: Scene) -> None:
        ScriptedTurn(scene.other, (OTHER_IP, PORT))
        self.redirect(scene, (OTHER_IP, PORT))
        allocation = scene.allocate()
        assert allocation.server == (OTHER_IP, PORT)
        assert allocation.relayed[0] == OTHER_IP

    def test_takes_no_credentials_to_where_nobody_asked_for_them(self, scene: Scene) -> None:
        other = ScriptedTurn(scene.other, (OTHER_IP, PORT))
        to = (Attribute.ALTERNATE_SERVER, (OTHER_IP, PORT))
        scene.server.script = lambda request, source: (
            scene.server.refusal(request, 300, to) if request.get(Attribute.NONCE) else None
        )
        assert scene.allocate().server == (OTHER_IP, PORT)
        assert other.requests[0][1].get(Attribute.USERNAME) is None

    def test_is_followed_once(self, scene: Scene) -> None:
        again = ScriptedTurn(scene.other, (OTHER_IP, PORT))
        again.script = lambda request, source: again.refusal(
            request, 300, (Attribute.ALTERNATE_SERVER, SERVER), is_sealed=False
        )
        self.redirect(scene, (OTHER_IP, PORT))
        with pytest.raises(PeerFault, match="sends on again") as caught:
            scene.allocate()
        assert caught.value.code == "turn_refused"

    @pytest.mark.parametrize(
        "ip", ["127.0.0.1", "192.168.1.1", "10.0.0.1", "169.254.1.1", "100.64.0.1", "224.0.0.1", "::1"]
    )
    def test_into_the_client_s_own_network_is_not(self, scene: Scene, ip: str) -> None:
        self.redirect(scene, (ip, PORT))
        with pytest.raises(PeerFault, match="sends its clients to"):
            scene.allocate()


class TestKeeping:
    def test_goes_on_for_an_hour(self, scene: Scene) -> None:
        """Past the end of the lifetime, of permissions, and of channels."""
        allocation = permitted(scene)
        assert scene.pings(allocation, 20) == 20
        for _ in range(int(HOUR_S / 60)):
            scene.world.run_for(60.0)
            assert scene.pings(allocation) == 1
        assert (scene.server.dropped, scene.lost, scene.moved) == (0, [], 0)
        assert 11 <= len(scene.server.asked(Method.REFRESH)) <= 13
        assert 14 <= len(scene.server.asked(Method.CREATE_PERMISSION)) <= 17
        assert 6 <= len(scene.server.asked(Method.CHANNEL_BIND)) <= 8

    def test_goes_on_for_an_hour_where_three_of_ten_packets_are_lost(self, scene: Scene) -> None:
        scene.world.set_path(CLIENT_IP, SERVER_IP, PathModel(loss=0.3))
        allocation = permitted(scene)
        for _ in range(int(HOUR_S / 60)):
            scene.world.run_for(60.0)
            scene.pings(allocation)
        assert (scene.lost, scene.moved) == ([], 0)
        scene.world.set_path(CLIENT_IP, SERVER_IP, PathModel())
        assert scene.pings(allocation, 20) == 20

    def test_keeps_permissions_that_nobody_uses(self, scene: Scene) -> None:
        allocation = permitted(scene)
        scene.world.run_for(HOUR_S)
        scene.peer_socket.send(b"late", allocation.relayed)
        scene.world.run_for(1.0)
        assert scene.got == [(b"late", PEER)]

    def test_lets_a_channel_lapse_that_nobody_uses(self, scene: Scene) -> None:
        allocation = permitted(scene)
        assert scene.pings(allocation, 20) == 20
        scene.world.run_for(HOUR_S)
        assert len(scene.server.asked(Method.CHANNEL_BIND)) == 2, "once more for what came after it was bound"
        assert scene.pings(allocation, 20) == 20
        numbers = [message.get(Attribute.CHANNEL_NUMBER) for message in scene.server.asked(Method.CHANNEL_BIND)]
        assert numbers == [0x4000, 0x4000, 0x4001]

    def test_survives_nonces_that_go_stale(self, scene: Scene) -> None:
        allocation = permitted(scene)
        for _ in range(20):
            scene.server.nonce_number += 1
            scene.world.run_for(100.0)
            assert scene.pings(allocation) == 1
        assert scene.lost == []

    def test_holds_the_nat_s_door_open(self, scene: Scene) -> None:
        """Nothing else is sent; the door closes after 30 s."""
        box = scene.world.nat("box", "20.9.0.1", udp_timeout_s=30.0)
        inside = scene.world.host("192.168.1.2", behind=box)
        scope = inside.scope("inside")
        named = TurnServer(SERVER_IP, PORT, "udp", USER, PASSWORD)
        allocation = scene.world.call(inside, lambda: allocate(inside, scope, named), limit_s=LIMIT_S)
        got: list[bytes] = []
        allocation.on_data = lambda data, peer: got.append(data)
        allocation.permit([PEER_IP])
        scene.world.run_for(220.0)
        scene.peer_socket.send(b"late", allocation.relayed)
        scene.world.run_for(1.0)
        assert got == [b"late"]

    def test_asks_for_several_at_once_and_for_each_by_itself_when_one_is_refused(self, scene: Scene) -> None:
        scene.server.forbidden = {"20.2.0.9"}
        allocation = scene.allocate()
        allocation.permit([PEER_IP, "20.2.0.9", "20.2.0.2", "::1", "224.0.0.1", "not an address"])
        scene.world.run_for(2.0)
        asked = [
            sorted(value[0] for number, value in message.attributes if number == Attribute.XOR_PEER_ADDRESS)
            for message in scene.server.asked(Method.CREATE_PERMISSION)
        ]
        assert asked[0] == [PEER_IP, "20.2.0.2", "20.2.0.9"]
        assert sorted(asked[1:]) == [[PEER_IP], ["20.2.0.2"], ["20.2.0.9"]]
        assert scene.pings(allocation) == 1
        scene.world.run_for(HOUR_S)
        assert scene.pings(allocation) == 1

    @pytest.mark.parametrize("ends_after_s", [0.02 * at for at in range(16)])
    def test_lets_go_of_what_comes_after_its_end(self, scene: Scene, ends_after_s: float) -> None:
        """Whatever is under way then: the first request, the challenge, the second one, the allocation."""
        self._is_asked_for_and_ended(scene, ends_after_s)
        assert not scene.server.held

    def test_waits_no_longer_for_it_than_half_a_second(self, scene: Scene) -> None:
        asked = iter([None])
        scene.server.script = lambda request, source: next(asked, b"")
        self._is_asked_for_and_ended(scene, 2.0)

    def test_does_not_wait_for_what_was_asked_without_credentials(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: b""
        self._is_asked_for_and_ended(scene, 2.0, limit_s=0.0)

    @staticmethod
    def _is_asked_for_and_ended(scene: Scene, after_s: float, limit_s: float = LEAVE_LIMIT_S) -> None:
        named = TurnServer(SERVER_IP, PORT, "udp", USER, PASSWORD)
        scene.scope.spawn("allocate", allocate, scene.near, scene.scope, named)
        scene.world.run_for(after_s)
        scene.scope.close()
        assert scene.world.run(lambda: not scene.near.host.tasks.running, limit_s)
        scene.world.run_for(1.0)
        assert not scene.near.host.sockets

    def test_lets_go_when_closed(self, scene: Scene) -> None:
        allocation = permitted(scene)
        allocation.close()
        allocation.close()
        allocation.send(b"late", PEER)
        scene.world.run_for(1.0)
        assert scene.server.held == {}
        assert scene.at_peer == []
        asked = len(scene.server.requests)
        scene.world.run_for(HOUR_S)
        assert len(scene.server.requests) == asked
        assert scene.lost == []

    def test_lets_go_with_its_scope(self, scene: Scene) -> None:
        permitted(scene)
        scene.scope.close()
        scene.world.run_for(1.0)
        assert scene.server.held == {}

    @pytest.mark.parametrize(("size", "taken"), [(100, MAX_QUEUED - RESERVED - 1), (60_000, 17)])
    def test_loses_no_request_behind_data_that_a_stream_does_not_take(
        self, scene: Scene, size: int, taken: int
    ) -> None:
        """The request for a channel is among what was taken."""
        allocation = permitted(scene, transport="tcp")
        for _ in range(5_000):
            allocation.send(bytes(size), PEER)
        allocation.permit(["20.2.0.2"])
        scene.world.run_for(60.0)
        assert len(scene.server.asked(Method.CREATE_PERMISSION)) == 2
        assert len(scene.server.asked(Method.CHANNEL_BIND)) == 1
        assert scene.server.indications == taken
        assert scene.pings(allocation, 3) == 3
        before = scene.server.channel_data
        for _ in range(5_000):
            allocation.send(bytes(size), PEER)
        scene.world.run_for(60.0)
        assert scene.server.channel_data - before >= taken


class TestLosing:
    def test_a_server_that_forgets_gives_another(self, scene: Scene) -> None:
        allocation = permitted(scene)
        first = allocation.relayed
        assert scene.pings(allocation, 20) == 20
        scene.world.run_for(60.0)
        scene.server.forget()
        scene.world.run_for(300.0)
        assert (scene.moved, scene.lost) == (1, [])
        assert allocation.relayed != first
        assert scene.pings(allocation, 20) == 20

    def test_a_server_that_forgets_and_gives_the_same_has_moved_nothing(self, scene: Scene) -> None:
        relayed = (SERVER_IP, 9_999)

        def same(request: Message, source: Address) -> bytes | None:
            contents = ((Attribute.XOR_RELAYED_ADDRESS, relayed), (Attribute.XOR_MAPPED_ADDRESS, source))
            if request.method != Method.ALLOCATE or request.get(Attribute.NONCE) is None:
                return None
            return scene.server.success(request, *contents, (Attribute.LIFETIME, 600))

        scene.server.script = same
        allocation = Allocation(scene.near, scene.scope, TurnServer(SERVER_IP, PORT, "udp", USER, PASSWORD))
        allocation.on_moved, allocation.on_lost = scene._moved, scene.lost.append
        scene.run(allocation.establish)
        scene.world.run_for(310.0)
        assert len([one for one in scene.server.asked(Method.ALLOCATE) if one.get(Attribute.NONCE)]) == 2
        assert (allocation.relayed, scene.moved, scene.lost) == (relayed, 0, [])

    def test_a_server_that_forgets_and_cannot_give_another(self, scene: Scene) -> None:
        permitted(scene)
        scene.world.run_for(60.0)
        scene.server.forget()

        def full(request: Message, source: Address) -> bytes | None:
            return scene.server.refusal(request, 486) if request.method == Method.ALLOCATE else None

        scene.server.script = full
        scene.world.run_for(300.0)
        assert [error.code for error in scene.lost] == ["turn_quota"]

    def test_a_server_that_remembers_half_of_it_gives_another_to_another_port(self, scene: Scene) -> None:
        """It answers 437 to the refresh of what it has forgotten, and again to the request for another."""
        allocation = permitted(scene)
        first = allocation.mapped
        scene.server.script = lambda request, source: (
            scene.server.refusal(request, 437) if source == first and scene.near.now() > 60.0 else None
        )
        scene.world.run_for(310.0)
        assert (scene.moved, scene.lost) == (1, [])
        assert allocation.mapped != first
        assert scene.pings(allocation) == 1

    def test_a_server_that_forgets_at_once_is_left(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: (
            scene.server.refusal(request, 437) if request.method == Method.CREATE_PERMISSION else None
        )
        permitted(scene)
        assert [error.code for error in scene.lost] == ["turn_refused"]
        assert len(scene.server.requests) == 3

    def test_a_server_that_dies_is_noticed_before_the_allocation_ends(self, scene: Scene) -> None:
        permitted(scene)
        scene.server.die()
        scene.world.run_for(600.0)
        assert [error.code for error in scene.lost] == ["no_answer"]
        scene.world.run_for(HOUR_S)
        assert len(scene.lost) == 1

    def test_a_way_that_is_cut_for_two_minutes_is_survived(self, scene: Scene) -> None:
        """While a permission ends and the allocation is to be refreshed."""
        allocation = permitted(scene)
        scene.world.run_for(230.0)
        scene.world.cut(CLIENT_IP, SERVER_IP)
        scene.world.run_for(120.0)
        scene.world.mend(CLIENT_IP, SERVER_IP)
        scene.world.run_for(60.0)
        assert scene.pings(allocation, 3) == 3
        scene.world.run_for(400.0)
        assert scene.pings(allocation, 3) == 3
        assert (scene.lost, scene.moved) == ([], 0)

    def test_a_request_that_is_lost_beside_data_is_repeated_soon(self, scene: Scene) -> None:
        allocation = permitted(scene)
        answers = iter([b""])
        scene.server.script = lambda request, source: (
            next(answers, None) if request.method == Method.CHANNEL_BIND else None
        )
        for _ in range(10):
            allocation.send(b"data", PEER)
        scene.world.run_for(1.0)
        assert len(scene.server.asked(Method.CHANNEL_BIND)) == 2

    def test_a_channel_whose_answers_are_lost_is_had_later(self, scene: Scene) -> None:
        allocation = permitted(scene)
        scene.server.script = lambda request, source: b"" if request.method == Method.CHANNEL_BIND else None
        assert scene.pings(allocation, 20) == 20
        scene.world.run_for(60.0)
        assert scene.server.channel_data == 0
        scene.server.script = lambda request, source: None
        assert scene.pings(allocation, 20) == 20
        scene.world.run_for(60.0)
        assert scene.pings(allocation, 20) == 20
        assert scene.server.channel_data >= 20

    def test_credentials_that_expire_in_mid_connection_are_told(self, scene: Scene) -> None:
        permitted(scene)
        scene.server.passwords.clear()
        scene.world.run_for(250.0)
        assert [type(error) for error in scene.lost] == [NotAuthorised]
        assert scene.lost[0].code == "turn_unauthorised"

    def test_a_connection_that_breaks_is_made_again(self, scene: Scene) -> None:
        allocation = permitted(scene, transport="tcp")
        scene.world.run_for(60.0)
        scene.server.forget()
        scene.world.run_for(5.0)
        assert (scene.moved, scene.lost) == (1, [])
        assert scene.pings(allocation, 20) == 20

    def test_who_was_permitted_stays_so_on_another_connection(self, scene: Scene) -> None:
        allocation = permitted(scene, transport="tcp")
        scene.world.run_for(60.0)
        scene.server.forget()
        scene.world.run_for(5.0)
        scene.peer_socket.send(b"late", allocation.relayed)
        scene.world.run_for(1.0)
        assert scene.got == [(b"late", PEER)]

    def test_a_connection_that_breaks_with_the_answer(self, scene: Scene) -> None:
        """Before anybody could listen to `on_lost`."""

        def allocate_and_break(request: Message, source: Address) -> bytes | None:
            contents = ((Attribute.XOR_RELAYED_ADDRESS, (SERVER_IP, 9)), (Attribute.XOR_MAPPED_ADDRESS, source))
            answer = scene.server.success(request, *contents, (Attribute.LIFETIME, 600))
            return answer + b"\xff" * 20 if request.get(Attribute.NONCE) else None

        scene.server.script = allocate_and_break
        with pytest.raises(NegativeAnswer):
            scene.allocate("tcp")

    def test_several_answers_that_the_allocation_is_gone_are_one(self, scene: Scene) -> None:
        allocation = permitted(scene)
        scene.world.run_for(60.0)
        scene.server.forget()
        for number in range(2, 6):
            allocation.permit([f"20.2.0.{number}"])
        scene.world.run_for(5.0)
        assert (scene.moved, scene.lost) == (1, [])

    def test_credentials_that_are_found_to_be_wrong_later(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: (
            scene.server.refusal(request, 441) if request.method == Method.CREATE_PERMISSION else None
        )
        permitted(scene)
        assert [error.code for error in scene.lost] == ["turn_unauthorised"]

    def test_a_connection_that_breaks_for_good_is_told(self, scene: Scene) -> None:
        permitted(scene, transport="tcp")
        scene.world.run_for(60.0)
        scene.server.die()
        scene.world.run_for(30.0)
        assert [error.code for error in scene.lost] == ["no_answer"]

    def test_a_connection_that_breaks_again_and_again_is_left(self, scene: Scene) -> None:
        permitted(scene, transport="tcp")
        scene.server.forget()
        scene.world.run_for(5.0)
        assert [error.code for error in scene.lost] == ["no_answer"]


class TestLies:
    def test_data_of_strangers_is_dropped(self, scene: Scene) -> None:
        allocation = permitted(scene)
        scene.server.socket.send(data_indication(b"stranger", ("20.6.6.6", 666)), allocation.mapped)
        scene.server.socket.send(pack_channel_data(0x4FFF, b"no channel of ours"), allocation.mapped)
        scene.server.socket.send(data_indication(b"friend", (PEER_IP, 77)), allocation.mapped)
        scene.world.run_for(1.0)
        assert scene.got == [(b"friend", (PEER_IP, 77))], "a permission is for all ports"

    def test_what_comes_from_elsewhere_is_not_the_server_s(self, scene: Scene) -> None:
        allocation = permitted(scene)
        assert scene.pings(allocation, 20) == 20
        scene.got.clear()
        liar = scene.other.open_datagram((OTHER_IP, PORT), lambda *_: None)
        liar.send(data_indication(b"forged", PEER), allocation.mapped)
        liar.send(pack_channel_data(0x4000, b"forged"), allocation.mapped)
        scene.world.run_for(1.0)
        assert scene.got == []

    def test_unauthentic_answers_end_nothing(self, scene: Scene) -> None:
        """With the right transaction id: unsealed, sealed with another key, cut short, of another method."""

        def lie(request: Message, source: Address) -> bytes | None:
            if request.get(Attribute.NONCE) is None:
                return None
            contents = ((Attribute.XOR_RELAYED_ADDRESS, ("20.6.6.6", 666)), (Attribute.XOR_MAPPED_ADDRESS, source))
            forged = request._replace(kind=MessageClass.SUCCESS, attributes=(*contents, (Attribute.LIFETIME, 600)))
            for packet in (
                encode(forged),
                encode(forged, key=b"another"),
                scene.server.refusal(request, 486, is_sealed=False),
                scene.server.success(request)[:-3],
                encode(forged._replace(method=Method.BINDING)),
                encode(request),
            ):
                scene.server.socket.send(packet, source)
            return None

        scene.server.script = lie
        assert scene.allocate().relayed[0] == SERVER_IP

    def test_a_server_that_answers_nonsense_is_not_a_silent_one(self, scene: Scene) -> None:
        scene.server.script = lambda request, source: (
            scene.server.success(request) if request.get(Attribute.NONCE) else None
        )
        with pytest.raises(PeerFault, match="without a relayed or a mapped address"):
            scene.allocate()

    @pytest.mark.parametrize("relayed", [("224.0.0.1", 5), ("0.0.0.0", 5), ("20.1.0.1", 0), ("2001:db8::1", 5)])
    def test_an_address_that_cannot_be_relayed_at_is_none(self, scene: Scene, relayed: Address) -> None:
        def lie(request: Message, source: Address) -> bytes | None:
            contents = ((Attribute.XOR_RELAYED_ADDRESS, relayed), (Attribute.XOR_MAPPED_ADDRESS, source))
            sealed = scene.server.success(request, *contents, (Attribute.LIFETIME, 600))
            return sealed if request.get(Attribute.NONCE) else None

        scene.server.script = lie
        with pytest.raises(PeerFault, match="cannot be the relayed address"):
            scene.allocate()

    def test_a_server_that_takes_no_nonce_is_left(self, scene: Scene) -> None:
        def stale(request: Message, source: Address) -> bytes:
            scene.server.nonce_number += 1
            return scene.server.challenge(request, 438 if request.get(Attribute.NONCE) else 401)

        scene.server.script = stale
        with pytest.raises(PeerFault, match="takes no nonce"):
            scene.allocate()
        assert len(scene.server.requests) == 4

    def test_a_challenge_that_was_weakened_on_the_way_is_not_answered(self) -> None:
        scene = Scene(is_modern=True)
        scene.server.script = lambda request, source: scene.server.refusal(
            request, 401, (Attribute.REALM, REALM), (Attribute.NONCE, scene.server.nonce), is_sealed=False
        )
        with pytest.raises(PeerFault, match="weakens"):
            scene.allocate()
        assert all(message.get(Attribute.USERNAME) is None for _, message in scene.server.requests)
        scene.world.close()


def test_the_simulated_network_has_no_tls(scene: Scene) -> None:
    with pytest.raises(ConnectFailed, match="no TLS"):
        scene.run(lambda: scene.near.connect_tls(SERVER, 1.0, "name"))
    with pytest.raises(NegativeAnswer):
        scene.allocate("tls")
