"""TAB on a command line about a running node: ids that the node knows, and silence where there is none."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def pair(shared_nodes):
    first = shared_nodes.start("first")
    second = shared_nodes.start("second", "--bootstrap", first.enode)
    subprocess.run(
        [sys.executable, "-m", "kodectl", "node", "wait", "--for", "peers=1", "--datadir", str(second.datadir)],
        check=True,
        env=shared_nodes.environment,
        stdout=subprocess.DEVNULL,
    )
    return first, second


def complete(environment: dict[str, str], *words: str) -> list[list[str]]:
    command = [sys.executable, "-m", "kodectl", *words]
    done = subprocess.run(
        command, env=environment | {"_KODECTL_COMPLETE": "1"}, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("order", ["disconnect", "ban"])
def test_connected_peers(pair, shared_nodes, order):
    first, second = pair
    words = ["node", order, "--datadir", str(second.datadir)]
    [[kind, value, about]] = complete(shared_nodes.environment, *words, first.id[:3])
    assert (kind, value) == ("plain", first.id)
    assert "outbound direct" in about
    wrong = "0" if first.id[0] != "0" else "1"
    assert complete(shared_nodes.environment, *words, wrong) == []


def test_the_datadir_may_come_from_the_configuration(pair, shared_nodes):
    first, second = pair
    environment = shared_nodes.environment | {"KODECTL_DATADIR": str(second.datadir)}
    assert [value for _, value, _ in complete(environment, "node", "ban", "")] == [first.id]


@pytest.mark.parametrize("words", [["node", "connect"], ["dht", "find-node"]])
def test_nodes_of_the_table(pair, shared_nodes, words):
    first, second = pair
    environment = shared_nodes.environment | {"KODECTL_DATADIR": str(second.datadir)}
    assert [value for _, value, _ in complete(environment, *words, "")] == [first.id]


HOSTILE = [
    b"",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n[1, 2]",
    b'HTTP/1.1 200 OK\r\n\r\n{"peers": [{"id": "$(reboot)", "addr": "x", "direction": "y", "path": "z"}]}',
    b"HTTP/1.1 500 No\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
    b"\xff\xfe",
]


@pytest.mark.parametrize("answer", HOSTILE)
def test_what_is_no_node_offers_nothing(tmp_path: Path, nodes, answer):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "api.sock"))
    listener.listen()
    served = threading.Thread(target=answer_once, args=(listener, answer))
    served.start()
    assert complete(nodes.environment | {"KODECTL_DATADIR": str(tmp_path)}, "node", "ban", "") == []
    served.join()
    listener.close()


def answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        try:
            connection.sendall(answer)
        except OSError:
            pass  # It had heard enough.


def test_without_a_node(tmp_path: Path, nodes):
    assert complete(nodes.environment | {"KODECTL_DATADIR": str(tmp_path)}, "node", "ban", "") == []
    broken = tmp_path / "broken.toml"
    broken.write_text("datadir = ")
    assert complete(nodes.environment, "--config", str(broken), "node", "ban", "") == []


def test_nothing_heavy_is_imported(pair, shared_nodes):
    _, second = pair
    environment = dict(os.environ) | shared_nodes.environment | {"_KODECTL_COMPLETE": "1"}
    command = [sys.executable, "-X", "importtime", "-m", "kodectl", "node", "ban", "--datadir", str(second.datadir), ""]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"gevent", "http.client", "msgspec", "falcon", "rich.console", "ssl", "asyncio"}
