"""Manual pages and completions are those of the tree, and work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kodectl.cli.completion import FILES, SCRIPTS
from kodectl.cli.generate import generated
from kodectl.cli.main import cli

ROOT = Path(__file__).parents[2]
MAKE_ANEW = "stale: run python -m kodectl.cli.generate"


def test_the_files_are_those_of_the_tree() -> None:
    found = {f"{folder}/{path.name}": path for folder in ("man", "completions") for path in (ROOT / folder).iterdir()}
    expected = generated()
    assert set(found) == set(expected), MAKE_ANEW
    assert [name for name in expected if found[name].read_text(encoding="utf-8") != expected[name]] == [], MAKE_ANEW


def test_every_group_and_command_has_a_page() -> None:
    assert {"man/kodectl.1", "man/kodectl-key.1", "man/kodectl-key-gen.1", "man/kodectl-dht-find-node.1"} <= set(
        generated()
    )


def test_man_prints_the_page() -> None:
    printed = CliRunner().invoke(cli, ["man", "key", "gen"]).stdout
    assert printed == (ROOT / "man" / "kodectl-key-gen.1").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.1")), ids=lambda page: page.name)
def test_groff_has_nothing_to_say(page: Path) -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_has_nothing_to_say() -> None:
    pages = sorted(str(page) for page in (ROOT / "man").glob("*.1"))
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
@pytest.mark.parametrize("columns", [52, 60, 78])
def test_no_name_is_broken_at_the_end_of_a_line(columns: int) -> None:
    page = ROOT / "man" / "kodectl.1"
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", f"-rLL={columns}n", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    see_also = done.stdout.partition("SEE ALSO")[2].replace(",", " ").split()
    commands = {name.removeprefix("man/").replace(".1", "(1)") for name in generated() if name.count("-") == 1}
    assert commands <= set(see_also)


def test_a_page_has_the_exit_codes_in_one_place() -> None:
    page = generated()["man/kodectl-nat-map.1"]
    before, _, after = page.partition(".SH EXIT STATUS\n")
    assert "Exit code" not in before
    assert after.startswith("0 when all is well. Exit code 3: no router answers, or it refuses; 4: some ports only")
    assert after.split(".SH")[0].endswith("NAT. \\fBkodectl\\fR(1) has what the others mean.\n")
    assert "Exit code 0: direct; 4: through a relay; 3: no path. " in generated()["man/kodectl-nat-punch.1"]


def test_no_shell_takes_an_example_for_a_pattern() -> None:
    """zsh runs nothing when an open ? or [] matches no file."""
    for name, page in generated().items():
        for line in (
            re.findall(r"^(?:kodectl|date|printf) .*", page.replace(r"\(aq", "'"), re.M) if "man/" in name else ()
        ):
            assert re.search(r"[?*\[\]]", re.sub(r"'[^']*'", "", line)) is None, (name, line)


def complete(*words: str) -> list[list[str]]:
    result = CliRunner().invoke(cli, list(words), env={"_KODECTL_COMPLETE": "1"})
    assert result.exit_code == 0
    return [line.split("\t") for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["no"], "node"),
        (["key", "g"], "gen"),
        (["key", "gen", "--f"], "--force"),
        (["--json", "key", "pass"], "passwd"),
        (["completion", "z"], "zsh"),
        (["node", "run", "--api-token", "r"], "required"),
        (["explain", "key_ex"], "key_exists"),
        (["explain", "exit"], "exit-codes"),
    ],
)
def test_completions(words: list[str], expected: str) -> None:
    assert expected in [value for _, value, *_ in complete(*words)]


def test_completion_describes_and_names_files() -> None:
    assert ["plain", "gen", "Make a new identity."] in complete("key", "")
    assert complete("key", "show", "nod")[0][0] == "file"
    assert complete("node", "run", "--datadir", "/t")[0][0] == "dir"


@pytest.mark.parametrize("words", [["nonsense", ""], ["key", "nonsense", "x"], ["--color", ""], ["'"], ["\x1b"], []])
def test_completion_never_fails(words: list[str]) -> None:
    complete(*words)


def made_program(directory: Path) -> Path:
    program = directory / "kodectl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kodectl "$@"\n')
    program.chmod(0o755)
    return program


BASH = """
source completions/kodectl.bash
COMP_WORDS=({words}) COMP_CWORD={last}
compopt() {{ :; }}
_kodectl kodectl "" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["kodectl", "key", "g"], ["gen"]),
        (["kodectl", "key", ""], ["gen", "show", "id", "passwd"]),
        (["kodectl", "man", "x"], []),
        (["kodectl", "key", "show", "CHANGE"], ["CHANGELOG.md"]),
        (["kodectl", "node", "run", "--datadir", "comp"], ["completions"]),
    ],
)
def test_the_bash_script(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    program = made_program(tmp_path)
    script = BASH.format(words=" ".join(f'"{word}"' for word in words), last=len(words) - 1)
    script = script.replace("_kodectl kodectl", f"_kodectl {program}")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == ""
    assert done.stdout.split() == expected


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(("line", "expected"), [("kodectl key g", "gen"), ("kodectl key show CHANGE", "CHANGELOG.md")])
def test_the_fish_script(tmp_path: Path, line: str, expected: str) -> None:
    made_program(tmp_path)
    script = f"set PATH {tmp_path} $PATH; source completions/kodectl.fish; complete -C '{line}'"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    assert [found.split("\t")[0] for found in done.stdout.splitlines()] == [expected]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_can_read_their_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n", str(ROOT / "completions" / FILES[shell])], check=True)


def test_the_scripts_are_what_the_command_prints() -> None:
    for shell, script in SCRIPTS.items():
        assert CliRunner().invoke(cli, ["completion", shell]).stdout == script
