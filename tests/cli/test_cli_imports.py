"""What light commands import: their start-up is held by the list, which is the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ENODE = f"enode://{'ab' * 32}@203.0.113.5:30303?discport=30301"
SHOW_MODULES = """
import atexit, sys, click
before = set(sys.modules)
@atexit.register
def show():
    print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}), file=sys.stderr)
from kodectl.cli.main import main
main()
"""

HEAVY = {
    "Crypto", "asyncio", "cryptography", "falcon", "gevent", "greenlet", "http", "logging", "miniupnpc", "msgspec",
    "multiprocessing", "platformdirs", "prometheus_client", "psutil", "rich", "socket", "sqlite3", "ssl", "stun",
    "subprocess", "tomllib", "zstandard",
}  # fmt: skip
NEEDED = {
    "key id": {"Crypto", "platformdirs", "multiprocessing", "logging", "socket", "subprocess"},
    "config check": {"platformdirs"},
}
"""Beside what nobody needs: pycryptodome for keys (and what it pulls), the place of the data directory."""


def imported(arguments: list[str], expected: int = 0, **variables: str) -> set[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KODECTL_")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES, *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=environment | variables,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "node.key"
    subprocess.run([sys.executable, "-m", "kodectl", "key", "gen", str(path)], cwd=REPOSITORY, check=True)
    return path


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "key --help",
        "key gen --help",
        "node --help",
        "node run --help",
        "node peers --help",
        "dht put --help",
        f"enode parse {ENODE}",
        "explain key_exists",
        "completion bash",
        "config check",
        "key id {key}",
    ],
)
def test_light_commands_import_nothing_heavy(command: str, key: Path) -> None:
    allowed = next((names for start, names in NEEDED.items() if command.startswith(start)), set())
    assert imported(command.format(key=key).split()) & HEAVY <= allowed


@pytest.mark.parametrize(
    "line", ["", "k", "key gen --", "node run --", "node peers --sort ", "explain key_", "config "]
)
def test_completion_imports_nothing_heavy(line: str) -> None:
    assert not imported(line.split(" "), _KODECTL_COMPLETE="1") & HEAVY


@pytest.mark.parametrize(("arguments", "variables"), [(["--help"], {}), ([""], {"_KODECTL_COMPLETE": "1"})])
def test_the_commands_are_listed_without_what_keys_need(arguments: list[str], variables: dict[str, str]) -> None:
    assert not imported(arguments, **variables) & {"base64", "hashlib", "tempfile"}


def test_the_list_is_a_list() -> None:
    assert "kodectl" in imported(["enode", "parse", ENODE])
    assert imported(["node", "status", "--datadir", "/nowhere"], expected=5) & HEAVY
