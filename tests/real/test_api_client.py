"""The client of the API over connections that the node ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kodectl.cli import client
from kodectl.cli.client import Endpoint, NodeClient

HOST = "127.0.0.1"


class Node(ThreadingHTTPServer):
    connections = 0

    def get_request(self):  # type: ignore[no-untyped-def]
        self.connections += 1
        return super().get_request()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b'{"a": 1}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[Node]:
    with Node((HOST, 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("reused_for_s", "connections"), [(60.0, 1), (-1.0, 3)])
def test_a_connection_that_has_rested_is_not_used_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, reused_for_s: float, connections: int
) -> None:
    monkeypatch.setattr(client, "REUSED_FOR_S", reused_for_s)
    one = NodeClient(Endpoint(host=HOST, port=node.server_port), 5.0)
    assert [one.get("/", dict[str, int]) for _ in range(3)] == [{"a": 1}] * 3
    one.close()
    assert node.connections == connections
