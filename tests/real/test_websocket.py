"""/ws on the real server, over loopback and a unix socket, with the websocket-client package and with bytes by hand."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gevent
import pytest
import websocket
from gevent import socket

from kodectl.api import event_socket, subscriptions
from kodectl.api import server as server_module
from kodectl.api.access import AccessRules
from kodectl.api.app import Guard, make_app
from kodectl.api.events import POLLS
from kodectl.api.listeners import listen_tcp, listen_unix
from kodectl.api.server import ApiServer
from kodectl.node.events import BOUNDS_OF, Events
from kodectl.runtime.green import GreenRuntime

TOKEN = "0123456789abcdef0123456789abcdef"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ["Upgrade: websocket", "Connection: keep-alive, Upgrade", KEY, "Sec-WebSocket-Version: 13"]
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


class Node:
    """What /ws has of a node."""

    def __init__(self, runtime: GreenRuntime) -> None:
        self.runtime = runtime
        self.events = Events(runtime)


@dataclass
class Served:
    node: Node
    tcp: ApiServer
    unix: ApiServer
    path: Path

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.tcp.address[1]}/ws"

    @property
    def connections(self) -> int:
        return len(self.tcp.connections) + len(self.unix.connections)


@pytest.fixture
def rules() -> AccessRules:
    return AccessRules()


@pytest.fixture
def served(rules: AccessRules, tmp_path: Path) -> Iterator[Served]:
    runtime = GreenRuntime()
    scope = runtime.scope("api")
    node = Node(runtime)
    node.events.emit("ready")
    app = make_app(node, Guard(rules), lambda: None)  # type: ignore[arg-type]
    path = tmp_path / "api.sock"
    servers = [ApiServer(listen_tcp(("127.0.0.1", 0)), app, unix=False), ApiServer(listen_unix(path), app, unix=True)]
    for server in servers:
        server.start_in(scope)
    yield Served(node, *servers, path)
    for server in servers:
        server.stop(1.0)
        assert not server.connections
    scope.close()
    assert scope.join(2.0) == []
    assert not node.events._waiters
    runtime.close()


def connect(served: Served, **options: object) -> websocket.WebSocket:
    """websocket-client on a socket of gevent's, so that server and client take turns in this process."""
    sock = socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10)
    return websocket.create_connection(served.url, socket=sock, **{"suppress_origin": True, **options})


def subscribe(client: websocket.WebSocket, **fields: object) -> dict:
    client.send(json.dumps({"op": "subscribe", **fields}))
    return json.loads(client.recv())


def raw(served: Served, *headers: str, path: str = "/ws", version: str = "1.1") -> socket.socket:
    """A connection that has sent this request."""
    client = socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10)
    lines = [f"GET {path} HTTP/{version}", "Host: localhost", *headers, "", ""]
    client.sendall("\r\n".join(lines).encode())
    return client


