"""`kodectl node events`: following real nodes over connections that break, restarts, and what ends it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from conftest import NodeProcess, Nodes
from published import check_documents

from kodectl.cli.event_stream import MOST_IN_VAIN
from kodectl.cli.node_events import SHOWN_CHARS, Place, _kept, _line, parse_place
from kodectl.node.views import EventsView, EventView

REPOSITORY = Path(__file__).parents[2]
USAGE, NO_NODE, NOT_AUTHORISED, DEADLINE = 2, 5, 6, 8
TOKEN = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def node(shared_nodes: Nodes) -> NodeProcess:
    return shared_nodes.start("a")


@pytest.fixture
def events(shared_nodes: Nodes, node: NodeProcess) -> Callable[..., subprocess.CompletedProcess]:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return shared_nodes.kodectl("node", "events", *arguments, "--datadir", str(node.datadir))

    return run


def data_of(output: bytes) -> list[dict[str, Any]]:
    return [document["data"] for document in check_documents(output) if document["ok"]]


def publish(nodes: Nodes, node: NodeProcess, payload: bytes, kind: str = "transaction") -> None:
    done = nodes.kodectl("node", "broadcast", "--type", kind, "-", "--datadir", str(node.datadir), input=payload)
    assert done.returncode in (0, 4), done.stderr


class Follower:
    """The command in the background, and what it has printed so far."""

    def __init__(self, nodes: Nodes, *arguments: str) -> None:
        command = [sys.executable, "-m", "kodectl", "node", "events", "--jsonl", *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=nodes.environment
        )

    def next(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        (document,) = check_documents(self.process.stdout.readline())
        return document["data"]

    def until(self, type_: str) -> list[dict[str, Any]]:
        found = [self.next()]
        while found[-1]["type"] != type_:
            found.append(self.next())
        return found

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def follow(shared_nodes: Nodes) -> Iterator[Callable[..., Follower]]:
    started: list[Follower] = []

    def start(*arguments: str) -> Follower:
        started.append(Follower(shared_nodes, *arguments))
        return started[-1]

    yield start
    for follower in started:
        if follower.process.poll() is None:
            follower.process.kill()
            follower.process.communicate()


class Proxy:
    """TCP in between, that can cut all its connections, and stand in for a node that is away for a moment."""

    def __init__(self) -> None:
        self.to: tuple[str, int] | None = None
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def lead_to(self, node: NodeProcess) -> None:
        host, _, port = node.api.rpartition(":")
        self.to = (host, int(port))

    def cut(self) -> None:
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                here = self._listener.accept()[0]
            except OSError:
                return
            self.accepted += 1
            try:
                there = socket.create_connection(self.to) if self.to else None
            except OSError:
                there = None
            if there is None:
                here.close()
                continue
            self._open += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    source.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    between = Proxy()
    yield between
    between.close()


def test_a_connection_that_breaks_is_taken_up_where_it_ended(
    follow: Callable[..., Follower], shared_nodes: Nodes, node: NodeProcess, proxy: Proxy
) -> None:
    proxy.lead_to(node)
    follower = follow("--api", proxy.address, "--topic", "transaction")
    for number in range(4):
        publish(shared_nodes, node, b"%d" % number)
        event = follower.next()
        assert base64.b64decode(event["data"]["payload"]) == b"%d" % number
        proxy.cut()
    assert proxy.accepted >= 4
    assert follower.end(signal.SIGTERM) == 143


def test_a_restart_is_told_as_a_gap_of_unknown_size(
    follow: Callable[..., Follower], nodes: Nodes, proxy: Proxy
) -> None:
    first = nodes.start("restarted")
    proxy.lead_to(first)
    follower = follow("--api", proxy.address)
    assert follower.next()["type"] == "ready"
    first.leave()
    told = follower.until("stopping")
    proxy.lead_to(nodes.start("restarted"))
    assert follower.next() == {"type": "gap", "missed": None}
    again = follower.next()
    assert (again["type"], again["seq"]) == ("ready", 1)
    assert told[-1]["seq"] > 1


def test_the_end_says_how_to_go_on(follow: Callable[..., Follower], nodes: Nodes) -> None:
    node = nodes.start("leaving")
    follower = follow("--datadir", str(node.datadir), "--topic", "node")
    follower.until("ready")
    node.leave()
    last = follower.until("stopping")[-1]
    (end,) = check_documents(follower.process.stdout.read())
    assert follower.process.wait(20) == end["error"]["exit"] == NO_NODE
    hint = end["error"]["hint"].split()
    nodes.start("leaving")
    # The numbers have begun anew: without the run, the first events of the new one would be taken for known.
    found = data_of(nodes.kodectl(*hint[1:], "--no-follow", "--json", "--datadir", str(node.datadir)).stdout)
    assert hint[:4] == ["kodectl", "node", "events", "--since"]
    assert parse_place(hint[4]).seq == last["seq"]
    assert found[0] == {"type": "gap", "missed": None}
    assert found[1]["type"] == "ready"


def test_topics_and_types_and_a_count(
    events: Callable[..., subprocess.CompletedProcess], shared_nodes: Nodes, node
) -> None:  # type: ignore[no-untyped-def]
    publish(shared_nodes, node, b"block", "block")
    found = data_of(events("--topic", "node", "--topic", "block", "--count", "2", "--json").stdout)
    assert [event["type"] for event in found] == ["ready", "block"]
    found = data_of(events("--topic", "block", "--no-follow", "--json").stdout)
    assert {event["type"] for event in found} == {"block"}
    refused = events("--topic", "blocks")
    assert (refused.returncode, refused.stdout) == (USAGE, b"")


def test_a_number_that_lies_ahead_begins_with_a_gap(events: Callable[..., subprocess.CompletedProcess]) -> None:
    for way in (["--count", "1"], ["--no-follow"]):
        found = data_of(events("--since", "999999", *way, "--json").stdout)
        assert found[0] == {"type": "gap", "missed": None}
        assert found[1]["type"] == "ready"
    assert events("--since", "999999", "--count", "1").stdout.startswith(b"gap: the node has been restarted")


def test_what_is_kept_of_a_busy_node_has_an_end() -> None:
    """One on which something happens at each question, and which answers three events at a time."""

    class Client:
        last = 10

        def get(self, _path: str, _shape: object, query: dict[str, Any]) -> EventsView:
            self.last += 2
            if query["topics"] == "":
                return EventsView([], self.last, 0, "run")
            seqs = range(query["since"] + 1, min(query["since"] + 3, self.last) + 1)
            events = [EventView(seq, "", "joined", "dht", {}) for seq in seqs]
            return EventsView(events, seqs[-1], 0, "run")

    found = _kept(Client(), Place(2), ())  # type: ignore[arg-type]
    assert [event["seq"] for event in found] == list(range(3, 13))


@pytest.mark.parametrize("place", ["x", "-1", "1.5", "", "@run", "9" * 16])
def test_a_place_that_is_none_is_refused(events: Callable[..., subprocess.CompletedProcess], place: str) -> None:
    assert events(f"--since={place}").returncode == USAGE


def test_the_document_shows_what_is_sent(shared_nodes: Nodes, node: NodeProcess) -> None:
    """The same conversation on a socket of its own: every message has the fields of the one that is shown."""
    document = (REPOSITORY / "docs" / "api.md").read_text()
    shown = [line for line in document.splitlines() if line.startswith(("> {", "< {"))]
    assert len(shown) > 5
    publish(shared_nodes, node, b"to be shown")
    client = websocket.create_connection(f"ws://{node.api}/ws", timeout=20, suppress_origin=True)
    for line in shown:
        message = json.loads(line[2:])
        if line.startswith(">"):
            if "run" in message:
                message |= {"since": 0, "run": "of another node"}
            client.send(json.dumps(message))
            continue
        got = json.loads(client.recv())
        while "seq" in got and got["type"] != message["type"]:
            got = json.loads(client.recv())  # of others
        assert list(got) == list(message)
        assert got["type"] == message["type"]
        if "data" in message:
            assert list(got["data"]) == list(message["data"])
        if "code" in message:
            assert got == message
    client.close()


def test_the_deadline_ends_it(events: Callable[..., subprocess.CompletedProcess]) -> None:
    done = events("--deadline", "0.3", "--jsonl")
    assert done.returncode == DEADLINE
    assert data_of(done.stdout)[0]["type"] == "ready"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it(follow: Callable[..., Follower], node: NodeProcess, number: int, code: int) -> None:
    follower = follow("--datadir", str(node.datadir))
    assert follower.next()["type"] == "ready"
    assert follower.end(number) == code


def test_when_nobody_reads_it_ends(follow: Callable[..., Follower], shared_nodes: Nodes, node: NodeProcess) -> None:
    follower = follow("--datadir", str(node.datadir), "--topic", "transaction")
    publish(shared_nodes, node, b"first")
    follower.next()
    assert follower.process.stdout is not None
    follower.process.stdout.close()
    publish(shared_nodes, node, b"second")
    assert follower.process.wait(20) == 141


def test_the_token_is_sent(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "guarded").mkdir(mode=0o700)
    token = tmp_path / "guarded" / "api.token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    node = nodes.start("guarded", "--api-token", "required")
    asked = ["node", "events", "--api", node.api, "--count", "1", "--json"]
    assert nodes.kodectl(*asked).returncode == NOT_AUTHORISED
    assert nodes.kodectl(*asked, "--token-file", str(token)).returncode == 0


def test_what_is_no_node_is_named_so(nodes: Nodes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: nonsense\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        done = nodes.kodectl("node", "events", "--api", f"127.0.0.1:{listener.getsockname()[1]}", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "not_a_node"


def test_what_takes_the_upgrade_and_says_nothing_is_given_up(nodes: Nodes) -> None:
    asked = 0

    def answer(listener: socket.socket) -> None:
        nonlocal asked
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            with client:
                request = client.recv(65536)
                key = next(
                    line[19:] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: ")
                )
                accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                client.sendall(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            asked += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        done = nodes.kodectl("node", "events", "--api", f"127.0.0.1:{listener.getsockname()[1]}", "--json")
        listener.shutdown(socket.SHUT_RDWR)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"], asked) == (NO_NODE, "not_a_node", MOST_IN_VAIN)


def test_text_is_one_line_with_ids_whole_and_payloads_cut() -> None:
    data = {"id": "ab" * 32, "type": "block", "received_from": None, "payload": "A" * 5000, "text": "so\n long"}
    line = _line({"seq": 7, "ts": "2026-01-01T00:00:00.000Z", "type": "block", "topic": "message", "data": data})
    assert line.startswith(f"7  2026-01-01T00:00:00.000Z  block  id={'ab' * 32}  payload=AAA")
    assert line.endswith('...  text="so\\n long"')
    assert len(line) < 4 * SHOWN_CHARS
    assert _line({"type": "gap", "missed": 3}) == "gap: 3 events are gone"


def test_places_are_written_as_they_are_read() -> None:
    for place in (Place(0), Place(12, "2026-01-01T00:00:00.000Z")):
        assert parse_place(str(place)) == place


def test_it_starts_as_quickly_as_its_library_allows(shared_nodes: Nodes, node: NodeProcess) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "kodectl", "node", "events", "--count", "1"]
    done = subprocess.run(
        [*command, "--datadir", str(node.datadir)],
        capture_output=True,
        cwd=REPOSITORY,
        env=os.environ | shared_nodes.environment,
        timeout=30,
    )
    imported = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"wsproto" in imported
    assert not imported & {b"gevent", b"falcon", b"rich", b"websocket", b"asyncio", b"kodectl.cli.documents"}
