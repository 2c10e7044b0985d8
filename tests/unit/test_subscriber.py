"""A subscriber against wsproto's client: what is sent, told, refused, and when it counts as gone. No socket, no clock."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

from kodectl.api import subscriber as subscriber_module
from kodectl.api.subscriber import (
    BATCH_EVENTS,
    CLOSE_LIMIT_S,
    FRAME_BURST,
    MAX_MESSAGE_CHARS,
    MAX_REPLIES,
    PING_AFTER_S,
    REST_S,
    SILENT_LIMIT_S,
    STALLED_LIMIT_S,
    Subscriber,
    text_frame,
)
from kodectl.node.events import BOUNDS_OF, Events
from kodectl.node.topics import ALL_TYPES, TYPES_OF


class Clock:
    def unix_time(self) -> float:
        return 1_700_000_000.0


class Waiter:
    def __init__(self) -> None:
        self.sets = 0

    def set(self) -> None:
        self.sets += 1


class Pair:
    """A subscriber and its other side, on a line that carries everything at once unless it is `full`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.events = Events(Clock())  # type: ignore[arg-type]
        self.waiter = Waiter()
        self.core = Subscriber(self.events, self.waiter, self.now)
        self.client = Connection(ConnectionType.CLIENT)
        self.got: list[object] = []
        self.writes = 0
        self.full = False
        self._text = ""

    def say(self, *messages: object) -> None:
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            self.core.receive(self.client.send(TextMessage(text)), self.now)
        self.flush()

    def put(self, data: bytes) -> None:
        self.core.receive(data, self.now)
        self.flush()

    def flush(self) -> None:
        while not self.full and (chunk := self.core.outgoing(self.now)):
            self.writes += 1
            self.client.receive_data(bytes(chunk))
            self.core.sent(len(chunk), self.now)
            for event in self.client.events():
                self._take(event)

    def _take(self, event: object) -> None:
        if not isinstance(event, TextMessage):
            self.got.append(event)
            return
        self._text += event.data
        if event.message_finished:
            self.got.append(json.loads(self._text))
            self._text = ""

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.flush()

    def take(self) -> list:
        got, self.got = self.got, []
        return got

    def seqs(self) -> list[int]:
        return [message["seq"] for message in self.take()]


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_nothing_comes_before_a_subscription(pair: Pair) -> None:
    pair.events.emit("joined")
    pair.later(1.0)
    assert (pair.take(), pair.waiter.sets) == ([], 0)


def test_a_subscription_is_confirmed_and_begins_now(pair: Pair) -> None:
    pair.events.emit("joined")
    pair.say({"op": "subscribe"})
    assert pair.take() == [{"type": "subscribed", "topics": list(TYPES_OF), "since": 1, "run": pair.events.run}]
    pair.events.emit("isolated")
    pair.later(REST_S)
    (event,) = pair.take()
    assert (event["seq"], event["type"], event["topic"], event["data"]) == (2, "isolated", "dht", {})


def test_topics_and_types_are_what_comes_from_the_number_given(pair: Pair) -> None:
    for type_ in ("ready", "block", "joined", "transaction", "block"):
        pair.events.emit(type_)
    pair.say({"op": "subscribe", "topics": ["dht", "block"], "since": 2})
    assert pair.take()[0]["topics"] == ["dht", "block"]
    assert pair.client.state is ConnectionState.OPEN
    pair.say({"op": "subscribe", "topics": ["dht", "block"], "since": 0})
    assert [message["seq"] for message in pair.take() if "seq" in message] == []  # it rests for a moment
    pair.later(REST_S)
    assert pair.seqs() == [2, 3, 5]


def test_a_subscription_takes_the_place_of_the_one_before(pair: Pair) -> None:
    pair.say({"op": "subscribe", "topics": ["block"]}, {"op": "subscribe", "topics": ["transaction"]})
    pair.take()
    pair.events.emit("block")
    assert pair.waiter.sets == 2  # once for each subscription, not for the block
    pair.events.emit("transaction")
    assert pair.waiter.sets == 3
    pair.later(REST_S)
    assert pair.seqs() == [2]


