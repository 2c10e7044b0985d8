"""`kodectl nat map`, `mappings` and `unmap` against real routers, and against scripted ones for what real ones do not do.

Everything runs inside namespaces of the lab: a search for UPnP is a multicast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from natlab import Host, Kind, Lab, Router, skip_without_lab
from scripted_igd import ScriptedIgd, SearchAnswerer, fault, found_at, silence

pytestmark = [pytest.mark.lab, skip_without_lab]

REPOSITORY = Path(__file__).parents[2]


class Done(NamedTuple):
    code: int
    documents: list[dict[str, Any]]
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        return self.documents[-1]["data"]

    @property
    def error(self) -> Any:
        return self.documents[-1]["error"]


class Shell:
    """A user on a host."""

    def __init__(self, host: Host, home: Path) -> None:
        assert host.router is not None
        self.host, self.router = host, host.router
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KODECTL_")}
        self._environment = kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}

    def kodectl(self, *words: str) -> Done:
        done = self.host.run(self._command(*words), env=self._environment, cwd=REPOSITORY, timeout_s=60.0)
        documents = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return Done(done.returncode, documents, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[Any]:
        return self.host.popen(
            self._command(*words), env=self._environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )

    @staticmethod
    def _command(*words: str) -> list[str]:
        return [sys.executable, "-m", "kodectl", "nat", *words]

    def redirections(self) -> list[str]:
        return redirections(self.router)


def redirections(router: Router) -> list[str]:
    """What the router's kernel really does."""
    rules = router.namespace.run(["nft", "list", "chain", "inet", "miniupnpd", "upnp_arriving"]).stdout
    return [line.strip() for line in rules.splitlines() if "dnat" in line]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as one:
        yield one


