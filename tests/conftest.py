"""Nodes as processes of their own, on loopback, for the tests of the API and of the command line."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from published import check_documents

REPOSITORY = Path(__file__).parents[1]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 40.0
PATIENCE_S = 60.0
"""Such limits end what hangs. How fast something is, on a machine that does nothing else, is measured in bench/."""

# Hypothesis would fail an example that takes a fifth of a second, which on a busy machine any of them may.
settings.register_profile("without time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without time")


def environment(home: Path) -> dict[str, str]:
    """No configuration but the test's own, and no bootstrap nodes on the internet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KODECTL_")}
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "KODECTL_BOOTSTRAP": ""}


@dataclass
class NodeProcess:
    """`kodectl node run --json` with its own data directory; `ready` is the line that it begins with."""

    datadir: Path
    process: subprocess.Popen
    output: Path
    log: Path
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def enode(self) -> str:
        return self.ready["enode"]

    @property
    def id(self) -> str:
        return self.ready["id"]

    @property
    def api(self) -> str:
        return self.ready["listeners"]["api"][0]

    def lines(self) -> list[dict[str, Any]]:
        return [document["data"] for document in check_documents(self.output.read_text())]

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self.output.read_text().endswith("\n"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.ready = self.lines()[0]

    def leave(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT_S)


class Nodes:
    def __init__(self, home: Path) -> None:
        self._home = home
        self.environment = environment(home)
        self._started: list[NodeProcess] = []

    def command(self, name: str, *options: str) -> list[str]:
        """Options given here come last and win."""
        command = [sys.executable, "-m", "kodectl", "node", "run", "--json", "--datadir", str(self._home / name)]
        return [
            *command,
            "--no-lan",
            "--nat",
            "none",
            "--listen",
            "127.0.0.1:0",
            "--discovery-port",
            "0",
            "--api",
            "127.0.0.1:0",
            *options,
        ]

    def launch(self, name: str, *options: str) -> NodeProcess:
        """Starts without waiting."""
        output, log = self._home / f"{name}.out", self._home / f"{name}.log"
        command = self.command(name, *options)
        with output.open("w") as stdout, log.open("a") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=REPOSITORY, env=self.environment)
        node = NodeProcess(self._home / name, process, output, log)
        self._started.append(node)
        return node

    def start(self, name: str, *options: str) -> NodeProcess:
        node = self.launch(name, *options)
        node.wait_ready()
        return node

    def trio(self) -> list[NodeProcess]:
        """Three nodes that have found each other through the first."""
        first = self.start("a")
        others = [self.launch(name, "--bootstrap", first.enode) for name in ("b", "c")]
        for node in others:
            node.wait_ready()
        for node in (first, *others):
            assert self.kodectl("node", "wait", "--for", "peers=2", "--datadir", str(node.datadir)).returncode == 0
        return [first, *others]

    def kodectl(self, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess:
        """A command, with its streams as bytes; what it prints as JSON must be as published."""
        done = subprocess.run(
            [sys.executable, "-m", "kodectl", *arguments],
            input=input,
            capture_output=True,
            cwd=REPOSITORY,
            env=self.environment,
            timeout=PATIENCE_S,
        )
        check_documents(done.stdout, lines="--jsonl" in arguments)
        return done

    def end(self) -> None:
        for node in self._started:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    started = Nodes(tmp_path)
    yield started
    started.end()


@pytest.fixture(scope="module")
def shared_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """For tests that leave the nodes as they found them."""
    started = Nodes(tmp_path_factory.mktemp("nodes"))
    yield started
    started.end()


@pytest.fixture(autouse=True)
def log_of_the_package_untouched() -> Iterator[None]:
    """A command that runs in this process makes the log its own; what the next test reads of it must not depend on it."""
    log = logging.getLogger("kodectl")
    handlers, level, propagates = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagates
    log.setLevel(level)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Calls until the answer is true, for processes that need a moment; answers it."""

    def wait_for(look: Callable[[], Any], limit_s: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := look()):
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.05)
        return found

    return wait_for
