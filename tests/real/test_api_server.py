"""The HTTP server against clients that misbehave, over loopback, with a small application behind it."""

import json
import os
import resource
import stat
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket

from kodectl.api import server as server_module
from kodectl.api.files import socket_address
from kodectl.api.listeners import listen_tcp, listen_unix
from kodectl.api.server import ApiServer
from kodectl.errors import EnvironmentFault
from kodectl.runtime.green import GreenRuntime


def application(environ, start_response):
    """Answers the size of the body, read up to 1,000 bytes; /boom fails, /big is large, /slow waits."""
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise ZeroDivisionError("secret detail")
    if path == "/slow":
        gevent.sleep(0.5)
    body = bytes(50_000_000) if path == "/big" else b"%d" % len(environ["wsgi.input"].read(1000))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def server(monkeypatch):
    for name, seconds in (("IDLE", 1.0), ("HEADER", 0.4), ("BODY", 0.4), ("WRITE", 0.4), ("LINGER", 0.4)):
        monkeypatch.setattr(server_module, f"{name}_LIMIT_S", seconds)
    monkeypatch.setattr(server_module, "SWEEP_S", 0.05)
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 4)
    runtime = GreenRuntime()
    scope = runtime.scope("api")
    running = ApiServer(listen_tcp(("127.0.0.1", 0)), application, unix=False)
    running.start_in(scope)
    yield running
    running.stop(1.0)
    scope.close()
    assert scope.join(2.0) == []
    assert not running.connections
    runtime.close()


def connect(server) -> socket.socket:
    return socket.create_connection(server.address, timeout=5)


def read_all(client) -> bytes:
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


def ask(server, request: bytes) -> bytes:
    with connect(server) as client:
        client.sendall(request)
        return read_all(client)