def head_of(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, data
        data += byte
    return data


def read_all(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def refusal(client: socket.socket) -> tuple[int, str]:
    head = head_of(client)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < length:
        body += client.recv(65536)
    client.close()
    return int(head.split()[1]), json.loads(body)["code"]


def eventually(holds) -> None:
    with gevent.Timeout(10):
        while not holds():
            gevent.sleep(0.01)


def test_events_come_to_a_foreign_client(served: Served) -> None:
    client = connect(served)
    assert subscribe(client, topics=["message"])["topics"] == ["message"]
    payload = bytes(range(256)) * 300
    served.node.events.emit("joined")
    served.node.events.emit("block", id="ab", payload=payload)
    event = json.loads(client.recv())
    assert (event["seq"], event["topic"], base64.b64decode(event["data"]["payload"])) == (3, "message", payload)
    client.ping("are you there")
    assert client.recv_frame().data == b"are you there"
    client.close()
    eventually(lambda: not served.connections)


def test_the_answer_to_an_upgrade_is_that_of_the_standard(served: Served) -> None:
    with raw(served, *UPGRADE) as client:
        head = head_of(client)
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: " + ACCEPT in head
    assert b"Content-Length" not in head
    assert b"Sec-WebSocket-Extensions" not in head


def test_frames_right_behind_the_request_are_not_lost(served: Served) -> None:
    """RFC 6455 has the client wait; one that does not is no reason to hang."""
    text = b'{"op":"subscribe","since":0}'
    frame = bytes([0x81, 0x80 | len(text)]) + bytes(4) + text
    with socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10) as client:
        client.sendall("\r\n".join(["GET /ws HTTP/1.1", "Host: localhost", *UPGRADE, "", ""]).encode() + frame)
        head_of(client)
        assert b'"subscribed"' in client.recv(4096)


def test_extensions_are_not_taken_up(served: Served) -> None:
    client = connect(served, header=["Sec-WebSocket-Extensions: permessage-deflate"])
    assert "sec-websocket-extensions" not in client.headers
    client.sock.sendall(b"\xc1\x80" + bytes(4))  # as if it were compressed
    assert struct.unpack("!H", client.recv_frame().data[:2]) == (1002,)
    client.sock.close()


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ([], (426, "upgrade_required")),
        ([KEY, "Upgrade: websocket", "Sec-WebSocket-Version: 13"], (426, "upgrade_required")),
        ([KEY, "Connection: Upgrade", "Sec-WebSocket-Version: 13"], (426, "upgrade_required")),
        ([KEY, "Upgrade: h2c", "Connection: Upgrade", "Sec-WebSocket-Version: 13"], (426, "upgrade_required")),
        ([*UPGRADE[:3], "Sec-WebSocket-Version: 8"], (426, "upgrade_required")),
        ([*UPGRADE[:2], UPGRADE[3]], (400, "malformed_request")),
        ([*UPGRADE[:2], UPGRADE[3], "Sec-WebSocket-Key: AAAA"], (400, "malformed_request")),
        ([*UPGRADE[:2], UPGRADE[3], "Sec-WebSocket-Key: not base64 \xff"], (400, "malformed_request")),
        (["Origin: http://evil.example", *UPGRADE], (403, "origin_not_allowed")),
        (["Origin: http://localhost:1", *UPGRADE], (403, "origin_not_allowed")),
        (["Origin: null", *UPGRADE], (403, "origin_not_allowed")),
        (["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: websocket", *UPGRADE], (403, "origin_not_allowed")),
        (["Content-Length: 2", "Content-Type: application/json", *UPGRADE], (400, "malformed_request")),
        (["Transfer-Encoding: chunked", "Content-Type: application/json", *UPGRADE], (400, "malformed_request")),
    ],
)
def test_what_is_no_upgrade_of_ours_is_refused(served: Served, headers: list[str], answer: tuple[int, str]) -> None:
    assert refusal(raw(served, *headers)) == answer
    assert len(served.node.events._waiters) == 0


def test_the_old_http_has_no_upgrades(served: Served) -> None:
    assert refusal(raw(served, *UPGRADE, version="1.0")) == (426, "upgrade_required")


def test_an_upgrade_is_asked_with_get(served: Served) -> None:
    """HEAD is answered wherever GET is."""
    with socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10) as client:
        client.sendall("\r\n".join(["HEAD /ws HTTP/1.1", "Host: localhost", *UPGRADE, "", ""]).encode())
        assert b" 426 " in head_of(client)


def test_polls_of_those_who_have_gone_take_nobodys_place(served: Served) -> None:
    for end in (socket.socket.close, lambda client: client.shutdown(socket.SHUT_WR), reset):
        polls = [raw(served, path="/api/events?since=1&timeout=60") for _ in range(POLLS.most)]
        eventually(lambda: len(served.node.events._waiters) == POLLS.most)
        assert refusal(raw(served, path="/api/events")) == (503, "busy")
        for client in polls:
            end(client)
        eventually(lambda: not served.node.events._waiters)
        with raw(served, path="/api/events") as client:
            assert b" 200 " in head_of(client)
        for client in polls:
            client.close()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_poll_waits_on_though_the_next_request_is_there(served: Served) -> None:
    with raw(served, path="/api/events?since=1&timeout=60") as client:
        client.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        eventually(lambda: served.node.events._waiters)
        gevent.sleep(0.05)
        assert served.node.events._waiters
        served.node.events.emit("joined")
        assert read_all(client).count(b'"joined"') == 2


