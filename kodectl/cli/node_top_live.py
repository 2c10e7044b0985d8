"""Looks, keys and pictures in turn, until somebody quits."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kodectl.cli.node_top_frame import frame
from kodectl.cli.node_top_look import Look, Looker
from kodectl.cli.node_top_state import Key, State, failed, looked, pressed
from kodectl.cli.node_top_terminal import Terminal, glyphs_for
from kodectl.errors import KodectlError

News = Look | Exception
MAX_NEWS = 4
"""Looks that wait to be drawn: more than one only while the terminal takes nothing."""


class Looking:
    """Looks in a thread of its own, so that a node that does not answer holds up no key."""

    def __init__(self, looker: Looker, interval_s: float, wake: Callable[[], None]) -> None:
        self._looker = looker
        self._interval_s = interval_s
        self._wake = wake
        self._news: queue.Queue[News] = queue.Queue(MAX_NEWS)
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        # A daemon: nobody waits at the end for an answer that is under way.
        threading.Thread(target=self._run, name="looking", daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()

    def news(self) -> Iterator[News]:
        while not self._news.empty():
            yield self._news.get_nowait()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._tell(self._look())

    def _look(self) -> News:
        try:
            return self._looker.look()
        except Exception as error:
            return error

    def _tell(self, news: News) -> None:
        while not self._ended.is_set():
            try:
                self._news.put(news, timeout=self._interval_s)
            except queue.Full:
                continue
            self._wake()
            return


def live(terminal: Terminal, state: State, looker: Looker, interval_s: float, looks: int | None) -> None:
    """Ends at Key.QUIT, or after `looks`, of which `state` has the first."""
    glyphs = glyphs_for(sys.stdout)
    looking = Looking(looker, interval_s, terminal.wake)
    left = None if looks is None else looks - 1
    with terminal.open(), looking.running():
        while left != 0:
            picture = frame(state, *terminal.size(), glyphs)
            terminal.draw(picture.lines)
            for key in terminal.wait():
                if key is Key.QUIT:
                    return
                state = pressed(state, key, picture.rows)
            for news in looking.news():
                state = _with(state, news)
                left = None if left is None else left - 1


def _with(state: State, news: News) -> State:
    if isinstance(news, KodectlError):
        return failed(state, f"trying again: {news.message}")
    if isinstance(news, Exception):
        raise news
    return looked(state, news)