@pytest.fixture(scope="module")
def real(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Behind miniupnpd with all its protocols, on the usual terms of routers; ports below 1024 are not given."""
    rules = ["allow 1024-65535 0.0.0.0/0 0-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
    return Shell(lab.behind(Kind.IGD, igd_settings=rules), tmp_path_factory.mktemp("home"))


@pytest.fixture
def user(real: Shell) -> Iterator[Shell]:
    yield real
    assert real.redirections() == [], "every test leaves the router as it was"


@pytest.fixture
def scripted(lab: Lab, tmp_path: Path) -> Iterator[tuple[Shell, ScriptedIgd]]:
    shell = Shell(lab.behind(Kind.PORT_RESTRICTED), tmp_path)
    with shell.router.namespace.entered():
        igd = ScriptedIgd(shell.router.inner_ip)
        answerer = SearchAnswerer(shell.router.inner_ip, [found_at(igd.server.url())])
    yield shell, igd
    igd.close()
    answerer.close()


# --- map, mappings, unmap ---


@pytest.mark.parametrize("proto", ["auto", "upnp", "natpmp", "pcp"])
def test_ports_are_mapped_listed_and_unmapped(user: Shell, lab: Lab, proto: str) -> None:
    mapped = user.kodectl("map", "4000/tcp:4001", "4002/udp", "--proto", proto, "--json")
    assert mapped.code == 0, mapped.stderr
    tcp, udp = mapped.data["mappings"]
    outer_ip = user.router.outer_ip
    assert (tcp["internal"], tcp["external"]) == (f"{user.host.ip}:4000", f"{outer_ip}:4001")
    assert (udp["transport"], udp["external_port"], udp["lease_s"]) == ("udp", 4002, 3600)
    assert mapped.data["double_nat"] is False
    assert proto in ("auto", mapped.data["method"])
    assert len(user.redirections()) == 2

    stranger = lab.public()
    with user.host.listen(4000) as listener, stranger.connect((outer_ip, 4001)) as connection:
        accepted, _ = listener.accept()
        connection.sendall(b"hello")
        assert accepted.recv(5) == b"hello"
        accepted.close()

    listed = user.kodectl("mappings", "--json")
    assert listed.code == 0
    assert {row["external"] for row in listed.data["mappings"]} == {f"{outer_ip}:4001", f"{outer_ip}:4002"}
    assert all(row["this_host"] for row in listed.data["mappings"])
    assert [(gateway["method"], gateway["lists"]) for gateway in listed.data["gateways"]] == [
        ("upnp", True),
        ("natpmp", False),
        ("pcp", False),
    ]

    removed = user.kodectl("unmap", "4000", "4002/udp", "--json")
    assert removed.code == 0, removed.stderr
    assert [(port["port"], port["transport"], port["state"]) for port in removed.data["ports"]] == [
        (4000, "tcp", "removed"),
        (4000, "udp", "not_mapped"),
        (4002, "udp", "removed"),
    ]
    assert removed.data["ports"][0]["outer_ports"] == [4001]


def test_without_ports_both_of_the_node_are_mapped_and_people_can_read_it(user: Shell) -> None:
    mapped = user.kodectl("map")
    assert mapped.code == 0, mapped.stderr
    lines = [line.split() for line in mapped.stdout.splitlines()]
    assert lines[0] == ["inside", "outside", "lease", "by"]
    assert lines[1][:4] == ["tcp", f"{user.host.ip}:30303", f"{user.router.outer_ip}:30303", "1"]
    assert lines[2][:2] == ["udp", f"{user.host.ip}:30301"]
    assert mapped.stderr == ""
    listed = user.kodectl("mappings")
    assert f"{user.host.ip}:30303" in listed.stdout
    assert user.kodectl("mappings", "--jsonl").documents[0]["data"]["this_host"] is True
    removed = user.kodectl("unmap", "30303/tcp", "30301/udp")
    assert removed.stdout.splitlines() == [
        "30303/tcp: removed (outer port 30303)",
        "30301/udp: removed (outer port 30301)",
    ]
    empty = user.kodectl("mappings")
    assert (empty.code, empty.stdout.splitlines()[-1]) == (0, "no port is mapped")


def test_removing_what_is_not_mapped_is_a_negative_answer(user: Shell) -> None:
    gone = user.kodectl("unmap", "4000/tcp", "--json")
    assert (gone.code, gone.error["code"]) == (3, "not_mapped")
    assert gone.error["details"]["ports"][0]["state"] == "not_mapped"


def test_the_port_of_another_host_is_left_to_it(user: Shell, lab: Lab, tmp_path: Path) -> None:
    other = Shell(lab.behind(router=user.router), tmp_path)
    assert other.kodectl("map", "4000/tcp").code == 0
    assert user.kodectl("unmap", "4000/tcp", "--json").error["code"] == "not_mapped"
    (theirs,) = user.kodectl("mappings", "--json").data["mappings"]
    assert (theirs["internal_ip"], theirs["this_host"]) == (other.host.ip, False)

    mine = user.kodectl("map", "4000/tcp", "--json")
    assert mine.code == 0
    assert mine.data["mappings"][0]["external_port"] != 4000
    assert [warning["code"] for warning in mine.documents[0]["warnings"]] == ["other_outer_port"]
    assert user.kodectl("unmap", "4000/tcp").code == 0

    exactly = user.kodectl("map", "4000/tcp:4000", "--json")
    assert (exactly.code, exactly.error["code"]) == (4, "other_outer_port")
    assert user.kodectl("unmap", "4000/tcp").code == 0
    assert other.kodectl("unmap", "4000/tcp").code == 0


def test_some_ports_are_better_than_none(user: Shell) -> None:
    some = user.kodectl("map", "4000/tcp", "80/tcp", "--proto", "upnp", "--json")
    assert (some.code, some.error["code"]) == (4, "partly_mapped")
    details = some.error["details"]
    assert [mapping["internal_port"] for mapping in details["mappings"]] == [4000]
    assert [(failed["port"], failed["error"]["code"]) for failed in details["failed"]] == [
        (80, "mapping_not_authorised")
    ]
    assert user.kodectl("unmap", "4000/tcp").code == 0


def test_a_refusal_is_advice(user: Shell) -> None:
    """By UPnP: asked by the other protocols, miniupnpd gives another port, or looks for one for ever."""
    refused = user.kodectl("map", "80/tcp", "81/udp", "--proto", "upnp", "--json")
    assert (refused.code, refused.error["code"]) == (3, "mapping_not_authorised")
    assert refused.error["hint"]


# --- keep ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("proto", ["upnp", "natpmp", "pcp"])
def test_kept_ports_are_removed_at_the_end(user: Shell, proto: str, number: signal.Signals, code: int) -> None:
    process = user.start("map", "4000/tcp", "4002/udp", "--keep", "--proto", proto, "--json")
    assert process.stdout is not None
    mapped = json.loads(process.stdout.readline())
    assert (mapped["data"]["event"], mapped["data"]["method"]) == ("mapped", proto)
    assert len(user.redirections()) == 2
    process.send_signal(number)
    removed, end = map(json.loads, process.stdout.read().splitlines())
    assert (removed["data"]["event"], removed["data"]["reason"]) == ("removed", None)
    assert [mapping["internal_port"] for mapping in removed["data"]["mappings"]] == [4000, 4002]
    assert end["error"]["exit"] == code
    assert process.wait() == code


def test_the_deadline_ends_keeping(user: Shell) -> None:
    kept = user.kodectl("map", "4000/tcp", "--keep", "--deadline", "2", "--json")
    assert (kept.code, kept.error["code"]) == (8, "deadline")
    assert [document["data"]["event"] for document in kept.documents[:-1]] == ["mapped", "removed"]


def test_what_is_under_way_at_the_end_is_finished_and_undone(
    scripted: tuple[Shell, ScriptedIgd], eventually: Callable[[Callable[[], object]], object]
) -> None:
    shell, igd = scripted
    interrupted = threading.Event()

    def slow(arguments: dict[str, str]) -> None:
        interrupted.wait()

    igd.script["AddPortMapping"] = slow
    process = shell.start("map", "4000/tcp", "--proto", "upnp", "--json")
    eventually(lambda: igd.names())
    process.send_signal(signal.SIGINT)
    eventually(lambda: not _is_waiting(process))
    interrupted.set()
    assert process.wait() == 130
    assert igd.names() == ["AddPortMapping", "DeletePortMapping"]
    assert igd.entries == {}


def _is_waiting(process: subprocess.Popen[Any]) -> bool:
    """Whether a signal is still on its way to it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return any(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd")))


def test_a_router_that_hangs_has_mapped_nothing(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.script["GetExternalIPAddress"] = silence
    done = shell.kodectl("map", "4000/tcp", "--proto", "upnp", "--timeout", "1", "--json")
    assert (done.code, done.error["code"]) == (8, "deadline")
    assert igd.names() == []


# --- routers of other kinds ---


def test_a_router_behind_another_is_a_degraded_answer(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.external_ip = "100.64.7.7"
    done = shell.kodectl("map", "4000/tcp", "--proto", "upnp", "--json")
    assert (done.code, done.error["code"]) == (4, "double_nat")
    assert done.error["details"]["double_nat"] is True


def test_a_router_that_does_not_tell_its_address_is_not_guessed_at(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.external_ip = ""
    done = shell.kodectl("map", "4000/tcp", "--proto", "upnp", "--json")
    assert done.code == 0
    assert (done.data["external_ip"], done.data["double_nat"]) == (None, None)
    assert (done.data["mappings"][0]["external"], done.data["mappings"][0]["external_port"]) == (None, 4000)


def test_a_mapping_without_an_end_is_said_to_be_one(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.script["AddPortMapping"] = lambda arguments: None if arguments["NewLeaseDuration"] == "0" else fault(725)
    done = shell.kodectl("map", "4000/tcp", "--proto", "upnp", "--json")
    assert done.code == 0
    assert done.data["mappings"][0]["lease_s"] is None
    assert [warning["code"] for warning in done.documents[0]["warnings"]] == ["mapping_permanent_only"]
    asked_for = shell.kodectl("map", "4000/tcp", "--lease", "0", "--proto", "upnp", "--json")
    assert (asked_for.code, asked_for.documents[0]["warnings"]) == (0, [])


def test_another_outer_port_serves_unless_one_was_named(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.occupy(4000, "tcp", "192.168.9.9", 1)
    exactly = shell.kodectl("map", "4000/tcp:4000", "--proto", "upnp", "--json")
    assert (exactly.code, exactly.error["code"]) == (3, "mapping_conflict")
    other = shell.kodectl("map", "4000/tcp", "--proto", "upnp", "--json")
    assert other.code == 0
    assert [warning["code"] for warning in other.documents[0]["warnings"]] == ["other_outer_port"]
    assert other.data["mappings"][0]["external_port"] >= 49152


def test_what_a_router_calls_itself_cannot_speak_to_the_terminal(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.occupy(5000, "tcp", "192.168.9.9", 1, text="\x1b[2Jgame")
    done = shell.kodectl("mappings", "--proto", "upnp")
    assert done.code == 0
    assert "\x1b" not in done.stdout
    assert "game" in done.stdout


def test_a_success_that_is_none_is_a_refusal(scripted: tuple[Shell, ScriptedIgd]) -> None:
    shell, igd = scripted
    igd.script["AddPortMapping"] = b"HTTP/1.1 200 OK\r\n\r\n<html/>"
    done = shell.kodectl("map", "4000/tcp", "--proto", "upnp", "--json")
    assert (done.code, done.error["code"]) == (3, "mapping_refused")


def test_a_router_without_a_list_is_a_negative_answer(lab: Lab, tmp_path: Path) -> None:
    shell = Shell(lab.behind(Kind.IGD, igd=["natpmp"]), tmp_path)
    done = shell.kodectl("mappings", "--proto", "natpmp", "--json")
    assert (done.code, done.error["code"]) == (3, "mapping_unsupported")
    assert done.error["details"]["mappings"] is None


@pytest.mark.parametrize("words", [("map",), ("mappings",), ("unmap", "4000/tcp")], ids=" ".join)
def test_without_a_router_the_answer_is_no(lab: Lab, tmp_path: Path, words: tuple[str, ...]) -> None:
    shell = Shell(lab.behind(Kind.PORT_RESTRICTED), tmp_path)
    done = shell.kodectl(*words, "--json")
    assert (done.code, done.error["code"]) == (3, "no_gateway")
    shell.host.namespace.configure(["ip", "-batch", "-"], "route del default\n")
    done = shell.kodectl(*words, "--json")
    assert (done.code, done.error["code"]) == (7, "no_network")
