"""A connection between two nodes behind real NATs while its way changes: every message arrives, once."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from matrix import Machine, connect, laid
from natlab import Kind, Router, skip_without_lab

from kodectl.api.files import SOCKET_FILE
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.node.views import BroadcastView

pytestmark = [pytest.mark.lab, pytest.mark.slow, skip_without_lab]

MESSAGES = 1000
CUT_S = 5.0
PAUSE_S = 0.01
"""Between two messages: they are under way all the time that the way changes."""
PATIENCE_S = 40.0
"""The machine may be busy."""
_CUT = "table ip cut\ndelete table ip cut\n"
_CUT_FROM = "table ip cut { chain arriving { type filter hook prerouting priority raw - 100; %s drop; }; }\n"

Pair = tuple[Machine, Machine]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with laid((Kind.PORT_RESTRICTED,), tmp_path_factory.mktemp("paths")) as (_, machines):
        yield machines[Kind.PORT_RESTRICTED]


def router_of(machine: Machine) -> Router:
    router = machine.node.host.router
    assert router is not None
    return router


def cut(pair: Pair, what: str = "") -> None:
    """Nothing comes in at the first one's router: of the other's, or (`what`: "all") of anybody."""
    condition = "iifname outer" if what == "all" else f"ip saddr {router_of(pair[1]).outer_ip}"
    router_of(pair[0]).namespace.configure(["nft", "-f", "-"], _CUT + _CUT_FROM % condition)


def mend(pair: Pair) -> None:
    router_of(pair[0]).namespace.configure(["nft", "-f", "-"], _CUT)


def comes_to(pair: Pair, path: str) -> dict[str, Any]:
    ends = time.monotonic() + PATIENCE_S
    while True:
        peer = pair[0].peer(pair[1].id)
        if peer is not None and peer["path"] == path:
            return peer
        assert time.monotonic() < ends, peer
        time.sleep(0.05)


def say(machine: Machine, texts: list[bytes]) -> None:
    """One by one, whatever happens to the way."""
    client = NodeClient(Endpoint(unix=machine.node.datadir / SOCKET_FILE), PATIENCE_S)
    for text in texts:
        client.post(
            "/api/network/broadcast", BroadcastView, {"type": "transaction", "payload": b64encode(text).decode()}
        )
        time.sleep(PAUSE_S)


def heard(machine: Machine, origin: str) -> list[bytes]:
    events = [event["data"] for event in machine.node.events() if event["type"] == "transaction"]
    return [b64decode(data["payload"]) for data in events if data["origin"] == origin]


def texts_of(machine: Machine) -> list[bytes]:
    return [b"%d of %s" % (number, machine.id.encode()) for number in range(MESSAGES)]


def test_a_thousand_messages_each_way_while_the_way_changes(pair: Pair) -> None:
    one, other = pair
    assert connect(one, other, PATIENCE_S).direct_s is not None
    since = comes_to(pair, "direct")["since"]
    speakers = [Thread(target=say, args=(machine, texts_of(machine))) for machine in pair]
    for speaker in speakers:
        speaker.start()
    cut(pair)
    comes_to(pair, "relay")
    mend(pair)
    comes_to(pair, "direct")
    cut(pair, "all")
    time.sleep(CUT_S)
    cut(pair)
    comes_to(pair, "relay")
    mend(pair)
    comes_to(pair, "direct")
    router_of(one).forget()
    for speaker in speakers:
        speaker.join()
    assert comes_to(pair, "direct")["since"] == since
    ends = time.monotonic() + PATIENCE_S
    for here, there in (pair, pair[::-1]):
        while len(heard(here, there.id)) < MESSAGES and time.monotonic() < ends:
            time.sleep(0.1)
        assert sorted(heard(here, there.id)) == sorted(texts_of(there))
