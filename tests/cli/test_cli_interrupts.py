"""Commands that are ended from outside, as processes: signals, closed pipes, a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
KODECTL = [sys.executable, "-m", "kodectl"]
LIMIT_S = 20


@contextmanager
def pinging(
    nodes: Any, *options: str, count: int = 100_000, interval_s: float = 0.02
) -> Iterator[subprocess.Popen[str]]:
    """An endless `peer ping`, after its first line."""
    node = nodes.start("a")
    command = [*KODECTL, "peer", "ping", node.enode, "-c", str(count), "-i", str(interval_s), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=nodes.environment
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("interval_s", [0.02, 60.0])
@pytest.mark.parametrize(
    ("number", "exit_code", "code"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_it_with_a_summary(nodes: Any, number: int, exit_code: int, code: str, interval_s: float) -> None:
    with pinging(nodes, "--json", interval_s=interval_s) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.send_signal(number)
        # Not `communicate`, which does not see what readline has read ahead.
        lines = process.stdout.read().splitlines()
        stderr = process.stderr.read()
        process.wait(LIMIT_S)
    assert (process.returncode, stderr) == (exit_code, f"kodectl: error: {code}\n")
    *_, summary, end = map(json.loads, lines)
    assert summary["data"]["event"] == "summary"
    assert summary["data"]["received"] >= 1
    assert (end["error"]["code"], end["error"]["exit"]) == (code, exit_code)


def test_a_closed_pipe_ends_it_without_a_word(nodes: Any) -> None:
    with pinging(nodes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(LIMIT_S) == 141
        assert process.stderr.read() == ""


@pytest.mark.parametrize("words", ["explain", "explain --json", "explain busy", "--help", "--version", "key --help"])
def test_a_pipe_that_nobody_reads(words: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*KODECTL, *words.split()], stdout=writer, stderr=subprocess.PIPE, cwd=REPOSITORY, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["explain", "explain --json", "explain busy"])
def test_a_full_disk(words: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*KODECTL, *words.split()], stdout=full, stderr=subprocess.PIPE, cwd=REPOSITORY, check=False
        )
    assert done.returncode == 7
    said, hint = done.stderr.decode().splitlines()
    assert said == "kodectl: error: cannot write to stdout: No space left on device"
    assert hint == "hint: kodectl explain output_failed"


def test_without_stdout_it_still_works(tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    done = subprocess.run(
        ["sh", "-c", '"$0" -m kodectl key gen "$1" >&-', sys.executable, str(key)], cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0
    assert key.read_text().startswith("-----BEGIN PRIVATE KEY-----")


def test_an_ignored_interrupt_stays_ignored(nodes: Any) -> None:
    node = nodes.start("a")
    shell = 'trap "" INT; exec "$@"'
    command = ["sh", "-c", shell, "sh", *KODECTL, "peer", "ping", node.enode, "-c", "2", "-i", "0.3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=nodes.environment)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "taken_down"), [("explain busy", True), ("peer ping 127.0.0.1:9 -c 1 --timeout 0.2", False)]
)
def test_with_threads_of_gevent_the_interpreter_is_not_taken_down(words: str, taken_down: bool) -> None:
    """A thread that wakes up while it is would crash the process."""
    source = "import atexit; from kodectl.cli.main import main; atexit.register(print, 'taken down'); main()"
    command = [sys.executable, "-c", source, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == (0 if taken_down else 3)
    assert done.stdout.endswith("taken down\n") is taken_down