def test_messages_come_without_their_payload_for_who_asks_so(pair: Pair) -> None:
    pair.say({"op": "subscribe", "payloads": False})
    pair.take()
    pair.events.emit("block", size=3, payload=b"abc")
    pair.events.emit("joined", table_size=1)
    pair.later(REST_S)
    assert [event["data"] for event in pair.take()] == [{"size": 3}, {"table_size": 1}]
    pair.say({"op": "subscribe", "since": 0})
    pair.later(REST_S)
    assert [event["data"] for event in pair.take()[1:]] == [{"size": 3, "payload": "YWJj"}, {"table_size": 1}]


def test_nothing_comes_after_the_end_of_a_subscription(pair: Pair) -> None:
    pair.say({"op": "subscribe"}, {"op": "unsubscribe"})
    assert pair.take()[1:] == [{"type": "unsubscribed"}]
    pair.events.emit("joined")
    pair.later(REST_S)
    assert pair.take() == []


def test_a_number_of_another_run_is_a_gap_of_unknown_size(pair: Pair) -> None:
    pair.events.emit("ready")
    pair.events.emit("joined")
    pair.say({"op": "subscribe", "since": 1, "run": "2001-01-01T00:00:00.000Z"})
    assert pair.take()[1] == {"type": "gap", "missed": None}
    assert pair.core._run is None
    pair.say({"op": "subscribe", "since": 1, "run": pair.events.run})
    pair.later(REST_S)
    assert [message["seq"] for message in pair.take() if "seq" in message] == [2]


def test_a_reader_that_fell_behind_is_told_how_many_it_missed(pair: Pair) -> None:
    pair.events.emit("ready")
    pair.say({"op": "subscribe", "topics": ["message"]})
    kept = BOUNDS_OF["transaction"].events
    for _ in range(kept + 100):
        pair.events.emit("transaction", payload=b"x")
    got: list = []
    pair.take()
    while not got or got[-1].get("seq") != pair.events.last:
        pair.later(REST_S)
        got += pair.take()
    assert got[0] == {"type": "gap", "missed": 100}
    assert [event["seq"] for event in got[1:]] == list(range(102, kept + 102))


def test_one_write_carries_what_has_gathered(pair: Pair) -> None:
    pair.say({"op": "subscribe"})
    pair.take()
    pair.events.emit("joined")
    pair.flush()
    writes = pair.writes
    for _ in range(10):
        pair.events.emit("joined")
        pair.flush()
    assert (pair.seqs(), pair.writes) == ([1], writes)
    assert pair.core.next_deadline() == pair.now + REST_S
    pair.later(REST_S)
    assert (pair.seqs(), pair.writes) == (list(range(2, 12)), writes + 1)


def test_a_full_socket_holds_one_batch_whatever_happens(pair: Pair) -> None:
    pair.say({"op": "subscribe", "topics": ["transaction"]})
    pair.full = True
    for _ in range(3 * BATCH_EVENTS):
        pair.events.emit("transaction", payload=bytes(100))
    held = len(pair.core.outgoing(pair.now))
    for _ in range(3 * BATCH_EVENTS):
        pair.events.emit("transaction", payload=bytes(100))
    pair.core.sent(0, pair.now)
    assert len(pair.core.outgoing(pair.now)) == held < BATCH_EVENTS * 400


