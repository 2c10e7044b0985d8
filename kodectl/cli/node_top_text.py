"""Lines of styled text, and how they are cut, joined and filled up. Widths are columns of a terminal: some characters take two,
some none, and peers choose some of the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from kodectl.cli.output import clean

SHORT_ID = 8
"""Hex digits: as many as the other commands need to know a peer."""
LABEL = 10
"""Columns of the labels at the left."""


WITHOUT_WIDTH = frozenset({"Mn", "Me", "Cf", "Cn", "Co", "Cs"})
"""Categories: marks that combine, format, unassigned, private, and halves of surrogates."""
FIRST_FLAG, LAST_FLAG = "\U0001f1e6", "\U0001f1ff"
TONES = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")


class Span(NamedTuple):
    """`style`: one of `node_top_terminal.STYLES`; nothing for plain text."""

    text: str
    style: str = ""


Line = list[Span]


class Glyphs(NamedTuple):
    """What is drawn with. `levels`: from nothing to full."""

    levels: str
    none: str
    dot: str
    more: str
    sorted_by: str
    arrows: str


UNICODE = Glyphs(" ▁▂▃▄▅▆▇█", "·", "●", "…", "▾", "↑↓")
ASCII = Glyphs(" ._-=+*%#", ".", "*", "~", "v", "j k")


def one_line(text: str) -> str:
    """Somebody's text, as every terminal shows it in one line, in the same number of columns, without obeying."""
    shown = clean(" ".join(text.split()))
    return shown if shown.isascii() else "".join(filter(_has_a_width, unicodedata.normalize("NFC", shown)))


def _has_a_width(char: str) -> bool:
    """Not what joins others or changes them: terminals do not agree on how wide that makes them."""
    return unicodedata.category(char) not in WITHOUT_WIDTH and not FIRST_FLAG <= char <= LAST_FLAG and char not in TONES


def width_of(line: Iterable[Span]) -> int:
    return sum(cell_len(span.text) for span in line)


def fit(line: Line, width: int, glyphs: Glyphs) -> Line:
    """No wider than `width`; where something is cut, that shows. Ends without a blank."""
    line = _trimmed(line)
    if width_of(line) <= width:
        return line
    kept: Line = []
    left = max(0, width - 1)
    for span in line:
        text = span.text if cell_len(span.text) <= left else set_cell_size(span.text, left)
        kept.append(Span(text, span.style))
        left -= cell_len(text)
        if text != span.text or not left:
            break
    return [*kept, Span(glyphs.more if width > 0 else "")]


def _trimmed(line: Line) -> Line:
    while line:
        *rest, (text, style) = line
        if text.rstrip():
            return [*rest, Span(text.rstrip(), style)]
        line = rest
    return line


def filled(line: Line, width: int) -> Line:
    return [*line, Span(" " * max(0, width - width_of(line)))]


def apart(left: Line, right: Line, width: int) -> Line:
    """`right` at the right end; left out where there is no room for it."""
    gap = width - width_of(left) - width_of(right)
    return [*left, Span(" " * gap), *right] if gap > 0 else left


def beside(left: Sequence[Line], right: Sequence[Line], left_width: int) -> list[Line]:
    count = max(len(left), len(right))
    lefts = [*left, *([[]] * (count - len(left)))]
    rights = [*right, *([[]] * (count - len(right)))]
    return [[*filled(one, left_width), *other] if other else one for one, other in zip(lefts, rights, strict=True)]


def cell(text: str, width: int, *, right: bool, glyphs: Glyphs) -> str:
    """Exactly `width` columns of somebody's text."""
    shown = one_line(text)
    if cell_len(shown) > width:
        return set_cell_size(shown, width - 1) + glyphs.more
    return " " * (width - cell_len(shown)) + shown if right else set_cell_size(shown, width)
