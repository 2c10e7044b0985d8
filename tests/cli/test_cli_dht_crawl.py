"""`kodectl dht crawl` as it is typed, against a swarm of real nodes: what it prints and writes, and what is left of it when it is
killed."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from conftest import REPOSITORY, Nodes, environment
from published import check_documents

from kodectl.cli.dht_crawl import _failure_of
from kodectl.cli.main import cli
from kodectl.node.crawl_views import CrawlView

SWARM = REPOSITORY / "tests" / "dht_swarm.py"
NOBODY = f"enode://{'ab' * 32}@127.0.0.1:9?discport=9"
CRAWL = [sys.executable, "-m", "kodectl", "dht", "crawl"]


class Swarm(NamedTuple):
    enode: str
    live: set[str]
    dead: set[str]
    environment: dict[str, str]

    def command(self, *options: str) -> list[str]:
        return [*CRAWL, "--bootstrap", self.enode, *options]

    def crawl(self, *options: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(*options), capture_output=True, cwd=REPOSITORY, env=self.environment, timeout=120, **how
        )
        if "--jsonl" in options or "--json" in options:
            check_documents(done.stdout, lines="--jsonl" in options)
        return done


@contextmanager
def swarm_of(home: Path, live: int, dead: int, liars: int) -> Iterator[Swarm]:
    there = environment(home) | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, str(SWARM), str(live), str(dead), str(liars)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=there,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Swarm(told["enode"], set(told["live"]), set(told["dead"]), there)
        process.stdin.close()


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Some of its nodes are dead: that takes a crawl four seconds to know."""
    with swarm_of(tmp_path_factory.mktemp("swarm"), 120, 6, 1) as found:
        yield found


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """All of its nodes answer."""
    with swarm_of(tmp_path_factory.mktemp("lively"), 60, 0, 0) as found:
        yield found


