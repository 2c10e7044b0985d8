"""What people and scripts put in by accident: bytes, sizes and closed streams that no command expects."""

import json
import subprocess
import sys

import pytest

from kodectl.errors import ExitCode

NOBODY = f"enode://{'0' * 64}@127.0.0.1:1"


def kodectl(*arguments: str | bytes, redirect: str = "", env: dict[str, str] | None = None):
    """Through a shell, which can close a stream."""
    command = f'exec "$@" {redirect}'
    whole = ["sh", "-c", command, "sh", sys.executable, "-m", "kodectl", *arguments]
    return subprocess.run(whole, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False, env=env)


@pytest.mark.parametrize("redirect", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_streams_are_empty_streams(redirect):
    done = kodectl("enode", "parse", "-", "--json", redirect=redirect)
    assert done.returncode != ExitCode.INTERNAL
    assert json.loads(done.stdout)["schema"] == "kodectl.enode.parse/1"


def test_a_number_of_thousands_of_digits_is_bad_configuration(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f"max_peers = {'9' * 5000}\n")
    done = kodectl("config", "check", "--config", str(config), "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (ExitCode.USAGE, "config_invalid")


@pytest.mark.parametrize("command", [("get",), ("put",)])
def test_a_key_need_not_be_utf8(command):
    value = ["v"] if command == ("put",) else []
    done = kodectl("dht", *command, b"\xff\xfe", *value, "--bootstrap", NOBODY, "--deadline", "10", "--json")
    assert json.loads(done.stdout)["error"]["code"] == "no_bootstrap_answered"


def test_quoted_input_cannot_speak_to_the_terminal_nor_fill_it():
    done = kodectl("config", "check", "--config", "a\a\u202e\x1b[2Jb" + "x" * 3000)
    assert done.returncode == ExitCode.ENVIRONMENT
    text = done.stderr.decode()
    assert not set("\a\u202e\x1b") & set(text)
    assert len(text) < 2500