def test_a_rebound_name_is_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10) as client:
        client.sendall("\r\n".join(["GET /ws HTTP/1.1", "Host: evil.example", *UPGRADE, "", ""]).encode())
        assert refusal(client) == (403, "host_not_allowed")


def test_the_own_page_may(served: Served) -> None:
    client = connect(served, suppress_origin=False, origin=f"http://127.0.0.1:{served.tcp.address[1]}")
    assert subscribe(client)["type"] == "subscribed"
    client.close()


@pytest.mark.parametrize("rules", [AccessRules(token=TOKEN)])
def test_the_token_is_asked(served: Served) -> None:
    assert refusal(raw(served, *UPGRADE)) == (401, "not_authorised")
    assert refusal(raw(served, f"Authorization: Bearer {TOKEN[::-1]}", *UPGRADE)) == (401, "not_authorised")
    client = connect(served, header=[f"Authorization: Bearer {TOKEN}"])
    assert subscribe(client)["type"] == "subscribed"
    client.close()


@pytest.mark.parametrize("rules", [AccessRules(token=TOKEN)])
def test_the_unix_socket_asks_nothing(served: Served) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(served.path))
    client = websocket.create_connection("ws://anything/ws", socket=sock, origin="http://evil.example")
    assert subscribe(client, since=0)["type"] == "subscribed"
    assert json.loads(client.recv())["type"] == "ready"
    client.close()


def test_an_upgrade_asked_of_another_route_is_an_ordinary_request(served: Served) -> None:
    """pywsgi hands the application the bare connection as body then, which has no end."""
    with raw(served, *UPGRADE, path="/api/events") as client:
        assert head_of(client).startswith(b"HTTP/1.1 200 ")
    lines = ["POST /api/network/broadcast HTTP/1.1", "Host: localhost", "Connection: Upgrade", "Content-Length: 2"]
    with socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "Content-Type: application/json", "", "{}"]).encode())
        assert refusal(client) == (400, "malformed_body")


def test_slow_upgrade_headers_are_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEADER_LIMIT_S", 0.1)
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)
    with socket.create_connection(("127.0.0.1", served.tcp.address[1]), timeout=10) as client:
        client.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n")
        assert b" 408 " in read_all(client)


def test_the_limits_of_requests_do_not_hold_for_subscribers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE", "HEADER", "BODY", "WRITE"):
        monkeypatch.setattr(server_module, f"{name}_LIMIT_S", 0.1)
    monkeypatch.setattr(server_module, "SWEEP_S", 0.02)
    client = connect(served)
    subscribe(client)
    with socket.create_connection(served.tcp.address, timeout=10) as idle:
        assert idle.recv(1) == b""  # One that sends no request has been closed meanwhile.
    served.node.events.emit("joined")
    assert json.loads(client.recv())["type"] == "joined"
    client.close()


def test_of_128_connections_a_quarter_are_subscribers_and_requests_still_pass(served: Served) -> None:
    taken = [raw(served, *UPGRADE) for _ in range(128)]
    answers = [head_of(client).split()[1] for client in taken]
    assert answers.count(b"101") == subscriptions.MAX_SUBSCRIBERS
    assert answers.count(b"503") == 128 - subscriptions.MAX_SUBSCRIBERS
    with raw(served, path="/api/events") as client:
        assert head_of(client).startswith(b"HTTP/1.1 200 ")
    for client in taken:
        client.close()
    eventually(lambda: not served.connections)
    client = connect(served)
    assert subscribe(client)["type"] == "subscribed"
    client.close()


