"""`kodectl nat punch` as it is typed: with itself and with aioice, in both roles, over both families this machine has."""

from __future__ import annotations

import json

import pytest
from punching import Program, aioice, event, introduce, ours

from kodectl.errors import ExitCode
from kodectl.wire.tickets import decode_ticket

ROLES = [("controlling", "controlled"), ("controlled", "controlling")]
COUNT = ("--count", "3")


@pytest.mark.parametrize("roles", [*ROLES, ("controlling", "controlling"), ("controlled", "controlled")])
def test_with_itself(roles: tuple[str, str]) -> None:
    one, other = (Program(ours(role, *COUNT)) for role in roles)
    introduce(one, other)
    ends = [one.end(), other.end()]
    views = [event(lines, "connected") for _, lines in ends]
    assert [code for code, _ in ends] == [ExitCode.OK, ExitCode.OK]
    assert [view["path"] for view in views] == ["direct", "direct"]
    assert (views[0]["local"], views[0]["remote"]) == (views[1]["remote"], views[1]["local"])
    assert {view["role"] for view in views} == {"controlling", "controlled"}
    assert [event(lines, "done")["echoed"] for _, lines in ends] == [3, 3]


@pytest.mark.parametrize("role", ["controlling", "controlled"])
@pytest.mark.parametrize("is_told_first", [True, False])
def test_with_aioice(role: str, is_told_first: bool) -> None:
    this = Program(ours(role, *COUNT))
    that = Program(aioice(dict(ROLES)[role], 3))
    introduce(*((that, this) if is_told_first else (this, that)))
    code, lines = this.end()
    assert code == ExitCode.OK
    assert event(lines, "done")["echoed"] == 3
    assert event(that.end()[1], "done")["echoed"] == 3


def test_the_line_is_what_other_agents_read() -> None:
    this = Program(ours("controlled"))
    line = json.loads(this.ticket)
    this.process.kill()
    this.end()
    assert set(line) == {"ufrag", "pwd", "candidates"}
    assert all(text.startswith("candidate:") for text in line["candidates"])
    assert all(candidate.is_usable for candidate in decode_ticket(this.ticket).candidates)


def test_people_get_one_printable_word() -> None:
    command = [word for word in ours("controlled", *COUNT) if word != "--jsonl"]
    one, other = Program(command), Program(ours("controlling", *COUNT))
    assert decode_ticket(one.ticket).candidates
    assert one.ticket.strip().replace("-", "").replace("_", "").isalnum()
    other.tell(one.ticket)
    one.tell(other.ticket)
    out, _ = one.process.communicate()
    assert "connected: " in out
    assert "3 of 3 pings echoed" in out
    assert other.end()[0] == ExitCode.OK


def test_nobody_there() -> None:
    this = Program(ours("controlling", "--timeout", "0.5"))
    own = decode_ticket(this.ticket).candidates[0].address[0]
    nobody = {"ufrag": "abcd", "pwd": "x" * 22, "candidates": [f"candidate:1 1 udp 1 {own} 9 typ host"]}
    this.tell(json.dumps(nobody) + "\n")
    code, lines = this.end()
    assert code == ExitCode.NEGATIVE
    assert "none worked within 0.5 s" in event(lines, "failed")["why"]
    assert lines[-1]["error"]["code"] == "ice_failed"


def test_a_side_that_does_not_echo_is_said() -> None:
    one, other = Program(ours("controlling", "--count", "1")), Program(aioice("controlled", 0))
    introduce(one, other)
    code, lines = one.end()
    other.end()
    assert code == ExitCode.NEGATIVE
    assert lines[-1]["error"]["code"] == "no_echo"
