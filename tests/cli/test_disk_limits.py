"""Commands in processes that may have little: descriptors, memory, threads. An error with its code, and no traceback."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = 7
LIMIT_S = 60


def limited(what: int, limit: int) -> Callable[[], None]:
    """For the child, before it becomes the command."""
    return lambda: resource.setrlimit(what, (limit, limit))


def run_limited(nodes: Any, what: int, limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kodectl", *arguments],
        preexec_fn=limited(what, limit),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=nodes.environment,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("what", "limit", "code"),
    [
        (resource.RLIMIT_NOFILE, 10, "too_many_open_files"),  # the event loop would abort
        (resource.RLIMIT_NOFILE, 63, "too_many_open_files"),
        (resource.RLIMIT_AS, 100 << 20, "out_of_memory"),  # a library would crash
    ],
)
def test_a_node_does_not_start_with_too_little(nodes: Any, tmp_path: Path, what: int, limit: int, code: str) -> None:
    done = run_limited(nodes, what, limit, "node", "run", "--json", "--datadir", str(tmp_path / "a"))
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], error["exit"]) == (ENVIRONMENT, code, ENVIRONMENT)
    assert error["hint"].startswith("ulimit")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("limit_mib", [24, 48])
def test_a_command_without_memory_says_so(nodes: Any, tmp_path: Path, limit_mib: int) -> None:
    arguments = ["peer", "ping", "127.0.0.1:9", "-c", "1", "--timeout", "0.1"]
    done = run_limited(nodes, resource.RLIMIT_AS, limit_mib << 20, *arguments)
    assert done.returncode == ENVIRONMENT, done.stderr
    assert "the system grants this process too little memory" in done.stderr
    assert "Traceback" not in done.stderr


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


@contextmanager
def pressed(places: list[tuple[str, int]], unix: Path, rounds: int) -> Iterator[None]:
    """Connections to all of them that are held and say nothing."""
    with ExitStack() as held:
        for _ in range(rounds):
            for family, place in [*((socket.AF_INET, place) for place in places), (socket.AF_UNIX, os.fspath(unix))]:
                sock = held.enter_context(socket.socket(family))
                sock.settimeout(0.2)
                try:
                    sock.connect(place)
                except OSError:
                    pass
            time.sleep(0.05)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("limit", [64, 70, 90])
def test_strangers_who_take_all_descriptors_do_not_end_a_node(nodes: Any, tmp_path: Path, limit: int) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with output.open("w") as stdout, log.open("w") as stderr:
        process = subprocess.Popen(
            nodes.command("a", "--nat", "auto"),
            preexec_fn=limited(resource.RLIMIT_NOFILE, limit),
            stdout=stdout,
            stderr=stderr,
            cwd=REPOSITORY,
            env=nodes.environment,
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not output.read_text().endswith("\n"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        listeners = json.loads(output.read_text().splitlines()[0])["data"]["listeners"]
        places = [address_of(listeners["tcp"]), address_of(listeners["api"][0])]
        with pressed(places, tmp_path / "a" / "api.sock", rounds=200):
            assert process.poll() is None, log.read_text()
        health = ("node", "health", "ready", "--datadir", str(tmp_path / "a"))
        while nodes.kodectl(*health).returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline + LIMIT_S
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
        assert "Too many open files" in log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
