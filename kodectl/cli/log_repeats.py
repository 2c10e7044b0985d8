"""Lines of one kind, over a limit, become a number: what a stranger can cause fills no disk, and buries nothing else."""

from __future__ import annotations

from typing import NamedTuple

WINDOW_S = 60.0
MOST = 60
"""Lines of one kind in a window: fifty peers that come at once are all told of."""
MAX_KINDS = 512
"""There are some hundred places that log; beyond these all share one limit."""


class Kind(NamedTuple):
    """Who logs what: the text before anything of a particular case is filled in."""

    logger: str
    level: int
    template: str


OTHER = Kind("kodectl", 0, "")


class Held(NamedTuple):
    """What was kept back of one kind. `last` is the text of the last of them."""

    kind: Kind
    lines: int
    seconds: float
    last: str


class _Window:
    __slots__ = ("began", "held", "last", "told")

    def __init__(self, now: float) -> None:
        self.began = now
        self.told = self.held = 0
        self.last = ""


class Repeats:
    """`now` is monotonic seconds."""

    def __init__(self) -> None:
        self._windows: dict[Kind, _Window] = {}

    def is_told(self, kind: Kind, text: str, now: float) -> bool:
        """Whether there is room for a line of this kind; else it is counted. What is `due` is to be taken before."""
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            kind = OTHER
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = _Window(now)
        if window.told < MOST:
            window.told += 1
            return True
        window.held += 1
        window.last = text
        return False

    def due(self, now: float) -> list[Held]:
        """What windows that have ended held back; a new line begins another window."""
        over = [kind for kind, window in self._windows.items() if now - window.began >= WINDOW_S]
        return self._end(over, now)

    def rest(self, now: float) -> list[Held]:
        """What was held back and has not been told of: the log ends."""
        return self._end(list(self._windows), now)

    def _end(self, kinds: list[Kind], now: float) -> list[Held]:
        ended = [(kind, self._windows.pop(kind)) for kind in kinds]
        return [Held(kind, window.held, now - window.began, window.last) for kind, window in ended if window.held]
