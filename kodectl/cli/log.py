"""The package's log on stderr, as text or JSON lines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""By number of -v; -q leaves errors only."""


def configure(*, verbosity: int, json_lines: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
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
    return JsonLines() if json_lines else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


def level_of(verbosity: int) -> int:
    return logging.ERROR if verbosity < 0 else LEVELS[min(verbosity, len(LEVELS) - 1)]


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
