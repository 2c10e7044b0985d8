"""`kodectl doctor` on loopback: each trouble that needs no network is the root cause once, and is told with its command."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from conftest import NodeProcess, Nodes
from published import check_documents

from kodectl.cli.doctor import CHECKS
from kodectl.cli.main import cli

REPOSITORY = Path(__file__).parents[2]
WELL, USAGE, FAILED, DEGRADED, INTERRUPTED = 0, 2, 3, 4, 130
PATIENTLY = ("--deadline", "60")
"""Where so many start at once."""
LOCAL = ("--listen", "127.0.0.1:0", "--discovery-port", "0", "--api", "127.0.0.1:0", "--no-lan", "--nat", "none")


class Doctor:
    """Runs the command in this process, or in one of its own (`launch`), with a data directory that is not there yet."""

    def __init__(self, environment: dict[str, str], home: Path) -> None:
        self.datadir = home / "data"
        self.environment = environment

    def __call__(self, *arguments: str, datadir: Path | None = None) -> tuple[int, dict[str, Any]]:
        """The exit code, and what was found."""
        command = ["doctor", "--datadir", str(datadir or self.datadir), "--json", *arguments]
        unset = {name: None for name in os.environ if name.startswith("KODECTL_")}
        done = CliRunner().invoke(cli, command, env=unset | self.environment)
        return done.exit_code, found_in(done.stdout)

    def launch(self, *arguments: str, datadir: Path | None = None, **options: Any) -> subprocess.Popen[str]:
        """Options are those of Popen."""
        command = [sys.executable, "-m", "kodectl", "doctor", "--datadir", str(datadir or self.datadir), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, cwd=REPOSITORY, env=self.environment, **options
        )


def found_in(text: str) -> dict[str, Any]:
    (document,) = check_documents(text)
    assert document["ok"] or "details" in document["error"], text
    return document["data"] if document["ok"] else document["error"]["details"]


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Of one that was launched with --json."""
    out, err = process.communicate(timeout=60)
    assert out, err
    return process.returncode, found_in(out)


@pytest.fixture
def doctor(nodes: Nodes, tmp_path: Path) -> Doctor:
    return Doctor(nodes.environment, tmp_path)


def checks(*names: str) -> list[str]:
    return [part for name in names for part in ("--check", name)]


def state_of(view: dict[str, Any], check: str) -> str:
    return next(one["state"] for one in view["checks"] if one["check"] == check)


MACHINE = checks("config", "disk", "key_file", "fd_limit", "ports", "api_exposure")


def mended(doctor: Doctor, view: dict[str, Any], *options: str) -> bool:
    """What it tells to type is typed, and it finds nothing any more."""
    subprocess.run(view["root_cause"]["command"], shell=True, check=True)
    return doctor(*LOCAL, *options, *MACHINE)[0] == WELL


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
    assert f"TCP port {port} is in use by this very process ({os.getpid()})" in root["seen"]
    assert root["command"].startswith("kodectl node run --listen 127.0.0.1:")
    assert root["command"].split()[4].rpartition(":")[2] not in ("0", str(port))
    assert {f"--datadir {doctor.datadir}", "--discovery-port 0", "--no-lan"} <= set(
        re.findall(r"--\S+(?: [^-]\S*)?", root["command"])
    )


