"""The README's examples are run as they stand, line by line in one shell; so are the two commands compared."""

from __future__ import annotations

import re

from console_sessions import ROOT, blocks, run_session, session

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_session_works_as_it_is_written() -> None:
    assert "hello, world" in run_session(session(README))


def test_the_session_shows_what_there_is() -> None:
    typed = "\n".join(session(README))
    for words in (
        "node run",
        "node peers",
        "enode parse",
        "peer ping",
        "dht find-node",
        "dht put",
        "dht get",
        "explain",
    ):
        assert f"kodectl {words}" in typed


def test_the_two_commands_are_one_line_each() -> None:
    run, test = (block.strip() for block in blocks(README, "sh"))
    assert "\n" not in run + test
    assert run.endswith("kodectl node run")
    assert test in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_order_of_the_readme() -> None:
    titles = re.findall(r"^##? (.*)$", README, re.MULTILINE)
    expected = ["kodectl", "Two commands", "A first session", "The tour", "How to test", "Where the design is"]
    assert titles == expected


def test_the_tour_names_files_that_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md))`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "kodectl" / name).exists()] == []


def test_the_spanish_one_says_the_same() -> None:
    """As far as a test can see: the same blocks in the same places, the same files, the same number of parts."""
    spanish = (ROOT / "README.es.md").read_text(encoding="utf-8")
    assert fences(spanish) == fences(README)
    for pattern in (r"^#+ ", r"^$", r"\]\((?!README)[^)]*\)"):
        assert len(re.findall(pattern, spanish, re.M)) == len(re.findall(pattern, README, re.M)), pattern
    assert set(re.findall(r"`[a-z]+/[a-z_.]+`", spanish)) == set(re.findall(r"`[a-z]+/[a-z_.]+`", README))


def fences(text: str) -> list[str]:
    return re.findall(r"^```.*?^```", text, re.M | re.S)
