"""What the documents show on a console, typed as it stands: line by line into one shell, with a home of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_S = 120
# What makes a node harmless here: free ports on loopback, no announcements, nobody to begin with.
CONFIGURATION = """
listen = "127.0.0.1:0"
discovery_port = 0
api = "127.0.0.1:0"
lan = false
bootstrap = []
"""


def blocks(document: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def session(document: str) -> list[str]:
    """What is typed, over all console blocks; a line that ends with a backslash goes on in the next."""
    lines = []
    for block in blocks(document, "console"):
        for typed in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE):
            lines.append(typed)
    return lines


def run_session(lines: list[str]) -> str:
    """Everything that came out. A line that fails, a traceback and a shell that hangs are assertion errors.

    In a directory of its own with a short name: curl takes no path of a unix socket that is longer than 107 bytes.
    """
    with tempfile.TemporaryDirectory(prefix="kodectl-", ignore_cleanup_errors=True) as directory:
        return _run_session(lines, Path(directory))


def _run_session(lines: list[str], directory: Path) -> str:
    home, programs = directory / "home", directory / "bin"
    for made in (home / ".config" / "kodectl", programs):
        made.mkdir(parents=True)
    (home / ".config" / "kodectl" / "config.toml").write_text(CONFIGURATION)
    (programs / "kodectl").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m kodectl "$@"\n')
    (programs / "kodectl").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KODECTL_", "XDG_"))}
    environment = kept | {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    script = "\n".join(f"echo '+ {number}' >&2\n{line}" for number, line in enumerate(lines))
    with (directory / "output").open("w") as written:
        # A group of its own, so that whatever a failure leaves running can be ended.
        shell = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail", "-c", f"{script}\nwait"],
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
    output = (directory / "output").read_text()
    assert exit_code == 0, output
    assert "Traceback" not in output
    return output
