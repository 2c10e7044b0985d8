"""SIGHUP to `node run`: the configuration file is read again, and what can change does."""

from __future__ import annotations

import http.client
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kodectl.cli.configuration import BY_KEY, Configuration, load_configuration
from kodectl.cli.reloading import TAKEN_OVER, Reloading, changes_between, shown, values_of
from kodectl.errors import EnvironmentFault
from kodectl.node.node import RELOADABLE

ID = "ab" * 32
RELOADED = ("config_reloaded", "config_refused")


def configured(**values: Any) -> Configuration:
    return Configuration(Path("/some/config.toml"), values, {})


def test_what_a_node_takes_over_are_settings() -> None:
    assert set(BY_KEY) > TAKEN_OVER
    assert set(RELOADABLE) < TAKEN_OVER


def test_changes_are_told_apart() -> None:
    running = values_of(configured(max_peers=5, lan=False, network="n"), {"network": "mine"})
    wanted = configured(max_peers=6, lan=True, network="theirs", validators=[ID])
    found = changes_between(running, values_of(wanted, {"network": "mine"}), wanted)
    assert found == (["max_peers", "validators"], ["lan"], ["network"])
    same = configured(max_peers=5, lan=False, network="mine")
    assert changes_between(running, values_of(same, {"network": "mine"}), same) == ([], [], [])


def test_a_value_is_shown_without_its_secret() -> None:
    assert shown("turn", ("user:secret@192.0.2.1:3478",)) == "turn:192.0.2.1:3478"
    assert (shown("lan", True), shown("stun", ()), shown("listen", ("::", 5))) == ("true", "none", "[::]:5")


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, type_: str, **data: Any) -> None:
        self.events.append((type_, data))


def test_what_cannot_be_applied_is_tried_again_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    applied = []

    def apply(values: Any) -> bool:
        applied.append(values["max_peers"])
        if len(applied) == 1:
            raise EnvironmentFault("no token", code="api_token_required", hint="make one")
        return False

    told = Told()
    reloading = Reloading(lambda: configured(max_peers=6), apply, values_of(configured(), {}), {})
    reloading.reload(told)  # type: ignore[arg-type]
    assert told.events == [
        ("config_refused", {"code": "api_token_required", "message": "no token", "hint": "make one"})
    ]
    assert "what held before still holds: no token" in caplog.text
    reloading.reload(told)  # type: ignore[arg-type]
    assert told.events[1][1]["applied"] == ["max_peers"]
    reloading.reload(told)  # type: ignore[arg-type]
    assert told.events[2][1]["applied"] == []
    assert applied == [6, 6, 6]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("max_peers = 40\n")
    return path


def reload(node: Any, eventually: Any) -> dict[str, Any]:
    """The event that tells of it."""
    before = len(happened(node))
    assert node.process.poll() is None, node.log.read_text()
    node.process.send_signal(signal.SIGHUP)
    return eventually(lambda: happened(node)[before:])[0]


def happened(node: Any) -> list[dict[str, Any]]:
    return [line for line in node.lines() if line["type"] in RELOADED]


def status_of(node: Any, token: str) -> int:
    connection = http.client.HTTPConnection(*node.api.split(":"), timeout=10)
    connection.request("GET", "/livez", headers={"Authorization": f"Bearer {token}"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_running_node_takes_over_what_it_can(nodes: Any, file: Path, eventually: Any) -> None:
    node = nodes.start("a", "--config", str(file))
    text = f'max_peers = 30\nvalidators = ["{ID}"]\nrelay = "off"\nlan = true\nnetwork = "x"\nlog_format = "json"\n'
    file.write_text(text)
    told = reload(node, eventually)
    assert (told["type"], told["topic"]) == ("config_reloaded", "node")
    assert told["data"] == {
        "file": str(file),
        "api_token_changed": False,
        "applied": ["max_peers", "relay", "validators", "log_format"],
        "restart_needed": ["network"],
        "overridden": ["lan"],
    }
    shown_now = nodes.kodectl("node", "status", "--datadir", str(node.datadir)).stdout.decode()
    assert "0 of at most 30" in shown_now
    eventually(lambda: '"message": "max_peers is now 30; it was 40"' in node.log.read_text())
    eventually(lambda: "network stays kodechain until the node is started again; then it is x" in node.log.read_text())
    file.write_text("max_peers = 20\nlog_level = 'error'\n")
    assert reload(node, eventually)["data"]["applied"] == [
        "max_peers",
        "relay",
        "validators",
        "log_level",
        "log_format",
    ]
    file.write_text("")
    assert reload(node, eventually)["data"]["applied"] == ["max_peers", "log_level"]
    eventually(lambda: "max_peers is now 50; it was 20" in node.log.read_text())
    assert "max_peers is now 20" not in node.log.read_text()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("max_pers = 3", "config_unknown_key"),
        ("max_peers = 0", "config_invalid_value"),
        ("lan = 'perhaps'", "config_invalid_value"),
        ("max_peers = ", "config_invalid"),
        ("api_token = 'required'", "api_token_required"),
        (None, "config_unreadable"),
    ],
)
def test_a_file_that_is_not_valid_changes_nothing(content: str | None, code: str, shared: Any, eventually: Any) -> None:
    node, file = shared
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_text("max_peers = 7\n" + content if "max_peers" not in content else content)
    told = reload(node, eventually)
    assert (told["type"], told["data"]["code"]) == ("config_refused", code)
    assert node.process.poll() is None
    eventually(lambda: "ERROR kodectl.config: the configuration is not taken over" in node.log.read_text())
    file.write_text("max_peers = 40\n")
    assert reload(node, eventually)["data"]["applied"] == []


