"""TLS, asking side, against the other half of OpenSSL in a thread: large and small, ends, and who is not to be trusted."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import write_certificate

from kodectl.errors import EnvironmentFault
from kodectl.runtime.base import Address, ConnectFailed, Stream, StreamClosed
from kodectl.runtime.green import GreenRuntime

HOST = "127.0.0.1"
LIMIT_S = 10.0
LARGE = 3 * 1024 * 1024

Serve = Callable[[ssl.SSLSocket], None]


def echo(connection: ssl.SSLSocket) -> None:
    while data := connection.recv(100_000):
        connection.sendall(data)


class Server:
    """Takes one connection."""

    def __init__(self, place: Path, serve: Serve, version: ssl.TLSVersion, certificate_ip: str = HOST) -> None:
        certificate, key = write_certificate(place, certificate_ip)
        self.ca_file = str(certificate)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = version
        self._context.load_cert_chain(certificate, key)
        self._serve = serve
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(LIMIT_S)
        self.address: Address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            plain, _ = self._listener.accept()
            plain.settimeout(LIMIT_S)
            with self._context.wrap_socket(plain, server_side=True) as connection:
                self._serve(connection)
        except OSError:  # SSLError is one: the client ends as it likes, and may not like the certificate
            return

    def close(self) -> None:
        self._listener.close()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def runtime() -> Iterator[GreenRuntime]:
    runtime = GreenRuntime()
    yield runtime
    runtime.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(
        serve: Serve = echo, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, certificate_ip: str = HOST
    ) -> Server:
        servers.append(Server(tmp_path, serve, version, certificate_ip))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def dial(runtime: GreenRuntime, server: Server, name: str = HOST, timeout_s: float = LIMIT_S) -> Stream:
    return runtime.connect_tls(server.address, timeout_s, name, server.ca_file)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_is_written_is_read_in_any_pieces(
    runtime: GreenRuntime, serve: Callable[..., Server], version: ssl.TLSVersion
) -> None:
    server = serve(version=version)
    stream = dial(runtime, server)
    assert stream.remote == server.address
    scope = runtime.scope("writer")
    data = bytes(range(256)) * (LARGE // 256)
    scope.spawn("writer", stream.write, data)
    sizes = (1, 7, 16_384, 16_385, 100_000)
    received = b""
    while len(received) < LARGE:
        size = sizes[len(received) % len(sizes)]
        received += stream.read_exactly(min(size, LARGE - len(received)))
    assert received == data
    stream.close()
    stream.close()
    scope.close()
    assert scope.join(LIMIT_S) == []


def test_an_end_is_an_end_and_what_came_before_is_read(runtime: GreenRuntime, serve: Callable[..., Server]) -> None:
    stream = dial(runtime, serve(lambda connection: connection.sendall(b"farewell")))
    assert stream.read_exactly(4) == b"fare"
    with pytest.raises(StreamClosed):
        stream.read_exactly(5)
    stream.close()


def test_who_waits_is_woken_by_close(runtime: GreenRuntime, serve: Callable[..., Server]) -> None:
    stream = dial(runtime, serve())
    runtime.call_later(0.05, stream.close)
    with pytest.raises(StreamClosed):
        stream.read_exactly(1)
    with pytest.raises(StreamClosed):
        stream.write(b"late")


def test_what_is_no_record_ends_the_stream(runtime: GreenRuntime, serve: Callable[..., Server]) -> None:
    def break_off(connection: ssl.SSLSocket) -> None:
        with socket.socket(fileno=connection.detach()) as plain:
            plain.sendall(b"\x17\x03\x03\xff\xff" + bytes(70_000))

    stream = dial(runtime, serve(break_off))
    with pytest.raises(StreamClosed):
        stream.read_exactly(1)
    stream.close()


@pytest.mark.parametrize(
    ("certificate_ip", "name", "detail"),
    [("192.0.2.1", HOST, "IP address mismatch"), (HOST, "localhost", "Hostname mismatch")],
)
def test_another_name_is_not_trusted(
    runtime: GreenRuntime, serve: Callable[..., Server], certificate_ip: str, name: str, detail: str
) -> None:
    with pytest.raises(ConnectFailed, match=detail) as caught:
        dial(runtime, serve(certificate_ip=certificate_ip), name)
    assert caught.value.reason == "untrusted"


def test_an_unknown_authority_is_not_trusted(runtime: GreenRuntime, serve: Callable[..., Server]) -> None:
    server = serve()
    with pytest.raises(ConnectFailed) as caught:
        runtime.connect_tls(server.address, LIMIT_S, HOST)
    assert caught.value.reason == "untrusted"


def test_a_server_that_says_nothing_ends_in_time(runtime: GreenRuntime, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as silent, pytest.raises(ConnectFailed) as caught:
        runtime.connect_tls(silent.getsockname(), 0.2, HOST)
    assert caught.value.reason == "timeout"


def test_nobody_there_is_a_refusal(runtime: GreenRuntime) -> None:
    with socket.socket() as bound:
        bound.bind((HOST, 0))  # and does not listen
        with pytest.raises(ConnectFailed) as caught:
            runtime.connect_tls(bound.getsockname(), LIMIT_S, HOST)
    assert caught.value.reason == "refused"


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_that_has_no_authorities_is_named(runtime: GreenRuntime, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"ca\.pem") as caught:
        runtime.connect_tls((HOST, 9), LIMIT_S, HOST, str(file))
    assert caught.value.code == "ca_unreadable"
