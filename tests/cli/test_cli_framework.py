"""Streams, formats, exit codes and signals, on commands made for the purpose."""

from __future__ import annotations

import io
import json
import signal
import sys
import types
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kodectl.cli.command import Branch, command
from kodectl.cli.main import Root
from kodectl.cli.options import read_targets, time_limits
from kodectl.cli.output import Outcome, Output, clean, table
from kodectl.errors import Degraded, KodectlError, NegativeAnswer, NodeUnreachable

PROBES = "probe_commands"


@command("answer")
@click.option("--count", type=int, default=1)
@click.pass_obj
def answer(output: Output, count: int) -> Outcome:
    """Answer well."""
    output.warn("key_exposed", "look out", "do this")
    output.note("a note")
    output.progress("never shown: stderr is no terminal")
    rows = [{"number": number, "unknown": None} for number in range(count)]
    return Outcome({"rows": rows, "path": Path("/x")}, "\n".join(f"row {row['number']}" for row in rows), rows=rows)


@command("partly")
def partly() -> Outcome:
    """Answer in part."""
    return Outcome({"reached": 1}, "reached 1", failure=Degraded("1 of 2", code="packet_loss"))


@command("some")
def some() -> Outcome:
    """Answer with rows, not all of them."""
    return Outcome([1, 2], "1 2", rows=[1, 2], failure=Degraded("2 of 3", code="packet_loss"))


@command("stream")
@click.pass_obj
def stream(output: Output) -> Outcome:
    """Answer bit by bit."""
    output.emit({"event": "first"}, "first")
    return Outcome({"event": "summary"}, "summary", failure=NegativeAnswer("no", code="unreachable"))


@command("raw")
def raw() -> Outcome:
    """Answer with bytes."""
    return Outcome({"size": 3}, b"\x00\xff\n")


@command("hostile")
def hostile() -> Outcome:
    """Answer with what a peer chose."""
    return Outcome({"client": "a\x1b]0;b\x07"}, "a\x1b]0;b\x07")


@command("fail")
@click.argument("how")
def fail(how: str) -> None:
    """Do not answer."""
    raise {
        "expected": NodeUnreachable("nobody", hint="start one"),
        "bug": ZeroDivisionError("oops"),
        "os": OSError(28, "No space left on device", "/some/file"),
        "interrupt": KeyboardInterrupt(),
    }[how]


@command("hang")
@time_limits(timeout_s=1, deadline_s=60)
def hang(timeout_s: float, deadline_s: float) -> None:
    """Never answer."""
    signal.pause()


@command("targets")
@click.argument("targets", nargs=-1)
def targets(targets: tuple[str, ...]) -> Outcome:
    """Echo the targets."""
    found = list(read_targets(targets))
    return Outcome(found, "\n".join(found))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    names = ("answer", "partly", "some", "stream", "raw", "hostile", "fail", "hang", "targets")
    module = types.ModuleType(PROBES)
    module.__dict__.update({name: globals()[name] for name in names})
    monkeypatch.setitem(sys.modules, PROBES, module)
    root = Root("kodectl", branch=Branch("", {"probe": Branch("", {name: f"{PROBES}:{name}" for name in names})}))

    def invoke(*arguments: str, **extra: Any) -> Result:
        return CliRunner().invoke(root, arguments, **extra)

    return invoke


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_text_is_on_stdout_and_all_else_on_stderr(run: Any) -> None:
    result = run("probe", "answer")
    assert (result.exit_code, result.stdout) == (0, "row 0\n")
    assert result.stderr == "kodectl: warning: look out\nhint: do this\na note\n"


def test_the_envelope(run: Any) -> None:
    found = document(run("probe", "answer", "--json"))
    assert list(found) == ["schema", "ok", "ts", "elapsed_ms", "data", "warnings"]
    assert (found["schema"], found["ok"]) == ("kodectl.probe.answer/1", True)
    assert found["data"] == {"rows": [{"number": 0, "unknown": None}], "path": "/x"}
    assert found["warnings"] == [{"code": "key_exposed", "message": "look out", "hint": "do this"}]
    assert found["ts"].endswith("Z")
    assert isinstance(found["elapsed_ms"], float)


