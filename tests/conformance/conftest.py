"""The node under test: `kodectl node run` as a process of its own, or whose enode stands in CONFORMANCE_ENODE.

What is not in docs/protocol.md may only be used here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest
from conformance.client.discovery import CLIENT, Peer, Place

OTHERS_NODE = "CONFORMANCE_ENODE"
_ENODE = re.compile(r"enode://([0-9a-f]{64})@([0-9.]+):([0-9]+)\?discport=([0-9]+)")


def place_of(enode: str) -> Place:
    found = _ENODE.fullmatch(enode)
    assert found, enode
    return Place(bytes.fromhex(found[1]), found[2], int(found[3]), int(found[4]))


@pytest.fixture(scope="module")
def enode(request: pytest.FixtureRequest) -> str:
    others = os.environ.get(OTHERS_NODE)
    return others or request.getfixturevalue("shared_nodes").start("conformance").enode


@pytest.fixture(scope="module")
def node(enode: str) -> Place:
    """Shared by a module: a case uses keys, ids and sessions of its own, and leaves nothing that others could meet."""
    return place_of(enode)


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
