"""What comes from this machine and its users: configuration, key files, stored values, and the API's HTTP."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import falcon.testing
import msgspec
from fuzz.target import Target, same, tried
from gevent import socket

from kodectl.api.dht import PutBody
from kodectl.api.requests import read_json, read_query
from kodectl.api.routes import ROUTES
from kodectl.api.server import ApiHandler, ApiServer
from kodectl.api.subscriber import decode as decode_operation
from kodectl.cli.configuration import load_configuration
from kodectl.errors import EnvironmentFault, LocalMisuse
from kodectl.node.persistence import StoredBan, StoredPeer, StoredSeed, record_owner
from kodectl.store.crawl_file import open_crawl
from kodectl.store.keyfile import load_key, read_passphrase, save_seed
from kodectl.store.sqlite import _StoredRecord, _value_of

REFUSALS = (LocalMisuse, EnvironmentFault)
PLACE = Path(tempfile.mkdtemp(prefix="kodectl-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def _file(data: bytes) -> Path:
    path = PLACE / "input"
    path.write_bytes(data)
    return path


# -- files ---------------------------------------------------------------------------------------------------------------


def configuration(data: bytes) -> None:
    def check() -> dict[str, Any]:
        return load_configuration(str(path), {}).check()

    path = _file(data)
    values = tried(check, errors=REFUSALS)
    if values is not None:
        ports = [values["listen"].value[1], values["api"].value[1], values["discovery_port"].value]
        same("\0" in str(values["datadir"].value), False)
        same(all(0 <= port <= 65_535 for port in ports) and 1 <= values["max_peers"].value <= 10_000, True)


def key_files(data: bytes) -> None:
    """The first byte: a file as it is, or the DER (plain or encrypted) that is put into one."""
    if not data:
        return
    content = data[1:]
    label = (b"", b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY")[data[0] % 3]
    if label:
        content = b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, base64.b64encode(content), label)
    key = tried(load_key, _file(content), b"pw", errors=(EnvironmentFault,))
    if key is not None:
        same((len(key.seed), len(key.public_key)), (32, 32))
    tried(read_passphrase, _file(content), errors=REFUSALS)


SHAPES = (StoredPeer, StoredBan, StoredSeed, _StoredRecord)


def stored_values(data: bytes) -> None:
    """Rows as SQLite may hand them out: the first byte is the table, the rest the columns, in MessagePack."""
    shape = SHAPES[data[0] % len(SHAPES)] if data else StoredPeer
    row = tried(msgspec.msgpack.decode, data[1:], errors=(msgspec.MsgspecError, ValueError, RecursionError))
    width = len(shape.__struct_fields__)
    cells = row if isinstance(row, list) else []
    known = [cell if isinstance(cell, int | float | str | bytes | None) else None for cell in cells]
    value: Any = _value_of(shape, tuple((known + [None] * width)[:width]))
    if isinstance(value, _StoredRecord):
        tried(record_owner, value.record)
    tried(record_owner, data)


def crawl_files(data: bytes) -> None:
    def read() -> None:
        with open_crawl(path, resume=True) as crawl:
            for _ in crawl.lines():
                pass

    path = _file(data)
    tried(read, errors=REFUSALS)
    same(data.startswith(path.read_bytes()), True)


# -- the API -------------------------------------------------------------------------------------------------------------

QUERIES = tuple(route.query for route in ROUTES if route.query)
SHAPES_OF_BODIES = tuple(dict.fromkeys(route.body for route in ROUTES if route.body)) or (PutBody,)


def rest_queries(data: bytes) -> None:
    """The first byte: whose query the rest is."""
    query = data[1:].decode("latin-1")
    if data:
        tried(read_query, query, QUERIES[data[0] % len(QUERIES)], errors=(LocalMisuse,))


def rest_bodies(data: bytes) -> None:
    """The first byte: of which route. The same text, as an operation on a WebSocket."""
    if not data:
        return
    request = falcon.Request(falcon.testing.create_environ(body=data[1:], method="POST"))
    shape: Any = SHAPES_OF_BODIES[data[0] % len(SHAPES_OF_BODIES)]
    body: Any = tried(read_json, request, shape, errors=(LocalMisuse,))
    if body is not None:
        same(msgspec.json.decode(msgspec.json.encode(body), type=shape), body)
    tried(decode_operation, data[1:].decode(errors="replace"), errors=(LocalMisuse,))


MOST_ANSWERS = 64
STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ")


def _application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    body = tried(environ["wsgi.input"].read, 65_536, errors=(OSError,))
    start(
        "200 OK" if body is not None else "400 Bad Request", [("Content-Length", "2"), ("Content-Type", "text/plain")]
    )
    return [b"ok"]


_listener = socket.socket(socket.AF_UNIX)
SERVER = ApiServer(_listener, _application, unix=True)


class _Handler(ApiHandler):
    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        raise AssertionError("a request failed") from v


def http_framing(data: bytes) -> None:
    """Requests, as many as the bytes are, on one connection: none fails, and each answer has a status that is not 500."""
    ours, theirs = socket.socketpair()
    try:
        ours.sendall(data[:65_536])
        ours.shutdown(socket.SHUT_WR)
        tried(_Handler(theirs, "unix", SERVER).handle, errors=(OSError,))
        theirs.close()
        answers = b""
        while part := ours.recv(65_536):
            answers += part
    finally:
        ours.close()
        theirs.close()
    found = STATUS.findall(answers)
    same(answers == b"" or STATUS.match(answers) is not None, True)
    same([status for status in found if status == b"500"], [])


# -- seeds ---------------------------------------------------------------------------------------------------------------


def _key_seeds() -> list[bytes]:
    path = PLACE / "seed.pem"
    save_seed(path, bytes(32))
    pem = path.read_bytes()
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    # PBES2 with scrypt of the least cost: what is behind the passphrase is reached in a moment.
    light = bytes.fromhex(
        "308194305006092a864886f70d01050d3043302206092b06010401da47040b301504081343ff9db28ed46c0203000002020108020101301d"
        "060960864801650304012a04102e47c6719acff4abe436193e57bc46d70440962bc3ab8fa1565a1bba834b40d52bd0f859b19ab28a6a0c33"
        "a4b9e997471452a6b20631ed7e416e31f6a1a48a099f4b0fc1776e62c77cca373229878d313499"
    )
    return [b"\0" + pem, b"\x01" + der, b"\x02" + light]


CONFIGURATION = b"""listen = "0.0.0.0:30303"
discovery_port = 30301
max_peers = 50
nat = "extip:192.0.2.1"
stun = ["stun.example.org:3478"]
relay = "allocations=5"
lan = true
"""
CRAWL = b'{"event":"crawl","version":1,"crawl_id":"00","network":"kodechain","started":"2026-01-01T00:00:00.000Z"}\n'
REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
)
ROWS = (
    [bytes(32), "192.0.2.1", 1, 2, 0, 1, 1, 1.0, 2.0, 3.0, None, 4.0, 5.0, 6.0, 7, 8.0],
    [bytes(32), None],
    ["enode://x", 1.0],
    [bytes(200)],
)

TARGETS = (
    Target("configuration", configuration, [CONFIGURATION]),
    Target("key_files", key_files, _key_seeds()),
    Target("stored_values", stored_values, [bytes((n,)) + msgspec.msgpack.encode(row) for n, row in enumerate(ROWS)]),
    Target("crawl_files", crawl_files, [CRAWL, CRAWL + CRAWL[:20]]),
    Target("rest_queries", rest_queries, [bytes((n,)) + b"since=1.5&limit=3&sort=id" for n in range(len(QUERIES))]),
    Target(
        "rest_bodies",
        rest_bodies,
        [
            bytes((n,)) + body
            for n in range(len(SHAPES_OF_BODIES))
            for body in (
                b'{"value":"YQ==","ttl_s":5}',
                b'{"target":"a","timeout_s":1}',
                b'{"type":"block","payload":"YQ=="}',
            )
        ]
        + [b'\x00{"op":"subscribe","topics":["peers"],"since":1}'],
    ),
    Target("http_framing", http_framing, REQUESTS),
)
