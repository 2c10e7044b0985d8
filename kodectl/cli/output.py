"""What a command shows: stdout carries the result and nothing else, stderr all the rest."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

import click

from kodectl.errors import EnvironmentFault, ExitCode, KodectlError

SCHEMA_VERSION = 1
ERROR_STYLE = "red"
WARNING_STYLE = "yellow"
MAX_COMPLAINT = 2_000
"""Characters of one message or hint; an argument that is quoted may have a hundred thousand."""

# Everything that moves a cursor, rings or renames a window; peers choose some of the text that is shown.
# Patterns, not compiled: most commands print JSON or one line, and re keeps what it has compiled.
_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
_CONTROL_EXCEPT_STYLE = rf"(?!\x1b\[[0-9;]*m){_CONTROL}"


class Format(Enum):
    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class PipeClosed(Exception):
    """Nobody reads stdout any more."""


class Notice(NamedTuple):
    """A warning: it goes to stderr, and into the document."""

    code: str
    message: str
    hint: str | None = None


class Outcome(NamedTuple):
    """What a command answers.

    `data` is the value of the document: a view, a dataclass, or plain dicts and lists. `text` is the same for people
    (bytes are written as they are, but to a terminal). `rows`, where the answer is a list, become one document each
    under `--jsonl`. `failure` is set when there is an answer, but not a good one: it fixes the exit code, and `data`
    moves into the error's `details` (`rows` stay lines of their own, before the error's).
    """

    data: Any
    text: str | bytes = ""
    rows: Sequence[Any] | None = None
    failure: KodectlError | None = None


class Output:
    """The streams, format and verbosity of one invocation."""

    def __init__(self, format_: Format = Format.TEXT) -> None:
        self.format = format_
        self.command = ""
        self.quiet = False
        self.verbosity = 0
        self.color = "auto"
        self.debug = False
        self.log_format: str | None = None
        self.config_path: str | None = None
        self._started = time.perf_counter()
        self._warnings: list[Notice] = []
        self._progress_shown = False

    @property
    def structured(self) -> bool:
        return self.format is not Format.TEXT

    def warn(self, code: str, message: str, hint: str | None = None) -> None:
        self._warnings.append(Notice(code, message, hint))
        if not self.quiet:
            self._complain("warning", WARNING_STYLE, message, hint)

    def note(self, text: str) -> None:
        """A remark for people, on stderr."""
        if not self.quiet:
            self._write_err(text)

    def progress(self, text: str) -> None:
        """Replaces the progress line; shown only where somebody watches."""
        if self.quiet or self.structured or not _is_terminal(sys.stderr):
            return
        self._write_err(f"\r\x1b[K{clean(text)}", end="")
        self._progress_shown = True

    def emit(self, data: Any, text: str) -> None:
        """One record of a command that streams; it is out before this returns."""
        self._write(self._document(data) if self.structured else text)

    def emit_line(self, data: dict[str, Any], text: str) -> None:
        """One record without the envelope: a line of a protocol that other programs speak too."""
        self._write(_to_json(data, pretty=False) if self.structured else text)

    def finish(self, outcome: Outcome) -> None:
        if outcome.failure is not None:
            self._finish_failed(outcome, outcome.failure)
        elif self.format is Format.JSONL and outcome.rows is not None:
            self._write_rows(outcome.rows)
        elif self.structured:
            self._write(self._document(outcome.data))
        else:
            self._write(outcome.text)

    def fail(self, error: KodectlError) -> None:
        """The end without an answer: the error document on stdout, one sentence and its hint on stderr."""
        if self.structured:
            self._write(self._document(None, error))
        self._complain_of(error)

    def show_schema(self) -> None:
        """The form of the command's own documents."""
        from kodectl.cli.documents import schema_of

        schema = schema_of(self.command, lines=self.format is Format.JSONL)
        self._write(_to_json(schema, pretty=_is_terminal(sys.stdout)))

    def start_logging(self) -> None:
        """Sends the package's log to stderr. For commands that run a node, or a part of one."""
        from kodectl.cli.log import configure
        from kodectl.cli.options import configuration_of

        form = self.log_format or configuration_of(click.get_current_context()).get("log_format").value
        configure(verbosity=-1 if self.quiet else self.verbosity, json_lines=form == "json")

    def _write_rows(self, rows: Sequence[Any]) -> None:
        for row in rows:
            self._write(self._document(row))

    def _finish_failed(self, outcome: Outcome, failure: KodectlError) -> None:
        if self.format is Format.JSONL and outcome.rows is not None:
            self._write_rows(outcome.rows)
            self._write(self._document(None, failure))
        elif self.structured:
            self._write(self._document(outcome.data, failure))
        else:
            self._write(outcome.text)
        self._complain_of(failure)

    def _complain_of(self, error: KodectlError) -> None:
        if self.debug:
            import traceback

            self._write_err("".join(traceback.format_exception(error)).rstrip())
        self._complain("error", ERROR_STYLE, error.message, _hint_of(error))

    def _document(self, data: Any, error: KodectlError | None = None) -> str:
        document: dict[str, Any] = {
            "schema": f"kodectl{'.' + self.command if self.command else ''}/{SCHEMA_VERSION}",
            "ok": error is None,
            "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "elapsed_ms": round((time.perf_counter() - self._started) * 1000, 3),
        }
        if error is None:
            document["data"] = plain(data)
        else:
            document["error"] = _error_object(error, data)
        document["warnings"] = [notice._asdict() for notice in self._warnings]
        return _to_json(document, pretty=self.format is Format.JSON and _is_terminal(sys.stdout))

    def _complain(self, kind: str, style: str, message: str, hint: str | None) -> None:
        self._write_err(f"{click.style(f'kodectl: {kind}:', fg=style)} {_shown(message)}")
        if hint and not self.quiet:
            self._write_err(f"{click.style('hint:', bold=True)} {_shown(hint)}")

    def _write(self, text: str | bytes) -> None:
        if text in ("", b""):
            return
        if isinstance(text, bytes) and _is_terminal(sys.stdout):
            text = clean(text.decode(errors="backslashreplace").removesuffix("\n"))
        elif isinstance(text, str) and not self.structured:
            text = self._styled(_safe(text), sys.stdout)
        self._clear_progress()
        try:
            _write_all(text)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise PipeClosed from error
            raise EnvironmentFault(f"cannot write to stdout: {error.strerror}", code="output_failed") from error

    def _write_err(self, text: str, end: str = "\n") -> None:
        self._clear_progress()
        try:
            print(self._styled(text, sys.stderr) if end else text, end=end, file=sys.stderr, flush=True)
        except OSError:
            # There is nowhere left to say it; the exit code still does.
            pass

    def _clear_progress(self) -> None:
        if self._progress_shown:
            self._progress_shown = False
            self._write_err("\r\x1b[K", end="")

    def _styled(self, text: str, stream: Any) -> str:
        wanted = self.color == "always" or (
            self.color == "auto" and not os.environ.get("NO_COLOR") and _is_terminal(stream)
        )
        return text if wanted else click.unstyle(text)


