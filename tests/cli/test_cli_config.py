"""Where a setting comes from: flag > variable > file > default."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kodectl.cli.command import command
from kodectl.cli.config import as_toml, template
from kodectl.cli.configuration import BY_KEY, SETTINGS, Configuration, load_configuration
from kodectl.cli.main import cli
from kodectl.cli.options import setting
from kodectl.cli.output import Output
from kodectl.cli.quotas import parse_relay
from kodectl.cli.reloading import TAKEN_OVER
from kodectl.errors import EnvironmentFault, LocalMisuse

ENODE = f"enode://{'ab' * 32}@192.0.2.7:1?discport=2"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("KODECTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "kodectl").mkdir()
    return tmp_path / "kodectl" / "config.toml"


def shown(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["config", "show", "--origin", "--json", *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["data"]
    return found


def test_each_source_comes_before_the_next(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown()["max_peers"] == {"value": 50, "origin": "default"}
    config.write_text("max_peers = 7")
    assert shown()["max_peers"] == {"value": 7, "origin": str(config)}
    other = tmp_path / "other.toml"
    other.write_text("max_peers = 8")
    assert shown("--config", str(other))["max_peers"] == {"value": 8, "origin": str(other)}
    monkeypatch.setenv("KODECTL_MAX_PEERS", "9")
    assert shown()["max_peers"] == {"value": 9, "origin": "KODECTL_MAX_PEERS"}


@command("probe")
@setting("max_peers", "lan", "bootstrap", "listen")
@click.pass_obj
def probe(output: Output, **values: Any) -> None:
    """Show what a command gets."""
    click.echo(repr(values))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"max_peers": 9, "lan": False, "bootstrap": (ENODE,), "listen": ("::1", 5)}),
        (["--max-peers", "3"], {"max_peers": 3, "lan": False, "bootstrap": (ENODE,), "listen": ("::1", 5)}),
        (["--lan"], {"max_peers": 9, "lan": True, "bootstrap": (ENODE,), "listen": ("::1", 5)}),
        (["--no-lan"], {"max_peers": 9, "lan": False, "bootstrap": (ENODE,), "listen": ("::1", 5)}),
        (
            ["--listen", "h.example:0"],
            {"max_peers": 9, "lan": False, "bootstrap": (ENODE,), "listen": ("h.example", 0)},
        ),
    ],
)
def test_a_flag_comes_before_all(
    config: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: dict[str, Any]
) -> None:
    config.write_text(f'lan = false\nlisten = "[::1]:5"\nbootstrap = ["{ENODE}"]')
    monkeypatch.setenv("KODECTL_MAX_PEERS", "9")
    result = CliRunner().invoke(probe, arguments, obj=Output())
    assert result.exit_code == 0, result.output
    assert ast.literal_eval(result.stdout) == expected


def test_a_flag_given_several_times_is_a_list(config: Path) -> None:
    result = CliRunner().invoke(probe, ["--bootstrap", ENODE, "--bootstrap", ENODE], obj=Output())
    assert result.stdout.count("enode://") == 2


@pytest.mark.parametrize("text", ["", " ", f"{ENODE} {ENODE}", f"{ENODE},{ENODE}", f"{ENODE}\n{ENODE}"])
def test_a_variable_holds_a_list(text: str) -> None:
    value = Configuration(None, {}, {"KODECTL_BOOTSTRAP": text}).get("bootstrap").value
    assert value == (ENODE,) * text.count("enode")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ("max_peer = 1", "config_unknown_key", "'max_peer'. Did you mean 'max_peers'?"),
        ("[node]\nlan = true", "config_unknown_key", "'node'"),
        ("max_peers = ", "config_invalid", "not TOML"),
        (b"\xff", "config_invalid", "not TOML"),
        ("a = " + "[" * 5000, "config_invalid", "not TOML"),
        ("#" * (1 << 20) + "\n", "config_invalid", "larger than"),
        ("max_peers = 0", "config_invalid_value", "max_peers in"),
        ("max_peers = 10001", "config_invalid_value", "max_peers in"),
        ('datadir = "/tmp/a\\u0000b"', "config_invalid_value", "a path"),
        (f"max_peers = 0x{'f' * 4000}", "config_invalid", "not TOML"),
        (f"stun = [0x{'f' * 4000}]", "config_invalid", "not TOML"),
        ('max_peers = "00000011000"', "config_invalid_value", "max_peers in"),
        ('discovery_port = "0000065536"', "config_invalid_value", "a port from 0"),
        ('relay = "user=00000000000000001"', "config_invalid_value", "NAME=NUMBER"),
        ("max_peers = [1]", "config_invalid_value", "max_peers in"),
        ("max_peers = 1.5", "config_invalid_value", "max_peers in"),
        ("max_peers = true", "config_invalid_value", "max_peers in"),
        ('lan = "maybe"', "config_invalid_value", "true or false"),
        ('listen = "0.0.0.0"', "config_invalid_value", "HOST:PORT"),
        ('listen = "::1:5"', "config_invalid_value", "in brackets"),
        ('bootstrap = "x"', "config_invalid_value", "a list"),
        ('bootstrap = ["enode://x"]', "config_invalid_value", "an enode (enode: no @"),
        ('nat = "extip:x"', "config_invalid_value", "extip:IP"),
        ('nat = "extip:0.0.0.0"', "config_invalid_value", "extip:IP"),
        ('nat = "extip:224.0.0.1"', "config_invalid_value", "extip:IP"),
        ('nat = "extip:::ffff:20.0.0.1"', "config_invalid_value", "extip:IP"),
        ('nat = "upnp:1"', "config_invalid_value", "extip:IP"),
        ('validators = ["ab"]', "config_invalid_value", "64 hex digits"),
        ('network = ""', "config_invalid_value", "printable"),
        ("discovery_port = 65536", "config_invalid_value", "0 to 65535"),
        ('api_token = "never"', "config_invalid_value", "one of"),
        ("max_peers = 1.5", "config_invalid_value", "'1.5' is not a number from 1 to"),
        ("max_peers = 1979-05-27", "config_invalid_value", "is not text, a number or a switch"),
        ("[node]\nmax_peers = 3", "config_unknown_key", "The file has no tables"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(config: Path, content: str | bytes, code: str, message: str) -> None:
    config.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LocalMisuse) as raised:
        load_configuration(None).check()
    assert raised.value.code == code
    assert message in raised.value.message
    assert str(config) in raised.value.message


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as raised:
        load_configuration(str(tmp_path / "absent.toml"))
    assert raised.value.code == "config_unreadable"


def test_help_tells_the_defaults() -> None:
    shown = " ".join(CliRunner().invoke(cli, ["node", "run", "--help"]).stdout.split())
    assert "[default: 0.0.0.0:30303]" in shown
    assert "[default: 50]" in shown


def test_help_and_completion_do_not_mind_a_broken_file(config: Path) -> None:
    config.write_text("max_peers = 0")
    assert CliRunner().invoke(cli, ["node", "run", "--help"]).exit_code == 0
    completing = {"_KODECTL_COMPLETE": "1"}
    assert "--max-peers" in CliRunner().invoke(cli, ["node", "run", "--"], env=completing).stdout


def test_what_init_writes_is_valid_and_changes_nothing(config: Path) -> None:
    before = shown()
    assert CliRunner().invoke(cli, ["config", "init"]).exit_code == 0
    assert {key: found["value"] for key, found in shown().items()} == {k: found["value"] for k, found in before.items()}
    uncommented = "\n".join(line[2:] for line in template().splitlines() if " = " in line)
    assert set(tomllib.loads(uncommented)) == set(BY_KEY)
    config.write_text(uncommented)
    assert {key: found["value"] for key, found in shown().items()} == {k: found["value"] for k, found in before.items()}


def test_every_default_would_be_a_valid_value() -> None:
    for described in SETTINGS:
        default = described.default() if callable(described.default) else described.default
        values = tomllib.loads(f"x = {as_toml(default)}")
        assert Configuration(None, {described.key: values["x"]}, {}).get(described.key).value == default


@given(st.dictionaries(st.sampled_from([f"KODECTL_{key.upper()}" for key in BY_KEY]), st.text(max_size=80)))
@example({"KODECTL_DATADIR": "~nobody-of-this-name"})
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_variables_are_settings_or_misuse(variables: dict[str, str]) -> None:
    with contextlib.suppress(LocalMisuse):
        assert set(Configuration(None, {}, variables).check()) == set(BY_KEY)


class TestSecrets:
    SERVER = "alice:s3cr3t@turn.example.org:3478"

    def test_are_not_shown(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config.write_text(f'turn = ["{self.SERVER}", "turns:bob:s3cr3t@192.0.2.1"]')
        for arguments in ([], ["--origin"], ["--json"], ["--json", "--origin"]):
            result = CliRunner().invoke(cli, ["config", "show", *arguments])
            assert result.exit_code == 0
            assert "s3cr3t" not in result.output
            assert "turn:turn.example.org:3478" in result.output
            assert "turns:192.0.2.1:5349" in result.output
        assert load_configuration(None).get("turn").value == (self.SERVER, "turns:bob:s3cr3t@192.0.2.1")

    @pytest.mark.parametrize("wrong", ["alice:s3cr3t@", "alice:s3cr3t@host", "s3cr3t", "turn:a:s3cr3t@host:0"])
    def test_are_not_repeated_when_they_are_wrong(
        self, config: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
    ) -> None:
        @command("relayed")
        @setting("turn")
        def relayed(**values: Any) -> None:
            """Take a server."""

        given = CliRunner().invoke(relayed, ["--turn", wrong], obj=Output())
        monkeypatch.setenv("KODECTL_TURN", wrong)
        by_variable = CliRunner().invoke(cli, ["config", "check"])
        monkeypatch.delenv("KODECTL_TURN")
        config.write_text(f'turn = ["{wrong}"]')
        in_file = CliRunner().invoke(cli, ["config", "check"])
        for result in (given, by_variable, in_file):
            assert result.exit_code == 2
            assert "USER:PASS@HOST:PORT" in result.output
            assert "s3cr3t" not in result.output


def test_the_document_has_every_setting_as_it_is() -> None:
    document = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in document.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"`{one.key}`" for one in SETTINGS]
    for one, (_, variable, flag, default, reload, told) in zip(SETTINGS, rows, strict=True):
        assert (variable, flag) == (f"`{one.variable}`", f"`{one.option}`")
        assert reload == ("taken over" if one.key in TAKEN_OVER else "stays")
        assert told.replace("\\|", "|") == one.help
        assert default == one.default_text or not one.default_text


class TestRelay:
    @pytest.mark.parametrize(
        ("text", "limits"),
        [("on", ()), ("off", None), ("user=4,bytes=9", (("user_allocations", 4), ("bytes_per_s", 9)))],
    )
    def test_is_on_off_or_limits(self, text: str, limits: tuple[tuple[str, int], ...] | None) -> None:
        assert parse_relay(text) == limits

    @pytest.mark.parametrize(
        "text", ["", "yes", "user", "user=", "user=0", "user=-1", "users=4", "user=4,", "user=9" * 20]
    )
    def test_is_nothing_else(self, text: str) -> None:
        with pytest.raises(LocalMisuse, match="on, off, or limits as NAME=NUMBER"):
            Configuration(None, {}, {"KODECTL_RELAY": text}).get("relay")