def test_who_holds_the_port_of_the_api_is_no_node_for_that(doctor):
    """It takes the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        api = f"127.0.0.1:{holder.getsockname()[1]}"
        doctor.environment = doctor.environment | {"XDG_DATA_HOME": str(doctor.datadir)}
        code, out = run(
            "--json", *LOCAL, "--api", api, "--timeout", "0.2", *checks("ports", "node"), env=doctor.environment
        )
    view = found_in(out)
    assert (code, view["root_cause"]["code"], state_of(view, "node")) == (FAILED, "port_in_use", "skipped")


def test_two_settings_with_one_port(doctor):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, view = doctor(*LOCAL, "--listen", f"127.0.0.1:{port}", "--api", f"127.0.0.1:{port}", *checks("ports"))
    assert (code, view["root_cause"]["code"]) == (FAILED, "port_in_use")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, for root only")
def test_a_full_disk(doctor, tmp_path):
    """Made larger, it is well."""
    small = tmp_path / "small"
    small.mkdir()
    doctor_there = f"{sys.executable} -m kodectl doctor --json --datadir {small} {' '.join([*LOCAL, *MACHINE])}"
    script = (
        f"mount -t tmpfs -o size=64k none {small}; {doctor_there}; mount -o remount,size=256m {small}; {doctor_there}"
    )
    command = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=doctor.environment, check=False)
    before, after = check_documents(done.stdout)
    root = before["error"]["details"]["root_cause"]
    assert (before["error"]["exit"], root["check"], root["code"]) == (FAILED, "disk", "disk_full")
    assert root["command"].startswith(f"df -h {small}")
    assert (after["ok"], done.returncode) == (True, WELL)


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
    assert mended(doctor, view)


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
    assert mended(doctor, view)


@pytest.mark.parametrize(
    ("limit", "code", "name"), [(60, FAILED, "too_many_open_files"), (200, DEGRADED, "fd_limit_low")]
)
def test_a_low_limit_of_open_files(doctor, limit, code, name):
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    found, view = ended(doctor.launch("--json", *LOCAL, *MACHINE, preexec_fn=lower))
    root = view["root_cause"]
    assert (found, root["check"], root["code"]) == (code, "fd_limit", name)
    kind, flag, number = root["command"].split()
    assert (kind, flag) == ("ulimit", "-n")
    limit = int(number)
    assert ended(doctor.launch("--json", *LOCAL, *MACHINE, preexec_fn=lower))[0] == WELL


def test_an_api_for_others_without_a_token(doctor):
    code, view = doctor(*LOCAL, "--api", "0.0.0.0:0", *MACHINE)
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "api_exposure", "api_token_required")
    assert mended(doctor, view, "--api", "0.0.0.0:0")


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
    assert mended(doctor, view)


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


# -- with a network, which is waited for: side by side ----------------------------------------------------------------------


class Examined(NamedTuple):
    first: NodeProcess
    second: NodeProcess
    silent: str
    """An enode of which nothing answers."""
    impostor: str
    """One at which another node is."""
    processes: dict[str, subprocess.Popen[str]]


STANDING_IN = ("bootstrap", "udp_egress", "clock", "table", "dials", "node")


@pytest.fixture(scope="module")
def examined(shared_nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examined]:
    first = shared_nodes.start("first")
    second = shared_nodes.start("second", "--bootstrap", first.enode)
    wait = shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(second.datadir))
    assert wait.returncode == 0
    doctor = Doctor(shared_nodes.environment, tmp_path_factory.mktemp("doctor"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute, socket.socket() as closed:
        mute.bind(("127.0.0.1", 0))
        closed.bind(mute.getsockname())
        port = mute.getsockname()[1]
        silent = f"enode://{'ab' * 32}@127.0.0.1:{port}?discport={port}"
        impostor = f"enode://{'cd' * 32}@{first.enode.partition('@')[2]}"
        alone = (*LOCAL, *PATIENTLY, "--json", "--bootstrap")
        processes = {
            "dead": doctor.launch(*alone, silent, *checks("addresses", "udp_egress", "bootstrap", "table")),
            "somebody else": doctor.launch(*alone, impostor, *checks("udp_egress", "bootstrap", "table")),
            "stand-in": doctor.launch(*alone, first.enode, *checks(*STANDING_IN)),
            "running": doctor.launch("--json", *PATIENTLY, datadir=second.datadir),
            "text": doctor.launch(*PATIENTLY, datadir=second.datadir),
            "lines": doctor.launch("--jsonl", *PATIENTLY, datadir=second.datadir),
        }
        yield Examined(first, second, silent, impostor, processes)
        for process in processes.values():
            process.kill()
            process.communicate()


def test_a_dead_bootstrap_node(examined):
    code, view = ended(examined.processes["dead"])
    root = view["root_cause"]
    assert (code, root["check"], root["code"]) == (FAILED, "bootstrap", "no_bootstrap_answered")
    assert root["command"] == f"kodectl peer ping '{examined.silent}'"
    assert {"udp_egress", "table"} <= set(root["consequences"])


def test_a_bootstrap_node_that_is_somebody_else(examined):
    """It is silent over UDP and answers over TCP, as in a network without UDP."""
    code, view = ended(examined.processes["somebody else"])
    assert (code, view["root_cause"]["check"], view["root_cause"]["code"]) == (FAILED, "bootstrap", "identity_mismatch")
    assert examined.first.id in view["root_cause"]["seen"]
    assert state_of(view, "udp_egress") == "ok"


def test_the_deadline_ends_the_checks_and_not_the_report(examined, doctor):
    """It is less than a silent bootstrap node takes to be known as such."""
    code, view = doctor(*LOCAL, "--bootstrap", examined.silent, "--deadline", "4.5", *checks("bootstrap", "disk"))
    assert (code, view["complete"]) == (DEGRADED, False)
    assert (state_of(view, "disk"), state_of(view, "bootstrap")) == ("ok", "unknown")


def test_a_stand_in_joins_leaves_and_keeps_nothing(examined, shared_nodes, eventually):
    code, view = ended(examined.processes["stand-in"])
    assert (code, view["examined"]["running"]) == (WELL, False)
    expected = {**dict.fromkeys(STANDING_IN, "ok"), "node": "skipped"}
    assert {check["check"]: check["state"] for check in view["checks"]} == expected
    assert not Path(view["examined"]["datadir"]).exists()

    def peers() -> int:
        told = shared_nodes.kodectl("node", "peers", "--datadir", str(examined.first.datadir), "--json")
        return json.loads(told.stdout)["data"]["count"]

    # The other node, and no stand-in.
    assert eventually(lambda: peers() == 1)


def test_a_node_that_runs_is_asked(examined):
    code, view = ended(examined.processes["running"])
    assert code == WELL, view["root_cause"]
    told = view["examined"]
    assert (told["running"], told["id"], told["pid"]) == (True, examined.second.id, examined.second.process.pid)
    assert state_of(view, "ports") == state_of(view, "bootstrap") == state_of(view, "node") == "ok"
    # It listens on loopback only.
    assert state_of(view, "nat_class") == state_of(view, "inbound_udp") == "skipped"


def test_text_has_a_line_for_each_check(examined):
    out, err = examined.processes["text"].communicate(timeout=60)
    table, _, end = out.partition("\n\n")
    assert [line.split()[1] for line in table.splitlines()] == list(CHECKS)
    assert end == "all is well, as far as 20 checks can tell\n"
    assert err == ""


def test_lines_come_as_checks_end_and_the_verdict_last(examined):
    out, _ = examined.processes["lines"].communicate(timeout=60)
    lines = [document["data"] for document in check_documents(out, lines=True)]
    assert {line["check"] for line in lines[:-1]} == set(CHECKS)
    assert (lines[-1]["state"], lines[-1]["root_cause"], "checks" in lines[-1]) == ("ok", None, False)


def test_a_key_that_was_changed_under_a_running_node(shared_nodes, examined, doctor):
    key = examined.first.datadir / "node.key"
    kept = key.read_bytes()
    try:
        assert shared_nodes.kodectl("key", "gen", str(key), "--force").returncode == 0
        code, view = doctor(*checks("key_file"), datadir=examined.first.datadir)
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


def test_ctrl_c_ends_it_and_what_was_found_stays(examined, doctor):
    """While a silent node is waited for."""
    with doctor.launch(*LOCAL, "--bootstrap", examined.silent, "--jsonl") as process:
        lines = [json.loads(process.stdout.readline())]
        process.send_signal(signal.SIGINT)
        lines += [json.loads(line) for line in process.stdout]
    assert (process.returncode, lines[-1]["error"]["code"]) == (INTERRUPTED, "interrupted")
    assert {line["data"]["check"] for line in lines[:-1]} < set(CHECKS)


def test_what_cannot_be_found_out_is_not_well(doctor):
    """Nobody is there to ask: neither a failure nor a success."""
    code, view = doctor(*LOCAL, *checks("udp_egress"))
    assert (code, view["state"], view["root_cause"]["code"]) == (DEGRADED, "unknown", None)


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["doctor", *arguments], env=env)
    return done.exit_code, done.stdout


def test_the_list_names_every_check():
    code, out = run("--list", "--json")
    assert (code, [row["check"] for row in found_in(out)["checks"]]) == (WELL, list(CHECKS))
    assert run("--list")[1].splitlines()[0].split() == ["check", "looks", "whether"]


@pytest.mark.parametrize(
    "arguments", [["--check", "heart"], ["--listen", "x"], ["--deadline", "0"], ["extra"]], ids=" ".join
)
def test_usage(arguments):
    code, out = run("--json", *arguments)
    assert (code, json.loads(out)["error"]["code"]) == (USAGE, "usage")