def test_jsonl_has_a_document_for_each_row(run: Any) -> None:
    lines = run("probe", "answer", "--count", "3", "--jsonl").stdout.splitlines()
    assert [json.loads(line)["data"]["number"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "probe", "answer"),
        ("probe", "--json", "answer"),
        ("probe", "answer", "--json"),
        ("-q", "probe", "answer", "--json"),
    ],
)
def test_options_of_every_command_stand_before_or_after_it(run: Any, arguments: tuple[str, ...]) -> None:
    assert document(run(*arguments))["schema"] == "kodectl.probe.answer/1"


def test_quiet_leaves_errors_only(run: Any) -> None:
    assert run("probe", "answer", "-q").stderr == ""
    assert run("probe", "fail", "expected", "-q").stderr == "kodectl: error: nobody\n"


def test_a_failure_is_the_same_document_with_an_error(run: Any) -> None:
    result = run("probe", "fail", "expected", "--json")
    found = document(result)
    assert result.exit_code == 5
    assert list(found) == ["schema", "ok", "ts", "elapsed_ms", "error", "warnings"]
    assert found["error"] == {"code": "node_not_running", "exit": 5, "message": "nobody", "hint": "start one"}
    assert result.stderr == "kodectl: error: nobody\nhint: start one\n"


def test_an_answer_that_is_not_a_good_one_is_told_with_its_failure(run: Any) -> None:
    text, found = run("probe", "partly"), document(run("probe", "partly", "--json"))
    assert (text.exit_code, text.stdout) == (4, "reached 1\n")
    assert found["error"]["code"] == "packet_loss"
    assert found["error"]["details"] == {"reached": 1}
    assert "data" not in found


def test_a_stream_has_a_line_for_each_record_under_json_too(run: Any) -> None:
    result = run("probe", "stream", "--json")
    first, last = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["ok"], first["data"]) == (True, {"event": "first"})
    assert (last["ok"], last["error"]["details"]) == (False, {"event": "summary"})
    assert result.exit_code == 3
    assert run("probe", "stream").stdout == "first\nsummary\n"


def test_bytes_are_written_as_they_are(run: Any) -> None:
    assert run("probe", "raw").stdout_bytes == b"\x00\xff\n"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "shown"),
    [(b"hello", b"hello\n"), (b"hello\n", b"hello\n"), (b"\x1b]0;b\x07\xff", b"\\x1b]0;b\\x07\\xff\n")],
)
def test_bytes_go_to_a_terminal_as_a_line_that_it_does_not_obey(
    monkeypatch: pytest.MonkeyPatch, value: bytes, shown: bytes
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(written, encoding="utf-8"))
    Output().finish(Outcome({}, value))
    assert written.getvalue() == shown


def test_an_error_without_a_hint_says_where_it_is_explained(run: Any) -> None:
    assert run("probe", "partly").stderr == "kodectl: error: 1 of 2\nhint: kodectl explain packet_loss\n"
    assert document(run("probe", "partly", "--json"))["error"]["hint"] == "kodectl explain packet_loss"
    assert document(run("probe", "fail", "interrupt", "--json"))["error"]["hint"] is None


@pytest.mark.parametrize(
    ("how", "exit_code", "code"),
    [("bug", 1, "internal_error"), ("os", 7, "environment"), ("interrupt", 130, "interrupted")],
)
def test_what_nobody_expected_has_an_exit_code_too(run: Any, how: str, exit_code: int, code: str) -> None:
    result = run("probe", "fail", how, "--json")
    assert result.exit_code == exit_code
    assert document(result)["error"]["code"] == code
    assert "Traceback" not in result.stderr


def test_tracebacks_are_for_debugging(run: Any) -> None:
    assert "Traceback" not in run("probe", "fail", "bug").stderr
    shown = run("probe", "fail", "bug", "--debug").stderr
    assert "ZeroDivisionError: oops" in shown
    assert shown.index("Traceback") < shown.index("kodectl: error:")


def test_the_deadline_ends_what_hangs(run: Any) -> None:
    result = run("probe", "hang", "--deadline", "0.05", "--json")
    assert result.exit_code == 8
    assert document(result)["error"]["code"] == "deadline"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x", "1e9"])