def problem(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"application/problem+json" in head
    assert b"Connection: close" in head
    assert json.loads(body)["code"] == code


GOOD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_kept_connection_serves_many_requests(server):
    with connect(server) as client:
        for _ in range(3):
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
            assert client.recv(4096).endswith(b"3") or client.recv(4096) == b"3"


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\r\n",
        b"GET / HTTP/1\r\n",
        b"GET / HTTP/9.9\r\n",
        b"GET / HTTP/x.y\r\n",
        b"GET / FTP/1.1\r\n",
        b"\r\n",
        b"GET\r\n",
        b"\xff\xfe\x00\r\n",
        b"GET / HTTP/1.1 extra\r\n",
    ],
)
def test_a_garbage_request_line_is_refused(server, request_line):
    with connect(server) as client:
        client.sendall(request_line + b"Host: localhost\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        problem(read_all(client), 400, "malformed_request")


@pytest.mark.parametrize(
    "headers",
    [
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 99999999999999999999999999999999999999x\r\n",
    ],
)
def test_an_ambiguous_length_is_refused(server, headers):
    problem(ask(server, b"POST / HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n"), 400, "malformed_request")


def test_an_unknown_transfer_coding_is_refused(server):
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    problem(ask(server, request), 501, "transfer_encoding_not_supported")


SMUGGLED = b"0\r\n\r\nGET /boom HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""The end of a chunked body, and what another reading of the request takes for the next one."""

AMBIGUOUS = {
    "chunked, and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "a length, and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "a space before the colon": b"Content-Length : 5\r\n",
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
    "a space before the name": b" Transfer-Encoding: chunked\r\n",
    "a folded line": b"X-First: a\r\n Transfer-Encoding: chunked\r\n",
    "no colon": b"no colon here\r\n",
    "no name": b": empty\r\n",
    "a name that is no token": b"Transfer\x00Encoding: chunked\r\n",
    "a name in brackets": b"X(a): b\r\n",
    "CR inside a line": b"X: a\rTransfer-Encoding: chunked\r\n",
    "NUL in a value": b"X: a\x00b\r\n",
    "a control character in a value": b"X: a\x0bb\r\n",
    "no length": b"Content-Length:\r\n",
    "two lengths in one line": b"Content-Length: 5, 5\r\n",
    "two hosts": b"Host: elsewhere\r\n",
    "a host that is two": b"Host: localhost, elsewhere\r\n",
}


@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_can_be_read_in_two_ways_is_refused(server, headers):
    """RFC 9112, sections 2.2, 3.2, 5.1, 5.2 and 6.3; RFC 9110, section 5.5. One answer, and the rest is no request."""
    answer = ask(server, b"POST / HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n" + SMUGGLED)
    problem(answer, 400, "malformed_request")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("coding", [b"chunked, identity", b"identity", b"xchunked", b"chunked;q=1", b""])
def test_a_coding_that_is_not_just_chunked_is_refused(server, coding):
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: " + coding + b"\r\n\r\n"
    problem(ask(server, request + SMUGGLED), 501, "transfer_encoding_not_supported")


def test_http_1_0_has_no_chunks_and_needs_no_host(server):
    problem(ask(server, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED), 400, "malformed_request")
    assert ask(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_http_1_1_needs_a_host(server):
    problem(ask(server, b"GET / HTTP/1.1\r\n\r\n"), 400, "malformed_request")


@pytest.mark.parametrize(
    "value", [b"a:\xff", b"Content-Length: 0 \t", b"X-Empty:", b"X-Spaced: \t a b \t", b"X-Tab: a\tb"]
)
def test_what_can_be_read_in_one_way_only_is_taken(server, value):
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + value + b"\r\n\r\n"
    assert ask(server, request).startswith(b"HTTP/1.1 200")


def test_too_long_lines_and_headers_are_refused(server):
    problem(ask(server, b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n"), 414, "uri_too_long")
    problem(ask(server, b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"), 431, "headers_too_large")
    many = b"".join(b"X%d: y\r\n" % number for number in range(1800))
    problem(ask(server, b"GET / HTTP/1.1\r\n" + many + b"\r\n"), 431, "headers_too_large")
    few = b"".join(b"X%d: y\r\n" % number for number in range(150))
    problem(ask(server, b"GET / HTTP/1.1\r\n" + few + b"\r\n"), 431, "headers_too_large")
    most = b"".join(b"X%d: y\r\n" % number for number in range(97))
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert ask(server, request + most + b"\r\n").startswith(b"HTTP/1.1 200")
    problem(ask(server, request + most + b"One: more\r\n\r\n"), 431, "headers_too_large")


def test_an_empty_line_before_a_request_is_passed_over(server):
    """RFC 9112, section 2.2. One, and after a body as well."""
    closing = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert ask(server, b"\r\n" + closing).startswith(b"HTTP/1.1 200")
    posting = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    assert ask(server, posting + b"\r\n" + closing).count(b"HTTP/1.1 200") == 2
    problem(ask(server, b"\r\n\r\n" + closing), 400, "malformed_request")


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://localhost/path?a=b", "localhost", "/path?a=b"),
        (b"HTTP://[::1]:8545/path", "[::1]:8545", "/path?"),
        (b"http://127.0.0.1:1", "127.0.0.1:1", "/?"),
        (b"http://127.0.0.1?a", "127.0.0.1", "/?a"),
        (b"http://user@other.example/x", "user@other.example", "/x?"),
        (b"/path", "header.example", "/path?"),
        (b"/http://a/", "header.example", "/http://a/?"),
    ],
)
def test_a_target_in_absolute_form_names_the_host(server, target, host, path):
    """RFC 9112, section 3.2.2: whatever the header says."""

    def tell(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['HTTP_HOST']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}".encode()]

    server.application = tell
    request = b"GET " + target + b" HTTP/1.1\r\nHost: header.example\r\nConnection: close\r\n\r\n"
    assert f"{host} {path}".encode() in ask(server, request)
    # It must name one all the same.
    problem(ask(server, b"GET " + target + b" HTTP/1.1\r\n\r\n"), 400, "malformed_request")


def test_a_header_that_is_cut_off_is_no_request(server):
    with connect(server) as client:
        client.sendall(GOOD[:-2])
        client.shutdown(socket.SHUT_WR)
        problem(read_all(client), 400, "malformed_request")


def test_a_refusal_reaches_a_client_that_is_still_sending(server):
    problem(ask(server, b"garbage\r\n" + bytes(200_000)), 400, "malformed_request")


def test_slow_headers_are_cut_off(server):
    with connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        drip = gevent.spawn(drip_headers, client)
        problem(read_all(client), 408, "request_timeout")
        drip.join()


def drip_headers(client) -> None:
    try:
        for number in range(100):
            client.sendall(b"X%d: y\r\n" % number)
            gevent.sleep(0.03)
    except OSError:
        pass


def test_an_idle_connection_is_closed(server):
    with connect(server) as client:
        assert read_all(client) == b""


def test_a_gigabyte_is_announced_and_left_unread(server):
    with connect(server) as client:
        client.sendall(b"POST /none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + bytes(100_000))
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer


def test_an_endless_chunked_body_is_left_unread(server):
    with connect(server) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nabcde\r\n" * 500
        )
        answer = read_all(client)
    assert answer.endswith(b"1000")
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"5\r\nab",
        b"5;" + b"x" * 9000,
        b"fffffffffffffffff\r\n",
        b"5\r\nabcdeXX",
        b"-5\r\nabcde\r\n0\r\n\r\n",
        b"+5\r\nabcde\r\n0\r\n\r\n",
        b"0x5\r\nabcde\r\n0\r\n\r\n",
        b"5_0\r\nabcde\r\n0\r\n\r\n",
        b" 5\r\nabcde\r\n0\r\n\r\n",
        b"\r\n",
        b"5\nabcde\r\n0\r\n\r\n",
        b"5;a\nabcde\r\n0\r\n\r\n",
        b"5;a\n5\r\nabcde\r\n0\r\n\r\n",
        b"5;a=\rb\r\nabcde\r\n0\r\n\r\n",
        b"5;a=\x00\r\nabcde\r\n0\r\n\r\n",
        b"5\r\nabcde\n0\r\n\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n folded: a\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"0\r\nA: b",
    ],
)
def test_broken_chunks_end_the_connection(server, body):
    answer = ask(server, b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 500")) or answer == b""


def test_chunks_are_joined_and_leave_the_next_request_alone(server):
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    body = b"5;ext=1\r\nabcde\r\n00A;x\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    last = b"Connection: close\r\n\r\n0\r\n\r\n"
    answer = ask(server, request + b"\r\n" + body + request + last)
    assert [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200")[1:]] == [b"15", b"0"]


def test_a_client_is_told_to_go_on_with_its_chunks(server):
    with connect(server) as client:
        expecting = b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + expecting)
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        assert read_all(client).endswith(b"3")


def test_a_slow_body_is_cut_off(server):
    with connect(server) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\nabc")
        assert b"200" not in read_all(client)


def test_a_client_that_does_not_read_is_cut_off(server):
    with connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with gevent.Timeout(5):
            while not server.connections:
                gevent.sleep(0.01)
            while server.connections:
                gevent.sleep(0.05)


def test_a_bug_in_the_application_shows_no_traceback(server, caplog):
    answer = ask(server, b"GET /boom HTTP/1.1\r\nHost: localhost\r\n\r\n")
    problem(answer, 500, "internal_error")
    assert b"secret" not in answer
    assert "secret detail" in caplog.text


def test_idle_connections_give_way_to_new_ones(server):
    idle = [connect(server) for _ in range(6)]
    assert b" 200 " in ask(server, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert len(server.connections) <= 4
    for client in idle:
        client.close()


def test_over_the_limit_of_busy_connections_one_is_told_so(server):
    busy = [connect(server) for _ in range(4)]
    for client in busy:
        client.sendall(b"GET /slow HTTP/1.0\r\nHost: localhost\r\n\r\n")
    with gevent.Timeout(5):
        while sum(not one.waiting for one in server.connections) < 4:
            gevent.sleep(0.01)
    problem(ask(server, GOOD), 503, "busy")
    assert all(b" 200 " in read_all(client) for client in busy)


@contextmanager
def descriptors_left(count):
    """Whatever this process opens inside, it is no more than so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    holes = [os.open("/dev/null", os.O_RDONLY)]
    while holes[-1] <= highest:
        holes.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (holes[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in holes:
            os.close(descriptor)


def test_without_descriptors_an_idle_connection_gives_way(server, monkeypatch, capfd):
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 100)
    clients = [socket.socket() for _ in range(5)]
    with descriptors_left(3):
        for client in clients:
            client.settimeout(5)
            client.connect(server.address)
        clients[-1].sendall(GOOD)
        assert clients[-1].recv(100).startswith(b"HTTP/1.1 200")
        assert clients[0].recv(100) == b"", "the one that has waited longest is closed"
    for client in clients:
        client.close()
    assert "Traceback" not in capfd.readouterr().err


def test_nodelay_is_inherited(server):
    with connect(server) as client:
        client.sendall(GOOD)
        client.recv(10)
        (connection,) = server.connections
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_named_with_its_holder(server):
    with pytest.raises(EnvironmentFault) as caught:
        listen_tcp(server.address)
    assert caught.value.code == "port_in_use"
    assert str(os.getpid()) in caught.value.message
    assert "--api" in (caught.value.hint or "")


def test_the_unix_socket_is_for_its_owner_only(tmp_path):
    before = os.umask(0)
    try:
        listener = listen_unix(tmp_path / "api.sock")
    finally:
        os.umask(before)
    with listener:
        assert stat.S_IMODE((tmp_path / "api.sock").stat().st_mode) == 0o600


def test_a_living_socket_is_refused_and_a_dead_one_replaced(tmp_path):
    path = tmp_path / "api.sock"
    with listen_unix(path):
        with pytest.raises(EnvironmentFault) as caught:
            listen_unix(path)
        assert caught.value.code == "datadir_in_use"
    listen_unix(path).close()


def test_a_file_in_the_way_is_kept(tmp_path):
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(EnvironmentFault):
        listen_unix(path)
    assert path.read_text() == "precious"


def test_a_deep_data_directory_still_has_its_socket(tmp_path):
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    path = folder / "api.sock"
    with listen_unix(path), socket.socket(socket.AF_UNIX) as client, socket_address(path) as address:
        client.connect(address)
