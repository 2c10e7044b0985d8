"""A body in chunks (RFC 9112, section 7.1).

Not pywsgi's reader: it goes on after a bare LF inside a chunk extension, where others see the line end."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import BinaryIO

MAX_CHUNK_LINE = 4 * 1024
"""Sizes have a few bytes, and nobody needs extensions."""
MAX_TRAILER_BYTES = 16 * 1024
"""All lines after the last chunk together: as much as a header may have."""

_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class Chunks:
    """`ended`: all has been read, trailers too, and what follows is the next request."""

    def __init__(self, source: BinaryIO, begin: Callable[[], None]) -> None:
        """`begin` is called before anything is read: a client may wait for a word to send its body."""
        self._source = source
        self._begin = begin
        self._begun = False
        self._left = 0
        """Of the chunk that is being read."""
        self.ended = False

    def read(self, size: int | None = None) -> bytes:
        """The next `size` bytes, fewer only at the end. Raises OSError for what are no chunks, or end early."""
        if not self._begun:
            self._begun = True
            self._begin()
        data = bytearray()
        while not self.ended and (size is None or len(data) < size):
            if not self._left:
                self._next_chunk()
                continue
            wanted = self._left if size is None else min(self._left, size - len(data))
            self._take(data, wanted)
        return bytes(data)

    def _take(self, data: bytearray, wanted: int) -> None:
        piece = self._source.read(wanted)
        if len(piece) < wanted:
            raise OSError("a chunk that is cut short")
        data += piece
        self._left -= wanted
        if not self._left and self._source.read(2) != b"\r\n":
            raise OSError("a chunk without its end")

    def _next_chunk(self) -> None:
        line = _SIZE.fullmatch(self._source.readline(MAX_CHUNK_LINE))
        if line is None:
            raise OSError("a chunk without a size")
        self._left = int(line[1], 16)
        if not self._left:
            self._skip_trailers()
            self.ended = True

    def _skip_trailers(self) -> None:
        left = MAX_TRAILER_BYTES
        while (line := self._source.readline(left)) != b"\r\n":
            if _TRAILER.fullmatch(line) is None:
                raise OSError("a trailer that is not NAME: VALUE")
            left -= len(line)
