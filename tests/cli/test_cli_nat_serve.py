"""`kodectl nat serve`: what it prints, how it ends, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kodectl.errors import ExitCode

REPOSITORY = Path(__file__).parents[2]
LIMIT_S = 20.0
REQUEST = bytes.fromhex("000100002112a442") + b"x" * 12


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "kodectl", "nat", "serve", *options]


def refused(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), capture_output=True, text=True, timeout=LIMIT_S, cwd=REPOSITORY)


class Server:
    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def leave(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(*request.param)
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def ask(port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(LIMIT_S)
        asking.sendto(REQUEST, ("127.0.0.1", port))
        return asking.recv(2048)


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("server", [("--listen", "127.0.0.1:0", "--json")], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_line_when_it_serves_and_one_when_it_has_served(server: Server, number: int) -> None:
    first = json.loads(server.line())
    ready = first["data"]
    assert (first["schema"], first["ok"], ready["type"]) == ("kodectl.nat.serve/1", True, "ready")
    assert ready["udp"] == ready["tcp"]
    assert ready["other_address"] is None
    assert len(ask(port_of(ready["udp"][0]))) == 32
    exit_code, out, _ = server.leave(number)
    assert exit_code == ExitCode.OK
    assert [document["data"] for document in documents(out)] == [
        {
            "type": "summary",
            "answered": 1,
            "refused": 0,
            "over_rate": 0,
            "malformed": 0,
            "connections": 0,
            "connections_refused": 0,
            "turn": None,
        }
    ]


@pytest.mark.parametrize("server", [("--listen", "127.0.0.1:0", "--alt-ip", "127.0.0.2")], indirect=True)
def test_people_read_the_same(server: Server) -> None:
    lines = [server.line() for _ in range(3)]
    addresses = lines[0].removeprefix("udp").strip().split(", ")
    port = port_of(addresses[0])
    assert addresses == [f"{ip}:{port + step}" for ip in ("127.0.0.1", "127.0.0.2") for step in (0, 1)]
    assert lines[1].split() == ["tcp", f"127.0.0.1:{port}"]
    assert lines[2].split() == ["other", "address", f"127.0.0.2:{port + 1}"]
    exit_code, out, _ = server.leave(signal.SIGTERM)
    assert exit_code == ExitCode.OK
    assert out.splitlines()[0].split() == ["answered", "0"]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_port_in_use_is_named_with_its_holder(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        done = refused("--listen", f"127.0.0.1:{holder.getsockname()[1]}", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (ExitCode.ENVIRONMENT, "port_in_use")
    assert "in use by process" in error["message"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--alt-ip 127.0.0.2", "with --alt-ip both addresses must be named, not 0.0.0.0"),
        ("--listen 127.0.0.1:0 --alt-ip 0.0.0.0", "with --alt-ip both addresses must be named, not 0.0.0.0"),
        ("--listen 127.0.0.1:0 --alt-ip 127.0.0.1", "--alt-ip 127.0.0.1 is the address of --listen"),
        ("--listen 127.0.0.1:0 --alt-ip ::1", "must be of one family"),
        ("--listen 127.0.0.1:65535 --alt-ip 127.0.0.2", "there is none after 65535"),
        ("--listen 127.0.0.1:0 --external 20.0.0.1", "--external is for --alt-ip, or for users"),
        ("--listen 127.0.0.1:0 --user a:b --external 20.0.0.1 --external 20.0.0.2", "--external is given once"),
        ("--listen 127.0.0.1:0 --user a:b --external ::1", "must be of one family"),
        ("--listen 127.0.0.1:0 --allow-peer private", "which is for users"),
        ("--user a:b --allow-peer neighbours", "is not a network"),
        ("--user a:b --quota size=1", "NAME=NUMBER, with one of allocations, user, network"),
        ("--user a:b --quota user=0", "NAME=NUMBER"),
        ("--user nobody", "NAME:PASS"),
        ("--listen 127.0.0.1:0 --alt-ip 127.0.0.2 --external 20.0.0.1", "--external is given twice"),
        ("--listen 127.0.0.1:0 --alt-ip 127.0.0.2 --external ::1 --external ::1", "addresses are the same"),
        ("--listen 127.0.0.1:0 --alt-ip 127.0.0.2 --external ::1 --external ::2", "must be of one family"),
        ("--listen 127.0.0.1", "is not HOST:PORT"),
        ("--alt-ip router", "is not an IP address"),
    ],
)
def test_what_cannot_serve_is_refused(options: str, complaint: str) -> None:
    done = refused(*options.split())
    assert done.returncode == ExitCode.USAGE
    assert complaint in done.stderr
    assert done.stdout == ""


def test_an_address_of_another_machine_is_refused() -> None:
    done = refused("--listen", "192.0.2.1:0", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (7, "address_not_available")


@pytest.mark.parametrize("server", [("--listen", "127.0.0.1:0", "--user", "ann:secret", "--json")], indirect=True)
def test_with_users_it_says_where_it_relays_and_how_much_it_did(server: Server) -> None:
    ready = json.loads(server.line())["data"]
    assert ready["relay_ips"] == ["127.0.0.1"]
    assert len(ask(port_of(ready["udp"][0]))) == 32
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(LIMIT_S)
        asking.sendto(bytes.fromhex("000300002112a442") + b"x" * 12, ("127.0.0.1", port_of(ready["udp"][0])))
        assert b"kodectl" in asking.recv(2048)
    exit_code, out, err = server.leave(signal.SIGTERM)
    assert exit_code == ExitCode.OK
    summary = json.loads(out)["data"]
    assert (summary["answered"], summary["turn"]["challenged"], summary["turn"]["allocations"]) == (1, 1, 0)
    assert "secret" not in out + err


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_users_are_read_from_a_file_that_should_be_the_owners(tmp_path: Path, mode: int) -> None:
    users = tmp_path / "users"
    users.write_text("# who may relay\n\nann:se:cret\nbob:other\n")
    users.chmod(mode)
    server = Server("--listen", "127.0.0.1:0", "--user-file", str(users), "--realm", "example.org")
    assert server.line().split()[0] == "udp"
    exit_code, out, err = server.leave(signal.SIGTERM)
    assert exit_code == ExitCode.OK
    assert "bytes relayed" in out
    assert ("is open to others (mode 640)" in err) == (mode == 0o640)


@pytest.mark.parametrize(
    ("content", "exit_code", "complaint"),
    [
        (b"ann:secret\nsecret\n", ExitCode.USAGE, "line 2: not NAME:PASS"),
        (b"# nobody\n", ExitCode.USAGE, "names no user"),
        (b"\xff\xfe:secret", ExitCode.USAGE, "is not a text file"),
        (b"x" * (1024 * 1024 + 1), ExitCode.USAGE, "more than 1048576 bytes"),
        (b"ann:se\x01cret\n", ExitCode.USAGE, "control characters"),
        (None, ExitCode.ENVIRONMENT, "No such file"),
    ],
)
def test_a_file_that_is_none_of_users_is_refused(
    tmp_path: Path, content: bytes | None, exit_code: int, complaint: str
) -> None:
    users = tmp_path / "users"
    if content is not None:
        users.write_bytes(content)
    done = refused("--listen", "127.0.0.1:0", "--user-file", str(users))
    assert done.returncode == exit_code
    assert complaint in done.stderr
    assert "cret" not in done.stdout + done.stderr