def test_a_block_goes_in_one_frame_and_one_write_of_its_own(pair: Pair) -> None:
    pair.say({"op": "subscribe", "topics": ["block"]})
    pair.take()
    writes = pair.writes
    for _ in range(2):
        pair.events.emit("block", payload=bytes(4 << 20))
    pair.flush()
    assert [len(event["data"]["payload"]) for event in pair.take()] == [((4 << 20) + 2) // 3 * 4] * 2
    assert pair.writes == writes + 2


def test_who_is_behind_gets_one_batch_at_a_time_without_a_rest(pair: Pair) -> None:
    for _ in range(3 * BATCH_EVENTS - 1):
        pair.events.emit("joined")
    pair.core.receive(pair.client.send(TextMessage('{"op":"subscribe","since":0}')), pair.now)
    sizes = []
    while chunk := pair.core.outgoing(pair.now):
        sizes.append(bytes(chunk).count(b'"joined"'))
        pair.core.sent(len(chunk), pair.now)
    assert sizes == [BATCH_EVENTS, BATCH_EVENTS, BATCH_EVENTS - 1]
    pair.events.emit("joined")
    assert not pair.core.outgoing(pair.now)
    assert pair.core.next_deadline() == pair.now + REST_S


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "malformed_message"),
        ("[]", "malformed_message"),
        ("{}", "malformed_message"),
        ('{"op":"publish"}', "malformed_message"),
        ('{"op":"subscribe","topic":"block"}', "malformed_message"),
        ('{"op":"subscribe","since":-1}', "malformed_message"),
        ('{"op":"subscribe","since":1.5}', "malformed_message"),
        ('{"op":"subscribe","since":99999999999999999999}', "malformed_message"),
        ('{"op":"subscribe","topics":"block"}', "malformed_message"),
        ('{"op":"subscribe","topics":["' + "x" * 65 + '"]}', "malformed_message"),
        (json.dumps({"op": "subscribe", "topics": ["block"] * 65}), "malformed_message"),
        ('{"op":"subscribe","topics":["blocks"]}', "unknown_topic"),
        ("[" * 4000, "malformed_message"),
        ("\\ud800", "malformed_message"),
    ],
)
def test_a_message_that_is_none_is_refused_and_changes_nothing(pair: Pair, message: str, code: str) -> None:
    pair.say({"op": "subscribe", "topics": ["block"]})
    pair.take()
    pair.say(message)
    (refusal,) = pair.take()
    assert (refusal["type"], refusal["code"]) == ("error", code)
    assert refusal["message"]
    pair.events.emit("block")
    pair.later(REST_S)
    assert pair.seqs() == [1]


def closed(pair: Pair) -> tuple[int, ConnectionState]:
    (close,) = [event for event in pair.take() if isinstance(event, CloseConnection)]
    return close.code, pair.client.state


def test_a_close_is_answered_with_its_code(pair: Pair) -> None:
    pair.put(pair.client.send(CloseConnection(1000, "done")))
    assert closed(pair) == (1000, ConnectionState.CLOSED)
    assert pair.core.over


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]
)
def test_what_may_be_said_at_the_end_is_said_back(pair: Pair, code: int) -> None:
    pair.put(frame(8, struct.pack("!H", code) + b"r" * 123) + frame(9, b"after") + frame(8, b""))
    assert closed(pair)[0] == code
    assert pair.core.over


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_what_may_not_be_said_at_the_end_is_a_breach(pair: Pair, code: int) -> None:
    pair.put(frame(8, struct.pack("!H", code)))
    assert closed(pair)[0] == 1002


