"""Command x situation x {text, --json}: the exit code, the error's code, and who gets which stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner
from published import check_documents

from kodectl.cli import interrupts
from kodectl.cli.explanations import EXPLANATIONS
from kodectl.cli.main import cli
from kodectl.store import keyfile

ENODE = f"enode://{'ab' * 32}@127.0.0.1:{{closed}}?discport={{silent}}"
OTHER_ID = "cd" * 32
OPTIONS: dict[str, list[str]] = {"text": [], "json": ["--json"]}
FORMS = list(OPTIONS)


class Case(NamedTuple):
    """`{name}` in the arguments is filled in from the fixture `places`."""

    situation: str
    command: str
    exit: int
    code: str | None = None
    """Of the error; None: no error."""
    stdin: str = ""
    variables: dict[str, str] = {}  # noqa: RUF012  # a NamedTuple's default, never changed


OFFLINE = [
    Case("ok", "key gen {new}", 0),
    Case("ok, default place", "key gen", 0),
    Case("ok, encrypted", "key gen {new} --passphrase-file {passphrase}", 0),
    Case("exists", "key gen {plain}", 7, "key_exists"),
    Case("no directory", "key gen {home}/absent/node.key", 7, "path_unwritable"),
    Case("ok, forced", "key gen {plain} --force", 0),
    Case("no passphrase in the file", "key gen {new} --passphrase-file {empty}", 2, "passphrase_invalid"),
    Case("no passphrase file", "key gen {new} --passphrase-file {absent}", 7, "passphrase_unreadable"),
    Case("ok", "key show {plain}", 0),
    Case("ok, encrypted", "key show {sealed} --passphrase-file {passphrase}", 0),
    Case("ok, revealed", "key show {plain} --reveal", 0),
    Case("absent", "key show {absent}", 7, "key_missing"),
    Case("absent, default place", "key show", 7, "key_missing"),
    Case("encrypted", "key show {sealed}", 7, "key_encrypted"),
    Case("wrong passphrase", "key show {sealed} --passphrase-file {wrong}", 7, "key_wrong_passphrase"),
    Case("malformed", "key show {empty}", 7, "key_malformed"),
    Case("a directory", "key show {home}", 7, "key_unreadable"),
    Case("two files", "key show {plain} {sealed}", 2, "usage"),
    Case("ok", "key id {plain}", 0),
    Case("absent", "key id {absent}", 7, "key_missing"),
    Case("ok", "key passwd {plain} --new-passphrase-file {passphrase}", 0),
    Case("ok, decrypted", "key passwd {sealed} --passphrase-file {passphrase} --decrypt", 0),
    Case("nothing to do", "key passwd {plain}", 2, "usage"),
    Case("both", "key passwd {plain} --decrypt --new-passphrase-file {passphrase}", 2, "usage"),
    Case("wrong passphrase", "key passwd {sealed} --passphrase-file {wrong} --decrypt", 7, "key_wrong_passphrase"),
    Case("ok", "enode gen --key {plain} --ip 192.0.2.7", 0),
    Case("ok, made", "enode gen --key {new} --ip ::1 --tcp 1 --udp 2", 0),
    Case("no address", "enode gen --key {plain} --ip 192.0.2.256", 2, "usage"),
    Case("no port", "enode gen --key {plain} --ip ::1 --tcp 65536", 2, "usage"),
    Case("no ports", "enode gen --key {plain} --ip ::1 --tcp 0 --udp 0", 2, "usage"),
    Case("bad key", "enode gen --key {empty} --ip ::1", 7, "key_malformed"),
    Case("ok", f"enode parse {ENODE}", 0),
    Case("malformed", "enode parse enode://x@127.0.0.1:1", 2, "malformed"),
    Case("ok, several", f"enode parse {ENODE} {ENODE}", 0),
    Case("some malformed", f"enode parse {ENODE} x", 4, "malformed"),
    Case("all malformed", "enode parse x y", 2, "malformed"),
    Case("ok, stdin", "enode parse -", 0, stdin=f"{ENODE}\n"),
    Case("malformed, stdin", "enode parse -", 2, "malformed", stdin="x\n"),
    Case("bad JSON, stdin", "enode parse -", 2, "input_malformed", stdin="{{\n"),
    Case("none", "enode parse", 2, "usage"),
    Case("malformed", "enode verify x", 2, "bad_target"),
    Case("no id", f"enode verify enode://{'0' * 64}@127.0.0.1:1", 2, "bad_target"),
    Case("no TCP port", f"enode verify enode://{'ab' * 32}@127.0.0.1:0?discport=1", 2, "bad_target"),
    Case("negative", f"enode verify {ENODE}", 3, "unreachable"),
    Case("silent", f"enode verify enode://{'ab' * 32}@127.0.0.1:{{mute}} --timeout 0.2", 3, "unreachable"),
    Case("bad limit", f"enode verify {ENODE} --timeout 0", 2, "usage"),
    Case("another machine's address", "nat serve --listen 192.0.2.1:0", 7, "address_not_available"),
    Case("one address twice", "nat serve --listen 127.0.0.1:0 --alt-ip 127.0.0.1", 2, "usage"),
    Case("bad port", "nat serve --listen 127.0.0.1:65536", 2, "usage"),
    Case("no relay", "nat punch --relay-only", 2, "usage"),
    Case("no TURN server", "nat punch --turn x", 2, "usage"),
    Case("no ticket", "nat punch --count 0", 2, "ticket_missing"),
    Case("bad ticket", "nat punch --family 4", 9, "ticket_malformed", stdin="x\n"),
    Case("bad count", "nat punch --count -1", 2, "usage"),
    Case("negative", "nat punch --relay-only --turn u:p@127.0.0.1:{silent} --timeout 1", 3, "ice_failed"),
    Case("negative", "peer ping 127.0.0.1:{silent} -c 1 --timeout 0.2", 3, "unreachable"),
    Case("negative", "peer ping 127.0.0.1:{closed} -c 2 -i 0.01 --mode tcp", 3, "unreachable"),
    Case("negative", "peer ping 127.0.0.1:{closed} -c 1 --mode handshake", 3, "unreachable"),
    Case("malformed", "peer ping nobody", 2, "bad_target"),
    Case("bad count", "peer ping 127.0.0.1:1 -c 0", 2, "usage"),
    Case("no bootstrap", f"peer ping {OTHER_ID}", 5, "no_bootstrap_answered"),
    Case("none", "peer ping", 2, "usage"),
    Case("no bootstrap", f"dht find-node {OTHER_ID}", 5, "no_bootstrap_answered"),
    Case("silent bootstrap", f"dht find-node {OTHER_ID} --bootstrap {ENODE} --timeout 0.2", 5, "no_bootstrap_answered"),
    Case("malformed", "dht find-node nobody", 2, "bad_target"),
    Case("no server", "nat probe", 2, "usage"),
    Case("no such server", "nat probe --server nowhere", 2, "usage"),
    Case("port 0", "nat probe --server 127.0.0.1:0", 2, "usage"),
    Case("bad enode", "nat probe --via-node x", 2, "usage"),
    Case("bad variable", "nat probe", 2, "config_invalid_value", variables={"KODECTL_STUN": "x"}),
    Case("too many", f"nat probe {' '.join(f'--server 127.0.0.1:{n}' for n in range(1, 10))} --no-gateway", 2, "usage"),
    Case("negative", "nat probe --server 127.0.0.1:{silent} --no-gateway", 3, "no_server_answered"),
    Case(
        "negative, required",
        "nat probe --server 127.0.0.1:{closed} --no-gateway --require udp",
        3,
        "no_server_answered",
    ),
    Case("deadline", "nat probe --server 127.0.0.1:{silent} --no-gateway --deadline 0.4", 8, "deadline"),
    Case("no server", "nat watch", 2, "usage"),
    Case("bad count", "nat watch --server 127.0.0.1:9 --count 0", 2, "usage"),
    Case("negative", "nat watch --server 127.0.0.1:{silent} --count 1", 3, "no_server_answered"),
    Case("no id", "dht find-node 127.0.0.1:1", 2, "bad_target"),
    Case("bad bootstrap", f"dht find-node {OTHER_ID} --bootstrap x", 2, "usage"),
    Case("bad variable", f"dht find-node {OTHER_ID}", 2, "config_invalid_value", variables={"KODECTL_BOOTSTRAP": "x"}),
    Case("no bootstrap", "dht put motd hello", 5, "no_bootstrap_answered"),
    Case("no value", "dht put motd", 2, "usage"),
    Case("two values", "dht put motd hello --file {plain}", 2, "usage"),
    Case("too large", "dht put motd -", 2, "value_too_large", stdin="x" * 1001),
    Case("too long", "dht put motd hello --ttl 172801", 2, "ttl_too_long"),
    Case("no file", "dht put motd --file {absent}", 7, "file_unreadable"),
    Case("bad key", "dht put motd hello --key {empty}", 7, "key_malformed"),
    Case("no bootstrap", "dht get motd", 5, "no_bootstrap_answered"),
    Case("no key", "dht get", 2, "usage"),
    Case("bad publisher", "dht get motd --publisher 1f2e", 2, "usage"),
    Case("no bootstrap", "dht crawl", 5, "no_bootstrap_answered"),
    Case("negative", f"dht crawl --bootstrap {ENODE} --timeout 0.2", 3, "nothing_found"),
    Case("no file", "dht crawl --resume", 2, "usage"),
    Case("bad rate", "dht crawl --rate 0", 2, "usage"),
    Case("bad number", "dht crawl --max-nodes many", 2, "usage"),
    Case("somebody's file", f"dht crawl --bootstrap {ENODE} --state {{plain}}", 7, "crawl_exists"),
    Case("no crawl's file", f"dht crawl --bootstrap {ENODE} --state {{plain}} --resume", 7, "crawl_file_unreadable"),
    Case("no node", "node top --datadir {absent}", 5, "node_not_running"),
    Case("bad interval", "node top --interval 0", 2, "usage"),
    Case("ok", "config show", 0),
    Case("ok", "config show --origin", 0),
    Case("bad variable", "config show", 2, "config_invalid_value", variables={"KODECTL_MAX_PEERS": "many"}),
    Case("unknown variable", "config check", 2, "config_unknown_key", variables={"KODECTL_MAXPEERS": "5"}),
    Case("ok", "config check", 0),
    Case("ok, file", "config check --config {configuration}", 0),
    Case("unknown key", "config check --config {misspelt}", 2, "config_unknown_key"),
    Case("not TOML", "config check --config {passphrase}", 2, "config_invalid"),
    Case("no file", "config check --config {absent}", 7, "config_unreadable"),
    Case("ok", "config init {new}", 0),
    Case("ok, default place", "config init", 0),
    Case("ok, printed", "config init --stdout", 0),
    Case("exists", "config init {configuration}", 7, "file_exists"),
    Case("ok", "explain exit-codes", 0),
    Case("ok", "explain", 0),
    Case("ok", "explain key_exists", 0),
    Case("negative", "explain nonsense", 3, "not_found"),
    Case("ok", "sim --nodes 4 --duration 1", 0),
    Case("degraded", "sim --nodes 4 --duration 60 --loss 0.9", 4, "simulation_troubled"),
    Case("usage", "sim --nodes 1", 2, "bad_scenario"),
    Case("deadline", "sim --nodes 30 --deadline 0.2", 8, "deadline"),
    Case("ok", "completion bash", 0),
    Case("unknown shell", "completion tcsh", 2, "usage"),
    Case("ok", "man", 0),
    Case("ok", "man key gen", 0),
    Case("no such page", "man key sing", 2, "usage"),
    Case("ok", "--version", 0),
    Case("ok", "--help", 0),
    Case("none", "", 2, "usage"),
    Case("unknown", "nod run", 2, "usage"),
]

ONLINE = [
    Case("ok", "enode verify {node}", 0),
    Case("another identity", "enode verify {impostor}", 9, "identity_mismatch"),
    Case("ok", "peer ping {node} -c 2 -i 0.01", 0),
    Case("ok", "peer ping {node} -c 1 --mode tcp", 0),
    Case("ok", "peer ping {node} -c 1 --mode handshake", 0),
    Case("ok, id", "peer ping {id} -c 1 --bootstrap {node}", 0),
    Case("another identity", "peer ping {impostor} -c 1 --mode handshake", 9, "identity_mismatch"),
    Case("not found", f"peer ping {OTHER_ID} --bootstrap {{node}}", 3, "not_found"),
    Case("ok, ended by its deadline", "peer ping {node} -c 1000 -i 10 --deadline 4", 0),
    Case("ok", "dht find-node {id} --trace --bootstrap {node}", 0),
    Case("negative", f"dht find-node {OTHER_ID} --bootstrap {{node}}", 3, "not_found"),
    Case("ok", "dht put motd hello --key {plain} --bootstrap {node}", 0),
    Case("negative", "dht get nothing-there --bootstrap {node}", 3, "value_not_found"),
    Case("ok", "nat probe --via-node {node} --no-gateway", 0),
    Case("unmet", "nat probe --via-node {node} --no-gateway --require open", 4, "nat_requirement_unmet"),
    Case("ok", "nat watch --via-node {node} --count 2 --interval 0.1", 0),
    Case("ok, ended by its deadline", "nat watch --via-node {node} --deadline 1", 8, "deadline"),
    Case("deadline", "node wait --for peers=9 --datadir {datadir} --deadline 0.4", 8, "deadline"),
    Case("ok", "node top --once --datadir {datadir}", 0),
    Case("bad auth", "node top --api {guarded} --datadir {absent}", 6, "not_authorised"),
    Case("ok", "dht crawl --bootstrap {node} --rate 1000", 0),
    Case("a part", "dht crawl --bootstrap {node} --max-nodes 1", 4, "crawl_partial"),
    Case("bad auth", "node status --api {guarded} --datadir {absent}", 6, "not_authorised"),
    Case("ok, without a token", "node health --api {guarded} --datadir {absent}", 0),
    Case("bad auth", "node health --api {guarded} --token-file {wrong_token}", 6, "not_authorised"),
]


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 1 << 4)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    files = {
        "passphrase": "correct horse\n",
        "wrong": "battery staple\n",
        "empty": "",
        "configuration": "max_peers = 7\nlan = false\n",
        "misspelt": "max_peer = 7\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    found = {name: str(tmp_path / name) for name in (*files, "new", "absent", "plain", "sealed")}
    found["home"] = str(tmp_path)
    for name, passphrase in (("plain", None), ("sealed", found["passphrase"])):
        made = ["key", "gen", found[name], *(["--passphrase-file", passphrase] if passphrase else [])]
        assert CliRunner().invoke(cli, made).exit_code == 0
    with socket.socket() as mute, socket.socket(type=socket.SOCK_DGRAM) as silent, socket.socket() as closed:
        for bound in (mute, silent, closed):
            bound.bind(("127.0.0.1", 0))
        mute.listen()
        yield found | {
            "mute": str(mute.getsockname()[1]),
            "silent": str(silent.getsockname()[1]),
            "closed": str(closed.getsockname()[1]),  # bound, so that nobody else listens there; not listening
        }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in [name for name in os.environ if name.startswith("KODECTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def invoke(case: Case, places: dict[str, str], *more: str) -> Any:
        words = [word.format_map(places) for word in case.command.split()]
        variables = {"KODECTL_BOOTSTRAP": "", **case.variables}
        return CliRunner().invoke(cli, [*words, *more], input=case.stdin.format_map(places), env=variables)

    return invoke


def name_of(case: Case) -> str:
    return f"{case.command[:60]} [{case.situation}]"


def check(case: Case, result: Any, structured: bool) -> None:
    assert result.exit_code == case.exit, result.output
    assert "Traceback" not in result.output
    if structured:
        check_documents(result.stdout)
    if case.code is None:
        assert "error:" not in result.stderr
        assert result.stdout
        return
    assert case.code in EXPLANATIONS
    assert "kodectl: error: " in result.stderr
    if structured:
        last = check_documents(result.stdout)[-1]
        assert last["ok"] is False
        assert (last["error"]["code"], last["error"]["exit"]) == (case.code, case.exit)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("case", OFFLINE, ids=name_of)
def test_without_a_network(case: Case, form: str, places: dict[str, str], run: Any) -> None:
    structured = form == "json"
    check(case, run(case, places, *(["--json"] if structured else [])), structured)


@pytest.fixture(scope="module")
def online(shared_nodes: Any) -> dict[str, str]:
    node = shared_nodes.start("a")
    peer = shared_nodes.start("b", "--bootstrap", node.enode)
    token = peer.datadir.parent / "c" / "api.token"
    token.parent.mkdir()
    token.write_text("f" * 64)
    token.chmod(0o600)
    guarded = shared_nodes.start("c", "--api-token", "required")
    wrong_token = peer.datadir.parent / "wrong.token"
    wrong_token.write_text("e" * 64)
    wrong_token.chmod(0o600)
    done = shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(peer.datadir))
    assert done.returncode == 0, done.stderr
    return {
        "node": node.enode,
        "id": peer.id,
        "impostor": node.enode.replace(node.id, OTHER_ID),
        "peer": peer.enode,
        "datadir": str(node.datadir),
        "guarded": guarded.api,
        "wrong_token": str(wrong_token),
    }


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("case", ONLINE, ids=name_of)
def test_with_nodes(case: Case, form: str, places: dict[str, str], online: dict[str, str], shared_nodes: Any) -> None:
    structured = form == "json"
    words = [word.format_map(places | online) for word in case.command.split()]
    done = shared_nodes.kodectl(*words, *(["--json"] if structured else []))
    result = click.testing.Result(
        CliRunner(), done.stdout, done.stderr, done.stdout + done.stderr, None, done.returncode, None
    )
    check(case, result, structured)


def test_a_value_comes_back_as_it_was_put(online: dict[str, str], shared_nodes: Any, places: dict[str, str]) -> None:
    value = bytes(range(256))
    Path(places["new"]).write_bytes(value)
    publish = ["dht", "put", "bytes", "--file", places["new"], "--key", places["plain"], "--bootstrap", online["node"]]
    first, second = (json.loads(shared_nodes.kodectl(*publish, "--json").stdout)["data"] for _ in range(2))
    assert second["sequence"] > first["sequence"]
    assert shared_nodes.kodectl("dht", "get", "bytes", "--bootstrap", online["node"]).stdout == value


def test_the_records_of_a_key_and_of_a_publisher(
    online: dict[str, str], shared_nodes: Any, places: dict[str, str]
) -> None:
    bootstrap = ["--bootstrap", online["node"]]
    shared_nodes.kodectl("dht", "put", "tune", "la", "--key", places["plain"], *bootstrap)
    publisher = json.loads(shared_nodes.kodectl("key", "show", places["plain"], "--json").stdout)["data"]["public_key"]
    shown = shared_nodes.kodectl("dht", "get", "tune", "--records", "--publisher", publisher.upper(), *bootstrap)
    assert shown.stdout.decode().splitlines()[0] == f"publisher  {publisher}"
    other = shared_nodes.kodectl("dht", "get", "tune", "--publisher", OTHER_ID, "--json", *bootstrap)
    assert (other.returncode, json.loads(other.stdout)["error"]["code"]) == (3, "value_not_found")


def test_a_trace_is_part_of_the_answer(online: dict[str, str], shared_nodes: Any) -> None:
    asked = ["dht", "find-node", online["id"], "--trace", "--bootstrap", online["node"]]
    text = shared_nodes.kodectl(*asked, "-q").stdout.decode()
    assert text.startswith("1  ")
    assert len(json.loads(shared_nodes.kodectl(*asked, "--json").stdout)["data"]["trace"]) >= 1
    first, *_ = shared_nodes.kodectl(*asked, "--jsonl").stdout.splitlines()
    assert json.loads(first)["data"]["outcome"] == "answered"


def test_a_ping_tells_the_stage_of_another_identity(online: dict[str, str], shared_nodes: Any) -> None:
    done = shared_nodes.kodectl("peer", "ping", online["impostor"], "--mode", "handshake", "--json")
    pong, end = map(json.loads, done.stdout.splitlines())
    assert (pong["data"]["stage"], pong["data"]["reason"]) == ("identity", "identity_mismatch")
    assert (end["error"]["details"]["event"], end["error"]["details"]["stage"]) == ("summary", "identity")


def test_no_secret_is_shown_unless_asked_for(run: Any, places: dict[str, str]) -> None:
    seed = json.loads(run(Case("", "key show {plain} --reveal --json", 0), places).stdout)["data"]["seed"]
    assert len(seed) == 64
    for command in ("key show {plain}", "key id {plain}", "enode gen --key {plain} --ip ::1", "key passwd {plain}"):
        for form in ([], ["--json"], ["--debug"], ["-vv"]):
            assert seed not in run(Case("", command, 0), places, *form).output


# -- what ends a command from outside --------------------------------------------------------------------------------

OF_THE_NODE = {
    "node status": "",
    "node stop": "",
    "node wait": "--for ready",
    "node health": "",
    "node peers": "",
    "node connect": OTHER_ID,
    "node disconnect": OTHER_ID,
    "node ban": OTHER_ID,
    "node unban": OTHER_ID,
    "node stats": "",
    "node latency": "",
    "node bootstrap": "",
    "node rediscover": "",
    "node table": "",
    "node broadcast": "--type transaction {plain}",
    "node events": "",
    "node top": "",
    "api": "/api/network/status",
}
"""Commands that ask the node that runs, with what they need."""
SILENT_ENODE = f"enode://{'ab' * 32}@127.0.0.1:{{port}}?discport={{port}}"
OF_THE_NETWORK = {
    "enode verify": SILENT_ENODE,
    "nat probe": "--server 127.0.0.1:{port} --no-gateway",
    "nat watch": "--server 127.0.0.1:{port}",
    "nat punch": "--relay-only --turn u:p@127.0.0.1:{port}",
    "peer ping": "127.0.0.1:{port}",
    "dht find-node": f"{OTHER_ID} --bootstrap {SILENT_ENODE}",
    "dht put": f"motd hello --key {{plain}} --bootstrap {SILENT_ENODE}",
    "dht get": f"motd --bootstrap {SILENT_ENODE}",
    "dht crawl": f"--bootstrap {SILENT_ENODE}",
}
"""Commands that ask others, with somebody to ask who takes everything and says nothing."""


def tcp_and_udp() -> tuple[socket.socket, socket.socket]:
    """With one port: a port that is free for TCP may be somebody's for UDP."""
    while True:
        stream, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        stream.bind(("127.0.0.1", 0))
        try:
            datagrams.bind(stream.getsockname())
        except OSError:
            stream.close()
            datagrams.close()
        else:
            return stream, datagrams


