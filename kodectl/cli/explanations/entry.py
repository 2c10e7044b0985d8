"""One explanation."""

from __future__ import annotations

from typing import NamedTuple


class Explanation(NamedTuple):
    cause: str
    recognised: str
    """By which observation the code is given."""
    mend: str
    command: str
    """What to type; empty where no command helps (null in JSON)."""
