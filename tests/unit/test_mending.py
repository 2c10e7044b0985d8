"""Commands that the doctor tells to type: with what it was given itself."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from subprocess import PIPE, Popen

from kodectl.cli.configuration import turn_without_secret
from kodectl.cli.mending import given_to, whole, with_restart

GIVEN = {"datadir": Path("my node"), "listen": ("::1", 7), "bootstrap": ("enode://a?b", "enode://c?d"), "lan": False}


def test_a_node_is_run_with_what_the_doctor_was_given():
    command = whole("kodectl node run --nat auto", {**GIVEN, "nat": "none", "stun": ()}, "my.toml")
    assert shlex.split(command)[5:] == [
        *("--config", "my.toml", "--datadir", "my node", "--listen", "[::1]:7"),
        *("--bootstrap", "enode://a?b", "--bootstrap", "enode://c?d", "--no-lan"),
    ]


def test_what_the_command_says_comes_before():
    command = whole("kodectl node run --listen 0.0.0.0:8 --datadir D", GIVEN, None)
    assert (command.count("--listen"), command.count("--datadir")) == (1, 1)


def test_each_of_several_commands_gets_what_it_takes():
    given = {"datadir": Path("/d"), "max_peers": 5}
    assert whole("kill 7; kodectl node stop; kodectl doctor --check ports", given, None) == (
        "kill 7; kodectl node stop --datadir /d; kodectl doctor --check ports --datadir /d --max-peers 5"
    )


def test_commands_for_another_user_get_it_too():
    assert (
        whole("sudo -u eve kodectl doctor", {"datadir": Path("/d")}, None) == "sudo -u eve kodectl doctor --datadir /d"
    )


def test_nothing_given_changes_nothing():
    assert whole("kodectl node run", {"datadir": None, "stun": ()}, None) == "kodectl node run"


def test_no_password_gets_into_a_command():
    turn = "turn:user:s3cret@192.0.2.1"
    command = whole("kodectl node run", {"turn": (turn,)}, None)
    assert "s3cret" not in command
    assert shlex.quote(turn_without_secret(turn)) in command


def test_a_node_that_runs_ends_first():
    assert with_restart("kodectl node run --nat auto") == "kodectl node stop; kodectl node run --nat auto"
    assert with_restart("kodectl doctor") == "kodectl doctor"


def test_a_node_that_runs_is_to_run_as_it_does(tmp_path):
    """Whatever stands before `node run`, and after."""
    enode = f"enode://{'ab' * 32}@192.0.2.1:1?discport=2"
    before = ("-c", "print(flush=True); input()", "--config", "my.toml", "node", "run", "--json")
    own = ("--max-peers", "7", "--bootstrap", enode, "--passphrase-file", "p", "--datadir", "here")
    with Popen([sys.executable, *before, *own], stdin=PIPE, stdout=PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()  # a process has no command line in the first moment of its program
        given, config_path = given_to(process.pid)
        process.communicate(b"\n")
    assert given == {"max_peers": 7, "bootstrap": (enode,), "datadir": tmp_path / "here"}
    assert config_path == "my.toml"


def test_other_processes_tell_nothing():
    assert given_to(os.getpid()) == given_to(2**22 + 1) == ({}, None)
