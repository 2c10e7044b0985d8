"""Sentences in columns: folded where somebody reads them, whole where a program does."""

from __future__ import annotations

import io
import os
import pty
import sys

import pytest

from kodectl.cli.wording import LEAST_COLUMN, folded

TEXT = "it tells others 192.0.2.7, and four networks see it at 198.51.100.9"


def test_a_program_gets_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert folded(TEXT, 30) == TEXT


@pytest.mark.parametrize(("columns", "indent"), [("50", 10), ("20", 10)])
def test_a_terminal_gets_columns(monkeypatch, columns, indent):
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", columns)
        first, *others = folded(TEXT, indent).split("\n")
    os.close(master)
    assert others
    assert all(line.startswith(" " * indent) and line[indent] != " " for line in others)
    room = max(LEAST_COLUMN, int(columns) - indent)
    assert max(len(first), *(len(line) - indent for line in others)) <= room
    assert " ".join([first, *map(str.strip, others)]) == TEXT