def test_the_answer_to_a_close_waits_for_room_but_not_for_ever(pair: Pair) -> None:
    pair.later(10 * CLOSE_LIMIT_S)
    pair.full = True
    pair.put(pair.client.send(CloseConnection(1000)))
    assert not pair.core.over
    pair.later(CLOSE_LIMIT_S / 2)
    assert not pair.core.over
    pair.later(CLOSE_LIMIT_S)
    assert pair.core.over


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    head = bytes([(fin << 7) | (reserved << 4) | opcode])
    flag = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([flag | len(payload)])
    else:
        head += bytes([flag | 126]) + struct.pack("!H", len(payload))
    return head + (b"\0\0\0\0" if mask else b"") + payload


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"{}", mask=False), 1002),
        (frame(1, b"{}", reserved=4), 1002),
        (frame(3, b""), 1002),
        (frame(0, b"continued from nothing"), 1002),
        (frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
        (frame(9, b"x" * 126), 1002),
        (frame(9, b"x", fin=False), 1002),
        (frame(8, b"\x03"), 1002),
        (frame(8, struct.pack("!H", 1000) + b"r" * 124), 1002),
        (frame(8, b"", fin=False), 1002),
        (frame(9, b"", reserved=2), 1002),
        *[(frame(opcode, b""), 1002) for opcode in (4, 5, 6, 7, 11, 12, 13, 14, 15)],
        (frame(1, b"a", fin=False) + frame(2, b"b"), 1002),
        (b"\x81\xfe\0\x02\0\0\0\0{}", 1002),  # a length in more bytes than it needs
        (frame(8, struct.pack("!H", 1000) + b"\xff"), 1007),
        (frame(1, b"\xff\xfe"), 1007),
        (frame(1, b"\xc0\xaf"), 1007),
        (frame(1, b"\xed\xa0\x80"), 1007),
        (frame(1, b"\xf4\x90\x80\x80"), 1007),
        (frame(1, b"\xce", fin=False) + frame(0, b""), 1007),
        (frame(1, b"\xc3", fin=False) + frame(0, b"\x28"), 1007),
        (frame(2, b"{}"), 1003),
        (frame(1, b"x" * (MAX_MESSAGE_CHARS + 1)), 1009),
        (frame(1, b"x" * 4000, fin=False) + frame(0, b"x" * 97), 1009),
        (b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0" + b"x" * 5000, 1009),
        (b"\x81\xff" + struct.pack("!Q", 2**63), 1002),
    ],
)
def test_a_breach_of_the_protocol_is_closed_with_its_code(pair: Pair, data: bytes, code: int) -> None:
    pair.put(data)
    assert closed(pair)[0] == code
    # What follows is neither understood nor kept; its end is waited for, for a moment.
    pair.put(frame(1, b'{"op":"subscribe"}') * 10)
    assert pair.take() == []
    pair.later(CLOSE_LIMIT_S)
    assert pair.core.over


def test_what_follows_a_breach_is_not_kept(pair: Pair) -> None:
    pair.put(frame(3, b""))
    for _ in range(100):
        pair.put(bytes(4096))
    assert len(pair.core._connection._proto._frame_decoder.buffer) < 4096


def test_fragments_may_have_control_frames_between_them(pair: Pair) -> None:
    text = b'{"op":"subscribe","topics":["block"]}'
    parts = [text[:1], b"", text[1:20], text[20:]]
    for number, part in enumerate(parts):
        pair.put(frame(0 if number else 1, part, fin=number == len(parts) - 1))
        pair.put(frame(9, b"%d" % number))
    assert [event.payload for event in pair.got if isinstance(event, Pong)] == [b"0", b"1", b"2", b"3"]
    assert [event["topics"] for event in pair.take() if isinstance(event, dict)] == [["block"]]


@given(st.lists(st.integers(1, 50), max_size=20))
def test_however_the_bytes_are_cut_the_messages_are_the_same(sizes: list[int]) -> None:
    pair = Pair()
    data = frame(1, b'{"op":"subs', fin=False) + frame(9, b"p") + frame(0, b'cribe"}') + frame(1, b"{}")
    for size in sizes:
        pair.put(data[:size])
        data = data[size:]
    pair.put(data)
    pong, subscribed, refusal = pair.take()
    assert (pong.payload, subscribed["type"], refusal["type"]) == (b"p", "subscribed", "error")


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data: bytes) -> None:
    pair = Pair()
    pair.core.receive(data, pair.now)
    pair.core.outgoing(pair.now)


def test_who_sends_too_much_is_closed(pair: Pair) -> None:
    pair.put(frame(10, b"") * int(FRAME_BURST))
    assert pair.take() == []
    pair.put(frame(10, b""))
    assert closed(pair)[0] == 1008


def test_a_steady_trickle_is_not_too_much(pair: Pair) -> None:
    for _ in range(2 * int(FRAME_BURST)):
        pair.put(frame(10, b""))
        pair.later(0.1)
    assert pair.take() == []


