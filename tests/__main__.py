"""Everything that has to pass, one after the other: `python tests`. What fails first does not hide the rest.

Tests of real networks share two cores with each other and with whatever else the machine does. What has failed runs once
more, alone; what passes then is named as unsteady, and does not fail the whole. As regrtest, CPython's own, does with --rerun.

As root on Debian and its like it first installs what the NAT lab needs (`natlab/needs.py`). Where it cannot, those tests
are skipped, and pytest's summary says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from natlab.needs import LIBNICE_PACKAGES, OTHER_PACKAGES, has_libnice, missing_packages

ROOT = Path(__file__).parent.parent
CHECKS = {
    "ruff check": ["-m", "ruff", "check", "--no-cache"],
    "ruff format": ["-m", "ruff", "format", "--check", "--no-cache"],
    "mypy": ["-m", "mypy"],
}
# Most of the tests with real nodes wait; two of them share a machine well. A module stays together with its nodes.
TESTS = ["-m", "pytest", "-rs", "-n", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
FAILED_ONES = ["-m", "pytest", "-rA", "--show-capture=no", "--last-failed", "--last-failed-no-failures=none"]
TESTS_FAILED = 1
"""pytest's exit code for just that: interrupted, out of order and the like have others."""
APT_LIMIT_S = 300
"""A mirror that hangs costs the tests of the lab, not all of them."""
START_NOTHING = Path("/usr/sbin/policy-rc.d")
"""Debian asks this program before a package starts its daemons; 101 forbids it."""


def main() -> int:
    install_for_lab()
    failed = []
    for name, arguments in CHECKS.items():
        if run(name, arguments):
            failed.append(name)
    if not pass_tests():
        failed.append("pytest")
    print(f"failed: {', '.join(failed)}" if failed else "all passed", flush=True)
    return bool(failed)


def pass_tests() -> bool:
    # pytest's own directories have longer names, and the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="k-", ignore_cleanup_errors=True) as directory:
        place = ["--basetemp", f"{directory}/t"]
        code = run("pytest", [*TESTS, *place])
        if code == TESTS_FAILED:
            code = run("what has failed, once more and alone", [*FAILED_ONES, *place])
            if code == 0:
                print("== unsteady: the tests above failed beside others, and passed alone", flush=True)
    return code == 0


def run(name: str, arguments: list[str]) -> int:
    print(f"== {name}", flush=True)
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode


def install_for_lab() -> None:
    packages = missing_packages() + missing_packages(OTHER_PACKAGES) + ([] if has_libnice() else LIBNICE_PACKAGES)
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    print(f"== installing {' '.join(packages)}", flush=True)
    try:
        with daemons_kept_from_starting():
            apt_get("update")
            apt_get("install", "--yes", "--no-install-recommends", *packages)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"not installed, so the tests of the NAT lab are skipped: {error}", flush=True)


def apt_get(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        ["apt-get", "-qq", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=APT_LIMIT_S,
        check=True,
    )


@contextmanager
def daemons_kept_from_starting() -> Iterator[None]:
    """By a policy for the time being; one that somebody else made stays as it is."""
    if START_NOTHING.exists():
        yield
        return
    START_NOTHING.write_text("#!/bin/sh\nexit 101\n")
    START_NOTHING.chmod(0o755)
    try:
        yield
    finally:
        START_NOTHING.unlink()


if __name__ == "__main__":
    sys.exit(main())
