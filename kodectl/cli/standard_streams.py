"""Standard streams that whoever started the process has closed."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper


def fill_in() -> None:
    """Opens those that are closed on /dev/null.

    What is opened next would get their numbers, and everything that writes to stderr by its number would write into a
    peer's connection or the store. Python itself has None in their place, which nothing expects."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or _open(0, "r")
    sys.stdout = sys.stdout or _open(1, "w")
    sys.stderr = sys.stderr or _open(2, "w")


def _open(number: int, mode: str) -> TextIOWrapper:
    return TextIOWrapper(open(number, f"{mode}b", closefd=False), encoding="utf-8", errors="replace")
