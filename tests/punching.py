"""Two programs that speak the lines of `nat punch --jsonl`, introduced to each other."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Timer
from typing import Any

from natlab.needs import LIBNICE_PYTHON

TESTS = Path(__file__).parent
GO_SOURCES = "/usr/share/gocode"
"""Of Debian's packages."""
LIMIT_S = 60.0
"""Of one program; then it is killed."""

Start = Callable[..., "Popen[str]"]


def ours(role: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "kodectl", "nat", "punch", "--jsonl", "--role", role, *options]


def aioice(role: str, count: int, *options: str) -> list[str]:
    return [sys.executable, str(TESTS / "aioice_peer.py"), role, str(count), *options]


def libnice(role: str, count: int, *options: str) -> list[str]:
    return [LIBNICE_PYTHON, str(TESTS / "libnice_peer.py"), role, str(count), *options]


@functools.cache
def pion_program() -> str | None:
    """The agent in Go, built once; None where Debian's Go and Pion (golang-go, golang-github-pion-ice.v2-dev) are not there."""
    if shutil.which("go") is None or not Path(GO_SOURCES, "src/github.com/pion/ice").exists():
        return None
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    source = place / "src" / "pion_peer"
    source.mkdir(parents=True)
    shutil.copy(TESTS / "pion_peer.go", source / "main.go")
    settings = {"GO111MODULE": "off", "GOPATH": f"{place}:{GO_SOURCES}", "GOCACHE": str(place / "cache")}
    subprocess.run(["go", "build", "-o", str(place / "peer"), "."], cwd=source, env=os.environ | settings, check=True)
    return str(place / "peer")


def pion(role: str, count: int, *options: str) -> list[str]:
    """Of our options, those that it has."""
    program = pion_program()
    assert program is not None, "asked for where it is there"
    given = dict(zip(options[::2], options[1::2], strict=False))
    relay = ["relay"] if "--relay-only" in options else []
    return [program, role, str(count), given.get("--stun", "-"), given.get("--turn", "-"), *relay]


class Program:
    """`start` is Popen, or that of a host in the lab."""

    def __init__(self, command: Sequence[str], start: Start = Popen, **options: Any) -> None:
        self.process = start(command, cwd=TESTS.parent, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, **options)
        self._limit = Timer(LIMIT_S, self.process.kill)
        self._limit.start()
        self.ticket = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, ticket: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(ticket)
        self.process.stdin.flush()

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """The exit code, and the lines after the ticket."""
        out, err = self.process.communicate()
        self._limit.cancel()
        assert "Traceback" not in err, err
        return self.process.returncode, [json.loads(line) for line in out.splitlines()]


def introduce(one: Program, other: Program) -> None:
    """The other one hears of the first one first."""
    other.tell(one.ticket)
    one.tell(other.ticket)


def event(lines: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    found = [line for line in lines if line.get("event") == name]
    assert len(found) == 1, lines
    return found[0]