def test_with_many_answers_waiting_nothing_is_read(pair: Pair) -> None:
    pair.full = True
    assert pair.core.wants_input
    for _ in range(MAX_REPLIES // 50):
        pair.put(frame(9, b"x" * 100))
    pair.core.outgoing(pair.now)
    for _ in range(MAX_REPLIES // 50):
        pair.put(frame(9, b"x" * 100))
    assert not pair.core.wants_input
    pair.full = False
    pair.flush()
    assert pair.core.wants_input


def test_a_silent_one_is_asked_and_then_given_up(pair: Pair) -> None:
    assert pair.core.next_deadline() == pair.now + PING_AFTER_S
    pair.later(PING_AFTER_S)
    assert pair.take() == [Ping(b"")]
    pair.later(1.0)
    assert pair.take() == []
    pair.later(SILENT_LIMIT_S - PING_AFTER_S - 1.5)
    assert not pair.core.over
    pair.later(0.5)
    assert pair.core.over


def test_one_that_answers_stays(pair: Pair) -> None:
    for _ in range(20):
        pair.later(PING_AFTER_S)
        (ping,) = pair.take()
        pair.put(pair.client.send(ping.response()))
    assert not pair.core.over


def test_a_stalled_one_stays_long_and_is_not_asked(pair: Pair) -> None:
    pair.say({"op": "subscribe"})
    pair.full = True
    pair.events.emit("joined")
    pair.core.outgoing(pair.now)
    pair.core.sent(10, pair.now)
    assert pair.core.stalled_since == pair.now
    pair.later(STALLED_LIMIT_S - 1)
    assert not pair.core.over
    pair.core.sent(1, pair.now)  # It has read a little: the time begins anew.
    pair.later(STALLED_LIMIT_S - 1)
    assert not pair.core.over
    pair.later(1)
    assert pair.core.over


def test_a_slow_one_is_alive_though_it_has_not_come_to_the_ping_yet(pair: Pair) -> None:
    pair.say({"op": "subscribe", "topics": ["transaction"]})
    pair.take()
    for _ in range(200):
        pair.events.emit("transaction", payload=bytes(1000))
    pair.full = True
    for _ in range(100):
        chunk = pair.core.outgoing(pair.now)
        pair.core.sent(min(100, len(chunk)), pair.now)
        pair.later(SILENT_LIMIT_S / 2)
    assert not pair.core.over


def test_leaving_tells_the_rest_and_says_goodbye(pair: Pair) -> None:
    pair.say({"op": "subscribe", "since": 0})
    pair.take()
    for _ in range(BATCH_EVENTS + 10):
        pair.events.emit("joined")
    pair.events.emit("stopping")
    pair.core.leave()
    pair.flush()
    *told, close = pair.take()
    assert [event["seq"] for event in told] == list(range(1, BATCH_EVENTS + 12))
    assert (close.code, close.reason) == (1001, "the node is stopping")
    pair.put(pair.client.send(close.response()))
    assert pair.core.over


def test_who_has_gone_is_told_nothing_more(pair: Pair) -> None:
    pair.say({"op": "subscribe"})
    pair.events.emit("joined")
    pair.core.lost()
    assert pair.core.over
    assert not pair.core.outgoing(pair.now)
    assert not pair.events._waiters


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_frames_are_what_others_take_for_text(size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(text_frame(b"x" * size))
    parts: Iterable[Message] = list(client.events())  # type: ignore[arg-type]
    assert all(isinstance(part, TextMessage) and not isinstance(part, BytesMessage) for part in parts)
    assert "".join(part.data for part in parts) == "x" * size


def test_all_types_make_a_subscription_that_fits() -> None:
    longest = json.dumps({"op": "subscribe", "topics": sorted(ALL_TYPES), "since": 2**53 - 1, "run": "x" * 24})
    assert len(longest) < MAX_MESSAGE_CHARS // 4
    assert len(ALL_TYPES) < subscriber_module.MAX_NAMES
