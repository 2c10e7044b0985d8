"""The package's log on stderr, as text or JSON lines."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from kodectl.cli.log_repeats import Held, Kind, Repeats

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""By number of -v; -q leaves errors only."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Some text in a line is a stranger's: it must neither begin another line nor speak to the terminal."""


def configure(*, verbosity: int, json_lines: bool) -> None:
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(formatter_of(json_lines))
    logger = logging.getLogger("kodectl")
    logger.handlers[:] = [handler]
    logger.setLevel(level_of(verbosity))
    logger.propagate = False


def change(*, verbosity: int, json_lines: bool) -> None:
    """As `configure`, for a log that is being written: wherever it goes, it goes on."""
    logger = logging.getLogger("kodectl")
    for handler in logger.handlers:
        handler.setFormatter(formatter_of(json_lines))
    logger.setLevel(level_of(verbosity))


def formatter_of(json_lines: bool) -> logging.Formatter:
    return JsonLines() if json_lines else TextLines("%(asctime)s %(levelname)s %(name)s: %(message)s")


def level_of(verbosity: int) -> int:
    return logging.ERROR if verbosity < 0 else LEVELS[min(verbosity, len(LEVELS) - 1)]


if TYPE_CHECKING:
    _Handler = logging.StreamHandler[Any]
else:
    _Handler = logging.StreamHandler


class LimitedHandler(_Handler):
    """Writes so many lines of a kind, and then how many more there were. Who asks for debugging gets every line of it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        self._tell(self._repeats.due(now))
        kind = Kind(record.name, record.levelno, str(record.msg))
        if record.levelno <= logging.DEBUG or self._repeats.is_told(kind, record.getMessage(), now):
            super().emit(record)

    def tell_due(self) -> None:
        """To be called now and then, for what nothing follows."""
        self._tell_alone(self._repeats.due)

    def tell_rest(self) -> None:
        """The log ends."""
        self._tell_alone(self._repeats.rest)

    def _tell_alone(self, which: Callable[[float], list[Held]]) -> None:
        self.acquire()
        try:
            self._tell(which(time.monotonic()))
        finally:
            self.release()

    def _tell(self, held: Iterable[Held]) -> None:
        for kind, lines, seconds, last in held:
            text = f"… {lines} more like this in {seconds:.0f} s, the last of them: {last}"
            record = logging.LogRecord(kind.logger, kind.level or logging.INFO, "", 0, "%s", (text,), None)
            record.repeats = lines
            super().emit(record)


class TextLines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", record.message)
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        repeats = getattr(record, "repeats", None)
        if repeats is not None:
            line["repeats"] = repeats
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
