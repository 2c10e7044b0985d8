"""The kept inputs of a target: one text file, a line for each in base64. Lines with # say what the one below them found."""

from __future__ import annotations

import base64
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def path_of(name: str) -> Path:
    return CORPUS / f"{name}.txt"


def kept(name: str) -> list[bytes]:
    """Of a target; none where nothing is kept yet."""
    path = path_of(name)
    lines = path.read_text().splitlines() if path.exists() else []
    return [base64.b64decode(line, validate=True) for line in lines if not line.startswith("#")]


def add(name: str, inputs: list[bytes], limit: int) -> int:
    """The smallest first, as far as the whole file stays within `limit` bytes. How many are new."""
    path = path_of(name)
    text = path.read_text() if path.exists() else ""
    known = set(kept(name))
    added = 0
    for data in sorted(set(inputs) - known, key=lambda data: (len(data), data)):
        line = base64.b64encode(data).decode() + "\n"
        if len(text) + len(line) <= limit:
            text += line
            added += 1
    path.write_text(text)
    return added
