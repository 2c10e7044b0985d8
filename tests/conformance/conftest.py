"""The node under test: `kodectl node run` as a process of its own, or whose enode stands in CONFORMANCE_ENODE.

What is not in docs/protocol.md may only be used here."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http import client as http_client

import pytest
from conformance.client.discovery import ANSWER_LIMIT_S, CLIENT, Peer, Place
from conformance.client.keys import Identity
from conformance.client.links import Connection, Link, Pace, shake_hands

OTHERS_NODE = "CONFORMANCE_ENODE"
_ENODE = re.compile(r"enode://([0-9a-f]{64})@([0-9.]+):([0-9]+)\?discport=([0-9]+)")


def place_of(enode: str) -> Place:
    found = _ENODE.fullmatch(enode)
    assert found, enode
    return Place(bytes.fromhex(found[1]), found[2], int(found[3]), int(found[4]))


@pytest.fixture(scope="module")
def process(request: pytest.FixtureRequest):
    """None where the node is somebody else's."""
    return None if OTHERS_NODE in os.environ else request.getfixturevalue("shared_nodes").start("conformance")


@pytest.fixture(scope="module")
def node(process) -> Place:
    """Shared by a module: a case uses keys, ids and sessions of its own, and leaves nothing that others could meet."""
    return place_of(process.enode if process else os.environ[OTHERS_NODE])


@pytest.fixture
def make_peer(node: Place) -> Iterator[Callable[..., Peer]]:
    """Peers with a session, entered into no table unless `flags` say so; `stranger`: without one."""
    made: list[Peer] = []

    def make(stranger: bool = False, flags: int = CLIENT, **options) -> Peer:
        peer = Peer(node, **options)
        made.append(peer)
        return peer if stranger else peer.connect(flags)

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def peer(make_peer) -> Peer:
    return make_peer()


@pytest.fixture
def stranger(make_peer) -> Peer:
    return make_peer(stranger=True)


@pytest.fixture(scope="module")
def pace() -> Pace:
    return Pace()


@pytest.fixture
def connect(node: Place, pace: Pace) -> Iterator[Callable[[], Connection]]:
    made: list[Connection] = []

    def to_node() -> Connection:
        pace.wait()
        made.append(Connection.to(node))
        return made[-1]

    yield to_node
    for connection in made:
        connection.close()


@pytest.fixture
def make_link(connect) -> Callable[..., Link]:
    """Links that stand; `greeted=False`: before the hellos."""

    def make(identity: Identity | None = None, greeted: bool = True) -> Link:
        link = shake_hands(connect(), identity or Identity())
        return link.begin() if greeted else link

    return make


@pytest.fixture
def link(make_link) -> Link:
    return make_link()


@pytest.fixture
def dialled(process, node: Place) -> Iterator[Callable[[bytes], Connection]]:
    """Has the node dial an id; the connection that it makes."""
    if process is None:
        pytest.skip("how another node is told to dial is not known")
    dialling: list[threading.Thread] = []
    made: list[Connection] = []

    def by_node(node_id: bytes) -> Connection:
        with socket.create_server((node.ip, 0)) as here:
            here.settimeout(ANSWER_LIMIT_S)
            port = here.getsockname()[1]
            enode = f"enode://{node_id.hex()}@{node.ip}:{port}?discport=0"
            dialling.append(threading.Thread(target=order_to_dial, args=(process.api, enode)))
            dialling[-1].start()
            made.append(Connection(here.accept()[0]))
        return made[-1]

    yield by_node
    for connection in made:
        connection.close()
    for thread in dialling:
        thread.join()


def order_to_dial(api: str, enode: str) -> None:
    """Waits for the outcome."""
    http = http_client.HTTPConnection(api, timeout=ANSWER_LIMIT_S)
    http.request("POST", "/api/network/connect", json.dumps({"target": enode}), {"Content-Type": "application/json"})
    http.getresponse().read()
    http.close()


@pytest.fixture(scope="module")
def parse(shared_nodes) -> Callable[..., list[tuple | None]]:
    """What the command line reads in enodes: id, host, TCP and UDP port; None where it refuses."""

    def read(*texts: str) -> list[tuple | None]:
        told = shared_nodes.kodectl("enode", "parse", "--jsonl", "-", input="\n".join(texts).encode() + b"\n").stdout
        documents = [json.loads(line).get("data") for line in told.splitlines()]
        assert len(documents) >= len(texts)
        return [
            (data["node_id"], data["host"], data["tcp"], data["udp"]) if data["node_id"] else None
            for data in documents[: len(texts)]
        ]

    return read
