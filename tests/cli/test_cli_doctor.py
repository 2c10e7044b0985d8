"""`kodectl doctor` on loopback: each trouble that needs no network is the root cause once, and is told with its command."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Nodes

from kodectl.cli.doctor import CHECKS

REPOSITORY = Path(__file__).parents[2]
WELL, USAGE, FAILED, DEGRADED = 0, 2, 3, 4
LOCAL = ("--listen", "127.0.0.1:0", "--discovery-port", "0", "--api", "127.0.0.1:0", "--no-lan", "--nat", "none")
STRANGER = f"enode://{'ab' * 32}@127.0.0.1:{{port}}?discport={{port}}"


class Doctor:
    def __init__(self, nodes: Nodes, home: Path) -> None:
        self.datadir = home / "data"
        self._nodes = nodes

    def __call__(self, *arguments: str, datadir: Path | None = None, **options: Any) -> tuple[int, dict[str, Any]]:
        """The exit code, and what was found; options are those of `subprocess.run`."""
        done = self.run("--json", *arguments, datadir=datadir, **options)
        document = json.loads(done.stdout)
        return done.returncode, document["data"] if document["ok"] else document["error"]["details"]

    def run(self, *arguments: str, datadir: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kodectl", "doctor", "--datadir", str(datadir or self.datadir), *arguments]
        environment = self._nodes.environment | options.pop("env", {})
        return subprocess.run(
            command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=60, check=False, **options
        )


@pytest.fixture
def doctor(nodes: Nodes, tmp_path: Path) -> Doctor:
    return Doctor(nodes, tmp_path)


def checks(*names: str) -> list[str]:
    return [part for name in names for part in ("--check", name)]


def state_of(view: dict[str, Any], check: str) -> str:
    return next(one["state"] for one in view["checks"] if one["check"] == check)


MACHINE = checks("config", "disk", "key_file", "fd_limit", "ports", "api_exposure")


def test_all_is_well_with_this_machine(doctor):
    code, view = doctor(*LOCAL, *MACHINE)
    assert (code, view["root_cause"], view["state"]) == (WELL, None, "ok")
    assert [check["state"] for check in view["checks"]] == ["ok"] * 6
    assert not doctor.datadir.exists()


def test_a_port_that_is_taken(doctor):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, view = doctor(*LOCAL, "--listen", f"127.0.0.1:{port}", *MACHINE)
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "ports", "port_in_use")
    assert f"TCP port {port} is in use by process {os.getpid()}" in root["seen"]
    assert root["command"].startswith("kodectl node run --listen 127.0.0.1:")
    assert root["command"].rpartition(":")[2] not in ("0", str(port))


def test_two_settings_with_one_port(doctor):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, view = doctor(*LOCAL, "--listen", f"127.0.0.1:{port}", "--api", f"127.0.0.1:{port}", *checks("ports"))
    assert (code, view["root_cause"]["code"]) == (FAILED, "port_in_use")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, for root only")
def test_a_full_disk(doctor, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {small} && exec "
    python = f"{sys.executable} -m kodectl doctor --json --datadir {small} {' '.join([*LOCAL, *MACHINE])}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount + python],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=doctor._nodes.environment,
        check=False,
    )
    root = json.loads(done.stdout)["error"]["details"]["root_cause"]
    assert (done.returncode, root["check"], root["code"]) == (FAILED, "disk", "disk_full")
    assert root["command"].startswith(f"df -h {small}")


def test_a_data_directory_that_is_a_file(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    code, view = doctor(*LOCAL, *MACHINE, datadir=tmp_path / "file")
    assert (code, view["root_cause"]["code"]) == (FAILED, "path_unwritable")


def test_a_broken_key_file(doctor):
    doctor.datadir.mkdir()
    key = doctor.datadir / "node.key"
    key.write_text("no key")
    code, view = doctor(*LOCAL, *MACHINE)
    assert (code, view["root_cause"]["check"], view["root_cause"]["code"]) == (FAILED, "key_file", "key_malformed")
    assert view["root_cause"]["command"] == f"mv {key} {key}.broken"


def test_a_key_file_that_others_can_read(doctor, nodes):
    doctor.datadir.mkdir()
    key = doctor.datadir / "node.key"
    nodes.kodectl("key", "gen", str(key))
    assert doctor(*LOCAL, *MACHINE)[0] == WELL
    key.chmod(0o644)
    code, view = doctor(*LOCAL, *MACHINE)
    assert (code, view["root_cause"]["code"], view["root_cause"]["command"]) == (
        FAILED,
        "key_exposed",
        f"chmod 600 {key}",
    )


@pytest.mark.parametrize(
    ("limit", "code", "name"), [(60, FAILED, "too_many_open_files"), (200, DEGRADED, "fd_limit_low")]
)
def test_a_low_limit_of_open_files(doctor, limit, code, name):
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    found, view = doctor(*LOCAL, *MACHINE, preexec_fn=lower)
    assert (found, view["root_cause"]["check"], view["root_cause"]["code"]) == (code, "fd_limit", name)
    assert view["root_cause"]["command"].startswith("ulimit -n ")


def test_an_api_for_others_without_a_token(doctor):
    code, view = doctor(*LOCAL, "--api", "0.0.0.0:0", *MACHINE)
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "api_exposure", "api_token_required")
    doctor.datadir.mkdir()
    subprocess.run(root["command"], shell=True, check=True)
    assert doctor(*LOCAL, "--api", "0.0.0.0:0", *MACHINE)[0] == WELL


def test_a_token_that_others_can_read(doctor):
    doctor.datadir.mkdir()
    token = doctor.datadir / "api.token"
    token.write_text("a" * 64)
    token.chmod(0o644)
    code, view = doctor(*LOCAL, *MACHINE)
    assert (code, view["root_cause"]["code"], view["root_cause"]["command"]) == (
        DEGRADED,
        "api_token_unsafe",
        f"chmod go-rwx {token}",
    )


def test_a_broken_configuration(doctor, tmp_path):
    file = tmp_path / "config.toml"
    file.write_text("max_peers = 0\nlan = false\n")
    code, view = doctor("--config", str(file), *LOCAL, *MACHINE)
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "config", "config_invalid_value")
    assert (str(file) in root["seen"], root["command"]) == (True, f"kodectl config check --config {file}")
    assert state_of(view, "fd_limit") == "ok"


@pytest.mark.parametrize("text", ["not toml", "listn = 1\n"])
def test_a_configuration_that_cannot_be_read_leaves_the_defaults(doctor, tmp_path, text):
    file = tmp_path / "config.toml"
    file.write_text(text)
    code, view = doctor("--config", str(file), *LOCAL, *MACHINE)
    assert (code, view["root_cause"]["check"]) == (FAILED, "config")


def test_a_dead_bootstrap_node(doctor):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        closed.bind(("127.0.0.1", port))
        enode = STRANGER.format(port=port)
        code, view = doctor(*LOCAL, "--bootstrap", enode, *checks("addresses", "udp_egress", "bootstrap", "table"))
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "bootstrap", "no_bootstrap_answered")
    assert root["command"] == f"kodectl peer ping '{enode}'"
    assert {"udp_egress", "table"} <= set(root["consequences"])


def test_a_bootstrap_node_that_is_somebody_else(doctor, nodes):
    other = nodes.start("other")
    enode = f"enode://{'cd' * 32}@{other.enode.partition('@')[2]}"
    code, view = doctor(*LOCAL, "--bootstrap", enode, *checks("bootstrap", "table"))
    assert (code, view["root_cause"]["code"]) == (FAILED, "identity_mismatch")
    assert other.id in view["root_cause"]["seen"]


def test_a_stand_in_joins_leaves_and_keeps_nothing(doctor, nodes):
    other = nodes.start("other")
    names = ("bootstrap", "udp_egress", "clock", "table", "dials", "node")
    code, view = doctor(*LOCAL, "--bootstrap", other.enode, *checks(*names))
    assert (code, view["examined"]["running"]) == (WELL, False)
    assert {check["check"]: check["state"] for check in view["checks"]} == {
        **dict.fromkeys(names, "ok"),
        "node": "skipped",
    }
    assert nodes.kodectl("node", "wait", "--for", "ready", "--datadir", str(other.datadir)).returncode == 0
    peers = nodes.kodectl("node", "peers", "--datadir", str(other.datadir), "--json")
    assert json.loads(peers.stdout)["data"]["count"] == 0
    assert not doctor.datadir.exists()


@pytest.fixture(scope="module")
def pair(shared_nodes):
    first = shared_nodes.start("first")
    second = shared_nodes.start("second", "--bootstrap", first.enode)
    wait = shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(second.datadir))
    assert wait.returncode == 0
    return first, second


def test_a_node_that_runs_is_asked(pair, doctor):
    _, second = pair
    code, view = doctor(datadir=second.datadir)
    assert code == WELL, view["root_cause"]
    assert (view["examined"]["running"], view["examined"]["id"]) == (True, second.id)
    assert view["examined"]["pid"] == second.process.pid
    assert state_of(view, "ports") == state_of(view, "bootstrap") == state_of(view, "node") == "ok"
    # It listens on loopback only.
    assert state_of(view, "nat_class") == state_of(view, "inbound_udp") == "skipped"


def test_text_has_a_line_for_each_check(pair, doctor):
    done = doctor.run(datadir=pair[1].datadir)
    table, _, end = done.stdout.partition("\n\n")
    assert [line.split()[1] for line in table.splitlines()] == list(CHECKS)
    assert end == "all is well, as far as 20 checks can tell\n"
    assert done.stderr == ""


def test_lines_come_as_checks_end_and_the_verdict_last(pair, doctor):
    done = doctor.run("--jsonl", datadir=pair[1].datadir)
    lines = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    assert {line["check"] for line in lines[:-1]} == set(CHECKS)
    assert (lines[-1]["state"], lines[-1]["root_cause"], "checks" in lines[-1]) == ("ok", None, False)


def test_a_key_that_was_changed_under_a_running_node(shared_nodes, pair, doctor, tmp_path):
    key = pair[0].datadir / "node.key"
    kept = key.read_bytes()
    try:
        assert shared_nodes.kodectl("key", "gen", str(key), "--force").returncode == 0
        code, view = doctor(*checks("key_file"), datadir=pair[0].datadir)
    finally:
        key.write_bytes(kept)
    assert (code, view["root_cause"]["code"]) == (DEGRADED, "key_replaced")


def test_a_node_that_hangs(nodes, doctor):
    node = nodes.start("hung")
    node.process.send_signal(signal.SIGSTOP)
    try:
        names = ("node", "ports", "disk")
        code, view = doctor(*LOCAL, "--timeout", "0.5", *checks(*names), datadir=node.datadir)
    finally:
        node.process.send_signal(signal.SIGCONT)
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "node", "node_not_answering")
    assert f"process {node.process.pid}" in root["seen"]
    assert state_of(view, "ports") == "skipped"


def test_what_cannot_be_found_out_is_not_well(doctor):
    """Nobody is there to ask: neither a failure nor a success."""
    done = doctor.run("--json", *LOCAL, *checks("udp_egress"), env={"KODECTL_BOOTSTRAP": ""})
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], error["details"]["state"]) == (DEGRADED, "undecided", "unknown")


def test_the_list_names_every_check(doctor):
    done = doctor.run("--list", "--json")
    assert [row["check"] for row in json.loads(done.stdout)["data"]["checks"]] == list(CHECKS)
    assert doctor.run("--list").stdout.splitlines()[0].split() == ["check", "looks", "whether"]


@pytest.mark.parametrize(
    "arguments", [["--check", "heart"], ["--listen", "x"], ["--deadline", "0"], ["extra"]], ids=" ".join
)
def test_usage(doctor, arguments):
    done = doctor.run("--json", *arguments)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (USAGE, "usage")


def test_the_deadline_ends_the_checks_and_not_the_report(doctor):
    """Two seconds are less than a silent bootstrap node takes to be known as such."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        enode = STRANGER.format(port=silent.getsockname()[1])
        code, view = doctor(*LOCAL, "--bootstrap", enode, "--deadline", "4", *checks("bootstrap", "disk"))
    assert (code, view["complete"]) == (DEGRADED, False)
    assert (state_of(view, "disk"), state_of(view, "bootstrap")) == ("ok", "unknown")
