"""What `kodectl node top` has seen, and what its reader has chosen: values, changed by looks and keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kodectl.cli.node_top_look import Look, TopView
    from kodectl.node.history_views import SampleView
    from kodectl.node.views import EventView

MAX_SAMPLES = 300
"""The ten minutes that a node keeps."""
MAX_EVENTS_KEPT = 200
"""More than any terminal has lines for."""
SORTS = ("latency", "trust", "since", "bytes")


class Key(Enum):
    QUIT = "quit"
    SORT = "sort"
    PAUSE = "pause"
    HELP = "help"
    CLOSE = "close"
    UP = "up"
    DOWN = "down"
    PAGE_UP = "page_up"
    PAGE_DOWN = "page_down"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True)
class Seen:
    view: TopView
    samples: tuple[SampleView, ...]
    events: tuple[EventView, ...]


@dataclass(frozen=True)
class State:
    """`shown` is what is drawn: the same as `latest`, unless paused. `trouble`: why there is nothing newer."""

    shown: Seen
    latest: Seen
    sort: str = SORTS[0]
    paused: bool = False
    helping: bool = False
    offset: int = 0
    """The first peer that is drawn."""
    trouble: str | None = None


def begin(look: Look, sort: str = SORTS[0]) -> State:
    seen = Seen(look.view, tuple(look.samples), tuple(look.view.events))
    return State(seen, seen, sort)


def looked(state: State, look: Look) -> State:
    samples, events = state.latest.samples, state.latest.events
    if samples and look.samples and look.samples[0].at_s <= samples[-1].at_s:
        samples = ()  # it was started anew, and counts from zero
    latest = Seen(
        look.view,
        (*samples, *look.samples)[-MAX_SAMPLES:],
        (*events, *look.view.events)[-MAX_EVENTS_KEPT:],
    )
    return replace(state, latest=latest, shown=state.shown if state.paused else latest, trouble=None)


def failed(state: State, trouble: str) -> State:
    return replace(state, trouble=trouble)


def pressed(state: State, key: Key, rows: int) -> State:
    """`rows`: how many peers there is room for."""
    match key:
        case Key.SORT:
            after = SORTS[(SORTS.index(state.sort) + 1) % len(SORTS)]
            return replace(state, sort=after, offset=0)
        case Key.PAUSE:
            return replace(state, paused=not state.paused, shown=state.latest)
        case Key.HELP:
            return replace(state, helping=not state.helping)
        case Key.CLOSE:
            return replace(state, helping=False)
    return _scrolled(state, key, max(1, rows))


def _scrolled(state: State, key: Key, rows: int) -> State:
    last = max(0, len(state.shown.view.peers) - rows)
    step = {
        Key.UP: -1,
        Key.DOWN: 1,
        Key.PAGE_UP: -rows,
        Key.PAGE_DOWN: rows,
        Key.FIRST: -len(state.shown.view.peers),
        Key.LAST: len(state.shown.view.peers),
    }.get(key, 0)
    return replace(state, offset=min(max(0, min(state.offset, last) + step), last))