@pytest.fixture(scope="module")
def shared(shared_nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("config") / "config.toml"
    file.write_text("max_peers = 40\n")
    return shared_nodes.start("a", "--config", str(file)), file


def test_the_token_is_read_again(nodes: Any, tmp_path: Path, eventually: Any) -> None:
    token = tmp_path / "a" / "api.token"
    token.parent.mkdir()
    token.write_text("f" * 64)
    token.chmod(0o600)
    node = nodes.start("a", "--api-token", "required")
    assert (status_of(node, "f" * 64), status_of(node, "e" * 64)) == (200, 401)
    token.write_text("e" * 64)
    assert reload(node, eventually)["data"]["api_token_changed"] is True
    assert (status_of(node, "f" * 64), status_of(node, "e" * 64)) == (401, 200)
    token.chmod(0o644)
    assert reload(node, eventually)["data"]["code"] == "api_token_unsafe"
    assert status_of(node, "e" * 64) == 200
    assert "e" * 64 not in node.log.read_text() + node.output.read_text()


@pytest.mark.parametrize("immune", [False, True], ids=["terminal", "nohup"])
def test_a_terminal_that_goes_ends_the_node_but_one_that_is_immune(
    immune: bool, nodes: Any, tmp_path: Path, eventually: Any
) -> None:
    """The shell of a login: a session with a terminal, which the kernel hangs up when the other side goes."""
    output, log = tmp_path / "t.out", tmp_path / "t.log"
    line = " ".join(nodes.command("t")) + f" > {output} 2> {log} < /dev/null"
    leader, follower = pty.openpty()
    shell = subprocess.Popen(
        ["setsid", "--ctty", "--wait", "sh", "-c", ("trap '' HUP; exec " if immune else "exec ") + line],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=Path(__file__).parents[2],
        env=nodes.environment,
    )
    os.close(follower)
    try:
        eventually(lambda: output.exists() and output.read_text().endswith("\n"))
        pid = int(load_pid(output))
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: "config_reloaded" in output.read_text())
        os.close(leader)
        if immune:
            # To it the hang-up is one more SIGHUP, and no more.
            eventually(lambda: output.read_text().count("config_reloaded") == 2)
            assert is_running(pid)
            os.kill(pid, signal.SIGTERM)
        else:
            eventually(lambda: "the terminal has gone: leaving" in log.read_text())
        assert shell.wait(15) == 0
    finally:
        shell.kill()
        shell.wait()


def load_pid(output: Path) -> str:
    import json

    return str(json.loads(output.read_text().splitlines()[0])["data"]["pid"])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_template_is_valid_and_says_what_holds_anyway(tmp_path: Path) -> None:
    from kodectl.cli.config import template

    path = tmp_path / "config.toml"
    path.write_text(template())
    defaults = values_of(Configuration(None, {}, {}), {})
    assert values_of(load_configuration(str(path), {}), {}) == defaults
    path.write_text("\n".join(line.removeprefix("# ") if " = " in line else "" for line in template().splitlines()))
    assert values_of(load_configuration(str(path), {}), {}) == defaults
