"""The logs of real nodes: what they never say, and how little a flood makes them say."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress

from kodectl.cli.log_repeats import MOST
from kodectl.core.identity import Identity
from kodectl.errors import KodectlError
from kodectl.node.handshake import LocalEnd
from kodectl.node.link import dial
from kodectl.runtime.base import StreamClosed
from kodectl.runtime.green import GreenRuntime
from kodectl.store.keyfile import load_key
from kodectl.wire.announcement import Ports
from kodectl.wire.enode import parse_enode
from kodectl.wire.messages import Hello
from kodectl.wire.suite import RealSuite

TOKEN = "0123456789abcdef" * 4
TURN_PASSWORD = "a-password-nobody-may-read"
FLOOD = 2 * MOST
BURST_LOST = MOST // 2
"""Turned away at the door, at most, when there are too many at once."""
HELLO = Hello((1,), "stranger/1", "kodechain", ("gossip",), Ports(0, 0))


def test_a_whole_life_at_debug_level_tells_no_secret(nodes, tmp_path) -> None:
    """Key, token, TURN password; of two nodes that connect, with a broken request, a reload and an end."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir(mode=0o700)
        token = tmp_path / name / "api.token"
        token.write_text(TOKEN)
        token.chmod(0o600)
    turn = f"user:{TURN_PASSWORD}@127.0.0.1:9"
    options = ("--api-token", "required", "--turn", turn, "--log-level", "debug")
    first = nodes.start("a", *options)
    second = nodes.start("b", *options, "--bootstrap", first.enode)
    asked = ("--datadir", str(second.datadir))
    assert nodes.kodectl("node", "wait", "--for", "peers=1", *asked).returncode == 0
    assert nodes.kodectl(
        "node", "broadcast", "--type", "transaction", "--file", "-", *asked, input=b"x" * 99
    ).returncode in (0, 2)
    with socket.create_connection(tuple(first.api.rsplit(":", 1))) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nbroken\r\n\r\n".encode())
        connection.recv(4096)
    for node in (second, first):
        node.leave()
    said = "".join(path.read_text() for node in (first, second) for path in (node.log, node.output))
    assert "DEBUG" in said
    assert TURN_PASSWORD not in said
    assert TOKEN not in said
    for node in (first, second):
        assert load_key(node.datadir / "node.key", None).seed.hex() not in said.lower()


def test_a_flood_of_strangers_fills_no_log(nodes) -> None:
    """Each has an identity of its own, is let in or refused, and goes at once: lines that are worth a place, of some."""
    node = nodes.start("a", "--max-peers", "20", "--log-format", "json")
    place = parse_enode(node.enode)
    runtime = GreenRuntime()
    for _ in range(FLOOD):
        local = LocalEnd(Identity(RealSuite(), os.urandom(32)), os.urandom(32))
        stream = runtime.connect(("127.0.0.1", place.tcp), 5.0)
        with suppress(KodectlError, StreamClosed):
            dial(runtime, local, stream, place.node_id, HELLO)
        stream.close()
    runtime.close()
    node.leave()
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    about_peers = [line for line in lines if "peer " in line["message"]]
    kinds = {kind: [line for line in about_peers if kind in line["message"]] for kind in (" connected", "disconnected")}
    for told in kinds.values():
        held = [line for line in told if "repeats" in line]
        assert len(told) - len(held) == MOST
        assert sum(line["repeats"] for line in held) >= FLOOD - BURST_LOST - MOST
        assert all(line["message"].startswith("… ") for line in held)
