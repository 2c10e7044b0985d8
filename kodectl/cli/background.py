"""Writing to a stream that may be slow or stand still, without standing still with it."""

from __future__ import annotations

from collections import deque
from typing import TextIO

from kodectl.runtime.base import Runtime, Scope

MAX_LINES = 2_000
"""Lines that wait for a slow reader; then the oldest go."""
WRITE_EVERY_S = 0.1
"""Looked at this often instead of being woken: lines come from threads too, where nothing of the hub may be touched."""


class BackgroundStream:
    """A text stream for a log handler: `write` never waits; a thread of the runtime does the writing."""

    def __init__(self, runtime: Runtime, target: TextIO) -> None:
        self._runtime = runtime
        self._target = target
        self._waiting: deque[str] = deque(maxlen=MAX_LINES)

    def write(self, text: str) -> int:
        self._waiting.append(text)
        return len(text)

    def flush(self) -> None:
        """Handlers ask for it after each line, and must not wait."""

    def run(self, scope: Scope) -> None:
        """Writes until the scope is closed, and then what is left."""
        try:
            while True:
                scope.sleep(WRITE_EVERY_S)
                if self._waiting:
                    self._runtime.in_thread(self._drain)
        finally:
            self._runtime.in_thread(self._drain)

    def _drain(self) -> None:
        """Blocks. A stream that cannot be written any more takes the log with it, not the node."""
        lines = []
        try:
            while True:
                lines.append(self._waiting.popleft())
        except IndexError:
            pass
        try:
            self._target.write("".join(lines))
            self._target.flush()
        except OSError:
            pass
