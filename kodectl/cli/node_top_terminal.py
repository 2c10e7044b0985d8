"""The terminal of `kodectl node top`: its other screen, its keys, its size; and back to what it was, however that ends."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.control import Control
from rich.screen import Screen
from rich.text import Text

from kodectl.cli.node_top_state import Key
from kodectl.cli.node_top_text import ASCII, UNICODE, Glyphs, Line

STYLES = {
    "": "",
    "good": "green",
    "attention": "yellow",
    "trouble": "bold red",
    "label": "cyan",
    "plot": "cyan",
    "head": "bold",
    "strong": "bold",
    "quiet": "dim",
}
READ_SIZE = 256
"""Of keys at once; more is somebody's paste."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
KEYS = {
    b"q": Key.QUIT,
    b"Q": Key.QUIT,
    b"s": Key.SORT,
    b"p": Key.PAUSE,
    b" ": Key.PAUSE,
    b"?": Key.HELP,
    b"h": Key.HELP,
    b"k": Key.UP,
    b"j": Key.DOWN,
    b"g": Key.FIRST,
    b"G": Key.LAST,
    b"\x1b": Key.CLOSE,
}
SEQUENCES = {
    b"A": Key.UP,
    b"B": Key.DOWN,
    b"H": Key.FIRST,
    b"F": Key.LAST,
    b"5~": Key.PAGE_UP,
    b"6~": Key.PAGE_DOWN,
    b"1~": Key.FIRST,
    b"7~": Key.FIRST,
    b"4~": Key.LAST,
    b"8~": Key.LAST,
}
"""After ESC [ or ESC O (ECMA-48, 5.4; xterm's keys)."""
UNKNOWN_SIZE = os.terminal_size((80, 24))
LOCAL_MODES, CHARACTERS = 3, 6
"""Places in what tcgetattr answers."""
FINAL = frozenset(range(0x40, 0x7F))


def keys_of(typed: bytes) -> Iterator[Key]:
    """What a terminal sends for keys; what means nothing here is skipped."""
    place = 0
    while place < len(typed):
        if typed[place : place + 2] in (b"\x1b[", b"\x1bO"):
            end = place + 2
            while end < len(typed) and typed[end] not in FINAL:
                end += 1
            key = SEQUENCES.get(typed[place + 2 : end + 1])
            place = end + 1
        else:
            key = KEYS.get(typed[place : place + 1])
            place += 1
        if key is not None:
            yield key


def glyphs_for(stream: Any) -> Glyphs:
    return UNICODE if "utf" in (getattr(stream, "encoding", None) or "").lower() else ASCII


def styled(lines: Sequence[Line]) -> Text:
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        text.append("\n" if number else "")
        for span in line:
            text.append(span.text, STYLES[span.style] or None)
    return text


def ansi(lines: Sequence[Line], width: int) -> str:
    """As text with colours, for whoever takes them out where they are not wanted."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=width, highlight=False)
    console.print(styled(lines), end="", soft_wrap=True)
    return file.getvalue()


def is_for_people() -> bool:
    """Whether somebody watches, and can press keys."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


class Terminal:
    """Inside of `open` the other screen is shown, and keys come one by one and without echo.

    What ends the command (SIGINT, SIGTERM, SIGHUP, the deadline) is raised by `wait`, and nowhere else: no second signal
    comes between the terminal and its way back."""

    def __init__(self, *, colour: bool) -> None:
        self._console = Console(no_color=not colour, highlight=False, markup=False, emoji=False)
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.fileno()
        self._before: list[Any] | None = None
        self._enders: dict[int, Callable[..., object]] = {}
        self._ended_by: int | None = None
        self._is_to_stop = False
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)

    @contextmanager
    def open(self) -> Iterator[None]:
        earlier: dict[int, Any] = {}
        try:
            for number, handler in self._handlers().items():
                earlier[number] = signal.signal(number, handler)
            self._take()
            yield
        finally:
            self._give_back()
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _handlers(self) -> dict[int, Callable[..., None]]:
        # A signal that nobody handles wakes no `select`: the kernel begins it again.
        handlers: dict[int, Callable[..., None]] = {
            signal.SIGWINCH: self._resized,
            signal.SIGTSTP: self._told_to_stop,
        }
        for number in ENDING_SIGNALS:
            # A terminal that hangs up ends the command as if it were terminated.
            raising = signal.getsignal(signal.SIGTERM if number == signal.SIGHUP else number)
            if callable(raising):
                self._enders[number] = raising
                handlers[number] = self._told_to_end
        return handlers

    def size(self) -> os.terminal_size:
        try:
            found = os.get_terminal_size(self._output)
        except OSError:
            found = UNKNOWN_SIZE
        return found if found.columns and found.lines else UNKNOWN_SIZE

    def draw(self, lines: Sequence[Line]) -> None:
        self._console.size = ConsoleDimensions(*self.size())
        self._console.print(Control.home(), Screen(styled(lines)), end="", sep="")

    def wait(self) -> list[Key]:
        """Until a key is pressed, the size changes, or `wake` is called: the keys. Raises what an ending signal raises."""
        ready, _, _ = select.select([self._input, self._wake_out], [], [])
        if self._wake_out in ready:
            os.read(self._wake_out, READ_SIZE)
        if self._is_to_stop:
            self._stop()
        if self._ended_by is not None:
            self._enders[self._ended_by](self._ended_by, None)
        return self._typed() if self._input in ready else []

    def wake(self) -> None:
        """From any thread."""
        try:
            os.write(self._wake_in, b"w")
        except BlockingIOError:
            pass  # it is awake

    def _typed(self) -> list[Key]:
        try:
            typed = os.read(self._input, READ_SIZE)
        except OSError:
            typed = b""
        return list(keys_of(typed)) if typed else [Key.QUIT]  # the terminal has gone

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self.wake()

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self._ended_by = self._ended_by or number
        self.wake()

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._is_to_stop = True
        self.wake()

    def _stop(self) -> None:
        """Control-Z: the shell gets its terminal as it was, and `fg` brings the screen back."""
        self._is_to_stop = False
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._told_to_stop)
        if self._ended_by is None:  # else the shell keeps it: who is ended in the background may not take it
            self._take()

    def _take(self) -> None:
        self._before = termios.tcgetattr(self._input)
        attributes = termios.tcgetattr(self._input)
        attributes[LOCAL_MODES] &= ~(termios.ICANON | termios.ECHO)
        attributes[CHARACTERS][termios.VMIN] = 1
        attributes[CHARACTERS][termios.VTIME] = 0
        # Control-\ would end the process where it stands, with the terminal like this.
        attributes[CHARACTERS][termios.VQUIT] = b"\0"
        termios.tcsetattr(self._input, termios.TCSADRAIN, attributes)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        if self._before is None:
            return
        try:
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)
        except (OSError, termios.error):
            pass  # it has gone
        self._before = None
