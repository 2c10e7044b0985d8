"""`kodectl node ...` against real nodes: what it prints, and what it exits with."""

import fcntl
import http.server
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import pytest

from kodectl.cli.node_show import _PEER_COLUMNS
from kodectl.cli.output import table
from kodectl.node.views import PeerView

REPOSITORY = Path(__file__).parents[2]

ANSWERED, USAGE, NEGATIVE, DEGRADED, NO_NODE, NOT_AUTHORISED, ENVIRONMENT, DEADLINE, BAD_REMOTE = (
    0,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)

SHOWING = ["status", "peers", "stats", "latency", "bootstrap", "table", "health", "rediscover"]
OTHERS = [
    ["stop"],
    ["connect", "127.0.0.1:1"],
    ["disconnect", "12345678"],
    ["ban", "12345678"],
    ["unban", "11" * 32],
    ["broadcast", "--type", "transaction", "-"],
    ["events"],
]


@pytest.fixture(scope="module")
def trio(shared_nodes):
    return shared_nodes.trio()


@pytest.fixture
def on(shared_nodes):
    """Runs `kodectl node ...` on one of the nodes, and answers exit code, stdout and stderr."""

    def run(node, *arguments: str, input: bytes = b"") -> tuple[int, str, str]:
        return texts(shared_nodes.kodectl("node", *arguments, "--datadir", str(node.datadir), input=input))

    return run


def texts(done: subprocess.CompletedProcess) -> tuple[int, str, str]:
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def document(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout)


# -- no node ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[name] for name in SHOWING] + OTHERS, ids=" ".join)
def test_without_a_node_every_command_says_how_to_start_one(nodes, tmp_path, arguments):
    done = nodes.kodectl("node", *arguments, "--datadir", str(tmp_path), "--json")
    assert done.returncode == NO_NODE
    error = document(done)["error"]
    assert (error["code"], error["exit"]) == ("node_not_running", NO_NODE)
    assert "kodectl node run" in error["hint"]
    assert b"no node runs at" in done.stderr


def test_without_a_node_text_goes_to_stderr_only(nodes, tmp_path):
    code, out, err = texts(nodes.kodectl("node", "status", "--datadir", str(tmp_path)))
    assert (code, out) == (NO_NODE, "")
    assert "no node runs at" in err


def test_waiting_for_a_node_that_never_comes(nodes, tmp_path):
    done = nodes.kodectl("node", "wait", "--for", "ready", "--deadline", "1", "--datadir", str(tmp_path))
    assert done.returncode == NO_NODE


def test_no_node_counts_as_stopped(nodes, tmp_path):
    assert nodes.kodectl("node", "wait", "--for", "stopped", "--datadir", str(tmp_path)).returncode == ANSWERED


def test_something_else_at_the_address_is_named_so(nodes):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = nodes.kodectl("node", "status", "--api", f"127.0.0.1:{server.server_port}", "--json")
        server.shutdown()
    assert (done.returncode, document(done)["error"]["code"]) == (NO_NODE, "not_a_node")


def test_an_address_that_never_answers_meets_the_time_limit(nodes):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = nodes.kodectl("node", "status", "--api", f"127.0.0.1:{port}", "--timeout", "0.5", "--json")
    assert (done.returncode, document(done)["error"]["code"]) == (DEADLINE, "deadline")


# -- showing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWING)
def test_what_is_shown_as_text_and_as_a_document(trio, on, name):
    code, out, err = on(trio[0], name)
    assert (code, err) == (ANSWERED, "")
    assert out
    assert "\x1b" not in out
    code, out, _ = on(trio[0], name, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["schema"]) == (ANSWERED, True, f"kodectl.node.{name}/1")
    assert found["data"]


def test_status_names_everything_to_reach_the_node(trio, on):
    _, out, _ = on(trio[0], "status")
    for piece in (trio[0].id, trio[0].enode, trio[0].api, trio[0].ready["listeners"]["udp"], str(trio[0].process.pid)):
        assert piece in out