def _shown(text: str) -> str:
    """What quotes somebody's input is neither obeyed by the terminal nor longer than anybody reads."""
    return clean(text if len(text) <= MAX_COMPLAINT else text[:MAX_COMPLAINT] + "...")


def clean(text: str) -> str:
    """`text` without anything that a terminal would obey."""
    return re.sub(_CONTROL, _visible, text)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns for people."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = [click.style(_row(headers, widths), bold=True)]
    lines += [_row(row, widths) for row in cells]
    return "\n".join(lines)


def pairs(entries: Iterable[tuple[str, object]]) -> str:
    """`name  value` lines for people."""
    listed = [(name, _cell(value)) for name, value in entries]
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{click.style(name.ljust(width), bold=True)}  {value}" for name, value in listed)


def _cell(value: object) -> str:
    """Unknown shows as `-`."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(str(value))


def plain(value: Any) -> Any:
    """`value` as dicts, lists and scalars."""
    if hasattr(value, "__dataclass_fields__"):
        from dataclasses import asdict

        return plain(asdict(value))
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if hasattr(value, "__struct_fields__"):
        import msgspec

        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _error_object(error: KodectlError, details: Any) -> dict[str, Any]:
    fields = {"code": error.code, "exit": int(error.exit), "message": error.message, "hint": _hint_of(error)}
    return fields if details is None else {**fields, "details": plain(details)}


def _hint_of(error: KodectlError) -> str | None:
    """Its own, else where its code is explained; who interrupts a command knows why."""
    if error.hint is not None or error.exit in (ExitCode.SIGINT, ExitCode.SIGTERM):
        return error.hint
    return f"kodectl explain {error.code}"


def _to_json(document: dict[str, Any], *, pretty: bool) -> str:
    import json

    # ASCII: the same bytes in every locale, and nothing in them that a terminal obeys.
    if pretty:
        return json.dumps(document, indent=2)
    return json.dumps(document, separators=(",", ":"))


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _safe(text: str) -> str:
    return re.sub(_CONTROL_EXCEPT_STYLE, _visible, text)


def _visible(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def _write_all(text: str | bytes) -> None:
    stream = sys.stdout
    if isinstance(text, bytes):
        stream.buffer.write(text)
    else:
        stream.write(f"{text}\n")
    stream.flush()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except ValueError:
        return False
