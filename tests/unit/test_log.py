"""The log: no flood, no second line inside a line, the same in text and JSON."""

from __future__ import annotations

import io
import json
import logging
import time

import pytest

from kodectl.cli.log import LimitedHandler, formatter_of
from kodectl.cli.log_repeats import MAX_KINDS, MOST, WINDOW_S, Held, Kind, Repeats

KIND = Kind("kodectl.node", logging.INFO, "refused: %s")


def test_a_kind_over_its_limit_becomes_a_number() -> None:
    repeats = Repeats()
    told = [repeats.is_told(KIND, f"refused: {number}", 100.0 + number / 100) for number in range(1000)]
    assert told == [True] * MOST + [False] * (1000 - MOST)
    assert repeats.is_told(KIND._replace(template="connected: %s"), "connected: 1", 110.0)
    assert repeats.due(100.0 + WINDOW_S - 0.1) == []
    assert repeats.due(100.0 + WINDOW_S) == [Held(KIND, 1000 - MOST, WINDOW_S, "refused: 999")]
    assert repeats.due(100.0 + WINDOW_S) == []
    assert repeats.is_told(KIND, "refused: 1000", 100.0 + WINDOW_S)


def test_what_stays_below_the_limit_is_not_told_of_again() -> None:
    repeats = Repeats()
    for number in range(MOST):
        assert repeats.is_told(KIND, "", float(number) / 10)
    assert repeats.due(1000.0) == repeats.rest(1000.0) == []


def test_the_rest_is_told_at_the_end() -> None:
    repeats = Repeats()
    for _ in range(MOST + 2):
        repeats.is_told(KIND, "last", 5.0)
    assert repeats.rest(7.0) == [Held(KIND, 2, 2.0, "last")]


def test_texts_that_are_no_templates_do_not_pile_up() -> None:
    repeats = Repeats()
    told = sum(repeats.is_told(KIND._replace(template=str(number)), "x", 0.0) for number in range(10 * MAX_KINDS))
    assert told == MAX_KINDS + MOST
    assert len(repeats._windows) == MAX_KINDS + 1


@pytest.fixture
def written() -> tuple[logging.Logger, io.StringIO, LimitedHandler]:
    stream = io.StringIO()
    handler = LimitedHandler(stream)
    logger = logging.Logger("kodectl.test", logging.DEBUG)
    logger.addHandler(handler)
    return logger, stream, handler


def last_message(stream: io.StringIO, json_lines: bool) -> str:
    line = stream.getvalue().splitlines()[-1]
    return json.loads(line)["message"] if json_lines else line


@pytest.mark.parametrize("json_lines", [False, True])
def test_the_number_is_written_in_the_form_of_the_log(written, json_lines, monkeypatch) -> None:
    logger, stream, handler = written
    handler.setFormatter(formatter_of(json_lines))
    now = time.monotonic()
    for number in range(MOST + 214):
        logger.warning("from %s: refused", number)
    monkeypatch.setattr(time, "monotonic", lambda: now + WINDOW_S + 1)
    handler.tell_due()
    lines = stream.getvalue().splitlines()
    assert len(lines) == MOST + 1
    assert "… 214 more like this in 6" in last_message(stream, json_lines)
    assert f"from {MOST + 213}: refused" in lines[-1]
    if json_lines:
        last = json.loads(lines[-1])
        assert (last["repeats"], last["level"], last["logger"]) == (214, "warning", "kodectl.test")
    for number in range(MOST + 2):
        logger.warning("from %s: refused", number)
    handler.tell_rest()
    assert "… 2 more" in last_message(stream, json_lines)


def test_debugging_is_not_limited(written) -> None:
    logger, stream, _ = written
    for number in range(3 * MOST):
        logger.debug("%s", number)
    assert len(stream.getvalue().splitlines()) == 3 * MOST


def test_what_a_stranger_says_stays_in_its_line(written) -> None:
    logger, stream, handler = written
    handler.setFormatter(formatter_of(False))
    logger.info("peer left: %s", "bye\n2026-01-01 ERROR kodectl: made up\x1b[2J\u2028\x9b")
    assert len(stream.getvalue().splitlines()) == 1
    assert "bye\\x0a2026-01-01 ERROR" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    try:
        raise ValueError("told whole")
    except ValueError:
        logger.exception("failed")
    assert "Traceback" in stream.getvalue()
    assert "\n    raise ValueError" in stream.getvalue()