def test_peers_as_a_table_and_one_a_line(trio, on):
    _, out, _ = on(trio[0], "peers", "--sort", "latency")
    assert [line.split()[0] for line in out.splitlines()[1:]] != []
    assert all(node.id[:12] in out for node in trio[1:])
    assert "kodectl/" in on(trio[0], "peers", "--wide")[1]
    _, out, _ = on(trio[0], "peers", "--jsonl")
    assert {json.loads(line)["data"]["id"] for line in out.splitlines()} == {node.id for node in trio[1:]}
    assert on(trio[0], "peers", "--sort", "speed")[0] == USAGE


def test_peers_fit_a_terminal():
    addr, month_s = "203.113.113.113:65535", 31 * 86_400.0
    peer = PeerView(
        "ab" * 32, "enode://", "kodectl/0.1.0", "outbound", "direct", "tcp", addr, "203.113.113.113", 65535, "",
        month_s, 999.9, 10**9, 10**9, 1, 1, 0.5, "medium", False,
    )  # fmt: skip
    text = click.unstyle(table(list(_PEER_COLUMNS), [[show(peer) for show in _PEER_COLUMNS.values()]]))
    assert max(map(len, text.splitlines())) <= 80


def test_a_ban_may_last_for_months(nodes, tmp_path):
    ban = ["node", "ban", "11" * 32, "--datadir", str(tmp_path), "--for"]
    assert nodes.kodectl(*ban, str(90 * 86_400)).returncode == NO_NODE
    assert nodes.kodectl(*ban, str(400 * 86_400)).returncode == USAGE


def test_the_table_names_its_nodes(trio, on):
    assert all(node.id in on(trio[0], "table", "--nodes")[1] for node in trio[1:])


def test_over_tcp_as_over_the_socket(trio, shared_nodes):
    done = shared_nodes.kodectl("node", "status", "--api", trio[0].api, "--json")
    assert document(done)["data"]["id"] == trio[0].id


# -- orders ----------------------------------------------------------------------------------------------------------


