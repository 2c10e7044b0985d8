"""`kodectl node top`: without a terminal, and in a real one (tmux), with nodes that come and go."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, NodeProcess, Nodes
from published import check_documents

from kodectl.api.files import SOCKET_FILE
from kodectl.cli.client import Endpoint, NodeClient
from kodectl.cli.node_top_look import Looker
from kodectl.errors import NodeUnreachable

TOP = ("node", "top")


@pytest.fixture(scope="module")
def pair(shared_nodes: Nodes) -> list[NodeProcess]:
    first = shared_nodes.start("a")
    second = shared_nodes.start("b", "--bootstrap", first.enode)
    done = shared_nodes.kodectl("node", "wait", "--for", "peers=1", "--datadir", str(first.datadir))
    assert done.returncode == 0, done.stderr
    return [first, second]


# -- without a terminal ------------------------------------------------------------------------------------------------


def test_into_a_pipe_it_prints_one_frame_without_decoration(pair: list[NodeProcess], shared_nodes: Nodes) -> None:
    first, second = pair
    done = shared_nodes.kodectl(*TOP, "--datadir", str(first.datadir))
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "\x1b" not in text
    assert {
        word for word in ("1 peer", "buckets", "nat ", second.id[:8], "peer connected") if word not in text
    } == set()
    coloured = shared_nodes.kodectl(*TOP, "--datadir", str(first.datadir), "--color", "always").stdout.decode()
    assert "\x1b[" in coloured


def test_documents_come_one_each_interval(pair: list[NodeProcess], shared_nodes: Nodes) -> None:
    first, second = pair
    at = ("--datadir", str(first.datadir))
    done = shared_nodes.kodectl(*TOP, *at, "--jsonl", "--interval", "0.2", "--count", "3")
    assert (done.returncode, done.stderr) == (0, b"")
    looks = [document["data"] for document in check_documents(done.stdout, lines=True)]
    assert len(looks) == 3
    assert [one["id"] for one in looks[0]["peers"]] == [second.id]
    assert "ready" in {event["type"] for event in looks[0]["events"]}
    numbers = [event["seq"] for look in looks for event in look["events"]]
    assert sorted(set(numbers)) == numbers, "each event once"


def test_one_look_has_rates_from_the_node_s_own_samples(
    pair: list[NodeProcess], shared_nodes: Nodes, eventually: Callable[..., Any]
) -> None:
    def has_rates() -> bool:
        done = shared_nodes.kodectl(*TOP, "--datadir", str(pair[0].datadir), "--json")
        (document,) = check_documents(done.stdout)
        assert document["data"]["status"]["id"] == pair[0].id
        return document["data"]["rates"]["bytes_sent_per_second"] is not None

    eventually(has_rates)


def test_a_node_that_was_started_anew_is_seen_from_its_beginning(nodes: Nodes, eventually: Callable[..., Any]) -> None:
    first = nodes.start("a")
    client = NodeClient(Endpoint(unix=first.datadir / SOCKET_FILE), 5.0)
    looker = Looker(client)
    eventually(lambda: looker.look().view.rates.bytes_sent_per_second is not None)
    assert not looker.look().view.events
    first.leave()
    with pytest.raises(NodeUnreachable):
        looker.look()
    nodes.start("a")
    view, samples = looker.look()
    assert view.rates.bytes_sent_per_second is None
    assert samples[0].at_s < 1
    assert view.events[0].type == "ready"
    client.close()


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (("--interval", "0.1"), 2, "usage"),
        (("--interval", "soon"), 2, "usage"),
        (("--count", "0"), 2, "usage"),
        (("--sort", "name"), 2, "usage"),
        ((), 5, "node_not_running"),
        (("--jsonl",), 5, "node_not_running"),
    ],
)
def test_what_it_refuses(options: tuple[str, ...], code: int, error: str, shared_nodes: Nodes, tmp_path: Path) -> None:
    done = shared_nodes.kodectl(
        *TOP, "--datadir", str(tmp_path), *options, *([] if options == ("--jsonl",) else ["--json"])
    )
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (code, error)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_stream_with_its_code(
    number: int, code: int, pair: list[NodeProcess], shared_nodes: Nodes
) -> None:
    command = [sys.executable, "-m", "kodectl", *TOP, "--datadir", str(pair[0].datadir), "--jsonl", "--interval", "0.2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=shared_nodes.environment
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(number)
        rest, complaint = process.communicate(timeout=20)
    assert process.returncode == code, complaint
    *looks, end = check_documents(b"".join(lines) + rest, lines=True)
    assert all(look["ok"] for look in looks)
    assert end["error"]["exit"] == code


# -- in a terminal -----------------------------------------------------------------------------------------------------


class Pane:
    """A shell in a terminal of tmux's, on a server of this test's own."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(place / "s"), "-f", os.devnull]
        self._environment = environment | {"TERM": "xterm-256color", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
        self.place = place
        # Asked of the shell: tmux gives the variables of its server to it.
        self.call("new-session", "-d", "-x", "80", "-y", "24", "-c", str(REPOSITORY), "sh")

    def call(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=self._environment, capture_output=True, check=False, timeout=20
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def press(self, *keys: str) -> None:
        self.call("send-keys", *keys)

    def type(self, line: str) -> None:
        self.call("send-keys", "-l", line)
        self.press("Enter")

    def screen(self) -> str:
        return self.call("capture-pane", "-p")

    def resize(self, width: int, height: int) -> None:
        self.call("resize-window", "-x", str(width), "-y", str(height))

    def modes(self) -> list[str]:
        """Whether the other screen is shown, and the cursor."""
        return self.call("display-message", "-p", "#{alternate_on} #{cursor_flag}").split()

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=20)


@pytest.fixture
def pane(nodes: Nodes) -> Iterator[Pane]:
    if shutil.which("tmux") is None:
        pytest.skip("a real terminal needs the Debian package tmux")
    # A short path: that of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="top") as place:
        opened = Pane(Path(place), nodes.environment)
        yield opened
        opened.close()


class Top:
    """`node top` in a pane, between two looks at what the terminal is set to."""

    def __init__(self, pane: Pane, node: NodeProcess, eventually: Callable[..., Any], *options: str) -> None:
        self._pane = pane
        self._eventually = eventually
        command = shlex.join([sys.executable, "-m", "kodectl", *TOP, "--datadir", str(node.datadir), *options])
        self.pid_file = pane.place / "pid"
        inner = f"echo $$ > {self.pid_file}; exec {command}"
        pane.type(f"cd {REPOSITORY}; stty -a > {pane.place}/before; clear")
        pane.type(f"sh -c {shlex.quote(inner)}; echo code=$?; stty -a > {pane.place}/after; echo d''one")

    def shows(self, *words: str) -> str:
        def look() -> str:
            screen = self._pane.screen()
            return screen if all(word in screen for word in words) else ""

        try:
            found: str = self._eventually(look)
        except AssertionError:
            pytest.fail(f"{words} not in\n{self._pane.screen()}")
        return found

    def signal(self, number: int) -> None:
        os.kill(int(self.pid_file.read_text()), number)

    def ends_with(self, code: int) -> None:
        self.shows(f"code={code}", "done")
        assert self._pane.modes() == ["0", "1"]
        before, after = ((self._pane.place / name).read_text() for name in ("before", "after"))
        assert before == after


def peers_line(screen: str) -> str:
    return next(line for line in screen.splitlines() if line.startswith("id  "))


def test_it_follows_a_node_live_sorts_and_quits(nodes: Nodes, pane: Pane, eventually: Callable[..., Any]) -> None:
    first = nodes.start("a")
    top = Top(pane, first, eventually, "--interval", "0.2")
    top.shows("no peers", "kodectl doctor", "buckets", "received")
    assert pane.modes() == ["1", "0"]
    second = nodes.start("b", "--bootstrap", first.enode)
    screen = top.shows("1 peer,", second.id[:8], "peer connected")
    assert "latency▾" in peers_line(screen)
    pane.press("s")
    assert "trust▾" in peers_line(top.shows("sort by trust"))
    pane.press("p")
    top.shows("paused")
    second.leave()
    pane.press("?")
    assert "1 peer," not in top.shows("Page Up")
    pane.press("Escape")
    top.shows("paused", "1 peer,", second.id[:8])
    pane.press("p")
    assert "paused" not in top.shows("no peers yet", "peer disconnected")
    pane.press("q")
    top.ends_with(0)


def test_a_node_that_goes_is_waited_for(nodes: Nodes, pane: Pane, eventually: Callable[..., Any]) -> None:
    first = nodes.start("a")
    top = Top(pane, first, eventually, "--interval", "0.2")
    top.shows("no peers")
    first.leave()
    top.shows("no answer", "trying again", "quit")
    nodes.launch("a")
    assert "trying" not in top.shows("ready, up")
    pane.press("q")
    top.ends_with(0)


def test_it_fits_every_size(nodes: Nodes, pane: Pane, eventually: Callable[..., Any]) -> None:
    top = Top(pane, nodes.start("a"), eventually, "--interval", "3600")
    top.shows("no peers", "? help")
    pane.resize(200, 60)
    screen = top.shows("priority", "0.1.0, 127.0.0.1")
    assert "? help" in screen.rstrip("\n").splitlines()[59]
    pane.resize(24, 4)
    assert len(top.shows("kodechain", "no peers").rstrip("\n").splitlines()) <= 4
    pane.resize(80, 24)
    assert "? help" in top.shows("? help", "buckets").rstrip("\n").splitlines()[23]
    pane.press("C-c")
    top.ends_with(130)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_give_the_terminal_back(
    number: int, code: int, nodes: Nodes, pane: Pane, eventually: Callable[..., Any]
) -> None:
    top = Top(pane, nodes.start("a"), eventually)
    top.shows("no peers")
    top.signal(number)
    top.ends_with(code)


def test_control_z_gives_it_back_for_a_while(nodes: Nodes, pane: Pane, eventually: Callable[..., Any]) -> None:
    top = Top(pane, nodes.start("a"), eventually)
    top.shows("no peers")
    pane.press("C-z")
    top.shows("code=", "done")
    assert pane.modes() == ["0", "1"]
    assert (pane.place / "before").read_text() == (pane.place / "after").read_text()
    pane.type("clear; fg; echo again=$?")
    top.shows("no peers", "? help")
    assert pane.modes() == ["1", "0"]
    pane.press("q")
    top.shows("again=0")
    assert pane.modes() == ["0", "1"]


# -- signals at any moment ---------------------------------------------------------------------------------------------

OTHER_SCREEN, FIRST_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, VISIBLE = b"\x1b[?25l", b"\x1b[?25h"


def run_and_signal(node: NodeProcess, environment: dict[str, str], rng: random.Random) -> None:
    """Sends up to five signals one right after the other, at some moment, mostly after the other screen has come."""
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        command = [sys.executable, "-m", "kodectl", *TOP, "--datadir", str(node.datadir), "--interval", "0.2"]
        with subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=REPOSITORY,
            env=environment | {"TERM": "xterm-256color"},
            start_new_session=True,
        ) as process:
            signals = rng.choices([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], k=rng.choice([1, 2, 5]))
            shown = b""
            if rng.random() < 0.7:
                while OTHER_SCREEN not in shown:
                    assert process.poll() is None, shown
                    shown += _read(ours, 0.01)
            shown += _read(ours, rng.uniform(0.0, 0.5))
            for number in signals:
                process.send_signal(number)
            while process.poll() is None:
                shown += _read(ours, 0.05)
            shown += _read(ours, 0.0)
        assert termios.tcgetattr(theirs) == before, signals
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.count(OTHER_SCREEN) == shown.count(FIRST_SCREEN), signals
    assert shown.rfind(OTHER_SCREEN) <= shown.rfind(FIRST_SCREEN), signals
    assert shown.rfind(HIDDEN) <= shown.rfind(VISIBLE), signals


def _read(descriptor: int, limit_s: float) -> bytes:
    """Everything that comes within `limit_s`."""
    read = b""
    ends = time.monotonic() + limit_s
    while select.select([descriptor], [], [], max(0.0, ends - time.monotonic()))[0]:
        read += os.read(descriptor, 65_536)
    return read


@pytest.mark.parametrize("moments", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_signals_at_any_moment_leave_the_terminal_as_it_was(
    moments: int, pair: list[NodeProcess], shared_nodes: Nodes
) -> None:
    rng = random.Random(moments)
    for _ in range(moments):
        run_and_signal(pair[0], shared_nodes.environment, rng)