class Silent:
    """Takes datagrams and connections, calls `on_asked` at each, and answers nothing."""

    def __init__(self, on_asked: Callable[[], object]) -> None:
        self._on_asked = on_asked
        self._listener, self._datagrams = tcp_and_udp()
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._open = [self._listener, self._datagrams]
        self._threads = [threading.Thread(target=one) for one in (self._take_connections, self._take_datagrams)]
        for thread in self._threads:
            thread.start()

    def _take_connections(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                if connection.recv(1):
                    self._on_asked()

    def _take_datagrams(self) -> None:
        with suppress(OSError):
            while self._datagrams.recv(2048):
                self._on_asked()

    def close(self) -> None:
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes its thread
            one.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Calls what it is given in the main thread's process as soon as the command has asked somebody."""
    told: list[Callable[[], object]] = []

    def on_asked() -> None:
        if told:
            told.pop()()

    silent = Silent(on_asked)
    yield SimpleNamespace(port=silent.port, then=told.append)
    silent.close()


def asking(command: str) -> str:
    if command in OF_THE_NODE:
        return f"{command} {OF_THE_NODE[command]} --datadir {{absent}} --api 127.0.0.1:{{port}}"
    return f"{command} {OF_THE_NETWORK[command]}"


NO_NODE = [
    Case("no node", f"{command} {arguments} --datadir {{absent}}", 5, "node_not_running")
    for command, arguments in (OF_THE_NODE | {"node wait": "--for ready --deadline 0.1"}).items()
]
DEADLINE = [Case("deadline", f"{asking(one)} --deadline 0.1", 8, "deadline") for one in (*OF_THE_NODE, *OF_THE_NETWORK)]
INTERRUPTED = [Case("SIGINT", asking(one), 130, "interrupted") for one in (*OF_THE_NODE, *OF_THE_NETWORK)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", [*NO_NODE, *DEADLINE, *INTERRUPTED], ids=lambda case: name_of(case))
def test_what_comes_from_outside(
    case: Case, form: str, places: dict[str, str], run: Any, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "DEADLINE_GRACE_S", 0.05)
    if case.situation == "SIGINT":
        # Whoever has asked has its handlers.
        asked.then(lambda: os.kill(os.getpid(), signal.SIGINT))
    check(case, run(case, places | {"port": asked.port}, *OPTIONS[form]), form == "json")


BAD_AUTH = [
    Case("bad auth", f"{command} {arguments} --datadir {{absent}} --api {{guarded}}", 6, "not_authorised")
    for command, arguments in OF_THE_NODE.items()
    if command != "node health"  # Told without a token too, as to a kubelet.
]
OF_A_NODE = [
    *(
        Case("ok", f"{command} {arguments} --datadir {{datadir}}", 0)
        for command, arguments in OF_THE_NODE.items()
        if command not in ("node stop", "node connect", "node disconnect", "node ban", "node events", "node top")
    ),
    Case("ok", "node connect {peer} --datadir {datadir}", 0),
    Case("negative", "node connect 127.0.0.1:{closed} --datadir {datadir}", 3, "refused"),
    Case("degraded", "node connect {peer} 127.0.0.1:{closed} --datadir {datadir}", 4, "not_connected"),
    Case("negative", f"node disconnect {OTHER_ID} --datadir {{datadir}}", 3, "peer_not_connected"),
    Case("ok", f"node ban {OTHER_ID} --datadir {{datadir}}", 0),
    Case("ok", "node events --since 0 --count 1 --datadir {datadir}", 0),
    Case("negative", f"api POST /api/network/disconnect/{OTHER_ID} --datadir {{datadir}}", 3, "peer_not_connected"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", [*BAD_AUTH, *OF_A_NODE], ids=name_of)
def test_of_a_node(case: Case, form: str, places: dict[str, str], online: dict[str, str], run: Any) -> None:
    check(case, run(case, places | online, *OPTIONS[form]), form == "json")


# -- every leaf of the tree ------------------------------------------------------------------------------------------


def leaves(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        if isinstance(found, click.Group):
            yield from leaves(found, (*words, name))
        else:
            yield (*words, name)


@pytest.mark.parametrize("words", list(leaves(cli)), ids=" ".join)
def test_every_command_has_help_and_refuses_what_it_does_not_know(words: tuple[str, ...]) -> None:
    runner = CliRunner()
    shown = runner.invoke(cli, [*words, "--help"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"Usage: kodectl {' '.join(words)}")
    refused = runner.invoke(cli, [*words, "--frobnicate", "--json"])
    assert refused.exit_code == 2
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "usage"
    assert error["hint"] == f"kodectl {' '.join(words)} --help"
    assert json.loads(refused.stdout)["schema"] == f"kodectl.{'.'.join(words)}/1"


@pytest.mark.parametrize("arguments", [["--help"], ["--frobnicate", "--json"]], ids=FORMS)
@pytest.mark.parametrize("words", list(leaves(cli)), ids=" ".join)
def test_a_reader_that_has_gone(words: tuple[str, ...], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *arguments])
        assert ended.value.code == 141


# -- whether all of it is there ----------------------------------------------------------------------------------------

CELLS = ("ok", "negative", "degraded", "no node", "bad auth", "offline", "deadline", "SIGINT")
"""And usage and SIGPIPE, which the tests above try with every command there is."""
CELL_OF_EXIT = {0: "ok", 3: "negative", 4: "degraded", 6: "bad auth", 8: "deadline", 130: "SIGINT"}


def cell_of(case: Case) -> str | None:
    if case.exit == 5:
        return "no node" if case.code == "node_not_running" else "offline"
    return CELL_OF_EXIT.get(case.exit)


def covered() -> dict[str, set[str]]:
    """By command, what the cases above bring about."""
    found: dict[str, set[str]] = {" ".join(words): set() for words in leaves(cli)}
    for case in [*OFFLINE, *ONLINE, *NO_NODE, *DEADLINE, *INTERRUPTED, *BAD_AUTH, *OF_A_NODE]:
        command = next((name for name in found if f"{case.command} ".startswith(f"{name} ")), None)
        if command is not None and (cell := cell_of(case)):
            found[command].add(cell)
    return found


NODE_TESTS, NAT_MAP_TESTS = "tests/cli/test_cli_node.py", "tests/cli/test_cli_nat_map.py"
ELSEWHERE = {
    "node run": ("ok, SIGINT", NODE_TESTS),
    "node stop": ("ok", NODE_TESTS),
    "node disconnect": ("ok", NODE_TESTS),
    "node health": ("negative", NODE_TESTS),
    "node broadcast": ("degraded", NODE_TESTS),
    "nat map": ("ok, negative, degraded, deadline, SIGINT", NAT_MAP_TESTS),
    "nat mappings": ("ok, negative, deadline, SIGINT", NAT_MAP_TESTS),
    "nat unmap": ("ok, negative, deadline, SIGINT", NAT_MAP_TESTS),
    "nat punch": ("ok, degraded", "tests/cli/test_cli_nat_punch.py"),
    "nat serve": ("ok, SIGINT", "tests/cli/test_cli_nat_serve.py"),
    "peer ping": ("degraded", "tests/sim/test_pinging.py"),
    "dht get": ("ok", "tests/cli/test_cli_matrix.py"),
    "doctor": ("ok, negative, degraded, no node, offline, deadline, SIGINT", "tests/cli/test_cli_doctor.py"),
    "sim": ("SIGINT", "tests/cli/test_cli_sim.py"),
}
"""Cells that need a router, another machine, or a node of their own."""
ON_FILES = "key gen, key show, key id, key passwd, enode gen, config show, config check, config init, completion, man"
ON_WORDS = "enode parse, explain"
SHOWING = "node status, node peers, node stats, node latency, node bootstrap, node rediscover, node table, node events, node top"
ORDERS = "node wait, node stop, node disconnect, node ban, node unban, node broadcast, api"
DOES_NOT_APPLY = [
    (
        f"{ON_FILES}, {ON_WORDS}",
        "no node, bad auth, offline, deadline, SIGINT",
        "asks nobody, and has ended before anybody could end it",
    ),
    (ON_FILES, "negative, degraded", "what is wrong with a file or an argument is an error of its own: 2 or 7"),
    ("enode parse", "negative", "all malformed is an error in the arguments: 2"),
    ("explain", "degraded", "there is an entry, or none"),
    (SHOWING, "negative, degraded", "shows what there is, be it nothing"),
    (ORDERS, "degraded", "does one thing, or does not"),
    ("node stop, node wait, node ban, node unban, node broadcast", "negative", "the node does it, or waits for it"),
    ("node health", "degraded", "yes or no"),
    (", ".join(OF_THE_NODE), "offline", "the node is the only one that is asked: no node"),
    ("node run, nat serve", "negative, degraded, offline, deadline", "serves until it is ended, whoever is there"),
    ("node run, nat serve, sim", "no node, bad auth", "asks no node's API"),
    ("sim", "negative, offline", "plays its network in this process; what did not come off is degraded"),
    (", ".join(OF_THE_NETWORK), "no node, bad auth", "asks no node's API"),
    (
        "nat map, nat mappings, nat unmap, doctor",
        "bad auth",
        "needs no token: asks routers, or says what it cannot see",
    ),
    ("nat map, nat mappings, nat unmap", "no node, offline", "asks routers: negative, no gateway"),
    ("nat mappings, nat unmap, enode verify, nat watch, dht find-node, dht put, dht get", "degraded", "one answer"),
    ("enode verify, nat probe, nat watch, nat punch", "offline", "who is asked does not answer: negative"),
    ("dht put", "negative", "nobody to keep the value is no bootstrap node: offline"),
]


@pytest.mark.parametrize("command", covered())
def test_no_cell_is_empty_without_a_reason(command: str) -> None:
    found = covered()[command]
    cells, seen_in = ELSEWHERE.get(command, ("", __file__))
    assert (Path(__file__).parents[2] / seen_in).is_file()
    excused = {cell for who, cells, _ in DOES_NOT_APPLY if command in who.split(", ") for cell in cells.split(", ")}
    elsewhere = {cell for cell in cells.split(", ") if cell}
    assert set(CELLS) - found - elsewhere - excused == set()
    assert (found - {"ok"}) & excused == set(), "a reason that does not hold"