def test_a_time_limit_is_finite_and_above_zero(run: Any, value: str) -> None:
    result = run("probe", "hang", f"--deadline={value}")
    assert result.exit_code == 2
    assert "number of seconds" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("probe", "answr"), "No such command 'answr'. Did you mean 'answer'?"),
        (("probe", "answer", "--cuont"), "No such option '--cuont'"),
        (("probe", "fail"), "Missing argument 'HOW'"),
        (("probe", "answer", "--count", "x"), "Invalid value for '--count'"),
        (("probe",), "no command was given"),
        ((), "no command was given"),
    ],
)
def test_usage_is_told_in_both_forms(run: Any, arguments: tuple[str, ...], message: str) -> None:
    text, structured = run(*arguments), run(*arguments, "--json")
    assert (text.exit_code, text.stdout) == (2, "")
    assert message in text.stderr
    assert structured.exit_code == 2
    assert document(structured)["error"]["code"] == "usage"
    assert "--help" in document(structured)["error"]["hint"]


def test_after_two_dashes_there_are_no_options(run: Any) -> None:
    result = run("probe", "targets", "--", "--json")
    assert (result.exit_code, result.stdout) == (0, "--json\n")


def test_targets_come_from_arguments_lines_and_json(run: Any) -> None:
    lines = 'a\n\n# no\n {"enode": "b"}\n{"schema": "s", "data": {"id": "c"}}\n'
    assert run("probe", "targets", "x", "-", "y", input=lines).stdout.split() == ["x", "a", "b", "c", "y"]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("{", "input_malformed"),
        ("{}", "input_malformed"),
        ('{"enode": 1}', "input_malformed"),
        ("{" * 4000, "input_malformed"),
        ("a" * 5000, "input_too_long"),
    ],
)
def test_bad_lines_are_told_by_number(run: Any, lines: str, code: str) -> None:
    result = run("probe", "targets", "-", "--json", input="fine\n" + lines)
    assert result.exit_code == 2
    assert document(result)["error"]["code"] == code
    assert "line 2" in document(result)["error"]["message"]


def test_no_targets_is_usage(run: Any) -> None:
    assert run("probe", "targets").exit_code == 2


def test_colour_only_where_it_is_wanted(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" not in run("probe", "fail", "expected").stderr
    assert "\x1b[31m" in run("probe", "fail", "expected", "--color", "always", color=True).stderr
    monkeypatch.setenv("KODECTL_COLOR", "always")
    assert "\x1b[31m" in run("probe", "fail", "expected", color=True).stderr
    assert "\x1b[" not in run("probe", "fail", "expected", "--color", "never", color=True).stderr


def test_what_peers_choose_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\u202ec\x07\r\n") == "a\\x1b[2Jb\\u202ec\\x07\\r\n"
    assert "\x1b]" not in click.unstyle(table(["name"], [["\x1b]0;title\x07"]]))


def test_nor_in_text_that_a_command_did_not_clean(run: Any) -> None:
    assert run("probe", "hostile").stdout == "a\\x1b]0;b\\x07\n"
    assert document(run("probe", "hostile", "--json"))["data"] == {"client": "a\x1b]0;b\x07"}
    assert "\x1b" not in run("probe", "hostile", "--json").stdout


def test_unknown_shows_as_a_dash() -> None:
    assert click.unstyle(table(["a", "bc"], [[None, 1], ["long", 2]])) == "a     bc\n-     1\nlong  2"


def test_the_base_class_is_an_internal_error() -> None:
    assert (KodectlError("x").code, int(KodectlError("x").exit)) == ("internal_error", 1)


def test_rows_stay_lines_of_their_own_beside_a_failure(run: Any) -> None:
    *rows, end = map(json.loads, run("probe", "some", "--jsonl").stdout.splitlines())
    assert [row["data"] for row in rows] == [1, 2]
    assert (end["ok"], "details" in end["error"]) == (False, False)
    assert document(run("probe", "some", "--json"))["error"]["details"] == [1, 2]


def test_unknown_and_switches_are_words_in_a_table() -> None:
    assert table(("a", "b", "c"), [(None, True, False)]).splitlines()[-1] == "-  yes  no"