@pytest.fixture(scope="module")
def begun(lively: Swarm, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state file of a crawl that has just begun."""
    state = tmp_path_factory.mktemp("begun") / "state"
    assert lively.crawl("--state", str(state), "--max-nodes", "2", "--rate", "1000").returncode == 4
    return state.read_bytes()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """The error of going on with a state file, in this process."""
    for name in [name for name in os.environ if name.startswith("KODECTL_")]:
        monkeypatch.delenv(name)

    def crawl(state: Path) -> dict[str, Any]:
        words = ["dht", "crawl", "--bootstrap", NOBODY, "--state", str(state), "--resume", "--json"]
        result = CliRunner().invoke(cli, words, env={"XDG_CONFIG_HOME": "/nonexistent"})
        error: dict[str, Any] = json.loads(result.stdout)["error"]
        assert result.exit_code == error["exit"] == 7
        return error

    return crawl


def data_of(output: bytes) -> list[dict[str, Any]]:
    documents = [json.loads(line) for line in output.splitlines()]
    return [one["data"] if one["ok"] else one["error"].get("details", one["error"]) for one in documents]


def nodes_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("event") == "node"]


def lines_of(state: Path) -> list[dict[str, Any]]:
    """Every line, the last one too, unless it was cut."""
    whole, _, cut = state.read_bytes().rpartition(b"\n")
    assert not cut or not cut.endswith(b"}")
    return [json.loads(line) for line in whole.splitlines()]


def reachable(nodes: list[dict[str, Any]]) -> set[str]:
    return {node["id"] for node in nodes if node["reachable"]}


def test_it_finds_everybody_and_tells_who_is_gone(swarm: Swarm, tmp_path: Path) -> None:
    state = tmp_path / "crawl.jsonl"
    done = swarm.crawl("--rate", "1000", "--state", str(state), "--jsonl")
    assert done.returncode == 0, done.stderr
    *nodes, summary = data_of(done.stdout)
    assert reachable(nodes) == swarm.live
    assert swarm.dead <= {node["id"] for node in nodes if not node["reachable"]}
    assert (summary["ended"], summary["found"], summary["reachable"]) == ("complete", len(nodes), len(swarm.live))
    assert {one["network"]: one["nodes"] for one in summary["by_network"]} == {"127.1.0.0/24": 100, "127.1.1.0/24": 20}
    assert summary["by_reason"] == {"timeout": summary["unreachable"]}
    assert summary["unreachable"] < len(swarm.dead) + 40, "a liar is believed for a while only"
    assert summary["unasked_by_reason"]["doubted_source"] == summary["unasked"] > 200
    assert nodes_of(lines_of(state)) == nodes
    assert state.stat().st_mode & 0o777 == 0o600

    # Once more there is nothing left to ask; another network is another crawl.
    again = swarm.crawl("--state", str(state), "--resume", "--jsonl")
    (summary,) = data_of(again.stdout)
    assert (again.returncode, summary["questions"], summary["reachable"]) == (0, 0, len(swarm.live))
    assert summary["remembered"] == len(nodes)
    other = swarm.crawl("--state", str(state), "--resume", "--network", "other", "--json")
    assert (other.returncode, data_of(other.stdout)[-1]["code"]) == (2, "crawl_of_other_network")
    exists = swarm.crawl("--state", str(state), "--json")
    assert (exists.returncode, data_of(exists.stdout)[-1]["code"]) == (7, "crawl_exists")


def test_text_for_people(lively: Swarm) -> None:
    done = lively.crawl("--max-nodes", "20", "--rate", "1000")
    *nodes, found, networks, questions = done.stdout.decode().splitlines()
    assert len(nodes) == 20
    assert len({line.index("named by") for line in nodes}) == 1, "in columns"
    assert found == "20 nodes found: 20 reachable, 0 unreachable"
    assert networks.startswith("networks: 127.1.0.0/24 ")
    assert "questions in" in questions
    assert "nodes still to be asked" in questions
    assert done.returncode == 4
    assert b"--max-nodes have answered" in done.stderr


def test_a_limit_ends_it_with_what_it_has_and_says_how_to_go_on(swarm: Swarm, tmp_path: Path) -> None:
    state = tmp_path / "a crawl"
    done = swarm.crawl("--rate", "100", "--deadline", "1.5", "--state", str(state), "--jsonl")
    *nodes, summary = data_of(done.stdout)
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert (done.returncode, error["code"], summary["ended"]) == (4, "crawl_partial", "deadline")
    assert error["hint"] == f"go on with it: kodectl dht crawl --state '{state}' --resume"
    assert 0 < len(nodes) < len(swarm.live)
    assert summary["questions"] <= 100 * 1.5 + 20


def test_who_has_answered_when_it_ends_is_not_nobody() -> None:
    counts = dict.fromkeys(("found", "reachable", "unreachable", "unasked", "waiting", "conflicts", "remembered"), 0)
    lists: dict[str, Any] = {"by_client": [], "by_network": [], "by_reason": {}, "unasked_by_reason": {}}
    view = CrawlView(
        ended="deadline",
        **counts,
        **lists,
        unfinished=3,
        questions=9,
        elapsed_s=3.0,
        clients_unknown=0,
        bootstrap_troubles=[],
    )
    failure = _failure_of(view, None)
    assert failure is not None
    assert (failure.code, int(failure.exit)) == ("crawl_partial", 4)
    assert "3 nodes are still to be asked" in failure.message


def test_what_nobody_answers_is_said(nodes: Nodes, tmp_path: Path) -> None:
    done = nodes.kodectl("dht", "crawl", "--bootstrap", NOBODY, "--timeout", "0.5", "--jsonl")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (3, "nothing_found")
    assert "no answer from 127.0.0.1:9" in error["message"]
    for options in ((), ("--resume",)):
        none = nodes.kodectl("dht", "crawl", "--state", str(tmp_path / "new"), *options, "--json")
        assert (none.returncode, json.loads(none.stdout)["error"]["code"]) == (5, "no_bootstrap_answered")


def test_clients_by_handshake(nodes: Nodes) -> None:
    first = nodes.start("a")
    done = nodes.kodectl("dht", "crawl", "--handshake", "--bootstrap", first.enode, "--jsonl")
    node, summary = data_of(done.stdout)
    assert (node["handshake"], node["client"], node["network"]) == ("ok", "kodectl/0.1.0", "kodechain")
    assert summary["by_client"] == [{"client": "kodectl/0.1.0", "nodes": 1}]
    assert b"the bootstrap nodes know nobody else" in done.stderr


# -- the state file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"nothing of a crawl\n",
        b'{"event":"crawl","version":2,"id":"x","network":"kodechain","started":""}\n',
        b'{"event":"silent","id":"00","ip":"1.2.3.4","udp":1,"reason":"timeout"}\n',
        b"\x00" * 100_000,
        b"[" * 60_000 + b"\n",
    ],
)
def test_files_of_others_are_left_as_they_are(content: bytes, refused: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(content)
    assert refused(state)["code"] == "crawl_file_unreadable"
    assert state.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        lambda line: b"{}",
        lambda line: line[:-9],
        lambda line: line + b"{}",
        lambda line: line.replace(b'"id":"', b'"id":"zz'),
        lambda line: line.replace(b'"ip":"', b'"ip":"x'),
        lambda line: line.replace(b'"ip":"127', b'"ip":"227'),
        lambda line: line.replace(b'"udp":', b'"udp":99999'),
        lambda line: line.replace(b'"tcp":', b'"tcp":-1'),
        lambda line: line.replace(b'"event":"seen"', b'"event":"crawl"'),
        lambda line: b'{"event":"crawl","version":1,"id":"","network":"kodechain","started":""}',
        lambda line: line.replace(b'"ip":"', b'"ip":"\xff'),
    ],
)
def test_a_line_that_was_changed_is_named(
    change: Callable[[bytes], bytes], begun: bytes, refused: Any, tmp_path: Path
) -> None:
    lines = begun.splitlines()
    assert lines[5].startswith(b'{"event":"seen"')
    state = tmp_path / "state"
    lines[5] = change(lines[5])
    state.write_bytes(b"\n".join(lines) + b"\n")
    before = state.read_bytes()
    error = refused(state)
    assert error["code"] == "crawl_file_unreadable"
    assert error["message"].startswith(f"line 6 of {state} is none of a crawl: ")
    assert state.read_bytes() == before


@pytest.mark.parametrize("place", [".", "absent/state", "/dev/null"])
def test_places_that_hold_no_state_file(place: str, refused: Any, tmp_path: Path) -> None:
    assert refused(tmp_path / place)["code"] == "crawl_file_unwritable"


def test_a_full_disk_ends_it_with_a_file_that_goes_on(lively: Swarm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    limit = 20_000

    def keep_small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = lively.crawl("--state", str(state), "--rate", "1000", "--jsonl", preexec_fn=keep_small)
    assert (done.returncode, data_of(done.stdout)[-1]["code"]) == (7, "crawl_file_unwritable")
    assert state.stat().st_size > limit - 1000
    assert state.read_bytes().endswith(b"}\n"), "what was cut is taken away"
    told = nodes_of(data_of(done.stdout))
    assert nodes_of(lines_of(state)) == told
    rest = nodes_of(data_of(lively.crawl("--state", str(state), "--resume", "--rate", "1000", "--jsonl").stdout))
    assert reachable(told + rest) == lively.live
    assert not {node["id"] for node in told} & {node["id"] for node in rest}


def test_two_do_not_write_one_file(lively: Swarm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = lively.command("--state", str(state), "--rate", "20", "--jsonl")
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=lively.environment) as first:
        assert first.stdout is not None
        first.stdout.readline()
        for options in ((), ("--resume",)):
            second = lively.crawl("--state", str(state), *options, "--json")
            assert (second.returncode, data_of(second.stdout)[-1]["code"]) == (7, "crawl_in_use")
        first.kill()
    assert lively.crawl("--state", str(state), "--resume", "--max-nodes", "3").returncode == 4, "the lock is gone"


def test_a_reader_that_leaves_ends_it(lively: Swarm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = lively.command("--state", str(state), "--rate", "1000", "--jsonl")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=lively.environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert lines_of(state)


# -- killed at any moment ----------------------------------------------------------------------------------------------


class Campaign:
    """Crawls of a swarm that are killed again and again, each time after another while, and gone on with."""

    def __init__(self, swarm: Swarm, state: Path, rng: random.Random, rate: int, latest_s: float) -> None:
        self._swarm = swarm
        self._rate = rate
        self._latest_s = latest_s
        """From before the first line of Python to well into the crawl."""
        self._state = state
        self._rng = rng
        self.kills = 0
        self._told: list[dict[str, Any]] = []
        self._questions: list[int] = []
        """Of each run of this crawl; a run that was killed by SIGKILL told none."""
        self.undisturbed: int | None = None
        """Questions of a crawl that nobody kills; None: not measured."""

    def run(self, number: int | None) -> bool:
        """A run that gets signal `number`, at some time; whether it came to its end nevertheless."""
        command = self._swarm.command("--state", str(self._state), "--resume", "--rate", str(self._rate), "--jsonl")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=self._swarm.environment
        ) as process:
            if number is not None:
                time.sleep(self._rng.uniform(0.0, self._latest_s))
                process.send_signal(number)
            output, complaint = process.communicate(timeout=120)
        whole = output[: output.rfind(b"\n") + 1]
        lines = data_of(whole)
        self._told += nodes_of(lines)
        self.kills += process.returncode != 0
        self._check_file()
        if process.returncode == 0:
            self._questions.append(lines[-1]["questions"])
            return True
        # Before the first line of kodectl Python itself is interrupted, and has codes and words of its own for that.
        if lines or b"KeyboardInterrupt" not in complaint:
            codes = (130, -signal.SIGINT) if number == signal.SIGINT else (-signal.SIGKILL,)
            assert process.returncode in codes, complaint
            assert b"Traceback" not in complaint
        self._questions += [line["questions"] for line in lines if line.get("event") == "summary"]
        return False

    def _check_file(self) -> None:
        if not self._state.exists():
            assert not self._told
            return
        written = [node["id"] for node in nodes_of(lines_of(self._state))]
        assert len(set(written)) == len(written), "nobody is written twice"
        told = [node["id"] for node in self._told]
        assert len(set(told)) == len(told), "nobody is told twice"
        assert set(told) <= set(written), "what was told is not lost"

    def finish(self) -> int:
        """Goes on until it is complete; how many questions it took."""
        while not self.run(None):
            pass
        nodes = nodes_of(lines_of(self._state))
        assert reachable(nodes) == self._swarm.live
        assert self._swarm.dead <= {node["id"] for node in nodes}
        asked = sum(self._questions)
        if self.undisturbed is not None:
            again = asked - self.undisturbed
            assert again <= self._rate * len(self._questions), "of a second each"
        self._state.unlink()
        self._told, self._questions = [], []
        return asked


def killed(swarm: Swarm, state: Path, number: int, moments: int, rate: int, latest_s: float) -> None:
    campaign = Campaign(swarm, state, random.Random(moments + number), rate, latest_s)
    if number == signal.SIGINT:  # SIGKILL leaves no time to say how many questions there were
        campaign.undisturbed = campaign.finish()
    while campaign.kills < moments:
        if campaign.run(number):
            campaign.finish()
    campaign.finish()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_at_some_moments_it_loses_nothing_and_doubles_nothing(
    number: int, lively: Swarm, tmp_path: Path
) -> None:
    killed(lively, tmp_path / "state", number, 3, 300, 1.2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_tells_what_it_has_and_how_to_go_on(
    number: int, code: int, lively: Swarm, tmp_path: Path
) -> None:
    command = lively.command("--rate", "50", "--state", str(tmp_path / "state"))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, env=lively.environment
    ) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(3)]
        process.send_signal(number)
        rest, complaint = process.communicate(timeout=20)
    lines = b"".join([*first, rest]).decode().splitlines()
    nodes = [line for line in lines if line.startswith("reachable ")]
    assert process.returncode == code
    assert f"{len(nodes)} nodes found: {len(nodes)} reachable, 0 unreachable" in lines
    assert f"go on with it: kodectl dht crawl --state {tmp_path}/state --resume" in complaint.decode()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_at_a_hundred_moments_it_loses_nothing_and_doubles_nothing(
    number: int, swarm: Swarm, tmp_path: Path
) -> None:
    killed(swarm, tmp_path / "state", number, 100, 150, 2.0)


@pytest.mark.slow
def test_three_hundred_nodes_among_dead_and_liars(tmp_path: Path) -> None:
    with swarm_of(tmp_path, 300, 30, 20) as swarm:
        *nodes, summary = data_of(swarm.crawl("--rate", "2000", "--jsonl").stdout)
    assert reachable(nodes) == swarm.live
    assert swarm.dead <= {node["id"] for node in nodes}
    assert summary["unreachable"] <= 30 + 20 * 40
    assert [one["nodes"] for one in summary["by_network"]] == [100, 100, 100]