def stall(served: Served) -> socket.socket:
    """A subscriber that has stopped reading, with what it was sent last waiting in the node."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", served.tcp.address[1]))
    client.sendall("\r\n".join(["GET /ws HTTP/1.1", "Host: localhost", *UPGRADE, "", ""]).encode())
    head_of(client)
    text = b'{"op":"subscribe","topics":["message"]}'
    client.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
    eventually(lambda: served.node.events._waiters)
    served.node.events.emit("block", payload=bytes(2 << 20))
    eventually(lambda: any(one.upgrade.stalled_since for one in served.tcp.connections if one.upgrade))
    return client


def test_a_stalled_reader_holds_one_batch_and_finds_a_gap(served: Served) -> None:
    client = stall(served)
    count = 2 * BOUNDS_OF["transaction"].events
    for number in range(count):
        served.node.events.emit("transaction", id=f"{number:064}", payload=b"")
        if number % 100 == 0:
            gevent.sleep(0)
    (connection,) = served.tcp.connections
    assert len(connection.upgrade._core.outgoing(0.0)) < 3 << 20  # the rest of the block
    late = websocket.WebSocket()
    late.sock = client
    late.connected = True
    messages = [json.loads(late.recv())]
    while messages[-1].get("seq") != served.node.events.last:
        messages.append(json.loads(late.recv()))
    assert [message["type"] for message in messages[:3]] == ["subscribed", "block", "gap"]
    assert messages[2]["missed"] == count - BOUNDS_OF["transaction"].events
    assert len(messages) == 3 + BOUNDS_OF["transaction"].events
    late.close()


def test_a_stalled_one_gives_its_place_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "MAX_SUBSCRIBERS", 2)
    stalled = stall(served)
    client = connect(served)
    subscribe(client)
    assert refusal(raw(served, *UPGRADE)) == (503, "busy")
    monkeypatch.setattr(subscriptions, "YIELDS_AFTER_S", 0.0)
    other = connect(served)
    assert subscribe(other)["type"] == "subscribed"
    eventually(lambda: len(served.tcp.connections) == 2)
    assert refusal(raw(served, *UPGRADE)) == (503, "busy")
    served.node.events.emit("joined")
    assert json.loads(client.recv())["type"] == json.loads(other.recv())["type"] == "joined"
    for one in (client, other, stalled):
        one.close()


def test_who_goes_without_a_word_is_noticed(served: Served) -> None:
    client = connect(served)
    subscribe(client)
    client.sock.close()
    eventually(lambda: not served.connections and not served.node.events._waiters)


def test_who_resets_a_stalled_connection_is_noticed(served: Served) -> None:
    client = stall(served)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    eventually(lambda: not served.connections)


def test_a_silent_one_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kodectl.api.subscriber.PING_AFTER_S", 0.05)
    monkeypatch.setattr("kodectl.api.subscriber.SILENT_LIMIT_S", 0.2)
    with raw(served, *UPGRADE) as client:
        head_of(client)
        assert read_all(client) == b"\x89\x00"


def test_the_stop_of_the_node_closes_with_1001_after_the_last_event(served: Served) -> None:
    client = connect(served)
    subscribe(client)
    served.node.events.emit("stopping")
    stopping = gevent.spawn(served.tcp.stop, 5.0)
    assert json.loads(client.recv())["type"] == "stopping"
    close = client.recv_frame()
    assert (close.opcode, close.data[:2]) == (websocket.ABNF.OPCODE_CLOSE, struct.pack("!H", 1001))
    client.close()
    stopping.join(2)
    assert stopping.successful()


def test_the_stop_of_the_node_waits_for_no_stalled_reader(served: Served) -> None:
    client = stall(served)
    stopping = gevent.spawn(served.tcp.stop, 0.1)
    stopping.join(5)
    assert stopping.successful()
    eventually(lambda: not served.connections)
    client.close()


def test_a_bug_in_a_subscriber_ends_that_connection_only(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    well, ill = connect(served), connect(served)
    subscribe(well)
    monkeypatch.setattr(event_socket.Subscriber, "_take_text", lambda *_: 1 / 0)
    ill.send("{}")
    assert ill.sock.recv(10) == b""
    assert "a connection failed" in caplog.text
    served.node.events.emit("joined")
    assert json.loads(well.recv())["type"] == "joined"
    well.close()