def test_connecting_says_the_outcome(trio, on):
    code, out, _ = on(trio[0], "connect", trio[1].enode)
    assert (code, trio[1].id in out) == (ANSWERED, True)
    code, out, err = on(trio[0], "connect", "127.0.0.1:1", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (NEGATIVE, "refused")
    assert "not connected to 127.0.0.1:1, refused: Connection refused\n" in err
    assert on(trio[0], "connect", trio[0].enode)[0] == NEGATIVE
    assert on(trio[0], "connect", "nonsense")[0] == USAGE


@pytest.mark.parametrize("order", ["connect", "disconnect", "ban", "unban"])
def test_what_is_no_text_names_nobody(trio, on, order):
    assert on(trio[0], order, os.fsdecode(b"\xff\xfe"))[0] == USAGE


def test_connecting_to_another_identity(trio, on):
    impostor = f"enode://{'11' * 32}@{trio[1].ready['listeners']['tcp']}"
    code, out, _ = on(trio[0], "connect", impostor, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (BAD_REMOTE, "identity_mismatch")


def test_connecting_to_several_from_stdin(trio, on):
    targets = f"nonsense\n{trio[1].enode}\n127.0.0.1:2\n".encode()
    code, out, err = on(trio[0], "connect", "-", "--jsonl", input=targets)
    outcomes = [json.loads(line).get("data", {}).get("outcome") for line in out.splitlines()]
    assert (code, outcomes[:3]) == (DEGRADED, ["bad_target", "already_connected", "refused"])
    assert "2 of 3" in err


def test_disconnecting_by_the_beginning_of_an_id(trio, on):
    code, out, _ = on(trio[0], "disconnect", trio[2].id[:12])
    assert (code, trio[2].id in out) == (ANSWERED, True)
    assert on(trio[0], "connect", trio[2].enode)[0] == ANSWERED
    code, out, _ = on(trio[0], "disconnect", "00000000", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (NEGATIVE, "peer_not_connected")
    assert on(trio[0], "disconnect", "xyz")[0] == USAGE


def test_a_banned_node_is_refused_until_the_ban_is_lifted(trio, on, eventually):
    code, out, _ = on(trio[0], "ban", trio[2].id[:16], "--for", "600")
    assert (code, "until 20" in out) == (ANSWERED, True)
    assert trio[2].id[:12] not in on(trio[0], "peers")[1]
    code, out, _ = on(trio[0], "connect", trio[2].enode, "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"], error["hint"]) == (NEGATIVE, "banned", f"kodectl node unban {trio[2].id}")
    assert on(trio[0], "unban", trio[2].id)[0] == ANSWERED
    eventually(lambda: on(trio[0], "connect", trio[2].enode)[0] == ANSWERED)


def test_a_broadcast_from_file_and_stdin_arrives(trio, on, tmp_path):
    (tmp_path / "tx").write_bytes(b"\x00transaction")
    code, out, _ = on(trio[0], "broadcast", "--type", "transaction", str(tmp_path / "tx"), "--json")
    sent = json.loads(out)["data"]
    assert (code, sent["type"], sent["sent_to"]) == (ANSWERED, "transaction", 2)
    code, out, _ = on(trio[0], "broadcast", "--type", "block", "--mode", "flood", "-", input=b"block")
    assert code == ANSWERED
    assert on(trio[0], "broadcast", "--type", "transaction", str(tmp_path / "missing"))[0] == ENVIRONMENT
    too_large = bytes(65 * 1024)
    assert on(trio[0], "broadcast", "--type", "transaction", "-", input=too_large)[0] == USAGE
    assert on(trio[0], "broadcast", "--type", "block", "-", input=bytes(4 * 1024 * 1024 + 1))[0] == USAGE


def test_events_without_following(trio, on):
    code, out, _ = on(trio[0], "events", "--no-follow", "--jsonl")
    events = [json.loads(line)["data"] for line in out.splitlines()]
    assert code == ANSWERED
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert events[0]["type"] == "ready"
    last = events[-1]["seq"]
    code, out, _ = on(trio[0], "events", "--no-follow", "--since", str(last - 1), "--jsonl")
    assert json.loads(out.splitlines()[0])["data"]["seq"] == last
    assert "ready" in on(trio[0], "events", "--no-follow")[1]


def test_waiting_and_probing(trio, on):
    assert on(trio[0], "wait", "--for", "ready")[0] == ANSWERED
    assert on(trio[0], "wait", "--for", "peers=2")[0] == ANSWERED
    code, out, _ = on(trio[0], "wait", "--for", "peers=40", "--deadline", "0.5", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (DEADLINE, "deadline")
    assert on(trio[0], "wait", "--for", "stopped", "--deadline", "0.5")[0] == DEADLINE
    assert on(trio[0], "wait", "--for", "peers=x")[0] == USAGE
    for probe in ("live", "ready", "startup"):
        code, out, _ = on(trio[0], "health", probe)
        assert (code, out.startswith("ok")) == (ANSWERED, True)


# -- life ------------------------------------------------------------------------------------------------------------


def test_the_first_line_tells_where_the_node_is(nodes):
    node = nodes.start("a")
    assert node.ready["type"] == "ready"
    assert node.ready["datadir"] == str(node.datadir)
    assert node.datadir.stat().st_mode & 0o777 == 0o700
    assert (node.datadir / "node.key").stat().st_mode & 0o777 == 0o600
    code, out, _ = texts(nodes.kodectl("node", "broadcast", "--type", "block", "-", "--datadir", str(node.datadir)))
    assert (code, len(out.strip())) == (DEGRADED, 64)
    assert node.leave() == ANSWERED
    assert node.lines()[-1]["type"] == "stopping"


def test_a_running_node_does_not_look_for_garbage_among_its_own_modules() -> None:
    script = (
        "import gc, kodectl.cli.serving as s; s.settle_memory(); print(gc.get_freeze_count(), gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=30)
    frozen, threshold = map(int, done.stdout.split())
    assert frozen > 30_000
    assert threshold > 5_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_and_leaves_nothing_behind(nodes, number):
    node = nodes.start("a")
    assert node.leave(number) == ANSWERED
    assert not (node.datadir / "api.sock").exists()
    assert "Traceback" not in node.log.read_text()
    assert node.log.read_text().rstrip().endswith("stopped")


def test_stop_waits_until_the_node_has_left(nodes):
    node = nodes.start("a")
    assert nodes.kodectl("node", "stop", "--datadir", str(node.datadir)).returncode == ANSWERED
    assert node.process.wait(5) == ANSWERED
    assert nodes.kodectl("node", "wait", "--for", "stopped", "--datadir", str(node.datadir)).returncode == ANSWERED


def test_following_events_ends_when_the_node_leaves(nodes):
    node = nodes.start("a")
    command = [sys.executable, "-m", "kodectl", "node", "events", "--jsonl", "--datadir", str(node.datadir)]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=nodes.environment)
    assert follower.stdout is not None
    first = json.loads(follower.stdout.readline())
    time.sleep(1.0)  # until it waits for the next one; nothing shows that from outside
    node.leave()
    rest = follower.communicate(timeout=20)[0].splitlines()
    assert first["data"]["type"] == "ready"
    assert json.loads(rest[-2])["data"]["type"] == "stopping"
    assert (json.loads(rest[-1])["error"]["exit"], follower.returncode) == (NO_NODE, NO_NODE)


def test_a_restart_keeps_identity_and_peers(nodes):
    _, second, _ = nodes.trio()
    second.leave()
    # Without its bootstrap node: what it knows is in its store.
    again = nodes.start("b")
    assert again.id == second.id
    waiting = nodes.kodectl("node", "wait", "--for", "peers=2", "--datadir", str(again.datadir), "--deadline", "20")
    assert waiting.returncode == ANSWERED


def test_a_killed_node_starts_again(nodes):
    node = nodes.start("a")
    node.leave(signal.SIGKILL)
    assert (node.datadir / "api.sock").exists()
    assert nodes.kodectl("node", "status", "--datadir", str(node.datadir)).returncode == NO_NODE
    assert nodes.start("a").id == node.id


def refused(node, code: str) -> dict:
    """The error document of a node that did not start for a reason of this machine."""
    assert node.process.wait(20) == ENVIRONMENT, node.log.read_text()
    error = json.loads(node.output.read_text())["error"]
    assert error["code"] == code
    return error


def test_a_taken_port_is_told_with_its_holder(nodes):
    node = nodes.start("a")
    listeners = node.ready["listeners"]
    for options in (
        ("--api", node.api),
        ("--listen", listeners["tcp"]),
        ("--discovery-port", listeners["udp"].split(":")[1]),
    ):
        error = refused(nodes.launch("b", *options), "port_in_use")
        assert str(node.process.pid) in error["message"]
    assert "--api 127.0.0.1:0" in refused(nodes.launch("b", "--api", node.api), "port_in_use")["hint"]


def test_a_data_directory_holds_one_node(nodes):
    node = nodes.start("a")
    error = refused(nodes.launch("again", "--datadir", str(node.datadir)), "datadir_in_use")
    assert str(node.process.pid) in error["message"]
    assert nodes.kodectl("node", "health", "--datadir", str(node.datadir)).returncode == ANSWERED


def test_the_api_beyond_loopback_needs_a_token(nodes):
    error = refused(nodes.launch("a", "--api", "0.0.0.0:0"), "api_token_required")
    assert "openssl rand" in error["hint"]


def test_a_token_others_can_read_is_refused(nodes, tmp_path):
    (tmp_path / "a").mkdir()
    token = tmp_path / "a" / "api.token"
    token.write_text("f" * 64)
    token.chmod(0o644)
    refused(nodes.launch("a", "--api-token", "required"), "api_token_unsafe")


def test_the_token_opens_the_api(nodes, tmp_path):
    (tmp_path / "a").mkdir()
    token = tmp_path / "a" / "api.token"
    token.write_text("f" * 64 + "\n")
    token.chmod(0o600)
    node = nodes.start("a", "--api-token", "required")
    without = nodes.kodectl("node", "status", "--api", node.api, "--datadir", str(tmp_path / "none"), "--json")
    assert (without.returncode, document(without)["error"]["code"]) == (NOT_AUTHORISED, "not_authorised")
    # The socket asks for none; over TCP to this machine the data directory's token is sent.
    assert nodes.kodectl("node", "status", "--datadir", str(node.datadir)).returncode == ANSWERED
    assert nodes.kodectl("node", "status", "--api", node.api, "--datadir", str(node.datadir)).returncode == ANSWERED
    given = nodes.kodectl("node", "status", "--api", node.api, "--token-file", str(token))
    assert given.returncode == ANSWERED


def test_a_key_others_can_read_is_refused(nodes):
    node = nodes.start("a")
    node.leave()
    (node.datadir / "node.key").chmod(0o644)
    assert "chmod 600" in refused(nodes.launch("a"), "key_exposed")["hint"]


def test_a_key_that_leads_nowhere_is_missing(nodes, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "node.key").symlink_to(tmp_path / "nowhere")
    refused(nodes.launch("a"), "key_missing")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_do_not_stop_a_node(nodes, tmp_path, eventually, closed):
    command = shlex.join(nodes.command("a"))
    process = subprocess.Popen(["sh", "-c", f"exec {command} {closed}"], cwd=REPOSITORY, env=nodes.environment)
    try:
        health = ("node", "health", "--datadir", str(tmp_path / "a"))
        eventually(lambda: nodes.kodectl(*health).returncode == ANSWERED)
        taken = {number: os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (0, 1, 2)}
        assert not any(what.startswith(("socket:", "anon_inode:")) or "a/" in what for what in taken.values()), taken
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == ANSWERED
    finally:
        process.kill()
        process.wait()


def test_when_nobody_reads_its_events_the_node_leaves(nodes):
    node = nodes.start("a")
    reading, writing = os.pipe()
    command = nodes.command("b", "--bootstrap", node.enode)
    process = subprocess.Popen(
        command, stdout=writing, stderr=subprocess.DEVNULL, env=nodes.environment, cwd=REPOSITORY
    )
    os.close(writing)
    with open(reading, "rb") as stream:
        assert json.loads(stream.readline())["data"]["type"] == "ready"
    assert process.wait(20) == 141


def test_a_reader_that_stands_still_does_not_hold_up_the_node(nodes):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    command = nodes.command("a")
    datadir = command[command.index("--datadir") + 1]
    process = subprocess.Popen(command, stdout=writing, stderr=writing, env=nodes.environment, cwd=REPOSITORY)
    os.close(writing)
    assert nodes.kodectl("node", "wait", "--for", "ready", "--datadir", datadir).returncode == ANSWERED
    for _ in range(6):
        sent = nodes.kodectl("node", "broadcast", "--type", "transaction", "-", "--datadir", datadir, input=bytes(1000))
        assert sent.returncode == DEGRADED
    assert nodes.kodectl("node", "health", "--datadir", datadir).returncode == ANSWERED
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 141
    os.close(reading)


def test_as_text_the_node_says_where_it_is(nodes):
    command = [word for word in nodes.command("a") if word != "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=nodes.environment, cwd=REPOSITORY
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().decode() for _ in range(7)]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert lines[0].endswith("is ready\n")
    assert [line.split()[0] for line in lines[1:]] == ["enode", "peers", "discovery", "api", "socket", "nat"]


# -- start-up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["status"], ["peers"], ["connect", "127.0.0.1:1"], ["events"], ["stop"]], ids=str
)
def test_a_client_starts_without_what_a_node_needs(tmp_path, nodes, arguments):
    listing = "import sys; from kodectl.cli.main import cli\n"
    listing += f"try: cli.main({['node', *arguments, '--datadir', str(tmp_path)]!r})\n"
    listing += "except SystemExit: print(*sorted(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, cwd=REPOSITORY, env=nodes.environment)
    loaded = set(done.stdout.decode().split())
    assert {"click", "http", "msgspec"} <= loaded
    assert not loaded & {"gevent", "falcon", "cryptography", "Crypto", "psutil", "rich", "asyncio", "sqlite3"}
