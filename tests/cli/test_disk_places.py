"""Data directories that are full, read-only, gone, taken by two, or left behind half made: by `kodectl` on real file systems."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kodectl.api.api import Api, ApiSettings
from kodectl.api.files import SOCKET_FILE
from kodectl.runtime.green import GreenRuntime

REPOSITORY = Path(__file__).parents[2]
KODECTL = [sys.executable, "-m", "kodectl"]
ENVIRONMENT = 7
LIMIT_S = 60.0
FULL = 507
VALUE = {"value": base64.b64encode(bytes(500)).decode(), "ttl_s": 3600}

in_own_mount_namespace = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount namespace of its own",
)


def test_an_interrupt_while_it_is_still_being_imported_ends_it_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = subprocess.run([*KODECTL, "explain"], capture_output=True, env=environment, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_who_leaves_takes_no_socket_along_but_its_own(tmp_path: Path) -> None:
    """The directory was removed under one node, and made anew by another."""
    runtime = GreenRuntime()
    settings = ApiSettings(host="127.0.0.1", port=0, datadir=tmp_path)
    first = Api(runtime, settings)
    (tmp_path / SOCKET_FILE).rename(tmp_path / "moved")
    second = Api(runtime, settings)
    first.stop()
    assert (tmp_path / SOCKET_FILE).exists()
    second.stop()
    assert not (tmp_path / SOCKET_FILE).exists()
    runtime.close()


# -- the long ones ---------------------------------------------------------------------------------------------------


def asked(node: Any, method: str, path: str, body: Any = None) -> int:
    host, _, port = node.api.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=LIMIT_S)
    try:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@pytest.mark.slow
def test_killed_in_the_first_moments_of_its_life_it_begins_anew(nodes: Any, tmp_path: Path) -> None:
    """A hundred times; whatever identity there was after the kill is there after the next start."""
    rng = random.Random(1)
    found: Counter[str] = Counter()
    for number in range(100):
        name = f"n{number}"
        node = nodes.launch(name)
        time.sleep(rng.uniform(0.2, 0.9))  # when it falls is what is tried
        node.leave(signal.SIGKILL)
        key = node.datadir / "node.key"
        before = key.read_bytes() if key.exists() else None
        found.update(path.name.partition(".node.key.")[0] or "unfinished key" for path in node.datadir.glob("*"))
        again = nodes.start(name)
        assert again.ready["warnings"] == []
        assert before in (None, key.read_bytes())
        assert again.leave() == 0
        assert "Traceback" not in again.log.read_text()
        shutil.rmtree(node.datadir)
    print(dict(found))


@pytest.mark.slow
def test_of_three_that_start_at_once_one_gets_the_directory(nodes: Any, tmp_path: Path) -> None:
    for turn in range(10):
        datadir = tmp_path / f"shared{turn}"
        three = [nodes.launch(f"{turn}{name}", "--datadir", str(datadir)) for name in "abc"]
        for node in three:
            deadline = time.monotonic() + LIMIT_S
            while not node.output.read_text().endswith("\n"):
                assert time.monotonic() < deadline, node.log.read_text()
                time.sleep(0.02)
        (winner,) = [node for node in three if json.loads(node.output.read_text().splitlines()[0])["ok"]]
        for node in three:
            if node is not winner:
                assert node.process.wait(LIMIT_S) == ENVIRONMENT
                error = json.loads(node.output.read_text())["error"]
                assert error["code"] == "datadir_in_use"
        winner.leave(signal.SIGKILL)
        assert nodes.start(f"{turn}d", "--datadir", str(datadir)).leave() == 0


@pytest.mark.slow
def test_told_to_leave_at_any_moment_of_its_start_it_does(nodes: Any) -> None:
    """By SIGTERM: Python itself answers SIGINT with a traceback while it starts."""
    for turn in range(60):
        node = nodes.launch("a")
        time.sleep(turn * 0.02)
        # -SIGTERM: before there was anything to leave in an orderly way.
        assert node.leave() in (0, 128 + signal.SIGTERM, -signal.SIGTERM), node.log.read_text()
        assert not (node.datadir / "api.sock").exists()
    assert "Traceback" not in node.log.read_text()
    assert nodes.start("a").leave() == 0


@pytest.mark.slow
def test_stopped_for_a_minute_it_goes_on(nodes: Any) -> None:
    one = nodes.start("a")
    other = nodes.start("b", "--bootstrap", one.enode)
    assert nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(one.datadir)).returncode == 0
    one.process.send_signal(signal.SIGSTOP)
    time.sleep(60)
    one.process.send_signal(signal.SIGCONT)
    assert asked(one, "PUT", "/api/dht/after", VALUE) == 200
    assert nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(one.datadir)).returncode == 0
    assert [one.leave(), other.leave()] == [0, 0]
    assert "Traceback" not in one.log.read_text() + other.log.read_text()


MOUNTED = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from conftest import Nodes
from test_disk_places import on_a_small_disk, on_a_disk_that_becomes_read_only
nodes = Nodes(Path(sys.argv[2]))
try:
    globals()[sys.argv[3]](nodes, Path(sys.argv[2]))
finally:
    nodes.end()
"""


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def on_a_small_disk(nodes: Any, place: Path) -> None:
    node = nodes.start("a")
    assert asked(node, "PUT", "/api/dht/before", VALUE) == 200
    fill(place / "ballast")
    assert asked(node, "PUT", "/api/dht/full", VALUE) == FULL
    assert asked(node, "POST", f"/api/network/ban/{'ab' * 32}", {}) == FULL
    assert asked(node, "GET", "/readyz") == 503
    assert asked(node, "GET", "/api/dht/full") == 200  # it goes on with what it has in memory
    for arguments in (["key", "gen", str(place / "k")], ["config", "init", "--config", str(place / "c")]):
        done = nodes.kodectl(*arguments, "--json")
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["code"]) == (ENVIRONMENT, "disk_full")
    (place / "ballast").unlink()
    assert asked(node, "PUT", "/api/dht/room", VALUE) == 200
    assert asked(node, "POST", f"/api/network/ban/{'cd' * 32}", {}) == 200
    assert asked(node, "GET", "/readyz") == 200
    fill(place / "ballast")
    node.leave(signal.SIGKILL)
    (place / "ballast").unlink()
    again = nodes.start("a")
    assert [asked(again, "GET", f"/api/dht/{key}") for key in ("before", "full", "room")] == [200] * 3
    assert again.leave() == 0
    assert "Traceback" not in again.log.read_text()


def on_a_disk_that_becomes_read_only(nodes: Any, place: Path) -> None:
    assert nodes.start("a").leave() == 0
    datadir = str(place / "a")
    subprocess.run(["mount", "--bind", datadir, datadir], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", datadir], check=True)
    node = nodes.launch("a")
    assert node.process.wait(LIMIT_S) == ENVIRONMENT
    error = json.loads(node.output.read_text())["error"]
    assert (error["code"], "Read-only" in error["message"]) == ("path_unwritable", True)
    subprocess.run(["umount", datadir], check=True)
    assert nodes.start("a").leave() == 0


@pytest.mark.slow
@in_own_mount_namespace
@pytest.mark.parametrize("course", ["on_a_small_disk", "on_a_disk_that_becomes_read_only"])
def test_disks(tmp_path: Path, course: str) -> None:
    mounted = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$2" -c "$3" "$4" "$1" "$5"'
    arguments = [tmp_path, sys.executable, MOUNTED, f"{Path(__file__).parent}", course]
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}:{Path(__file__).parent}"}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
