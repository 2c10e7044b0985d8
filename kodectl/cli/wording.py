"""Numbers and sentences as people read them."""

from __future__ import annotations

import sys

SIZES = ("B", "kB", "MB", "GB", "TB")
LEAST_COLUMN = 30
"""Of text on a terminal; narrower columns are not read any better."""


def size(count: float) -> str:
    """Bytes in decimal units, as network equipment counts them."""
    unit = 0
    while count >= 1000 and unit < len(SIZES) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {SIZES[unit]}" if unit == 0 else f"{count:.1f} {SIZES[unit]}"


def counted(count: int, noun: str) -> str:
    """`1 peer`, `2 peers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f} ms"


def duration(seconds: float) -> str:
    """The two largest units: `3 d 4 h`, `5 min 12 s`, `7 s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def short_id(node_id: str) -> str:
    """Enough of an id to name a peer to the other commands, which take its beginning, and to fit in a table."""
    return node_id[:12]


def folded(text: str, indent: int) -> str:
    """Between words, for a terminal on which `indent` columns are taken; a program that reads it gets one line."""
    if not sys.stdout.isatty():
        return text
    import shutil
    import textwrap

    room = max(LEAST_COLUMN, shutil.get_terminal_size().columns - indent)
    return f"\n{' ' * indent}".join(textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""])
