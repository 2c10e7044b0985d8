"""`kodectl sim` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kodectl.cli.main import cli

REPOSITORY = Path(__file__).parents[2]
SMALL = ("--nodes", "6", "--duration", "20", "--churn", "0", "--nat", "open=1,restricted=1")
LONG = ("--nodes", "30", "--duration", "100000")
LIMIT_S = 60


def sim(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["sim", *SMALL, *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_tells_what_came_of_it() -> None:
    code, text, errors = sim()
    assert code == 0, text + errors
    assert errors == ""
    assert [line.split()[0] for line in text.splitlines()[:6]] == [
        "nodes",
        "first",
        "peers",
        "messages",
        "connects",
        "values",
    ]
    assert text.splitlines()[-1].startswith("1 min 53 s of virtual time in ")


def test_a_document_says_the_same_twice() -> None:
    first, again = (json.loads(sim("--json")[1])["data"] for _ in range(2))
    assert first["trace"] == again["trace"]
    del first["wall_s"], again["wall_s"]
    assert first == again
    assert first["nodes"]["at_end"] == 6


def test_what_did_not_come_off_is_exit_4() -> None:
    code, text, errors = sim("--loss", "0.9", "--json")
    document = json.loads(text)
    assert code == document["error"]["exit"] == 4
    assert document["error"]["code"] == "simulation_troubled"
    assert document["error"]["details"]["nodes"]["at_end"] == 6
    assert "not everything came off" in errors


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--nodes", "2"), "from 4 to 2000 nodes"),
        (("--loss", "1"), "parts of 1"),
        (("--latency", "nan"), "latency"),
        (("--nat", "cone=1"), "kinds of NAT"),
        (("--nat", "open"), "KIND=SHARE"),
        (("--nat", "open=nan"), "KIND=SHARE"),
        (("--churn", "-1"), "--churn"),
        (("--messages", "inf"), "rates"),
    ],
)
def test_a_scenario_that_cannot_be_is_exit_2(wrong: tuple[str, ...], said: str) -> None:
    code, _, errors = sim(*wrong)
    assert code == 2
    assert said in errors


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_somebody_it_tells_how_far_it_came(end: int, code: int) -> None:
    with launched("-v", *LONG) as process:
        assert process.stderr is not None
        # The nodes log what befalls them: it is under way.
        process.stderr.readline()
        process.send_signal(end)
        text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code
    report, error = (json.loads(line) for line in text.splitlines())
    assert report["data"]["ended"] == "interrupted"
    assert error["error"]["exit"] == code


def test_the_deadline_ends_it_too() -> None:
    with launched("--deadline", "2", *LONG) as process:
        text, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 8
    assert json.loads(text.splitlines()[0])["data"]["ended"] == "deadline"


def launched(*arguments: str) -> subprocess.Popen[str]:
    pipe: Any = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "kodectl", "sim", "--json", *arguments],
        stdout=pipe,
        stderr=pipe,
        text=True,
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("KODECTL_")},
    )
