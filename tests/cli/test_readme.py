"""The README's examples are run as they stand, line by line in one shell; so are the two commands compared."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIMIT_S = 120
# What makes a node harmless here: free ports on loopback, no announcements, nobody to begin with.
CONFIGURATION = """
listen = "127.0.0.1:0"
discovery_port = 0
api = "127.0.0.1:0"
lan = false
bootstrap = []
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def session() -> list[str]:
    """What is typed, over all console blocks."""
    return [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line[:2] == "$ "]


def test_the_session_works_as_it_is_written(tmp_path: Path) -> None:
    home, programs = tmp_path / "home", tmp_path / "bin"
    for directory in (home / ".config" / "kodectl", programs):
        directory.mkdir(parents=True)
    (home / ".config" / "kodectl" / "config.toml").write_text(CONFIGURATION)
    (programs / "kodectl").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m kodectl "$@"\n')
    (programs / "kodectl").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KODECTL_", "XDG_"))}
    environment = kept | {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    lines = "\n".join(f"echo '+ {number}' >&2\n{line}" for number, line in enumerate(session()))
    with (tmp_path / "output").open("w") as written:
        # A group of its own, so that whatever a failure leaves running can be ended.
        shell = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail", "-c", f"{lines}\nwait"],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        exit_code = shell.wait(LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    output = (tmp_path / "output").read_text()
    assert exit_code == 0, output
    assert "hello, world" in output
    assert "Traceback" not in output


def test_the_session_shows_what_there_is() -> None:
    typed = "\n".join(session())
    for words in (
        "node run",
        "node peers",
        "enode parse",
        "peer ping",
        "dht find-node",
        "dht put",
        "dht get",
        "explain",
    ):
        assert f"kodectl {words}" in typed


def test_the_two_commands_are_one_line_each() -> None:
    run, test = (block.strip() for block in blocks("sh"))
    assert "\n" not in run + test
    assert run.endswith("kodectl node run")
    assert test in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_order_of_the_readme() -> None:
    titles = re.findall(r"^##? (.*)$", README, re.MULTILINE)
    expected = ["kodectl", "Two commands", "A first session", "The tour", "How to test", "Where the design is"]
    assert titles == expected


def test_the_tour_names_files_that_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md))`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "kodectl" / name).exists()] == []
